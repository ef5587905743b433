//! Overlay addresses, computed from keys so that nobody can choose one.
//!
//! * IPv6: `fd ‖ H("ula" ‖ network_id)[..5]` is the network's unique local /48 (RFC 4193);
//!   the remaining ten bytes are `H("addr" ‖ id_pk)[..10]`.
//! * IPv4: from the network's pool, by default a /16 inside 10.0.0.0/8 taken from the network id.
//!   An admin assigns it in the device's certificate: the first free of
//!   `pool[KDF(id_pk, "v4", be32(i))]` for `i = 0, 1, …`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::keys::{DeviceId, NetworkId, hash, kdf};

/// How many candidates an assignment tries before it gives up, for each host of the pool: the last
/// free address of a small pool is missed once in e^16.
const TRIES_PER_HOST: u32 = 16;

/// The most candidates an assignment tries: a tenth of a second of hashing. Only pools larger than a
/// /20 get fewer than [`TRIES_PER_HOST`], and those are full with thousands of members only.
const MAX_TRIES: u32 = 65_536;

/// Where a pool may lie: private space (RFC 1918). A pool elsewhere would take a part of the
/// Internet away from whoever joins.
const PRIVATE: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// The IPv6 prefix length of a network.
pub const IPV6_PREFIX_LEN: u8 = 48;

/// The overlay addresses of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAddresses {
    /// The address every device has.
    pub ipv6: Ipv6Addr,
    /// The address from the network's pool, where it has one.
    pub ipv4: Option<Ipv4Addr>,
}

impl NetworkAddresses {
    /// Whether `address` is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V6(v6) => v6 == self.ipv6,
            IpAddr::V4(v4) => Some(v4) == self.ipv4,
        }
    }
}

/// The overlay IPv6 address of `device` in `network`.
pub fn overlay_ipv6(network: &NetworkId, device: &DeviceId) -> Ipv6Addr {
    let mut octets = ipv6_prefix(network).octets();
    let host = hash(&[b"addr".as_slice(), &device.0].concat());
    octets[6..].copy_from_slice(&host[..10]);
    octets.into()
}

/// The network's /48, as the address of its first host.
pub fn ipv6_prefix(network: &NetworkId) -> Ipv6Addr {
    let mut octets = [0; 16];
    let prefix = hash(&[b"ula".as_slice(), &network.0].concat());
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&prefix[..5]);
    octets.into()
}

/// The IPv4 prefix from which a network's devices get their addresses: /8 to /28.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(Ipv4Addr, u8)", into = "(Ipv4Addr, u8)")]
pub struct Ipv4Pool {
    base: Ipv4Addr,
    prefix_len: u8,
}

/// Why a text or a pair is not a usable pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Not of the form `a.b.c.d/len`.
    #[error("an IPv4 pool looks like 10.71.0.0/16")]
    Malformed,
    /// Fewer than 14 or more than 2^24 hosts.
    #[error("an IPv4 pool has a prefix length of 8 to 28")]
    PrefixLength,
    /// Bits are set to the right of the prefix.
    #[error("an IPv4 pool has no bits set after its prefix")]
    HostBits,
    /// Not inside private space (RFC 1918).
    #[error("an IPv4 pool lies in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16")]
    NotPrivate,
}

impl Ipv4Pool {
    /// The pool `base/prefix_len`.
    pub fn new(base: Ipv4Addr, prefix_len: u8) -> Result<Self, PoolError> {
        if !(8..=28).contains(&prefix_len) {
            return Err(PoolError::PrefixLength);
        }
        let pool = Self { base, prefix_len };
        if base.to_bits() & pool.host_mask() != 0 {
            return Err(PoolError::HostBits);
        }
        let inside =
            |(base, len): &(Ipv4Addr, u8)| prefix_len >= *len && pool.overlaps(*base, *len);
        if !PRIVATE.iter().any(inside) {
            return Err(PoolError::NotPrivate);
        }
        Ok(pool)
    }

    /// The pool a network has where nobody named one: a /16 inside 10.0.0.0/8.
    pub fn default_for(network: &NetworkId) -> Self {
        let second = hash(&[b"pool".as_slice(), &network.0].concat())[0];
        Self { base: Ipv4Addr::new(10, second, 0, 0), prefix_len: 16 }
    }

