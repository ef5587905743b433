//! Addresses at which a device may be reached: our own, of which we tell the others, and those of
//! a peer, which come from a record or a message and are not to be believed.
//!
//! The host has one UDP socket a family and the kernel picks the source address, so what ICE calls
//! a candidate *pair* (RFC 8445, section 6.1.2) is here just the remote address.
//!
//! * [`advertise`] makes the list we tell: at most [`MAX_ADVERTISED`], best first, with room kept
//!   for every [`CandidateKind`], so that ten temporary IPv6 addresses cannot crowd out the one
//!   address that a neighbour on the LAN needs.
//! * [`Surroundings`] judges remote addresses by where this host is: [`Surroundings::sanitise`]
//!   drops what cannot be a peer or must not be probed, and [`Surroundings::path_kind`] says
//!   whether an address is on a link of ours.
//!
//! What is refused, and why: unspecified, loopback, multicast, broadcast, reserved, and port 0
//! cannot be a peer. IPv6 link-local addresses mean nothing without a link. Our own overlay
//! addresses would send the tunnel through itself. Our own address and port is ourselves. Private
//! addresses (RFC 1918, RFC 6598, RFC 3927, RFC 4193) of other sites would make us probe strangers
//! who happen to have the same number here, so they count only on a link of ours or at the same
//! site: the same /16 in IPv4, the same /48 in IPv6, as an address of ours.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::event::{InterfaceAddress, InterfaceSnapshot};
use crate::api::PathKind;

/// The most addresses of a peer that are probed: twice what a record can hold, since old and new
/// records overlap while a device moves.
pub const MAX_REMOTES: usize = 24;

/// The most addresses that are told: what a record has room for.
pub const MAX_ADVERTISED: usize = 12;

/// How a device knows an address of its own. Ordered by how likely a stranger's packet gets
/// through: best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// A public address of an interface.
    Interface,
    /// A port map of the router: open to everybody.
    PortMapped,
    /// What STUN servers see: open to those we sent to.
    Reflexive,
    /// What peers see.
    Observed,
    /// A private address of an interface: for neighbours.
    Local,
}

impl CandidateKind {
    /// Every kind, best first.
    const ALL: [Self; 5] =
        [Self::Interface, Self::PortMapped, Self::Reflexive, Self::Observed, Self::Local];

    /// How many of this kind have their place in the list whatever else there is. They add up to
    /// [`MAX_ADVERTISED`]. `Interface`: an IPv4, a stable and a temporary IPv6 address.
    /// `PortMapped`: the router's word and the STUN server's for the address. `Reflexive`: one a
    /// family. `Local`: two links in two families.
    fn reserved(self) -> usize {
        match self {
            Self::Interface => 3,
            Self::PortMapped => 2,
            Self::Reflexive => 2,
            Self::Observed => 1,
            Self::Local => 4,
        }
    }
}

/// An address of this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// How it is known.
    pub kind: CandidateKind,
    /// The address.
    pub address: SocketAddr,
}

/// The list that others are told: at most [`MAX_ADVERTISED`] different addresses, ordered by kind
/// and within a kind as given.
pub fn advertise(candidates: impl IntoIterator<Item = Candidate>) -> Vec<SocketAddr> {
    let mut sorted: Vec<Candidate> = candidates.into_iter().collect();
    sorted.sort_by_key(|candidate| candidate.kind);
    let mut seen = BTreeSet::new();
    sorted.retain(|candidate| seen.insert(candidate.address));
    let mut spare = MAX_ADVERTISED;
    for kind in CandidateKind::ALL {
        let have = sorted.iter().filter(|candidate| candidate.kind == kind).count();
        spare -= have.min(kind.reserved());
    }
    let mut out = Vec::with_capacity(MAX_ADVERTISED);
    for kind in CandidateKind::ALL {
        let of_kind: Vec<_> = sorted.iter().filter(|candidate| candidate.kind == kind).collect();
        let extra = of_kind.len().saturating_sub(kind.reserved()).min(spare);
        spare -= extra;
        let take = of_kind.len().min(kind.reserved()) + extra;
        out.extend(of_kind[..take].iter().map(|candidate| candidate.address));
    }
    out
}

/// Where this host is: its links, and what of the address space is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The addresses of our links with their prefix lengths.
    links: Vec<(IpAddr, u8)>,
    /// The UDP port of this network.
    port: u16,
    /// The overlay's prefixes.
    overlay: Vec<(IpAddr, u8)>,
}

impl Surroundings {
    /// A host with these links, of which `port` is the tunnels' and `overlay` the prefixes inside
    /// them.
    pub fn new(interfaces: &InterfaceSnapshot, port: u16, overlay: &[(IpAddr, u8)]) -> Self {
        let link = |link: &InterfaceAddress| (link.address.to_canonical(), link.prefix_len);
        let links = interfaces.addresses.iter().map(link).collect();
        Self { links, port, overlay: overlay.to_vec() }
    }

