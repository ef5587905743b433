//! Where other devices are, as far as anybody said.
//!
//! Every source keeps one list a device, its newest; a list runs out with its source's lifetime.
//! What is handed out is filtered by the links of this host at that moment: private endpoints that
//! are on none of them are kept (the next move may put this host there), but not told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::identity::DeviceId;
use crate::membership::UnixTime;
use crate::mesh::event::InterfaceSnapshot;
use crate::wire::record::{
    AddressKind, CachedDevice, MAX_CACHED_DEVICES, MAX_ENDPOINTS, acceptable,
};

/// The most devices that are remembered: a network's bound (rule R10 of the roster).
pub const MAX_DEVICES: usize = 10_000;

/// The most endpoints of one device that are handed out: two full lists.
const MAX_TOLD: usize = 2 * MAX_ENDPOINTS;

/// Who said where a device is, the most trustworthy first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A beacon on a local network.
    Lan,
    /// Another member, over its tunnel.
    Gossip,
    /// The doorbell.
    Bell,
    /// The device's own record in the DHT.
    Record,
    /// What was known before a restart.
    Cache,
}

impl Source {
    /// How long its word is believed, in seconds.
    fn lifetime_secs(self) -> u64 {
        match self {
            // Beacons are sent every minute at least while somebody looks.
            Self::Lan => 5 * 60,
            Self::Bell => 30 * 60,
            Self::Gossip | Self::Record => 3 * 3600 + 15 * 60,
            // Fixed addresses and long leases last for weeks, and a wrong guess costs one check.
            Self::Cache => 30 * 86_400,
        }
    }
}

/// A list of endpoints and when it was said.
#[derive(Debug, Clone)]
struct Word {
    at: UnixTime,
    endpoints: Vec<SocketAddr>,
}

/// Everything that was said.
#[derive(Debug, Default)]
pub(super) struct Book {
    devices: BTreeMap<DeviceId, BTreeMap<Source, Word>>,
    /// The on-link prefixes of this host.
    links: Vec<(IpAddr, u8)>,
    /// Whether anything was said or forgotten since it was asked.
    news: bool,
}

impl Book {
    /// Takes the links of this host over.
    pub(super) fn set_links(&mut self, interfaces: &InterfaceSnapshot) {
        self.links = interfaces.addresses.iter().map(|a| (a.address, a.prefix_len)).collect();
    }

    /// Whether anything was said or forgotten since this was asked last.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// How many devices are remembered.
    pub(super) fn len(&self) -> usize {
        self.devices.len()
    }

    /// Keeps what `source` said at `at`; false where it said something newer already.
    pub(super) fn accept(
        &mut self,
        device: DeviceId,
        source: Source,
        endpoints: &[SocketAddr],
        at: UnixTime,
    ) -> bool {
        if self.devices.len() >= MAX_DEVICES && !self.devices.contains_key(&device) {
            self.forget_oldest();
        }
        let words = self.devices.entry(device).or_default();
        if words.get(&source).is_some_and(|word| word.at >= at) {
            return false;
        }
        let mut kept = Vec::new();
        for endpoint in endpoints.iter().take(MAX_ENDPOINTS) {
            if AddressKind::of(endpoint) != AddressKind::Unusable && !kept.contains(endpoint) {
                kept.push(*endpoint);
            }
        }
        words.insert(source, Word { at, endpoints: kept });
        self.news = true;
        true
    }

    /// The endpoints of `device` that are believed and may be tried, newest word first.
    pub(super) fn endpoints(&self, device: &DeviceId, now: UnixTime) -> Vec<SocketAddr> {
        let mut told = Vec::new();
        for word in self.words(device, now) {
            for endpoint in self.triable(&word.endpoints) {
                if told.len() < MAX_TOLD && !told.contains(&endpoint) {
                    told.push(endpoint);
                }
            }
        }
        told
    }

    /// Those of `endpoints` that may be tried from this host's links.
    pub(super) fn triable(&self, endpoints: &[SocketAddr]) -> Vec<SocketAddr> {
        let on_link = |ip| self.links.iter().any(|link| contains(*link, ip));
        endpoints.iter().filter(|endpoint| acceptable(endpoint, on_link)).copied().collect()
    }

    /// Forgets a device.
    pub(super) fn forget(&mut self, device: &DeviceId) {
        self.news |= self.devices.remove(device).is_some();
    }

    /// What a restart should remember, the newest devices first.
    pub(super) fn export(&self, now: UnixTime) -> Vec<CachedDevice> {
        let mut devices: Vec<_> = self
            .devices
            .keys()
            .filter_map(|device| {
                let words = self.words(device, now);
                let at = words.first()?.at;
                let mut endpoints = Vec::new();
                for endpoint in words.iter().flat_map(|word| &word.endpoints) {
                    if endpoints.len() < MAX_ENDPOINTS && !endpoints.contains(endpoint) {
                        endpoints.push(*endpoint);
                    }
                }
                Some((*device, at, endpoints))
            })
            .collect();
        devices.sort_by_key(|(_, at, _)| std::cmp::Reverse(*at));
        devices.truncate(MAX_CACHED_DEVICES);
        devices
    }

