//! The simulated network: hosts, sites behind [NATs](super::nat), carriers' networks around sites,
//! and an Internet with delay, jitter, loss, duplication and an MTU.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::nat::Nat;
pub use super::nat::NatKind;
use super::oracle::Situation;

/// Number of a host in the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// Number of a site: a network behind a NAT, of hosts or, where it is a carrier's, of sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub usize);

#[derive(Debug)]
struct Host {
    address: Ipv4Addr,
    site: Option<SiteId>,
}

#[derive(Debug)]
struct Site {
    nat: Nat,
    /// The carrier's network that it is in; `None` is the Internet.
    within: Option<SiteId>,
    hosts: BTreeSet<HostId>,
}

/// Delay, loss and duplication of the Internet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// One way between two sites.
    pub delay: Duration,
    /// Up to this much more, so that datagrams overtake one another.
    pub jitter: Duration,
    /// Of a thousand datagrams, how many are lost.
    pub loss: u16,
    /// Of a thousand datagrams, how many come twice.
    pub duplication: u16,
    /// The longest IPv4 packet that gets through, in bytes.
    pub mtu: u16,
}

impl Weather {
    /// 25 ms one way and nothing lost.
    pub const FAIR: Self = Self {
        delay: Duration::from_millis(25),
        jitter: Duration::ZERO,
        loss: 0,
        duplication: 0,
        mtu: 1500,
    };
}

/// One way within a site.
const LAN_DELAY: Duration = Duration::from_micros(300);

/// The longest UDP payload of a local network: an Ethernet's.
const MAX_PAYLOAD: usize = 1472;

/// The headers of IPv4 and UDP.
const HEADERS: usize = 28;

/// A datagram that will arrive.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// After so long.
    pub after: Duration,
    /// Where.
    pub host: HostId,
    /// Whose it seems to be.
    pub from: SocketAddr,
    /// Which port it is for.
    pub to: SocketAddr,
}

/// The network.
#[derive(Debug)]
pub struct Net {
    hosts: Vec<Host>,
    sites: Vec<Site>,
    /// Who has an address, by where it is seen: in a site, or on the Internet.
    holders: HashMap<(Option<SiteId>, Ipv4Addr), HostId>,
    /// The NAT that has an address, likewise.
    routers: HashMap<(Option<SiteId>, Ipv4Addr), SiteId>,
    cut: BTreeMap<HostId, Duration>,
    /// Sites without the Internet, and until when.
    isolated: BTreeMap<SiteId, Duration>,
    /// Hosts that reach one another, and nobody else.
    far: BTreeSet<HostId>,
    /// Delay, loss, duplication.
    pub weather: Weather,
}

/// A network that is being built, and that things happen to.
impl Net {
    /// An empty Internet.
    pub fn new(weather: Weather) -> Self {
        Self {
            hosts: Vec::new(),
            sites: Vec::new(),
            holders: HashMap::new(),
            routers: HashMap::new(),
            cut: BTreeMap::new(),
            isolated: BTreeMap::new(),
            far: BTreeSet::new(),
            weather,
        }
    }

    /// A local network behind a NAT; also a carrier's network, for [`site_within`](Self::site_within).
    pub fn site(&mut self, nat: NatKind) -> SiteId {
        let public = Ipv4Addr::from_bits(0x0b00_0100 + self.sites.len() as u32);
        self.add_site(Nat::new(public, nat), None)
    }

    /// A local network behind a NAT, of which the outside is behind the carrier's.
    pub fn site_within(&mut self, nat: NatKind, carrier: SiteId) -> SiteId {
        let public = Ipv4Addr::from_bits(0x6440_0100 + self.sites.len() as u32);
        self.add_site(Nat::new(public, nat), Some(carrier))
    }

    fn add_site(&mut self, nat: Nat, within: Option<SiteId>) -> SiteId {
        let id = SiteId(self.sites.len());
        self.routers.insert((within, nat.public), id);
        self.sites.push(Site { nat, within, hosts: BTreeSet::new() });
        id
    }

    /// A host in a site, or with a public address.
    pub fn host(&mut self, site: Option<SiteId>) -> HostId {
        let host = HostId(self.hosts.len());
        let address = self.free_address(host, site);
        self.hosts.push(Host { address, site });
        self.settle_in(host);
        host
    }

