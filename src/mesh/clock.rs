//! Wall-clock time inside `mesh`, which has no clock: an anchor that [`Input::WallClock`] moves.
//!
//! [`Input::WallClock`]: super::event::Input::WallClock

use std::time::{Duration, Instant};

use crate::membership::UnixTime;

/// Relates instants to wall-clock time.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    anchor: (Instant, UnixTime),
}

impl WallClock {
    /// It was `unix` at `now`.
    pub fn new(unix: UnixTime, now: Instant) -> Self {
        Self { anchor: (now, unix) }
    }

    /// The wall-clock time at `now`.
    pub fn unix(&self, now: Instant) -> UnixTime {
        let (instant, unix) = self.anchor;
        UnixTime(unix.0 + now.saturating_duration_since(instant).as_secs())
    }

    /// The instant at which the wall clock will show `unix`, at the earliest `now`.
    pub fn instant(&self, unix: UnixTime, now: Instant) -> Instant {
        let ahead = unix.0.saturating_sub(self.unix(now).0);
        // A certificate of the year 9999 must not overflow the instant.
        now + Duration::from_secs(ahead.min(10 * 365 * 86_400))
    }
}
