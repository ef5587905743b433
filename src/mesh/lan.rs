//! Beacons on the local networks: when to send one, and what the received ones tell.
//!
//! A beacon is sent at a start, a join or a change of the interfaces ([`Beacons::stir`]), three
//! times as multicast is lossy and a new link slow, and while a member is wanted that has no tunnel
//! ([`Beacons::set_searching`]) or this device joins: at once, then after 1, 2, 4, 8 … 60 s. Each asks for an answer; an answer is a beacon of the same key that asks for
//! none, sent after a few random milliseconds (all devices of a link hear the question), at most
//! once a second for each key.
//!
//! A member sends under the network's key; a sponsor of an open invite also under the invite's key,
//! and a joining device only under that. Every received beacon is tried with each of these keys;
//! [`MAX_OPENED`] a second bound the work. Own beacons that loop back are known by their nonces.
//!
//! The state machine has the shape of its neighbours: `handle_*`, then drain
//! [`Beacons::poll_beacon`] and [`Beacons::poll_event`].

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::cadence::{Cadence, Plan};
use super::wall::Wall;
use crate::identity::{DeviceId, WgPublicKey};
use crate::membership::UnixTime;
use crate::membership::invite::InviteId;
use crate::wire::beacon::{Beacon, BeaconKey, LEN, Sender};
use crate::wire::record::{NONCE_LEN, NetworkSecret, Rendezvous};

/// How many beacons a second are tried to open: a link of a hundred devices that all answer, not
/// more.
const MAX_OPENED: u32 = 100;

/// How many own nonces are remembered, to know what looped back.
const OWN_NONCES: usize = 32;

/// The least time between two answers under one key.
const ANSWER_GAP: Duration = Duration::from_secs(1);

/// How long an answer waits, in milliseconds, so that the answers of a link do not collide.
const ANSWER_WAIT_MS: std::ops::Range<u64> = 0..50;

/// How often is asked after a stir, where nobody is sought.
const STIR_ASKS: u8 = 3;

/// The pace of questions.
static ASK: Plan =
    Plan { phases: &[], first: Duration::from_millis(500), cap: Duration::from_secs(60) };

/// Somebody is on a local network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nearby {
    /// A member of the network, or one that was: the roster decides.
    Member {
        /// The device.
        device: DeviceId,
        /// Where it sent from, with the port of its tunnels.
        endpoint: SocketAddr,
    },
    /// A sponsor of the invite this device joins with.
    Sponsor {
        /// The invite.
        invite: InviteId,
        /// Its WireGuard key.
        wg: WgPublicKey,
        /// Where it sent from, with the port of its tunnels.
        endpoint: SocketAddr,
    },
    /// A device that joins with an invite this device sponsors.
    Guest {
        /// The invite.
        invite: InviteId,
        /// Where it sent from, with the port of its tunnels.
        endpoint: SocketAddr,
    },
}

/// Whose key a beacon is under; the network's comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Circle {
    Network,
    Invite(InviteId),
}

/// One key, and who this device is under it.
struct Voice {
    key: BeaconKey,
    sender: Sender,
    /// When it answers.
    answer_at: Option<Instant>,
    answered: Option<Instant>,
}

/// The beacons of one network.
pub struct Beacons {
    port: Option<u16>,
    wall: Option<Wall>,
    voices: BTreeMap<Circle, Voice>,
    /// Runs while somebody is looked for, and for a while after a stir.
    ask: Option<Cadence>,
    /// How many questions of a stir are left.
    asks_left: u8,
    searching: bool,
    own_nonces: VecDeque<[u8; NONCE_LEN]>,
    /// The running second, and how many were tried in it.
    opened: (Instant, u32),
    beacons: VecDeque<Vec<u8>>,
    events: VecDeque<Nearby>,
    rng: StdRng,
    last_now: Instant,
}

impl Beacons {
    /// Sends and hears nothing until it has a key, a port and the time.
    pub fn new(rng: StdRng, now: Instant) -> Self {
        Self {
            port: None,
            wall: None,
            voices: BTreeMap::new(),
            ask: None,
            asks_left: 0,
            searching: false,
            own_nonces: VecDeque::new(),
            opened: (now, 0),
            beacons: VecDeque::new(),
            events: VecDeque::new(),
            rng,
            last_now: now,
        }
    }

    /// The UDP port of this network's tunnels.
    pub fn set_port(&mut self, port: u16, now: Instant) {
        self.port = Some(port).filter(|port| *port != 0);
        self.pump(now);
    }

    /// What the wall clock shows.
    pub fn set_wall(&mut self, unix: UnixTime, now: Instant) {
        self.wall = Some(Wall::new(unix, now));
        self.pump(now);
    }

