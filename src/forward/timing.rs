//! What boringtun's timers will have to do, and when.
//!
//! boringtun wants to be asked four times a second. An idle tunnel shall cost nothing, so this
//! mirrors, from the outside, which sessions and handshakes boringtun holds and when data last
//! flowed, and computes the next moment at which asking can have a result ([`Timing::poll`]):
//!
//! | while | asked |
//! |---|---|
//! | we initiated | when the initiation is to be repeated (Rekey-Timeout) |
//! | data flowed, either way | 10 s after the last of it (passive keepalive), and after 15 s (lost peer) |
//! | a session stands | when it expires (Reject-After-Time), so that its keys go |
//! | a handshake is remembered | once, when boringtun forgets it (3 × Reject-After-Time) |
//!
//! A session is not renewed for its own sake: with no data after Rekey-After-Time it ends, and the
//! next packet makes a new one.
//!
//! The timers belong to `mesh` (it *serves* them); the packet path runs them too, at most once a
//! second, when it finds boringtun's clock stale (it *ticks* them). So while data flows they run with
//! it, and `mesh` has to wake up only once it stopped.

use std::time::{Duration, Instant};

/// A session's keys are gone after this (Reject-After-Time).
const REJECT_AFTER: Duration = Duration::from_secs(180);

/// An initiation without an answer is repeated after this (Rekey-Timeout).
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);

/// A handshake is given up after this (Rekey-Attempt-Time).
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);

/// When boringtun forgets the last handshake too: three times Reject-After-Time.
const FORGET_AFTER: Duration = Duration::from_secs(540);

/// After the last data a passive keepalive is due where some came in unanswered (Keepalive-Timeout),
/// and a new handshake where some went out unanswered (and Rekey-Timeout).
const AFTER_DATA: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(15)];

/// How often the timers run while data flows: boringtun's are rounded to a second by design.
const ACTIVE_TICK: Duration = Duration::from_secs(1);

/// The shortest time between two runs of the timers, so that a clock that disagrees with
/// boringtun's by a little cannot make us spin.
const SHORTEST_TICK: Duration = Duration::from_millis(250);

/// boringtun keeps the sessions of this many handshakes.
const SESSIONS: usize = 8;

/// The mirror of one tunnel's timers.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// The sessions that boringtun holds, by its own ring: index modulo [`SESSIONS`].
    births: [Option<Birth>; SESSIONS],
    /// The local index of the session that seals.
    current: Option<u32>,
    attempt: Option<Attempt>,
    /// The last handshake that boringtun remembers.
    last_established: Option<Instant>,
    /// The last user or control packet, either way.
    last_data: Option<Instant>,
    /// When boringtun's timers ran last, and when `mesh` ran them last.
    ticked: Option<Instant>,
    /// When boringtun's clock counts as old: compared with for each packet.
    stale_at: Option<Instant>,
    served: Option<Instant>,
}

/// When a session was made.
#[derive(Debug, Clone, Copy)]
struct Birth {
    index: u32,
    at: Instant,
}

/// Our own handshake under way.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    started: Instant,
    sent: Instant,
    /// The sender index of the latest initiation.
    index: u32,
}

impl Timing {
    /// When the timers are to be served next, and why.
    pub(super) fn poll(&self) -> Option<(Instant, &'static str)> {
        let served = self.served.or(self.ticked)?;
        let handshake = self.attempt.map(|a| (a.sent + REKEY_TIMEOUT, "handshake repetition"));
        let expiry = self.births.iter().flatten().map(|birth| birth.at + REJECT_AFTER).min();
        let expiry = expiry.map(|at| (at + SHORTEST_TICK, "session expiry"));
        let moments = self.last_data.map(|data| AFTER_DATA.map(|after| data + after));
        let active = moments.into_iter().flatten().find(|at| *at > served);
        let active = active.map(|at| (at, "session timers"));
        let forget = self.last_established.map(|at| (at + FORGET_AFTER, "handshake oblivion"));
        let (due, reason) = [handshake, expiry, active, forget].into_iter().flatten().min()?;
        Some((due.max(served + SHORTEST_TICK), reason))
    }

    /// When the timers ran last.
    pub(super) fn ticked(&self) -> Option<Instant> {
        self.ticked
    }

