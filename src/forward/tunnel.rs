//! One peer's WireGuard sessions: the handshake, the transport and the timers of the WireGuard paper.
//!
//! | file | what |
//! |---|---|
//! | [`noise`] | the messages of the handshake, and the keys that come of it |
//! | [`timestamp`] | what tells an initiation from a replay |
//! | [`mac`] | MAC1, MAC2, cookies |
//! | [`session`] | the keys of one handshake: counters, and which of a peer's sessions seals |
//! | [`window`] | which counters were received |
//! | [`timers`] | what happens without a datagram |
//! | [`wipe`] | what a handshake leaves on the stack |
//!
//! The session layer is our own, and not boringtun's, for three reasons: its keys are private, and so
//! out of reach of the [`aead`](super::aead) that makes the data plane fast; it reads the clock, where
//! everything here but a handshake's timestamp is told the time; and it leaves out padding, Reject-After-Messages and a window that
//! several queues need. That both speak one protocol is tested: with boringtun beside this file, with
//! wireguard-go in namespaces. boringtun still judges who needs a cookie ([`mac`]).
//!
//! The timers belong to `mesh`, data to the workers. When data wakes a tunnel that slept, `mesh` does
//! not know: the slot says to the worker whether `mesh` [watches](super::slot::PeerSlot::watch), and
//! [`Tunnel::is_overdue`] whether a deadline passed; the worker passes it on.

mod mac;
mod noise;
mod session;
mod timers;
mod timestamp;
mod window;
mod wipe;

#[cfg(test)]
mod interop;

use std::time::{Duration, Instant};

use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

pub use super::outcome::{HandshakeOutcome, Opened, TunnelError};
pub(super) use mac::MacCheck;
pub use timestamp::Stamps;

use self::mac::{MacWriter, has_mac1, mac1_key};
use self::noise::{Claim, Statics, initiate};
use self::session::{Session, Sessions};
use self::timers::{Attempt, Timers};
use self::timestamp::Timestamp;
use self::wipe::wiped;
use super::SlotIndex;
use super::guard::handshake_class;
use super::packet::said_len;
use crate::identity::{WgPublicKey, WgSecret};
use crate::wire::classify::{Class, counter, receiver_index, sender_index};

/// What sealing adds to a padded packet: header 16, tag 16.
pub const SEAL_OVERHEAD: usize = 32;

/// Length of the header before the ciphertext of a transport datagram.
pub const DATA_HEADER: usize = 16;

/// Counters from here on are refused: Reject-After-Messages (paper, section 6.1).
pub const COUNTER_LIMIT: u64 = u64::MAX - (1 << 13);

/// Packets are padded to a multiple of this (paper, section 5.4.6).
const PADDING: usize = 16;

/// An initiation that comes sooner after one that was answered is not answered: 50 a second, as Linux'
/// WireGuard has it. A member with many addresses may pass the [`guard`](super::guard) more often,
/// and each answer costs three key agreements more than it takes to see whose it is.
const LEAST_GAP: Duration = Duration::from_millis(20);

/// How late the timers may be served before a worker says so: `mesh` sleeps and must be told.
const GRACE: Duration = Duration::from_secs(1);

/// A type 1 message of which it is known whom it names, and not yet whether that is its sender.
pub struct Initiation(Claim);

impl Initiation {
    /// Reads a message to `local`: MAC1 must be right, and the name is decrypted. One X25519, which is
    /// then not done again.
    pub fn read(local: &WgSecret, datagram: &[u8]) -> Option<Self> {
        let is_initiation = handshake_class(datagram) == Some(Class::Initiation);
        if !is_initiation || !has_mac1(&mac1_key(&local.public()), datagram) {
            return None;
        }
        Claim::read(local, datagram).map(Self)
    }

    /// The static key that it names. Only [`Tunnel::handle_initiation`] shows whether it is the
    /// sender's.
    pub fn names(&self) -> WgPublicKey {
        self.0.remote
    }
}

