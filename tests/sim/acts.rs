//! What a scenario can do: devices start, ask, send, lose power, have wrong clocks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel::api::{DhtState, Request, Response};
use ginnel::membership::{GenesisPool, UnixTime};
use ginnel::mesh::event::{DhtInput, Input, InterfaceAddress, InterfaceSnapshot, RequestId};
use ginnel::mesh::wall::Wall;
use ginnel::mesh::{Found, Mesh, Saved};
use rand::RngExt;

use super::clock::EPOCH;
use super::disk::Disk;
use super::net::{HostId, SiteId};
use super::node::{Node, settings};
use super::packets::{serial, udp6};
use super::tally::STUN_PORT;
use super::world::{DeviceNo, Event, World};

impl World {
    /// A device founds a network.
    pub fn create(&mut self, site: Option<SiteId>, name: &str) -> (DeviceNo, String) {
        let request = RequestId(0);
        let found = Found {
            network: "home".parse().expect("a label"),
            device: name.parse().expect("a label"),
            pool: GenesisPool::Default,
            invite: true,
            request,
        };
        let (seed, now) = (self.rng.random(), self.now());
        self.time.set_wall(EPOCH);
        let mesh = Mesh::found(found, settings(), seed, self.wall(0), now).expect("it is founded");
        let device = self.add(site, mesh);
        let answered = self.run_until(Duration::from_secs(10), |world| {
            world.nodes[device.0].answer(request).is_some()
        });
        assert!(answered, "create was not answered");
        let Some(Response::Created(created)) = self.nodes[device.0].answer(request) else {
            panic!("create failed: {:?}", self.nodes[device.0].answer(request));
        };
        (device, created.invite.clone().expect("an invite was asked for"))
    }

    /// A device begins to join.
    pub fn join(
        &mut self,
        site: Option<SiteId>,
        name: &str,
        invite: &str,
    ) -> (DeviceNo, RequestId) {
        let join = (
            invite.parse().expect("a true invite"),
            name.parse().expect("a label"),
            Duration::from_secs(120),
        );
        let (seed, now) = (self.rng.random(), self.now());
        self.time.set_wall(EPOCH);
        let mesh = Mesh::take_up(join, settings(), seed, self.wall(0), now);
        let device = self.add(site, mesh);
        let (invite, name) = (invite.to_owned(), name.to_owned());
        let request = Request::Join { invite, device: name, timeout_ms: 120_000 };
        let id = self.ask(device, request);
        (device, id)
    }

    /// A device that was admitted before the run starts from its disk.
    pub fn restore(&mut self, site: Option<SiteId>, saved: Saved, disk: Disk) -> DeviceNo {
        let (seed, now) = (self.rng.random(), self.now());
        self.time.set_wall(EPOCH);
        let mesh = Mesh::restore(saved, settings(), seed, self.wall(0), now);
        let device = self.add(site, mesh);
        self.nodes[device.0].disk = disk;
        device
    }

    fn add(&mut self, site: Option<SiteId>, mesh: Mesh) -> DeviceNo {
        let host = self.net.host(site);
        let device = DeviceNo(self.nodes.len());
        self.nodes.push(Node::new(host, mesh, self.now()));
        self.devices.insert(host, device);
        self.present(device);
        self.schedule(Duration::from_secs(60), Event::Minute(device));
        device
    }

    /// Tells a device that starts what there is.
    fn present(&mut self, device: DeviceNo) {
        let snapshot = self.interfaces(self.nodes[device.0].host);
        let servers = [self.stun, HostId(self.stun.0 + 1)]
            .map(|server| SocketAddr::from((self.net.address(server), STUN_PORT)));
        let (node, now) = self.on(device);
        node.input(Input::Interfaces(snapshot), now);
        node.input(Input::Dht(DhtInput::State(DhtState::Ready, 20)), now);
        node.input(Input::StunServers(servers.to_vec()), now);
        self.settle(device);
    }

    fn interfaces(&self, host: HostId) -> InterfaceSnapshot {
        let address = IpAddr::V4(self.net.address(host));
        let link = InterfaceAddress { link: 2, address, prefix_len: 24, mtu: 1500 };
        InterfaceSnapshot { addresses: vec![link], default_route: (true, false) }
    }

    /// A client of a device asks.
    pub fn ask(&mut self, device: DeviceNo, request: Request) -> RequestId {
        let (node, now) = self.on(device);
        let id = node.ask(request, now);
        self.settle(device);
        id
    }

    /// An application on a device sends a packet.
    pub fn send(&mut self, device: DeviceNo, packet: &[u8]) {
        let (node, now) = self.on(device);
        let effects = node.send(packet, now);
        self.take_effect(device, effects);
        self.settle(device);
    }

