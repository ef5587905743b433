//! What happens, and what must come of it.

use std::time::Duration;

use ginnel::api::{PathKind, PeerState, Response};

use crate::net::{NatKind, Weather};
use crate::world::{DeviceNo, World};

fn connected(world: &World, device: DeviceNo) -> usize {
    let status = world.nodes[device.0].status(world.now());
    let is = |state| status.peers.iter().filter(move |peer| peer.state == state).count();
    is(PeerState::Connected)
}

/// ```text
///   a ── NAT ──┐              ┌── NAT ── b
///              └── Internet ──┘
/// ```
#[test]
fn two_devices_behind_two_nats_join_within_five_seconds() {
    let mut world = World::new(1, Weather::FAIR);
    let (left, right) = (world.net.site(NatKind::PORT_RESTRICTED), world.net.site(NatKind::PORT_RESTRICTED));
    let (a, invite) = world.create(Some(left), "a");
    world.run_for(Duration::from_secs(5));
    let start = world.elapsed();
    let (b, request) = world.join(Some(right), "b", &invite);
    let joined = world.run_until(Duration::from_secs(30), |world| {
        world.nodes[b.0].answer(request).is_some()
    });
    for (_, answer) in &world.nodes[b.0].answers {
        println!("{:?}", answer);
    }
    println!("took {:?}; a drops {:?}; b drops {:?}", world.elapsed() - start, world.nodes[a.0].drops(), world.nodes[b.0].drops());
    assert!(joined, "the join was not answered");
    assert!(matches!(world.nodes[b.0].answer(request), Some(Response::Joined(_))));
    assert!(world.run_until(Duration::from_secs(2), |world| {
        connected(world, a) == 1 && connected(world, b) == 1
    }), "{:#?} {:#?}", world.nodes[a.0].status(world.now()), world.nodes[b.0].status(world.now()));
    let status = world.nodes[a.0].status(world.now());
    assert_eq!(status.peers[0].path.as_ref().map(|path| path.kind), Some(PathKind::Direct));
    assert!(world.elapsed() - start < Duration::from_secs(5), "{:?}", world.elapsed() - start);
}