    /// The words about a device that are believed, newest first.
    fn words(&self, device: &DeviceId, now: UnixTime) -> Vec<&Word> {
        let mut words: Vec<_> = self
            .devices
            .get(device)
            .into_iter()
            .flatten()
            .filter(|(source, word)| word.at.0.saturating_add(source.lifetime_secs()) >= now.0)
            .map(|(_, word)| word)
            .collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.at));
        words
    }

    fn forget_oldest(&mut self) {
        let newest = |words: &BTreeMap<Source, Word>| words.values().map(|word| word.at).max();
        let oldest = self.devices.iter().min_by_key(|(_, words)| newest(words)).map(|(id, _)| *id);
        if let Some(device) = oldest {
            self.devices.remove(&device);
        }
    }
}

/// Whether `ip` is inside the prefix of `link`.
fn contains(link: (IpAddr, u8), ip: IpAddr) -> bool {
    let shared = |a: u128, b: u128, width: u32| {
        let len = u32::from(link.1).min(width);
        len == 0 || (a ^ b) >> (width - len) == 0
    };
    match (link.0, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => shared(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => shared(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::event::InterfaceAddress;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const DEVICE: DeviceId = DeviceId([1; 32]);

    fn list(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn book_on(address: &str, prefix_len: u8) -> Book {
        let address = address.parse().unwrap();
        let mut book = Book::default();
        let addresses = vec![InterfaceAddress { link: 2, address, prefix_len, mtu: 1500 }];
        book.set_links(&InterfaceSnapshot { addresses, default_route: (true, false) });
        book
    }

    #[test]
    fn private_endpoints_are_told_only_on_their_link() {
        let mut book = book_on("192.168.1.2", 24);
        let said = list(&["192.168.1.9:5", "192.168.2.9:5", "10.0.0.1:5", "9.9.9.9:5"]);
        book.accept(DEVICE, Source::Record, &said, NOW);
        assert_eq!(book.endpoints(&DEVICE, NOW), list(&["192.168.1.9:5", "9.9.9.9:5"]));
        // The host moves: the other private endpoint is the one on its link now.
        let moved = book_on("192.168.2.2", 24);
        book.links = moved.links;
        assert_eq!(book.endpoints(&DEVICE, NOW), list(&["192.168.2.9:5", "9.9.9.9:5"]));
    }

    #[test]
    fn the_newest_word_comes_first_and_old_words_run_out() {
        let mut book = Book::default();
        book.accept(DEVICE, Source::Record, &list(&["9.9.9.1:1"]), UnixTime(NOW.0 - 100));
        book.accept(DEVICE, Source::Bell, &list(&["9.9.9.2:1"]), UnixTime(NOW.0 - 10));
        assert_eq!(book.endpoints(&DEVICE, NOW), list(&["9.9.9.2:1", "9.9.9.1:1"]));
        let later = UnixTime(NOW.0 + 3600);
        assert_eq!(book.endpoints(&DEVICE, later), list(&["9.9.9.1:1"]));
        assert!(book.endpoints(&DEVICE, UnixTime(NOW.0 + 4 * 3600)).is_empty());
    }

    #[test]
    fn an_older_word_of_the_same_source_changes_nothing() {
        let mut book = Book::default();
        assert!(book.accept(DEVICE, Source::Record, &list(&["9.9.9.1:1"]), NOW));
        let old = UnixTime(NOW.0 - 1);
        assert!(!book.accept(DEVICE, Source::Record, &list(&["9.9.9.2:1"]), old));
        assert!(!book.accept(DEVICE, Source::Record, &list(&["9.9.9.2:1"]), NOW));
        assert_eq!(book.endpoints(&DEVICE, NOW), list(&["9.9.9.1:1"]));
    }

    #[test]
    fn ten_thousand_endpoints_and_devices_stay_within_bounds() {
        let mut book = book_on("10.0.0.1", 8);
        let said: Vec<SocketAddr> = (0..10_000_u32)
            .map(|i| (std::net::Ipv4Addr::from(0x7f00_0000 + i), 9).into())
            .collect();
        book.accept(DEVICE, Source::Gossip, &said, UnixTime(NOW.0 - 1));
        assert!(book.endpoints(&DEVICE, NOW).is_empty());
        for i in 0..10_010_u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&i.to_be_bytes());
            let at = UnixTime(NOW.0 + u64::from(i / 64));
            book.accept(DeviceId(id), Source::Bell, &list(&["9.9.9.9:1"]), at);
        }
        assert_eq!(book.devices.len(), MAX_DEVICES);
        assert!(!book.devices.contains_key(&DEVICE));
        assert_eq!(book.export(NOW).len(), MAX_CACHED_DEVICES);
    }
}
