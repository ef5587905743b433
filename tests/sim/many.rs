//! Many devices, and what befalls all of them at once.
//!
//! Each scenario runs with few devices, at most a hundred; `SIM_DEVICES=1000 cargo test --release --test
//! sim many::` runs them at the size that is meant.

mod meeting;

use std::net::SocketAddr;
use std::time::Duration;

use ginnel::api::{NetworkState, PathKind, PeerState, PeerStatus, Request, Response};

use super::acts::{invite, join, reaches};
use super::crowd::{Crowd, Place};
use super::net::{NatKind, Weather};
use super::node::PORT;
use super::world::{DeviceNo, World};

/// All honest devices have one state so long after the last change.
const ONE_STATE_AFTER: Duration = Duration::from_secs(60);

/// How many devices, where an ordinary run has `few`.
fn size(few: usize) -> usize {
    std::env::var("SIM_DEVICES").map_or(few, |many| many.parse().expect("a number"))
}

/// Behind a NAT of its own.
fn at_home(world: &mut World, _: usize) -> Place {
    Some(world.net.site(NatKind::PORT_RESTRICTED))
}

/// A network of devices that are each at home and have found their neighbours.
fn settled(devices: usize, seed: u64) -> World {
    let mut world = World::new(seed, Weather::FAIR);
    Crowd::new(devices, seed).start(&mut world, at_home);
    assert_connected(&mut world, Duration::from_secs(60));
    world.run_for(Duration::from_secs(60));
    world
}

fn devices(world: &World) -> impl Iterator<Item = DeviceNo> + use<> {
    (0..world.nodes.len()).map(DeviceNo)
}

/// The devices with which one is connected.
fn connected(world: &World, device: DeviceNo) -> Vec<PeerStatus> {
    let peers = world.nodes[device.0].status(world.now()).peers;
    peers.into_iter().filter(|peer| peer.state == PeerState::Connected).collect()
}

/// Looks every second whether it is `done`; how long that took.
fn wait(world: &mut World, limit: Duration, done: impl Fn(&World) -> bool) -> Option<Duration> {
    let start = world.elapsed();
    while !done(world) {
        if world.elapsed() - start >= limit {
            return None;
        }
        world.run_for(Duration::from_secs(1));
    }
    Some(world.elapsed() - start)
}

/// Those that are connected with fewer than a few others.
fn lonely(world: &World) -> Vec<DeviceNo> {
    let few = 4.min(world.nodes.len() - 1);
    devices(world).filter(|at| world.nodes[at.0].mesh.connected().count() < few).collect()
}

/// Everybody is connected with a few others, at least.
fn assert_connected(world: &mut World, limit: Duration) -> Duration {
    match wait(world, limit, |world| lonely(world).is_empty()) {
        Some(took) => took,
        None => panic!("not connected after {limit:?}: {:?}", lonely(world)),
    }
}

/// Everybody that belongs hears of a new act of the admin, and holds what it holds.
fn assert_one_state(world: &mut World) -> Duration {
    invite(world, DeviceNo(0));
    let behind = |world: &World| {
        let is_up = |at: &DeviceNo| world.nodes[at.0].status(world.now()).state == NetworkState::Up;
        let newest = world.nodes[0].mesh.digest();
        let behind = devices(world).filter(|at| world.nodes[at.0].mesh.digest() != newest);
        behind.filter(is_up).collect::<Vec<_>>()
    };
    match wait(world, ONE_STATE_AFTER, |world| behind(world).is_empty()) {
        Some(took) => took,
        None => panic!("another state after {ONE_STATE_AFTER:?}: {:?}", behind(world)),
    }
}

/// User data gets through between some that mostly had nothing to do with one another.
fn assert_reachable(world: &mut World) {
    let all = world.nodes.len();
    for number in 0..all.min(8) {
        let (from, to) =
            (DeviceNo(number * all / 8 % all), DeviceNo((number * all / 8 + all / 2) % all));
        if from != to && !reaches(world, from, to, Duration::from_secs(10)) {
            panic!("{from:?} does not reach {to:?}");
        }
    }
}

