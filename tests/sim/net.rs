//! The simulated network: hosts behind NATs (RFC 4787) on an Internet with delay and loss.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// How a NAT picks the public port of a flow (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// One port for a source, whatever the destination.
    EndpointIndependent,
    /// A port for each destination address and port.
    EndpointDependent,
}

/// What a NAT lets in (RFC 4787, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// Everything that meets a mapping.
    EndpointIndependent,
    /// From addresses that were sent to.
    AddressDependent,
    /// From addresses and ports that were sent to.
    AddressAndPortDependent,
}

/// What kind of NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatKind {
    /// How it maps.
    pub mapping: Mapping,
    /// What it lets in.
    pub filtering: Filtering,
    /// After how long without an outgoing packet a mapping ends.
    pub expiry: Duration,
}

impl NatKind {
    /// What Linux does, and most home routers.
    pub const PORT_RESTRICTED: Self = Self {
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::AddressAndPortDependent,
        expiry: Duration::from_secs(120),
    };
    /// Everybody may use a mapping.
    pub const FULL_CONE: Self =
        Self { filtering: Filtering::EndpointIndependent, ..Self::PORT_RESTRICTED };
    /// Whoever was sent to may use it, from any port.
    pub const ADDRESS_RESTRICTED: Self =
        Self { filtering: Filtering::AddressDependent, ..Self::PORT_RESTRICTED };
    /// A NAT that no hole can be punched in from another of its kind.
    pub const SYMMETRIC: Self =
        Self { mapping: Mapping::EndpointDependent, ..Self::PORT_RESTRICTED };
}

/// Number of a host in the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// Number of a site: a local network, with or without a NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub usize);

#[derive(Debug)]
struct Host {
    address: Ipv4Addr,
    site: Option<SiteId>,
}

#[derive(Debug)]
struct Site {
    public: Ipv4Addr,
    nat: NatKind,
    hosts: BTreeSet<HostId>,
    mappings: Vec<NatMapping>,
}

#[derive(Debug)]
struct NatMapping {
    inside: SocketAddr,
    /// The destination it is for, where the NAT maps by endpoint.
    towards: Option<SocketAddr>,
    port: u16,
    sent_to: BTreeMap<SocketAddr, Duration>,
    last: Duration,
}

/// Delay, loss and duplication of the Internet.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// One way between two sites.
    pub delay: Duration,
    /// Up to this much more, so that datagrams overtake one another.
    pub jitter: Duration,
    /// Of a thousand datagrams, how many are lost.
    pub loss: u16,
    /// Of a thousand datagrams, how many come twice.
    pub duplication: u16,
}

impl Weather {
    /// 25 ms one way and nothing lost.
    pub const FAIR: Self =
        Self { delay: Duration::from_millis(25), jitter: Duration::ZERO, loss: 0, duplication: 0 };
}

/// One way within a site.
const LAN_DELAY: Duration = Duration::from_micros(300);

/// The longest UDP payload that the simulated Internet carries: an Ethernet's.
const MAX_PAYLOAD: usize = 1472;

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
    /// The NAT that has a public address.
    routers: HashMap<Ipv4Addr, SiteId>,
    cut: BTreeMap<HostId, Duration>,
    /// Delay, loss, duplication.
    pub weather: Weather,
}

impl Net {
    /// An empty Internet.
    pub fn new(weather: Weather) -> Self {
        Self {
            hosts: Vec::new(),
            sites: Vec::new(),
            holders: HashMap::new(),
            routers: HashMap::new(),
            cut: BTreeMap::new(),
            weather,
        }
    }