    /// Whether boringtun's clock is so old that the packet path has to move it.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.stale_at.is_none_or(|at| now >= at)
    }

    /// Whether a deadline that is `due` was missed, with a second of grace.
    pub(super) fn is_missed(due: Instant, now: Instant) -> bool {
        due + ACTIVE_TICK <= now
    }

    /// Whether a handshake that we started is under way.
    pub(super) fn is_handshaking(&self) -> bool {
        self.attempt.is_some()
    }

    /// Time since the session that seals was made.
    pub(super) fn session_age(&self, now: Instant) -> Option<Duration> {
        let at = self.birth(self.current?)?;
        Some(now.saturating_duration_since(at))
    }

    /// boringtun's timers ran; what it must have dropped by now is dropped here too.
    pub(super) fn note_tick(&mut self, now: Instant) {
        self.ticked = Some(now);
        self.stale_at = Some(now + ACTIVE_TICK);
        let older = |at: Instant, limit| now.saturating_duration_since(at) > limit;
        // A second later than boringtun, whose clock may be behind ours by a little.
        for birth in &mut self.births {
            birth.take_if(|birth| older(birth.at, REJECT_AFTER + ACTIVE_TICK));
        }
        self.attempt.take_if(|attempt| older(attempt.started, REKEY_ATTEMPT + REKEY_TIMEOUT));
    }

    /// `mesh` ran the timers.
    pub(super) fn note_served(&mut self, now: Instant) {
        self.served = Some(now);
    }

    /// A packet with something in it was sealed or opened.
    pub(super) fn note_data(&mut self, now: Instant) {
        self.last_data = Some(now);
    }

    /// An initiation with this sender index goes out; the 90 s count from the first of an attempt.
    pub(super) fn initiated(&mut self, index: u32, now: Instant) {
        let started = self.attempt.map_or(now, |attempt| attempt.started);
        self.attempt = Some(Attempt { started, sent: now, index });
    }

    /// The next initiation begins a new attempt.
    pub(super) fn restart(&mut self) {
        self.attempt = None;
    }

    /// We answered an initiation; the session has this index, and does not seal yet.
    pub(super) fn responded(&mut self, index: u32, now: Instant) {
        self.births[place(index)] = Some(Birth { index, at: now });
        self.last_established = Some(now);
        // boringtun dropped our own attempt in favour of the peer's.
        self.attempt = None;
    }

    /// Our initiation with this index was answered; the session seals.
    pub(super) fn established(&mut self, index: u32, now: Instant) {
        self.births[place(index)] = Some(Birth { index, at: now });
        self.last_established = Some(now);
        self.current = Some(index);
        // The answer to an older initiation leaves the newer one open in boringtun: its timer must
        // still run.
        self.attempt.take_if(|attempt| attempt.index == index);
    }

    /// The peer used the session `index`: where it is the newest, it seals from now on.
    pub(super) fn confirmed(&mut self, index: u32) {
        if self.current != Some(index)
            && self.current.and_then(|current| self.birth(current)) <= self.birth(index)
        {
            self.current = Some(index);
        }
    }

    /// boringtun gave up and holds nothing any more: either after the attempt's 90 s, or because
    /// the last session is 540 s old. Whether an attempt is under way that has to go on.
    pub(super) fn expired(&mut self, now: Instant) -> bool {
        self.births = [None; SESSIONS];
        self.current = None;
        self.last_established = None;
        self.attempt.take_if(|a| now.saturating_duration_since(a.started) >= REKEY_ATTEMPT);
        self.attempt.is_some()
    }

    fn birth(&self, index: u32) -> Option<Instant> {
        self.births[place(index)].filter(|birth| birth.index == index).map(|birth| birth.at)
    }
}

/// The place of a session in boringtun's ring.
fn place(index: u32) -> usize {
    index as usize % SESSIONS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// The moments, in seconds from the start, at which a tunnel is served.
    fn served(timing: &mut Timing, start: Instant, until: u64) -> Vec<u64> {
        let mut moments = Vec::new();
        while let Some((due, _)) = timing.poll() {
            if due > start + seconds(until) {
                break;
            }
            timing.note_tick(due);
            timing.note_served(due);
            if due >= start + FORGET_AFTER {
                timing.expired(due);
            }
            moments.push(due.duration_since(start).as_secs());
        }
        moments
    }

    #[test]
    fn an_idle_session_is_served_when_it_expires_and_when_it_is_forgotten() {
        let (mut timing, start) = (Timing::default(), Instant::now());
        assert_eq!(timing.poll(), None);
        timing.note_tick(start);
        timing.initiated(1, start);
        timing.established(1, start);
        let moments = served(&mut timing, start, 10_000);
        assert!(moments.len() <= 8, "{moments:?}");
        assert!(moments.contains(&180) && moments.ends_with(&[540]));
        assert_eq!(timing.poll(), None);
    }

    #[test]
    fn the_timers_run_when_data_stopped_ten_and_fifteen_seconds_ago() {
        let (mut timing, start) = (Timing::default(), Instant::now());
        timing.note_tick(start);
        timing.established(1, start);
        timing.note_data(start);
        let moments = served(&mut timing, start, 100);
        assert_eq!(moments, [10, 15]);
    }

    #[test]
    fn an_attempt_is_given_up_after_ninety_seconds_even_if_boringtun_says_nothing() {
        let (mut timing, start) = (Timing::default(), Instant::now());
        timing.note_tick(start);
        timing.initiated(1, start);
        let moments = served(&mut timing, start, 10_000);
        assert_eq!(moments.last(), Some(&95));
        assert_eq!(timing.poll(), None);
    }

    #[test]
    fn an_attempt_outlives_the_oblivion_of_the_session_before() {
        let (mut timing, start) = (Timing::default(), Instant::now());
        timing.established(1, start);
        timing.initiated(2, start + seconds(535));
        assert!(timing.expired(start + seconds(540)));
        assert!(!timing.expired(start + seconds(535 + 90)));
    }

    #[test]
    fn an_older_session_never_takes_over_from_a_newer_one() {
        let (mut timing, start) = (Timing::default(), Instant::now());
        timing.established(1, start);
        timing.responded(2, start + seconds(100));
        assert_eq!(timing.session_age(start + seconds(101)), Some(seconds(101)));
        timing.confirmed(2);
        assert_eq!(timing.session_age(start + seconds(101)), Some(seconds(1)));
        timing.confirmed(1);
        assert_eq!(timing.session_age(start + seconds(101)), Some(seconds(1)));
    }
}
