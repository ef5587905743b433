//! What must hold after every event, whatever happened.
//!
//! A new invariant is a method here and a call in `World::settle` or `World::step`. A breach panics
//! with the seed and the virtual time; `random` adds the command that shows it again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use ginnel::membership::{Author, Logs, OpId, SignedOp};
use ginnel::wire::classify::{Class, classify, counter, receiver_index, sender_index};

use super::node::{Effect, Node};
use super::packets::serial;
use super::world::DeviceNo;

/// More timeouts of one device within a millisecond than any work explains.
const BUSY: u32 = 1000;

/// So many equal bytes in a row are an application's, who fills its packets with twice as many of
/// one, so that they lie in one of the pieces of this length.
const PLAIN: usize = 24;

/// Counters that are remembered under one key: more than can be under way.
const COUNTERS: usize = 256;

/// Watches a run.
pub struct Checks {
    seed: u64,
    /// Every packet that an application sent: who, and whether it arrived.
    sent: BTreeMap<u64, (DeviceNo, bool)>,
    /// The millisecond in which a device was last due, and how often in it.
    due: BTreeMap<DeviceNo, (u128, u32)>,
    /// The op that an author wrote under each number.
    ops: BTreeMap<(Author, u64), OpId>,
    known: BTreeSet<OpId>,
    /// The last counters under each key: by receiver's index, and by sender and the sender's start.
    counters: HashMap<u32, BTreeMap<(DeviceNo, u32), BTreeSet<u64>>>,
    trace: DefaultHasher,
    elapsed: Duration,
}

