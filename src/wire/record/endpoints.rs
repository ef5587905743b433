//! Endpoints in a sealed item, and which of them are believed.
//!
//! An endpoint is `4 ‖ address 4 ‖ port 2` or `6 ‖ address 16 ‖ port 2`, big-endian; a list starts
//! with its count. An IPv4-mapped IPv6 address is written and read as IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Reader, RecordError};

/// The most endpoints a device tells: v4 and v6 of a few links, reflexive and mapped ones.
pub const MAX_ENDPOINTS: usize = 12;

/// What kind of place an endpoint names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressKind {
    /// Usable from anywhere.
    Public,
    /// Usable only on the link or site it belongs to: RFC 1918, shared (100.64/10), IPv4
    /// link-local and unique local addresses.
    Private,
    /// Never to be sent to on another's word: loopback, multicast, broadcast, unspecified,
    /// reserved, IPv6 link-local without a scope, or port 0.
    Unusable,
}

impl AddressKind {
    /// The kind of `endpoint`.
    pub fn of(endpoint: &SocketAddr) -> Self {
        if endpoint.port() == 0 {
            return Self::Unusable;
        }
        match endpoint.ip().to_canonical() {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6, endpoint),
        }
    }

    fn of_v4(v4: Ipv4Addr) -> Self {
        let [a, b, ..] = v4.octets();
        let shared = a == 100 && b & 0xc0 == 64;
        if a == 0 || v4.is_loopback() || a >= 224 {
            Self::Unusable
        } else if v4.is_private() || v4.is_link_local() || shared {
            Self::Private
        } else {
            Self::Public
        }
    }

    fn of_v6(v6: Ipv6Addr, endpoint: &SocketAddr) -> Self {
        let scoped = matches!(endpoint, SocketAddr::V6(v6) if v6.scope_id() != 0);
        // ::/96 holds the unspecified address, loopback, and the long-dead IPv4-compatible ones.
        let low = v6.segments()[..6].iter().all(|segment| *segment == 0);
        if low || v6.is_multicast() || (v6.is_unicast_link_local() && !scoped) {
            Self::Unusable
        } else if v6.is_unique_local() || v6.is_unicast_link_local() {
            Self::Private
        } else {
            Self::Public
        }
    }
}

/// Whether another's `endpoint` may be tried: public, or private and on a link of this host.
pub fn acceptable(endpoint: &SocketAddr, on_link: impl Fn(IpAddr) -> bool) -> bool {
    match AddressKind::of(endpoint) {
        AddressKind::Public => true,
        AddressKind::Private => on_link(endpoint.ip().to_canonical()),
        AddressKind::Unusable => false,
    }
}

/// Appends one endpoint.
pub(super) fn put(out: &mut Vec<u8>, endpoint: &SocketAddr) {
    match endpoint.ip().to_canonical() {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend_from_slice(&v6.octets());
        }
    }
    out.extend_from_slice(&endpoint.port().to_be_bytes());
}

/// How many bytes [`put`] appends.
pub(super) fn len(endpoint: &SocketAddr) -> usize {
    if endpoint.ip().to_canonical().is_ipv4() { 7 } else { 19 }
}

/// Appends the first [`MAX_ENDPOINTS`] of a list that are worth telling.
pub(super) fn put_list(out: &mut Vec<u8>, endpoints: &[SocketAddr]) {
    let told: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| AddressKind::of(endpoint) != AddressKind::Unusable)
        .take(MAX_ENDPOINTS)
        .collect();
    out.push(u8::try_from(told.len()).expect("at most 12"));
    told.into_iter().for_each(|endpoint| put(out, endpoint));
}

