//! Signalling through members: "tell that device where I am, and me where it is".
//!
//! Two devices that lose each other mostly share a member to whom both have a tunnel. It passes their
//! addresses on at once, where the DHT would take seconds. What it says is only a hint: path checks to
//! the addresses decide, and a lying member wastes those.
//!
//! ```text
//!   b ── Introduce { c, where b is } ──▶ a ── Introduced { b, where b is } ──▶ c
//!   b ◀── Introduced { c, where c is } ─ a
//! ```
//!
//! Two that never met share one in a small network only. And the DHT does not help where both are
//! behind NATs that let in whom they wrote to: the other has to learn that somebody looks for it. So
//! where a user waits, a member that is not connected to the other passes the request on to the one
//! that [stands](super::rings) nearest to it among its own, over [`MAX_WAY`] members at most: whoever
//! stands beside another mostly is its [neighbour](super::neighbours). As everybody has a random place
//! on each of several circles, and some neighbours by lot, a few steps suffice. What the last one says
//! comes back the same way.
//!
//! ```text
//!   b ── Introduce ──▶ d ── Introduce, over b ──▶ e ── Introduced ──▶ c
//!   b ◀── Introduced ─ d ◀─ Introduced, over b ── e
//! ```
//!
//! Several are asked each time, one of them by lot, and where that did not help at first, requests are
//! passed on to the nearest or to anybody, as the lot falls: they go round whoever is off, and who places
//! devices beside the other has not the say alone. Who is said
//! to look for somebody is named by whoever passes the request on, and nothing proves it. So what members
//! bring is limited by member, and in all; a hostile one can use up the latter. The members on the way learn who looks for whom, and where
//! that one is.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::directory::Source;
use super::peer::{Need, Peer, Purpose};
use super::rate::Bucket;
use super::rings::distance;
use super::*;
use crate::identity::DeviceId;
use crate::wire::control::{
    Control, Endpoints, Introduction, IntroductionRequest, MAX_ENDPOINTS, MAX_WAY, Passing,
};

/// How many members are asked at once because they stand near the other: one may be slow, or not
/// connected to it. One more is asked by lot.
const NEAREST: usize = 2;

/// A request that came over so many members that stand beside the other is not passed on: were it on, one
/// of these most likely would be connected to it.
const BESIDE: usize = 3;

/// Introductions a second that one member may ask for, and how many at once; as many that it brings, and
/// that it passes on. Each makes us check up to a dozen addresses that it chose, so a hostile member
/// could aim every device at a stranger; an honest one asks for a handful, once a second at most.
const HEARD_A_SECOND: u32 = 4;
const HEARD_AT_ONCE: u32 = 32;

/// Devices a second, and at once, that are taken into use because they are said to look for this one,
/// whoever says so. Each stays for a minute: they leave a fifth of the places for
/// [peers](super::peers::MAX_PEERS) to others.
const MET_A_SECOND: u32 = 12;
const MET_AT_ONCE: u32 = 64;

/// How often, and how often at once, a member that has just connected has this device ask before it is
/// due. After a start a dozen connect; one that greets again and again must not make us ask as often.
const NEWCOMERS_EVERY: Duration = Duration::from_secs(15);
const NEWCOMERS_AT_ONCE: u32 = 16;

/// For how many at most a member is asked as soon as it has connected: half of what it hears at once.
const ASKED_OF_NEWCOMER: usize = HEARD_AT_ONCE as usize / 2;

/// The first pause before they are asked again, doubled each time, and the longest; the shorter one while
/// a user waits. A hundred devices that are off and pinged all the time then cost each of a dozen members
/// two messages a second, which is half of what it hears.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE_OF_USER: Duration = Duration::from_secs(16);

/// When to ask for an introduction next.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    at: Instant,
    pause: Duration,
    asked_at: Option<Instant>,
    /// From when on a request may be passed on: it costs a message for each member on its way, and
    /// where the device is off, as many as there may be.
    far_at: Instant,
    far_pause: Duration,
}