    /// An address that nobody else has where the host will be.
    fn free_address(&self, HostId(host): HostId, site: Option<SiteId>) -> Ipv4Addr {
        let Some(SiteId(number)) = site else {
            return Ipv4Addr::from_bits(0x0c00_0001 + host as u32);
        };
        let link = 0xc0a8_0000 + ((number as u32 % 250) << 8);
        let all = (0..250).map(|step| link + 2 + (host as u32 + step) % 250);
        let mut all = all.map(Ipv4Addr::from_bits);
        let free = all.find(|address| !self.holders.contains_key(&(site, *address)));
        free.expect("a site has room for 250 hosts")
    }

    fn settle_in(&mut self, host: HostId) {
        let Host { address, site } = self.hosts[host.0];
        self.holders.insert((site, address), host);
        if let Some(site) = site {
            self.sites[site.0].hosts.insert(host);
        }
    }

    /// The site's public address becomes another one, and its mappings are gone.
    pub fn renumber(&mut self, id: SiteId) {
        let Site { nat, within, .. } = &mut self.sites[id.0];
        self.routers.remove(&(*within, nat.public));
        nat.public = Ipv4Addr::from_bits(nat.public.to_bits() + 0x0001_0000);
        nat.forget();
        self.routers.insert((*within, nat.public), id);
    }

    /// The site's router forgets its mappings.
    pub fn restart_router(&mut self, site: SiteId) {
        self.sites[site.0].nat.forget();
    }

    /// The host moves to another site (or the open Internet) and gets another address.
    pub fn move_host(&mut self, host: HostId, site: Option<SiteId>) {
        let Host { address, site: before } = self.hosts[host.0];
        self.holders.remove(&(before, address));
        if let Some(before) = before {
            self.sites[before.0].hosts.remove(&host);
        }
        let address = self.free_address(host, site);
        self.hosts[host.0] = Host { address, site };
        self.settle_in(host);
    }

    /// Nothing reaches or leaves the host until `until`.
    pub fn cut(&mut self, host: HostId, until: Duration) {
        self.cut.insert(host, until);
    }

    /// Nothing enters or leaves the site until `until`; its hosts reach one another.
    pub fn cut_site(&mut self, site: SiteId, until: Duration) {
        self.isolated.insert(site, until);
    }

    /// These hosts reach one another, and nobody else, not the DHT either.
    pub fn part(&mut self, far: impl IntoIterator<Item = HostId>) {
        self.far.extend(far);
    }

    /// Everybody reaches everybody again.
    pub fn unite(&mut self) {
        self.far.clear();
    }

    /// Whether the host is among those that were parted from the rest.
    pub fn is_parted(&self, host: HostId) -> bool {
        self.far.contains(&host)
    }

    /// Everybody who was cut off is back.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.isolated.clear();
    }
}

/// What is where.
impl Net {
    /// The host's own address.
    pub fn address(&self, host: HostId) -> Ipv4Addr {
        self.hosts[host.0].address
    }

    /// The host's site.
    pub fn site_of(&self, host: HostId) -> Option<SiteId> {
        self.hosts[host.0].site
    }

    /// What stands between a site and the Internet.
    pub fn situation(&self, site: Option<SiteId>) -> Situation {
        let outer = |site: &SiteId| self.sites[site.0].within;
        let chain = std::iter::successors(site, outer);
        Situation {
            site,
            carrier: site.as_ref().and_then(outer),
            nats: chain.map(|site| self.sites[site.0].nat.kind).collect(),
        }
    }

    /// Hosts of the same site that hear each other's multicasts.
    pub fn neighbours(&self, host: HostId, now: Duration) -> Vec<HostId> {
        let site = self.hosts[host.0].site.filter(|_| !self.is_cut(host, now));
        let Some(site) = site else { return Vec::new() };
        let others = self.sites[site.0].hosts.iter().copied();
        others.filter(|other| *other != host && !self.is_cut(*other, now)).collect()
    }

    /// Whether nothing of the Internet reaches the host now.
    pub fn is_offline(&self, host: HostId, now: Duration) -> bool {
        let isolated = self.hosts[host.0].site.is_some_and(|site| self.is_isolated(site, now));
        isolated || self.is_cut(host, now) || self.is_parted(host)
    }

