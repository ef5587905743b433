use rand::SeedableRng;

use super::*;
use crate::mesh::directory::tests::{id, list, rv, secret};
use crate::wire::record::{Meeting, Ring, VALUE_LEN, bell_epoch};

const UNIX: UnixTime = UnixTime(1_799_992_800);
const INVITE: InviteId = InviteId([4; 16]);
const SECOND: Duration = Duration::from_secs(1);

fn publisher(now: Instant) -> Publisher {
    let mut publisher = Publisher::new(StdRng::seed_from_u64(1), now);
    publisher.set_wall(UNIX, now);
    publisher.set_network(id(1), secret(), now);
    publisher
}

/// With one endpoint told and its record taken.
fn settled(now: Instant) -> Publisher {
    let mut publisher = publisher(now);
    publisher.set_endpoints(&list(&["9.9.9.9:1"]), now);
    answer(&mut publisher, Ok(8), now);
    publisher
}

fn drain(publisher: &mut Publisher) -> Vec<SignedItem> {
    std::iter::from_fn(|| publisher.poll_publish()).collect()
}

fn answer(
    publisher: &mut Publisher,
    result: Result<u32, PublishError>,
    now: Instant,
) -> Vec<SignedItem> {
    let items = drain(publisher);
    for item in &items {
        assert_eq!(item.value.len(), VALUE_LEN);
        assert!(item.verify());
        publisher.handle_dht(&DhtInput::Published(item.key, result), now);
    }
    items
}

/// Runs until `end`, answering every store with `result` at once; when each store began.
fn run(
    publisher: &mut Publisher,
    now: &mut Instant,
    end: Instant,
    result: Result<u32, PublishError>,
) -> Vec<(Instant, SignedItem)> {
    let mut stored = Vec::new();
    loop {
        stored.extend(answer(publisher, result, *now).into_iter().map(|item| (*now, item)));
        while publisher.poll_lookup().is_some() {}
        match publisher.poll_timeout() {
            Some((at, _)) if at < end => *now = at.max(*now),
            _ => {
                *now = end;
                return stored;
            }
        }
        publisher.handle_timeout(*now);
    }
}

fn own_epoch(unix: UnixTime) -> crate::wire::record::EpochTime {
    device_epoch(&id(1).public(), &secret(), unix)
}

fn own_key(unix: UnixTime) -> RecordKey {
    RecordKey::new(&id(1).public(), &secret(), own_epoch(unix).epoch).unwrap()
}

fn open(item: &SignedItem, unix: UnixTime) -> Record {
    Record::open(item, &own_key(unix), unix).unwrap()
}

#[test]
fn the_first_record_is_stored_at_once_and_a_member_reads_it() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    assert!(drain(&mut publisher).is_empty());
    assert!(publisher.poll_timeout().is_none());
    publisher.set_endpoints(&list(&["9.9.9.9:1"]), now);
    let items = answer(&mut publisher, Ok(8), now);
    let record = open(&items[0], UNIX);
    assert_eq!(record.body().endpoints, list(&["9.9.9.9:1"]));
    assert_eq!(record.seq(), 1_799_992_800);
    assert_eq!(publisher.published_ago(now + SECOND), Some(SECOND));
}

#[test]
fn the_first_addresses_wait_shortly_for_a_public_one() {
    let now = Instant::now();
    let mut alone = publisher(now);
    alone.set_endpoints(&list(&["192.168.1.2:1"]), now);
    assert!(drain(&mut alone).is_empty());
    let (due, _) = alone.poll_timeout().unwrap();
    assert_eq!(due, now + FIRST_WAIT);
    alone.handle_timeout(due);
    assert_eq!(drain(&mut alone).len(), 1);

    let mut public = publisher(now);
    public.set_endpoints(&list(&["192.168.1.2:1"]), now);
    let answered = now + Duration::from_millis(60);
    public.set_endpoints(&list(&["192.168.1.2:1", "9.9.9.9:1"]), answered);
    let items = drain(&mut public);
    assert_eq!(open(&items[0], UNIX).body().endpoints.len(), 2);
}