impl Asking {
    /// At once.
    pub fn start(now: Instant) -> Self {
        Self { at: now, pause: PAUSE, asked_at: None, far_at: now, far_pause: PAUSE }
    }

    /// When it is due.
    pub fn due(&self) -> Instant {
        self.at
    }

    /// As soon as may be, without a pause of less than [`PAUSE`].
    pub fn renew(&mut self, now: Instant) {
        self.at = self.asked_at.map_or(now, |asked| now.max(asked + PAUSE));
        self.pause = PAUSE;
    }

    /// The same for a user who did not wait until now: requests are passed on again, too.
    pub fn begin_anew(&mut self, now: Instant) {
        self.renew(now);
        (self.far_at, self.far_pause) = (self.at, PAUSE);
    }

    fn asked(&mut self, user_waits: bool, far: bool, now: Instant) {
        let longest = if user_waits { LONGEST_PAUSE_OF_USER } else { LONGEST_PAUSE };
        self.asked_at = Some(now);
        self.at = now + self.pause;
        self.pause = (self.pause * 2).min(longest);
        if far {
            self.far_at = now + self.far_pause;
            self.far_pause = (self.far_pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What one member may ask for, bring, and pass on for others: apart, so that no kind uses up another.
#[derive(Debug, Clone, Copy)]
pub struct IntroductionBudget {
    asked_for: Bucket,
    brought: Bucket,
    passed_on: Bucket,
}

impl Default for IntroductionBudget {
    fn default() -> Self {
        let bucket = Bucket::new(HEARD_A_SECOND, Duration::from_secs(1), HEARD_AT_ONCE);
        Self { asked_for: bucket, brought: bucket, passed_on: bucket }
    }
}

impl IntroductionBudget {
    /// Whether one more is heard.
    pub fn take(&mut self, message: &Control, now: Instant) -> bool {
        let of = match message {
            Control::Introduce(asked) if asked.way.is_empty() => &mut self.asked_for,
            Control::Introduced(introduction) if introduction.way.is_empty() => &mut self.brought,
            _ => &mut self.passed_on,
        };
        of.take(1, now)
    }
}

/// What all members together may cause.
#[derive(Debug)]
pub(super) struct Meetings {
    met: Bucket,
    newcomers: Bucket,
}

impl Default for Meetings {
    fn default() -> Self {
        Self {
            met: Bucket::new(MET_A_SECOND, Duration::from_secs(1), MET_AT_ONCE),
            newcomers: Bucket::new(1, NEWCOMERS_EVERY, NEWCOMERS_AT_ONCE),
        }
    }
}

impl Mesh {
    /// Asks members to introduce this device to `key`'s, where it is looked for and it is time; among
    /// them `newcomer`, who has just connected.
    pub(super) fn seek_introduction(
        &mut self,
        key: PeerKey,
        newcomer: Option<PeerKey>,
        now: Instant,
    ) {
        let Some(peer) = self.peers.touch(key).filter(|peer| is_sought(peer)) else { return };
        let Some(device) = peer.device() else { return };
        let asking = peer.asking;
        if asking.due() > now {
            return;
        }
        let waits = peer.is_waited_for(now) || peer.need(now) == Need::Active;
        let far = waits && asking.far_at <= now;
        let mut others = self.introducers(&[device]);
        if others.is_empty() {
            // Whoever connects next is asked at once.
            return;
        }
        others.sort_by_cached_key(|(_, other)| distance(other, &device));
        // What only the roster's sync wants is not passed on, so only who stands beside it is of use.
        let beside = self.beside(&device);
        let of_use = others.iter().filter(|(_, other)| far || beside.contains(other));
        let nearest: Vec<_> = of_use.map(|(key, _)| *key).take(NEAREST).collect();
        let rest = others.iter().map(|(key, _)| *key).filter(|key| !nearest.contains(key));
        let by_lot = rest.clone().choose(&mut self.rng);
        let newcomer = rest.filter(|key| Some(*key) == newcomer && Some(*key) != by_lot);
        let asked: Vec<_> = nearest.iter().copied().chain(by_lot).chain(newcomer).collect();
        let again = asking.far_pause > PAUSE;
        let passing = match (far, again) {
            (false, _) => Passing::Never,
            (true, false) => Passing::Nearest,
            (true, true) => Passing::ByLot,
        };
        let at = self.own_endpoints(now);
        let request =
            Control::Introduce(IntroductionRequest { device, at, passing, way: Vec::new() });
        asked.into_iter().for_each(|introducer| self.tell(introducer, &request, now));
        if let Some(peer) = self.peers.touch(key) {
            peer.asking.asked(waits, far, now);
        }
    }

    /// The proven members that are not on the `way`.
    fn introducers(&self, way: &[DeviceId]) -> Vec<(PeerKey, DeviceId)> {
        let proven = self.peers.iter().filter(|peer| peer.greeting.is_proven());
        let members = proven.filter_map(|peer| Some((peer.key, peer.device()?)));
        members.filter(|(_, device)| !way.contains(device)).collect()
    }

    /// The peer of a member whose proof held.
    fn proven(&self, device: &DeviceId) -> Option<PeerKey> {
        let key = self.peers.member(device)?;
        self.peers.get(key)?.greeting.is_proven().then_some(key)
    }

    /// A member is connected: it may know those that are still looked for, or who connects to them.
    pub(super) fn seek_introductions(&mut self, newcomer: PeerKey, now: Instant) {
        let sought = self.peers.iter().filter(|peer| is_sought(peer)).map(|peer| peer.key);
        let sought = sought.sample(&mut self.rng, ASKED_OF_NEWCOMER);
        let early = !sought.is_empty() && self.meetings.newcomers.take(1, now);
        for key in sought {
            if let Some(peer) = self.peers.touch(key).filter(|_| early) {
                peer.asking.renew(now);
            }
            self.seek_introduction(key, Some(newcomer), now);
            let Some(peer) = self.peers.get(key) else { continue };
            let (due, timer) = (peer.asking.due(), Timer::Peer(key));
            if self.deadlines.get(&timer).is_none_or(|look| due < look) {
                self.deadlines.set(timer, Some((due, "members are asked for a peer")));
            }
        }
    }

    /// Whether the member at `key` may have this introduction heard.
    pub(super) fn may_introduce(&mut self, key: PeerKey, what: &Control, now: Instant) -> bool {
        self.peers.get_mut(key).is_some_and(|peer| peer.introductions.take(what, now))
    }

    /// `from` asks that somebody be introduced: itself, or who asked it.
    pub(super) fn hear_introduce(
        &mut self,
        (key, from): (PeerKey, DeviceId),
        asked: &IntroductionRequest,
        now: Instant,
    ) {
        let IntroductionRequest { device, at, passing, way } = asked;
        let seeker = way.first().copied().unwrap_or(from);
        if [self.me.identity.id.public(), seeker].contains(device) {
            return;
        }
        let mut here = at.clone();
        if way.is_empty() {
            add(&mut here.endpoints, self.peers.get(key).and_then(|peer| peer.slot.endpoint()));
        }
        let Some(target) = self.proven(device) else {
            let way = way.iter().copied().chain([from]).collect();
            let asked = IntroductionRequest { device: *device, at: here, passing: *passing, way };
            if let Some(next) = self.next_on_way(&asked) {
                self.tell(next, &Control::Introduce(asked), now);
            }
            return;
        };
        let primary = self.peers.get(target).and_then(|peer| peer.slot.endpoint());
        let there = self.known_endpoints(device, primary, now);
        let there = Endpoints { seq: self.unix(now).0, endpoints: there, nat: 0 };
        let back = Introduction { device: *device, at: there, way: way.clone() };
        let introduction = Introduction { device: seeker, at: here, way: Vec::new() };
        self.tell(target, &Control::Introduced(introduction), now);
        self.tell(key, &Control::Introduced(back), now);
    }

    /// To whom a request is passed on that came over its `way`. None is asked twice, so that one that
    /// cannot help is gone round.
    fn next_on_way(&mut self, asked: &IntroductionRequest) -> Option<PeerKey> {
        let IntroductionRequest { device, passing, way, .. } = asked;
        let beside = self.beside(device);
        // Who looks for it, the first, is not connected to it in any case.
        let asked_beside = way.iter().skip(1).filter(|at| beside.contains(at)).count();
        let is_member = self.ledger.roster().get(device).is_some();
        if way.len() > MAX_WAY || asked_beside >= BESIDE || !is_member {
            return None;
        }
        let others = self.introducers(way);
        let nearest = || others.iter().min_by_key(|(_, other)| distance(other, device));
        let next = match passing {
            Passing::Never => None,
            Passing::Nearest => nearest(),
            Passing::ByLot if self.rng.random() => others.choose(&mut self.rng),
            Passing::ByLot => nearest(),
        };
        next.map(|(key, _)| *key)
    }

    /// A member says where another is, or that it looks for us, or for whoever asked over us.
    pub(super) fn hear_introduced(&mut self, introduction: &Introduction, now: Instant) {
        let mut way = introduction.way.clone();
        if let Some(next) = way.pop() {
            let this = self.me.identity.id.public();
            // Nobody is asked twice, so an answer that goes in a circle is none.
            let circles = way.contains(&next) || way.contains(&this);
            if let Some(next) = self.proven(&next).filter(|_| !circles) {
                let introduction = Introduction { way, ..introduction.clone() };
                self.tell(next, &Control::Introduced(introduction), now);
            }
            return;
        }
        let device = introduction.device;
        let is_member = self.ledger.roster().get(&device).is_some();
        if !is_member || device == self.me.identity.id.public() {
            return;
        }
        let endpoints = &introduction.at.endpoints;
        // Who is looked for is in use already.
        if self.peers.member(&device).is_none() && !self.meetings.met.take(1, now) {
            return;
        }
        let Some(key) = self.bring_member(&device, Purpose::Company, now) else { return };
        self.directory.accept(device, endpoints, Source::Gossip, now);
        if let Some(peer) = self.peers.touch(key) {
            endpoints.iter().for_each(|at| peer.path.add_remote(*at, now));
            // Whoever asks for us has lost us, even where our own path seems to stand.
            peer.path.restart(now);
        }
    }

    /// Where this device is, as it tells others.
    pub(super) fn own_endpoints(&self, now: Instant) -> Endpoints {
        Endpoints { seq: self.unix(now).0, endpoints: self.reach.endpoints(), nat: 0 }
    }

    fn known_endpoints(
        &self,
        device: &DeviceId,
        primary: Option<SocketAddr>,
        now: Instant,
    ) -> Vec<SocketAddr> {
        let mut endpoints = self.directory.endpoints(device, now);
        add(&mut endpoints, primary);
        endpoints
    }
}

/// Puts an address that is known to work first, within the bound of a message.
fn add(endpoints: &mut Vec<SocketAddr>, first: Option<SocketAddr>) {
    if let Some(first) = first {
        endpoints.retain(|at| *at != first);
        endpoints.insert(0, first);
    }
    endpoints.truncate(MAX_ENDPOINTS);
}

/// Whether the peer is a member to which no path is known, and whose business it is not to find one.
fn is_sought(peer: &Peer) -> bool {
    let is_wanted = peer.purpose > Purpose::Company;
    peer.device().is_some() && peer.path.primary().is_none() && is_wanted
}

#[cfg(test)]
mod tests;
