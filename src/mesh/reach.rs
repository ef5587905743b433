//! Where this device can be reached: its own addresses, as far as it can know them.
//!
//! # Sources
//!
//! | source | learnt from | believed when |
//! |---|---|---|
//! | interfaces | [`handle_interfaces`](Reachability::handle_interfaces), with our UDP port | always |
//! | port maps | [`handle_port_map`](Reachability::handle_port_map) | in force |
//! | STUN | a round of questions to all [servers](Reachability::set_servers) | two sources agree, or nothing better is known |
//! | peers | [`note_observed`](Reachability::note_observed): an answered path check | always: somebody got through |
//!
//! A router behind another router reports a useless external address, so a port map is told twice:
//! with the router's address (unless that is private) and with the one STUN saw.
//!
//! Where no two STUN answers agree (only one server answered, or the NAT gives each destination
//! another port) the first one is told: better than nothing, since a peer whose NAT filters by
//! address alone opens for our address whatever the port.
//!
//! # Rounds
//!
//! All servers are asked at once, from the data socket, when they are first known, when the links
//! change, when a path dies ([`suspect`](Reachability::suspect), at most every [`SUSPECT_GAP`]) and,
//! while [in demand](Reachability::set_demand), every [`REFRESH`], or every [`ENCLOSED_REFRESH`]
//! while no tunnel leads out of the local network. A round that no server answered is followed by
//! another after [`ENCLOSED_REFRESH`], and twice that, and so on: the link may have come up before the
//! way out did. A question is repeated after 0.5,
//! 1 and 2 s (RFC 8489, section 6.2.1) and given up after 7.5 s; answers of the last round count until
//! another server has answered. Only an answer in that transaction
//! and from that server counts. A server that names another address of its own (OTHER-ADDRESS,
//! RFC 5780) is asked there too, which tells how the NAT maps even with one server.
//!
//! What an old round or peer said is dropped once a newer round contradicts it, and at once when
//! the host moved, that is, no address of the family survived.
//!
//! # Telling
//!
//! [`ReachEvent::Changed`] comes when [`endpoints`](Reachability::endpoints) differ from what was
//! told last: at once if no answer is outstanding, otherwise after [`GATHER`] at the latest, so that
//! one change of network is one message, not five.

mod known;
mod rounds;
mod server;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::candidate::{Scope, Surroundings, advertise, canonical};
use super::event::{InterfaceSnapshot, PortMapInput, Transmit};
use super::path::KEEPALIVE;
use crate::api::{NatStatus, NetcheckAddress, NetcheckStun, PortMappingKind};
use crate::identity::DeviceId;
use crate::wire::stun::{StunResponse, TransactionId};
use server::Server;

/// How long a change waits for answers that are under way: three fast round trips, and below what
/// a user notices.
pub const GATHER: Duration = Duration::from_millis(300);

/// How often the servers are asked while in demand, give or take a tenth: mappings are kept by path
/// checks, so this only finds changes that no path showed.
pub const REFRESH: Duration = Duration::from_secs(600);

/// How often they are asked while no path check goes through our NAT: nothing else keeps the mapping open
/// that others were told, or shows that it is another one now. As often as a path is checked.
pub const ENCLOSED_REFRESH: Duration = KEEPALIVE;

/// The least time between two rounds because of dead paths: peers tend to die together.
pub const SUSPECT_GAP: Duration = Duration::from_secs(5);

/// The least time between two rounds because of changed links, which come in flurries.
const CHANGE_GAP: Duration = Duration::from_millis(250);

/// How many servers are asked, learnt ones included: more than two families of two names have.
const MAX_SERVERS: usize = 8;

/// How many of them may be addresses that a server named.
const MAX_LEARNT: usize = 2;

/// How many peers' observations are kept: enough to outvote any one, small enough to sort.
const MAX_OBSERVERS: usize = 64;

/// Something others should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReachEvent {
    /// [`Reachability::endpoints`] changed.
    Changed,
}

/// Gathers the addresses of this device. See the [module](self).
#[derive(Debug)]
pub struct Reachability {
    port: u16,
    rng: StdRng,
    interfaces: InterfaceSnapshot,
    surroundings: Surroundings,
    servers: Vec<Server>,
    maps: BTreeMap<PortMappingKind, SocketAddr>,
    /// What each peer sees, by family.
    observed: BTreeMap<(DeviceId, bool), (SocketAddr, Instant)>,
    in_demand: bool,
    enclosed: bool,
    /// How many rounds in a row no server answered.
    unheard: u32,
    /// When the last round began.
    round_at: Option<Instant>,
    /// When the next one is due because something happened, and because time passed.
    urgent: Option<Instant>,
    refresh: Option<Instant>,
    told: Vec<SocketAddr>,
    tell_at: Option<Instant>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<ReachEvent>,
    last_now: Instant,
}