    /// Sends a UDP packet from one device to the overlay address of another: its serial number.
    pub fn send_between(&mut self, from: DeviceNo, to: DeviceNo) -> u64 {
        let address = |device: DeviceNo| self.nodes[device.0].status(self.now()).this.ipv6;
        let (source, destination) = (address(from), address(to));
        let serial = self.checks.packet_sent(from);
        let mut payload = serial.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0x67; 64]);
        let packet = udp6(source, destination, &payload);
        self.send(from, &packet);
        serial
    }

    /// Whether one of these packets came out of a device's interface.
    pub fn has_received(&self, device: DeviceNo, serials: &[u64]) -> bool {
        let packets = &self.nodes[device.0].received;
        packets.iter().filter_map(|packet| serial(packet)).any(|serial| serials.contains(&serial))
    }

    /// The power fails; then the device starts again from its disk.
    pub fn crash_and_restart(&mut self, device: DeviceNo) {
        let before = &self.nodes[device.0];
        let (host, disk, clock, life) =
            (before.host, before.disk.clone(), before.clock, before.life + 1);
        self.due.remove(&device);
        let Some(saved) = disk.saved() else {
            self.nodes[device.0].gone = true;
            return;
        };
        let seed = self.rng.random();
        let (_, now) = self.on(device);
        let mesh = Mesh::restore(saved, settings(), seed, self.wall(clock), now);
        let mut node = Node::new(host, mesh, now);
        // A write that was cut short may have ended all the same.
        node.written = disk.ops().map(<[u8]>::to_vec).collect();
        (node.disk, node.clock, node.life) = (disk, clock, life);
        self.nodes[device.0] = node;
        self.present(device);
    }

    /// Nothing is heard of the device any more.
    pub fn switch_off(&mut self, device: DeviceNo) {
        self.net.cut(self.nodes[device.0].host, Duration::MAX);
    }

    /// The device will start without knowing where anybody is.
    pub fn forget_addresses(&mut self, device: DeviceNo) {
        self.nodes[device.0].disk.remove_cache();
    }

    /// The device's host moved, or its links changed.
    pub fn links_changed(&mut self, device: DeviceNo) {
        let snapshot = self.interfaces(self.nodes[device.0].host);
        let (node, now) = self.on(device);
        node.input(Input::Interfaces(snapshot), now);
        self.settle(device);
    }

    /// The device's host woke from a sleep.
    pub fn woke(&mut self, device: DeviceNo) {
        let (node, now) = self.on(device);
        node.input(Input::Suspended, now);
        self.settle(device);
    }

    /// The wall clock of a device is wrong by so many seconds from now on.
    pub fn set_clock(&mut self, device: DeviceNo, wrong_by: i64) {
        self.nodes[device.0].clock = wrong_by;
        self.show_clock(device);
    }

    /// A device looks at its wall clock.
    pub(super) fn show_clock(&mut self, device: DeviceNo) {
        let unix = self.unix(self.nodes[device.0].clock);
        let (node, now) = self.on(device);
        node.input(Input::WallClock(unix), now);
        self.settle(device);
    }

    fn wall(&self, wrong_by: i64) -> Wall {
        Wall::new(self.unix(wrong_by), self.now())
    }

    /// What right clocks show.
    pub(super) fn unix_now(&self) -> UnixTime {
        self.unix(0)
    }

    fn unix(&self, wrong_by: i64) -> UnixTime {
        UnixTime((EPOCH + self.elapsed().as_secs()).saturating_add_signed(wrong_by))
    }
}

/// A device joins.
pub fn join(world: &mut World, site: Option<SiteId>, name: &str, invite: &str) -> DeviceNo {
    let (device, request) = world.join(site, name, invite);
    let answered = world.run_until(Duration::from_secs(30), |world| {
        world.nodes[device.0].answer(request).is_some()
    });
    assert!(answered, "{name} was not answered");
    let answer = world.nodes[device.0].answer(request);
    assert!(matches!(answer, Some(Response::Joined(_))), "{answer:?}");
    device
}

/// A new invite.
pub fn invite(world: &mut World, admin: DeviceNo) -> String {
    match try_invite(world, admin) {
        Some(Response::Invited(invited)) => invited.invite,
        other => panic!("no invite: {other:?}"),
    }
}

/// What an admin answers who is asked for an invite.
pub fn try_invite(world: &mut World, admin: DeviceNo) -> Option<Response> {
    let request = Request::Invite {
        network: None,
        name: None,
        expires_s: 3600,
        admin: false,
        offline: false,
    };
    let id = world.ask(admin, request);
    world.nodes[admin.0].answer(id).cloned()
}

/// Sends until it arrives; whether it did within the limit.
pub fn reaches(world: &mut World, from: DeviceNo, to: DeviceNo, limit: Duration) -> bool {
    let end = world.elapsed() + limit;
    let mut sent = Vec::new();
    while world.elapsed() < end {
        sent.push(world.send_between(from, to));
        if world.run_until(Duration::from_millis(200), |world| world.has_received(to, &sent)) {
            return true;
        }
    }
    false
}