#[test]
fn changes_are_gathered_and_after_the_first_minutes_stored_once_a_minute() {
    let start = Instant::now();
    let mut now = start;
    let mut publisher = settled(now);
    let mut change = |publisher: &mut Publisher, at: Instant, last: u8| {
        let stored = run(publisher, &mut now, at, Ok(8)).len();
        publisher.set_endpoints(&list(&[&format!("9.9.9.{last}:1")]), at);
        stored
    };
    // Early: within seconds, and many changes in one.
    let first = start + 10 * SECOND;
    for i in 0..20 {
        change(&mut publisher, first + Duration::from_millis(u64::from(i)), i);
    }
    let settle = first + SECOND;
    assert_eq!(change(&mut publisher, settle, 19), 1);
    // Later: a change every second for two minutes.
    let mut stored = 0;
    for i in 0..120 {
        stored += change(&mut publisher, start + Duration::from_secs(600 + i), i as u8);
    }
    assert!((2..=3).contains(&stored), "{stored}");
}

#[test]
fn another_order_of_endpoints_is_no_change() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    publisher.set_endpoints(&list(&["9.9.9.9:1", "9.9.9.8:1"]), now);
    answer(&mut publisher, Ok(8), now);
    let before = publisher.poll_timeout();
    publisher.set_endpoints(&list(&["9.9.9.8:1", "9.9.9.9:1"]), now);
    assert_eq!(publisher.poll_timeout(), before);
}

#[test]
fn an_unchanged_record_is_stored_about_hourly_under_every_epoch() {
    let mut now = Instant::now();
    let start = now;
    let mut publisher = settled(now);
    let day = Duration::from_secs(24 * 3600);
    let stored = run(&mut publisher, &mut now, start + day, Ok(8));
    assert!((22..=48).contains(&stored.len()), "{}", stored.len());
    // At every moment of the day a reader finds a fresh record under the key of that moment.
    for minute in 0..24 * 60 {
        let at = start + Duration::from_secs(minute * 60);
        let unix = UnixTime(UNIX.0 + minute * 60);
        let key = own_key(unix).dht();
        let fresh = stored.iter().any(|(when, item)| {
            item.key == key && *when <= at && at - *when <= Duration::from_secs(76 * 60)
        });
        assert!(fresh || minute < 80, "nothing under the key of minute {minute}");
    }
}

#[test]
fn sequence_numbers_grow_within_a_second_and_over_a_restart() {
    let now = Instant::now();
    let mut publisher = settled(now);
    publisher.set_endpoints(&list(&["9.9.9.7:1"]), now);
    publisher.handle_timeout(now + 3 * SECOND);
    let second = open(&answer(&mut publisher, Ok(8), now)[0], UNIX).seq();
    assert_eq!(second, 1_799_992_803);

    let mut restarted = Publisher::new(StdRng::seed_from_u64(2), now);
    restarted.import(&publisher.export()).unwrap();
    // The clock went back by an hour in between.
    restarted.set_wall(UnixTime(UNIX.0 - 1), now);
    restarted.set_network(id(1), secret(), now);
    restarted.set_endpoints(&list(&["9.9.9.9:1"]), now);
    assert_eq!(open(&drain(&mut restarted)[0], UNIX).seq(), second + 1);
    assert!(restarted.import(&[9]).is_err());
}

#[test]
fn a_newer_stored_version_is_read_and_passed() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    publisher.set_endpoints(&list(&["9.9.9.9:1"]), now);
    let mine = answer(&mut publisher, Err(PublishError::NotMostRecent), now);
    assert_eq!(publisher.poll_lookup(), Some(mine[0].key));
    let body = RecordBody::default();
    let ahead = 1_799_993_500;
    let epoch = own_epoch(UNIX).epoch;
    let stored = Record::seal(&id(1), &secret(), epoch, (&body, ahead), [0; 24]);
    let mut forged = stored.clone();
    forged.seq += 1000;
    publisher.handle_dht(&DhtInput::Value(forged), now);
    publisher.handle_dht(&DhtInput::Value(stored), now);
    publisher.handle_timeout(now + 3 * SECOND);
    assert_eq!(open(&drain(&mut publisher)[0], UNIX).seq(), ahead + 1);
}

