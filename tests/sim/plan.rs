//! What happens in a history, as read from its bytes.
//!
//! The first record holds the seed of the world and its weather, the second the founder's place,
//! each further one a step. Something new that can happen is a variant of [`Act`], a place in
//! [`KINDS`], a line in `Act::read`, and what it does in `history.rs`.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::byzantine::Attack;
use super::choices::{Choices, RECORD};
use super::dht::Manners;
use super::disk::Trouble;
use super::nat::NatKind;
use super::net::Weather;

/// More steps than this are left out, so that a fuzzer's history ends.
const MAX_STEPS: usize = 64;

/// Devices of one history.
pub const MAX_DEVICES: usize = 7;

/// One history.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of the world.
    pub seed: u64,
    /// The weather at the start.
    pub weather: Weather,
    /// Where the founder is.
    pub founder: Place,
    /// What happens.
    pub steps: Vec<Step>,
}

/// Where a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the Internet, without a NAT.
    Open,
    /// At the site of another device: a number, to be taken modulo the devices there are.
    With(u8),
    /// At a site of its own, behind one NAT, or behind two.
    Behind(NatKind, Option<NatKind>),
}

/// One thing that happens, and who talks to whom after it.
#[derive(Debug, Clone)]
pub struct Step {
    /// What happens.
    pub act: Act,
    /// For what the act does at random.
    pub seed: u64,
    /// Packets that applications send afterwards: from, to, and the pause after each.
    pub talk: Vec<(Who, Who, Duration)>,
}

/// A device: a number, to be taken modulo the devices there are.
pub type Who = u8;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Act {
    /// Nothing.
    Calm,
    /// A device joins; it may lose its power meanwhile, as in [`Act::CrashAfter`].
    Join(Place, Option<(u8, u8)>),
    /// The founder removes a device.
    Revoke(Who),
    /// A device loses its power, now.
    Crash(Who),
    /// A device loses its power in the middle of its work: after it did so many more things; of a
    /// write that comes next, so much of 256 is done.
    CrashAfter(Who, u8, u8),
    /// The public address of a device's site changes.
    Renumber(Who),
    /// The router of a device's site forgets its mappings.
    RestartRouter(Who),
    /// A device is cut off from everything.
    Cut(Who, Duration),
    /// A device's site loses the Internet; its local network goes on.
    CutSite(Who, Duration),
    /// A device moves.
    Move(Who, Place),
    /// Other weather.
    Weather(Weather),
    /// Something is wrong with a device's disk.
    Disk(Who, Trouble),
    /// A device starts from what its disk held so many writes ago; never the founder, whose log
    /// nobody may see shorter than it was.
    RollBack(Who, u8),
    /// A device's wall clock is wrong by so many seconds.
    Clock(Who, i64),
    /// The DHT behaves like this.
    Dht(Manners),
    /// A hostile member, always the same and never the founder, does its worst towards a device.
    Attack(Who, Attack),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Calm,
    Join,
    Revoke,
    Crash,
    CrashAfter,
    Renumber,
    RestartRouter,
    Cut,
    CutSite,
    Move,
    Weather,
    Disk,
    RollBack,
    Clock,
    Dht,
    Attack,
}

/// What a step's first byte means, modulo their number: more places, more often.
const KINDS: [Kind; 23] = [
    Kind::Calm,
    Kind::Calm,
    Kind::Crash,
    Kind::CrashAfter,
    Kind::CrashAfter,
    Kind::Renumber,
    Kind::RestartRouter,
    Kind::Cut,
    Kind::Cut,
    Kind::CutSite,
    Kind::Move,
    Kind::Weather,
    Kind::Weather,
    Kind::Disk,
    Kind::RollBack,
    Kind::Clock,
    Kind::Dht,
    Kind::Attack,
    Kind::Attack,
    Kind::Attack,
    Kind::Attack,
    Kind::Join,
    Kind::Revoke,
];

/// By how many seconds clocks are wrong: a little, an hour, ten years.
const CLOCKS: [i64; 8] = [0, 100, -100, 3600, -3600, 86_400, 10 * 31_536_000, -10 * 31_536_000];

impl Plan {
    /// The history of a seed: devices join one after the other, and things go wrong in between
    /// and after.
    pub fn bytes(seed: u64) -> Vec<u8> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = Vec::new();
        let mut record = |rng: &mut StdRng, kind: Option<Kind>| {
            let mut record = [0; RECORD];
            rng.fill_bytes(&mut record);
            if let Some(kind) = kind {
                record[0] = kind.number();
            }
            bytes.extend_from_slice(&record);
        };
        let mishap = |rng: &mut StdRng| loop {
            let kind = KINDS[rng.random_range(0..KINDS.len())];
            if !matches!(kind, Kind::Join | Kind::Revoke) {
                return Some(kind);
            }
        };
        record(&mut rng, None);
        record(&mut rng, Some(Kind::Join));
        for _ in 1..rng.random_range(3..=6) {
            record(&mut rng, Some(Kind::Join));
            for _ in 0..rng.random_range(0..=3) {
                let kind = mishap(&mut rng);
                record(&mut rng, kind);
            }
        }
        if rng.random_ratio(2, 3) {
            record(&mut rng, Some(Kind::Revoke));
        }
        for _ in 0..rng.random_range(0..=12) {
            let kind = mishap(&mut rng);
            record(&mut rng, kind);
        }
        bytes
    }

    /// What these bytes mean; every string of bytes means something.
    pub fn read(bytes: &[u8]) -> Self {
        let mut records = bytes.chunks(RECORD);
        let mut first = Choices::of(records.next().unwrap_or_default());
        let seed = (0..3).fold(0, |seed, _| seed << 8 | u64::from(first.byte()));
        let weather = weather(&mut first);
        let mut founder = Choices::of(records.next().unwrap_or_default());
        founder.byte();
        let founder = place(&mut founder);
        let steps = records.take(MAX_STEPS).map(Step::read).collect();
        Self { seed, weather, founder, steps }
    }
}

