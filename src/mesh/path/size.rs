//! How large a datagram may be on the path in use: packetization layer path MTU discovery for
//! datagrams (RFC 8899).
//!
//! # What has which size
//!
//! The interface has one MTU ([`MTU`]), that of an Ethernet less what the tunnel adds, because bulk
//! transfers cost CPU by the packet. What a path carries whole is found for each path and is
//! mostly that much. Where it is less, the interface stays as it is, and the packet path makes fit
//! what does not ([`forward::egress`](crate::forward::egress)): TCP is cut into smaller segments,
//! so that no connection ever notices; what may be fragmented is; what may not is answered as a
//! router would, and the host sends less from then on (RFC 1191, RFC 8201). No size is ever relied
//! on that did not pass, so that a path that swallows large datagrams swallows none of ours.
//!
//! Below an inner 1,280 bytes IPv6 cannot be told to go: a path of 1,280 bytes, the least that IPv6
//! allows, carries 1,200 inside. Packets between are fragmented *inside* the tunnel, where only the
//! peer's kernel puts them together again. Fragments outside would be at the mercy of every NAT and
//! firewall, and Linux makes IPv6 ones only at the size that ICMP told it, if that got through.
//! Control messages and handshakes are never longer than the floor.
//!
//! # Asking
//!
//! A probe is a path check padded to the size in question
//! ([`CheckRequest::encode_padded`]) and sent with DF; its answer is short. That is authentic,
//! costs the peer nothing new, and asks about this direction only, as it must. ICMP is neither
//! needed nor believed: anybody can forge it.
//!
//! A probe is tried [`TRIES`] times. From the second on an ordinary check leaves behind it, and
//! only if a check that left later was answered is the size what kept the probe back: on a full
//! queue, or a path that died, everything is late or lost, and nothing is learnt about sizes.
//!
//! # Searching
//!
//! First the largest size that is of use, which mostly passes: one round trip. If not,
//! the gap between what passed and what did not is halved down to [`STEP`]. Meanwhile what passed
//! is in use, from the family's floor up; this is *unsettled*, and nobody is told a size yet that
//! hosts would remember for ten minutes.
//!
//! # Keeping
//!
//! * A path that widened is noticed by trying the size that failed, each [`RAISE`].
//! * A path that narrowed is noticed by trying the size in use: each [`CONFIRM`] while datagrams
//!   above the floor leave, and at once when the peer falls silent. The size that fails three times
//!   is given up for the floor, and searched below.
//! * Another path: everything anew. Other links of this host: the size in use is tried at once, then
//!   larger ones.
//!
//! Probes leave only while user data flows ([`Demand::Active`]): who is only kept in touch with is not
//! worth 1.5 kB.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::super::MTU;
use super::{Asked, Demand, PathAgent, PathEvent, Transmit};
use crate::forward::slot::{LEAST_MTU, Limit};
use crate::forward::tunnel::SEAL_OVERHEAD;
use crate::wire::stun::{CheckRequest, TransactionId};

/// How often a size is tried (RFC 8899, section 5.1.2: MAX_PROBES).
const TRIES: u32 = 3;

/// The least time between two tries: with a check behind each that makes 8 checks a second, within
/// what a peer answers ([`ANSWERS_PER_SECOND`](super::ANSWERS_PER_SECOND)).
const TRY_GAP: Duration = Duration::from_millis(250);

/// After how long a path that let nothing pass is tried again; its death is noticed meanwhile.
const SILENT_GAP: Duration = Duration::from_secs(1);

/// How fine the search is, in bytes: STUN messages have lengths of multiples of four.
const STEP: u16 = 4;

/// How often a larger size is tried. RFC 8899 allows ten minutes; a laptop that left a hotel's
/// tunnel should not pay for it so long, and three kilobytes each half minute are nothing beside the
/// user data without which no probe leaves.
pub const RAISE: Duration = Duration::from_secs(30);

/// How often the size in use is tried while it is used: a path that narrows under a flow that is
/// still answered is noticed within this and three tries.
pub const CONFIRM: Duration = Duration::from_secs(5);

/// The largest datagram that the tunnel makes.
const CEILING: u16 = MTU + SEAL_OVERHEAD as u16;

/// How large datagrams may be, in bytes of UDP payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathSize {
    /// The largest that is known to pass.
    pub payload: u16,
    /// Whether a search ended with it.
    pub settled: bool,
}

impl PathSize {
    /// How long inner packets may be.
    pub fn limit(self) -> Limit {
        Limit { packet: self.payload - SEAL_OVERHEAD as u16, settled: self.settled }
    }
}