#[test]
fn failures_are_retried_ever_more_seldom() {
    let mut now = Instant::now();
    let start = now;
    let mut publisher = publisher(now);
    publisher.set_endpoints(&list(&["9.9.9.9:1"]), now);
    let none = Err(PublishError::NoNodes);
    let first = run(&mut publisher, &mut now, start + 60 * SECOND, none).len();
    assert!((5..=7).contains(&first), "{first}");
    let end = now + Duration::from_secs(3600);
    let later = run(&mut publisher, &mut now, end, none).len();
    assert!((10..=22).contains(&later), "{later}");
    assert_eq!(publisher.published_ago(now), None);
    // The DHT comes back.
    publisher.handle_dht(&DhtInput::State(DhtState::Unreachable, 0), now);
    publisher.handle_dht(&DhtInput::State(DhtState::Ready, 9), now);
    let end = now + 3 * SECOND;
    assert_eq!(run(&mut publisher, &mut now, end, Ok(8)).len(), 1);
}

#[test]
fn a_store_that_is_never_answered_is_given_up() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    publisher.set_endpoints(&list(&["9.9.9.9:1"]), now);
    assert_eq!(drain(&mut publisher).len(), 1);
    publisher.handle_timeout(now + 29 * SECOND);
    assert!(drain(&mut publisher).is_empty());
    publisher.handle_timeout(now + 30 * SECOND);
    publisher.handle_timeout(now + 33 * SECOND);
    assert_eq!(drain(&mut publisher).len(), 1);
}

#[test]
fn nothing_is_stored_while_the_dht_is_off_or_the_time_unknown() {
    let now = Instant::now();
    let mut timeless = Publisher::new(StdRng::seed_from_u64(1), now);
    timeless.set_network(id(1), secret(), now);
    timeless.set_endpoints(&list(&["9.9.9.9:1"]), now);
    timeless.arrive(INVITE, &rv(), now);
    assert!(drain(&mut timeless).is_empty() && timeless.poll_timeout().is_none());

    let mut publisher = publisher(now);
    publisher.handle_dht(&DhtInput::State(DhtState::Off, 0), now);
    publisher.set_endpoints(&list(&["9.9.9.9:1"]), now);
    publisher.set_lonely(true, now);
    publisher.host(INVITE, &rv(), 0, WgPublicKey([1; 32]), now);
    assert!(drain(&mut publisher).is_empty());
    assert!(publisher.poll_lookup().is_none() && publisher.poll_timeout().is_none());
    publisher.handle_dht(&DhtInput::State(DhtState::Ready, 9), now);
    assert_eq!(drain(&mut publisher).len(), 2);
    assert!(publisher.poll_lookup().is_some());
}

fn bell_of(unix: UnixTime) -> (DhtKey, Epoch) {
    let epoch = bell_epoch(&secret(), unix).epoch;
    (BellKey::new(&secret(), epoch).dht(), epoch)
}

fn rung(item: &SignedItem) -> Vec<DeviceId> {
    let (_, epoch) = bell_of(UNIX);
    let bell = Bell::open(item, &BellKey::new(&secret(), epoch), UNIX).unwrap();
    bell.rings().iter().map(|ring| ring.device).collect()
}

fn other_ring(number: u8) -> Ring {
    Ring { device: id(number).public(), at: UNIX, endpoints: list(&["9.9.9.2:1"]) }
}

#[test]
fn a_lonely_device_reads_merges_and_rings_over_the_version_it_read() {
    let now = Instant::now();
    let mut publisher = settled(now);
    let (key, epoch) = bell_of(UNIX);
    publisher.set_lonely(true, now);
    publisher.handle_timeout(now);
    assert_eq!(publisher.poll_lookup(), Some(key));
    let seen = Bell::seal(&secret(), epoch, vec![other_ring(2)], 7, [0; 24]);
    publisher.handle_dht(&DhtInput::Value(seen), now);
    publisher.handle_dht(&DhtInput::LookupDone(key), now);
    let items = drain(&mut publisher);
    assert_eq!(items[0].cas, Some(7));
    let mut devices = rung(&items[0]);
    devices.sort();
    let mut expected = vec![id(1).public(), id(2).public()];
    expected.sort();
    assert_eq!(devices, expected);
    publisher.handle_dht(&DhtInput::Published(key, Ok(8)), now);

    // The ring stands: nothing more to do. It vanished: ring again.
    let later = now + 5 * SECOND;
    publisher.handle_dht(&DhtInput::Value(items[0].clone()), later);
    publisher.handle_dht(&DhtInput::LookupDone(key), later);
    assert!(drain(&mut publisher).is_empty());
    publisher.handle_dht(&DhtInput::LookupDone(key), later);
    let again = drain(&mut publisher);
    assert_eq!((rung(&again[0]), again[0].cas), (vec![id(1).public()], None));
}