/// Reads a list; drops what is never usable.
pub(super) fn take_list(input: &mut Reader<'_>) -> Result<Vec<SocketAddr>, RecordError> {
    let count = input.count(MAX_ENDPOINTS)?;
    let mut endpoints = Vec::with_capacity(count);
    for _ in 0..count {
        let address = match input.byte()? {
            4 => IpAddr::from(input.array::<4>()?),
            6 => IpAddr::from(input.array::<16>()?).to_canonical(),
            _ => return Err(RecordError::Malformed),
        };
        let endpoint = SocketAddr::new(address, u16::from_be_bytes(input.array()?));
        let usable = AddressKind::of(&endpoint) != AddressKind::Unusable;
        if usable && !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> AddressKind {
        AddressKind::of(&text.parse().unwrap())
    }

    #[test]
    fn every_special_address_has_its_kind() {
        for public in ["203.0.113.1:5", "9.9.9.9:1", "[2001:db8::1]:9", "100.128.0.1:1"] {
            assert_eq!(kind(public), AddressKind::Public, "{public}");
        }
        for private in [
            "10.1.2.3:4",
            "172.31.0.1:4",
            "192.168.1.1:4",
            "169.254.3.3:4",
            "100.64.0.1:4",
            "[fd00::1]:4",
            "[fe80::1%3]:4",
            "[::ffff:10.0.0.1]:4",
        ] {
            assert_eq!(kind(private), AddressKind::Private, "{private}");
        }
        for unusable in [
            "0.0.0.0:1",
            "0.1.2.3:1",
            "127.0.0.1:1",
            "127.9.9.9:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "240.0.0.1:1",
            "9.9.9.9:0",
            "[::]:1",
            "[::1]:1",
            "[ff02::1]:1",
            "[fe80::1]:1",
            "[::ffff:127.0.0.1]:1",
            "[::7f00:1]:1",
            "[::ffff:0.0.0.0]:1",
        ] {
            assert_eq!(kind(unusable), AddressKind::Unusable, "{unusable}");
        }
    }

    #[test]
    fn private_endpoints_are_acceptable_only_on_a_link_of_this_host() {
        let private = "10.1.2.3:4".parse().unwrap();
        assert!(!acceptable(&private, |_| false));
        assert!(acceptable(&private, |ip| ip == private.ip()));
        assert!(acceptable(&"9.9.9.9:1".parse().unwrap(), |_| false));
        assert!(!acceptable(&"127.0.0.1:1".parse().unwrap(), |_| true));
    }

    #[test]
    fn a_list_comes_back_without_what_is_unusable() {
        let list: Vec<SocketAddr> = ["9.9.9.9:1", "127.0.0.1:1", "[2001:db8::1]:2", "10.0.0.1:3"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let mut out = Vec::new();
        put_list(&mut out, &list);
        assert_eq!(out.len(), 1 + 7 + 19 + 7);
        let mut reader = Reader(&out);
        assert_eq!(take_list(&mut reader).unwrap(), [list[0], list[2], list[3]]);
        assert!(reader.0.is_empty());
    }

    #[test]
    fn ten_thousand_endpoints_become_twelve() {
        let list: Vec<SocketAddr> =
            (0..10_000_u32).map(|i| (Ipv4Addr::from(0x0900_0000 + i), 9).into()).collect();
        let mut out = Vec::new();
        put_list(&mut out, &list);
        assert_eq!(take_list(&mut Reader(&out)).unwrap().len(), MAX_ENDPOINTS);
    }

    #[test]
    fn malformed_lists_are_refused() {
        for bytes in [&[][..], &[13], &[1], &[1, 5, 0, 0, 0, 0, 0, 0], &[1, 4, 1, 2, 3, 4, 5]] {
            assert_eq!(take_list(&mut Reader(bytes)), Err(RecordError::Malformed), "{bytes:?}");
        }
        // Loopback smuggled past an encoder of ours, and duplicates, are dropped.
        let smuggled = [3, 4, 127, 0, 0, 1, 0, 9, 4, 9, 9, 9, 9, 0, 9, 4, 9, 9, 9, 9, 0, 9];
        assert_eq!(take_list(&mut Reader(&smuggled)).unwrap().len(), 1);
    }
}