    /// This device belongs to the network with this secret.
    pub fn set_network(&mut self, own: DeviceId, secret: &NetworkSecret, now: Instant) {
        let key = BeaconKey::of_network(secret);
        self.speak(Circle::Network, key, Sender::Member(own));
        self.stir(now);
    }

    /// This device sponsors an invite.
    pub fn host(&mut self, invite: InviteId, rv: &Rendezvous, wg: WgPublicKey, now: Instant) {
        let circle = Circle::Invite(invite);
        let known = self.voices.contains_key(&circle);
        self.speak(circle, BeaconKey::of_invite(rv), Sender::Sponsor(wg));
        if !known {
            self.stir(now);
        }
    }

    /// This device joins with an invite.
    pub fn join(&mut self, invite: InviteId, rv: &Rendezvous, now: Instant) {
        self.speak(Circle::Invite(invite), BeaconKey::of_invite(rv), Sender::Guest);
        self.stir(now);
    }

    /// This device no longer sponsors or joins with an invite.
    pub fn withdraw(&mut self, invite: &InviteId, now: Instant) {
        self.voices.remove(&Circle::Invite(*invite));
        self.pump(now);
    }

    /// A start, a join, or a change of the interfaces: ask at once, and again soon.
    pub fn stir(&mut self, now: Instant) {
        self.asks_left = STIR_ASKS;
        self.ask = Some(Cadence::new(&ASK, now));
        self.pump(now);
    }

    /// Whether a member is wanted that has no tunnel.
    pub fn set_searching(&mut self, searching: bool, now: Instant) {
        if searching && !self.searching {
            self.ask = Some(Cadence::new(&ASK, now));
        }
        self.searching = searching;
        self.pump(now);
    }

    /// Takes a datagram of the beacon sockets; what is not for this network is passed over.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        if let Some((circle, beacon)) = self.open(datagram, now) {
            let endpoint = with_port(from, beacon.port);
            self.take(circle, beacon, endpoint, now);
        }
        self.pump(now);
    }

    /// Sends what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.pump(now);
    }

    /// The next beacon to send on every interface.
    pub fn poll_beacon(&mut self) -> Option<Vec<u8>> {
        self.beacons.pop_front()
    }

    /// The next thing that was heard.
    pub fn poll_event(&mut self) -> Option<Nearby> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is due, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if !self.beacons.is_empty() || !self.events.is_empty() {
            return Some((self.last_now, "beacon output is queued"));
        }
        if !self.can_speak() {
            return None;
        }
        let answers = self.voices.values().filter_map(|voice| voice.answer_at);
        let ask = self.ask.as_ref().map(|ask| (ask.due(), "beacon"));
        answers.map(|at| (at, "beacon answer")).chain(ask).min()
    }

    fn speak(&mut self, circle: Circle, key: BeaconKey, sender: Sender) {
        self.voices.insert(circle, Voice { key, sender, answer_at: None, answered: None });
    }

    fn can_speak(&self) -> bool {
        self.port.is_some() && self.wall.is_some() && !self.voices.is_empty()
    }

    fn is_joining(&self) -> bool {
        self.voices.values().any(|voice| voice.sender == Sender::Guest)
    }

    fn pump(&mut self, now: Instant) {
        self.last_now = now;
        if !self.can_speak() {
            return;
        }
        if let Some(mut ask) = self.ask.take() {
            let due = ask.due() <= now;
            if due {
                let circles: Vec<_> = self.voices.keys().copied().collect();
                circles.into_iter().for_each(|circle| self.send(circle, true, now));
                ask.advance(&mut self.rng, now);
                self.asks_left = self.asks_left.saturating_sub(1);
            }
            if self.asks_left > 0 || self.searching || self.is_joining() {
                self.ask = Some(ask);
            }
        }
        let due = |voice: &Voice| voice.answer_at.is_some_and(|at| at <= now);
        let answers: Vec<_> =
            self.voices.iter().filter(|(_, voice)| due(voice)).map(|(circle, _)| *circle).collect();
        answers.into_iter().for_each(|circle| self.send(circle, false, now));
    }

    fn send(&mut self, circle: Circle, answer_me: bool, now: Instant) {
        let (Some(port), Some(wall)) = (self.port, self.wall) else { return };
        let Some(voice) = self.voices.get_mut(&circle) else { return };
        // A question says where this device is, as an answer would.
        voice.answer_at = None;
        voice.answered = Some(now);
        let beacon = Beacon { sender: voice.sender, port, time: wall.at(now), answer_me };
        let nonce: [u8; NONCE_LEN] = self.rng.random();
        self.beacons.push_back(beacon.seal(&voice.key, nonce));
        self.own_nonces.push_back(nonce);
        if self.own_nonces.len() > OWN_NONCES {
            self.own_nonces.pop_front();
        }
    }

    fn open(&mut self, datagram: &[u8], now: Instant) -> Option<(Circle, Beacon)> {
        let unix = self.wall?.at(now);
        if datagram.len() != LEN || self.own_nonces.iter().any(|own| datagram.starts_with(own)) {
            return None;
        }
        if now >= self.opened.0 + Duration::from_secs(1) {
            self.opened = (now, 0);
        }
        self.opened.1 += 1;
        if self.opened.1 > MAX_OPENED {
            return None;
        }
        self.voices.iter().find_map(|(circle, voice)| {
            Beacon::open(datagram, &voice.key, unix).ok().map(|beacon| (*circle, beacon))
        })
    }

    fn take(&mut self, circle: Circle, beacon: Beacon, endpoint: SocketAddr, now: Instant) {
        let Some(voice) = self.voices.get_mut(&circle) else { return };
        let event = match (circle, voice.sender, beacon.sender) {
            (Circle::Network, Sender::Member(own), Sender::Member(device)) if device != own => {
                Nearby::Member { device, endpoint }
            }
            (Circle::Invite(invite), Sender::Guest, Sender::Sponsor(wg)) => {
                Nearby::Sponsor { invite, wg, endpoint }
            }
            (Circle::Invite(invite), Sender::Sponsor(_), Sender::Guest) => {
                Nearby::Guest { invite, endpoint }
            }
            // This device itself, or two sponsors or guests of one invite: nothing to say.
            _ => return,
        };
        self.events.push_back(event);
        if beacon.answer_me && voice.answer_at.is_none() {
            let wait = Duration::from_millis(self.rng.random_range(ANSWER_WAIT_MS));
            let earliest = voice.answered.map_or(now, |at| at + ANSWER_GAP);
            voice.answer_at = Some(earliest.max(now + wait));
        }
    }
}