impl Reachability {
    /// Nothing is known yet but the UDP port. `seed` must be secret and fresh, since the
    /// transactions come from it.
    pub fn new(port: u16, seed: [u8; 32], now: Instant) -> Self {
        Self {
            port,
            rng: StdRng::from_seed(seed),
            interfaces: InterfaceSnapshot::default(),
            surroundings: Surroundings::default(),
            servers: Vec::new(),
            maps: BTreeMap::new(),
            observed: BTreeMap::new(),
            in_demand: false,
            enclosed: false,
            unheard: 0,
            round_at: None,
            urgent: None,
            refresh: None,
            told: Vec::new(),
            tell_at: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            last_now: now,
        }
    }

    /// The links of this host. Returns whether anything changed.
    pub fn handle_interfaces(&mut self, interfaces: &InterfaceSnapshot, now: Instant) -> bool {
        self.last_now = now;
        if *interfaces == self.interfaces {
            return false;
        }
        for v6 in [false, true] {
            let old = addresses_of(&self.interfaces, v6);
            if old.is_disjoint(&addresses_of(interfaces, v6)) {
                self.forget_family(v6);
            }
        }
        self.interfaces = interfaces.clone();
        self.surroundings = Surroundings::new(interfaces, self.port, &[]);
        self.want_round(CHANGE_GAP, now);
        self.review(now);
        true
    }

    /// The STUN servers, at most six of them; answers of those that stay are kept.
    pub fn set_servers(&mut self, servers: Vec<SocketAddr>, now: Instant) {
        self.last_now = now;
        let mut wanted: Vec<SocketAddr> = Vec::new();
        for server in servers.into_iter().map(canonical) {
            let usable = !matches!(Scope::of(server.ip()), Scope::Never | Scope::Link);
            let new = !wanted.contains(&server) && wanted.len() < MAX_SERVERS - MAX_LEARNT;
            if usable && server.port() != 0 && new {
                wanted.push(server);
            }
        }
        let mut old = std::mem::take(&mut self.servers);
        for address in wanted {
            let known = old.iter().position(|server| server.address == address);
            let known = known.map(|at| old.swap_remove(at)).filter(|server| !server.learnt);
            let known = known.unwrap_or_else(|| Server::new(address, false));
            self.servers.push(known);
        }
        for at in 0..self.servers.len() {
            if self.servers[at].is_new() && self.ask(at, now) {
                self.round_at.get_or_insert(now);
            }
        }
        self.review(now);
    }

    /// Whether anybody needs our address kept up to date.
    pub fn set_demand(&mut self, in_demand: bool, now: Instant) {
        self.last_now = now;
        if std::mem::replace(&mut self.in_demand, in_demand) != in_demand {
            self.schedule_refresh(now);
        }
    }

    /// Whether no live tunnel leads out of the local network, so that no path check passes our NAT.
    pub fn set_enclosed(&mut self, enclosed: bool, now: Instant) {
        self.last_now = now;
        if std::mem::replace(&mut self.enclosed, enclosed) != enclosed {
            self.schedule_refresh(now);
        }
    }

    /// Whether a server was asked in that transaction and has not answered.
    pub fn awaits(&self, transaction: &TransactionId) -> bool {
        self.servers.iter().any(|server| server.awaits(transaction))
    }

    /// A response of a STUN server arrived. Counts only in the transaction in which that server was
    /// asked.
    pub fn handle_stun(&mut self, from: SocketAddr, response: &StunResponse, now: Instant) {
        self.last_now = now;
        let from = canonical(from);
        let asked =
            |server: &&mut Server| server.address == from && server.awaits(&response.transaction);
        let Some(server) = self.servers.iter_mut().find(asked) else { return };
        let v6 = from.is_ipv6();
        let same_family = response.mapped.ok().filter(|mapped| mapped.is_ipv6() == v6);
        server.answered(same_family, now);
        if let Some(other) = response.other.map(canonical)
            && !server.learnt
        {
            self.learn(from, other, now);
        }
        if same_family.is_some() && std::mem::take(&mut self.unheard) > 0 {
            self.schedule_refresh(now);
        }
        self.drop_contradicted(v6);
        self.review(now);
    }

