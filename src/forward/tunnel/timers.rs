//! When a tunnel has something to do by itself (paper, section 6).
//!
//! | after | what |
//! |---|---|
//! | an initiation without an answer | another, each 5 s (Rekey-Timeout), for 90 s (Rekey-Attempt-Time) |
//! | data that came in, and nothing sent since | a keepalive, 10 s later (Keepalive-Timeout) |
//! | data sent, and nothing authentic since | a handshake, 15 s later |
//! | a packet on a session that is old | a handshake, at once, by whoever began the session |
//! | 180 s of a session | its keys go (Reject-After-Time) |
//!
//! No data, no deadline but the last: an idle tunnel costs nothing, and a session is not renewed for its
//! own sake.

use std::time::{Duration, Instant};

use super::noise::Initiated;

/// An initiation without an answer is repeated after this (Rekey-Timeout).
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);

/// A handshake is given up after this (Rekey-Attempt-Time).
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);

/// Data that was received is answered with a keepalive after this (Keepalive-Timeout).
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Data that was sent and not answered means a lost peer after this: its keepalive did not come.
const SILENCE: Duration = KEEPALIVE.saturating_add(REKEY_TIMEOUT);

/// What data calls for later; each is due at the moment it holds.
#[derive(Debug, Default)]
pub(super) struct Timers {
    keepalive: Option<Instant>,
    silence: Option<Instant>,
    renewal: Option<Instant>,
}

impl Timers {
    /// Anything was sent; `data`: something with content, not only a keepalive or a handshake.
    pub(super) fn note_sent(&mut self, data: bool, now: Instant) {
        self.keepalive = None;
        if data {
            self.silence.get_or_insert_with(|| now + SILENCE);
        }
    }

    /// Something authentic was received.
    pub(super) fn note_received(&mut self, data: bool, now: Instant) {
        self.silence = None;
        if data {
            self.keepalive.get_or_insert_with(|| now + KEEPALIVE);
        }
    }

    /// A packet went over a session that is old.
    pub(super) fn note_old(&mut self, now: Instant) {
        self.renewal.get_or_insert(now);
    }

    /// A new session seals.
    pub(super) fn note_renewed(&mut self) {
        self.renewal = None;
    }

    /// An initiation goes out: whatever called for it is served.
    pub(super) fn note_initiated(&mut self) {
        (self.keepalive, self.silence, self.renewal) = (None, None, None);
    }

    /// Whether a handshake is due; asked once.
    pub(super) fn take_handshake(&mut self, now: Instant) -> bool {
        let silent = self.silence.take_if(|at| *at <= now).is_some();
        self.renewal.take_if(|at| *at <= now).is_some() || silent
    }

    /// Whether a keepalive is due; asked once.
    pub(super) fn take_keepalive(&mut self, now: Instant) -> bool {
        self.keepalive.take_if(|at| *at <= now).is_some()
    }

    /// The next of them.
    pub(super) fn poll(&self) -> Option<(Instant, &'static str)> {
        let named = [
            (self.keepalive, "passive keepalive"),
            (self.silence, "nothing came back"),
            (self.renewal, "an old session is used"),
        ];
        named.into_iter().filter_map(|(at, reason)| Some((at?, reason))).min()
    }
}

/// Our own handshake under way.
pub(super) struct Attempt {
    started: Instant,
    sent: Instant,
    newest: (u32, Box<Initiated>),
    /// A late answer to the initiation before is as good.
    before: Option<(u32, Box<Initiated>)>,
}

impl Attempt {
    /// An attempt whose first initiation, under the index `local`, goes out now.
    pub(super) fn new(local: u32, initiated: Box<Initiated>, now: Instant) -> Self {
        Self { started: now, sent: now, newest: (local, initiated), before: None }
    }

    /// Somebody asked anew: the 90 seconds begin here.
    pub(super) fn restart(&mut self, now: Instant) {
        self.started = now;
    }

    /// The same attempt with another initiation.
    pub(super) fn repeated(self, local: u32, initiated: Box<Initiated>, now: Instant) -> Self {
        Self { sent: now, newest: (local, initiated), before: Some(self.newest), ..self }
    }

    /// The initiation under `local`.
    pub(super) fn initiation(&self, local: u32) -> Option<&Initiated> {
        let all = [Some(&self.newest), self.before.as_ref()];
        all.into_iter()
            .flatten()
            .find(|(index, _)| *index == local)
            .map(|(_, initiated)| &**initiated)
    }

    /// When it is to be repeated, or given up.
    pub(super) fn due(&self) -> Instant {
        self.sent + REKEY_TIMEOUT
    }

    /// Whether it was tried for long enough.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) >= REKEY_ATTEMPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn data_in_is_answered_once_ten_seconds_after_the_first_of_it() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        for second in [0, 4, 8] {
            timers.note_received(true, at(start, second));
        }
        assert_eq!(timers.poll(), Some((at(start, 10), "passive keepalive")));
        assert!(!timers.take_keepalive(at(start, 9)));
        assert!(timers.take_keepalive(at(start, 10)) && !timers.take_keepalive(at(start, 10)));
        timers.note_received(false, at(start, 11));
        assert_eq!(timers.poll(), None);
    }

    #[test]
    fn whoever_sends_anything_owes_no_keepalive() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        timers.note_received(true, start);
        timers.note_sent(false, at(start, 1));
        assert_eq!(timers.poll(), None);
    }

    #[test]
    fn a_peer_that_says_nothing_to_data_for_fifteen_seconds_is_called_anew() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        timers.note_sent(true, start);
        timers.note_sent(true, at(start, 14));
        assert_eq!(timers.poll(), Some((at(start, 15), "nothing came back")));
        assert!(timers.take_handshake(at(start, 15)));
        timers.note_sent(true, at(start, 20));
        timers.note_received(false, at(start, 21));
        assert_eq!(timers.poll(), None);
    }

    #[test]
    fn one_way_data_once_in_eight_seconds_is_kept_alive_without_handshakes() {
        let (mut near, mut far, start) = (Timers::default(), Timers::default(), Instant::now());
        let mut keepalives = 0;
        for second in 0..400 {
            let now = at(start, second);
            if second % 8 == 0 {
                near.note_sent(true, now);
                far.note_received(true, now);
            }
            if far.take_keepalive(now) {
                far.note_sent(false, now);
                near.note_received(false, now);
                keepalives += 1;
            }
            assert!(!near.take_handshake(now), "second {second}");
        }
        assert!((20..=25).contains(&keepalives), "{keepalives} keepalives");
    }
}
