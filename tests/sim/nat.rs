//! One NAT, as RFC 4787 classifies them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// For which destinations a source keeps its public port (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// For all.
    EndpointIndependent,
    /// For those with one address.
    AddressDependent,
    /// For one address and port.
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

/// Which public port a new mapping gets (RFC 4787, section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The inside one, where it is free; else any.
    Preserved,
    /// Any.
    Random,
    /// The next one.
    Sequential,
    /// Any in a block of 512, as behind a carrier's NAT.
    Block,
}

/// What kind of NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatKind {
    /// How it maps.
    pub mapping: Mapping,
    /// What it lets in.
    pub filtering: Filtering,
    /// Which ports it gives.
    pub ports: Ports,
    /// After how long without an outgoing packet a mapping ends, and what it lets in.
    pub expiry: Duration,
    /// Whether hosts behind it reach one another by its public address.
    pub hairpin: bool,
    /// Whether the router takes what it does not let in for itself, as Linux does where INPUT
    /// accepts: then the flow has an owner, and whoever sends to there from inside gets another
    /// port.
    pub poisons: bool,
}

impl NatKind {
    /// What Linux does, and most home routers.
    pub const PORT_RESTRICTED: Self = Self {
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::AddressAndPortDependent,
        ports: Ports::Preserved,
        expiry: Duration::from_secs(120),
        hairpin: false,
        poisons: false,
    };
    /// Everybody may use a mapping.
    pub const FULL_CONE: Self =
        Self { filtering: Filtering::EndpointIndependent, ..Self::PORT_RESTRICTED };
    /// Whoever was sent to may use it, from any port.
    pub const ADDRESS_RESTRICTED: Self =
        Self { filtering: Filtering::AddressDependent, ..Self::PORT_RESTRICTED };
    /// A NAT that no hole can be punched in from another of its kind.
    pub const SYMMETRIC: Self =
        Self { mapping: Mapping::EndpointDependent, ports: Ports::Random, ..Self::PORT_RESTRICTED };
    /// Symmetric, with ports that could be guessed.
    pub const SEQUENTIAL: Self = Self { ports: Ports::Sequential, ..Self::SYMMETRIC };
    /// Symmetric, with few ports.
    pub const PORT_BLOCK: Self = Self { ports: Ports::Block, ..Self::SYMMETRIC };
    /// One port for each address.
    pub const BY_ADDRESS: Self = Self {
        mapping: Mapping::AddressDependent,
        filtering: Filtering::AddressDependent,
        ..Self::SYMMETRIC
    };
}

/// Ports that NATs give away.
const DYNAMIC: Range<u16> = 1024..65_535;

/// The block of [`Ports::Block`], and where [`Ports::Sequential`] begins.
const BLOCK: Range<u16> = 20_000..20_512;

/// How long a flow that the router took for itself has an owner: Linux's time for one-way UDP.
const POISONED: Duration = Duration::from_secs(30);

/// Which packets a mapping is for: a source, and where the NAT tells them apart, a destination.
type Key = (SocketAddr, Option<SocketAddr>);

/// A NAT.
#[derive(Debug)]
pub struct Nat {
    /// Its address outside.
    pub public: Ipv4Addr,
    /// What it is like.
    pub kind: NatKind,
    ports: BTreeMap<Key, u16>,
    mappings: BTreeMap<u16, Holder>,
    /// Flows from outside that the router took for itself.
    poisoned: BTreeMap<(u16, SocketAddr), Duration>,
    next: u16,
}

/// Who has a public port.
#[derive(Debug)]
struct Holder {
    key: Key,
    sent_to: BTreeMap<SocketAddr, Duration>,
    last: Duration,
}

impl Nat {
    /// A router that was just switched on.
    pub fn new(public: Ipv4Addr, kind: NatKind) -> Self {
        let (ports, mappings, poisoned) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { public, kind, ports, mappings, poisoned, next: BLOCK.start }
    }

    /// All mappings are gone.
    pub fn forget(&mut self) {
        *self = Self::new(self.public, self.kind);
    }

    /// A packet from inside: from where it seems to come outside. `None` where no port is free.
    pub fn translate_out(
        &mut self,
        inside: SocketAddr,
        to: SocketAddr,
        now: Duration,
        rng: &mut StdRng,
    ) -> Option<SocketAddr> {
        let towards = match self.kind.mapping {
            Mapping::EndpointIndependent => None,
            Mapping::AddressDependent => Some(SocketAddr::new(to.ip(), 0)),
            Mapping::EndpointDependent => Some(to),
        };
        let mut key = (inside, towards);
        // A flow that was moved away from a poisoned one keeps its port.
        if self.port(&(inside, Some(to)), now).is_some() {
            key = (inside, Some(to));
        }
        let mut port = match self.port(&key, now) {
            Some(port) => port,
            None => self.open(key, now, rng)?,
        };
        let taken = self.poisoned.get(&(port, to)).is_some_and(|at| now < *at + POISONED);
        if taken && !self.mappings[&port].sent_to.contains_key(&to) {
            key = (inside, Some(to));
            port = self.open(key, now, rng)?;
        }
        let mapping = self.mappings.get_mut(&port).expect("it was found or opened just now");
        mapping.last = now;
        mapping.sent_to.insert(to, now);
        Some(SocketAddr::from((self.public, port)))
    }

