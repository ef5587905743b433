//! One peer's WireGuard sessions. This file and `mac` beside it are the only ones that know boringtun.
//!
//! [`Tunnel`] wraps boringtun's `Tunn` (the WireGuard paper's handshake and transport) and adds what
//! it leaves out:
//!
//! * Counters from 2^64 − 2^13 − 1 are refused both ways (paper, section 6.1) before boringtun's
//!   window, whose arithmetic overflows there, sees them.
//! * Packets are padded to 16 bytes before sealing (section 5.4.6), at most to what the path carries.
//! * boringtun queues packets while there is no session; we ask first, so it never does.
//! * Public keys and ephemeral keys of low order are refused, so that no secret is known to all.
//! * boringtun's timers run when they have something to do, not four times a second for ever:
//!   [`Tunnel::poll_timeout`] says when (see `timing.rs`). Its clock moves only when
//!   its timers run, therefore they also run before each handshake message, and from `seal` and
//!   `open` once a second.
//!
//! The timers belong to `mesh`, data to the workers. When data wakes a tunnel that slept, `mesh` does
//! not know: the slot says to the worker whether `mesh` [watches](super::slot::PeerSlot::watch), and
//! [`Tunnel::is_overdue`] whether a deadline passed; the worker passes it on. What the timers want sent is kept until [`Tunnel::handle_timeout`] takes it.
//!
//! `seal_into` and `open_into` write into a place that the caller chose in one large buffer; a session
//! layer that works in place or on batches can stand behind the same face.
//!
//! boringtun logs ordinary expiry as an error under the target `boringtun::noise::timers`; the log
//! filter silences it.

mod mac;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

pub use super::outcome::{HandshakeOutcome, Opened, TunnelError};
pub(super) use mac::MacCheck;
pub use mac::initiator_of;

use super::SlotIndex;
use super::guard::handshake_class;
use super::timing::Timing;
use crate::identity::{WgPublicKey, WgSecret};
use crate::wire::classify::{Class, classify, counter, receiver_index, sender_index};

/// What sealing adds to a padded packet: header 16, tag 16.
pub const SEAL_OVERHEAD: usize = 32;

/// Length of the header before the ciphertext of a transport datagram.
pub const DATA_HEADER: usize = 16;

/// Counters from here on are refused: Reject-After-Messages (paper, section 6.1).
pub const COUNTER_LIMIT: u64 = u64::MAX - (1 << 13);

/// Packets are padded to a multiple of this (paper, section 5.4.6).
const PADDING: usize = 16;

/// Holds every handshake message and keepalive; boringtun panics below 148.
const SMALL_BUFFER: usize = 256;

/// Datagrams of timers that wait for `handle_timeout`; one a second arises at most, and each
/// replaces what the one before was for.
const MAX_PENDING: usize = 4;

/// One peer's WireGuard sessions.
pub struct Tunnel {
    tunn: Tunn,
    timing: Timing,
    /// Whether boringtun has a session to seal with; as of the last call that could change it.
    sealable: bool,
    /// What the timers want sent.
    pending: VecDeque<Vec<u8>>,
    pad_limit: usize,
    scratch: Vec<u8>,
}

impl Tunnel {
    /// The tunnel of the device that holds `local` with the one that holds `remote`'s secret.
    /// `None` where the public key is a low-order point.
    pub fn new(local: &WgSecret, remote: &WgPublicKey, index: SlotIndex) -> Option<Self> {
        local.agree(remote)?;
        let secret = x25519::StaticSecret::from(*local.as_bytes());
        let limiter = RateLimiter::new(&x25519::PublicKey::from(&secret), u64::MAX);
        let remote = x25519::PublicKey::from(remote.0);
        let tunn = Tunn::new(secret, remote, None, None, index.0, Some(Arc::new(limiter)));
        Some(Self {
            tunn,
            timing: Timing::default(),
            sealable: false,
            pending: VecDeque::new(),
            pad_limit: usize::MAX,
            scratch: Vec::new(),
        })
    }

