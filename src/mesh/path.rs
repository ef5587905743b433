//! Which way to a peer: one [`PathAgent`] for each peer in use.
//!
//! An agent knows a bounded set of the peer's addresses, asks some of them "do you hear me?" with
//! authenticated STUN checks ([`wire::stun`](crate::wire::stun)), and keeps the best one that
//! answered as the *primary*: the address to which the packet path sends. The host has one socket
//! a family and the kernel picks the source, so a path is a remote address. Asking is what punches
//! holes into NATs, measures round trips, keeps mappings open and notices death; nothing else does.
//!
//! # Trust
//!
//! Only an answered check moves the primary: an authentic response, in a transaction of ours, from
//! the address that was asked. Requests and received data make an agent *ask*, never move. An
//! agent answers at most [`ANSWERS_PER_SECOND`], and the last few of them only to the primary, so
//! that replayed requests cannot starve a live path. What a peer claims is sanitised and bounded
//! ([`Surroundings`]); addresses learnt from requests are bounded by [`MAX_LEARNT`].
//!
//! # Finding
//!
//! While the peer is wanted ([`Demand`]) and there is no primary, every address is asked at 0, 50,
//! 100, 200, 400 ms and 1 s ([`BURST`]): two port-restricted NATs open towards each other as soon
//! as both sides have sent once, whoever was first. After that the gaps double from some 2 s on. A new
//! address starts over. A request from an address that never answered is itself proof that the
//! peer's side is open: it is asked back at once (RFC 8445, section 7.3.1.4, "triggered check").
//!
//! # Choosing
//!
//! The first answer wins at once. Later answers are ranked against the *fastest* path that
//! answered lately. The primary stays while it is at most 20 % or 10 ms slower than that; a path
//! of a better [`Tier`] (LAN, then IPv6, then IPv4) replaces it if it is at most half of that
//! slower. Comparing with the fastest, instead of challenger with incumbent, makes the choice a
//! function of the set, so equal paths cannot chase one another.
//!
//! # Keeping
//!
//! * [`Demand::Idle`]: nothing is sent. Requests are answered.
//! * [`Demand::Warm`], [`Demand::Active`]: a check on the primary each [`KEEPALIVE`] holds the
//!   mappings on both sides. Only the device with the lower WireGuard key asks; the other waits
//!   until it has not been asked for [`KEEPALIVE_OTHER`]. One exchange a period, not two: 14 kB an
//!   hour and side.
//! * Active and sending without receiving: a check each second.
//! * Active, and the peer has addresses of a better tier: they are asked each minute.
//!
//! # Losing
//!
//! The patience with a path is three of its round trips, at least 300 ms. An unanswered check of the
//! primary is repeated after half a patience, a whole one, then each second. When one patience is
//! over, all other addresses are asked too, and one that answers takes over: a single lost packet
//! does nothing, a dead path costs well under a second if there is another. After [`DEAD_AFTER`]
//! without any answer the path is [`PathEvent::Lost`] and finding starts again. A peer that
//! reappears from a new address (its NAT forgot it, or its router's address changed) makes us check
//! both the new path and the primary, which decides the same way.
//!
//! # Sizing
//!
//! How large datagrams the primary carries is found with checks of that size: see [`size`].
//!
//! # Time
//!
//! `now` comes in with every call, [`PathAgent::poll_timeout`] names the next deadline with its
//! reason, and names the last `now` while something is queued. Everything queued must be drained
//! after each call.

mod answered;
mod choice;
mod event;
mod route;
mod search;
pub mod size;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::candidate::{Surroundings, canonical};
use super::event::Transmit;
use crate::wire::stun::{CheckKey, CheckRequest, CheckResponse, CheckTag, TransactionId};
use answered::Answered;
use route::Route;
use search::HUNT_SPREAD;
use size::SizeSearch;

pub use choice::Tier;
pub use event::{Path, PathEvent};
pub use upkeep::{DEAD_AFTER, KEEPALIVE, KEEPALIVE_OTHER, RETRY};

/// When the checks of a burst leave, counted from its start. Dense at first, because the side that
/// starts later finds the other's hole only with the first check sent after it; 1 s still reaches
/// a peer that heard of us through a relayed or stored message.
pub const BURST: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_secs(1),
];

/// How often addresses of a better tier are asked for an active peer: a laptop that comes home
/// should be on its LAN within a minute or two, at two checks an address.
pub const BETTER: Duration = Duration::from_secs(60);

/// A check that is older does not count when it is answered: longer than any round trip that a
/// tunnel could live with.
const EXPIRE: Duration = Duration::from_secs(5);