/// What passes towards an address before anything is known. IPv4 promises less than IPv6, but
/// carries less only where a router fragments, which it may with all that is no probe.
fn floor(to: SocketAddr) -> u16 {
    match to {
        SocketAddr::V4(_) => LEAST_MTU - 28,
        SocketAddr::V6(_) => LEAST_MTU - 48,
    }
}

/// The search on one path.
#[derive(Debug)]
pub(super) struct SizeSearch {
    floor: u16,
    /// The largest that passed.
    passed: u16,
    /// The smallest that did not.
    failed: Option<u16>,
    settled: bool,
    /// What is being tried.
    trial: Option<Trial>,
    /// When a size above the one in use was last tried.
    raised_at: Instant,
    /// When the size in use last passed.
    confirmed_at: Instant,
    /// When a datagram above the floor last left.
    large_at: Option<Instant>,
    /// What was told last.
    told: Option<PathSize>,
}

/// One size on trial.
#[derive(Debug)]
struct Trial {
    size: u16,
    sent: u32,
    since: Option<Instant>,
    due: Instant,
    /// Whether a check that left after the first try was answered.
    heard: bool,
}

/// What to send.
#[derive(Debug, PartialEq, Eq)]
struct Probe {
    size: u16,
    /// Whether a check shall leave behind it.
    escorted: bool,
}

impl SizeSearch {
    pub fn new(to: SocketAddr, now: Instant) -> Self {
        let floor = floor(to);
        let mut search = Self {
            floor,
            passed: floor,
            failed: None,
            settled: false,
            trial: None,
            raised_at: now,
            confirmed_at: now,
            large_at: None,
            told: None,
        };
        search.go_on(now);
        search
    }

    pub fn size(&self) -> PathSize {
        PathSize { payload: self.passed, settled: self.settled }
    }

    /// When a probe is due, and why.
    fn due(&self) -> Option<(Instant, &'static str)> {
        if let Some(trial) = &self.trial {
            return Some((trial.due, "path size tried"));
        }
        let raise = (self.passed < CEILING).then(|| (self.raised_at + RAISE, "larger size"));
        let confirm = self.is_used().then(|| (self.confirmed_at + CONFIRM, "path size confirmed"));
        [raise, confirm].into_iter().flatten().min()
    }

    /// Something is due: the next probe, if any. `gap` is how long its answer may take.
    fn handle_due(&mut self, gap: Duration, now: Instant) -> Option<Probe> {
        if self.trial.is_none() {
            let raise = self.passed < CEILING && self.raised_at + RAISE <= now;
            self.try_size(if raise { self.failed.unwrap_or(CEILING) } else { self.passed }, now);
        }
        if let Some(trial) = &mut self.trial
            && trial.sent >= TRIES
        {
            if trial.heard {
                let size = trial.size;
                self.fail(size, now);
            } else {
                (trial.sent, trial.due) = (1, now + SILENT_GAP);
                return None;
            }
        }
        let trial = self.trial.as_mut()?;
        trial.since.get_or_insert(now);
        trial.sent += 1;
        trial.due = now + gap.max(TRY_GAP);
        Some(Probe { size: trial.size, escorted: trial.sent > 1 })
    }

    /// A probe of this size was answered, however late.
    fn handle_passed(&mut self, size: u16, now: Instant) {
        if size < self.passed {
            return;
        }
        if size > self.passed {
            tracing::debug!(size, "a datagram of this size passed");
        }
        (self.passed, self.confirmed_at) = (size, now);
        self.failed = self.failed.filter(|failed| *failed > size);
        if self.trial.as_ref().is_some_and(|trial| trial.size <= size) {
            self.go_on(now);
        }
    }

    /// An ordinary check that was sent then was answered.
    fn handle_heard(&mut self, sent_at: Instant) {
        if let Some(trial) = &mut self.trial {
            trial.heard |= trial.sent > 1 && trial.since.is_some_and(|since| sent_at > since);
        }
    }

    /// The size in use may not pass any more.
    pub fn doubt(&mut self, now: Instant) {
        if self.trial.is_none() && self.is_used() {
            self.try_size(self.passed, now);
        }
    }

    /// Nothing that was found may still be so.
    fn again(&mut self, now: Instant) {
        self.failed = None;
        self.try_size(if self.passed > self.floor { self.passed } else { CEILING }, now);
    }

    /// Whether datagrams above the floor left since the size in use last passed.
    fn is_used(&self) -> bool {
        self.passed > self.floor && self.large_at > Some(self.confirmed_at)
    }

    fn fail(&mut self, size: u16, now: Instant) {
        tracing::debug!(size, "a datagram of this size did not pass");
        self.failed = Some(self.failed.map_or(size, |failed| failed.min(size)));
        if size <= self.passed {
            tracing::debug!(size, "the path became narrower");
            (self.passed, self.settled) = (self.floor, false);
        }
        self.go_on(now);
    }

