//! Keeping the primary open, and noticing its death.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::route::Route;
use super::{Demand, PathAgent, PathEvent};

/// How often the device with the lower key checks a primary: NATs drop an unanswered mapping after
/// 30 s (Linux), so 25 s keeps every mapping with one loss of margin on those that wait longer.
pub const KEEPALIVE: Duration = Duration::from_secs(25);

/// After how long without being asked the other device asks: the other's check came late enough
/// by then (10 s) to believe that it does not come.
pub const KEEPALIVE_OTHER: Duration = Duration::from_secs(35);

/// A primary that answered nothing for so long is dead. Shorter stalls are common (a roaming Wi-Fi
/// client pauses for 1 to 2 s), and traffic must be on another path within 5 s of the death.
pub const DEAD_AFTER: Duration = Duration::from_secs(3);

/// How often an unanswered or starved primary is asked.
pub const RETRY: Duration = Duration::from_secs(1);

/// Upkeep of the primary.
impl PathAgent {
    /// When either side last checked any path, and was heard.
    pub fn last_checked(&self) -> Option<Instant> {
        self.routes.values().filter_map(|route| route.heard_at.max(route.answered_at())).max()
    }

    /// When the primary must be asked, given up, or replaced.
    pub(super) fn upkeep_due(&self) -> Option<(Instant, &'static str)> {
        if self.demand == Demand::Idle {
            return None;
        }
        let route = self.routes.get(&self.primary?)?;
        if let Some(unanswered) = &route.unanswered {
            return Some((route.retry_at(unanswered), "primary unanswered"));
        }
        let answered = route.answered_at()?;
        let keepalive = match self.key.is_lower() {
            true => answered + KEEPALIVE,
            false => route
                .heard_at
                .map_or(answered, |heard| heard + KEEPALIVE_OTHER)
                .max(answered + KEEPALIVE),
        };
        let starved = self.starved_since(answered);
        let starved = starved.map(|since| (since + RETRY, "sending without receiving"));
        starved.into_iter().chain([(keepalive, "keepalive")]).min()
    }

    /// Since when user data leaves and nothing comes, where the path last answered then.
    fn starved_since(&self, answered: Instant) -> Option<Instant> {
        let (sent, received) = self.traffic;
        let heard = received.unwrap_or(answered).max(answered);
        let starved = self.demand == Demand::Active && sent.is_some_and(|sent| sent > heard);
        starved.then_some(heard)
    }

    /// Asks the primary again, calls for alternatives, or gives it up.
    pub(super) fn keep_up(&mut self, now: Instant) {
        let Some(primary) = self.primary else { return };
        let Some(route) = self.routes.get_mut(&primary) else { return };
        if route.is_dead(now) {
            return self.lose(primary, now);
        }
        let alarm = route.raises_alarm(now);
        let answered = route.answered_at();
        self.ask(primary, now);
        let starved = answered.and_then(|answered| self.starved_since(answered));
        if let (Some(_), Some(size)) = (starved.filter(|at| *at + RETRY <= now), &mut self.size) {
            // Perhaps only what is large gets lost.
            size.doubt(now);
        }
        if alarm {
            tracing::debug!(endpoint = %primary, "a path stopped answering");
            self.search(now);
            self.choose(now);
        }
    }

    /// Checks the primary now, unless it is being checked already.
    pub(super) fn suspect(&mut self, now: Instant) {
        let Some(primary) = self.primary else { return };
        if self.routes.get(&primary).is_some_and(|route| route.unanswered.is_none()) {
            self.ask(primary, now);
        }
    }

    fn lose(&mut self, primary: SocketAddr, now: Instant) {
        if let Some(route) = self.routes.get_mut(&primary) {
            route.invalidate();
        }
        tracing::debug!(endpoint = %primary, "a path died");
        (self.primary, self.size) = (None, None);
        self.events.push_back(PathEvent::Lost);
        self.bound_learnt();
        self.search(now);
    }

    pub(super) fn primary_is_old(&self, now: Instant) -> bool {
        let route = self.primary.and_then(|primary| self.routes.get(&primary));
        let answered = route.and_then(Route::answered_at);
        answered.is_none_or(|at| now.saturating_duration_since(at) > KEEPALIVE)
    }
}
