//! A peer in use, as the packet path and `mesh` share it.
//!
//! A slot exists only for a peer that is in use: a thousand members are not a thousand tunnels.
//! `mesh` makes slots and puts them into a [`ForwardingTable`](super::ForwardingTable); the worker
//! threads lock the tunnel once a frame, load the endpoint without a lock, and count. Only `mesh`
//! stores the endpoint, and only after a path check came back: received data never moves it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::Tunnel;
use super::table::within;
use crate::wire::control::MAX_PACKET;

/// The number of a peer's slot: 24 bits, the upper part of its WireGuard receiver indices
/// (`index << 8 | session`). Never reused for another peer while the agent runs, until 2^24 were
/// given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotIndex(pub u32);

impl SlotIndex {
    /// The slot that a WireGuard receiver index belongs to.
    pub fn of_receiver(index: u32) -> Self {
        Self(index >> 8)
    }
}

/// IPv6's least MTU (RFC 8200, section 5): every path carries it, and no IPv6 host may be told to
/// send less (RFC 8201, section 4).
pub const LEAST_MTU: u16 = 1280;

/// What a tunnel may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// User packets and control.
    Everything,
    /// Control only: a guest that joins, or a peer that has not proved itself yet. The slot has no
    /// routes, and user packets from it are dropped.
    ControlOnly,
}

/// How long inner packets to a peer may be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The longest that the path carries whole.
    pub packet: u16,
    /// Whether that is known well enough to tell hosts.
    pub settled: bool,
}

impl Limit {
    /// What every path carries, and so the longest that control messages may be.
    pub const LOWEST: Self = Self { packet: MAX_PACKET as u16, settled: false };

    fn pack(self) -> u32 {
        u32::from(self.packet) << 1 | u32::from(self.settled)
    }

    fn unpack(packed: u32) -> Self {
        Self { packet: (packed >> 1) as u16, settled: packed & 1 != 0 }
    }
}

/// The shortest time between two answers "packet too big" about one slot. RFC 4443 (section 2.4) wants
/// them limited; the host needs one a destination.
const TOO_BIG_INTERVAL: Duration = Duration::from_millis(10);

/// Control messages of one peer that go up to `mesh` in a second: as many as the answers to its own
/// fetches bring at most (256 KiB in packets of 1,232 bytes). A peer that floods costs its own worker
/// a counter, and not the control loop, which all peers share.
const CONTROL_A_SECOND: u64 = 256;

/// Packets for one peer that go up to `mesh` in a second, to wait for a path or a session there: some
/// times what it keeps for a peer. A local program that talks to a device that is off, or a member
/// that has the host answer it where nobody listens for the answers, costs a counter beyond that.
const WAITING_A_SECOND: u64 = 64;

/// Cookies for one peer that go up in a second: each answers an initiation, which leave one a second.
const COOKIES_A_SECOND: u64 = 2;

/// The shortest time between two hints to `mesh` of one kind about one slot.
const HINT_INTERVAL: Duration = Duration::from_secs(1);

/// Everything the packet path shares with `mesh` about one peer in use.
pub struct PeerSlot {
    /// Its number.
    pub index: SlotIndex,
    /// Its WireGuard sessions. Held for a frame or a run of datagrams, never across a system call.
    pub tunnel: Arc<Mutex<Tunnel>>,
    /// Held by a worker from the first packet that it seals until it has sent what it sealed, so that
    /// datagrams leave in the order of their counters. Always taken before the tunnel.
    pub order: Arc<Mutex<()>>,
    /// Where its datagrams go; only `mesh` writes.
    pub endpoint: ArcSwapOption<SocketAddr>,
    /// Inner sources that belong to this peer: exact addresses (/32, /128) and granted routes.
    pub allowed: Vec<(IpAddr, u8)>,
    /// What it may carry.
    pub carries: Carries,
    /// What it carried; its successor counts on.
    pub stats: Arc<Stats>,
    born: Instant,
    limit: AtomicU32,
    roamed_ms: AtomicU64,
    awake_ms: AtomicU64,
    /// Until when `mesh` watches the user data.
    watched_ms: AtomicU64,
    control: Allowance,
    waiting: Allowance,
    cookies: Allowance,
    too_big_ms: AtomicU64,
}

