//! Virtual time, for everything on this thread.
//!
//! The standard library asks the C library for the time (for the timestamps of handshakes, and in
//! boringtun's rate limiter), and ephemeral keys come from the kernel. This test binary answers in their place: it defines `clock_gettime`, `getrandom` and
//! `syscall` itself, and on a thread that runs a simulation they show the simulation's time and the
//! simulation's generator. So the very code that ships runs under virtual time, without a feature
//! that could leak into the real binary, and a seed gives the same bytes on any machine.
//!
//! The monotonic clock is one for all devices; each has a wall clock of its own, which
//! [`VirtualTime::set_wall`] sets before the device runs.

use std::cell::Cell;
use std::mem::transmute;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libc::{c_int, c_long};

thread_local! {
    static NOW: Cell<Option<u64>> = const { Cell::new(None) };
    static WALL: Cell<u64> = const { Cell::new(EPOCH) };
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
        WALL.set(EPOCH);
        RANDOM.set(seed);
        Self(())
    }

    /// The instant of `elapsed` since the start.
    pub fn set(&self, elapsed: Duration) -> Instant {
        NOW.set(Some(u64::try_from(elapsed.as_nanos()).expect("a run is shorter than 500 years")));
        #[expect(clippy::disallowed_methods, reason = "shows the virtual time set above")]
        Instant::now()
    }

    /// The wall clock of whoever runs next began the simulation at `unix` seconds.
    pub fn set_wall(&self, unix: u64) {
        WALL.set(unix);
    }
}

impl Drop for VirtualTime {
    fn drop(&mut self) {
        NOW.set(None);
    }
}

fn now() -> Option<u64> {
    NOW.try_with(Cell::get).ok().flatten()
}

/// Answers in the place of the C library's.
///
/// # Safety
/// As `clock_gettime(3)`: `out` points to a `timespec`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> c_int {
    let Some(now) = now() else {
        // SAFETY: the caller's contract is the system call's.
        return unsafe {
            real_syscall(libc::SYS_clock_gettime, [clock.into(), out as c_long, 0, 0, 0, 0])
        } as c_int;
    };
    let base = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => Duration::from_secs(WALL.get()),
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
    // SAFETY: the caller's contract is that of the function below.
    unsafe {
        syscall(libc::SYS_getrandom, out as c_long, len as c_long, flags.into(), 0, 0, 0) as isize
    }
}

/// Answers in the place of the C library's, for generators that call the kernel by number.
///
/// # Safety
/// As `syscall(2)`, of which it takes all arguments that there can be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if number != libc::SYS_getrandom || now().is_none() {
        // SAFETY: the caller's contract is the system call's.
        return unsafe { real_syscall(number, [a, b, c, d, e, f]) };
    }
    let (out, len) = (a as *mut u8, b as usize);
    for at in (0..len).step_by(8) {
        let bytes = next_random().to_le_bytes();
        let count = bytes.len().min(len - at);
        // SAFETY: `at + count` is at most the length that the caller promised.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), out.add(at), count) };
    }
    len as c_long
}

/// The C library's own, found once.
unsafe fn real_syscall(number: c_long, [a, b, c, d, e, f]: [c_long; 6]) -> c_long {
    type Syscall =
        unsafe extern "C" fn(c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long;
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    let mut found = FOUND.load(Ordering::Relaxed);
    if found == 0 {
        // SAFETY: the name is a C string.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"syscall".as_ptr()) } as usize;
        assert_ne!(found, 0, "the C library has syscall(2)");
        FOUND.store(found, Ordering::Relaxed);
    }
    // SAFETY: that is the function's type, all of whose arguments are words.
    unsafe { transmute::<usize, Syscall>(found)(number, a, b, c, d, e, f) }
}

/// SplitMix64: enough for a simulation, and the same everywhere.
fn next_random() -> u64 {
    let state = RANDOM.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    RANDOM.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