    /// A port map began or ended.
    pub fn handle_port_map(&mut self, input: PortMapInput, now: Instant) {
        self.last_now = now;
        match input {
            PortMapInput::Mapped { kind, external } => {
                self.maps.insert(kind, canonical(external));
            }
            PortMapInput::Lost(kind) => {
                self.maps.remove(&kind);
            }
        }
        self.review(now);
    }

    /// A path check was answered: that peer sees us at this address.
    pub fn note_observed(&mut self, by: DeviceId, address: SocketAddr, now: Instant) {
        self.last_now = now;
        let address = canonical(address);
        if Scope::of(address.ip()) != Scope::Global || address.port() == 0 {
            return;
        }
        self.observed.insert((by, address.is_ipv6()), (address, now));
        if self.observed.len() > MAX_OBSERVERS {
            let oldest = self.observed.iter().min_by_key(|(_, (_, at))| *at).map(|(by, _)| *by);
            oldest.and_then(|oldest| self.observed.remove(&oldest));
        }
        self.review(now);
    }

    /// What that device saw counts no longer, as it was removed.
    pub fn forget_observer(&mut self, by: &DeviceId, now: Instant) {
        self.last_now = now;
        self.observed.retain(|(observer, _), _| observer != by);
        self.review(now);
    }

    /// A path died, or the host slept: our public address may have changed.
    pub fn suspect(&mut self, now: Instant) {
        self.last_now = now;
        self.want_round(SUSPECT_GAP, now);
    }

    /// The addresses to tell others, at most [`MAX_ADVERTISED`](super::candidate::MAX_ADVERTISED),
    /// best first.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        let believed = self.known().into_iter().filter(|known| known.believed);
        advertise(believed.map(|known| known.candidate))
    }

    /// Those of them that reach everywhere.
    pub fn public_endpoints(&self) -> Vec<SocketAddr> {
        let mut endpoints = self.endpoints();
        endpoints.retain(|address| Scope::of(address.ip()) == Scope::Global);
        endpoints
    }

    /// How the NAT behaves (IPv4), and which port map is in force.
    pub fn nat(&self) -> NatStatus {
        let port_mapping = self.maps.keys().min().copied().unwrap_or(PortMappingKind::None);
        NatStatus { mapping: self.mapping(), port_mapping }
    }

    /// Every address known and where from, for `netcheck`.
    pub fn netcheck_addresses(&self) -> Vec<NetcheckAddress> {
        let told = self.endpoints();
        let mut seen = BTreeSet::new();
        let known = self
            .known()
            .into_iter()
            .filter(|known| seen.insert((known.candidate.address, known.source)));
        known
            .map(|known| NetcheckAddress {
                address: known.candidate.address,
                source: known.source.to_owned(),
                advertised: known.believed && told.contains(&known.candidate.address),
            })
            .collect()
    }

    /// The servers and what they said, for `netcheck`.
    pub fn netcheck_stun(&self) -> Vec<NetcheckStun> {
        let entry = |server: &Server| NetcheckStun {
            server: server.address,
            mapped: server.current(),
            rtt_ms: server.rtt().map(|rtt| rtt.as_secs_f64() * 1000.0),
        };
        self.servers.iter().map(entry).collect()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<ReachEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if !self.transmits.is_empty() || !self.events.is_empty() {
            return Some((self.last_now, "reachability output is queued"));
        }
        let repeat = self.servers.iter().filter_map(Server::due).min();
        let repeat = repeat.map(|at| (at, "STUN retransmission"));
        let round = self.urgent.map(|at| (at, "STUN round"));
        let refresh = self.refresh.map(|at| (at, "STUN refresh"));
        let tell = self.tell_at.map(|at| (at, "addresses changed"));
        [repeat, round, refresh, tell].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.last_now = now;
        if [self.urgent, self.refresh].into_iter().flatten().any(|at| at <= now) {
            self.start_round(now);
        }
        let mut gave_up = false;
        for server in &mut self.servers {
            if server.due().is_some_and(|at| at <= now) {
                self.transmits.extend(server.repeat(now));
                gave_up |= server.due().is_none();
            }
        }
        if gave_up {
            self.end_round(now);
        }
        self.review(now);
    }
}

/// The addresses of one family on links, without link-local ones, which survive every move.
fn addresses_of(interfaces: &InterfaceSnapshot, v6: bool) -> BTreeSet<IpAddr> {
    let all = interfaces.addresses.iter().map(|entry| entry.address.to_canonical());
    all.filter(|ip| ip.is_ipv6() == v6 && Scope::of(*ip) != Scope::Link).collect()
}

#[cfg(test)]
mod tests;