/// One peer's WireGuard sessions.
pub struct Tunnel {
    statics: Statics,
    mac1_key: [u8; 32],
    macs: MacWriter,
    slot: SlotIndex,
    /// The lower part of the last receiver index that was given out.
    last_number: u8,
    sessions: Sessions,
    attempt: Option<Attempt>,
    timers: Timers,
    stamps: Stamps,
    /// When an initiation of the peer's was last answered.
    answered_at: Option<Instant>,
    only_answers: bool,
    pad_limit: usize,
}

impl Tunnel {
    /// The tunnel of the device that holds `local` with the one that holds `remote`'s secret.
    /// `None` where the public key is a low-order point.
    pub fn new(local: &WgSecret, remote: &WgPublicKey, slot: SlotIndex) -> Option<Self> {
        Some(Self {
            statics: Statics::new(local, remote)?,
            mac1_key: mac1_key(&local.public()),
            macs: MacWriter::new(remote),
            slot,
            last_number: 0,
            sessions: Sessions::default(),
            attempt: None,
            timers: Timers::default(),
            stamps: Stamps::default(),
            answered_at: None,
            only_answers: false,
            pad_limit: usize::MAX,
        })
    }

    /// What the next tunnel with this device has to [`resume`](Self::resume).
    pub fn stamps(&self) -> Stamps {
        self.stamps
    }

    /// Goes on where an earlier tunnel with this device was.
    pub fn resume(&mut self, stamps: Stamps) {
        self.stamps = self.stamps.max(stamps);
    }

    /// Whether its timers begin no handshake: of a peer that never takes one.
    pub fn set_only_answers(&mut self, only_answers: bool) {
        self.only_answers = only_answers;
    }

    /// Drops all keys: the host slept, and [`Instant`] does not say for how long.
    pub fn forget(&mut self) {
        self.sessions = Sessions::default();
        self.attempt = None;
        self.timers = Timers::default();
    }