    /// Pads no packet beyond `mtu` bytes, so that a full packet still fits the path.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.pad_limit = usize::from(mtu);
    }

    /// Starts (or restarts at once) a handshake: one datagram to send.
    pub fn initiate(&mut self, now: Instant) -> Vec<u8> {
        self.tick(now);
        // The 90 seconds count anew.
        self.timing.restart();
        let waiting = self.pending.iter().position(|d| classify(d) == Class::Initiation);
        match waiting.and_then(|at| self.pending.remove(at)) {
            Some(datagram) => {
                self.note_initiation(&datagram, now);
                datagram
            }
            None => self.force_initiation(now),
        }
    }

    /// Handles a type 1, 2 or 3 message; `out` gets the datagrams to send back where it came from
    /// (also keepalives that confirm a session), and nothing on an error: what the timers have to
    /// send goes to the peer, by [`handle_timeout`](Self::handle_timeout), and to nobody who only
    /// named it.
    pub fn handle_handshake(
        &mut self,
        datagram: &[u8],
        out: &mut Vec<Vec<u8>>,
        now: Instant,
    ) -> Result<HandshakeOutcome, TunnelError> {
        let class = handshake_class(datagram).ok_or(TunnelError::Malformed)?;
        self.tick(now);
        let mut buffer = [0; SMALL_BUFFER];
        let answer = match self.tunn.decapsulate(None, datagram, &mut buffer) {
            TunnResult::WriteToNetwork(answer) => answer.to_vec(),
            TunnResult::Done if class == Class::CookieReply => {
                return Ok(HandshakeOutcome::CookieStored);
            }
            TunnResult::Err(error) => return Err(refusal(&error)),
            _ => return Err(TunnelError::Malformed),
        };
        // An initiation is answered with a response, a response with a keepalive.
        let outcome = if let Some(index) = receiver_index(datagram) {
            self.timing.established(index, now);
            HandshakeOutcome::Established
        } else {
            self.timing.responded(sender_index(&answer).unwrap_or_default(), now);
            HandshakeOutcome::Responded
        };
        self.refresh();
        out.push(answer);
        self.drain(out);
        Ok(outcome)
    }

    /// Timers (rekey, retransmission, passive keepalive, expiry); `out` gets datagrams to send.
    pub fn handle_timeout(&mut self, out: &mut Vec<Vec<u8>>, now: Instant) {
        self.tick(now);
        self.timing.note_served(now);
        out.extend(self.pending.drain(..));
    }

    /// When `handle_timeout` is next due, and why: soon while a handshake or data is under way,
    /// seldom when idle, `None` without session and handshake.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.pending.is_empty() {
            return self.timing.poll();
        }
        self.timing.ticked().map(|ticked| (ticked, "datagrams of the tunnel's timers wait"))
    }

    /// Whether `handle_timeout` should have run by now, with a second of grace: `mesh` sleeps and
    /// must be told.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|(due, _)| Timing::is_missed(due, now))
    }

    /// Whether a session can seal now.
    pub fn has_session(&self) -> bool {
        self.sealable
    }

    /// Whether a handshake that we started is under way.
    pub fn is_handshaking(&self) -> bool {
        self.timing.is_handshaking()
    }

    /// Time since the session in use was established.
    pub fn session_age(&self, now: Instant) -> Option<Duration> {
        self.sealable.then(|| self.timing.session_age(now))?
    }

    /// How long an inner packet of `len` bytes is after padding and sealing.
    pub fn sealed_len(&self, len: usize) -> usize {
        let limit = self.pad_limit.max(len);
        len.next_multiple_of(PADDING).min(limit) + SEAL_OVERHEAD
    }

    /// Seals one inner packet (empty: a keepalive) at the start of `out`, of which at least
    /// [`sealed_len`](Self::sealed_len) bytes must be there; says how many were used.
    pub fn seal_into(
        &mut self,
        inner: &[u8],
        out: &mut [u8],
        now: Instant,
    ) -> Result<usize, TunnelError> {
        self.tick_lazily(now);
        if !self.sealable {
            return Err(TunnelError::NoSession);
        }
        let sealed = self.sealed_len(inner.len());
        let out = out.get_mut(..sealed).ok_or(TunnelError::BufferTooSmall)?;
        let padded = sealed - SEAL_OVERHEAD;
        let result = if padded == inner.len() {
            self.tunn.encapsulate(inner, out)
        } else {
            self.scratch.clear();
            self.scratch.extend_from_slice(inner);
            self.scratch.resize(padded, 0);
            self.tunn.encapsulate(&self.scratch, out)
        };
        let TunnResult::WriteToNetwork(datagram) = result else {
            return Err(TunnelError::NoSession);
        };
        if counter(datagram).is_none_or(|counter| counter >= COUNTER_LIMIT) {
            return Err(TunnelError::CounterLimit);
        }
        let len = datagram.len();
        if !inner.is_empty() {
            self.timing.note_data(now);
        }
        Ok(len)
    }

    /// Seals one inner packet (convenience for control; pads to 16).
    pub fn seal_to_vec(&mut self, inner: &[u8], now: Instant) -> Result<Vec<u8>, TunnelError> {
        let mut out = vec![0; self.sealed_len(inner.len())];
        let len = self.seal_into(inner, &mut out, now)?;
        out.truncate(len);
        Ok(out)
    }

    /// Opens a transport datagram into the start of `out`, which must have room for
    /// `datagram.len() − 16` bytes. On an error `out` holds nothing of use.
    pub fn open_into<'a>(
        &mut self,
        datagram: &[u8],
        out: &'a mut [u8],
        now: Instant,
    ) -> Result<Opened<'a>, TunnelError> {
        let (counter, index) =
            counter(datagram).zip(receiver_index(datagram)).ok_or(TunnelError::Malformed)?;
        if counter >= COUNTER_LIMIT {
            return Err(TunnelError::CounterLimit);
        }
        if out.len() < datagram.len() - DATA_HEADER {
            return Err(TunnelError::BufferTooSmall);
        }
        self.tick_lazily(now);
        let opened = match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::Done => Ok(Opened::Keepalive),
            TunnResult::WriteToTunnelV4(packet, _) if packet.len() >= 20 => {
                Ok(Opened::Packet(packet))
            }
            TunnResult::WriteToTunnelV6(packet, _) => Ok(Opened::Packet(packet)),
            TunnResult::Err(error) => Err(refusal(&error)),
            _ => Err(TunnelError::Malformed),
        };
        // What is malformed inside was still sealed by the peer: it confirms the session.
        if matches!(opened, Ok(_) | Err(TunnelError::Malformed)) {
            self.timing.confirmed(index);
            self.sealable = true;
        }
        if matches!(opened, Ok(Opened::Packet(_))) {
            self.timing.note_data(now);
        }
        opened
    }

    fn tick_lazily(&mut self, now: Instant) {
        if self.timing.is_stale(now) {
            self.tick(now);
        }
    }

    /// Runs boringtun's timers; what they want sent goes to `pending`.
    fn tick(&mut self, now: Instant) {
        let mut buffer = [0; SMALL_BUFFER];
        match self.tunn.update_timers(&mut buffer) {
            TunnResult::WriteToNetwork(datagram) => {
                let datagram = datagram.to_vec();
                self.note_initiation(&datagram, now);
                self.push_pending(datagram);
            }
            // boringtun holds nothing any more; an attempt under way goes on.
            TunnResult::Err(WireGuardError::ConnectionExpired) if self.timing.expired(now) => {
                let datagram = self.force_initiation(now);
                self.push_pending(datagram);
            }
            _ => {}
        }
        self.timing.note_tick(now);
        self.refresh();
    }

    fn force_initiation(&mut self, now: Instant) -> Vec<u8> {
        let mut buffer = [0; SMALL_BUFFER];
        match self.tunn.format_handshake_initiation(&mut buffer, true) {
            TunnResult::WriteToNetwork(datagram) => {
                let datagram = datagram.to_vec();
                self.note_initiation(&datagram, now);
                datagram
            }
            _ => unreachable!("a forced initiation fails only on a buffer below 148 bytes"),
        }
    }

    fn note_initiation(&mut self, datagram: &[u8], now: Instant) {
        if let (Class::Initiation, Some(index)) = (classify(datagram), sender_index(datagram)) {
            self.timing.initiated(index, now);
        }
    }

    fn push_pending(&mut self, datagram: Vec<u8>) {
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(datagram);
    }

    fn refresh(&mut self) {
        self.sealable = self.tunn.time_since_last_handshake().is_some();
    }

    /// boringtun hands out what it queued one by one, until `Done`.
    fn drain(&mut self, out: &mut Vec<Vec<u8>>) {
        let mut buffer = [0; SMALL_BUFFER];
        while let TunnResult::WriteToNetwork(datagram) =
            self.tunn.decapsulate(None, &[], &mut buffer)
        {
            out.push(datagram.to_vec());
        }
    }
}

