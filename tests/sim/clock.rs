//! Virtual time, for everything on this thread.
//!
//! boringtun and the standard library ask the C library for the time and the kernel for
//! randomness. This test binary answers in their place: it defines `clock_gettime` and `getrandom`
//! itself, and on a thread that runs a simulation they show the simulation's time and the
//! simulation's generator. So the very code that ships runs under virtual time, without a feature
//! that could leak into the real binary, and a seed gives the same run on any machine.

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    static NOW: Cell<Option<u64>> = const { Cell::new(None) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// The wall clock at the start of every simulation: 2026-01-01 00:00:00 UTC.
pub const EPOCH: u64 = 1_767_225_600;

/// The monotonic clock at the start, so that instants before the start exist.
const UPTIME: Duration = Duration::from_secs(1_000_000);

/// While it lives, time on this thread is virtual.
pub struct VirtualTime(());

impl VirtualTime {
    /// Starts at zero, with a generator seeded by `seed`.
    pub fn start(seed: u64) -> Self {
        NOW.set(Some(0));
        RANDOM.set(seed);
        Self(())
    }

    /// The instant of `elapsed` since the start.
    pub fn set(&self, elapsed: Duration) -> Instant {
        NOW.set(Some(u64::try_from(elapsed.as_nanos()).expect("a run is shorter than 500 years")));
        #[expect(clippy::disallowed_methods, reason = "shows the virtual time set above")]
        Instant::now()
    }
}

impl Drop for VirtualTime {
    fn drop(&mut self) {
        NOW.set(None);
    }
}

/// Answers in the place of the C library's.
///
/// # Safety
/// As `clock_gettime(3)`: `out` points to a `timespec`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> i32 {
    let Ok(Some(now)) = NOW.try_with(Cell::get) else {
        // SAFETY: the caller's contract is the system call's.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) } as i32;
    };
    let base = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => Duration::from_secs(EPOCH),
        _ => UPTIME,
    };
    let time = base + Duration::from_nanos(now);
    // SAFETY: the caller gave a place for a timespec.
    unsafe {
        (*out).tv_sec = time.as_secs() as libc::time_t;
        (*out).tv_nsec = time.subsec_nanos().into();
    }
    0
}

/// Answers in the place of the C library's.
///
/// # Safety
/// As `getrandom(2)`: `out` points to `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(out: *mut u8, len: usize, flags: u32) -> isize {
    if NOW.try_with(Cell::get).ok().flatten().is_none() {
        // SAFETY: the caller's contract is the system call's.
        return unsafe { libc::syscall(libc::SYS_getrandom, out, len, flags) } as isize;
    }
    for at in 0..len {
        // SAFETY: `at` is below the length that the caller promised.
        unsafe { *out.add(at) = next_random() };
    }
    len as isize
}

/// SplitMix64: enough for a simulation, and the same everywhere.
fn next_random() -> u8 {
    let state = RANDOM.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    RANDOM.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as u8
}
