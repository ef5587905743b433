//! The world: one event queue, virtual time, one seed.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ginnel::api::{Request, Response};
use ginnel::membership::{GenesisPool, UnixTime};
use ginnel::mesh::event::{DhtInput, Input, InterfaceAddress, InterfaceSnapshot, RequestId};
use ginnel::mesh::wall::Wall;
use ginnel::mesh::{Found, Mesh, Saved};
use ginnel::wire::classify::classify;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::check::Checks;
use crate::clock::{EPOCH, VirtualTime};
use crate::dht::{Dht, Manners};
use crate::net::{HostId, Net, SiteId, Weather};
use crate::node::{Disk, Effect, Node, PORT, settings};
use crate::packets::{binding_success, udp6};
use crate::tally::{STUN_PORT, Tally};

/// Number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNo(pub usize);

/// Something that will happen.
enum Event {
    Datagram {
        host: HostId,
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Beacon {
        host: HostId,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Dht {
        device: DeviceNo,
        input: DhtInput,
    },
    /// Only where the device was not scheduled otherwise since.
    Due(DeviceNo),
    Minute(DeviceNo),
}

/// Everything.
pub struct World {
    time: VirtualTime,
    elapsed: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    events: u64,
    /// When each device was last scheduled to be due.
    due: BTreeMap<DeviceNo, Duration>,
    start: Instant,
    /// The network.
    pub net: Net,
    /// The DHT.
    pub dht: Dht,
    /// What the devices sent.
    pub tally: Tally,
    /// The devices.
    pub nodes: Vec<Node>,
    /// Which device is on a host.
    devices: HashMap<HostId, DeviceNo>,
    /// Whether to show what each device does and when.
    tracing: bool,
    rng: StdRng,
    stun: HostId,
    /// Watches that what must hold does.
    pub checks: Checks,
}

impl World {
    /// An empty world.
    pub fn new(seed: u64, weather: Weather) -> Self {
        let time = VirtualTime::start(seed);
        let start = time.set(Duration::ZERO);
        let mut net = Net::new(weather);
        let stun = net.host(None);
        net.host(None);
        Self {
            time,
            elapsed: Duration::ZERO,
            queue: BTreeMap::new(),
            events: 0,
            due: BTreeMap::new(),
            start,
            net,
            dht: Dht::new(Manners::FAIR),
            tally: Tally::default(),
            nodes: Vec::new(),
            devices: HashMap::new(),
            tracing: std::env::var_os("SIM_TRACE").is_some(),
            rng: StdRng::seed_from_u64(seed),
            stun,
            checks: Checks::new(seed),
        }
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    fn wall(&self) -> Wall {
        Wall::new(UnixTime(EPOCH + self.elapsed.as_secs()), self.now())
    }

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
        let mesh = Mesh::found(found, settings(), seed, self.wall(), now).expect("it is founded");
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
        let mesh = Mesh::take_up(join, settings(), seed, self.wall(), now);
        let device = self.add(site, mesh);
        let (invite, name) = (invite.to_owned(), name.to_owned());
        let request = Request::Join { invite, device: name, timeout_ms: 120_000 };
        let id = self.ask(device, request);
        (device, id)
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

    /// A device that was admitted before the run starts from its disk.
    pub fn restore(&mut self, site: Option<SiteId>, saved: Saved, disk: Disk) -> DeviceNo {
        let (seed, now) = (self.rng.random(), self.now());
        let mesh = Mesh::restore(saved, settings(), seed, self.wall(), now);
        let device = self.add(site, mesh);
        self.nodes[device.0].disk = disk;
        device
    }

    /// Tells a device that starts what there is.
    fn present(&mut self, device: DeviceNo) {
        let now = self.now();
        let snapshot = self.interfaces(self.nodes[device.0].host);
        let servers = [self.stun, HostId(self.stun.0 + 1)]
            .map(|server| SocketAddr::from((self.net.address(server), STUN_PORT)));
        let node = &mut self.nodes[device.0];
        node.input(Input::Interfaces(snapshot), now);
        node.input(Input::Dht(DhtInput::State(ginnel::api::DhtState::Ready, 20)), now);
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
        let now = self.now();
        let id = self.nodes[device.0].ask(request, now);
        self.settle(device);
        id
    }

    /// An application on a device sends a packet.
    pub fn send(&mut self, device: DeviceNo, packet: &[u8]) {
        let now = self.now();
        let effects = self.nodes[device.0].send(packet, now);
        self.take_effect(device, effects);
        self.settle(device);
    }

    /// Sends a UDP packet that bears `mark` from one device to the overlay address of another.
    pub fn send_between(&mut self, from: DeviceNo, to: DeviceNo, mark: u8) {
        let address = |device: DeviceNo| self.nodes[device.0].status(self.now()).this.ipv6;
        let (source, destination) = (address(from), address(to));
        let mut payload = self.checks.packet_sent(from).to_be_bytes().to_vec();
        payload.extend_from_slice(&[mark; 64]);
        let packet = udp6(source, destination, &payload);
        self.send(from, &packet);
    }

    /// Whether a packet with this mark came out of a device's interface.
    pub fn has_received(&self, device: DeviceNo, mark: u8) -> bool {
        self.nodes[device.0].received.iter().any(|packet| packet.ends_with(&[mark; 64]))
    }

    /// The power fails; then the device starts again from its disk.
    pub fn crash_and_restart(&mut self, device: DeviceNo) {
        let host = self.nodes[device.0].host;
        let disk = self.nodes[device.0].disk.clone();
        let (seed, now) = (self.rng.random(), self.now());
        let mesh = Mesh::restore(disk.saved(), settings(), seed, self.wall(), now);
        self.nodes[device.0] = Node::new(host, mesh, now);
        self.nodes[device.0].disk = disk;
        self.due.remove(&device);
        self.present(device);
    }

    /// The device's host moved, or its links changed.
    pub fn links_changed(&mut self, device: DeviceNo) {
        let now = self.now();
        let snapshot = self.interfaces(self.nodes[device.0].host);
        self.nodes[device.0].input(Input::Interfaces(snapshot), now);
        self.settle(device);
    }

    /// Runs until `done`, for `limit` at most. Whether it was done.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.elapsed + limit;
        loop {
            if done(self) {
                return true;
            }
            match self.queue.first_key_value() {
                Some(((at, _), _)) if *at <= end => self.step(),
                _ => {
                    self.elapsed = end;
                    self.checks.set_time(end);
                    self.time.set(end);
                    return done(self);
                }
            }
        }
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn step(&mut self) {
        let Some(((at, _), event)) = self.queue.pop_first() else { return };
        self.elapsed = at;
        self.checks.set_time(at);
        let now = self.time.set(at);
        debug_assert_eq!(now, self.now());
        match event {
            Event::Datagram { host, from, to, bytes } if host.0 <= self.stun.0 + 1 => {
                self.reflect(host, from, to, &bytes);
            }
            Event::Datagram { host, from, bytes, .. } => {
                let Some(device) = self.device_at(host) else { return };
                let effects = self.nodes[device.0].receive(from, &bytes, now);
                self.take_effect(device, effects);
                self.settle(device);
            }
            Event::Beacon { host, from, bytes } => {
                let Some(device) = self.device_at(host) else { return };
                self.nodes[device.0].input(Input::Lan { from, datagram: bytes }, now);
                self.settle(device);
            }
            Event::Dht { device, input } => {
                self.nodes[device.0].input(Input::Dht(input), now);
                self.settle(device);
            }
            Event::Due(device) => {
                if self.due.get(&device) != Some(&at) {
                    return;
                }
                self.due.remove(&device);
                let reason = self.nodes[device.0].mesh.poll_timeout().map(|(_, reason)| reason);
                self.checks.device_due(device, reason);
                self.nodes[device.0].mesh.handle_timeout(now);
                self.settle(device);
            }
            Event::Minute(device) => {
                let unix = UnixTime(EPOCH + at.as_secs());
                self.nodes[device.0].input(Input::WallClock(unix), now);
                self.settle(device);
                self.schedule(Duration::from_secs(60), Event::Minute(device));
            }
        }
    }

    /// A STUN server answers with what it sees.
    fn reflect(&mut self, host: HostId, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let Ok(transaction) = bytes.get(8..20).unwrap_or_default().try_into() else { return };
        let answer = binding_success(transaction, from);
        self.transmit((host, to.port()), from, answer);
    }

    fn device_at(&self, host: HostId) -> Option<DeviceNo> {
        self.devices.get(&host).copied()
    }

    /// Drains a device, and no other.
    fn settle(&mut self, device: DeviceNo) {
        let now = self.now();
        loop {
            let effects = self.nodes[device.0].drain(now);
            if effects.is_empty() {
                break;
            }
            self.take_effect(device, effects);
        }
        self.checks.drained(device, &self.nodes[device.0]);
        for packet in self.nodes[device.0].take_arrived() {
            self.checks.packet_received(&self.nodes, device, &packet, now);
        }
        let Some((at, _)) = self.nodes[device.0].mesh.poll_timeout() else {
            self.due.remove(&device);
            return;
        };
        let at = at.saturating_duration_since(self.start).max(self.elapsed);
        if self.due.get(&device) != Some(&at) {
            self.due.insert(device, at);
            self.schedule(at - self.elapsed, Event::Due(device));
        }
    }

    fn take_effect(&mut self, device: DeviceNo, effects: Vec<Effect>) {
        let host = self.nodes[device.0].host;
        for effect in effects {
            self.trace(device, &effect);
            self.checks.effect(device, &effect);
            match effect {
                Effect::Send(to, bytes) => {
                    self.tally.sent(to, &bytes);
                    self.transmit((host, PORT), to, bytes);
                }
                Effect::Beacon(bytes) => {
                    let from = SocketAddr::from((self.net.address(host), PORT));
                    for host in self.net.neighbours(host) {
                        let bytes = bytes.clone();
                        let after = Duration::from_micros(300);
                        self.schedule(after, Event::Beacon { host, from, bytes });
                    }
                }
                Effect::Publish(item) => {
                    let cut = self.net.is_cut(host, self.elapsed);
                    let heard = self.dht.publish(item, cut, self.elapsed, &mut self.rng);
                    self.hear_dht(device, heard);
                }
                Effect::Lookup(key) => {
                    let cut = self.net.is_cut(host, self.elapsed);
                    let heard = self.dht.lookup(key, cut, self.elapsed, &mut self.rng);
                    self.hear_dht(device, heard);
                }
            }
        }
    }

    /// With `SIM_TRACE` set, shows what each device does and when.
    fn trace(&self, device: DeviceNo, effect: &Effect) {
        if !self.tracing {
            return;
        }
        let at = self.elapsed.as_secs_f64();
        match effect {
            Effect::Send(to, bytes) => {
                println!("{at:9.3} {device:?} -> {to} {:?} {} B", classify(bytes), bytes.len());
            }
            Effect::Beacon(_) => println!("{at:9.3} {device:?} beacon"),
            Effect::Publish(item) => println!("{at:9.3} {device:?} publish {:?}", item.key),
            Effect::Lookup(key) => println!("{at:9.3} {device:?} lookup {key:?}"),
        }
    }

    fn hear_dht(&mut self, device: DeviceNo, heard: Vec<(Duration, DhtInput)>) {
        for (after, input) in heard {
            self.schedule(after, Event::Dht { device, input });
        }
    }

    fn transmit(&mut self, from: (HostId, u16), to: SocketAddr, bytes: Vec<u8>) {
        let arrivals = self.net.send(from, to, bytes.len(), self.elapsed, &mut self.rng);
        for arrival in arrivals {
            let (host, from, to) = (arrival.host, arrival.from, arrival.to);
            let bytes = bytes.clone();
            self.schedule(arrival.after, Event::Datagram { host, from, to, bytes });
        }
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.events += 1;
        self.queue.insert((self.elapsed + after, self.events), event);
    }
}