/// The sender's address, of its own family, with the port of its tunnels. Keeps the scope of a
/// link-local address.
fn with_port(from: SocketAddr, port: u16) -> SocketAddr {
    let mut endpoint = from;
    endpoint.set_port(port);
    match endpoint.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::from((v4, port)),
        IpAddr::V6(_) => endpoint,
    }
}

impl std::fmt::Debug for Beacons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beacons").field("searching", &self.searching).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const UNIX: UnixTime = UnixTime(1_800_000_000);
    const INVITE: InviteId = InviteId([4; 16]);
    const WG: WgPublicKey = WgPublicKey([7; 32]);

    fn from(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn rv() -> Rendezvous {
        Rendezvous::new([6; 32])
    }

    fn quiet(seed: u8, now: Instant) -> Beacons {
        let mut beacons = Beacons::new(StdRng::seed_from_u64(seed.into()), now);
        beacons.set_port(4000 + u16::from(seed), now);
        beacons.set_wall(UNIX, now);
        beacons
    }

    /// A member whose beacons for its start are sent already.
    fn member(seed: u8, now: Instant) -> Beacons {
        let mut beacons = quiet(seed, now);
        beacons.set_network(DeviceId([seed; 32]), &NetworkSecret::new(1, [9; 32]), now);
        beacons.asks_left = 0;
        drain(&mut beacons);
        beacons.handle_timeout(now);
        beacons
    }

    fn drain(beacons: &mut Beacons) -> (Vec<Vec<u8>>, Vec<Nearby>) {
        let sent = std::iter::from_fn(|| beacons.poll_beacon()).collect();
        (sent, std::iter::from_fn(|| beacons.poll_event()).collect())
    }

    /// When beacons are sent until `end`.
    fn run(beacons: &mut Beacons, mut now: Instant, end: Instant) -> Vec<Instant> {
        let mut times = Vec::new();
        loop {
            times.extend(drain(beacons).0.iter().map(|_| now));
            match beacons.poll_timeout() {
                Some((at, _)) if at < end => now = at.max(now),
                _ => return times,
            }
            beacons.handle_timeout(now);
        }
    }

    #[test]
    fn a_member_that_comes_is_heard_and_answered() {
        let now = Instant::now();
        let (mut one, mut two) = (member(1, now), member(2, now));
        one.stir(now);
        let (sent, _) = drain(&mut one);
        two.handle_datagram(from("192.168.1.1:9999"), &sent[0], now);
        let endpoint = from("192.168.1.1:4001");
        let expected = Nearby::Member { device: DeviceId([1; 32]), endpoint };
        assert_eq!(drain(&mut two).1, [expected]);
        let later = now + Duration::from_secs(2);
        two.handle_timeout(later);
        let (answer, _) = drain(&mut two);
        one.handle_datagram(from("[fe80::2%3]:9999"), &answer[0], later);
        let endpoint = from("[fe80::2%3]:4002");
        let expected = Nearby::Member { device: DeviceId([2; 32]), endpoint };
        assert_eq!(drain(&mut one).1, [expected]);
        // An answer asks for none: only the stir's third question follows.
        assert_eq!(run(&mut one, later, later + Duration::from_secs(60)).len(), 1);
    }

    #[test]
    fn a_join_on_one_link_takes_one_question_and_one_answer() {
        let now = Instant::now();
        let mut sponsor = member(1, now);
        sponsor.host(INVITE, &rv(), WG, now);
        run(&mut sponsor, now, now + Duration::from_secs(20));
        let mut guest = quiet(2, now + Duration::from_secs(30));
        let now = now + Duration::from_secs(30);
        guest.join(INVITE, &rv(), now);
        let (sent, _) = drain(&mut guest);
        assert_eq!(sent.len(), 1);
        sponsor.handle_datagram(from("10.0.0.2:9999"), &sent[0], now);
        let endpoint = from("10.0.0.2:4002");
        assert_eq!(drain(&mut sponsor).1, [Nearby::Guest { invite: INVITE, endpoint }]);
        let (at, _) = sponsor.poll_timeout().unwrap();
        assert!(at <= now + Duration::from_millis(50));
        sponsor.handle_timeout(at);
        let (answer, _) = drain(&mut sponsor);
        assert_eq!(answer.len(), 1);
        guest.handle_datagram(from("10.0.0.1:9999"), &answer[0], at);
        let endpoint = from("10.0.0.1:4001");
        let expected = Nearby::Sponsor { invite: INVITE, wg: WG, endpoint };
        assert_eq!(drain(&mut guest).1, [expected]);
    }

    #[test]
    fn questions_double_their_distance_up_to_a_minute_while_somebody_is_sought() {
        let now = Instant::now();
        let mut beacons = member(1, now);
        assert!(run(&mut beacons, now, now + Duration::from_secs(3600)).is_empty());
        beacons.set_searching(true, now);
        let times = run(&mut beacons, now, now + Duration::from_secs(60));
        assert!((5..=7).contains(&times.len()), "{}", times.len());
        assert_eq!(times[0], now);
        let hour = run(&mut beacons, now, now + Duration::from_secs(3660));
        assert!((55..=65).contains(&hour.len()), "{}", hour.len());
        beacons.set_searching(false, now);
        let after = run(&mut beacons, now, now + Duration::from_secs(7200));
        assert!(after.len() <= 1, "{}", after.len());
    }

    #[test]
    fn own_beacons_and_strangers_are_passed_over() {
        let now = Instant::now();
        let mut beacons = member(1, now);
        beacons.stir(now);
        let (sent, _) = drain(&mut beacons);
        beacons.handle_datagram(from("10.0.0.1:1"), &sent[0], now);
        let mut foreign = quiet(2, now);
        foreign.set_network(DeviceId([2; 32]), &NetworkSecret::new(1, [8; 32]), now);
        let (other, _) = drain(&mut foreign);
        beacons.handle_datagram(from("10.0.0.1:1"), &other[0], now);
        for len in [0, 1, 3, 31, LEN, 256, 65_507] {
            beacons.handle_datagram(from("10.0.0.1:1"), &vec![0xa5; len], now);
        }
        assert!(drain(&mut beacons).1.is_empty());
        assert_eq!(run(&mut beacons, now, now + Duration::from_secs(60)).len(), 2);
    }

    #[test]
    fn a_flood_is_answered_once_a_second_and_bounded() {
        let now = Instant::now();
        let mut beacons = member(1, now);
        let mut other = member(2, now);
        let mut events = 0;
        for _ in 0..1000 {
            other.stir(now);
            let (sent, _) = drain(&mut other);
            beacons.handle_datagram(from("10.0.0.2:1"), &sent[0], now);
            events += drain(&mut beacons).1.len();
        }
        assert_eq!(events, MAX_OPENED as usize);
        assert_eq!(run(&mut beacons, now, now + Duration::from_secs(60)).len(), 1);
    }

    #[test]
    fn nothing_is_sent_without_a_port_or_the_time() {
        let now = Instant::now();
        let mut beacons = Beacons::new(StdRng::seed_from_u64(1), now);
        beacons.join(INVITE, &rv(), now);
        beacons.set_port(0, now);
        assert!(beacons.poll_beacon().is_none() && beacons.poll_timeout().is_none());
        beacons.set_port(5, now);
        assert!(beacons.poll_beacon().is_none());
        beacons.set_wall(UNIX, now);
        assert!(beacons.poll_beacon().is_some());
    }
}
