//! The one place that reads clocks and asks the kernel for randomness.
//!
//! [`now`] is `CLOCK_MONOTONIC`: it never jumps, and it stands still while the host sleeps.
//! [`unix_now`] is the wall clock: it may jump by years, in either direction, at any time.
//! [`ClockWatch`] finds both kinds of discontinuity by comparing clocks that should advance
//! together. The agent looks at it at each wake-up; a look costs two system calls.

use std::time::{Instant, SystemTime};

use rand::TryRng;
use rand::rngs::SysRng;

/// How far boot time may run ahead of monotonic time before it counts as sleep, in seconds. Boot
/// time comes in whole seconds, so two readings err by up to two; below ten seconds no session,
/// mapping or path is lost.
const SUSPEND_THRESHOLD: i64 = 10;

/// How far the wall clock may move against the host's uptime before it counts as a jump, in
/// seconds. NTP slews at 500 ppm, far below; whole seconds err by up to two.
const JUMP_THRESHOLD: i64 = 5;

/// The monotonic clock; stands still while the host sleeps.
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock: whole seconds since 1970, 0 for a clock that stands before.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A seed for one of the generators, from the kernel.
///
/// # Panics
/// Where the kernel has no randomness to give; there is no safe way on without any.
pub fn os_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    SysRng.try_fill_bytes(&mut seed).expect("getrandom(2) cannot fail for 32 bytes after boot");
    seed
}

/// A jump of one clock against another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discontinuity {
    /// The host slept for about so many seconds.
    Suspended(u64),
    /// The wall clock was set forward (or back, negative) by about so many seconds.
    WallClock(i64),
}

/// Finds sleep and set clocks.
#[derive(Debug)]
pub struct ClockWatch {
    origin: Instant,
    known: Offsets,
}

/// How far apart the clocks are, in seconds; constant while nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Offsets {
    /// Boot time less monotonic time: grows by each sleep.
    asleep: i64,
    /// Wall clock less boot time: changes when the wall clock is set.
    wall: i64,
}

impl ClockWatch {
    /// Starts to watch.
    pub fn new() -> Self {
        let origin = now();
        Self { origin, known: Offsets::take(origin) }
    }

    /// What happened since the last look, the sleep first.
    pub fn look(&mut self) -> Vec<Discontinuity> {
        let offsets = Offsets::take(self.origin);
        self.known.update(offsets)
    }
}

impl Default for ClockWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl Offsets {
    fn take(origin: Instant) -> Self {
        let seconds = |unsigned: u64| i64::try_from(unsigned).unwrap_or(i64::MAX);
        // The uptime of sysinfo(2) is CLOCK_BOOTTIME, which counts sleep.
        let boot = rustix::system::sysinfo().uptime;
        let monotonic = seconds(now().duration_since(origin).as_secs());
        Self { asleep: boot - monotonic, wall: seconds(unix_now()) - boot }
    }

    /// Takes `seen` over where it differs by a threshold; smaller steps add up until they do.
    fn update(&mut self, seen: Self) -> Vec<Discontinuity> {
        let mut found = Vec::new();
        let slept = seen.asleep - self.asleep;
        if slept >= SUSPEND_THRESHOLD {
            found.push(Discontinuity::Suspended(slept.unsigned_abs()));
            self.asleep = seen.asleep;
        }
        let jumped = seen.wall - self.wall;
        if jumped.abs() >= JUMP_THRESHOLD {
            found.push(Discontinuity::WallClock(jumped));
            self.wall = seen.wall;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Offsets = Offsets { asleep: 4_900, wall: 1_800_000_000 };

    fn shifted(asleep: i64, wall: i64) -> Offsets {
        Offsets { asleep: START.asleep + asleep, wall: START.wall + wall }
    }

    #[test]
    fn rounding_is_no_news() {
        assert!(START.clone().update(shifted(1, -1)).is_empty());
        assert!(START.clone().update(shifted(-1, 2)).is_empty());
    }

    #[test]
    fn sleep_is_found_once() {
        let mut known = START;
        assert_eq!(known.update(shifted(3_600, 0)), [Discontinuity::Suspended(3_600)]);
        assert!(known.update(shifted(3_600, 0)).is_empty());
    }

    #[test]
    fn a_wall_clock_that_was_set_is_found_in_both_directions() {
        let mut known = START;
        assert_eq!(known.update(shifted(0, -86_400)), [Discontinuity::WallClock(-86_400)]);
        assert!(known.update(shifted(0, -86_400)).is_empty());
        assert_eq!(known.update(shifted(0, 0)), [Discontinuity::WallClock(86_400)]);
    }

    #[test]
    fn a_clock_set_during_sleep_gives_both() {
        assert_eq!(
            START.clone().update(shifted(100, 1_000)),
            [Discontinuity::Suspended(100), Discontinuity::WallClock(1_000)]
        );
    }

    #[test]
    fn small_steps_of_the_wall_clock_add_up() {
        let mut known = START;
        assert!(known.update(shifted(0, 3)).is_empty());
        assert_eq!(known.update(shifted(0, 6)), [Discontinuity::WallClock(6)]);
    }

    #[test]
    fn the_real_clocks_agree() {
        assert!(ClockWatch::new().look().is_empty());
        assert!(unix_now() > 1_700_000_000);
        assert_ne!(os_seed(), os_seed());
    }
}