/// How many addresses are kept that the peer did not tell but that it sent from. Behind a NAT with
/// a mapping for each destination a peer shows one a device; 8 leave room for some roaming.
pub const MAX_LEARNT: usize = 8;

/// Answers to one peer: a burst over all of a peer's addresses stays mostly answered, and a flood
/// of replayed requests costs 10 hashes a second.
pub const ANSWERS_PER_SECOND: u32 = 10;

/// How much a path to the peer is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Demand {
    /// Not at all: be silent, answer only.
    Idle,
    /// Keep one open.
    Warm,
    /// User data flows or waits: keep the best one, notice its death fast.
    Active,
}

/// A check that waits for an answer.
#[derive(Debug, Clone, Copy)]
struct Asked {
    to: SocketAddr,
    at: Instant,
    /// Of a probe, its length.
    size: Option<u16>,
}

/// Finds and keeps the path to one peer. See the [module](self).
#[derive(Debug)]
pub struct PathAgent {
    key: CheckKey,
    tag: CheckTag,
    rng: StdRng,
    surroundings: Arc<Surroundings>,
    demand: Demand,
    routes: BTreeMap<SocketAddr, Route>,
    /// The checks that wait for an answer.
    asked: BTreeMap<TransactionId, Asked>,
    primary: Option<SocketAddr>,
    /// How large datagrams the primary carries.
    size: Option<SizeSearch>,
    /// The last user data sent and received.
    traffic: (Option<Instant>, Option<Instant>),
    /// A restart came while idle: recheck when wanted again.
    stale: bool,
    /// When addresses of a better tier were last asked.
    bettered_at: Instant,
    /// The time up to which the answers given so far use up the rate (GCRA).
    answers_until: Instant,
    answered: Answered,
    transmits: VecDeque<Transmit>,
    events: VecDeque<PathEvent>,
    last_now: Instant,
}

impl PathAgent {
    /// An idle agent that knows no address. `unix_seconds` is the wall clock (see
    /// [`set_wall_clock`](Self::set_wall_clock)); `seed` must be secret and fresh, since the
    /// transactions come from it.
    pub fn new(
        key: CheckKey,
        seed: [u8; 32],
        surroundings: Arc<Surroundings>,
        unix_seconds: u64,
        now: Instant,
    ) -> Self {
        Self {
            tag: key.tag(unix_seconds),
            key,
            rng: StdRng::from_seed(seed),
            surroundings,
            demand: Demand::Idle,
            routes: BTreeMap::new(),
            asked: BTreeMap::new(),
            primary: None,
            size: None,
            traffic: (None, None),
            stale: false,
            bettered_at: now,
            answers_until: now,
            answered: Answered::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            last_now: now,
        }
    }

    /// The key under which requests and responses of this peer verify.
    pub fn key(&self) -> &CheckKey {
        &self.key
    }

    /// The wall clock shows this; call it each minute, since the tag changes with the hour.
    pub fn set_wall_clock(&mut self, unix_seconds: u64) {
        self.tag = self.key.tag(unix_seconds);
    }

    /// The links of this host changed. Asks nothing; see [`restart`](Self::restart).
    pub fn set_surroundings(&mut self, surroundings: Arc<Surroundings>, now: Instant) {
        self.last_now = now;
        let before = self.primary();
        self.surroundings = surroundings;
        if let (Some(before), Some(path)) = (before, self.primary())
            && before.kind != path.kind
        {
            self.events.push_back(PathEvent::PrimaryChanged(path));
        }
    }

    /// How much a path is needed from now on.
    pub fn set_demand(&mut self, demand: Demand, now: Instant) {
        self.last_now = now;
        let before = std::mem::replace(&mut self.demand, demand);
        if demand == Demand::Idle {
            self.rest();
        } else if self.primary.is_none() {
            if demand > before {
                self.search(now);
            }
        } else if before == Demand::Idle && (self.stale || self.primary_is_old(now)) {
            self.restart(now);
        }
    }

    /// How much a path is needed.
    pub fn demand(&self) -> Demand {
        self.demand
    }

    /// The peer's addresses, as its newest record or message tells them. Addresses that answered
    /// stay whether it names them or not; those that never did and are not named are forgotten.
    pub fn set_remotes(&mut self, remotes: &[SocketAddr], now: Instant) {
        self.last_now = now;
        let listed = self.surroundings.sanitise(remotes);
        self.routes.retain(|address, route| {
            let was_listed = std::mem::replace(&mut route.listed, listed.contains(address));
            route.listed || route.is_validated() || !was_listed || self.primary == Some(*address)
        });
        let mut new = Vec::new();
        for address in listed {
            self.routes.entry(address).or_insert_with(|| {
                new.push(address);
                Route::new(true, now)
            });
        }
        self.bound_learnt();
        self.begin(&new, now);
    }

