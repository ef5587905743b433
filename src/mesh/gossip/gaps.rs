//! What this device's logs lack, who has it, and the fetches that bring it.
//!
//! A **gap** is an author whose log some peer (a *source*) holds more of. Each gap has at most one
//! fetch under way, and all of them together at most `MAX_FETCHES`; the root's gap goes first,
//! since without `AdminAdd` no other log means anything. An answer that does not come is asked for
//! again, of another source where there is one.
//!
//! A fetch starts after the end of our own chain. Where that brings nothing although the source is
//! ahead, or where the source holds another op at the end of its chain or ops beside it, the log is
//! **forked**: a *scan* then starts 1, 8, 64, … ops further back at that source, until what it
//! showed is here or its whole log was read. A scan of one log at one source happens at most once
//! in `SCAN_PAUSE`, so that a source which claims ops that it does not show costs little.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::identity::DeviceId;
use crate::mesh::rate::Bucket;
use crate::wire::control::{AuthorTag, Fetch, HeadEntry, Reply};

use super::view::{Need, View};

/// Fetches under way at once: 64 KiB in flight, one bandwidth-delay product of 5 Mbit/s at 100 ms.
const MAX_FETCHES: usize = 4;

/// Gaps that are remembered: the 33 authors there may be, and room for what hostile peers invent.
const MAX_GAPS: usize = 256;

/// How long an answer may take before it is asked for again, doubled with each try: longer than any
/// round trip on Earth, short against the 30 s of the next comparison.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// After so many silent tries in a row a source is given up until it is heard of again.
const TRIES: u32 = 3;

/// How long after a scan the same log is not scanned again at the same source: two comparisons.
const SCAN_PAUSE: Duration = Duration::from_secs(60);

/// How much further back each scan of a fork starts: three steps cover 512 ops, five any log.
const SCAN_FACTOR: u64 = 8;

/// Fetches of 16 KiB a second from one peer: 192 KiB/s stays below the 256 KiB/s it may send, with
/// a quarter left for everything else it says.
const FETCH_RATE: u32 = 12;

/// Fetches that may go out at once: half of the bytes that a second allows.
const FETCH_BURST: u32 = 8;

/// Every gap.
pub struct Gaps {
    root: AuthorTag,
    gaps: BTreeMap<AuthorTag, Gap>,
    /// Until when a log is not scanned (again) at a source.
    scanned: BTreeMap<(DeviceId, AuthorTag), Instant>,
    pace: BTreeMap<DeviceId, Bucket>,
}

#[derive(Default)]
struct Gap {
    sources: BTreeMap<DeviceId, HeadEntry>,
    phase: Phase,
    scan: Option<Scan>,
    /// Where our chain ended when the last plain fetch went out.
    base: u64,
    /// Answers in a row that did not come.
    tries: u32,
    /// Who failed to answer last.
    silent: Option<DeviceId>,
}

#[derive(Default, Clone, Copy)]
enum Phase {
    /// Nothing is under way.
    #[default]
    Free,
    /// The pace allows the next fetch at this time.
    Paced(Instant),
    /// A fetch is under way; `index` is the next message of its answer.
    Waiting { peer: DeviceId, until: Instant, index: u8 },
    /// The answer is here; what it brought may still have to be verified.
    Answered { peer: DeviceId, until: Instant, whole: bool },
}

#[derive(Clone, Copy)]
struct Scan {
    peer: DeviceId,
    back: u64,
    start: u64,
    cursor: u64,
    /// Where the last fetch of this scan began.
    asked: u64,
    ended: bool,
}

impl Gaps {
    /// No gaps yet; `root` is the author whose log comes first.
    pub fn new(root: AuthorTag) -> Self {
        Self { root, gaps: BTreeMap::new(), scanned: BTreeMap::new(), pace: BTreeMap::new() }
    }

    /// A peer said where its logs end.
    pub fn told(&mut self, peer: DeviceId, entries: &[HeadEntry], view: &View<'_>, now: Instant) {
        for gap in self.gaps.values_mut() {
            gap.sources.remove(&peer);
        }
        for entry in entries {
            let Some(need) = view.need(entry) else { continue };
            let paused = self.scanned.get(&(peer, entry.author)).is_some_and(|until| *until > now);
            if paused && need == Need::Fork {
                continue;
            }
            if self.gaps.len() < MAX_GAPS || self.gaps.contains_key(&entry.author) {
                self.gaps.entry(entry.author).or_default().sources.insert(peer, *entry);
            }
        }
    }

    /// A peer is gone.
    pub fn forget(&mut self, peer: &DeviceId) {
        for gap in self.gaps.values_mut() {
            gap.sources.remove(peer);
        }
        self.scanned.retain(|(source, _), _| source != peer);
        self.pace.remove(peer);
    }

