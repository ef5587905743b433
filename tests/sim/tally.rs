//! What devices cost: datagrams and bytes on the wire, memory, processor time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::Sub;
use std::time::Duration;

use ginnel::wire::classify::{Class, classify};

/// The headers of IPv4 and UDP.
const HEADERS: usize = 28;

/// A transport message without a packet in it: WireGuard's keepalive.
const EMPTY_TRANSPORT: usize = 32;

/// The port of STUN servers.
pub const STUN_PORT: u16 = 3478;

/// What devices did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams of every kind.
    pub datagrams: u64,
    /// Their bytes with the headers of IPv4 and UDP.
    pub bytes: u64,
    /// To STUN servers.
    pub stun: u64,
    /// Path checks and their answers.
    pub checks: u64,
    /// WireGuard handshakes.
    pub handshakes: u64,
    /// Messages in tunnels, user data among them where a scenario sends any.
    pub messages: u64,
    /// WireGuard keepalives.
    pub keepalives: u64,
    /// Not sent: how often a device woke up because something was due.
    pub wakeups: u64,
}

impl Tally {
    /// A device sends a datagram.
    pub fn sent(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.datagrams += 1;
        self.bytes += (datagram.len() + HEADERS) as u64;
        let kind = match classify(datagram) {
            Class::Stun if to.port() == STUN_PORT => &mut self.stun,
            Class::Stun => &mut self.checks,
            Class::Transport if datagram.len() == EMPTY_TRANSPORT => &mut self.keepalives,
            Class::Transport => &mut self.messages,
            _ => &mut self.handshakes,
        };
        *kind += 1;
    }
}

impl Sub for Tally {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            datagrams: self.datagrams - before.datagrams,
            bytes: self.bytes - before.bytes,
            stun: self.stun - before.stun,
            checks: self.checks - before.checks,
            handshakes: self.handshakes - before.handshakes,
            messages: self.messages - before.messages,
            keepalives: self.keepalives - before.keepalives,
            wakeups: self.wakeups - before.wakeups,
        }
    }
}

/// The processor time of this thread. Asks the kernel past [`super::clock`], which shows the virtual
/// time for every clock.
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel is given a place for a timespec.
    let result = unsafe {
        libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time)
    };
    assert_eq!(result, 0, "every thread has a processor clock");
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

/// The bytes that this thread allocated and did not free.
pub fn live_bytes() -> isize {
    LIVE.get()
}

/// The system's allocator, counting by thread, as each simulation has a thread to itself.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(change: isize) {
    // A thread that ends frees what its thread-locals held after they are gone.
    let _ = LIVE.try_with(|live| live.set(live.get() + change));
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's contract is the system's.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.realloc(at, layout, size) }
    }
}
