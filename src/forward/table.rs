//! Which peer a packet belongs to: overlay address → slot, receiver index → slot.
//!
//! A table is an immutable snapshot that `mesh` builds whole on every change of the peers in use and
//! that the workers read through an `ArcSwap`. A destination is looked up among the exact addresses
//! first, then among the granted routes, longest prefix first: one hash look-up for each prefix
//! length that occurs, none of which allocates. Peers that may carry only control are found by index
//! but have no addresses.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::ExpectedStun;
use super::slot::{Carries, PeerSlot, SlotIndex};

/// What this device is in the overlay: which destinations are its own, which sources it may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    /// Its IPv6 address and the network's prefix length.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// Its IPv4 address and the pool's prefix length.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// Prefixes behind this device that its certificate grants: it may send from and receive for
    /// them.
    pub routes: Vec<(IpAddr, u8)>,
}

impl LocalAddresses {
    /// Whether `address` is this device's own or behind it.
    pub fn owns(&self, address: IpAddr) -> bool {
        let exact = match address {
            IpAddr::V6(v6) => self.ipv6.is_some_and(|(own, _)| own == v6),
            IpAddr::V4(v4) => self.ipv4.is_some_and(|(own, _)| own == v4),
        };
        exact || self.routes.iter().any(|prefix| within(address, *prefix))
    }

    /// Whether `address` is one that a device of this network could have.
    pub fn is_overlay(&self, address: IpAddr) -> bool {
        let v6 = self.ipv6.is_some_and(|(own, len)| within(address, (own.into(), len)));
        v6 || self.ipv4.is_some_and(|(own, len)| within(address, (own.into(), len)))
    }
}

/// An immutable snapshot of the peers in use.
#[derive(Default)]
pub struct ForwardingTable {
    local: LocalAddresses,
    slots: HashMap<SlotIndex, Arc<PeerSlot>>,
    exact: HashMap<IpAddr, Arc<PeerSlot>>,
    routes: HashMap<(IpAddr, u8), Arc<PeerSlot>>,
    /// The prefix lengths that occur in `routes`, longest first, of v4 and of v6.
    lengths: (Vec<u8>, Vec<u8>),
    expected: Arc<ExpectedStun>,
}

impl ForwardingTable {
    /// A table of these slots. Where two peers claim one address (the roster forbids it) the first
    /// keeps it. Prefixes longer than their address family allows are left out.
    ///
    /// Without [`with_local`](Self::with_local) it carries control only: no address is this
    /// device's own.
    pub fn new(slots: impl IntoIterator<Item = Arc<PeerSlot>>) -> Self {
        let mut table = Self::default();
        for slot in slots {
            if slot.carries == Carries::Everything {
                table.add_prefixes(&slot);
            }
            table.slots.insert(slot.index, slot);
        }
        table.lengths = (
            descending(table.routes.keys().filter(|(address, _)| address.is_ipv4())),
            descending(table.routes.keys().filter(|(address, _)| address.is_ipv6())),
        );
        table
    }

    /// The same table for a device with these addresses.
    pub fn with_local(mut self, local: LocalAddresses) -> Self {
        self.local = local;
        self
    }

    /// The same table, with the STUN messages that are heard. Without it all checks are, and no answers.
    pub fn with_expected(mut self, expected: Arc<ExpectedStun>) -> Self {
        self.expected = expected;
        self
    }

    /// Which STUN messages are heard.
    pub fn expected(&self) -> &ExpectedStun {
        &self.expected
    }

    /// This device's own addresses.
    pub fn local(&self) -> &LocalAddresses {
        &self.local
    }

    /// The peer that packets for `destination` go to.
    pub fn route(&self, destination: IpAddr) -> Option<&Arc<PeerSlot>> {
        self.exact.get(&destination).or_else(|| {
            let lengths = if destination.is_ipv4() { &self.lengths.0 } else { &self.lengths.1 };
            let prefixes = lengths.iter().map(|len| (masked(destination, *len), *len));
            prefixes.filter_map(|prefix| self.routes.get(&prefix)).next()
        })
    }

    /// The slot with this number.
    pub fn slot(&self, index: SlotIndex) -> Option<&Arc<PeerSlot>> {
        self.slots.get(&index)
    }

    /// Where the peers in use are, as of now.
    pub fn endpoints(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.slots.values().filter_map(|slot| slot.endpoint())
    }

    /// The number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn add_prefixes(&mut self, slot: &Arc<PeerSlot>) {
        for &(address, len) in &slot.allowed {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            if len == bits {
                self.exact.entry(address).or_insert_with(|| slot.clone());
            } else if len < bits {
                let prefix = (masked(address, len), len);
                self.routes.entry(prefix).or_insert_with(|| slot.clone());
            }
        }
    }
}

impl fmt::Debug for ForwardingTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardingTable")
            .field("local", &self.local)
            .field("slots", &self.slots.len())
            .field("addresses", &self.exact.len())
            .field("routes", &self.routes.len())
            .finish_non_exhaustive()
    }
}

