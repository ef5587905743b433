//! Which of the paths that answered is used.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::route::Route;
use super::{BETTER, Demand, Path, PathAgent, PathEvent};
use crate::api::PathKind;

/// What is preferred at equal speed, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// On a link of ours: needs no router, no NAT and no Internet.
    Lan,
    /// Through IPv6: no NAT that forgets.
    Ipv6,
    /// Through IPv4.
    Ipv4,
}

/// A rank: the tier first, the round trip among equals, the address so that no two are equal.
type Rank = (Tier, Duration, SocketAddr);

/// How much slower than the fastest path the primary may be before it is replaced.
fn tolerance(fastest: Duration) -> Duration {
    // Less is noise: on short paths 10 ms is below what anybody notices, on long ones jitter grows
    // with the round trip.
    (fastest / 5).max(Duration::from_millis(10))
}

/// Choosing.
impl PathAgent {
    /// Makes the best path the primary, after an answer.
    pub(super) fn choose(&mut self, now: Instant) {
        let Some(best) = self.best(now) else { return };
        let before = self.primary.replace(best);
        let left = before.filter(|before| *before != best);
        // One that fell silent is no path any more, but is asked in case it comes back.
        if let Some(route) = left.and_then(|left| self.routes.get_mut(&left))
            && route.unanswered.is_some()
        {
            route.invalidate();
            route.start_burst(now);
        }
        let Some(path) = self.path(best).filter(|_| before != Some(best)) else { return };
        self.measure(now);
        tracing::debug!(endpoint = %best, kind = ?path.kind, rtt = ?path.rtt, "path chosen");
        self.bettered_at = now;
        self.events.push_back(match before {
            None => PathEvent::Validated(path),
            Some(_) => PathEvent::PrimaryChanged(path),
        });
    }

    /// The path that the answers so far speak for.
    fn best(&self, now: Instant) -> Option<SocketAddr> {
        let incumbent = self.primary.and_then(|at| Some((at, self.routes.get(&at)?)));
        let silent_since = incumbent
            .and_then(|(_, route)| route.unanswered)
            .filter(|unanswered| unanswered.alarm)
            .map(|unanswered| unanswered.since);
        // A silent incumbent is out of the race as soon as somebody answered after it fell silent.
        let answered = |route: &Route| match silent_since {
            Some(since) => route.answered_at().is_some_and(|at| at > since),
            None => route.is_fresh(now),
        };
        let ranks: Vec<Rank> = self
            .routes
            .iter()
            .filter(|(_, route)| answered(route))
            .filter_map(|(address, route)| Some((self.tier(*address), route.rtt()?, *address)))
            .collect();
        let fastest = ranks.iter().map(|(_, rtt, _)| *rtt).min();
        let incumbent = incumbent.filter(|_| silent_since.is_none());
        let Some(fastest) = fastest else { return self.primary };
        let limit = fastest + tolerance(fastest) / 2;
        let best = ranks.into_iter().filter(|(_, rtt, _)| *rtt <= limit).min()?;
        let stays = incumbent.and_then(|(address, route)| {
            let fast = route.rtt()? <= fastest + tolerance(fastest);
            (fast && self.tier(address) <= best.0).then_some(address)
        });
        Some(stays.unwrap_or(best.2))
    }

    /// The path to an address that answered.
    pub(super) fn path(&self, endpoint: SocketAddr) -> Option<Path> {
        let rtt = self.routes.get(&endpoint)?.rtt()?;
        Some(Path { endpoint, kind: self.surroundings.path_kind(endpoint), rtt })
    }

    fn tier(&self, address: SocketAddr) -> Tier {
        match (self.surroundings.path_kind(address), address) {
            (PathKind::Lan, _) => Tier::Lan,
            (_, SocketAddr::V6(_)) => Tier::Ipv6,
            (_, SocketAddr::V4(_)) => Tier::Ipv4,
        }
    }

    /// When addresses of a better tier than the primary's are asked.
    pub(super) fn better_due(&self) -> Option<Instant> {
        let wanted = self.demand == Demand::Active && !self.better().is_empty();
        wanted.then(|| self.bettered_at + BETTER)
    }

    pub(super) fn ask_better(&mut self, now: Instant) {
        self.bettered_at = now;
        for address in self.better() {
            if let Some(route) = self.routes.get_mut(&address)
                && route.due.is_none()
            {
                route.start_short_burst(now);
            }
        }
    }

    /// The addresses of a better tier than the primary's.
    fn better(&self) -> Vec<SocketAddr> {
        let Some(primary) = self.primary else { return Vec::new() };
        let tier = self.tier(primary);
        self.routes.keys().copied().filter(|address| self.tier(*address) < tier).collect()
    }
}