    /// Pads no packet beyond `mtu` bytes, so that a full packet still fits the path.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.pad_limit = usize::from(mtu);
    }

    /// Starts (or restarts at once) a handshake: one datagram to send. The 90 seconds of the attempt
    /// count anew.
    pub fn initiate(&mut self, now: Instant) -> Vec<u8> {
        if let Some(attempt) = &mut self.attempt {
            attempt.restart(now);
        }
        self.next_initiation(now)
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
        match handshake_class(datagram) {
            Some(Class::Initiation) => {
                let initiation = Initiation::read(&self.statics.local, datagram);
                self.handle_initiation(initiation.ok_or(TunnelError::NotAuthentic)?, out, now)
            }
            Some(Class::Response) => wiped(|| self.handle_response(datagram, out, now)),
            Some(Class::CookieReply) => {
                self.macs.store(datagram, now)?;
                Ok(HandshakeOutcome::CookieStored)
            }
            _ => Err(TunnelError::Malformed),
        }
    }

    /// Answers an initiation, as [`handle_handshake`](Self::handle_handshake) does: the session waits
    /// for the peer's first packet. One that comes right after another is passed over.
    pub fn handle_initiation(
        &mut self,
        initiation: Initiation,
        out: &mut Vec<Vec<u8>>,
        now: Instant,
    ) -> Result<HandshakeOutcome, TunnelError> {
        let proof = initiation.0.prove(&self.statics).ok_or(TunnelError::NotAuthentic)?;
        if proof.timestamp <= self.stamps.received {
            return Err(TunnelError::Replayed);
        }
        if self.answered_at.is_some_and(|at| now.saturating_duration_since(at) < LEAST_GAP) {
            return Ok(HandshakeOutcome::PassedOver);
        }
        (self.stamps.received, self.answered_at) = (proof.timestamp, Some(now));
        let (local, remote) = (self.next_index(), proof.sender());
        let answer = wiped(|| {
            let (response, keys) = proof.respond(local, &ephemeral())?;
            Some((response, Session::new(&keys, local, remote, false, now)))
        });
        let (mut response, session) = answer.ok_or(TunnelError::Malformed)?;
        self.macs.write(&mut response, now);
        self.sessions.offer(session);
        self.timers.note_received(false, now);
        self.timers.note_sent(false, now);
        out.push(response.to_vec());
        Ok(HandshakeOutcome::Responded)
    }

    /// Timers (rekey, retransmission, passive keepalive, expiry); `out` gets datagrams to send.
    pub fn handle_timeout(&mut self, out: &mut Vec<Vec<u8>>, now: Instant) {
        self.sessions.reject_old(now);
        self.attempt.take_if(|attempt| attempt.is_over(now));
        let repeats = self.attempt.as_ref().is_some_and(|attempt| attempt.due() <= now);
        let wanted = self.timers.take_handshake(now) && self.attempt.is_none();
        if repeats || (wanted && !self.only_answers) {
            out.push(self.next_initiation(now));
        }
        if self.timers.take_keepalive(now) {
            out.extend(self.seal_to_vec(&[], now));
        }
    }

    /// When `handle_timeout` is next due, and why; `None` without session and handshake.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let attempt = self.attempt.as_ref().map(|a| (a.due(), "handshake repetition"));
        let rejection = self.sessions.next_rejection().map(|at| (at, "session expiry"));
        [attempt, rejection, self.timers.poll()].into_iter().flatten().min()
    }

    /// Whether `handle_timeout` should have run by now, with a second of grace: `mesh` sleeps and
    /// must be told.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|(due, _)| due + GRACE <= now)
    }

    /// Whether a session can seal, as of the last call that was told the time.
    pub fn has_session(&self) -> bool {
        self.sessions.can_seal()
    }

    /// Whether a handshake that we started is under way.
    pub fn is_handshaking(&self) -> bool {
        self.attempt.is_some()
    }

    /// Time since the session in use was established.
    pub fn session_age(&self, now: Instant) -> Option<Duration> {
        self.sessions.born().map(|born| now.saturating_duration_since(born))
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
        let sealed = self.sealed_len(inner.len());
        let session = self.sessions.sealing().ok_or(TunnelError::NoSession)?;
        if session.is_rejected(now) {
            self.sessions.reject_old(now);
            return Err(TunnelError::NoSession);
        }
        let out = out.get_mut(..sealed).ok_or(TunnelError::BufferTooSmall)?;
        session.seal(inner, out)?;
        if session.is_old_for_sending(now) && self.attempt.is_none() {
            self.timers.note_old(now);
        }
        self.timers.note_sent(!inner.is_empty(), now);
        Ok(sealed)
    }

    /// Seals one inner packet (convenience for control; pads to 16).
    pub fn seal_to_vec(&mut self, inner: &[u8], now: Instant) -> Result<Vec<u8>, TunnelError> {
        let mut out = vec![0; self.sealed_len(inner.len())];
        let len = self.seal_into(inner, &mut out, now)?;
        out.truncate(len);
        Ok(out)
    }

    /// Opens a transport datagram into the start of `out`, which must have room for
    /// `datagram.len() − 32` bytes. On an error `out` holds nothing of use.
    pub fn open_into<'a>(
        &mut self,
        datagram: &[u8],
        out: &'a mut [u8],
        now: Instant,
    ) -> Result<Opened<'a>, TunnelError> {
        let (counter, local) =
            counter(datagram).zip(receiver_index(datagram)).ok_or(TunnelError::Malformed)?;
        let room = datagram.len() - SEAL_OVERHEAD;
        let out = out.get_mut(..room).ok_or(TunnelError::BufferTooSmall)?;
        let session = self.sessions.receiving(local).ok_or(TunnelError::NoSession)?;
        if session.is_rejected(now) {
            return Err(TunnelError::NoSession);
        }
        session.open(counter, &datagram[DATA_HEADER..], out)?;
        if session.is_old_for_receiving(now) && self.attempt.is_none() {
            self.timers.note_old(now);
        }
        if self.sessions.confirm(local) {
            // The peer's handshake did what ours was for.
            self.attempt = None;
            self.timers.note_renewed();
        }
        // What is malformed inside was still sealed by the peer.
        self.timers.note_received(!out.is_empty(), now);
        if out.is_empty() {
            return Ok(Opened::Keepalive);
        }
        let len = said_len(out).filter(|len| *len <= out.len()).ok_or(TunnelError::Malformed)?;
        Ok(Opened::Packet(&mut out[..len]))
    }

    /// Takes the answer to our initiation; a keepalive tells the peer that we have it.
    fn handle_response(
        &mut self,
        datagram: &[u8],
        out: &mut Vec<Vec<u8>>,
        now: Instant,
    ) -> Result<HandshakeOutcome, TunnelError> {
        let (local, remote) =
            receiver_index(datagram).zip(sender_index(datagram)).ok_or(TunnelError::Malformed)?;
        let initiated = self.attempt.as_ref().and_then(|attempt| attempt.initiation(local));
        let initiated = initiated.ok_or(TunnelError::NoSession)?;
        if !has_mac1(&self.mac1_key, datagram) {
            return Err(TunnelError::NotAuthentic);
        }
        let keys = initiated.finish(&self.statics, datagram).ok_or(TunnelError::NotAuthentic)?;
        self.attempt = None;
        self.timers.note_renewed();
        self.sessions.establish(Session::new(&keys, local, remote, true, now));
        self.timers.note_received(false, now);
        out.push(self.seal_to_vec(&[], now)?);
        Ok(HandshakeOutcome::Established)
    }

    /// The first initiation of an attempt, or one more.
    fn next_initiation(&mut self, now: Instant) -> Vec<u8> {
        let local = self.next_index();
        self.stamps.sent = Timestamp::after(self.stamps.sent);
        let (mut message, initiated) =
            wiped(|| initiate(&self.statics, local, self.stamps.sent, ephemeral()))
                .expect("the peer's key is of no low order, or there were no `Statics`");
        self.macs.write(&mut message, now);
        self.attempt = Some(match self.attempt.take() {
            Some(attempt) => attempt.repeated(local, initiated, now),
            None => Attempt::new(local, initiated, now),
        });
        self.timers.note_initiated();
        message.to_vec()
    }

    /// A receiver index that no session or initiation has: of these there are six at most.
    fn next_index(&mut self) -> u32 {
        loop {
            self.last_number = self.last_number.wrapping_add(1);
            let index = self.slot.0 << 8 | u32::from(self.last_number);
            let waits = self.attempt.as_ref().is_some_and(|a| a.initiation(index).is_some());
            if !waits && !self.sessions.holds(index) {
                return index;
            }
        }
    }
}