    /// The addresses that are worth a probe, in the order given, each once and in canonical form,
    /// at most [`MAX_REMOTES`].
    pub fn sanitise(&self, remotes: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut seen = BTreeSet::new();
        let good = remotes.iter().filter_map(|remote| self.accept(*remote));
        good.filter(|remote| seen.insert(*remote)).take(MAX_REMOTES).collect()
    }

    /// The canonical form of a peer's claimed address, or `None` where it is refused.
    pub fn accept(&self, remote: SocketAddr) -> Option<SocketAddr> {
        let remote = self.accept_source(remote)?;
        let near = match Scope::of(remote.ip()) {
            Scope::Never | Scope::Link => false,
            Scope::Private => self.is_on_link(remote.ip()) || self.is_same_site(remote.ip()),
            Scope::Global => true,
        };
        near.then_some(remote)
    }

    /// The canonical form of the source of an authentic datagram, or `None` where we could not or
    /// must not send to it later. Unlike a claimed address it may be private and far away: packets
    /// have come from there.
    pub fn accept_source(&self, remote: SocketAddr) -> Option<SocketAddr> {
        let remote = canonical(remote);
        let usable = match Scope::of(remote.ip()) {
            Scope::Never | Scope::Link => false,
            Scope::Private | Scope::Global => remote.port() != 0,
        };
        let refused = self.is_own(remote)
            || self.is_broadcast(remote.ip())
            || self.overlay.iter().any(|(base, len)| common_bits(*base, remote.ip()) >= *len);
        (usable && !refused).then_some(remote)
    }

    /// [`PathKind::Lan`] for an address on one of our links, else [`PathKind::Direct`].
    pub fn path_kind(&self, remote: SocketAddr) -> PathKind {
        match self.is_on_link(remote.ip().to_canonical()) {
            true => PathKind::Lan,
            false => PathKind::Direct,
        }
    }

    /// Whether the address is on one of our links.
    pub fn is_on_link(&self, remote: IpAddr) -> bool {
        self.links.iter().any(|(own, len)| {
            let host_route = *len == bits(*own);
            !host_route && *len > 0 && common_bits(*own, remote) >= *len
        })
    }

    fn is_same_site(&self, remote: IpAddr) -> bool {
        let site = if remote.is_ipv4() { 16 } else { 48 };
        self.links.iter().any(|(own, _)| common_bits(*own, remote) >= site)
    }

    fn is_own(&self, remote: SocketAddr) -> bool {
        remote.port() == self.port && self.links.iter().any(|(own, _)| *own == remote.ip())
    }

    /// Whether it is the directed broadcast or the network address of an IPv4 link of ours.
    fn is_broadcast(&self, remote: IpAddr) -> bool {
        let IpAddr::V4(remote) = remote else { return false };
        self.links.iter().any(|(own, len)| {
            let IpAddr::V4(own) = own else { return false };
            // A /31 has no broadcast address (RFC 3021), a /32 no other host.
            let Some(host) = u32::MAX.checked_shr(u32::from(*len)).filter(|host| *host > 1) else {
                return false;
            };
            let (own, remote) = (own.to_bits(), remote.to_bits());
            own & !host == remote & !host && (remote & host == host || remote & host == 0)
        })
    }
}

/// Whether `remote` is on a link of this host.
pub fn is_same_lan(remote: IpAddr, interfaces: &InterfaceSnapshot) -> bool {
    Surroundings::new(interfaces, 0, &[]).is_on_link(remote.to_canonical())
}

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// It is no address of a host.
    Never,
    /// IPv6 link-local.
    Link,
    /// Private to a site, or link-local in IPv4.
    Private,
    /// Everywhere. Documentation and benchmarking ranges count: laboratories use them.
    Global,
}

/// Whether hosts anywhere may reach this address; what NATs hand out inside is no such address.
pub fn is_public(endpoint: &SocketAddr) -> bool {
    Scope::of(endpoint.ip()) == Scope::Global
}

impl Scope {
    /// The scope of an address in canonical form.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => match v4.octets() {
                [0 | 127 | 224..=255, ..] => Self::Never,
                [100, 64..=127, ..] => Self::Private,
                _ if v4.is_private() || v4.is_link_local() => Self::Private,
                _ => Self::Global,
            },
            IpAddr::V6(v6) if v6.is_loopback() || v6.is_unspecified() => Self::Never,
            IpAddr::V6(v6) if v6.is_multicast() || is_site_local(v6) => Self::Never,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Self::Link,
            IpAddr::V6(v6) if v6.is_unique_local() => Self::Private,
            IpAddr::V6(_) => Self::Global,
        }
    }
}

