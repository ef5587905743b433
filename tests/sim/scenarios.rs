//! What happens, and what must come of it.

use std::time::Duration;

use ginnel::api::{NetworkState, PathKind, PeerState, Request, Response};

use super::acts::{invite, join, reaches, try_invite};
use super::net::{NatKind, SiteId, Weather};
use super::world::{DeviceNo, World};

fn connected(world: &World, device: DeviceNo) -> usize {
    let status = world.nodes[device.0].status(world.now());
    let is = |state| status.peers.iter().filter(move |peer| peer.state == state).count();
    is(PeerState::Connected)
}

/// Two devices behind two NATs, joined and connected.
fn two(seed: u64) -> (World, DeviceNo, DeviceNo) {
    let mut world = World::new(seed, Weather::FAIR);
    let sites = [0, 1].map(|_| world.net.site(NatKind::PORT_RESTRICTED));
    let (a, invite) = world.create(Some(sites[0]), "a");
    let b = join(&mut world, Some(sites[1]), "b", &invite);
    (world, a, b)
}

/// ```text
///   a ── NAT ── Internet ── NAT ── b (sleeps)
/// ```
#[test]
fn whoever_slept_has_new_sessions_at_once_with_packets_to_send_or_without() {
    for (seed, sends) in [(1, true), (2, false), (3, true), (4, false)] {
        let (mut world, a, b) = two(seed);
        assert!(reaches(&mut world, b, a, Duration::from_secs(5)));
        world.run_for(Duration::from_secs(40));
        world.woke(b);
        assert_eq!(connected(&world, b), 0, "the keys are gone");
        for _ in 0..8 {
            if sends {
                world.send_between(b, a);
            }
            world.run_for(Duration::from_millis(250));
        }
        assert_eq!(connected(&world, b), 1, "seed {seed}");
        assert!(reaches(&mut world, a, b, Duration::from_secs(1)));
    }
}

/// ```text
///   a ── NAT ──┐              ┌── NAT ── b
///              └── Internet ──┘
/// ```
#[test]
fn two_devices_behind_two_nats_join_within_five_seconds() {
    let mut world = World::new(1, Weather::FAIR);
    let (left, right) =
        (world.net.site(NatKind::PORT_RESTRICTED), world.net.site(NatKind::PORT_RESTRICTED));
    let (a, invite) = world.create(Some(left), "a");
    world.run_for(Duration::from_secs(5));
    let start = world.elapsed();
    let (b, request) = world.join(Some(right), "b", &invite);
    let joined = world
        .run_until(Duration::from_secs(30), |world| world.nodes[b.0].answer(request).is_some());
    for (_, answer) in &world.nodes[b.0].answers {
        println!("{:?}", answer);
    }
    println!(
        "took {:?}; a drops {:?}; b drops {:?}",
        world.elapsed() - start,
        world.nodes[a.0].drops(),
        world.nodes[b.0].drops()
    );
    assert!(joined, "the join was not answered");
    assert!(matches!(world.nodes[b.0].answer(request), Some(Response::Joined(_))));
    assert!(
        world.run_until(Duration::from_secs(2), |world| {
            connected(world, a) == 1 && connected(world, b) == 1
        }),
        "{:#?} {:#?}",
        world.nodes[a.0].status(world.now()),
        world.nodes[b.0].status(world.now())
    );
    let status = world.nodes[a.0].status(world.now());
    assert_eq!(status.peers[0].path.as_ref().map(|path| path.kind), Some(PathKind::Direct));
    assert!(world.elapsed() - start < Duration::from_secs(5), "{:?}", world.elapsed() - start);
}

#[test]
fn packets_go_both_ways_as_soon_as_a_device_joined() {
    let (mut world, a, b) = two(2);
    assert!(reaches(&mut world, b, a, Duration::from_secs(1)));
    assert!(reaches(&mut world, a, b, Duration::from_secs(1)));
}