/// A fresh secret for one handshake. From the system and not from a generator of ours, whose state a
/// copy of the machine would share.
fn ephemeral() -> WgSecret {
    let mut bytes = Zeroizing::new([0; 32]);
    SysRng.try_fill_bytes(&mut *bytes).expect("getrandom(2) cannot fail for 32 bytes after boot");
    WgSecret::from_bytes(*bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::wire::classify::classify;

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
        let (mut a, mut b, now) = connected();
        let data = b.seal_to_vec(&packet(40), now).unwrap();
        a.open_into(&data, &mut [0; 256], now).unwrap();
        let later = now + Duration::from_secs(10);
        let mut forged = vec![7; 148];
        forged[..4].copy_from_slice(&[1, 0, 0, 0]);
        let mut out = Vec::new();
        assert!(a.handle_handshake(&forged, &mut out, later).is_err());
        assert_eq!(out, Vec::<Vec<u8>>::new());
        a.handle_timeout(&mut out, later);
        assert_eq!(out.len(), 1);
        assert_eq!(b.open_into(&out[0], &mut [0; 256], later), Ok(Opened::Keepalive));
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
        let short = b.open_into(&honest, &mut out[..63], now);
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
        assert!(a.has_session() && !a.is_handshaking());
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
        let named = |local: u8, message: &[u8]| {
            Initiation::read(&secret(local), message).map(|initiation| initiation.names())
        };
        assert_eq!(named(2, &initiation), Some(secret(1).public()));
        assert_eq!(named(3, &initiation), None);
        initiation[100] ^= 1;
        assert_eq!((named(2, &initiation), named(2, &[])), (None, None));
    }

    #[test]
    fn an_initiation_that_was_read_is_answered_by_the_tunnel_of_both_keys_alone() {
        let (mut a, mut b) = pair();
        let (now, mut out) = (Instant::now(), Vec::new());
        let message = a.initiate(now);
        let read = || Initiation::read(&secret(2), &message).unwrap();
        for (local, remote) in [(2, 9), (9, 1)] {
            let mut other =
                Tunnel::new(&secret(local), &secret(remote).public(), SlotIndex(3)).unwrap();
            let refused = other.handle_initiation(read(), &mut out, now);
            assert_eq!((refused, out.len()), (Err(TunnelError::NotAuthentic), 0));
        }
        let outcome = b.handle_initiation(read(), &mut out, now);
        assert_eq!(outcome, Ok(HandshakeOutcome::Responded));
        let outcome = a.handle_handshake(&out[0], &mut Vec::new(), now);
        assert_eq!(outcome, Ok(HandshakeOutcome::Established));
        assert_eq!(b.handle_initiation(read(), &mut out, now), Err(TunnelError::Replayed));
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
        let data = a.seal_to_vec(&packet(40), now).unwrap();
        assert_eq!(a.poll_timeout(), Some((now + Duration::from_secs(15), "nothing came back")));
        b.open_into(&data, &mut [0; 256], now).unwrap();
        assert_eq!(b.poll_timeout(), Some((now + Duration::from_secs(10), "passive keepalive")));
        assert!(!b.is_overdue(now + Duration::from_millis(10_999)));
        assert!(b.is_overdue(now + Duration::from_secs(11)));
    }

    /// What the timers of `tunnel` send until `until`, with the second at which they did.
    fn served(tunnel: &mut Tunnel, start: Instant, until: u64) -> Vec<(u64, Class)> {
        let mut sent = Vec::new();
        while let Some((due, _)) = tunnel.poll_timeout() {
            if due > start + Duration::from_secs(until) {
                break;
            }
            let mut out = Vec::new();
            tunnel.handle_timeout(&mut out, due);
            sent.extend(out.iter().map(|d| (due.duration_since(start).as_secs(), classify(d))));
        }
        sent
    }

    #[test]
    fn an_initiation_is_repeated_each_five_seconds_for_ninety() {
        let (mut a, _) = pair();
        let now = Instant::now();
        a.initiate(now);
        let expected: Vec<_> = (1..18).map(|n| (n * 5, Class::Initiation)).collect();
        assert_eq!(served(&mut a, now, 1000), expected);
        assert!(!a.is_handshaking() && a.poll_timeout().is_none());
    }

    #[test]
    fn a_tunnel_that_only_answers_calls_nobody_who_went_silent() {
        for (only_answers, calls) in [(true, 0), (false, 18)] {
            let (_, mut b, now) = connected();
            b.set_only_answers(only_answers);
            b.seal_to_vec(&packet(40), now).unwrap();
            assert_eq!(served(&mut b, now, 1000).len(), calls);
            assert!(!b.is_handshaking() && b.poll_timeout().is_none());
        }
    }

    #[test]
    fn an_idle_session_ends_after_three_minutes_and_costs_nothing_until_then() {
        let (mut a, mut b, now) = connected();
        for tunnel in [&mut a, &mut b] {
            assert_eq!(served(tunnel, now, 1000), []);
            assert!(!tunnel.has_session());
            let late = now + Duration::from_secs(181);
            assert_eq!(tunnel.seal_to_vec(&packet(40), late), Err(TunnelError::NoSession));
        }
    }

    #[test]
    fn an_old_session_neither_seals_nor_opens_even_if_no_timer_ran() {
        let (mut a, mut b, now) = connected();
        let sealed = a.seal_to_vec(&packet(40), now + Duration::from_secs(179)).unwrap();
        let late = now + Duration::from_secs(180);
        let mut out = [0; 256];
        assert_eq!(b.open_into(&sealed, &mut out, late), Err(TunnelError::NoSession));
        assert_eq!(a.seal_to_vec(&packet(40), late), Err(TunnelError::NoSession));
        assert!(!a.has_session());
    }

    #[test]
    fn the_initiator_renews_a_session_in_use_and_no_packet_is_lost() {
        let (mut a, mut b, start) = connected();
        let (mut lost, mut handshakes) = (0, 0);
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            let mut to_b = Vec::new();
            a.handle_timeout(&mut to_b, now);
            to_b.push(a.seal_to_vec(&packet(40), now).unwrap());
            for datagram in to_b {
                if classify(&datagram) == Class::Transport {
                    lost += u32::from(b.open_into(&datagram, &mut [0; 256], now).is_err());
                    continue;
                }
                handshakes += 1;
                let (mut response, mut confirmation) = (Vec::new(), Vec::new());
                b.handle_handshake(&datagram, &mut response, now).unwrap();
                a.handle_handshake(&response[0], &mut confirmation, now).unwrap();
                b.open_into(&confirmation[0], &mut [0; 256], now).unwrap();
            }
            let mut to_a = Vec::new();
            b.handle_timeout(&mut to_a, now);
            for keepalive in to_a {
                a.open_into(&keepalive, &mut [0; 256], now).unwrap();
            }
        }
        assert_eq!((lost, handshakes), (0, 4), "at 121, 242, 363 and 484 s");
    }

    #[test]
    fn on_a_slow_path_the_answer_to_the_first_of_two_initiations_makes_a_session_for_both() {
        let (mut a, mut b) = pair();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (first, mut response, mut confirmation) = (a.initiate(at(0)), Vec::new(), Vec::new());
        b.handle_handshake(&first, &mut response, at(600)).unwrap();
        let second = a.initiate(at(1000));
        a.handle_handshake(&response[0], &mut confirmation, at(1200)).unwrap();
        b.handle_handshake(&second, &mut response, at(1600)).unwrap();
        let mut out = [0; 256];
        assert_eq!(b.open_into(&confirmation[0], &mut out, at(1800)), Ok(Opened::Keepalive));
        let late = a.handle_handshake(&response[1], &mut confirmation, at(2200));
        assert_eq!(late, Err(TunnelError::NoSession));
        let data = a.seal_to_vec(&packet(40), at(2300)).unwrap();
        assert!(b.open_into(&data, &mut out, at(2900)).is_ok());
        let data = b.seal_to_vec(&packet(40), at(3000)).unwrap();
        assert!(a.open_into(&data, &mut out, at(3600)).is_ok());
    }

    #[test]
    fn of_a_flood_of_true_initiations_fifty_a_second_are_answered() {
        let (mut a, mut b) = pair();
        let (start, mut out) = (Instant::now(), Vec::new());
        let mut last = a.initiate(start);
        for ms in 0..1000 {
            let now = start + Duration::from_millis(ms);
            b.handle_handshake(&last, &mut out, now).unwrap();
            last = a.initiate(now);
        }
        assert_eq!(out.len(), 50);
        // What was passed over was not noted: it may come again.
        let later = start + Duration::from_millis(1000);
        let passed = a.initiate(later);
        assert_eq!(b.handle_handshake(&last, &mut out, later), Ok(HandshakeOutcome::Responded));
        let outcome = b.handle_handshake(&passed, &mut out, later);
        assert_eq!(outcome, Ok(HandshakeOutcome::PassedOver));
        let outcome = b.handle_handshake(&passed, &mut out, later + LEAST_GAP);
        assert_eq!((outcome, out.len()), (Ok(HandshakeOutcome::Responded), 52));
    }

    #[test]
    fn nothing_under_way_is_lost_when_both_renew_at_once() {
        let (mut a, mut b, start) = connected();
        for round in 1..=5 {
            let now = start + round * LEAST_GAP;
            let (from_a, from_b) = (a.initiate(now), b.initiate(now));
            let under_way = [&mut a, &mut b].map(|t| t.seal_to_vec(&packet(40), now).unwrap());
            let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
            a.handle_handshake(&from_b, &mut to_b, now).unwrap();
            b.handle_handshake(&from_a, &mut to_a, now).unwrap();
            a.handle_handshake(&to_a[0], &mut to_b, now).unwrap();
            b.handle_handshake(&to_b[0], &mut to_a, now).unwrap();
            let mut out = [0; 256];
            for late in [&to_b[1], &under_way[0]] {
                assert!(b.open_into(late, &mut out, now).is_ok());
            }
            for late in [&to_a[1], &under_way[1]] {
                assert!(a.open_into(late, &mut out, now).is_ok());
            }
        }
    }

    #[test]
    fn a_tunnel_that_is_made_anew_still_knows_a_replay() {
        let (mut a, mut b) = pair();
        let now = Instant::now();
        let initiation = a.initiate(now);
        b.handle_handshake(&initiation, &mut Vec::new(), now).unwrap();
        let mut again = pair().1;
        again.resume(b.stamps());
        let refused = again.handle_handshake(&initiation, &mut Vec::new(), now);
        assert_eq!(refused, Err(TunnelError::Replayed));
        assert!(again.handle_handshake(&a.initiate(now), &mut Vec::new(), now).is_ok());
    }

    #[test]
    fn after_a_sleep_no_key_from_before_is_used() {
        let (mut a, mut b, now) = connected();
        let sealed = a.seal_to_vec(&packet(40), now).unwrap();
        b.forget();
        assert_eq!(b.open_into(&sealed, &mut [0; 256], now), Err(TunnelError::NoSession));
        assert!(!b.has_session() && b.poll_timeout().is_none());
        shake(&mut b, &mut a, now);
    }

    #[test]
    fn a_renewal_that_the_peer_made_is_not_asked_for_again() {
        let (mut a, mut b, start) = connected();
        let now = start + Duration::from_secs(120);
        a.seal_to_vec(&packet(40), now).unwrap();
        shake(&mut b, &mut a, now);
        let mut out = Vec::new();
        a.handle_timeout(&mut out, now);
        assert_eq!(out, Vec::<Vec<u8>>::new());
    }

    #[test]
    fn both_may_begin_at_once() {
        let (mut a, mut b) = pair();
        let now = Instant::now();
        let (from_a, from_b) = (a.initiate(now), b.initiate(now));
        let (mut answer_a, mut answer_b) = (Vec::new(), Vec::new());
        a.handle_handshake(&from_b, &mut answer_a, now).unwrap();
        b.handle_handshake(&from_a, &mut answer_b, now).unwrap();
        let (mut confirm_a, mut confirm_b) = (Vec::new(), Vec::new());
        a.handle_handshake(&answer_b[0], &mut confirm_a, now).unwrap();
        b.handle_handshake(&answer_a[0], &mut confirm_b, now).unwrap();
        for (datagram, tunnel) in [(&confirm_b[0], &mut a), (&confirm_a[0], &mut b)] {
            assert_eq!(tunnel.open_into(datagram, &mut [0; 256], now), Ok(Opened::Keepalive));
        }
        let data = a.seal_to_vec(&packet(40), now).unwrap();
        assert!(b.open_into(&data, &mut [0; 256], now).is_ok());
        let data = b.seal_to_vec(&packet(40), now).unwrap();
        assert!(a.open_into(&data, &mut [0; 256], now).is_ok());
    }
}
