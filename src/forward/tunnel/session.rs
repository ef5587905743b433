//! Transport sessions: the keys of one handshake, and the three of them that a peer may have at a time
//! (paper, sections 5.4.6 and 6).

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

/// A peer's sessions.
#[derive(Default)]
pub(super) struct Sessions {
    /// Seals, and opens.
    current: Option<Box<Session>>,
    /// Opens what was under way when `current` took over.
    previous: Option<Box<Session>>,
    /// That of a handshake which the peer began. It seals once the peer used it: until then the initiation
    /// may have been a replay, or the response lost.
    next: Option<Box<Session>>,
}

impl Sessions {
    /// Our own handshake was answered.
    pub(super) fn establish(&mut self, session: Box<Session>) {
        self.previous = self.next.take().or_else(|| self.current.take());
        self.current = Some(session);
    }

    /// We answered a handshake.
    pub(super) fn offer(&mut self, session: Box<Session>) {
        self.previous = None;
        self.next = Some(session);
    }

    /// The peer used `local`; whether that made it the one that seals.
    pub(super) fn confirm(&mut self, local: u32) -> bool {
        if self.next.as_ref().is_none_or(|next| next.local != local) {
            return false;
        }
        self.previous = self.current.take();
        self.current = self.next.take();
        true
    }

    /// The session that seals.
    pub(super) fn sealing(&mut self) -> Option<&mut Session> {
        self.current.as_deref_mut()
    }

    /// The session that the peer addresses as `local`.
    pub(super) fn receiving(&mut self, local: u32) -> Option<&mut Session> {
        let all = [&mut self.current, &mut self.next, &mut self.previous];
        all.into_iter().flatten().find(|session| session.local == local).map(Box::as_mut)
    }

    /// Whether one can seal.
    pub(super) fn can_seal(&self) -> bool {
        self.current.is_some()
    }

    /// When the one that seals was made.
    pub(super) fn born(&self) -> Option<Instant> {
        self.current.as_ref().map(|session| session.born)
    }

    /// Whether `local` is in use.
    pub(super) fn holds(&self, local: u32) -> bool {
        self.all().any(|session| session.local == local)
    }

    /// When the keys of the oldest go.
    pub(super) fn next_rejection(&self) -> Option<Instant> {
        self.all().map(|session| session.rejected_at).min()
    }

    /// Drops the keys that are too old.
    pub(super) fn reject_old(&mut self, now: Instant) {
        for place in [&mut self.current, &mut self.previous, &mut self.next] {
            place.take_if(|session| session.is_rejected(now));
        }
    }

    fn all(&self) -> impl Iterator<Item = &Session> {
        [&self.current, &self.previous, &self.next].into_iter().flatten().map(Box::as_ref)
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

    #[test]
    fn a_new_session_takes_over_and_the_one_before_still_opens() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        sessions.establish(session(1, true, now));
        sessions.offer(session(2, false, now));
        assert_eq!(sessions.sealing().map(|session| session.local), Some(1));
        assert!(!sessions.confirm(1) && sessions.confirm(2) && !sessions.confirm(2));
        assert_eq!(sessions.sealing().map(|session| session.local), Some(2));
        assert!(sessions.receiving(1).is_some());
        sessions.establish(session(3, true, now));
        assert!(sessions.receiving(1).is_none() && sessions.receiving(2).is_some());
    }

    #[test]
    fn when_both_began_at_once_each_still_opens_what_the_other_seals() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        sessions.offer(session(2, false, now));
        sessions.establish(session(1, true, now));
        assert_eq!(sessions.sealing().map(|session| session.local), Some(1));
        assert!(sessions.receiving(2).is_some());
    }
}