    /// A part of an answer came. The ops of the last part must be known before [`Gaps::advance`].
    pub fn answered(&mut self, from: DeviceId, reply: &Reply, now: Instant) {
        let Some(gap) = self.gaps.get_mut(&reply.author) else { return };
        let Phase::Waiting { peer, index, .. } = gap.phase else { return };
        if peer != from {
            return;
        }
        let in_order = reply.index == index;
        if let Some(scan) = gap.scan.as_mut().filter(|_| in_order) {
            scan.cursor = scan.cursor.max(reply.next);
            scan.ended = reply.end && reply.left == 0;
        }
        let until = now + ANSWER_TIME;
        gap.phase = if reply.left == 0 {
            Phase::Answered { peer, until, whole: in_order }
        } else {
            // After a lost part no index fits any more, and the answer does not count as whole.
            let index = if in_order { index.saturating_add(1) } else { u8::MAX };
            Phase::Waiting { peer, until, index }
        };
    }

    /// Whether an answer of `peer` is awaited.
    pub fn expects(&self, peer: &DeviceId) -> bool {
        let waits = |gap: &Gap| matches!(gap.phase, Phase::Waiting { peer: p, .. } if p == *peer);
        self.gaps.values().any(waits)
    }

    /// Whether `peer` is a source of anything.
    pub fn lacks_from(&self, peer: &DeviceId) -> bool {
        self.gaps.values().any(|gap| gap.sources.contains_key(peer))
    }

    /// Whether anything is known to be missing.
    pub fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// How many ops `peer` is known to have that are not here yet.
    pub fn behind(&self, peer: &DeviceId, view: &View<'_>) -> u64 {
        let lack = |gap: &Gap| {
            let entry = gap.sources.get(peer)?;
            Some(entry.seq.saturating_sub(view.seq(&entry.author)))
        };
        self.gaps.values().filter_map(lack).fold(0, u64::saturating_add)
    }

    /// Closes gaps, ends passes, and returns the fetches to send.
    pub fn advance(
        &mut self,
        view: &View<'_>,
        rng: &mut StdRng,
        now: Instant,
    ) -> Vec<(DeviceId, Fetch)> {
        let scanned = &mut self.scanned;
        self.gaps.retain(|tag, gap| {
            gap.sources.retain(|_, entry| view.need(entry).is_some());
            gap.settle(*tag, view, scanned, now);
            !gap.sources.is_empty()
        });
        let root_first = self.gaps.get(&self.root).is_some_and(|gap| gap.tries < 2);
        let mut order: Vec<AuthorTag> = self.gaps.keys().copied().collect();
        order.sort_by_key(|tag| (*tag != self.root, !view.knows(tag)));
        let mut out = Vec::new();
        for tag in order {
            let busy = self.gaps.values().filter(|gap| gap.is_waiting()).count();
            if busy >= MAX_FETCHES || (root_first && tag != self.root) {
                break;
            }
            out.extend(self.ask(tag, view, rng, now));
        }
        out
    }

    /// When [`Gaps::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.gaps.values().filter_map(Gap::deadline).min()
    }

    /// Gives up answers that did not come; the peers that are given up, whatever they have.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<DeviceId> {
        self.scanned.retain(|_, until| *until > now);
        self.gaps.values_mut().filter_map(|gap| gap.expire(now)).collect()
    }

    fn ask(
        &mut self,
        tag: AuthorTag,
        view: &View<'_>,
        rng: &mut StdRng,
        now: Instant,
    ) -> Option<(DeviceId, Fetch)> {
        let gap = self.gaps.get_mut(&tag)?;
        if !matches!(gap.phase, Phase::Free) {
            return None;
        }
        let peer = gap.choose(rng)?;
        let pace = self
            .pace
            .entry(peer)
            .or_insert_with(|| Bucket::new(FETCH_RATE, Duration::from_secs(1), FETCH_BURST));
        if !pace.take(1, now) {
            gap.phase = Phase::Paced(pace.ready_at(1, now));
            return None;
        }
        gap.base = view.seq(&tag);
        let from = gap.scan.map_or(gap.base + 1, |scan| scan.cursor);
        if let Some(scan) = gap.scan.as_mut() {
            scan.asked = from;
        }
        gap.phase =
            Phase::Waiting { peer, until: now + ANSWER_TIME * (1 << gap.tries.min(3)), index: 0 };
        Some((peer, Fetch { author: tag, from }))
    }
}