    /// Tries what the search needs next, or rests.
    fn go_on(&mut self, now: Instant) {
        let next = match self.failed {
            None => Some(CEILING).filter(|size| self.passed < *size),
            Some(failed) => {
                let half = (failed - self.passed) / 2 / STEP * STEP;
                (half > 0).then_some(self.passed + half)
            }
        };
        match next {
            Some(size) => self.try_size(size, now),
            None => {
                self.trial = None;
                self.settled = true;
            }
        }
    }

    fn try_size(&mut self, size: u16, now: Instant) {
        if size > self.passed {
            self.raised_at = now;
        }
        self.trial = Some(Trial { size, sent: 0, since: None, due: now, heard: false });
    }
}

/// The size of the primary.
impl PathAgent {
    /// How large datagrams may be, where there is a path.
    pub fn size(&self) -> Option<PathSize> {
        self.size.as_ref().map(SizeSearch::size)
    }

    /// When a datagram above the floor last left; call it with [`note_traffic`](Self::note_traffic).
    pub fn note_large(&mut self, sent_at: Option<Instant>) {
        if let Some(size) = &mut self.size {
            size.large_at = sent_at;
        }
    }

    /// The way to the primary may be another one: tries the size in use, and larger ones, again.
    pub(super) fn measure_again(&mut self, now: Instant) {
        if let Some(size) = &mut self.size {
            size.again(now);
        }
    }

    /// Begins anew, on the primary of the moment.
    pub(super) fn measure(&mut self, now: Instant) {
        self.size = self.primary.map(|to| SizeSearch::new(to, now));
        self.tell_size();
    }

    pub(super) fn size_due(&self) -> Option<(Instant, &'static str)> {
        self.size.as_ref().filter(|_| self.demand == Demand::Active)?.due()
    }

    pub(super) fn handle_size_due(&mut self, now: Instant) {
        let Some(to) = self.primary else { return };
        let rtt = self.routes.get(&to).and_then(|route| route.rtt()).unwrap_or_default();
        let Some(size) = &mut self.size else { return };
        if let Some(probe) = size.handle_due(rtt * 2, now) {
            let transaction = TransactionId::new(self.rng.random());
            let asked = Asked { to, at: now, size: Some(probe.size) };
            self.asked.insert(transaction, asked);
            let request = CheckRequest { transaction, tag: self.tag };
            let payload = request.encode_padded(probe.size.into(), &self.key);
            self.transmits.push_back(Transmit::probe(to, payload));
            if probe.escorted {
                self.ask(to, now);
            }
        }
        self.tell_size();
    }

    /// The primary answered a check.
    pub(super) fn size_answered(&mut self, asked: &Asked, now: Instant) {
        if self.primary != Some(asked.to) {
            return;
        }
        let Some(search) = &mut self.size else { return };
        match asked.size {
            Some(size) => search.handle_passed(size, now),
            None => search.handle_heard(asked.at),
        }
        self.tell_size();
    }