    /// The prefix length.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// The network address of the prefix.
    pub fn base(&self) -> Ipv4Addr {
        self.base
    }

    /// Whether `address` lies inside the prefix.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & !self.host_mask() == self.base.to_bits()
    }

    /// Whether a device may have `address`: inside, and neither the network's nor the broadcast one.
    pub fn holds_host(&self, address: Ipv4Addr) -> bool {
        let host = address.to_bits() & self.host_mask();
        self.contains(address) && host != 0 && host != self.host_mask()
    }

    /// Whether the prefix shares an address with `base/prefix_len`.
    pub fn overlaps(&self, base: Ipv4Addr, prefix_len: u8) -> bool {
        let len = self.prefix_len.min(prefix_len).min(32);
        let mask = if len == 0 { 0 } else { u32::MAX << (32 - u32::from(len)) };
        base.to_bits() & mask == self.base.to_bits() & mask
    }

    /// The first address of the device's own sequence that `taken` does not hold.
    pub fn assign(&self, device: &DeviceId, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let hosts = self.host_mask() - 1;
        let tries = hosts.saturating_mul(TRIES_PER_HOST).min(MAX_TRIES);
        (0..tries).map(|i| self.candidate(device, i)).find(|address| !taken(*address))
    }

    /// The `i`th address of the device's sequence; never the network or broadcast address.
    fn candidate(&self, device: &DeviceId, i: u32) -> Ipv4Addr {
        let key = kdf(&device.0, "v4", &i.to_be_bytes());
        let random = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
        let host = 1 + random % (self.host_mask() - 1);
        Ipv4Addr::from_bits(self.base.to_bits() | host)
    }

    fn host_mask(&self) -> u32 {
        u32::MAX >> self.prefix_len
    }
}

impl fmt::Display for Ipv4Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_len)
    }
}

impl fmt::Debug for Ipv4Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Ipv4Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        let (base, len) = text.split_once('/').ok_or(PoolError::Malformed)?;
        let base = base.parse().map_err(|_| PoolError::Malformed)?;
        let len = len.parse().map_err(|_| PoolError::Malformed)?;
        Self::new(base, len)
    }
}

impl TryFrom<(Ipv4Addr, u8)> for Ipv4Pool {
    type Error = PoolError;

    fn try_from((base, len): (Ipv4Addr, u8)) -> Result<Self, PoolError> {
        Self::new(base, len)
    }
}