    /// A packet from outside: whom it is for inside, if it is let in.
    pub fn translate_in(
        &mut self,
        port: u16,
        from: SocketAddr,
        now: Duration,
    ) -> Option<SocketAddr> {
        let (filtering, expiry) = (self.kind.filtering, self.kind.expiry);
        let let_in = self.mappings.get(&port).filter(|mapping| {
            let open = |sent: &Duration| now < *sent + expiry;
            let mut sent_to = mapping.sent_to.iter().filter(|(_, sent)| open(sent));
            match filtering {
                Filtering::EndpointIndependent => open(&mapping.last),
                Filtering::AddressDependent => sent_to.any(|(to, _)| to.ip() == from.ip()),
                Filtering::AddressAndPortDependent => mapping.sent_to.get(&from).is_some_and(open),
            }
        });
        if let_in.is_none() && self.kind.poisons {
            self.poisoned.retain(|_, at| now < *at + POISONED);
            self.poisoned.insert((port, from), now);
        }
        let_in.map(|mapping| mapping.key.0)
    }

    /// The port of a mapping that has not expired.
    fn port(&self, key: &Key, now: Duration) -> Option<u16> {
        self.ports.get(key).copied().filter(|port| self.is_open(*port, now))
    }

    fn is_open(&self, port: u16, now: Duration) -> bool {
        self.mappings.get(&port).is_some_and(|mapping| now < mapping.last + self.kind.expiry)
    }

    fn open(&mut self, key: Key, now: Duration, rng: &mut StdRng) -> Option<u16> {
        let port = self.free_port(key, now, rng)?;
        let holder = Holder { key, sent_to: BTreeMap::new(), last: now };
        if let Some(before) = self.mappings.insert(port, holder) {
            self.ports.remove(&before.key);
        }
        self.ports.insert(key, port);
        Some(port)
    }

    fn free_port(&mut self, (inside, _): Key, now: Duration, rng: &mut StdRng) -> Option<u16> {
        let free = |port: &u16| !self.is_open(*port, now);
        match self.kind.ports {
            Ports::Preserved if free(&inside.port()) => Some(inside.port()),
            Ports::Preserved | Ports::Random => {
                (0..1000).map(|_| rng.random_range(DYNAMIC)).find(free)
            }
            Ports::Block => (0..1000).map(|_| rng.random_range(BLOCK)).find(free),
            Ports::Sequential => {
                let port = (self.next..DYNAMIC.end).find(free)?;
                self.next = port + 1;
                Some(port)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const INSIDE: &str = "192.168.0.2:41641";
    const PEER: &str = "12.0.0.1:41641";

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn nat(kind: NatKind) -> (Nat, StdRng) {
        (Nat::new(Ipv4Addr::new(11, 0, 0, 1), kind), StdRng::seed_from_u64(1))
    }

    #[test]
    fn a_mapping_lets_in_what_its_kind_says_until_it_expires() {
        for (kind, other_port, other_host) in [
            (NatKind::PORT_RESTRICTED, false, false),
            (NatKind::ADDRESS_RESTRICTED, true, false),
            (NatKind::FULL_CONE, true, true),
        ] {
            let (mut nat, mut rng) = nat(kind);
            let out = nat.translate_out(at(INSIDE), at(PEER), Duration::ZERO, &mut rng);
            let port = out.expect("a free port").port();
            assert_eq!(port, 41641);
            let mut lets_in = |from: &str, now| {
                nat.translate_in(port, at(from), Duration::from_secs(now)).is_some()
            };
            assert!(lets_in(PEER, 119) && !lets_in(PEER, 120));
            assert_eq!(lets_in("12.0.0.1:5", 1), other_port);
            assert_eq!(lets_in("12.0.0.9:5", 1), other_host);
        }
    }

    #[test]
    fn a_symmetric_nat_has_a_port_for_each_destination() {
        for kind in [NatKind::SYMMETRIC, NatKind::SEQUENTIAL, NatKind::PORT_BLOCK] {
            let (mut nat, mut rng) = nat(kind);
            let mut out =
                |to: &str| nat.translate_out(at(INSIDE), at(to), Duration::ZERO, &mut rng);
            let (first, second) = (out(PEER), out("12.0.0.1:5"));
            assert_ne!(first, second);
            assert_eq!(out(PEER), first);
        }
    }

    #[test]
    fn an_early_packet_moves_a_poisoned_flow_and_no_other() {
        let (mut nat, mut rng) = nat(NatKind { poisons: true, ..NatKind::PORT_RESTRICTED });
        assert_eq!(nat.translate_in(41641, at(PEER), Duration::ZERO), None);
        let mut out = |to: &str, now| {
            let now = Duration::from_secs(now);
            nat.translate_out(at(INSIDE), at(to), now, &mut rng).expect("a free port").port()
        };
        assert_eq!(out("12.0.0.2:1", 0), 41641);
        let moved = out(PEER, 1);
        assert_ne!(moved, 41641);
        assert_eq!(out(PEER, 40), moved);
    }
}