impl Step {
    fn read(record: &[u8]) -> Self {
        let act = Act::read(&mut Choices::of(record));
        let mut padded = [0; RECORD];
        padded[..record.len()].copy_from_slice(record);
        // The last byte says how much is talked; who with whom follows from the whole record, so
        // that it does not change with what happened before.
        let seed = u64::from_le_bytes(padded);
        let mut rng = StdRng::seed_from_u64(seed);
        let count = (u32::from(padded[RECORD - 1]) * 10) >> 8;
        let mut talk = || {
            let pause = Duration::from_millis(rng.random_range(0..2000));
            (rng.random(), rng.random(), pause)
        };
        Self { act, seed, talk: (0..count).map(|_| talk()).collect() }
    }
}

impl Act {
    fn read(choices: &mut Choices<'_>) -> Self {
        let kind = KINDS[usize::from(choices.byte()) % KINDS.len()];
        let who = Choices::byte;
        match kind {
            Kind::Calm => Self::Calm,
            Kind::Join => {
                let place = place(choices);
                let crashes = choices.byte() % 4 == 1;
                let crash = crashes.then(|| (choices.below(40) as u8, choices.byte()));
                Self::Join(place, crash)
            }
            Kind::Revoke => Self::Revoke(who(choices)),
            Kind::Crash => Self::Crash(who(choices)),
            Kind::CrashAfter => {
                Self::CrashAfter(who(choices), choices.below(40) as u8, choices.byte())
            }
            Kind::Renumber => Self::Renumber(who(choices)),
            Kind::RestartRouter => Self::RestartRouter(who(choices)),
            Kind::Cut => Self::Cut(who(choices), seconds(choices)),
            Kind::CutSite => Self::CutSite(who(choices), seconds(choices)),
            Kind::Move => Self::Move(who(choices), place(choices)),
            Kind::Weather => Self::Weather(weather(choices)),
            Kind::Disk => {
                let all = [Trouble::None, Trouble::Full, Trouble::Flaky];
                Self::Disk(who(choices), choices.one_of(&all))
            }
            Kind::RollBack => Self::RollBack(who(choices), choices.below(8) as u8),
            Kind::Clock => Self::Clock(who(choices), choices.one_of(&CLOCKS)),
            Kind::Dht => Self::Dht(manners(choices)),
            Kind::Attack => Self::Attack(who(choices), choices.one_of(&Attack::ALL)),
        }
    }
}

impl Kind {
    fn number(self) -> u8 {
        let at = KINDS.iter().position(|kind| *kind == self);
        at.expect("every kind has a place") as u8
    }
}

/// Up to a minute.
fn seconds(choices: &mut Choices<'_>) -> Duration {
    Duration::from_secs(u64::from(1 + choices.below(60)))
}

/// What the Internet carries, in bytes: an Ethernet's, one within PPPoE and within two tunnels, and the
/// least that IPv6 allows.
const MTUS: [u16; 8] = [1500, 1500, 1500, 1500, 1492, 1428, 1360, 1280];

/// Weather of some kind.
fn weather(choices: &mut Choices<'_>) -> Weather {
    Weather {
        delay: Duration::from_millis(u64::from(2 + choices.below(98))),
        jitter: Duration::from_millis(u64::from(choices.below(50))),
        loss: choices.below(150) as u16,
        duplication: choices.below(100) as u16,
        mtu: choices.one_of(&MTUS),
    }
}

/// A DHT of some kind.
fn manners(choices: &mut Choices<'_>) -> Manners {
    let thousandths = |choices: &mut Choices<'_>| choices.below(200) as u16 * 4;
    Manners {
        failing: thousandths(choices),
        stale: thousandths(choices),
        withheld: thousandths(choices),
        dead: choices.byte() >= 192,
        ..Manners::FAIR
    }
}

fn place(choices: &mut Choices<'_>) -> Place {
    match choices.below(10) {
        0 => Place::Open,
        1 | 2 => Place::With(choices.byte()),
        3 => Place::Behind(nat(choices), Some(nat(choices))),
        _ => Place::Behind(nat(choices), None),
    }
}

/// Homes are mostly port-restricted.
fn nat(choices: &mut Choices<'_>) -> NatKind {
    let home = NatKind::PORT_RESTRICTED;
    let kind = choices.one_of(&[
        home,
        home,
        home,
        NatKind::FULL_CONE,
        NatKind::ADDRESS_RESTRICTED,
        NatKind::SYMMETRIC,
        NatKind::SEQUENTIAL,
        NatKind::PORT_BLOCK,
        NatKind::BY_ADDRESS,
    ]);
    let expiry = Duration::from_secs(choices.one_of(&[120, 30, 60, 300]));
    let odd = choices.byte();
    NatKind { expiry, hairpin: odd & 1 == 1, poisons: odd & 14 == 14, ..kind }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  world {:#x}, {:?}", self.seed, self.weather)?;
        writeln!(f, "  d0 founds a network at {:?}", self.founder)?;
        for Step { act, talk, .. } in &self.steps {
            let pause: Duration = talk.iter().map(|(_, _, pause)| *pause).sum();
            writeln!(f, "  {act:?}, then {} packets in {pause:?}", talk.len())?;
        }
        Ok(())
    }
}
