//! How often something is tried: eagerly at first, then ever more seldom.
//!
//! A [`Plan`] is a list of phases, each a time since the start and the gap between tries until
//! then; after the last phase the gap doubles up to a cap. Every gap is moved by up to a fifth
//! either way, so that devices that started together do not stay together.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

/// The shortest time between two beginnings of a plan that others bring about.
const SELDOM: Duration = Duration::from_secs(60);

/// How often, and for how long.
#[derive(Debug)]
pub struct Plan {
    /// `(until this long after the start, gap)`, in order.
    pub phases: &'static [(Duration, Duration)],
    /// The gap that is doubled for the first try after the last phase.
    pub first: Duration,
    /// The longest gap.
    pub cap: Duration,
}

/// One thing that is tried again and again.
#[derive(Debug, Clone)]
pub struct Cadence {
    plan: &'static Plan,
    since: Instant,
    /// Whether the phases apply.
    eager: bool,
    gap: Duration,
    due: Instant,
}

impl Cadence {
    /// Starts now; the first try is due at once.
    pub fn new(plan: &'static Plan, now: Instant) -> Self {
        Self { plan, since: now, eager: true, gap: plan.first, due: now }
    }

    /// Begins the plan anew; a try is due at once.
    pub fn restart(&mut self, now: Instant) {
        *self = Self::new(self.plan, now);
    }

    /// Begins the plan anew, unless it began less than a minute ago: what others can bring about again
    /// and again must not keep it eager for ever.
    pub fn restart_seldom(&mut self, now: Instant) {
        match now.saturating_duration_since(self.since) < SELDOM {
            true => self.hasten(now),
            false => self.restart(now),
        }
    }

    /// Starts now, past the plan's phases: one try at once, then as seldom as the cap says.
    pub fn patient(plan: &'static Plan, now: Instant) -> Self {
        Self { eager: false, gap: plan.cap, ..Self::new(plan, now) }
    }

    /// When the next try is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Moves the next try to `at` where it would come later.
    pub fn hasten(&mut self, at: Instant) {
        self.due = self.due.min(at);
    }

    /// Whether the eager phases are over.
    pub fn is_patient(&self, now: Instant) -> bool {
        self.phase_gap(now).is_none()
    }

    /// A try began: plans the next.
    pub fn advance(&mut self, rng: &mut StdRng, now: Instant) {
        self.gap = match self.phase_gap(now) {
            Some(gap) => gap,
            None => (self.gap * 2).min(self.plan.cap),
        };
        self.due = now + jittered(self.gap, rng);
    }

    fn phase_gap(&self, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(self.since);
        let phases = if self.eager { self.plan.phases } else { &[] };
        phases.iter().find(|(until, _)| age < *until).map(|(_, gap)| *gap)
    }
}

/// `gap` moved by up to a fifth either way.
pub fn jittered(gap: Duration, rng: &mut StdRng) -> Duration {
    gap.mul_f64(rng.random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const PLAN: Plan = Plan {
        phases: &[
            (Duration::from_secs(60), Duration::from_secs(5)),
            (Duration::from_secs(360), Duration::from_secs(15)),
        ],
        first: Duration::from_secs(15),
        cap: Duration::from_secs(300),
    };

    /// How many tries fall into each of the given spans, one after the other.
    fn tries(mut cadence: Cadence, start: Instant, spans: &[u64]) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(1);
        let mut end = start;
        let mut counts = Vec::new();
        for span in spans {
            end += Duration::from_secs(*span);
            let mut count = 0;
            while cadence.due() < end {
                let due = cadence.due();
                cadence.advance(&mut rng, due);
                count += 1;
            }
            counts.push(count);
        }
        counts
    }

    #[test]
    fn tries_are_eager_then_seldom() {
        static PLAN_REF: Plan = PLAN;
        let now = Instant::now();
        let counts = tries(Cadence::new(&PLAN_REF, now), now, &[60, 300, 600, 3600]);
        assert!((10..=15).contains(&counts[0]), "{counts:?}");
        assert!((16..=26).contains(&counts[1]), "{counts:?}");
        assert!((3..=6).contains(&counts[2]), "{counts:?}");
        assert!((10..=15).contains(&counts[3]), "{counts:?}");
        let counts = tries(Cadence::patient(&PLAN_REF, now), now, &[60, 3600]);
        assert_eq!(counts[0], 1);
        assert!((10..=15).contains(&counts[1]), "{counts:?}");
    }
}
