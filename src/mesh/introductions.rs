//! Signalling through a shared member: "tell that device where I am, and me where it is".
//!
//! Two devices that lose each other, or have never met, mostly share a member to whom both have a
//! tunnel. It passes their addresses on at once, where the DHT would take seconds. What it says is
//! only a hint: a path check to the address decides, and a lying member wastes one check.
//!
//! Where no member is connected to both, one that most likely is to the other comes first: its
//! [agreed](super::neighbours) neighbours. They can be introduced by more members than the other can.
//!
//! ```text
//!   b ── Introduce { c, where b is } ──▶ a ── Introduced { b, where b is } ──▶ c
//!   b ◀── Introduced { c, where c is } ─ a
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom;

use super::directory::Source;
use super::peer::{Peer, Purpose};
use super::rate::Bucket;
use super::*;
use crate::identity::DeviceId;
use crate::wire::control::{Control, Endpoints, Introduction, MAX_ENDPOINTS};

/// How many members are asked at once, those first that are [agreed](super::neighbours) neighbours of
/// the other: one may be slow, or not connected to it. Of the others, which hardly are in a large
/// network, as many only where a user waits.
const INTRODUCERS: usize = 3;

/// How many members are brought into use to introduce others, at once and in all, and for how long:
/// they are asked for themselves after a second, and again after two and four.
const APPROACHED_AT_ONCE: usize = 2;
const APPROACHED: usize = 8;
const APPROACHED_FOR: Duration = Duration::from_secs(15);

/// Introductions a second that one member may ask for or bring, and how many at once. Each makes us
/// check up to a dozen addresses that it chose, so a hostile member could aim every device at a
/// stranger; an honest one asks for a handful, once a second at most.
const HEARD_A_SECOND: u32 = 4;
const HEARD_AT_ONCE: u32 = 32;

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
}

impl Asking {
    /// At once.
    pub fn start(now: Instant) -> Self {
        Self { at: now, pause: PAUSE, asked_at: None }
    }

    /// When it is due.
    pub fn due(&self) -> Instant {
        self.at
    }

    /// As soon as may be, without a pause of less than [`PAUSE`]: a member that greets again and
    /// again must not make us ask all the others as often.
    pub fn renew(&mut self, now: Instant) {
        self.at = self.asked_at.map_or(now, |asked| now.max(asked + PAUSE));
        self.pause = PAUSE;
    }

    fn asked(&mut self, user_waits: bool, now: Instant) {
        let longest = if user_waits { LONGEST_PAUSE_OF_USER } else { LONGEST_PAUSE };
        self.asked_at = Some(now);
        self.at = now + self.pause;
        self.pause = (self.pause * 2).min(longest);
    }
}

/// How many introductions one member may bring.
pub fn allowance() -> Bucket {
    Bucket::new(HEARD_A_SECOND, Duration::from_secs(1), HEARD_AT_ONCE)
}

impl Mesh {
    /// Asks members to introduce this device to `key`'s, where it is looked for and it is time.
    pub(super) fn seek_introduction(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.touch(key).filter(|peer| is_sought(peer)) else { return };
        let Some(target) = peer.device() else { return };
        if peer.asking.due() > now {
            return;
        }
        let (waits, beside) = (peer.is_waited_for(now), peer.beside.clone());
        let again = peer.asking.pause > PAUSE;
        let mut others = self.proven_members();
        others.retain(|other| *other != key);
        if others.is_empty() {
            // Whoever connects next is asked at once.
            return;
        }
        let beside = beside.unwrap_or_else(|| self.note_beside(key, &target));
        let knows = |key: &PeerKey| {
            self.peers.get(*key).and_then(Peer::device).is_some_and(|at| beside.contains(&at))
        };
        let (likely, others): (Vec<_>, Vec<_>) = others.into_iter().partition(knows);
        if waits && (likely.is_empty() || again) {
            self.approach(&beside, now);
        }
        // Whoever places devices beside the target must not have the say alone.
        let most = INTRODUCERS - usize::from(!others.is_empty());
        let mut asked: Vec<_> = likely.sample(&mut self.rng, most).copied().collect();
        let unlikely = if waits { INTRODUCERS - asked.len() } else { 1 };
        asked.extend(others.sample(&mut self.rng, unlikely).copied());
        let at = self.own_endpoints(now);
        for introducer in asked {
            let introduction = Introduction { device: target, at: at.clone() };
            self.tell(introducer, &Control::Introduce(introduction), now);
        }
        if let Some(peer) = self.peers.touch(key) {
            peer.asking.asked(waits, now);
        }
    }

