//! Transport sessions: the keys of one handshake, and those that a peer may have at a time (paper,
//! sections 5.4.6 and 6).

use std::time::{Duration, Instant};

use super::noise::Keys;
use super::window::ReplayWindow;
use super::{COUNTER_LIMIT, DATA_HEADER, SEAL_OVERHEAD};
use crate::forward::aead::TransportKey;
use crate::forward::outcome::TunnelError;

/// The initiator renews a session that it sends on after this (Rekey-After-Time).
const REKEY_AFTER: Duration = Duration::from_secs(120);

/// A session's keys are gone after this (Reject-After-Time).
pub(super) const REJECT_AFTER: Duration = Duration::from_secs(180);

/// The initiator renews a session on which it only receives after this: time enough for a passive
/// keepalive and a handshake before it is rejected (paper, section 6.2).
const REKEY_AFTER_RECEIVING: Duration = Duration::from_secs(165);

/// A session is renewed after so many packets (Rekey-After-Messages).
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;

/// The keys that came of one handshake.
pub(super) struct Session {
    /// Under which the peer sends to us, and we to the peer.
    pub(super) local: u32,
    remote: u32,
    send: TransportKey,
    receive: TransportKey,
    next_counter: u64,
    window: ReplayWindow,
    born: Instant,
    rejected_at: Instant,
    /// When sending and receiving ask for a new one; `None` where the peer made this one.
    renewed_at: Option<Renewal>,
}

/// The initiator's moments.
#[derive(Clone, Copy)]
struct Renewal {
    sending: Instant,
    receiving: Instant,
}

impl Session {
    pub(super) fn new(
        keys: &Keys,
        local: u32,
        remote: u32,
        initiated: bool,
        now: Instant,
    ) -> Box<Self> {
        let renewal =
            Renewal { sending: now + REKEY_AFTER, receiving: now + REKEY_AFTER_RECEIVING };
        Box::new(Self {
            local,
            remote,
            send: TransportKey::new(&keys.send),
            receive: TransportKey::new(&keys.receive),
            next_counter: 0,
            window: ReplayWindow::default(),
            born: now,
            rejected_at: now + REJECT_AFTER,
            renewed_at: initiated.then_some(renewal),
        })
    }

    /// Seals `inner`, padded with zeroes to `out.len() − 32` bytes, as one transport datagram that
    /// fills `out`.
    pub(super) fn seal(&mut self, inner: &[u8], out: &mut [u8]) -> Result<(), TunnelError> {
        debug_assert!(out.len() >= inner.len() + SEAL_OVERHEAD);
        let counter = self.next_counter;
        if counter >= COUNTER_LIMIT {
            return Err(TunnelError::CounterLimit);
        }
        self.next_counter += 1;
        let (header, sealed) = out.split_at_mut(DATA_HEADER);
        header[..4].copy_from_slice(&[4, 0, 0, 0]);
        header[4..8].copy_from_slice(&self.remote.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
        self.send.seal_into(counter, inner, sealed);
        Ok(())
    }

    /// Opens what follows a transport header into `out`, 16 bytes less.
    pub(super) fn open(
        &mut self,
        counter: u64,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), TunnelError> {
        if counter >= COUNTER_LIMIT {
            return Err(TunnelError::CounterLimit);
        }
        if !self.window.is_new(counter) {
            return Err(TunnelError::Replayed);
        }
        self.receive.open_into(counter, sealed, out).map_err(|_| TunnelError::NotAuthentic)?;
        self.window.note(counter);
        Ok(())
    }

    pub(super) fn is_rejected(&self, now: Instant) -> bool {
        now >= self.rejected_at
    }

    /// Whether a packet that is sent now asks for a new session.
    pub(super) fn is_old_for_sending(&self, now: Instant) -> bool {
        self.renewed_at.is_some_and(|at| now >= at.sending)
            || self.next_counter >= REKEY_AFTER_MESSAGES
    }

    /// Whether a packet that was received now asks for a new session.
    pub(super) fn is_old_for_receiving(&self, now: Instant) -> bool {
        self.renewed_at.is_some_and(|at| now >= at.receiving)
    }
}

/// Sessions that a peer may have at a time: the one that seals, and of two that were renewed at once, or
/// of handshakes that were repeated, those on which the peer may still send.
const SESSIONS: usize = 4;

/// A peer's sessions, the newest last.
///
/// That of our own handshake seals at once. That of the peer's handshake seals once the peer used it: until
/// then the initiation may have been a replay, or the response lost. All open until they are rejected, or
/// pushed out by newer ones, so nothing that is under way is lost when another takes over.
#[derive(Default)]
pub(super) struct Sessions {
    #[expect(clippy::vec_box, reason = "keys do not move: a copy left behind would not be wiped")]
    all: Vec<Box<Session>>,
    /// The local index of the one that seals.
    sealing: Option<u32>,
}

impl Sessions {
    /// Our own handshake was answered.
    pub(super) fn establish(&mut self, session: Box<Session>) {
        let local = session.local;
        self.offer(session);
        self.sealing = Some(local);
    }

    /// We answered a handshake.
    pub(super) fn offer(&mut self, session: Box<Session>) {
        if self.all.len() == SESSIONS {
            let kept = self.sealing;
            let oldest = self.all.iter().position(|session| Some(session.local) != kept);
            self.all.remove(oldest.unwrap_or(0));
        }
        self.all.push(session);
    }