#[test]
fn a_third_device_is_seen_by_all_and_a_revoked_one_by_none() {
    let (mut world, a, b) = two(3);
    let token = invite(&mut world, a);
    let site = world.net.site(NatKind::PORT_RESTRICTED);
    let c = join(&mut world, Some(site), "c", &token);
    // A shared member introduces them, sooner than the DHT could.
    let all = world.run_until(Duration::from_secs(2), |world| {
        [a, b, c].iter().all(|device| connected(world, *device) == 2)
    });
    assert!(all, "{:#?}", world.nodes[b.0].status(world.now()).peers);
    assert!(reaches(&mut world, c, b, Duration::from_secs(2)));
    world.ask(
        a,
        Request::Revoke { device: "c".to_owned(), reason: Some("lost".to_owned()), offline: false },
    );
    world.run_for(Duration::from_secs(2));
    assert!(!reaches(&mut world, c, b, Duration::from_secs(5)));
    assert!(!reaches(&mut world, b, c, Duration::from_secs(5)));
    let status = world.nodes[c.0].status(world.now());
    assert_eq!(status.state, NetworkState::Revoked, "{status:#?}");
    assert!(status.detail.is_some_and(|detail| detail.contains("lost")));
    world.crash_and_restart(c);
    assert!(!reaches(&mut world, c, b, Duration::from_secs(10)));
    assert_eq!(world.nodes[c.0].status(world.now()).state, NetworkState::Revoked);
}

#[test]
fn a_device_that_was_away_when_it_was_revoked_is_told_when_it_comes_back() {
    let (mut world, a, b) = two(8);
    assert!(reaches(&mut world, a, b, Duration::from_secs(1)));
    let host = world.nodes[b.0].host;
    let back = world.elapsed() + Duration::from_secs(600);
    world.net.cut(host, back);
    world.ask(a, Request::Revoke { device: "b".to_owned(), reason: None, offline: false });
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.nodes[b.0].status(world.now()).state, NetworkState::Up);
    // Both poll the doorbell every five minutes by then.
    let told = world.run_until(Duration::from_secs(900), |world| {
        world.nodes[b.0].status(world.now()).state == NetworkState::Revoked
    });
    assert!(told);
    assert!(!reaches(&mut world, b, a, Duration::from_secs(5)));
}

#[test]
fn the_lan_is_back_within_five_seconds_after_either_side_or_both_crashed() {
    for crashed in [vec![0], vec![1], vec![0, 1]] {
        let (mut world, a, b) = two(4);
        assert!(reaches(&mut world, a, b, Duration::from_secs(1)));
        world.run_for(Duration::from_secs(120));
        for device in crashed {
            world.crash_and_restart(DeviceNo(device));
        }
        assert!(reaches(&mut world, a, b, Duration::from_secs(5)));
        assert!(reaches(&mut world, b, a, Duration::from_secs(5)));
    }
}

/// Its backup lacks the newest op; signing on it would fork the log, and end its word for good.
#[test]
fn an_admin_restored_from_a_backup_signs_only_after_a_member_showed_it_its_own_log() {
    let (mut world, a, b) = two(13);
    let backup = world.nodes[a.0].disk.clone();
    invite(&mut world, a);
    world.run_for(Duration::from_secs(5));
    world.nodes[a.0].disk = backup;
    let (host, back) = (world.nodes[b.0].host, world.elapsed() + Duration::from_secs(60));
    world.net.cut(host, back);
    world.crash_and_restart(a);
    world.run_for(Duration::from_secs(50));
    let refused = try_invite(&mut world, a);
    assert!(
        matches!(&refused, Some(Response::Error(e)) if e.message.contains("--offline")),
        "{refused:?}"
    );
    assert!(reaches(&mut world, a, b, Duration::from_secs(60)));
    world.run_for(Duration::from_secs(5));
    invite(&mut world, a);
    world.run_for(Duration::from_secs(5));
    let digests = [a, b].map(|device| world.nodes[device.0].mesh.digest());
    assert_eq!(digests[0], digests[1]);
    assert!(world.nodes[b.0].status(world.now()).peers.iter().all(|peer| peer.name == "a"));
}

