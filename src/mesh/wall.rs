//! The wall clock, without reading it: what it showed last, moved on by the monotonic clock.

use std::time::Instant;

use crate::membership::UnixTime;

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
}