    /// One more address where the peer may be: from an invite, a beacon, or another peer. It counts
    /// among the [`MAX_LEARNT`].
    pub fn add_remote(&mut self, remote: SocketAddr, now: Instant) {
        self.last_now = now;
        let Some(remote) = self.surroundings.accept(remote) else { return };
        if self.learn(remote, now) {
            self.begin(&[remote], now);
        }
    }

    /// A verified request of the peer arrived: answers it, once, and asks back where that can show a
    /// new path. Never moves the primary.
    pub fn handle_request(&mut self, from: SocketAddr, request: &CheckRequest, now: Instant) {
        self.last_now = now;
        let address = canonical(from);
        if !self.may_answer(address, request, now) {
            return;
        }
        self.answered.insert(&request.transaction);
        let response = CheckResponse { transaction: request.transaction, mapped: address };
        let payload = response.encode(&self.key);
        self.transmits.push_back(Transmit::new(from, payload));
        self.notice(from, now);
        if let Some(route) = self.routes.get_mut(&address) {
            route.heard_at = Some(now);
        }
    }

    /// Authentic data of the peer came from an address that is not the primary: asks that address
    /// and the primary, whose answers decide. Never moves the primary by itself.
    pub fn handle_roamed(&mut self, from: SocketAddr, now: Instant) {
        self.last_now = now;
        self.notice(from, now);
    }

    /// A verified response of the peer arrived. Counts only in a transaction of ours and from the
    /// address that was asked.
    pub fn handle_response(&mut self, from: SocketAddr, response: &CheckResponse, now: Instant) {
        self.last_now = now;
        let from = canonical(from);
        let Some(asked) = self.asked.get(&response.transaction).copied() else { return };
        let rtt = now.saturating_duration_since(asked.at);
        if asked.to != from || rtt > EXPIRE {
            return;
        }
        self.asked.remove(&response.transaction);
        let Some(route) = self.routes.get_mut(&from) else { return };
        route.answered(rtt, now);
        if route.observed.replace(response.mapped) != Some(response.mapped) {
            self.events.push_back(PathEvent::Observed(response.mapped));
        }
        self.size_answered(&asked, now);
        self.choose(now);
    }

    /// When user data was last sent to and received from the peer. Call it about each second for an
    /// active peer; sending without receiving makes the agent check the path.
    pub fn note_traffic(
        &mut self,
        sent_at: Option<Instant>,
        received_at: Option<Instant>,
        now: Instant,
    ) {
        self.last_now = now;
        self.traffic = (sent_at, received_at);
    }

    /// The host's own addresses changed or it slept: checks every path at once and keeps the
    /// primary until it proves dead or another is better.
    pub fn restart(&mut self, now: Instant) {
        self.last_now = now;
        self.stale = self.demand == Demand::Idle;
        if self.stale {
            return;
        }
        self.search(now);
        self.suspect(now);
        self.measure_again(now);
    }

    /// The path in use.
    pub fn primary(&self) -> Option<Path> {
        self.primary.and_then(|endpoint| self.path(endpoint))
    }

    /// Every address known, with its round trip where it answered; for explanations.
    pub fn addresses(&self) -> impl Iterator<Item = (SocketAddr, Option<Duration>)> + '_ {
        self.routes.iter().map(|(address, route)| (*address, route.rtt()))
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if !self.transmits.is_empty() || !self.events.is_empty() {
            return Some((self.last_now, "path output is queued"));
        }
        let searching = self.routes.values().filter_map(|route| route.due);
        let searching = searching.min().map(|at| (at, "path search"));
        let better = self.better_due().map(|at| (at, "better path"));
        [self.upkeep_due(), searching, better, self.size_due()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.last_now = now;
        if self.upkeep_due().is_some_and(|(at, _)| at <= now) {
            self.keep_up(now);
        }
        if self.better_due().is_some_and(|at| at <= now) {
            self.ask_better(now);
        }
        if self.size_due().is_some_and(|(at, _)| at <= now) {
            self.handle_size_due(now);
        }
        let due = |route: &Route| route.due.is_some_and(|at| at <= now);
        let due: Vec<_> =
            self.routes.iter().filter(|(_, route)| due(route)).map(|(to, _)| *to).collect();
        let hunt = self.hunt_gap();
        for address in due {
            self.ask(address, now);
            let spread = self.rng.random_range(HUNT_SPREAD);
            if let Some(route) = self.routes.get_mut(&address) {
                route.advance_burst(hunt, spread, now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