/// The address with IPv4 never in its IPv6 form, and without flow label and zone.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// fec0::/10, abolished by RFC 3879.
fn is_site_local(v6: Ipv6Addr) -> bool {
    v6.segments()[0] & 0xffc0 == 0xfec0
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The length of the longest prefix that both share; 0 across families.
fn common_bits(a: IpAddr, b: IpAddr) -> u8 {
    let zeros = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
    };
    u8::try_from(zeros).expect("at most 128 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_and_dangerous_addresses_are_refused() {
        let here = home();
        for refused in [
            "0.0.0.0:1",
            "0.1.2.3:1",
            "127.0.0.1:1",
            "224.0.0.1:1",
            "239.1.1.1:1",
            "240.0.0.1:1",
            "255.255.255.255:1",
            "192.168.1.255:1",
            "192.168.1.0:1",
            "203.0.113.7:0",
            "[::]:1",
            "[::1]:1",
            "[ff02::1]:1",
            "[fe80::1]:1",
            "[fec0::1]:1",
            "[::ffff:127.0.0.1]:1",
            "10.71.3.9:1",
            "[fd12:3456:789a::1]:1",
            "192.168.1.10:41641",
        ] {
            assert_eq!(here.accept(addr(refused)), None, "{refused}");
        }
    }

    #[test]
    fn public_addresses_and_those_of_the_own_site_are_accepted() {
        let here = home();
        for good in [
            "203.0.113.7:1",
            "192.168.1.20:1",
            "192.168.7.20:1",
            "[2001:db8::1]:1",
            "[fd00:1:2:9::1]:1",
            "192.168.1.10:41642",
        ] {
            assert_eq!(here.accept(addr(good)), Some(addr(good)), "{good}");
        }
        assert_eq!(here.accept(addr("[::ffff:203.0.113.7]:5")), Some(addr("203.0.113.7:5")));
    }

    #[test]
    fn private_addresses_of_other_sites_are_refused_unless_packets_came_from_there() {
        let here = home();
        for far in ["10.0.0.1:1", "172.16.0.1:1", "100.64.0.1:1", "169.254.9.9:1", "[fd99::1]:1"] {
            assert_eq!(here.accept(addr(far)), None, "{far}");
            assert_eq!(here.accept_source(addr(far)), Some(addr(far)), "{far}");
        }
    }

    #[test]
    fn an_address_on_a_link_is_lan_and_any_other_is_direct() {
        let here = home();
        assert_eq!(here.path_kind(addr("192.168.1.77:1")), PathKind::Lan);
        assert_eq!(here.path_kind(addr("[fd00:1:2:3::9]:1")), PathKind::Lan);
        assert_eq!(here.path_kind(addr("192.168.2.77:1")), PathKind::Direct);
        assert_eq!(here.path_kind(addr("198.51.100.9:1")), PathKind::Direct);
        assert!(is_same_lan("192.168.1.77".parse().unwrap(), &snapshot()));
    }

    #[test]
    fn host_routes_and_default_prefixes_make_nobody_a_neighbour() {
        let mut interfaces = InterfaceSnapshot::default();
        interfaces.addresses.push(interface("203.0.113.5", 32));
        interfaces.addresses.push(interface("198.51.100.5", 0));
        assert!(!is_same_lan("203.0.113.5".parse().unwrap(), &interfaces));
        assert!(!is_same_lan("203.0.113.6".parse().unwrap(), &interfaces));
    }

    #[test]
    fn ten_thousand_candidates_become_a_bounded_list_without_duplicates() {
        let mut remotes = vec![addr("127.0.0.1:1"), addr("192.168.1.255:1")];
        remotes.extend(
            (0..10_000_u32).map(|i| {
                SocketAddr::new(std::net::Ipv4Addr::from(0xcb00_7100 + i % 200).into(), 5)
            }),
        );
        let list = home().sanitise(&remotes);
        assert_eq!(list.len(), MAX_REMOTES);
        assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), MAX_REMOTES);
        assert_eq!(list[0], addr("203.0.113.0:5"));
    }

    #[test]
    fn many_addresses_of_one_kind_leave_room_for_the_others() {
        let of = |kind, text: &str| Candidate { kind, address: addr(text) };
        let mut all: Vec<_> =
            (0..10).map(|i| of(CandidateKind::Interface, &format!("[2001:db8::{i}]:1"))).collect();
        all.push(of(CandidateKind::Local, "192.168.1.10:1"));
        all.push(of(CandidateKind::Reflexive, "203.0.113.7:1"));
        all.push(of(CandidateKind::Observed, "203.0.113.7:1"));
        all.push(of(CandidateKind::PortMapped, "203.0.113.7:9"));
        let list = advertise(all);
        assert_eq!(list.len(), MAX_ADVERTISED);
        assert_eq!(list[0], addr("[2001:db8::]:1"));
        assert_eq!(list[9], addr("203.0.113.7:9"));
        assert_eq!(list[10], addr("203.0.113.7:1"));
        assert_eq!(list[11], addr("192.168.1.10:1"));
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn interface(address: &str, prefix_len: u8) -> InterfaceAddress {
        InterfaceAddress { link: 2, address: address.parse().unwrap(), prefix_len, mtu: 1500 }
    }

    fn snapshot() -> InterfaceSnapshot {
        let addresses = vec![interface("192.168.1.10", 24), interface("fd00:1:2:3::1", 64)];
        InterfaceSnapshot { addresses, default_route: (true, true) }
    }

    fn home() -> Surroundings {
        let overlay =
            [("10.71.0.0".parse().unwrap(), 16), ("fd12:3456:789a::".parse().unwrap(), 48)];
        Surroundings::new(&snapshot(), 41641, &overlay)
    }
}
