//! When the servers are asked, and when others are told.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::super::candidate::Scope;
use super::server::Server;
use super::{ENCLOSED_REFRESH, GATHER, MAX_LEARNT, REFRESH, ReachEvent, Reachability};
use crate::wire::stun::TransactionId;

/// Rounds.
impl Reachability {
    /// Wants a round now, but not sooner than `gap` after the last one.
    pub(super) fn want_round(&mut self, gap: Duration, now: Instant) {
        let at = self.round_at.map_or(now, |last| now.max(last + gap));
        self.urgent = Some(self.urgent.map_or(at, |urgent| urgent.min(at)));
    }

    pub(super) fn start_round(&mut self, now: Instant) {
        self.round_at = Some(now);
        self.urgent = None;
        for at in 0..self.servers.len() {
            self.ask(at, now);
        }
        self.schedule_refresh(now);
    }

    /// Asks one server, if there is a route to it; if not, it has nothing to say.
    pub(super) fn ask(&mut self, at: usize, now: Instant) -> bool {
        let server = &mut self.servers[at];
        let (v4, v6) = self.interfaces.default_route;
        let routed = if server.address.is_ipv4() { v4 } else { v6 };
        let reachable = routed || self.surroundings.is_on_link(server.address.ip());
        if reachable {
            let transaction = TransactionId::new(self.rng.random());
            self.transmits.push_back(server.ask(transaction, now));
        } else {
            server.forget();
        }
        reachable
    }

    /// A question was given up; where it was the last one, another round follows an unanswered one.
    pub(super) fn end_round(&mut self, now: Instant) {
        let waits = self.servers.iter().any(|server| server.due().is_some());
        let heard = self.servers.iter().filter_map(Server::answered_at).max() >= self.round_at;
        if !waits && !heard {
            self.unheard = self.unheard.saturating_add(1);
            self.schedule_refresh(now);
        }
    }

    pub(super) fn schedule_refresh(&mut self, now: Instant) {
        let patience = 2_u32.saturating_pow(self.unheard.saturating_sub(1));
        let period = match (self.enclosed, self.unheard) {
            (true, _) => ENCLOSED_REFRESH,
            (false, 0) => REFRESH,
            (false, _) => REFRESH.min(ENCLOSED_REFRESH.saturating_mul(patience)),
        };
        let period = period.mul_f64(self.rng.random_range(0.9..1.1));
        let at = self.round_at.map_or(now, |last| now.max(last + period));
        self.refresh = self.in_demand.then_some(at);
    }

    /// A server has another address: it is asked there too, and at its other port.
    pub(super) fn learn(&mut self, server: SocketAddr, other: SocketAddr, now: Instant) {
        let usable = !matches!(Scope::of(other.ip()), Scope::Never | Scope::Link);
        if !usable || other.port() == 0 || other.is_ipv4() != server.is_ipv4() {
            return;
        }
        for alternative in
            [SocketAddr::new(server.ip(), other.port()), SocketAddr::new(other.ip(), server.port())]
        {
            let known = self.servers.iter().any(|server| server.address == alternative);
            let learnt = self.servers.iter().filter(|server| server.learnt).count();
            if !known && learnt < MAX_LEARNT {
                self.servers.push(Server::new(alternative, true));
                self.ask(self.servers.len() - 1, now);
            }
        }
    }

    pub(super) fn forget_family(&mut self, v6: bool) {
        self.observed.retain(|(_, of_v6), _| *of_v6 != v6);
        for server in self.servers.iter_mut().filter(|server| server.address.is_ipv6() == v6) {
            server.forget();
        }
    }

    /// Drops what peers saw before this round, if the round's answers say otherwise.
    pub(super) fn drop_contradicted(&mut self, v6: bool) {
        let Some(round_at) = self.round_at else { return };
        let fresh = |server: &&Server| {
            server.address.is_ipv6() == v6 && server.answered_at().is_some_and(|at| at >= round_at)
        };
        let seen: BTreeSet<_> =
            self.servers.iter().filter(fresh).filter_map(Server::current).collect();
        if !seen.is_empty() {
            self.observed.retain(|(_, of_v6), (address, at)| {
                *of_v6 != v6 || *at >= round_at || seen.contains(address)
            });
        }
    }

    /// Tells of a change, now or when the answers under way have come.
    pub(super) fn review(&mut self, now: Instant) {
        let endpoints = self.endpoints();
        if endpoints == self.told {
            self.tell_at = None;
            return;
        }
        let waiting = self.servers.iter().any(|server| server.due().is_some());
        let waiting = waiting || self.urgent.is_some();
        let tell_at = *self.tell_at.get_or_insert(now + GATHER);
        if !waiting || tell_at <= now {
            tracing::debug!(count = endpoints.len(), "own addresses changed");
            self.told = endpoints;
            self.tell_at = None;
            self.events.push_back(ReachEvent::Changed);
        }
    }
}