impl Gap {
    fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. })
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        match self.phase {
            Phase::Free => None,
            Phase::Paced(until) => Some((until, "gossip: pace of fetches")),
            Phase::Waiting { until, .. } => Some((until, "gossip: answer to a fetch")),
            Phase::Answered { until, .. } => Some((until, "gossip: verification")),
        }
    }

    /// Ends what took too long; the peer that is no source any more, as it never answered.
    fn expire(&mut self, now: Instant) -> Option<DeviceId> {
        if self.deadline().is_none_or(|(until, _)| until > now) {
            return None;
        }
        let mut given_up = None;
        if let Phase::Waiting { peer, .. } = self.phase {
            self.tries += 1;
            self.silent = Some(peer);
            if self.tries.is_multiple_of(TRIES) {
                self.sources.remove(&peer);
                given_up = Some(peer);
            }
        }
        if !matches!(self.phase, Phase::Answered { .. }) {
            self.phase = Phase::Free;
        }
        given_up
    }

    /// The source of the scan, or any that did not fail last.
    fn choose(&self, rng: &mut StdRng) -> Option<DeviceId> {
        if let Some(scan) = self.scan {
            return Some(scan.peer);
        }
        let others = self.sources.keys().filter(|peer| Some(**peer) != self.silent);
        let count = others.clone().count();
        if count == 0 {
            return self.sources.keys().next().copied();
        }
        others.copied().nth(rng.random_range(0..count))
    }

    /// Judges the answer that came, now that its ops are known, and decides how to go on.
    fn settle(
        &mut self,
        tag: AuthorTag,
        view: &View<'_>,
        scanned: &mut BTreeMap<(DeviceId, AuthorTag), Instant>,
        now: Instant,
    ) {
        let mine = view.seq(&tag);
        let answer = self.take_answer(mine);
        let Some((peer, back)) = self.stuck(view, mine, answer) else { return };
        let Some(entry) = self.sources.get(&peer) else { return };
        let start = self.scan.map_or(self.base + 1, |scan| scan.start);
        let paused = scanned.get(&(peer, tag)).is_some_and(|until| *until > now);
        let read_all = start <= 1 && (self.scan.is_some() || answer.is_some());
        if read_all || (paused && self.scan.is_none()) {
            scanned.entry((peer, tag)).or_insert(now + SCAN_PAUSE);
            self.sources.remove(&peer);
            self.scan = None;
            return;
        }
        let back = if back == 0 { 1 } else { back.saturating_mul(SCAN_FACTOR) };
        let start = mine.min(entry.seq).saturating_add(1).saturating_sub(back).max(1);
        self.scan = Some(Scan { peer, back, start, cursor: start, asked: start, ended: false });
    }

    /// Frees the phase where its fetch is over: who answered, and whether with every part.
    fn take_answer(&mut self, mine: u64) -> Option<(DeviceId, bool)> {
        if self.scan.is_some_and(|scan| !self.sources.contains_key(&scan.peer)) {
            self.scan = None;
        }
        match self.phase {
            Phase::Waiting { peer, .. } if !self.sources.contains_key(&peer) => {
                self.phase = Phase::Free;
                None
            }
            Phase::Free | Phase::Paced(_) | Phase::Waiting { .. } => None,
            Phase::Answered { peer, whole, .. } => {
                self.phase = Phase::Free;
                let moved =
                    mine > self.base || self.scan.is_some_and(|scan| scan.cursor > scan.asked);
                self.tries = if moved { 0 } else { self.tries + 1 };
                if self.tries >= 2 * TRIES {
                    self.sources.remove(&peer);
                }
                Some((peer, whole))
            }
        }
    }

    /// The source at which going on as before would bring nothing, and how far back was looked.
    fn stuck(
        &self,
        view: &View<'_>,
        mine: u64,
        answer: Option<(DeviceId, bool)>,
    ) -> Option<(DeviceId, u64)> {
        match (self.scan, answer) {
            // A scan is over when it read past the end of what the source has, or stands still.
            (Some(scan), _) => {
                let end = self.sources.get(&scan.peer).map_or(0, |entry| entry.seq);
                let past = scan.ended || scan.cursor > end.max(mine);
                let still = answer.is_some_and(|(_, whole)| whole && scan.cursor <= scan.asked);
                (past || still).then_some((scan.peer, scan.back))
            }
            // A whole answer that did not lengthen our chain: the source's forks from it.
            (None, Some((peer, true))) => (mine <= self.base).then_some((peer, 0)),
            (None, Some((_, false))) => None,
            // Nothing to lengthen: only a scan can help.
            (None, None) => {
                let ahead = |entry: &HeadEntry| view.need(entry) == Some(Need::Ahead);
                let first = self.sources.keys().next().copied();
                let scan = !self.is_waiting() && !self.sources.values().any(ahead);
                first.filter(|_| scan).map(|peer| (peer, 0))
            }
        }
    }
}
