//! One address of the peer: what was asked, what was answered, and when to ask next.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{BURST, DEAD_AFTER, RETRY};

/// How long an answer speaks for the present: the time a search takes, so that everything that
/// answered in it is compared.
const FRESH: Duration = Duration::from_secs(10);

/// The least time before silence means something: twice the jitter of a bad Wi-Fi.
const PATIENCE_MIN: Duration = Duration::from_millis(300);

/// A retry of the primary is never due later than it is given up.
const PATIENCE_MAX: Duration = DEAD_AFTER;

/// More checks than so many must go unanswered before the primary is dead, however late the timers run.
const DEAD_CHECKS: u32 = 3;

/// How many answers end a burst: the first may have waited for ARP or a sleeping radio, and two
/// more tell.
const SAMPLES: u32 = 3;

/// The state of one address.
#[derive(Debug)]
pub(super) struct Route {
    /// The peer names it; otherwise it only sent from there.
    pub listed: bool,
    /// When it became known.
    known_at: Instant,
    /// When the burst or search asks it next.
    pub due: Option<Instant>,
    /// How many checks of the burst were sent.
    round: u32,
    /// How many were answered.
    samples: u32,
    /// Whether a whole burst went unanswered.
    pub silent: bool,
    /// When it was last asked, and last asked us.
    pub asked_at: Option<Instant>,
    pub heard_at: Option<Instant>,
    /// The smoothed round trip and the time of the last answer.
    answer: Option<(Duration, Instant)>,
    /// The checks since then.
    pub unanswered: Option<Unanswered>,
    /// Our address as the peer sees it on this path.
    pub observed: Option<SocketAddr>,
}

/// Checks that were not answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unanswered {
    /// When the first of them was sent.
    pub since: Instant,
    /// How many.
    pub count: u32,
    /// Whether the silence is long enough to look for another path.
    pub alarm: bool,
}

impl Route {
    pub fn new(listed: bool, now: Instant) -> Self {
        Self {
            listed,
            known_at: now,
            due: None,
            round: 0,
            samples: 0,
            silent: false,
            asked_at: None,
            heard_at: None,
            answer: None,
            unanswered: None,
            observed: None,
        }
    }

    /// It answered, and was not found dead since.
    pub fn is_validated(&self) -> bool {
        self.answer.is_some()
    }

    /// It answered so lately that its round trip can be compared.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.answered_at().is_some_and(|at| now.saturating_duration_since(at) <= FRESH)
    }

    pub fn rtt(&self) -> Option<Duration> {
        self.answer.map(|(rtt, _)| rtt)
    }

    pub fn answered_at(&self) -> Option<Instant> {
        self.answer.map(|(_, at)| at)
    }

    pub fn start_burst(&mut self, now: Instant) {
        self.due = Some(now);
        self.round = 0;
        self.samples = 0;
    }

    /// One check of the burst was sent. After the last one the search goes on with gaps of 2, 4,
    /// 8, … seconds up to `hunt`, times `spread`, or ends where that is `None`.
    pub fn advance_burst(&mut self, hunt: Option<Duration>, spread: f64, now: Instant) {
        self.round = self.round.saturating_add(1);
        let round = self.round as usize;
        self.silent |= round >= BURST.len() && self.samples == 0;
        self.due = match BURST.get(round) {
            Some(at) => Some(now + (*at - BURST[round - 1])),
            None => hunt.map(|longest| {
                let doublings = (self.round - BURST.len() as u32 + 1).min(16);
                now + Duration::from_secs(1 << doublings).min(longest).mul_f64(spread)
            }),
        };
    }

    /// Two checks, 600 ms apart: the end of a burst.
    pub fn start_short_burst(&mut self, now: Instant) {
        self.due = Some(now);
        self.round = BURST.len() as u32 - 2;
    }

    pub fn asked(&mut self, now: Instant) {
        self.asked_at = Some(now);
        let first = Unanswered { since: now, count: 0, alarm: false };
        self.unanswered.get_or_insert(first).count += 1;
    }

    pub fn answered(&mut self, rtt: Duration, now: Instant) {
        // Down at once, since nothing but the path makes an answer early; up by a quarter, since
        // much makes one late.
        let smoothed = match self.answer {
            Some((old, _)) if self.is_fresh(now) && rtt > old => (old * 3 + rtt) / 4,
            Some(_) | None => rtt,
        };
        self.answer = Some((smoothed, now));
        self.unanswered = None;
        self.silent = false;
        self.samples += 1;
        if self.samples >= SAMPLES {
            self.due = None;
        }
    }

    pub fn invalidate(&mut self) {
        self.answer = None;
        self.unanswered = None;
        self.observed = None;
    }

    /// How long an answer may take before it is missed.
    pub fn patience(&self) -> Duration {
        (self.rtt().unwrap_or_default() * 3).clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    /// When the primary is asked again or given up.
    pub fn retry_at(&self, unanswered: &Unanswered) -> Instant {
        let asked_at = self.asked_at.unwrap_or(unanswered.since);
        match unanswered.count {
            0 | 1 => unanswered.since + self.patience() / 2,
            2 => unanswered.since + self.patience(),
            DEAD_CHECKS => asked_at + RETRY,
            _ => (asked_at + RETRY).min((unanswered.since + DEAD_AFTER).max(asked_at)),
        }
    }

    pub fn is_dead(&self, now: Instant) -> bool {
        self.unanswered.is_some_and(|unanswered| {
            unanswered.count > DEAD_CHECKS && now >= unanswered.since + DEAD_AFTER
        })
    }

    /// Whether the silence has just become long enough to look for another path.
    pub fn raises_alarm(&mut self, now: Instant) -> bool {
        let patience = self.patience();
        let Some(unanswered) = &mut self.unanswered else { return false };
        let long = unanswered.count >= 2 && now >= unanswered.since + patience;
        long && !std::mem::replace(&mut unanswered.alarm, true)
    }

    /// Orders addresses by how much their loss would hurt: answered last, then heard of last.
    pub fn usefulness(&self) -> (Option<Instant>, Instant) {
        (self.answered_at(), self.heard_at.unwrap_or(self.known_at))
    }
}
