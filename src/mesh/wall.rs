//! The wall clock, without reading it: what it showed last, moved on by the monotonic clock.

use std::time::{Duration, Instant};

use crate::membership::UnixTime;

/// The furthest deadline, ten years on: a certificate of the year 9999 must not overflow an instant.
const FURTHEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The wall clock as it was last handed in.
#[derive(Debug, Clone, Copy)]
pub struct Wall {
    unix: UnixTime,
    at: Instant,
}

impl Wall {
    /// The wall clock showed `unix` at `at`.
    pub fn new(unix: UnixTime, at: Instant) -> Self {
        Self { unix, at }
    }

    /// What it shows at `now`.
    pub fn at(&self, now: Instant) -> UnixTime {
        UnixTime(self.unix.0.saturating_add(now.saturating_duration_since(self.at).as_secs()))
    }

    /// The instant at which it will show `unix`; `now` where it has.
    pub fn instant(&self, unix: UnixTime, now: Instant) -> Instant {
        now + Duration::from_secs(unix.0.saturating_sub(self.at(now).0)).min(FURTHEST)
    }
}
