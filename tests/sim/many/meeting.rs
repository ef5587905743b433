//! How a crowd comes together, and goes on meeting.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::super::acts::reaches;
use super::super::crowd::Crowd;
use super::super::net::Weather;
use super::super::node::PORT;
use super::super::world::{DeviceNo, World};
use super::{
    assert_connected, assert_one_state, assert_reachable, at_home, connected, devices, lonely,
    settled, size, wait,
};

/// All start at once. Nobody has an address of anybody but one, and the DHT does not work: only that
/// one device can introduce the others to one another.
///
/// ```text
///   d1 ── NAT ──┐
///   d2 ── NAT ──┼── d0, at an address that all remember
///   …           │
/// ```
#[test]
fn a_crowd_that_knows_one_address_comes_together_without_the_dht() {
    let mut world = World::new(20, Weather::FAIR);
    world.dht.manners.dead = true;
    let mut crowd = Crowd::new(size(30), 20);
    // The first host after the two STUN servers.
    crowd.remember(0, SocketAddr::from(([12, 0, 0, 3], PORT)));
    crowd.start(
        &mut world,
        |world, number| {
            if number == 0 { None } else { at_home(world, number) }
        },
    );
    let connected = assert_connected(&mut world, Duration::from_secs(60));
    let one_state = assert_one_state(&mut world);
    println!("connected after {connected:?}, one state {one_state:?} after a change");
    assert_reachable(&mut world);
}

/// All start at once and know nobody's address: they find one another in the DHT.
#[test]
fn a_crowd_that_knows_no_address_comes_together_through_the_dht() {
    let mut world = World::new(21, Weather::FAIR);
    Crowd::new(size(30), 21).start(&mut world, at_home);
    let connected = assert_connected(&mut world, Duration::from_secs(60));
    let one_state = assert_one_state(&mut world);
    println!("connected after {connected:?}, one state {one_state:?} after a change");
    assert_reachable(&mut world);
}

/// Who of `others` is not connected with one, and shares no member with it that is connected to both.
fn stranger(world: &World, from: DeviceNo, others: &[DeviceNo]) -> Option<DeviceNo> {
    let known = |device| -> BTreeSet<_> {
        connected(world, device).into_iter().map(|peer| peer.ipv6).collect()
    };
    let near = known(from);
    let own = world.nodes[from.0].status(world.now()).this.ipv6;
    let is_stranger = |at: &&DeviceNo| {
        let theirs = known(**at);
        **at != from && !theirs.contains(&own) && theirs.is_disjoint(&near)
    };
    // From another place for each, so that not all find the same.
    let (before, after) = others.split_at(from.0 * others.len() / world.nodes.len());
    after.iter().chain(before).find(is_stranger).copied()
}

/// How long the first packets take that some of these devices send to strangers among them: the DHT does
/// not work.
fn reach_strangers(world: &mut World, among: &[DeviceNo]) -> Vec<Duration> {
    world.dht.manners.dead = true;
    let mut took = Vec::new();
    for from in among.iter().step_by((among.len() / 24).max(1)) {
        let Some(to) = stranger(world, *from, among) else { continue };
        let start = world.elapsed();
        let reached = reaches(world, *from, to, Duration::from_secs(10));
        assert!(reached, "{from:?} does not reach {to:?}");
        took.push(world.elapsed() - start);
    }
    took.sort();
    println!("took {took:?}");
    assert!(took.len() >= 6, "hardly anybody has strangers: {}", took.len());
    took
}

/// Two that share no member. The DHT would help neither of them behind such NATs: members pass on that
/// one looks for the other.
///
/// ```text
///   d3 ── d51 ── d7 ── … ── d92
/// ```
#[test]
fn strangers_meet_over_members_that_do_not_know_both() {
    let mut world = settled(size(100), 32);
    let all: Vec<_> = devices(&world).collect();
    let took = reach_strangers(&mut world, &all);
    assert!(took[took.len() / 2] <= Duration::from_millis(500), "{took:?}");
}

/// Half of those that stand nearest to a stranger are off, and not replaced by others yet.
#[test]
fn strangers_meet_where_every_second_device_is_off() {
    let mut world = settled(size(100), 33);
    let (on, off): (Vec<_>, Vec<_>) = devices(&world).partition(|device| device.0 % 2 == 0);
    off.into_iter().for_each(|device| world.switch_off(device));
    // Until all paths to those are known to be dead: an idle one is checked each 25 s by one side, and by
    // the other where that one falls silent.
    world.run_for(Duration::from_secs(90));
    let took = reach_strangers(&mut world, &on);
    assert!(took[took.len() / 2] <= Duration::from_secs(1), "{took:?}");
}

/// The neighbours that are not agreed change now and then, and nobody is asked where the new ones are
/// but who introduces them.
#[test]
fn a_settled_crowd_goes_on_meeting_new_members_without_the_dht() {
    let mut world = settled(size(24), 31);
    world.run_for(Duration::from_secs(120));
    let lookups = world.dht.operations.lookups;
    let of = |world: &World, device| connected(world, device).into_iter().map(|peer| peer.ipv6);
    let watched = [DeviceNo(3), DeviceNo(9), DeviceNo(15)];
    let mut met = watched.map(|device| of(&world, device).collect::<BTreeSet<_>>());
    let first = met.clone().map(|met| met.len());
    for _ in 0..40 {
        world.run_for(Duration::from_secs(200));
        assert!(lonely(&world).is_empty(), "{:?}", lonely(&world));
        for (met, device) in met.iter_mut().zip(watched) {
            met.extend(of(&world, device));
        }
        if met.iter().zip(first).all(|(met, first)| met.len() > first) {
            assert_eq!(world.dht.operations.lookups, lookups);
            return;
        }
    }
    panic!("{first:?} at first, {:?} in all", met.map(|met| met.len()));
}

/// Of many members two are on, behind two NATs. Neither has an address of the other, and most likely
/// neither chose the other: they meet at the doorbell.
#[test]
fn two_isolated_devices_meet_at_the_doorbell() {
    let mut took = Vec::new();
    for seed in 0..6 {
        let mut world = World::new(260 + seed, Weather::FAIR);
        let crowd = Crowd::new(size(40), seed);
        crowd.start_some(&mut world, [7, 23], at_home);
        let met = wait(&mut world, Duration::from_secs(20), |world| {
            devices(world).all(|device| !connected(world, device).is_empty())
        });
        took.push(met.unwrap_or_else(|| panic!("seed {seed}: they did not meet in 20 s")));
    }
    took.sort();
    println!("took {took:?}");
    assert!(took[took.len() / 2] <= Duration::from_secs(10), "{took:?}");
}
