//! x
/// g
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gateway {
    /// l
    pub link: u32,
    /// l
    pub local: std::net::Ipv4Addr,
    /// l
    pub router: std::net::Ipv4Addr,
}