    fn is_cut(&self, host: HostId, now: Duration) -> bool {
        self.cut.get(&host).is_some_and(|until| now < *until)
    }

    fn is_isolated(&self, site: SiteId, now: Duration) -> bool {
        self.isolated.get(&site).is_some_and(|until| now < *until)
    }
}

/// The ways of a datagram.
impl Net {
    /// Sends a datagram from a port of a host: where it arrives, if anywhere.
    pub fn send(
        &mut self,
        (host, port): (HostId, u16),
        to: SocketAddr,
        len: usize,
        now: Duration,
        rng: &mut StdRng,
    ) -> Vec<Arrival> {
        if len > MAX_PAYLOAD || self.is_cut(host, now) {
            return Vec::new();
        }
        let Host { address, site } = self.hosts[host.0];
        let inside = SocketAddr::from((address, port));
        if let Some(neighbour) = site.and_then(|site| self.holder(Some(site), to.ip())) {
            return self.arrive(neighbour, inside, to, LAN_DELAY, now);
        }
        let lost = rng.random_range(0..1000) < self.weather.loss;
        let copies = usize::from(rng.random_range(0..1000) < self.weather.duplication) + 1;
        let sender = host;
        let Some((host, from, to)) = self.climb(site, inside, to, now, rng) else {
            return Vec::new();
        };
        if lost || len + HEADERS > usize::from(self.weather.mtu) {
            return Vec::new();
        }
        if self.is_parted(sender) != self.is_parted(host) {
            return Vec::new();
        }
        let arrivals = (0..copies).flat_map(|_| {
            let jitter = self.weather.jitter.mul_f64(rng.random_range(0.0..1.0));
            self.arrive(host, from, to, self.weather.delay + jitter, now)
        });
        arrivals.collect()
    }

    fn arrive(
        &self,
        host: HostId,
        from: SocketAddr,
        to: SocketAddr,
        after: Duration,
        now: Duration,
    ) -> Vec<Arrival> {
        if self.is_cut(host, now) { Vec::new() } else { vec![Arrival { after, host, from, to }] }
    }

    /// Out through one NAT after the other, until somebody there has the address.
    fn climb(
        &mut self,
        mut place: Option<SiteId>,
        mut from: SocketAddr,
        to: SocketAddr,
        now: Duration,
        rng: &mut StdRng,
    ) -> Option<(HostId, SocketAddr, SocketAddr)> {
        while let Some(site) = place {
            if self.is_isolated(site, now) {
                return None;
            }
            let Site { nat, within, .. } = &mut self.sites[site.0];
            let outside = nat.translate_out(from, to, now, rng)?;
            if to.ip() == outside.ip() {
                let inside =
                    nat.translate_in(to.port(), outside, now).filter(|_| nat.kind.hairpin)?;
                return self.descend(place, outside, inside, now);
            }
            (place, from) = (*within, outside);
            if self.is_taken(place, to.ip()) {
                break;
            }
        }
        self.descend(place, from, to, now)
    }

    /// In through the NAT that has the address, and the ones behind it.
    fn descend(
        &mut self,
        place: Option<SiteId>,
        from: SocketAddr,
        to: SocketAddr,
        now: Duration,
    ) -> Option<(HostId, SocketAddr, SocketAddr)> {
        if let Some(host) = self.holder(place, to.ip()) {
            return Some((host, from, to));
        }
        let IpAddr::V4(address) = to.ip() else { return None };
        let site = *self.routers.get(&(place, address))?;
        if self.is_isolated(site, now) {
            return None;
        }
        let inside = self.sites[site.0].nat.translate_in(to.port(), from, now)?;
        self.descend(Some(site), from, inside, now)
    }

    fn is_taken(&self, place: Option<SiteId>, address: IpAddr) -> bool {
        let IpAddr::V4(v4) = address else { return false };
        self.holder(place, address).is_some() || self.routers.contains_key(&(place, v4))
    }

    fn holder(&self, place: Option<SiteId>, address: IpAddr) -> Option<HostId> {
        let IpAddr::V4(address) = address else { return None };
        self.holders.get(&(place, address)).copied()
    }
}
