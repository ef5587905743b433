use rand::RngExt;
use rand::rngs::StdRng;

use super::super::rings::Rings;
use super::super::stage::{Stage, Villain, villain};
use super::*;
use crate::identity::hash;
use crate::mesh::rate::tests::start;

/// Who looks for somebody; stands nowhere near.
const SEEKER: DeviceId = DeviceId([1; 32]);

fn request(device: DeviceId) -> IntroductionRequest {
    let at = Endpoints { seq: 1, endpoints: Vec::new(), nat: 0 };
    IntroductionRequest { device, at, passing: Passing::Nearest, way: vec![SEEKER] }
}

/// A device, and so many that it admitted.
fn admitted(members: u8) -> (Stage, Vec<Villain>) {
    let mut stage = Stage::new();
    let all: Vec<_> = (10..10 + members).map(villain).collect();
    for (n, other) in all.iter().enumerate() {
        stage.admit(other, &format!("d{n}"));
    }
    (stage, all)
}

/// The same, with tunnels to the first eight.
fn stage(members: u8) -> (Stage, Vec<DeviceId>) {
    let (mut stage, all) = admitted(members);
    all[..8].iter().for_each(|other| {
        stage.proven(other);
    });
    (stage, all.iter().map(|other| other.id.public()).collect())
}

/// To whom one request after another is passed on, where none of them can help.
fn passed_on(stage: &mut Stage, mut asked: IntroductionRequest) -> Vec<DeviceId> {
    while let Some(next) = stage.mesh.next_on_way(&asked) {
        asked.way.push(stage.mesh.peers.get(next).and_then(Peer::device).unwrap());
    }
    asked.way.split_off(1)
}

#[test]
fn a_request_goes_to_the_nearest_that_was_not_asked_until_those_beside_the_device_were() {
    let (mut stage, all) = stage(40);
    for sought in &all[8..] {
        let mut nearest = all[..8].to_vec();
        nearest.sort_by_key(|at| distance(at, sought));
        let beside = stage.mesh.beside(sought);
        let mut known = 0;
        nearest.retain(|at| {
            known += usize::from(beside.contains(at));
            known < BESIDE || (known == BESIDE && beside.contains(at))
        });
        assert_eq!(passed_on(&mut stage, request(*sought)), nearest);
        let by_lot = IntroductionRequest { passing: Passing::ByLot, ..request(*sought) };
        let ways: BTreeSet<_> = (0..20).map(|_| passed_on(&mut stage, by_lot.clone())).collect();
        assert!(ways.len() > 2, "{ways:?}");
        for way in ways {
            let asked: BTreeSet<_> = way.iter().collect();
            let known: Vec<_> = way.iter().map(|at| beside.contains(at)).collect();
            let beside = known.iter().filter(|beside| **beside).count();
            assert_eq!(asked.len(), way.len());
            // It ends where so many were asked, and not before.
            assert!(way.len() == 8 || (beside == BESIDE && known.ends_with(&[true])), "{way:?}");
        }
    }
}

#[test]
fn a_request_is_passed_on_where_it_may_be_for_members_and_not_without_end() {
    let (mut stage, all) = stage(12);
    let asked = request(all[9]);
    let way = |steps: usize| vec![DeviceId([9; 32]); steps];
    let stranger = villain(5).id.public();
    for (asked, expected) in [
        (IntroductionRequest { way: way(MAX_WAY), ..asked.clone() }, true),
        (IntroductionRequest { way: way(MAX_WAY + 1), ..asked.clone() }, false),
        (IntroductionRequest { passing: Passing::Never, ..asked.clone() }, false),
        (IntroductionRequest { device: stranger, ..asked.clone() }, false),
        (IntroductionRequest { way: all[..8].to_vec(), ..asked }, false),
    ] {
        assert_eq!(stage.mesh.next_on_way(&asked).is_some(), expected, "{asked:?}");
    }
}