impl Checks {
    /// Nothing happened yet.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            sent: BTreeMap::new(),
            due: BTreeMap::new(),
            ops: BTreeMap::new(),
            known: BTreeSet::new(),
            counters: HashMap::new(),
            trace: DefaultHasher::new(),
            elapsed: Duration::ZERO,
        }
    }

    /// The virtual time is now this.
    pub fn set_time(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
    }

    /// A hash over who did what when, to the byte: equal hashes, equal runs.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Ends the run: `what` must not be.
    pub fn fail(&self, what: &str) -> ! {
        let Self { seed, elapsed, .. } = self;
        panic!("world {seed:#x} at {elapsed:?}: {what}")
    }

    /// An application sends one more packet: its serial number.
    pub fn packet_sent(&mut self, from: DeviceNo) -> u64 {
        let serial = self.sent.len() as u64;
        self.sent.insert(serial, (from, false));
        serial
    }

    /// A packet that comes out of an interface was sent by the device that owns its source
    /// address, comes out once, and the sender is live in the receiver's roster.
    pub fn packet_received(&mut self, nodes: &[Node], at: DeviceNo, packet: &[u8], now: Instant) {
        let source: Option<[u8; 16]> = packet.get(8..24).and_then(|bytes| bytes.try_into().ok());
        let (Some(source), Some(serial)) = (source.map(Ipv6Addr::from), serial(packet)) else {
            self.fail(&format!("{at:?} received what nobody sent: {packet:02x?}"));
        };
        let Some((from, arrived)) = self.sent.get_mut(&serial) else {
            self.fail(&format!("{at:?} received a packet of {source} that nobody sent"));
        };
        let (from, again) = (*from, std::mem::replace(arrived, true));
        if again {
            self.fail(&format!("{at:?} received a packet of {from:?} twice"));
        }
        if nodes[from.0].status(now).this.ipv6 != source {
            self.fail(&format!("{at:?} received a packet of {from:?} from {source}"));
        }
        if !nodes[at.0].status(now).peers.iter().any(|peer| peer.ipv6 == source) {
            self.fail(&format!("{at:?} received a packet of {from:?}, which is not live there"));
        }
    }

    /// A device is due: not all the time.
    pub fn device_due(&mut self, device: DeviceNo, reason: Option<&str>) {
        let millisecond = self.elapsed.as_millis();
        let (when, times) = self.due.entry(device).or_insert((millisecond, 0));
        *times = if *when == millisecond { *times + 1 } else { 1 };
        *when = millisecond;
        if *times > BUSY {
            self.fail(&format!("{device:?} is busy with nothing: {reason:?}"));
        }
    }

    /// A drained device has nothing queued.
    pub fn drained(&self, device: DeviceNo, node: &Node) {
        if let Some((_, reason)) = node.mesh.poll_timeout()
            && reason.contains("queued")
        {
            self.fail(&format!("{device:?} was drained and has more: {reason}"));
        }
    }

    /// These ops were written before the run.
    pub fn written_before(&mut self, logs: &Logs) {
        for op in logs.iter() {
            self.ops.insert((op.op().author, op.op().seq), op.id());
            self.known.insert(op.id());
        }
    }

    /// A hostile author signed this beside its log.
    pub fn betrayed(&mut self, op: OpId) {
        self.known.insert(op);
    }

    /// Ops came to a device's disk: one is there first at its author, and no author ever writes two
    /// under one number.
    pub fn written(&mut self, device: DeviceNo, node: &Node, ops: &[Vec<u8>]) {
        for op in ops {
            let network = node.mesh.network();
            let decoded = SignedOp::decode(op);
            if decoded.as_ref().is_ok_and(|op| self.known.contains(&op.id())) {
                continue;
            }
            let Ok(op) = decoded.and_then(|op| op.verify(&network)) else {
                self.fail(&format!("{device:?} wrote what is no op"));
            };
            let (id, op) = (op.id(), op.op());
            match self.ops.get(&(op.author, op.seq)) {
                Some(known) if *known == id => {}
                Some(_) => self.fail(&format!("{:?} wrote two ops number {}", op.author, op.seq)),
                None => {
                    let own = node.disk.identity().and_then(|identity| identity.admin);
                    let own = own.is_some_and(|own| op.author == Author::Admin(own.public()));
                    if !own && !matches!(op.author, Author::Root(_)) {
                        self.fail(&format!("{device:?} has an op that its author did not write"));
                    }
                    self.ops.insert((op.author, op.seq), id);
                    self.known.insert(id);
                }
            }
        }
    }

    /// What others say never makes a device grow without end.
    pub fn bounded(&self, device: DeviceNo, node: &Node) {
        for gauge in node.mesh.gauges() {
            if gauge.used > gauge.most {
                self.fail(&format!("{device:?} has too many: {gauge:?}"));
            }
        }
    }

    /// A device does something that others see.
    pub fn effect(&mut self, device: DeviceNo, life: u32, effect: &Effect) {
        self.trace.write_u128(self.elapsed.as_nanos());
        self.trace.write_usize(device.0);
        match effect {
            Effect::Send(to, bytes) => {
                self.trace.write(to.to_string().as_bytes());
                self.trace.write(bytes);
                self.sealed(device, *to, bytes);
                self.counted(device, life, bytes);
            }
            Effect::Beacon(bytes) => self.trace.write(bytes),
            Effect::Publish(item) => self.trace.write(&item.value),
            Effect::Lookup(key) => self.trace.write(format!("{key:?}").as_bytes()),
        }
    }

    /// Nothing of an application leaves as it is, and nothing goes to where only tunnels lead.
    fn sealed(&self, device: DeviceNo, to: SocketAddr, bytes: &[u8]) {
        let known = !matches!(classify(bytes), Class::Unknown | Class::Relay);
        let plain = bytes.chunks_exact(PLAIN).any(|run| run[0] != 0 && run == [run[0]; PLAIN]);
        let inside = match to.ip() {
            IpAddr::V4(v4) => v4.octets()[0] == 10,
            IpAddr::V6(v6) => v6.octets()[0] == 0xfd,
        };
        if !known || plain || inside {
            self.fail(&format!("{device:?} sends this to {to}: {bytes:02x?}"));
        }
    }

    /// No counter is used twice under one key. A handshake message under an index begins a new one.
    fn counted(&mut self, device: DeviceNo, life: u32, bytes: &[u8]) {
        if let Some(index) = sender_index(bytes) {
            self.counters.remove(&index);
        }
        if let (Some(index), Some(counter)) = (receiver_index(bytes), counter(bytes)) {
            let senders = self.counters.entry(index).or_default();
            let used = senders.entry((device, life)).or_default();
            let again = !used.insert(counter);
            if used.len() > COUNTERS {
                used.pop_first();
            }
            if again {
                self.fail(&format!("{device:?} used counter {counter} twice under one key"));
            }
        }
    }
}

