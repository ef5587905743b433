//! The world: one event queue, virtual time, one seed.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ginnel::mesh::event::{DhtInput, Input};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::check::Checks;
use super::clock::{EPOCH, VirtualTime};
use super::dht::{Dht, Manners};
use super::net::{HostId, Net, Weather};
use super::node::{Effect, Node, PORT};
use super::packets::binding_success;
use super::recorded::{Datagram, Recorded};
use super::tally::Tally;

/// Number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNo(pub usize);

/// Something that will happen.
pub(super) enum Event {
    Datagram(Datagram),
    Beacon {
        host: HostId,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    /// To a device that did not lose its power since it asked.
    Dht {
        device: DeviceNo,
        life: u32,
        input: DhtInput,
    },
    /// Only where the device was not scheduled otherwise since.
    Due(DeviceNo),
    Minute(DeviceNo),
}

/// Everything.
pub struct World {
    pub(super) time: VirtualTime,
    elapsed: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    events: u64,
    /// When each device was last scheduled to be due.
    pub(super) due: BTreeMap<DeviceNo, Duration>,
    start: Instant,
    /// The network.
    pub net: Net,
    /// The DHT.
    pub dht: Dht,
    /// What the devices did.
    pub tally: Tally,
    /// The devices.
    pub nodes: Vec<Node>,
    /// Which device is on a host.
    pub(super) devices: HashMap<HostId, DeviceNo>,
    /// Whether to show what each device does and when.
    tracing: bool,
    pub(super) rng: StdRng,
    pub(super) stun: HostId,
    /// What an adversary on the path saw lately.
    pub(super) recorded: Recorded,
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
            recorded: Recorded::default(),
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

    /// A device that something will be done with, under its own wall clock; and the time.
    pub(super) fn on(&mut self, device: DeviceNo) -> (&mut Node, Instant) {
        let now = self.now();
        let node = &mut self.nodes[device.0];
        self.time.set_wall(EPOCH.saturating_add_signed(node.clock));
        (node, now)
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
            Event::Datagram(Datagram { host, from, to, bytes }) if host.0 <= self.stun.0 + 1 => {
                self.reflect(host, from, to, &bytes);
            }
            Event::Datagram(Datagram { host, from, bytes, .. }) => {
                let Some(device) = self.device_at(host) else { return };
                let (node, now) = self.on(device);
                let effects = node.receive(from, &bytes, now);
                self.take_effect(device, effects);
                self.settle(device);
            }
            Event::Beacon { host, from, bytes } => {
                let Some(device) = self.device_at(host) else { return };
                let (node, now) = self.on(device);
                node.input(Input::Lan { from, datagram: bytes }, now);
                self.settle(device);
            }
            Event::Dht { device, life, input } => {
                let (node, now) = self.on(device);
                if node.life == life && !node.gone {
                    node.input(Input::Dht(input), now);
                    self.settle(device);
                }
            }
            Event::Due(device) => {
                if self.due.get(&device) != Some(&at) {
                    return;
                }
                self.due.remove(&device);
                self.tally.wakeups += 1;
                let (node, now) = self.on(device);
                let reason = node.mesh.poll_timeout().map(|(_, reason)| reason);
                node.mesh.handle_timeout(now);
                self.checks.device_due(device, reason);
                self.settle(device);
            }
            Event::Minute(device) => {
                if !self.nodes[device.0].gone {
                    self.checks.bounded(device, &self.nodes[device.0]);
                    self.show_clock(device);
                    self.schedule(Duration::from_secs(60), Event::Minute(device));
                }
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
        self.devices.get(&host).copied().filter(|device| !self.nodes[device.0].gone)
    }

    /// Drains a device, and no other.
    pub(super) fn settle(&mut self, device: DeviceNo) {
        let (node, now) = self.on(device);
        let effects = node.drain(now);
        self.take_effect(device, effects);
        if self.nodes[device.0].is_dead() {
            return self.crash_and_restart(device);
        }
        if self.nodes[device.0].gone {
            self.due.remove(&device);
            return;
        }
        let written = std::mem::take(&mut self.nodes[device.0].written);
        self.checks.written(device, &self.nodes[device.0], &written);
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

    pub(super) fn take_effect(&mut self, device: DeviceNo, effects: Vec<Effect>) {
        let host = self.nodes[device.0].host;
        for effect in effects {
            self.trace(device, &effect);
            self.checks.effect(device, self.nodes[device.0].life, &effect);
            match effect {
                Effect::Send(to, bytes) => {
                    self.tally.sent(to, &bytes);
                    self.transmit((host, PORT), to, bytes);
                }
                Effect::Beacon(bytes) => {
                    let from = SocketAddr::from((self.net.address(host), PORT));
                    for host in self.net.neighbours(host, self.elapsed) {
                        let bytes = bytes.clone();
                        let after = Duration::from_micros(300);
                        self.schedule(after, Event::Beacon { host, from, bytes });
                    }
                }
                Effect::Publish(item) => {
                    let cut = self.net.is_offline(host, self.elapsed);
                    let heard = if self.dht.is_eclipsed(host) {
                        self.dht.swallow(&item)
                    } else {
                        self.dht.publish(item, cut, self.elapsed, &mut self.rng)
                    };
                    self.hear_dht(device, heard);
                }
                Effect::Lookup(key) => {
                    let cut = self.net.is_offline(host, self.elapsed);
                    let heard = self.dht.lookup(key, cut, self.elapsed, &mut self.rng);
                    let heard = self.dht.darken(host, heard);
                    self.hear_dht(device, heard);
                }
            }
        }
    }

    /// With `SIM_TRACE` set, shows what each device does and when.
    fn trace(&self, device: DeviceNo, effect: &Effect) {
        if self.tracing {
            println!("{:9.3} d{} {effect}", self.elapsed.as_secs_f64(), device.0);
        }
    }

    fn hear_dht(&mut self, device: DeviceNo, heard: Vec<(Duration, DhtInput)>) {
        let life = self.nodes[device.0].life;
        for (after, input) in heard {
            self.schedule(after, Event::Dht { device, life, input });
        }
    }

    fn transmit(&mut self, from: (HostId, u16), to: SocketAddr, bytes: Vec<u8>) {
        let arrivals = self.net.send(from, to, bytes.len(), self.elapsed, &mut self.rng);
        for arrival in arrivals {
            let (host, from, to) = (arrival.host, arrival.from, arrival.to);
            let datagram = Datagram { host, from, to, bytes: bytes.clone() };
            self.recorded.keep(&datagram);
            self.schedule(arrival.after, Event::Datagram(datagram));
        }
    }

    /// A datagram of the adversary arrives, whatever its source address says.
    pub(super) fn inject(&mut self, datagram: Datagram) {
        self.schedule(Duration::ZERO, Event::Datagram(datagram));
    }

    pub(super) fn schedule(&mut self, after: Duration, event: Event) {
        self.events += 1;
        self.queue.insert((self.elapsed + after, self.events), event);
    }
}