fn refusal(error: &WireGuardError) -> TunnelError {
    match error {
        WireGuardError::InvalidAeadTag | WireGuardError::InvalidMac | WireGuardError::WrongKey => {
            TunnelError::NotAuthentic
        }
        WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter
        | WireGuardError::WrongTai64nTimestamp => TunnelError::Replayed,
        WireGuardError::NoCurrentSession
        | WireGuardError::WrongIndex
        | WireGuardError::UnexpectedPacket
        | WireGuardError::ConnectionExpired => TunnelError::NoSession,
        _ => TunnelError::Malformed,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::forward) fn secret(byte: u8) -> WgSecret {
        WgSecret::from_bytes([byte; 32])
    }

    /// Two tunnels that do not know of one another yet; the first has slot 1, the second slot 2.
    pub(in crate::forward) fn pair() -> (Tunnel, Tunnel) {
        let (a, b) = (secret(1), secret(2));
        let tunnel = |local: &WgSecret, remote: &WgSecret, index| {
            Tunnel::new(local, &remote.public(), SlotIndex(index)).unwrap()
        };
        (tunnel(&a, &b, 1), tunnel(&b, &a, 2))
    }

    /// Lets `a` initiate, and carries the handshake to its end.
    pub(in crate::forward) fn shake(a: &mut Tunnel, b: &mut Tunnel, now: Instant) {
        let initiation = a.initiate(now);
        let (mut answer, mut confirmation) = (Vec::new(), Vec::new());
        let outcome = b.handle_handshake(&initiation, &mut answer, now);
        assert_eq!(outcome, Ok(HandshakeOutcome::Responded));
        let outcome = a.handle_handshake(&answer[0], &mut confirmation, now);
        assert_eq!(outcome, Ok(HandshakeOutcome::Established));
        let mut out = [0; 256];
        assert_eq!(b.open_into(&confirmation[0], &mut out, now), Ok(Opened::Keepalive));
    }

    /// An IPv4 packet of `len` bytes.
    fn packet(len: u16) -> Vec<u8> {
        let mut packet = vec![0x5a; usize::from(len)];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    fn connected() -> (Tunnel, Tunnel, Instant) {
        let (mut a, mut b) = pair();
        let now = Instant::now();
        shake(&mut a, &mut b, now);
        (a, b, now)
    }

    #[test]
    fn packets_of_every_small_length_arrive_whole_and_are_padded_on_the_wire() {
        let (mut a, mut b, now) = connected();
        let (mut wire, mut out) = ([0; 2048], [0; 2048]);
        for len in (20..100).chain([1279, 1280, 1419, 1420]) {
            let sent = packet(len);
            let n = a.seal_into(&sent, &mut wire, now).unwrap();
            assert_eq!(n, usize::from(len).next_multiple_of(16) + SEAL_OVERHEAD);
            assert_eq!(
                b.open_into(&wire[..n], &mut out, now),
                Ok(Opened::Packet(&mut sent.clone()[..]))
            );
        }
    }

    #[test]
    fn padding_stops_at_the_mtu() {
        let (mut a, mut b, now) = connected();
        a.set_mtu(1420);
        let wire = a.seal_to_vec(&packet(1420), now).unwrap();
        assert_eq!(wire.len(), 1452);
        let mut out = [0; 2048];
        assert_eq!(b.open_into(&wire, &mut out, now), Ok(Opened::Packet(&mut packet(1420)[..])));
    }

    #[test]
    fn the_responder_seals_only_after_the_initiator_was_heard() {
        let (mut a, mut b) = pair();
        let now = Instant::now();
        let (mut answer, mut confirmation) = (Vec::new(), Vec::new());
        b.handle_handshake(&a.initiate(now), &mut answer, now).unwrap();
        assert!(!b.has_session() && a.is_handshaking());
        assert_eq!(b.seal_to_vec(&packet(40), now), Err(TunnelError::NoSession));
        a.handle_handshake(&answer[0], &mut confirmation, now).unwrap();
        assert!(a.has_session() && !a.is_handshaking());
        let data = a.seal_to_vec(&packet(40), now).unwrap();
        let mut out = [0; 256];
        assert!(b.open_into(&data, &mut out, now).is_ok());
        assert!(b.has_session());
        let later = now + Duration::from_secs(3);
        assert_eq!(b.session_age(later), Some(Duration::from_secs(3)));
        assert_eq!(a.session_age(later), Some(Duration::from_secs(3)));
        let data = b.seal_to_vec(&packet(60), now).unwrap();
        assert!(a.open_into(&data, &mut out, now).is_ok());
    }

    #[test]
    fn without_a_session_nothing_is_sealed_and_nothing_is_queued() {
        let (mut a, mut b) = pair();
        let now = Instant::now();
        let mut out = [0; 256];
        assert_eq!(a.seal_into(&packet(40), &mut out, now), Err(TunnelError::NoSession));
        assert!(!a.is_handshaking());
        let (mut answer, mut confirmation) = (Vec::new(), Vec::new());
        b.handle_handshake(&a.initiate(now), &mut answer, now).unwrap();
        a.handle_handshake(&answer[0], &mut confirmation, now).unwrap();
        assert_eq!(confirmation.len(), 1, "only the keepalive");
    }

    #[test]
    fn what_the_timers_want_sent_goes_to_nobody_who_only_named_the_peer() {
        let (mut a, _, now) = connected();
        let keepalive = a.seal_to_vec(&[], now).unwrap();
        a.push_pending(keepalive.clone());
        let mut forged = vec![7; 148];
        forged[..4].copy_from_slice(&[1, 0, 0, 0]);
        let mut out = Vec::new();
        assert!(a.handle_handshake(&forged, &mut out, now).is_err());
        assert_eq!(out, Vec::<Vec<u8>>::new());
        a.handle_timeout(&mut out, now);
        assert_eq!(out, [keepalive]);
    }

    #[test]
    fn replays_are_refused_in_every_order() {
        let (mut a, mut b, now) = connected();
        let datagrams: Vec<_> = (0..40).map(|_| a.seal_to_vec(&packet(64), now).unwrap()).collect();
        let mut out = [0; 256];
        for at in [3, 39, 0, 17, 38] {
            assert!(b.open_into(&datagrams[at], &mut out, now).is_ok());
        }
        for at in [39, 3, 0, 38, 17, 3] {
            let again = b.open_into(&datagrams[at], &mut out, now);
            assert_eq!(again, Err(TunnelError::Replayed), "datagram {at}");
        }
        assert!(b.open_into(&datagrams[1], &mut out, now).is_ok(), "late, but new");
    }

    #[test]
    fn counters_near_the_end_are_refused_before_they_are_opened() {
        let (mut a, mut b, now) = connected();
        let mut out = [0; 256];
        for counter in [u64::MAX, u64::MAX - 1, COUNTER_LIMIT, u64::MAX - 1024] {
            let mut datagram = a.seal_to_vec(&packet(64), now).unwrap();
            datagram[8..16].copy_from_slice(&counter.to_le_bytes());
            let refused = b.open_into(&datagram, &mut out, now);
            assert_eq!(refused, Err(TunnelError::CounterLimit));
        }
        let mut datagram = a.seal_to_vec(&packet(64), now).unwrap();
        datagram[8..16].copy_from_slice(&(COUNTER_LIMIT - 1).to_le_bytes());
        assert_eq!(b.open_into(&datagram, &mut out, now), Err(TunnelError::NotAuthentic));
        let honest = a.seal_to_vec(&packet(64), now).unwrap();
        assert!(b.open_into(&honest, &mut out, now).is_ok());
    }

    #[test]
    fn forged_and_cut_datagrams_change_nothing() {
        let (mut a, mut b, now) = connected();
        let honest = a.seal_to_vec(&packet(64), now).unwrap();
        let mut out = vec![0; 70_000];
        for at in [4, 9, 16, honest.len() - 1] {
            let mut forged = honest.clone();
            forged[at] ^= 0x80;
            assert!(b.open_into(&forged, &mut out, now).is_err(), "byte {at}");
        }
        for len in [0, 1, 3, 31, 32, honest.len() - 1] {
            assert!(b.open_into(&honest[..len], &mut out, now).is_err(), "{len} bytes");
        }
        let mut long = honest.clone();
        long.resize(65_507, 0);
        assert_eq!(b.open_into(&long, &mut out, now), Err(TunnelError::NotAuthentic));
        let short = b.open_into(&honest, &mut out[..79], now);
        assert_eq!(short, Err(TunnelError::BufferTooSmall));
        assert!(b.open_into(&honest, &mut out, now).is_ok());
    }

    #[test]
    fn an_authentic_packet_that_is_no_ip_packet_is_malformed() {
        let (mut a, mut b, now) = connected();
        let mut out = [0; 256];
        let mut long = packet(64);
        long[3] = 200;
        let mut short = packet(64);
        short[3] = 0;
        for inner in [vec![0x75; 64], long, short, vec![0x45; 5], vec![0x60; 39]] {
            let datagram = a.seal_to_vec(&inner, now).unwrap();
            assert_eq!(b.open_into(&datagram, &mut out, now), Err(TunnelError::Malformed));
        }
    }

    #[test]
    fn low_order_ephemeral_keys_are_refused() {
        let (mut a, mut b) = pair();
        let now = Instant::now();
        let mut initiation = a.initiate(now);
        initiation[8..40].fill(0);
        let refused = b.handle_handshake(&initiation, &mut Vec::new(), now);
        assert_eq!(refused, Err(TunnelError::Malformed));
    }

    #[test]
    fn an_older_initiation_after_a_newer_one_is_a_replay() {
        let (mut a, mut b) = pair();
        let now = Instant::now();
        let (first, second) = (a.initiate(now), a.initiate(now));
        let mut out = Vec::new();
        assert!(b.handle_handshake(&second, &mut out, now).is_ok());
        assert_eq!(b.handle_handshake(&first, &mut out, now), Err(TunnelError::Replayed));
        assert_eq!(b.handle_handshake(&second, &mut out, now), Err(TunnelError::Replayed));
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn an_answer_to_the_older_of_two_initiations_still_connects() {
        let (mut a, mut b) = pair();
        let now = Instant::now();
        let first = a.initiate(now);
        let mut answer = Vec::new();
        b.handle_handshake(&first, &mut answer, now).unwrap();
        a.initiate(now);
        let outcome = a.handle_handshake(&answer[0], &mut Vec::new(), now);
        assert_eq!(outcome, Ok(HandshakeOutcome::Established));
        assert!(a.has_session());
        assert!(a.is_handshaking(), "the newer one is still open");
    }

    #[test]
    fn forged_handshake_answers_and_cookies_do_not_end_the_attempt() {
        let (mut a, mut b) = pair();
        let now = Instant::now();
        let mut answer = Vec::new();
        b.handle_handshake(&a.initiate(now), &mut answer, now).unwrap();
        let mut out = Vec::new();
        let mut forged = answer[0].clone();
        forged[50] ^= 1;
        assert_eq!(a.handle_handshake(&forged, &mut out, now), Err(TunnelError::NotAuthentic));
        let mut cookie = vec![0; 64];
        cookie[0] = 3;
        cookie[4..8].copy_from_slice(&(1u32 << 8 | 1).to_le_bytes());
        assert_eq!(a.handle_handshake(&cookie, &mut out, now), Err(TunnelError::NotAuthentic));
        assert!(out.is_empty() && a.is_handshaking());
        assert!(a.handle_handshake(&answer[0], &mut out, now).is_ok());
    }

    #[test]
    fn handshakes_of_strangers_and_for_others_are_refused() {
        let now = Instant::now();
        let mut b = pair().1;
        let mut stranger = Tunnel::new(&secret(9), &secret(2).public(), SlotIndex(1)).unwrap();
        let refused = b.handle_handshake(&stranger.initiate(now), &mut Vec::new(), now);
        assert_eq!(refused, Err(TunnelError::NotAuthentic));
        let mut elsewhere = Tunnel::new(&secret(1), &secret(9).public(), SlotIndex(1)).unwrap();
        let refused = b.handle_handshake(&elsewhere.initiate(now), &mut Vec::new(), now);
        assert_eq!(refused, Err(TunnelError::NotAuthentic));
    }

    #[test]
    fn the_initiator_is_named_by_its_message_alone() {
        let mut a = pair().0;
        let mut initiation = a.initiate(Instant::now());
        assert_eq!(initiator_of(&secret(2), &initiation), Some(secret(1).public()));
        assert_eq!(initiator_of(&secret(3), &initiation), None);
        initiation[100] ^= 1;
        assert_eq!(initiator_of(&secret(2), &initiation), None);
        assert_eq!(initiator_of(&secret(2), &[]), None);
    }

    #[test]
    fn a_fresh_tunnel_has_no_deadline_and_an_idle_session_only_its_expiry() {
        let (mut a, mut b) = pair();
        assert_eq!(a.poll_timeout(), None);
        let now = Instant::now();
        let _ = a.initiate(now);
        let (due, _) = a.poll_timeout().unwrap();
        assert_eq!(due, now + Duration::from_secs(5));
        shake(&mut a, &mut b, now);
        let mut out = Vec::new();
        a.handle_timeout(&mut out, now);
        let (due, reason) = a.poll_timeout().unwrap();
        assert_eq!((due.duration_since(now).as_secs(), reason), (180, "session expiry"));
        a.seal_to_vec(&packet(40), now).unwrap();
        assert_eq!(a.poll_timeout(), Some((now + Duration::from_secs(10), "session timers")));
        let later = now + Duration::from_secs(60);
        a.handle_timeout(&mut out, later);
        assert_eq!(a.poll_timeout().unwrap().1, "session expiry");
        let again = later + Duration::from_secs(60);
        a.seal_to_vec(&packet(40), again).unwrap();
        assert!(!a.is_overdue(again + Duration::from_secs(10)));
        assert!(a.is_overdue(again + Duration::from_secs(11)));
    }
}
