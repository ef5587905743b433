use rand::RngExt;
use rand::rngs::StdRng;

use super::super::hostile::{Stage, villain};
use super::super::rings::Rings;
use super::*;
use crate::identity::hash;
use crate::mesh::rate::tests::start;

fn request(device: DeviceId) -> Introduction {
    let at = Endpoints { seq: 1, endpoints: Vec::new(), nat: 0 };
    Introduction { device, at, far: true, way: Vec::new() }
}

/// On how many places of a circle's order two stand apart, at the nearest.
fn apart(all: &[DeviceId], one: &DeviceId, other: &DeviceId) -> usize {
    let distance = |ring: usize| {
        let mut order = all.to_vec();
        order.sort_by_key(|device| device.0[8 * ring..8 * ring + 8].to_vec());
        let place = |device| order.iter().position(|at| at == device).unwrap();
        let steps = place(one).abs_diff(place(other));
        steps.min(order.len() - steps)
    };
    (0..RINGS).map(distance).min().unwrap()
}

#[test]
fn a_request_goes_to_the_nearest_that_was_not_asked_and_in_the_end_to_nobody() {
    let mut stage = Stage::new();
    let villains: Vec<_> = (10..50).map(villain).collect();
    for (n, other) in villains.iter().enumerate() {
        stage.admit(other, &format!("d{n}"));
    }
    villains[..8].iter().for_each(|other| {
        stage.proven(other);
    });
    let all: Vec<_> = stage.mesh.ledger.roster().members().map(|member| member.id).collect();
    let mut left: Vec<_> = villains[..8].iter().map(|other| other.id.public()).collect();
    let mut asked = request(villains[20].id.public());
    while let Some(next) = stage.mesh.next_on_way(&asked) {
        let next = stage.mesh.peers.get(next).and_then(Peer::device).unwrap();
        let nearest = left.iter().map(|at| apart(&all, at, &asked.device)).min();
        assert_eq!(Some(apart(&all, &next, &asked.device)), nearest);
        left.retain(|at| *at != next);
        asked.way.push(next);
    }
    assert!(left.is_empty() && asked.way.len() == 8, "{left:?}");
}

#[test]
fn a_request_is_passed_on_where_it_may_be_for_members_and_not_without_end() {
    let (mut stage, near, sought) = (Stage::new(), villain(3), villain(4));
    stage.admit(&near, "near");
    stage.admit(&sought, "sought");
    let near = stage.proven(&near);
    let asked = request(sought.id.public());
    let way = |steps: usize| vec![DeviceId([9; 32]); steps];
    assert_eq!(stage.mesh.next_on_way(&asked), Some(near));
    for (asked, expected) in [
        (Introduction { way: way(MAX_WAY), ..asked.clone() }, Some(near)),
        (Introduction { way: way(MAX_WAY + 1), ..asked.clone() }, None),
        (Introduction { far: false, ..asked.clone() }, None),
        (Introduction { device: villain(5).id.public(), ..asked }, None),
    ] {
        assert_eq!(stage.mesh.next_on_way(&asked), expected, "{asked:?}");
    }
}

#[test]
fn what_many_members_bring_is_limited_in_all() {
    let mut stage = Stage::new();
    let all: Vec<_> = (10..180).map(villain).collect();
    for (n, other) in all.iter().enumerate() {
        stage.admit(other, &format!("d{n}"));
    }
    let bringing: Vec<_> = all[..5].iter().map(|other| stage.proven(other)).collect();
    let before = stage.mesh.peers.iter().count();
    for (n, other) in all[5..].iter().enumerate() {
        let introduction = Introduction { far: false, ..request(other.id.public()) };
        stage.say(bringing[n % 5], &Control::Introduced(introduction)).ok();
    }
    assert_eq!(stage.mesh.peers.iter().count() - before, MET_AT_ONCE as usize);
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
            let around = rings.around(&all[to]).map(|device| number[&device]);
            let next =
                around.take(2 * RINGS * PLACES).find(|at| near.contains(at) && !way.contains(at));
            way.push(next.unwrap());
        }
        assert!(way.len() <= MAX_WAY, "{from} does not come to {to}: {way:?}");
        steps.push(way.len() - 1);
    }
    let mean = steps.iter().sum::<usize>() as f64 / steps.len() as f64;
    assert!((3.0..6.0).contains(&mean), "{mean}");
}