    fn tell_size(&mut self) {
        let Some(search) = &mut self.size else { return };
        let size = search.size();
        if search.told.replace(size) != Some(size) {
            self.events.push_back(PathEvent::Sized(size));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that passes datagrams up to a size and is never idle.
    struct Lab {
        search: SizeSearch,
        width: u16,
        silent: bool,
        now: Instant,
        /// The sizes of the probes that left.
        probes: Vec<u16>,
    }

    const RTT: Duration = Duration::from_millis(50);

    impl Lab {
        fn new(to: &str, width: u16) -> Self {
            let now = Instant::now();
            let search = SizeSearch::new(to.parse().unwrap(), now);
            Self { search, width, silent: false, now, probes: Vec::new() }
        }

        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while let Some((due, _)) = self.search.due().filter(|(due, _)| *due <= end) {
                self.now = self.now.max(due);
                let Some(probe) = self.search.handle_due(RTT * 2, self.now) else { continue };
                self.probes.push(probe.size);
                let sent_at = self.now + Duration::from_micros(1);
                if !self.silent {
                    if probe.size <= self.width {
                        self.search.handle_passed(probe.size, self.now + RTT);
                    }
                    if probe.escorted {
                        self.search.handle_heard(sent_at);
                    }
                }
            }
            self.now = end;
            self.search.large_at = Some(end);
        }

        fn size(&self) -> (u16, bool) {
            (self.search.size().payload, self.search.size().settled)
        }
    }

    #[test]
    fn a_wide_path_costs_one_probe_and_a_confirmation_now_and_then() {
        for to in ["192.0.2.1:1", "[2001:db8::1]:1"] {
            let mut lab = Lab::new(to, 1500);
            lab.run(Duration::ZERO);
            assert_eq!((lab.size(), lab.probes.len()), ((CEILING, true), 1));
            for _ in 0..60 {
                lab.run(Duration::from_secs(1));
            }
            assert_eq!(lab.size(), (CEILING, true));
            assert!((10..=13).contains(&lab.probes.len()), "{:?}", lab.probes);
        }
    }

    #[test]
    fn every_width_is_found_to_four_bytes_within_five_seconds_and_never_exceeded() {
        for width in (1252..=1472).step_by(1) {
            let mut lab = Lab::new("192.0.2.1:1", width);
            for _ in 0..50 {
                lab.run(Duration::from_millis(100));
                assert!(lab.size().0 <= width);
            }
            let expected = width.min(CEILING) / 4 * 4;
            assert_eq!(lab.size(), (expected, true), "{width}: {:?}", lab.probes);
        }
    }

    #[test]
    fn a_path_of_ipv6s_least_mtu_settles_on_the_floor() {
        let mut lab = Lab::new("[2001:db8::1]:1", 1232);
        assert_eq!(lab.size(), (1232, false));
        lab.run(Duration::from_secs(6));
        assert_eq!(lab.size(), (1232, true));
    }

    #[test]
    fn a_path_that_narrows_under_traffic_is_left_for_the_floor_and_searched_again() {
        let mut lab = Lab::new("192.0.2.1:1", 1500);
        lab.run(Duration::from_secs(1));
        lab.width = 1352;
        for _ in 0..7 {
            lab.run(Duration::from_secs(1));
        }
        assert!(lab.size().0 <= 1352, "noticed within seven seconds");
        lab.run(Duration::from_secs(5));
        assert_eq!(lab.size(), (1352, true));
    }

    #[test]
    fn a_doubt_is_settled_within_a_second() {
        let mut lab = Lab::new("192.0.2.1:1", 1500);
        lab.run(Duration::from_secs(1));
        lab.width = 1300;
        lab.search.doubt(lab.now);
        lab.run(Duration::from_secs(1));
        assert!(lab.size().0 <= 1300);
        lab.run(Duration::from_secs(5));
        let before = lab.probes.len();
        lab.search.large_at = None;
        lab.search.doubt(lab.now);
        lab.run(Duration::from_secs(1));
        assert_eq!(lab.probes.len(), before, "nothing large left that could be lost");
    }

    #[test]
    fn a_path_that_widens_is_noticed_within_half_a_minute() {
        let mut lab = Lab::new("192.0.2.1:1", 1300);
        lab.run(Duration::from_secs(6));
        assert_eq!(lab.size(), (1300, true));
        lab.width = 1400;
        for _ in 0..RAISE.as_secs() + 5 {
            // Large datagrams leave all the time, so that the size in use is confirmed meanwhile.
            lab.run(Duration::from_secs(1));
        }
        assert_eq!(lab.size(), (1400, true));
        let before = lab.probes.len();
        lab.run(RAISE);
        assert!(lab.probes.len() - before <= 4, "{:?}", &lab.probes[before..]);
    }

    #[test]
    fn after_a_change_of_links_the_size_is_found_anew_whether_it_grew_or_shrank() {
        for (before, after) in [(1500, 1300), (1300, 1400), (1500, 1500)] {
            let mut lab = Lab::new("192.0.2.1:1", before);
            lab.run(Duration::from_secs(6));
            lab.width = after;
            lab.search.again(lab.now);
            lab.run(Duration::from_secs(7));
            assert_eq!(lab.size(), (after.min(CEILING), true), "{before} to {after}");
        }
    }

    #[test]
    fn silence_teaches_nothing_about_sizes() {
        let mut lab = Lab::new("192.0.2.1:1", 1500);
        lab.run(Duration::from_secs(1));
        lab.silent = true;
        lab.search.doubt(lab.now);
        lab.run(Duration::from_secs(20));
        assert_eq!(lab.size(), (CEILING, true));
        assert!(lab.probes.len() < 45, "{}", lab.probes.len());
        lab.silent = false;
        lab.run(Duration::from_secs(2));
        assert_eq!(lab.size(), (CEILING, true));
    }

    #[test]
    fn an_answer_that_comes_late_counts() {
        let mut lab = Lab::new("192.0.2.1:1", 1300);
        lab.run(Duration::from_secs(6));
        lab.search.handle_passed(1452, lab.now);
        assert_eq!(lab.size().0, 1452);
        lab.search.handle_passed(1300, lab.now);
        assert_eq!(lab.size().0, 1452);
    }
}