    /// A local network behind a NAT.
    pub fn site(&mut self, nat: NatKind) -> SiteId {
        let number = self.sites.len() as u32;
        let public = Ipv4Addr::from_bits(0x0b00_0100 + number);
        let id = SiteId(self.sites.len());
        self.sites.push(Site { public, nat, hosts: BTreeSet::new(), mappings: Vec::new() });
        self.routers.insert(public, id);
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

    /// The host's own address.
    pub fn address(&self, host: HostId) -> Ipv4Addr {
        self.hosts[host.0].address
    }

    /// Hosts of the same site, for multicast.
    pub fn neighbours(&self, host: HostId) -> Vec<HostId> {
        let Some(site) = self.hosts[host.0].site else { return Vec::new() };
        self.sites[site.0].hosts.iter().copied().filter(|other| *other != host).collect()
    }

    /// The site's public address becomes another one, and its mappings are gone.
    pub fn renumber(&mut self, id: SiteId) {
        let site = &mut self.sites[id.0];
        self.routers.remove(&site.public);
        site.public = Ipv4Addr::from_bits(site.public.to_bits() + 0x0001_0000);
        site.mappings.clear();
        self.routers.insert(site.public, id);
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

    /// Everybody who was cut off is back.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

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
        if let Some(site) = site
            && let Some(neighbour) = self.find_inside(site, to.ip())
        {
            return self.arrive(neighbour, inside, to, LAN_DELAY, now);
        }
        let from = match site {
            Some(site) => self.sites[site.0].translate_out(inside, to, now, rng),
            None => inside,
        };
        let lost = rng.random_range(0..1000) < self.weather.loss;
        let copies = usize::from(rng.random_range(0..1000) < self.weather.duplication) + 1;
        if lost {
            return Vec::new();
        }
        let Some((host, to)) = self.find_outside(to, from, now) else { return Vec::new() };
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

    /// Whether nothing reaches or leaves the host now.
    pub fn is_cut(&self, host: HostId, now: Duration) -> bool {
        self.cut.get(&host).is_some_and(|until| now < *until)
    }

    fn find_inside(&self, site: SiteId, address: IpAddr) -> Option<HostId> {
        let IpAddr::V4(address) = address else { return None };
        self.holders.get(&(Some(site), address)).copied()
    }

    fn find_outside(
        &mut self,
        to: SocketAddr,
        from: SocketAddr,
        now: Duration,
    ) -> Option<(HostId, SocketAddr)> {
        let IpAddr::V4(address) = to.ip() else { return None };
        if let Some(host) = self.holders.get(&(None, address)) {
            return Some((*host, to));
        }
        let site = *self.routers.get(&address)?;
        let inside = self.sites[site.0].translate_in(to.port(), from, now)?;
        Some((self.find_inside(site, inside.ip())?, inside))
    }
}

impl Site {
    fn translate_out(
        &mut self,
        inside: SocketAddr,
        to: SocketAddr,
        now: Duration,
        rng: &mut StdRng,
    ) -> SocketAddr {
        let towards = match self.nat.mapping {
            Mapping::EndpointIndependent => None,
            Mapping::EndpointDependent => Some(to),
        };
        self.expire(now);
        let known = self.mappings.iter().position(|m| m.inside == inside && m.towards == towards);
        let at = known.unwrap_or_else(|| {
            let free = |port: u16, all: &[NatMapping]| all.iter().all(|m| m.port != port);
            let mut port = inside.port();
            while towards.is_some() || !free(port, &self.mappings) {
                port = rng.random_range(1024..=65_535);
                if free(port, &self.mappings) {
                    break;
                }
            }
            let sent_to = BTreeMap::new();
            self.mappings.push(NatMapping { inside, towards, port, sent_to, last: now });
            self.mappings.len() - 1
        });
        let mapping = &mut self.mappings[at];
        mapping.last = now;
        mapping.sent_to.insert(to, now);
        SocketAddr::from((self.public, mapping.port))
    }

    fn translate_in(&mut self, port: u16, from: SocketAddr, now: Duration) -> Option<SocketAddr> {
        self.expire(now);
        let filtering = self.nat.filtering;
        let mapping = self.mappings.iter_mut().find(|mapping| mapping.port == port)?;
        let let_in = match filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => mapping.sent_to.keys().any(|to| to.ip() == from.ip()),
            Filtering::AddressAndPortDependent => mapping.sent_to.contains_key(&from),
        };
        let_in.then_some(mapping.inside)
    }

    fn expire(&mut self, now: Duration) {
        let expiry = self.nat.expiry;
        self.mappings.retain(|mapping| now.saturating_sub(mapping.last) < expiry);
    }
}