/// Every second device loses its power at once and starts again.
#[test]
fn half_of_a_crowd_reboots_at_once() {
    let mut world = settled(size(24), 22);
    for device in devices(&world).filter(|device| device.0 % 2 == 1) {
        world.crash_and_restart(device);
    }
    let connected = assert_connected(&mut world, Duration::from_secs(60));
    println!("connected after {connected:?}");
    assert_one_state(&mut world);
    assert_reachable(&mut world);
}

/// For ten minutes nothing goes between two halves, and only the first has the DHT and the admin. It
/// removes a device of the other half meanwhile.
///
/// ```text
///   d0 … d11, DHT ──╳── d12 … d23
/// ```
#[test]
fn a_crowd_is_parted_and_becomes_one_again() {
    let mut world = settled(size(24), 23);
    let half = world.nodes.len() / 2;
    let far: Vec<_> = world.nodes[half..].iter().map(|node| node.host).collect();
    world.net.part(far);
    let lost = DeviceNo(world.nodes.len() - 1);
    let name = format!("d{}", lost.0);
    world.ask(DeviceNo(0), Request::Revoke { device: name, reason: None, offline: false });
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.nodes[lost.0].status(world.now()).state, NetworkState::Up);
    world.net.unite();
    let removed = wait(&mut world, ONE_STATE_AFTER, |world| {
        world.nodes[lost.0].status(world.now()).state == NetworkState::Revoked
    });
    println!("the removed device was told after {removed:?}");
    assert!(removed.is_some(), "nobody told the removed device");
    assert_one_state(&mut world);
}

/// Everybody's provider gives out new public addresses in the same second: nobody can be reached
/// where anybody knows it to be, and nobody can tell anybody else in a tunnel.
#[test]
fn everybody_has_a_new_address_at_once() {
    let mut world = settled(size(24), 24);
    let sites: Vec<_> =
        world.nodes.iter().filter_map(|node| world.net.site_of(node.host)).collect();
    for site in sites {
        world.net.renumber(site);
    }
    let start = world.elapsed();
    // As long as every path takes to be found dead.
    world.run_for(Duration::from_secs(40));
    assert_connected(&mut world, Duration::from_secs(60));
    println!("connected after {:?}", world.elapsed() - start);
    assert_one_state(&mut world);
    assert_reachable(&mut world);
}

/// ```text
///   d0 … d29 ── NAT ──┐
///   d30 ─────── NAT ──┼── Internet
///   …                 │
/// ```
#[test]
fn an_office_behind_one_nat_stays_on_its_lan_and_is_reached_from_outside() {
    let mut world = World::new(25, Weather::FAIR);
    let office = world.net.site(NatKind::PORT_RESTRICTED);
    let all = size(36).min(240);
    let inside = all * 5 / 6;
    Crowd::new(all, 25).start(&mut world, |world, number| {
        if number < inside { Some(office) } else { at_home(world, number) }
    });
    assert_connected(&mut world, Duration::from_secs(60));
    world.run_for(Duration::from_secs(120));
    let colleagues: Vec<_> =
        (0..inside).map(|number| world.nodes[number].status(world.now()).this.ipv6).collect();
    for device in (0..inside).map(DeviceNo) {
        for peer in connected(&world, device) {
            let kind = peer.path.as_ref().map(|path| path.kind);
            let expected =
                if colleagues.contains(&peer.ipv6) { PathKind::Lan } else { PathKind::Direct };
            assert_eq!(kind, Some(expected), "{device:?} to {peer:?}");
        }
    }
    for number in 0..6 {
        let (outside, colleague) =
            (DeviceNo(inside + number % (all - inside)), DeviceNo(number * 3));
        assert!(reaches(&mut world, outside, colleague, Duration::from_secs(10)));
    }
    assert_one_state(&mut world);
}

/// Tunnels do not notice; who restarts meanwhile comes back by what it remembers; and afterwards a
/// device without memory is found again.
#[test]
fn the_dht_is_dead_for_two_hours() {
    let mut world = settled(size(8), 27);
    world.dht.manners.dead = true;
    for _ in 0..4 {
        world.run_for(Duration::from_secs(1800));
        assert!(lonely(&world).is_empty(), "{:?}", lonely(&world));
        assert_reachable(&mut world);
    }
    world.crash_and_restart(DeviceNo(3));
    let back = wait(&mut world, Duration::from_secs(10), |world| lonely(world).is_empty());
    assert!(back.is_some(), "a device that remembers did not come back without the DHT");
    world.dht.manners.dead = false;
    let forgetful = DeviceNo(5);
    world.forget_addresses(forgetful);
    world.crash_and_restart(forgetful);
    let back = wait(&mut world, Duration::from_secs(60), |world| lonely(world).is_empty());
    println!("found again after {back:?}");
    assert!(back.is_some(), "the DHT works and a device is not found");
}