/// Each invariant is seen to fail.
#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use ginnel::api::Request;

    use super::super::acts::{invite, join};
    use super::super::net::{NatKind, Weather};
    use super::super::packets::udp6;
    use super::super::world::World;
    use super::*;

    /// Two devices that are connected.
    fn two() -> (World, DeviceNo, DeviceNo) {
        let mut world = World::new(1, Weather::FAIR);
        let sites = [0, 1].map(|_| world.net.site(NatKind::PORT_RESTRICTED));
        let (a, token) = world.create(Some(sites[0]), "a");
        let b = join(&mut world, Some(sites[1]), "b", &token);
        (world, a, b)
    }

    /// What is breached when this happens.
    fn breach(what: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(what)).expect_err("nothing is breached");
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    #[test]
    fn a_packet_is_from_whom_it_says_who_is_live_and_comes_once() {
        let (mut world, a, b) = two();
        let address = |world: &World, of: DeviceNo| world.nodes[of.0].status(world.now()).this.ipv6;
        let (from, to) = (address(&world, a), address(&world, b));
        let packet = |from, serial: u64| udp6(from, to, &serial.to_be_bytes());
        let now = world.now();
        let (stranger, _) = world.create(None, "stranger");
        let sent = [a, a, stranger].map(|from| world.checks.packet_sent(from));
        let (nodes, checks) = (&world.nodes, &mut world.checks);
        let mut arrives = |packet: &[u8]| breach(|| checks.packet_received(nodes, b, packet, now));
        assert!(arrives(&packet(from, 99)).contains("nobody sent"));
        assert!(arrives(&packet(to, sent[0])).contains("from fd"));
        let own = nodes[stranger.0].status(now).this.ipv6;
        assert!(arrives(&packet(own, sent[2])).contains("not live"));
        world.checks.packet_received(&world.nodes, b, &packet(from, sent[1]), now);
        let again = || world.checks.packet_received(&world.nodes, b, &packet(from, sent[1]), now);
        assert!(breach(again).contains("twice"));
    }

    #[test]
    fn nothing_leaves_unsealed_or_into_the_overlay_and_no_counter_twice() {
        let mut checks = Checks::new(1);
        let mut sends = |to: &str, bytes: &[u8]| {
            let to = to.parse().expect("an address");
            let effect = Effect::Send(to, bytes.to_vec());
            catch_unwind(AssertUnwindSafe(|| checks.effect(DeviceNo(0), 0, &effect))).is_err()
        };
        let transport =
            [[4, 0, 0, 0].as_slice(), &[1; 4], &[0, 1, 2, 3, 4, 5, 6, 7], &[0; 16]].concat();
        let mut plain = transport.clone();
        plain.extend([0x67; 2 * PLAIN]);
        assert!(sends("198.51.100.1:9", b"no protocol of ours"));
        assert!(sends("198.51.100.1:9", &plain));
        assert!(sends("10.1.2.3:9", &transport) && sends("[fd00::1]:9", &transport));
        assert!(!sends("198.51.100.1:9", &transport));
        assert!(sends("198.51.100.1:9", &transport), "the counter again");
    }

    #[test]
    fn a_device_is_not_busy_and_leaves_nothing_queued() {
        let mut checks = Checks::new(1);
        let mut due = || checks.device_due(DeviceNo(0), Some("why"));
        (0..BUSY).for_each(|_| due());
        assert!(breach(due).contains("why"));
        let (mut world, a, _) = two();
        let (node, now) = world.on(a);
        node.ask(Request::Status, now);
        assert!(breach(|| world.checks.drained(a, &world.nodes[a.0])).contains("queued"));
    }

    #[test]
    fn no_author_writes_two_ops_under_one_number_and_nobody_those_of_another() {
        let (mut world, a, b) = two();
        invite(&mut world, a);
        let ops: Vec<_> = world.nodes[a.0].disk.ops().map(<[u8]>::to_vec).collect();
        let newest = ops.last().expect("an invite was opened").clone();
        let written = |world: &mut World, by: DeviceNo, op: Vec<u8>| {
            breach(|| world.checks.written(by, &world.nodes[by.0], &[op]))
        };
        assert!(written(&mut world, a, vec![1, 2, 3]).contains("no op"));
        // As if it came to the other's disk before its author's.
        let (key, id) = world.checks.ops.pop_last().expect("ops were written");
        world.checks.known.remove(&id);
        assert!(written(&mut world, b, newest.clone()).contains("did not write"));
        world.checks.ops.insert(key, OpId([9; 32]));
        assert!(written(&mut world, a, newest).contains("two ops"));
    }
}