#[test]
fn a_new_public_address_heals_without_a_restart() {
    let (mut world, a, b) = two(5);
    assert!(reaches(&mut world, a, b, Duration::from_secs(1)));
    world.run_for(Duration::from_secs(100));
    world.net.renumber(SiteId(1));
    assert!(reaches(&mut world, b, a, Duration::from_secs(30)));
    assert!(reaches(&mut world, a, b, Duration::from_secs(5)));
}

#[test]
fn a_host_that_moves_to_another_site_is_reached_there() {
    let (mut world, a, b) = two(6);
    assert!(reaches(&mut world, a, b, Duration::from_secs(1)));
    let site = world.net.site(NatKind::PORT_RESTRICTED);
    let host = world.nodes[b.0].host;
    world.net.move_host(host, Some(site));
    world.links_changed(b);
    assert!(reaches(&mut world, b, a, Duration::from_secs(60)));
    assert!(reaches(&mut world, a, b, Duration::from_secs(5)));
}

#[test]
fn an_invite_works_once() {
    let mut world = World::new(7, Weather::FAIR);
    let (a, token) = world.create(None, "a");
    join(&mut world, None, "b", &token);
    let (c, request) = world.join(None, "c", &token);
    let refused = world.run_until(Duration::from_secs(30), |world| {
        matches!(world.nodes[c.0].answer(request), Some(Response::Error(_)))
    });
    assert!(refused);
    assert_eq!(world.nodes[a.0].status(world.now()).peers.len(), 1);
}

#[test]
fn a_device_joins_though_the_internet_came_only_after_it_began() {
    let mut world = World::new(13, Weather::FAIR);
    let sites = [0, 1].map(|_| world.net.site(NatKind::PORT_RESTRICTED));
    let (_, token) = world.create(Some(sites[0]), "a");
    let until = world.elapsed() + Duration::from_secs(10);
    world.net.cut_site(sites[1], until);
    let (b, request) = world.join(Some(sites[1]), "b", &token);
    world.run_until(Duration::from_secs(60), |world| world.nodes[b.0].answer(request).is_some());
    let answer = world.nodes[b.0].answer(request);
    assert!(matches!(answer, Some(Response::Joined(_))), "{answer:?}");
}

#[test]
fn two_devices_of_one_site_without_internet_join_within_two_seconds() {
    let mut world = World::new(14, Weather::FAIR);
    let site = world.net.site(NatKind::PORT_RESTRICTED);
    world.net.cut_site(site, Duration::MAX);
    let (a, token) = world.create(Some(site), "a");
    let (b, request) = world.join(Some(site), "b", &token);
    world.run_until(Duration::from_secs(2), |world| world.nodes[b.0].answer(request).is_some());
    let answer = world.nodes[b.0].answer(request);
    assert!(matches!(answer, Some(Response::Joined(_))), "{answer:?}");
    assert!(reaches(&mut world, a, b, Duration::from_secs(1)));
}

/// Theory says so (RFC 5128, section 3.3): neither side can tell the other its next port.
#[test]
fn two_devices_behind_symmetric_nats_find_no_direct_path_and_say_so() {
    let mut world = World::new(9, Weather::FAIR);
    let sites = [0, 1].map(|_| world.net.site(NatKind::SYMMETRIC));
    let (a, invite) = world.create(Some(sites[0]), "a");
    let (b, request) = world.join(Some(sites[1]), "b", &invite);
    let refused = world.run_until(Duration::from_secs(130), |world| {
        matches!(world.nodes[b.0].answer(request), Some(Response::Error(_)))
    });
    assert!(refused, "{:?}", world.nodes[b.0].answer(request));
    assert_eq!(connected(&world, a), 0);
}