#[test]
fn a_conflict_at_the_doorbell_is_read_again_soon() {
    let now = Instant::now();
    let mut publisher = settled(now);
    let (key, epoch) = bell_of(UNIX);
    publisher.set_lonely(true, now);
    publisher.handle_dht(&DhtInput::LookupDone(key), now);
    answer(&mut publisher, Err(PublishError::CasFailed), now);
    while publisher.poll_lookup().is_some() {}
    let (at, reason) = publisher.poll_timeout().unwrap();
    assert_eq!(reason, "doorbell");
    assert!(at <= now + SECOND);
    publisher.handle_timeout(at);
    assert_eq!(publisher.poll_lookup(), Some(key));
    // Two versions are about: the union goes over both.
    for (number, seq) in [(2, 8), (3, 9)] {
        let seen = Bell::seal(&secret(), epoch, vec![other_ring(number)], seq, [0; 24]);
        publisher.handle_dht(&DhtInput::Value(seen), at);
    }
    publisher.handle_dht(&DhtInput::LookupDone(key), at);
    let items = drain(&mut publisher);
    assert_eq!((rung(&items[0]).len(), items[0].cas), (3, None));
}

#[test]
fn a_doorbell_that_somebody_always_wins_is_not_asked_for_every_second() {
    let mut now = Instant::now();
    let mut publisher = settled(now);
    let (key, epoch) = bell_of(UNIX);
    let mut readings = 0;
    publisher.set_lonely(true, now);
    // As nodes answer that hold an item from the end of time.
    let last = Bell::seal(&secret(), epoch, vec![other_ring(2)], i64::MAX, [1; 24]);
    while now < publisher.started + Duration::from_secs(300) {
        if publisher.poll_lookup().is_some() {
            readings += 1;
            publisher.handle_dht(&DhtInput::Value(last.clone()), now);
            publisher.handle_dht(&DhtInput::LookupDone(key), now);
        }
        for item in drain(&mut publisher) {
            assert!(item.seq < i64::MAX, "nothing honest is ever as new as that");
            let result = Err(PublishError::NotMostRecent);
            publisher.handle_dht(&DhtInput::Published(item.key, result), now);
        }
        now += Duration::from_millis(100);
        publisher.handle_timeout(now);
    }
    assert_eq!(readings, 8);
}

#[test]
fn a_device_with_a_tunnel_does_not_ring() {
    let now = Instant::now();
    let mut publisher = settled(now);
    let (key, _) = bell_of(UNIX);
    publisher.set_lonely(true, now);
    publisher.set_lonely(false, now);
    publisher.handle_dht(&DhtInput::LookupDone(key), now);
    assert!(drain(&mut publisher).is_empty());
}

#[test]
fn both_sides_of_an_invite_take_their_seats_and_follow_address_changes() {
    let now = Instant::now();
    let mut sponsor = settled(now);
    sponsor.host(INVITE, &rv(), 2, WgPublicKey([8; 32]), now);
    let items = answer(&mut sponsor, Ok(8), now);
    let meeting = Meeting::open(&items[0], &rv(), Seat::Sponsor(2)).unwrap();
    assert_eq!(meeting.wg(), Some(WgPublicKey([8; 32])));
    assert_eq!(meeting.endpoints(), list(&["9.9.9.9:1"]));

    let mut joining = Publisher::new(StdRng::seed_from_u64(3), now);
    joining.set_wall(UNIX, now);
    joining.arrive(INVITE, &rv(), now);
    assert!(drain(&mut joining).is_empty());
    joining.set_endpoints(&list(&["9.9.9.3:1"]), now);
    let items = answer(&mut joining, Ok(8), now);
    assert_eq!(Meeting::open(&items[0], &rv(), Seat::Joiner).unwrap().wg(), None);
    joining.set_endpoints(&list(&["9.9.9.4:1"]), now);
    joining.handle_timeout(now + 2 * SECOND);
    let items = answer(&mut joining, Ok(8), now + 2 * SECOND);
    let meeting = Meeting::open(&items[0], &rv(), Seat::Joiner).unwrap();
    assert_eq!(meeting.endpoints(), list(&["9.9.9.4:1"]));
    joining.withdraw(&INVITE, now);
    assert!(joining.poll_timeout().is_none());
}