#[test]
fn what_many_members_bring_is_limited_in_all() {
    let (mut stage, all) = admitted(170);
    let bringing: Vec<_> = all[..5].iter().map(|other| stage.proven(other)).collect();
    let before = stage.mesh.peers.iter().count();
    for (n, other) in all[5..].iter().enumerate() {
        let IntroductionRequest { device, at, .. } = request(other.id.public());
        let introduction = Introduction { device, at, way: Vec::new() };
        stage.say(bringing[n % 5], &Control::Introduced(introduction)).ok();
    }
    assert_eq!(stage.mesh.peers.iter().count() - before, MET_AT_ONCE as usize);
}

#[test]
fn whoever_connects_has_a_sought_peer_asked_for_within_a_second_but_not_again_and_again() {
    let (mut stage, all) = admitted(50);
    let sought = all[0].id.public();
    let sought = stage.mesh.bring_member(&sought, Purpose::Roster, stage.now).unwrap();
    stage.mesh.handle_timeout(stage.now);
    let mut asked = BTreeSet::new();
    for other in &all[1..] {
        stage.proven(other);
        let asking = stage.mesh.peers.get(sought).unwrap().asking;
        asked.extend(asking.asked_at);
        let look = stage.mesh.deadlines.get(&Timer::Peer(sought)).unwrap();
        assert!(look <= asking.due().max(stage.now));
        stage.now += Duration::from_secs(2);
        // Nothing else is due in this test.
        stage.mesh.last_now = stage.now;
    }
    // The first has it asked for; of 49 in 98 seconds 16 + 6 more may come before it is due.
    let due = 7;
    assert!(asked.len() > 16 && asked.len() <= 1 + 16 + 6 + due, "{}", asked.len());
}

#[test]
fn a_user_who_waits_has_requests_passed_on_ever_more_seldom_and_one_who_comes_anew_at_once() {
    let t = start();
    let mut asking = Asking::start(t);
    let mut far = Vec::new();
    for second in 0..300 {
        let now = t + Duration::from_secs(second);
        // Members come and go.
        asking.renew(now);
        if asking.due() <= now {
            let is_far = asking.far_at <= now;
            far.extend(is_far.then_some(second));
            asking.asked(true, is_far, now);
        }
    }
    assert_eq!(far, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
    asking.begin_anew(t + Duration::from_secs(300));
    assert!(asking.due() <= t + Duration::from_secs(301) && asking.far_at == asking.due());
}

/// Everybody knows who is beside it on each circle and four by lot, as in a settled network.
#[test]
fn in_a_network_of_a_thousand_a_request_comes_to_anybody_over_a_few() {
    let all: Vec<_> = (0..1000_u16).map(|n| DeviceId(hash(&n.to_be_bytes()))).collect();
    let rings = Rings::of(all.iter().copied());
    let mut rng = StdRng::seed_from_u64(1);
    let mut tunnels: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); all.len()];
    let number: std::collections::BTreeMap<_, _> =
        all.iter().enumerate().map(|(at, device)| (*device, at)).collect();
    for (at, device) in all.iter().enumerate() {
        let beside = rings.beside(device).into_iter().map(|other| number[&other]);
        let strayed = (0..4).map(|_| rng.random_range(0..all.len()));
        for other in beside.chain(strayed).filter(|other| *other != at).collect::<Vec<_>>() {
            tunnels[at].insert(other);
            tunnels[other].insert(at);
        }
    }
    let mut steps = Vec::new();
    for _ in 0..300 {
        let [from, to] = [(); 2].map(|()| rng.random_range(0..all.len()));
        let mut way = vec![from];
        while !tunnels[way[way.len() - 1]].contains(&to) && way.len() <= MAX_WAY {
            let near = &tunnels[way[way.len() - 1]];
            let others = near.iter().filter(|at| !way.contains(at));
            let next = others.min_by_key(|at| distance(&all[**at], &all[to])).copied();
            way.push(next.unwrap());
        }
        assert!(way.len() <= MAX_WAY, "{from} does not come to {to}: {way:?}");
        steps.push(way.len() - 1);
    }
    let mean = steps.iter().sum::<usize>() as f64 / steps.len() as f64;
    assert!((3.0..6.0).contains(&mean), "{mean}");
}