/// All nodes of the DHT that one device meets are hostile: they keep what it stores from everybody,
/// and answer it with nothing or with garbage. No tunnel breaks, and a restart costs time only.
#[test]
fn one_device_is_eclipsed() {
    for garbage in [false, true] {
        let mut world = settled(size(12), 28);
        let victim = DeviceNo(5);
        world.dht.eclipse(world.nodes[victim.0].host, garbage);
        world.run_for(Duration::from_secs(1800));
        assert!(lonely(&world).is_empty(), "a tunnel broke");
        world.forget_addresses(victim);
        world.crash_and_restart(victim);
        // The others remember it, and a neighbour calls.
        let back = wait(&mut world, Duration::from_secs(120), |world| lonely(world).is_empty());
        println!("back after {back:?}");
        assert!(back.is_some(), "an eclipse keeps a device out");
        assert_one_state(&mut world);
    }
}

/// ```text
///   a ── NAT ──┐                           ┌── NAT ── b
///              └── Internet, 30 % is lost ─┘
/// ```
#[test]
fn an_invite_is_redeemed_while_a_third_of_all_datagrams_is_lost() {
    let mut took = Vec::new();
    for seed in 0..10 {
        let mut world = World::new(290 + seed, Weather { loss: 300, ..Weather::FAIR });
        let sites = [0, 1].map(|_| world.net.site(NatKind::PORT_RESTRICTED));
        let (_, token) = world.create(Some(sites[0]), "a");
        let start = world.elapsed();
        let (b, request) = world.join(Some(sites[1]), "b", &token);
        let joined = |world: &World| world.nodes[b.0].answer(request).is_some();
        assert!(world.run_until(Duration::from_secs(60), joined), "seed {seed}: no answer");
        let answer = world.nodes[b.0].answer(request);
        assert!(matches!(answer, Some(Response::Joined(_))), "seed {seed}: {answer:?}");
        took.push(world.elapsed() - start);
        assert!(reaches(&mut world, b, DeviceNo(0), Duration::from_secs(10)), "seed {seed}");
    }
    took.sort();
    println!("took {took:?}");
    assert!(took[took.len() / 2] <= Duration::from_secs(15), "{took:?}");
}

/// A device comes back after 30 days off. All addresses changed, one member was removed, another
/// admitted; what it remembers is a month old.
#[test]
fn a_device_is_back_after_thirty_days() {
    let mut world = World::new(30, Weather::FAIR);
    let mut crowd = Crowd::new(4, 30);
    for number in 0..4 {
        crowd.remember(number, SocketAddr::from(([11, 9, 9, number as u8], PORT)));
    }
    world.run_for(Duration::from_secs(30 * 86_400));
    crowd.start_some(&mut world, [0, 1, 2], at_home);
    let (admin, removed) = (DeviceNo(0), DeviceNo(2));
    assert_connected(&mut world, Duration::from_secs(60));
    world.ask(admin, Request::Revoke { device: "d2".to_owned(), reason: None, offline: false });
    let token = invite(&mut world, admin);
    let site = at_home(&mut world, 4);
    let newcomer = join(&mut world, site, "new", &token);
    let back = crowd.start_some(&mut world, [3], at_home)[0];
    let newest = |world: &World| world.nodes[0].mesh.digest() == world.nodes[back.0].mesh.digest();
    let took = wait(&mut world, Duration::from_secs(30), newest);
    println!("up to date after {took:?}");
    assert!(took.is_some(), "it is not up to date: {:#?}", world.nodes[back.0].status(world.now()));
    assert!(reaches(&mut world, back, newcomer, Duration::from_secs(10)));
    assert!(reaches(&mut world, newcomer, back, Duration::from_secs(10)));
    assert!(!reaches(&mut world, back, removed, Duration::from_secs(10)));
    assert!(!reaches(&mut world, removed, back, Duration::from_secs(10)));
}