impl PeerSlot {
    /// A slot without an endpoint, born at `now`.
    pub fn new(
        index: SlotIndex,
        tunnel: Tunnel,
        allowed: Vec<(IpAddr, u8)>,
        carries: Carries,
        now: Instant,
    ) -> Self {
        Self {
            index,
            tunnel: Arc::new(Mutex::new(tunnel)),
            order: Arc::default(),
            endpoint: ArcSwapOption::empty(),
            allowed,
            carries,
            stats: Arc::default(),
            born: now,
            limit: AtomicU32::new(Limit::LOWEST.pack()),
            roamed_ms: AtomicU64::new(0),
            awake_ms: AtomicU64::new(0),
            watched_ms: AtomicU64::new(0),
            control: Allowance::default(),
            waiting: Allowance::default(),
            cookies: Allowance::default(),
            too_big_ms: AtomicU64::new(0),
        }
    }

    /// The slot that takes the place of `before`: the same number, sessions, endpoint and counts, other
    /// rights. For a guest that became a member, and for a member with another certificate.
    pub fn succeeding(before: &Self, allowed: Vec<(IpAddr, u8)>, carries: Carries) -> Self {
        Self {
            index: before.index,
            tunnel: before.tunnel.clone(),
            order: before.order.clone(),
            endpoint: ArcSwapOption::new(before.endpoint.load_full()),
            allowed,
            carries,
            stats: before.stats.clone(),
            born: before.born,
            limit: AtomicU32::new(before.limit().pack()),
            roamed_ms: AtomicU64::new(0),
            awake_ms: AtomicU64::new(0),
            watched_ms: AtomicU64::new(0),
            control: Allowance::default(),
            waiting: Allowance::default(),
            cookies: Allowance::default(),
            too_big_ms: AtomicU64::new(0),
        }
    }

    /// Sends its datagrams to `endpoint` from now on; `None` stops them.
    pub fn set_endpoint(&self, endpoint: Option<SocketAddr>) {
        self.endpoint.store(endpoint.map(Arc::new));
    }