impl From<Ipv4Pool> for (Ipv4Addr, u8) {
    fn from(pool: Ipv4Pool) -> Self {
        (pool.base, pool.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_ipv6_address_follows_from_the_two_keys() {
        let (network, device) = (NetworkId([1; 32]), DeviceId([2; 32]));
        let prefix = hash(&[b"ula".as_slice(), &[1; 32]].concat());
        let host = hash(&[b"addr".as_slice(), &[2; 32]].concat());
        let octets = overlay_ipv6(&network, &device).octets();
        assert_eq!(octets[0], 0xfd);
        assert_eq!(octets[1..6], prefix[..5]);
        assert_eq!(octets[6..], host[..10]);
        assert_eq!(ipv6_prefix(&network).octets()[..6], octets[..6]);
        assert_eq!(ipv6_prefix(&network).octets()[6..], [0; 10]);
        assert_eq!(overlay_ipv6(&network, &device).to_string(), KNOWN_IPV6);
    }

    #[test]
    fn the_default_pool_is_a_16_inside_10_and_follows_from_the_network() {
        let pools: BTreeSet<_> =
            (0..100).map(|n| Ipv4Pool::default_for(&NetworkId([n; 32]))).collect();
        assert!(pools.len() > 50);
        for pool in pools {
            assert_eq!((pool.base().octets()[0], pool.prefix_len()), (10, 16));
            assert_eq!(Ipv4Pool::new(pool.base(), pool.prefix_len()), Ok(pool));
        }
    }

    #[test]
    fn pools_that_would_break_a_host_are_refused() {
        for (text, error) in [
            ("10.71.0.0", PoolError::Malformed),
            ("10.71/16", PoolError::Malformed),
            ("fd00::/16", PoolError::Malformed),
            ("10.71.0.0/", PoolError::Malformed),
            ("10.71.0.0/256", PoolError::Malformed),
            ("0.0.0.0/0", PoolError::PrefixLength),
            ("10.0.0.0/7", PoolError::PrefixLength),
            ("10.71.0.0/29", PoolError::PrefixLength),
            ("10.71.0.1/16", PoolError::HostBits),
            ("0.0.0.0/8", PoolError::NotPrivate),
            ("100.64.0.0/16", PoolError::NotPrivate),
            ("100.127.0.0/16", PoolError::NotPrivate),
            ("100.0.0.0/8", PoolError::NotPrivate),
            ("127.1.0.0/16", PoolError::NotPrivate),
            ("169.254.0.0/24", PoolError::NotPrivate),
            ("169.0.0.0/8", PoolError::NotPrivate),
            ("224.0.0.0/8", PoolError::NotPrivate),
            ("255.0.0.0/8", PoolError::NotPrivate),
        ] {
            assert_eq!(text.parse::<Ipv4Pool>(), Err(error), "{text}");
        }
        for text in ["10.0.0.0/8", "10.71.0.0/16", "172.16.0.0/12", "192.168.7.0/28"] {
            assert_eq!(text.parse::<Ipv4Pool>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn pools_know_what_they_overlap() {
        let pool: Ipv4Pool = "10.71.0.0/16".parse().unwrap();
        for (base, len, overlaps) in [
            ([10, 71, 3, 0], 24, true),
            ([10, 0, 0, 0], 8, true),
            ([0, 0, 0, 0], 0, true),
            ([10, 71, 255, 255], 32, true),
            ([10, 72, 0, 0], 16, false),
            ([192, 168, 0, 0], 16, false),
        ] {
            assert_eq!(pool.overlaps(base.into(), len), overlaps, "{base:?}/{len}");
        }
        assert!(pool.contains(Ipv4Addr::new(10, 71, 255, 255)));
        assert!(!pool.contains(Ipv4Addr::new(10, 72, 0, 0)));
    }

    #[test]
    fn an_assignment_is_the_first_free_host_of_the_devices_own_sequence() {
        let pool: Ipv4Pool = "10.71.0.0/16".parse().unwrap();
        let device = DeviceId([2; 32]);
        let first = pool.assign(&device, |_| false).unwrap();
        assert_eq!(first, pool.candidate(&device, 0));
        let second = pool.assign(&device, |address| address == first).unwrap();
        assert_eq!(second, pool.candidate(&device, 1));
        assert_ne!(first, second);
        assert_ne!(pool.assign(&DeviceId([3; 32]), |_| false), Some(first));
    }

    #[test]
    fn a_small_pool_fills_to_its_last_host_and_no_further() {
        let pool: Ipv4Pool = "192.168.7.16/28".parse().unwrap();
        let mut taken = BTreeSet::new();
        for n in 0..14 {
            let address = pool.assign(&DeviceId([n; 32]), |ip| taken.contains(&ip)).unwrap();
            assert!(pool.holds_host(address), "{address}");
            assert!(taken.insert(address));
        }
        assert_eq!(pool.assign(&DeviceId([14; 32]), |ip| taken.contains(&ip)), None);
        assert!(!pool.holds_host(Ipv4Addr::new(192, 168, 7, 16)));
        assert!(!pool.holds_host(Ipv4Addr::new(192, 168, 7, 31)));
        assert!(!pool.holds_host(Ipv4Addr::new(192, 168, 7, 32)));
    }

    #[test]
    fn only_the_devices_own_addresses_are_its_own() {
        let own = NetworkAddresses { ipv6: Ipv6Addr::LOCALHOST, ipv4: None };
        assert!(own.contains(Ipv6Addr::LOCALHOST.into()));
        assert!(!own.contains(Ipv4Addr::LOCALHOST.into()));
        let own = NetworkAddresses { ipv4: Some(Ipv4Addr::LOCALHOST), ..own };
        assert!(own.contains(Ipv4Addr::LOCALHOST.into()));
        assert!(!own.contains(Ipv4Addr::BROADCAST.into()));
    }

    /// The address of device `02 02 …` in network `01 01 …`: a change breaks every network.
    const KNOWN_IPV6: &str = "fdab:1a97:5d66:4943:d09f:20fa:e103:ae26";
}