/// Whether `address` lies in `prefix`. Families never match one another, and a prefix that is
/// longer than its family allows matches nothing.
pub(super) fn within(address: IpAddr, (network, len): (IpAddr, u8)) -> bool {
    let bits = if network.is_ipv4() { 32 } else { 128 };
    address.is_ipv4() == network.is_ipv4()
        && len <= bits
        && masked(address, len) == masked(network, len)
}

/// `address` with all but its first `len` bits cleared.
fn masked(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

fn descending<'a>(prefixes: impl Iterator<Item = &'a (IpAddr, u8)>) -> Vec<u8> {
    let mut lengths: Vec<u8> =
        prefixes.map(|(_, len)| *len).collect::<HashSet<_>>().into_iter().collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::forward::Tunnel;
    use crate::identity::WgSecret;

    fn slot(index: u32, carries: Carries, allowed: &[(&str, u8)]) -> Arc<PeerSlot> {
        let now = Instant::now();
        let (local, remote) = (WgSecret::from_bytes([1; 32]), WgSecret::from_bytes([2; 32]));
        let tunnel = Tunnel::new(&local, &remote.public(), SlotIndex(index)).unwrap();
        let allowed =
            allowed.iter().map(|(address, len)| (address.parse().unwrap(), *len)).collect();
        Arc::new(PeerSlot::new(SlotIndex(index), tunnel, allowed, carries, now))
    }

    fn route(table: &ForwardingTable, address: &str) -> Option<u32> {
        table.route(address.parse().unwrap()).map(|slot| slot.index.0)
    }

    #[test]
    fn an_exact_address_wins_over_routes_and_longer_routes_win_over_shorter() {
        let table = ForwardingTable::new([
            slot(1, Carries::Everything, &[("10.7.0.1", 32), ("fd00::1", 128)]),
            slot(2, Carries::Everything, &[("10.7.0.2", 32), ("192.168.0.0", 16), ("0.0.0.0", 0)]),
            slot(3, Carries::Everything, &[("192.168.9.77", 24), ("10.7.0.0", 16), ("fd01::", 32)]),
        ]);
        assert_eq!(route(&table, "10.7.0.1"), Some(1));
        assert_eq!(route(&table, "10.7.0.9"), Some(3));
        assert_eq!(route(&table, "192.168.9.5"), Some(3));
        assert_eq!(route(&table, "192.168.8.5"), Some(2));
        assert_eq!(route(&table, "8.8.8.8"), Some(2));
        assert_eq!(route(&table, "fd00::1"), Some(1));
        assert_eq!(route(&table, "fd01:0:ffff::1"), Some(3));
        assert_eq!(route(&table, "fd02::1"), None);
    }

    #[test]
    fn a_control_only_slot_is_found_by_index_and_has_no_addresses() {
        let table =
            ForwardingTable::new([slot(9, Carries::ControlOnly, &[("10.7.0.9", 32), ("::", 0)])]);
        assert_eq!(route(&table, "10.7.0.9"), None);
        assert_eq!(route(&table, "fd00::9"), None);
        assert_eq!(table.slot(SlotIndex::of_receiver(9 << 8 | 5)).unwrap().index, SlotIndex(9));
        assert!(table.slot(SlotIndex(8)).is_none());
    }

    #[test]
    fn prefixes_match_only_their_own_family_and_never_beyond_their_length() {
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        assert!(within(v4, ("10.0.0.0".parse().unwrap(), 8)));
        assert!(within(v4, ("0.0.0.0".parse().unwrap(), 0)));
        assert!(!within(v4, ("::".parse().unwrap(), 0)));
        assert!(!within(v4, ("10.0.0.1".parse().unwrap(), 33)));
        assert!(within("fd00::1".parse().unwrap(), ("::".parse().unwrap(), 0)));
        assert!(!within("fd00::1".parse().unwrap(), ("fd00::1".parse().unwrap(), 129)));
    }

    #[test]
    fn own_addresses_are_exact_and_overlay_addresses_share_the_prefix() {
        let local = LocalAddresses {
            ipv6: Some(("fd00::1".parse().unwrap(), 48)),
            ipv4: Some(("10.7.0.1".parse().unwrap(), 16)),
            routes: vec![("192.168.5.0".parse().unwrap(), 24)],
        };
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        assert!(local.owns(ip("fd00::1")) && local.owns(ip("10.7.0.1")));
        assert!(local.owns(ip("192.168.5.200")));
        assert!(!local.owns(ip("fd00::2")) && !local.owns(ip("10.7.0.2")));
        assert!(local.is_overlay(ip("fd00::2")) && local.is_overlay(ip("10.7.9.9")));
        assert!(!local.is_overlay(ip("fd00:0:1::2")) && !local.is_overlay(ip("10.8.0.1")));
    }
}