    /// The peer used `local`; whether that made it the one that seals: an older one never does.
    pub(super) fn confirm(&mut self, local: u32) -> bool {
        if self.sealing == Some(local) {
            return false;
        }
        let place = |wanted| self.all.iter().position(|session| session.local == wanted);
        let takes_over = place(local) > self.sealing.and_then(place);
        if takes_over {
            self.sealing = Some(local);
        }
        takes_over
    }

    /// The session that seals.
    pub(super) fn sealing(&mut self) -> Option<&mut Session> {
        self.receiving(self.sealing?)
    }

    /// The session that the peer addresses as `local`.
    pub(super) fn receiving(&mut self, local: u32) -> Option<&mut Session> {
        self.all.iter_mut().rev().find(|session| session.local == local).map(Box::as_mut)
    }

    /// Whether one can seal.
    pub(super) fn can_seal(&self) -> bool {
        self.sealing.is_some()
    }

    /// When the one that seals was made.
    pub(super) fn born(&self) -> Option<Instant> {
        let sealing = self.sealing?;
        self.all.iter().find(|session| session.local == sealing).map(|session| session.born)
    }

    /// Whether `local` is in use.
    pub(super) fn holds(&self, local: u32) -> bool {
        self.all.iter().any(|session| session.local == local)
    }

    /// When the keys of the oldest go.
    pub(super) fn next_rejection(&self) -> Option<Instant> {
        self.all.iter().map(|session| session.rejected_at).min()
    }

    /// Drops the keys that are too old.
    pub(super) fn reject_old(&mut self, now: Instant) {
        self.all.retain(|session| !session.is_rejected(now));
        self.sealing = self.sealing.filter(|local| self.holds(*local));
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn session(local: u32, initiated: bool, now: Instant) -> Box<Session> {
        let keys = Keys { send: Zeroizing::new([1; 32]), receive: Zeroizing::new([1; 32]) };
        Session::new(&keys, local, 7, initiated, now)
    }

    #[test]
    fn sealing_and_opening_stop_at_the_counter_limit_and_no_counter_is_used_twice() {
        let mut session = session(1, true, Instant::now());
        session.next_counter = COUNTER_LIMIT - 2;
        let mut out = [0; 48];
        for used in [COUNTER_LIMIT - 2, COUNTER_LIMIT - 1] {
            assert_eq!(session.seal(&[9; 16], &mut out), Ok(()));
            assert_eq!(out[8..16], used.to_le_bytes());
        }
        let last = out;
        assert_eq!(session.seal(&[9; 16], &mut out), Err(TunnelError::CounterLimit));
        let mut inner = [0; 16];
        assert_eq!(session.open(COUNTER_LIMIT - 1, &last[16..], &mut inner), Ok(()));
        assert_eq!(inner, [9; 16]);
        let refused = session.open(COUNTER_LIMIT, &last[16..], &mut inner);
        assert_eq!(refused, Err(TunnelError::CounterLimit));
    }

    #[test]
    fn a_session_is_renewed_by_its_initiator_or_after_very_many_packets() {
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        let (mut ours, mut theirs) = (session(1, true, now), session(2, false, now));
        assert!(!ours.is_old_for_sending(later(119)) && ours.is_old_for_sending(later(120)));
        assert!(!ours.is_old_for_receiving(later(164)) && ours.is_old_for_receiving(later(165)));
        assert!(!theirs.is_old_for_sending(later(179)) && !theirs.is_old_for_receiving(later(179)));
        for session in [&mut ours, &mut theirs] {
            session.next_counter = REKEY_AFTER_MESSAGES;
            assert!(session.is_old_for_sending(now));
        }
    }

    fn sealing(sessions: &mut Sessions) -> Option<u32> {
        sessions.sealing().map(|session| session.local)
    }

    #[test]
    fn a_new_session_takes_over_once_it_is_used_and_those_before_still_open() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        sessions.establish(session(1, true, now));
        sessions.offer(session(2, false, now));
        assert_eq!(sealing(&mut sessions), Some(1));
        assert!(!sessions.confirm(1) && sessions.confirm(2) && !sessions.confirm(2));
        assert_eq!(sealing(&mut sessions), Some(2));
        assert!(!sessions.confirm(1), "an older one never takes over");
        sessions.establish(session(3, true, now));
        assert!(sessions.receiving(1).is_some() && sessions.receiving(2).is_some());
    }

    #[test]
    fn the_peer_may_use_the_older_of_two_that_were_offered() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        sessions.offer(session(1, false, now));
        sessions.offer(session(2, false, now));
        assert!(!sessions.can_seal() && sessions.confirm(1));
        assert_eq!(sealing(&mut sessions), Some(1));
        assert!(sessions.confirm(2));
    }

    #[test]
    fn whoever_begins_ever_new_handshakes_pushes_out_all_but_the_one_that_seals() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        sessions.establish(session(1, true, now));
        for local in 2..100 {
            sessions.offer(session(local, false, now));
        }
        assert_eq!((sealing(&mut sessions), sessions.all.len()), (Some(1), SESSIONS));
        assert!(sessions.receiving(99).is_some() && sessions.receiving(96).is_none());
        sessions.reject_old(now + REJECT_AFTER);
        assert!(!sessions.can_seal() && sessions.next_rejection().is_none());
    }
}