    /// Who is likely connected to `key`'s device, as of now: the roster may change, a hint may be old.
    fn note_beside(&mut self, key: PeerKey, target: &DeviceId) -> Arc<BTreeSet<DeviceId>> {
        let beside = Arc::new(self.beside(target));
        if let Some(peer) = self.peers.touch(key) {
            peer.beside = Some(beside.clone());
        }
        beside
    }

    /// Brings some of those into use that are likely connected to a device for which a user waits: the
    /// roster's sync can do without.
    fn approach(&mut self, beside: &BTreeSet<DeviceId>, now: Instant) {
        let is_approached =
            |peer: &&Peer| peer.purpose == Purpose::Introducer && now < peer.wanted_until;
        let free = APPROACHED.saturating_sub(self.peers.iter().filter(is_approached).count());
        let this = self.me.identity.id.public();
        let known = |device: &&DeviceId| **device == this || self.peers.member(device).is_some();
        let new: Vec<_> = beside.iter().filter(|device| !known(device)).copied().collect();
        for device in new.sample(&mut self.rng, APPROACHED_AT_ONCE.min(free)) {
            if let Some(key) = self.bring_member(device, Purpose::Introducer, now)
                && let Some(peer) = self.peers.touch(key)
            {
                peer.wanted_until = now + APPROACHED_FOR;
            }
        }
    }

    /// A member is connected: it may know those that are still looked for.
    pub(super) fn seek_introductions(&mut self, now: Instant) {
        let sought: Vec<_> =
            self.peers.iter().filter(|peer| is_sought(peer)).map(|peer| peer.key).collect();
        for key in sought {
            if let Some(peer) = self.peers.touch(key) {
                peer.asking.renew(now);
            }
            self.seek_introduction(key, now);
        }
    }

    /// Whether the member at `key` may have one more introduction heard.
    pub(super) fn may_introduce(&mut self, key: PeerKey, now: Instant) -> bool {
        self.peers.get_mut(key).is_some_and(|peer| peer.introductions.take(1, now))
    }

    /// `from` asks to be introduced.
    pub(super) fn hear_introduce(
        &mut self,
        (key, from): (PeerKey, DeviceId),
        asked: &Introduction,
        now: Instant,
    ) {
        let target = self.peers.member(&asked.device).and_then(|key| self.peers.get(key));
        let Some(target) = target.filter(|peer| peer.greeting.is_proven()) else { return };
        let (other, primary) = (target.key, target.slot.endpoint());
        let there = self.known_endpoints(&asked.device, primary, now);
        let asker = self.peers.get(key).and_then(|peer| peer.slot.endpoint());
        let mut here = asked.at.clone();
        add(&mut here.endpoints, asker);
        let seq = self.unix(now).0;
        let at = Endpoints { seq, endpoints: there, nat: 0 };
        let back = Introduction { device: asked.device, at };
        self.tell(other, &Control::Introduced(Introduction { device: from, at: here }), now);
        self.tell(key, &Control::Introduced(back), now);
    }

    /// A member says where another is, or that it looks for us.
    pub(super) fn hear_introduced(&mut self, introduction: &Introduction, now: Instant) {
        let device = introduction.device;
        if device == self.me.identity.id.public() {
            return;
        }
        let endpoints = &introduction.at.endpoints;
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