/// Its sponsor takes it for a member by then, and calls it as one while it asks to be let in again.
#[test]
fn a_device_that_crashes_once_it_was_granted_comes_in_soon_after_its_start() {
    for seed in 0..20 {
        let mut world = World::new(400 + seed, Weather::FAIR);
        let site = world.net.site(NatKind::PORT_RESTRICTED);
        let (a, invite) = world.create(Some(site), "a");
        let (b, _) = world.join(Some(site), "b", &invite);
        let is_granted = |world: &World| {
            world.nodes[a.0].status(world.now()).peers.iter().any(|peer| peer.name == "b")
        };
        assert!(world.run_until(Duration::from_secs(30), is_granted), "seed {seed}");
        world.crash_and_restart(b);
        let is_in = |world: &World| connected(world, b) == 1 && connected(world, a) == 1;
        assert!(world.run_until(Duration::from_secs(30), is_in), "seed {seed}");
    }
}

#[test]
fn a_device_behind_a_symmetric_nat_joins_through_one_that_filters_no_ports() {
    for (seed, kind) in [(10, NatKind::ADDRESS_RESTRICTED), (11, NatKind::FULL_CONE)] {
        let mut world = World::new(seed, Weather::FAIR);
        let (open, symmetric) = (world.net.site(kind), world.net.site(NatKind::SYMMETRIC));
        let (a, invite) = world.create(Some(open), "a");
        let b = join(&mut world, Some(symmetric), "b", &invite);
        assert!(reaches(&mut world, a, b, Duration::from_secs(2)));
    }
}

/// Sixteen devices are more than twelve neighbours and oneself, so that not everybody keeps everybody:
/// some tunnels are of use to one side only, some to neither and end.
#[test]
fn sixteen_devices_that_have_met_leave_the_dht_alone_and_hardly_talk() {
    let mut world = World::new(12, Weather::FAIR);
    let (a, token) = world.create(None, "a");
    join(&mut world, None, "b1", &token);
    for number in 2..16 {
        let token = invite(&mut world, a);
        let site = world.net.site(NatKind::PORT_RESTRICTED);
        join(&mut world, Some(site), &format!("b{number}"), &token);
    }
    world.run_for(Duration::from_secs(200));
    let (lookups, sent) = (world.dht.operations.lookups, world.tally.bytes);
    world.run_for(Duration::from_secs(300));
    let (lookups, sent) = (world.dht.operations.lookups - lookups, world.tally.bytes - sent);

    assert_eq!(lookups, 0);
    // With the headers of IP and UDP; what one sends another receives.
    let hourly = sent * 2 / 16 * 12;
    assert!(hourly < 600_000, "{hourly} bytes an hour and device");
}

/// ```text
///   a ── NAT ──┐              ┌── NAT ── b      the Internet carries 1,280 bytes
///              └── Internet ──┘
/// ```
#[test]
fn a_narrow_path_is_noticed_joined_over_all_the_same_and_noticed_again_when_it_widens() {
    let mut world = World::new(13, Weather { mtu: 1280, ..Weather::FAIR });
    let sites = [0, 1].map(|_| world.net.site(NatKind::PORT_RESTRICTED));
    let (a, invite) = world.create(Some(sites[0]), "a");
    let b = join(&mut world, Some(sites[1]), "b", &invite);
    let mtu = |world: &World, of: DeviceNo| world.nodes[of.0].status(world.now()).peers[0].mtu;
    for _ in 0..12 {
        // User data, without which no probe leaves.
        assert!(reaches(&mut world, a, b, Duration::from_secs(2)));
        assert!(reaches(&mut world, b, a, Duration::from_secs(2)));
        world.run_for(Duration::from_secs(1));
    }
    assert_eq!((mtu(&world, a), mtu(&world, b)), (Some(1220), Some(1220)));
    world.net.weather.mtu = 1428;
    for _ in 0..40 {
        assert!(reaches(&mut world, a, b, Duration::from_secs(2)));
        world.run_for(Duration::from_secs(1));
    }
    assert_eq!(mtu(&world, a), Some(1368));
}
