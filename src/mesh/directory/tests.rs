use std::time::Duration;

use rand::SeedableRng;

use super::*;
use crate::identity::{IdSecret, WgPublicKey};
use crate::mesh::event::PublishError;
use crate::wire::record::{
    Bell, BellKey, EPOCH_SECS, Epoch, Meeting, Record, RecordBody, RecordKey, Ring, SignedItem,
    bell_epoch, device_epoch,
};

const UNIX: UnixTime = UnixTime(1_800_000_000);
const INVITE: InviteId = InviteId([4; 16]);

/// The network's secret.
pub(in crate::mesh) fn secret() -> NetworkSecret {
    NetworkSecret::new(1, [0x42; 32])
}

/// The rendezvous of an invite.
pub(in crate::mesh) fn rv() -> Rendezvous {
    Rendezvous::new([6; 32])
}

/// The identity of one device.
pub(in crate::mesh) fn id(number: u8) -> IdSecret {
    IdSecret::from_seed([number; 32])
}

/// Endpoints, parsed.
pub(in crate::mesh) fn list(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn directory(now: Instant) -> Directory {
    let mut directory = Directory::new(StdRng::seed_from_u64(1), now);
    directory.set_wall(UNIX, now);
    directory.set_network(id(1).public(), secret(), now);
    directory
}

/// A device without a tunnel that wants another.
fn wanting(device: DeviceId, now: Instant) -> Directory {
    let mut directory = directory(now);
    directory.want(device, now);
    directory.set_lonely(true, now);
    directory
}

fn epoch_of(number: u8) -> Epoch {
    device_epoch(&id(number).public(), &secret(), UNIX).epoch
}

fn key_of(number: u8) -> DhtKey {
    RecordKey::new(&id(number).public(), &secret(), epoch_of(number)).unwrap().dht()
}

fn record(number: u8, endpoints: &[&str], seq: u64) -> SignedItem {
    let body = RecordBody { endpoints: list(endpoints), ..RecordBody::default() };
    let seq = i64::try_from(seq).unwrap();
    Record::seal(&id(number), &secret(), epoch_of(number), (&body, seq), [seq as u8; 24])
}

fn bell(rings: Vec<Ring>, seq: u64) -> SignedItem {
    let epoch = bell_epoch(&secret(), UNIX).epoch;
    Bell::seal(&secret(), epoch, rings, i64::try_from(seq).unwrap(), [1; 24])
}

fn the_bell() -> DhtKey {
    BellKey::new(&secret(), bell_epoch(&secret(), UNIX).epoch).dht()
}

/// Runs until `end`, answering every look-up with nothing after 100 ms; how often each key was
/// looked up.
fn run(directory: &mut Directory, now: &mut Instant, end: Instant) -> Vec<(Instant, DhtKey)> {
    let mut asked = Vec::new();
    let mut done = VecDeque::new();
    loop {
        while let Some(key) = directory.poll_lookup() {
            asked.push((*now, key));
            done.push_back((*now + Duration::from_millis(100), key));
        }
        while directory.poll_event().is_some() {}
        let timeout = directory.poll_timeout().map(|(at, _)| at);
        let answer = done.front().map(|(at, _)| *at);
        let next = timeout.into_iter().chain(answer).min().unwrap_or(end);
        if next >= end {
            *now = end;
            return asked;
        }
        *now = next.max(*now);
        if answer == Some(next) {
            let (_, key) = done.pop_front().unwrap();
            directory.handle_dht(&DhtInput::LookupDone(key), *now);
        } else {
            directory.handle_timeout(*now);
        }
    }
}

fn drain(directory: &mut Directory) -> (Vec<DhtKey>, Vec<Found>) {
    let keys = std::iter::from_fn(|| directory.poll_lookup()).collect();
    (keys, std::iter::from_fn(|| directory.poll_event()).collect())
}

#[test]
fn a_wanted_device_is_found_with_the_first_value_and_again_with_a_newer_one() {
    let now = Instant::now();
    let mut directory = wanting(id(2).public(), now);
    let (keys, _) = drain(&mut directory);
    assert_eq!(keys, [key_of(2), the_bell()]);

    let old = record(2, &["9.9.9.1:1", "10.0.0.9:1"], UNIX.0 - 60);
    directory.handle_dht(&DhtInput::Value(old.clone()), now);
    let device = id(2).public();
    let source = Source::Record;
    let found = |endpoints| Found::Device { device, endpoints: list(endpoints), source };
    assert_eq!(drain(&mut directory).1, [found(&["9.9.9.1:1"])]);

    directory.handle_dht(&DhtInput::Value(record(2, &["9.9.9.2:1"], UNIX.0 - 5)), now);
    assert_eq!(drain(&mut directory).1, [found(&["9.9.9.2:1"])]);
    // The old value from another node changes nothing any more.
    directory.handle_dht(&DhtInput::Value(old), now);
    assert!(drain(&mut directory).1.is_empty());
    assert_eq!(directory.endpoints(&device, now), list(&["9.9.9.2:1"]));
}

#[test]
fn members_have_time_to_introduce_a_wanted_device_before_the_dht_is_asked() {
    let mut now = Instant::now();
    let mut directory = directory(now);
    let device = id(2).public();
    directory.want(device, now);
    let introduced = now + INTRODUCED_WITHIN;
    assert!(run(&mut directory, &mut now, introduced).is_empty());
    directory.unwant(&device, now);
    assert!(directory.poll_timeout().is_none(), "{:?}", directory.poll_timeout());

    directory.want(device, now);
    let end = now + INTRODUCED_WITHIN + Duration::from_secs(1);
    let asked = run(&mut directory, &mut now, end);
    let keys: Vec<_> = asked.iter().map(|(_, key)| *key).collect();
    assert!(keys.starts_with(&[key_of(2), the_bell()]), "{keys:?}");
}

#[test]
fn hostile_values_are_passed_over_and_do_not_stop_a_good_one() {
    let now = Instant::now();
    let mut directory = wanting(id(2).public(), now);
    drain(&mut directory);
    let good = record(2, &["9.9.9.1:1"], UNIX.0);
    let mut forged = good.clone();
    forged.signature[3] ^= 1;
    let mut long = good.clone();
    long.value.resize(1001, 0);
    let stale = record(2, &["9.9.9.3:1"], UNIX.0 - 4 * 3600);
    let future = record(2, &["9.9.9.4:1"], UNIX.0 + 4 * 3600);
    let mut of_other = record(3, &["9.9.9.5:1"], UNIX.0);
    of_other.key = good.key;
    for item in [forged, long, stale, future, of_other, record(3, &["9.9.9.6:1"], UNIX.0)] {
        directory.handle_dht(&DhtInput::Value(item), now);
        assert!(drain(&mut directory).1.is_empty());
    }
    directory.handle_dht(&DhtInput::Value(good), now);
    assert_eq!(drain(&mut directory).1.len(), 1);
}

#[test]
fn look_ups_are_eager_then_patient_and_eager_again_when_stirred() {
    let mut now = Instant::now();
    let start = now;
    let mut directory = directory(now);
    directory.want(id(2).public(), now);
    let count =
        |asked: Vec<(Instant, DhtKey)>| asked.iter().filter(|(_, key)| *key == key_of(2)).count();
    let minute = Duration::from_secs(60);
    let first = count(run(&mut directory, &mut now, start + minute));
    assert!((10..=15).contains(&first), "{first}");
    let next = count(run(&mut directory, &mut now, start + 6 * minute));
    assert!((16..=26).contains(&next), "{next}");
    let hour = run(&mut directory, &mut now, start + 66 * minute);
    assert!(hour.len() < 40, "{} look-ups an hour", hour.len());
    directory.stir(now);
    let end = now + minute;
    let stirred = count(run(&mut directory, &mut now, end));
    assert!((10..=15).contains(&stirred), "{stirred}");
}

#[test]
fn a_thousand_wanted_devices_are_no_flood() {
    let mut now = Instant::now();
    let start = now;
    let mut directory = directory(now);
    for i in 0..1000_u16 {
        let mut seed = [9; 32];
        seed[..2].copy_from_slice(&i.to_be_bytes());
        directory.want(IdSecret::from_seed(seed).public(), now);
    }
    assert!(drain(&mut directory).0.len() <= 4);
    let mut at_once = run(&mut directory, &mut now, start + Duration::from_secs(1));
    at_once.dedup();
    assert!(at_once.len() <= 10, "{}", at_once.len());
    let eager = run(&mut directory, &mut now, start + Duration::from_secs(400)).len();
    assert!(eager <= 1010, "{eager}");
    let end = now + Duration::from_secs(3600);
    let patient = run(&mut directory, &mut now, end);
    assert!(patient.len() <= 121, "{}", patient.len());
}

#[test]
fn the_bell_tells_of_everyone_who_rings_but_this_device() {
    let now = Instant::now();
    let mut directory = directory(now);
    directory.set_lonely(true, now);
    assert_eq!(drain(&mut directory).0, [the_bell()]);
    let ring = |number: u8, endpoint: &str| Ring {
        device: id(number).public(),
        at: UNIX,
        endpoints: list(&[endpoint]),
    };
    let item = bell(vec![ring(1, "9.9.9.1:1"), ring(2, "9.9.9.2:1"), ring(3, "127.0.0.1:1")], 5);
    directory.handle_dht(&DhtInput::Value(item), now);
    let endpoints = list(&["9.9.9.2:1"]);
    let device = id(2).public();
    let found = Found::Device { device, endpoints, source: Source::Bell };
    assert_eq!(drain(&mut directory).1, [found]);
    directory.handle_dht(&DhtInput::LookupDone(the_bell()), now);
    directory.set_lonely(false, now);
    assert!(directory.poll_timeout().is_none());
}

#[test]
fn a_record_missing_in_this_epoch_is_looked_for_in_the_neighbour() {
    let mut now = Instant::now();
    let device = id(2).public();
    let mut directory = wanting(device, now);
    let end = now + Duration::from_secs(2);
    let asked = run(&mut directory, &mut now, end);
    let neighbour = device_epoch(&device, &secret(), UNIX).neighbour();
    let expected = RecordKey::new(&device, &secret(), neighbour).unwrap().dht();
    assert!(asked.iter().any(|(_, key)| *key == expected));
    assert_eq!(neighbour.0.abs_diff(epoch_of(2).0), 1);
    const { assert!(EPOCH_SECS == 21_600) };
}

#[test]
fn both_sides_of_an_invite_find_each_other() {
    let now = Instant::now();
    let mut joining = Directory::new(StdRng::seed_from_u64(2), now);
    joining.seek_sponsors(INVITE, &rv(), now);
    let keys = drain(&mut joining).0;
    assert_eq!(keys, [0, 1, 2, 3].map(|seat| rv().seat_key(Seat::Sponsor(seat))));
    let wg = WgPublicKey([8; 32]);
    let told = list(&["9.9.9.9:9", "192.168.9.9:9"]);
    let item = Meeting::seal(&rv(), Seat::Sponsor(1), (Some(wg), &told), 7, [1; 24]);
    joining.handle_dht(&DhtInput::Value(item), now);
    let endpoints = list(&["9.9.9.9:9"]);
    let found = Found::Sponsor { invite: INVITE, wg, endpoints: endpoints.clone() };
    assert_eq!(drain(&mut joining).1, [found]);

    let mut sponsor = directory(now);
    sponsor.seek_joiner(INVITE, &rv(), true, now);
    assert_eq!(drain(&mut sponsor).0, [rv().seat_key(Seat::Joiner)]);
    let item = Meeting::seal(&rv(), Seat::Joiner, (None, &told), 7, [1; 24]);
    sponsor.handle_dht(&DhtInput::Value(item), now);
    assert_eq!(drain(&mut sponsor).1, [Found::Joiner { invite: INVITE, endpoints }]);
    sponsor.handle_dht(&DhtInput::LookupDone(rv().seat_key(Seat::Joiner)), now);
    sponsor.stop_seeking(&INVITE, now);
    assert!(sponsor.poll_timeout().is_none());
}

#[test]
fn a_seat_from_the_end_of_time_does_not_hide_the_true_one() {
    let now = Instant::now();
    let mut joiner = directory(now);
    joiner.seek_sponsors(INVITE, &rv(), now);
    drain(&mut joiner);
    let wg = WgPublicKey([7; 32]);
    let seat = |at: &str, seq: i64| {
        Meeting::seal(&rv(), Seat::Sponsor(1), (Some(wg), &list(&[at])), seq, [1; 24])
    };
    let mut found = Vec::new();
    for item in [seat("9.9.9.1:1", i64::MAX), seat("9.9.9.2:1", UNIX.0 as i64)] {
        joiner.handle_dht(&DhtInput::Value(item), now);
        found.extend(drain(&mut joiner).1);
    }
    let of = |at: &str| Found::Sponsor { invite: INVITE, wg, endpoints: list(&[at]) };
    assert_eq!(found, [of("9.9.9.1:1"), of("9.9.9.2:1")]);
}

#[test]
fn a_rendezvous_is_polled_every_two_seconds_at_first() {
    let mut now = Instant::now();
    let mut sponsor = directory(now);
    sponsor.seek_joiner(INVITE, &rv(), true, now);
    let end = now + Duration::from_secs(60);
    let asked = run(&mut sponsor, &mut now, end).len();
    assert!((25..=37).contains(&asked), "{asked}");
    sponsor.stop_seeking(&INVITE, now);
    sponsor.seek_joiner(INVITE, &rv(), false, now);
    let end = now + Duration::from_secs(600);
    let asked = run(&mut sponsor, &mut now, end).len();
    assert!((17..=26).contains(&asked), "{asked}");
}

#[test]
fn nothing_is_looked_up_while_the_dht_is_off_or_the_time_unknown() {
    let now = Instant::now();
    let mut timeless = Directory::new(StdRng::seed_from_u64(1), now);
    timeless.set_network(id(1).public(), secret(), now);
    timeless.want(id(2).public(), now);
    assert!(timeless.poll_lookup().is_none() && timeless.poll_timeout().is_none());

    let mut directory = directory(now);
    directory.handle_dht(&DhtInput::State(DhtState::Off, 0), now);
    directory.want(id(2).public(), now);
    directory.set_lonely(true, now);
    assert!(directory.poll_lookup().is_none() && directory.poll_timeout().is_none());
    directory.handle_dht(&DhtInput::State(DhtState::Ready, 9), now);
    assert!(directory.poll_lookup().is_some());
}

#[test]
fn a_look_up_that_is_never_answered_is_given_up() {
    let mut now = Instant::now();
    let mut directory = directory(now);
    directory.want(id(2).public(), now);
    let mut asked = 0;
    let end = now + Duration::from_secs(100);
    while let Some((at, _)) = directory.poll_timeout()
        && at < end
    {
        now = now.max(at);
        directory.handle_timeout(now);
        asked += drain(&mut directory).0.iter().filter(|key| **key == key_of(2)).count();
    }
    assert!((3..=5).contains(&asked), "{asked}");
    // An answer nobody waits for is passed over.
    let result = Err(PublishError::NoNodes);
    directory.handle_dht(&DhtInput::Published(key_of(2), result), now);
    directory.handle_dht(&DhtInput::LookupDone(DhtKey([0; 32])), now);
    directory.handle_dht(&DhtInput::Value(record(7, &["9.9.9.9:1"], UNIX.0)), now);
    assert!(directory.poll_event().is_none());
}

#[test]
fn a_restart_remembers_where_devices_were() {
    let now = Instant::now();
    let mut before = directory(now);
    before.accept(id(2).public(), &list(&["9.9.9.9:1"]), Source::Gossip, now);
    assert_eq!(drain(&mut before).1.len(), 1);
    let mut after = directory(now);
    after.import(&before.export(now)).unwrap();
    assert_eq!(after.endpoints(&id(2).public(), now), list(&["9.9.9.9:1"]));
    assert!(after.import(&[1, 2, 3]).is_err());
}