    /// Where its datagrams go.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint.load().as_deref().copied()
    }

    /// Sends nothing longer from now on; only `mesh` calls it.
    pub fn set_limit(&self, limit: Limit) {
        self.limit.store(limit.pack(), Ordering::Relaxed);
        self.tunnel.lock().set_mtu(limit.packet);
    }

    /// How long its packets may be.
    pub fn limit(&self) -> Limit {
        Limit::unpack(self.limit.load(Ordering::Relaxed))
    }

    /// When it came into use.
    pub fn born(&self) -> Instant {
        self.born
    }

    /// Counts a packet that `mesh` had kept and sends now.
    pub fn note_sent(&self, bytes: usize, now: Instant) {
        self.count_sent(1, bytes, now);
    }

    /// Whether an inner packet from `source` may come from this peer.
    pub fn allows(&self, source: IpAddr) -> bool {
        self.allowed.iter().any(|prefix| within(source, *prefix))
    }

    /// Milliseconds from the slot's birth to `now`, at least 1 so that 0 can say "never".
    pub fn age_ms(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born).as_millis();
        u64::try_from(age).unwrap_or(u64::MAX).max(1)
    }

    /// The instant that a time of [`Stats`] stands for; `None` for 0, which says "never".
    pub fn instant_of(&self, ms: u64) -> Option<Instant> {
        (ms != 0).then(|| self.born + Duration::from_millis(ms))
    }

    /// Counts `packets` authentic datagrams of `bytes` in all, user data among them or not.
    pub(super) fn count_received(&self, packets: usize, bytes: usize, data: bool, now: Instant) {
        let ms = self.age_ms(now);
        self.stats.rx_packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.stats.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.stats.last_authentic_ms.store(ms, Ordering::Relaxed);
        if data {
            self.stats.last_data_received_ms.store(ms, Ordering::Relaxed);
        }
    }

    /// Notes that a packet longer than [`Limit::LOWEST`] was sealed.
    pub(super) fn note_large(&self, now: Instant) {
        self.stats.last_large_sent_ms.store(self.age_ms(now), Ordering::Relaxed);
    }

    /// Counts `packets` sealed datagrams of `bytes` in all that carry user data.
    pub(super) fn count_sent(&self, packets: usize, bytes: usize, now: Instant) {
        self.stats.tx_packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.stats.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.stats.last_data_sent_ms.store(self.age_ms(now), Ordering::Relaxed);
    }

    /// Whether `mesh` may be told now that this peer's address differs: at most once a second.
    pub(super) fn may_report_roaming(&self, now: Instant) -> bool {
        self.due(&self.roamed_ms, HINT_INTERVAL, now)
    }

    /// Whether `mesh` may be given one more control message of this peer in this second.
    pub(super) fn may_pass_control(&self, now: Instant) -> bool {
        self.control.take(CONTROL_A_SECOND, self.age_ms(now) / 1000)
    }

    /// Whether one more packet for this peer may go up to wait in this second.
    pub(super) fn may_wait(&self, now: Instant) -> bool {
        self.waiting.take(WAITING_A_SECOND, self.age_ms(now) / 1000)
    }

    /// Whether a cookie from `from` may go up: it has no MAC that a stranger could not make, so it
    /// must answer an initiation that is under way, from where that went.
    pub(super) fn may_take_cookie(&self, from: SocketAddr, now: Instant) -> bool {
        self.endpoint() == Some(from)
            && self.tunnel.lock().is_handshaking()
            && self.cookies.take(COOKIES_A_SECOND, self.age_ms(now) / 1000)
    }

    /// `mesh` looks at the statistics again by `until`.
    pub fn watch(&self, until: Instant) {
        self.watched_ms.store(self.age_ms(until), Ordering::Relaxed);
    }

    /// Whether `mesh` notices by itself that user data flows.
    pub(super) fn is_watched(&self, now: Instant) -> bool {
        self.age_ms(now) <= self.watched_ms.load(Ordering::Relaxed)
    }

    /// Whether `mesh` may be told now that this tunnel is to be looked at: at most once a second.
    pub(super) fn may_report_awake(&self, now: Instant) -> bool {
        self.due(&self.awake_ms, HINT_INTERVAL, now)
    }

    /// Whether the host may be told now that a packet was too big.
    pub(super) fn may_answer_too_big(&self, now: Instant) -> bool {
        self.due(&self.too_big_ms, TOO_BIG_INTERVAL, now)
    }

    fn due(&self, last: &AtomicU64, interval: Duration, now: Instant) -> bool {
        let (then, ms) = (last.load(Ordering::Relaxed), self.age_ms(now));
        let due = then == 0 || ms.saturating_sub(then) >= interval.as_millis() as u64;
        // Of two threads that race here one wins, so one hint goes up.
        due && last.compare_exchange(then, ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// So many a second: which second, and how many were taken in it.
#[derive(Debug, Default)]
pub(super) struct Allowance(AtomicU64);

impl Allowance {
    /// Takes one of the `most` (below 2^16) of this second; `false` where none is left. Threads that
    /// race may take one more.
    pub(super) fn take(&self, most: u64, second: u64) -> bool {
        let state = self.0.load(Ordering::Relaxed);
        let taken = if state >> 16 == second { state & 0xffff } else { 0 };
        let left = taken < most;
        if left {
            self.0.store(second << 16 | (taken + 1), Ordering::Relaxed);
        }
        left
    }
}

impl fmt::Debug for PeerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSlot")
            .field("index", &self.index)
            .field("endpoint", &self.endpoint())
            .field("carries", &self.carries)
            .finish_non_exhaustive()
    }
}

/// Counters of one peer. Relaxed atomics: each is right by itself, together they are no snapshot.
/// Bytes are those of WireGuard datagrams, without UDP and IP headers.
#[derive(Debug, Default)]
pub struct Stats {
    /// Bytes of authentic datagrams received.
    pub rx_bytes: AtomicU64,
    /// Bytes of transport datagrams sealed.
    pub tx_bytes: AtomicU64,
    /// Authentic datagrams received.
    pub rx_packets: AtomicU64,
    /// Transport datagrams sealed.
    pub tx_packets: AtomicU64,
    /// Milliseconds from the slot's birth to the last authentic datagram; 0 = never.
    pub last_authentic_ms: AtomicU64,
    /// Milliseconds from the slot's birth to the last user packet sent; 0 = never.
    pub last_data_sent_ms: AtomicU64,
    /// Milliseconds from the slot's birth to the last packet that not every path carries; 0 = never.
    pub last_large_sent_ms: AtomicU64,
    /// Milliseconds from the slot's birth to the last user packet received; 0 = never.
    pub last_data_received_ms: AtomicU64,
}

impl Stats {
    /// Bytes received and sent.
    pub fn bytes(&self) -> (u64, u64) {
        (self.rx_bytes.load(Ordering::Relaxed), self.tx_bytes.load(Ordering::Relaxed))
    }
}
