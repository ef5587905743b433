//! What must hold after every event, whatever happened.
//!
//! A new invariant is a method here and a call in `World::settle` or `World::step`. A breach panics
//! with the seed, the virtual time, and the command that shows it again.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::node::{Effect, Node};
use crate::world::DeviceNo;

/// More timeouts of one device within a millisecond than any work explains.
const BUSY: u32 = 1000;

/// Where the serial number of a packet lies: behind the headers of IPv6 and UDP.
const SERIAL_AT: usize = 48;

/// Watches a run.
pub struct Checks {
    seed: u64,
    /// Every packet that an application sent: who, and whether it arrived.
    sent: BTreeMap<u64, (DeviceNo, bool)>,
    /// The millisecond in which a device was last due, and how often in it.
    due: BTreeMap<DeviceNo, (u128, u32)>,
    trace: DefaultHasher,
    elapsed: Duration,
}

impl Checks {
    /// Nothing happened yet.
    pub fn new(seed: u64) -> Self {
        let (sent, due) = (BTreeMap::new(), BTreeMap::new());
        Self { seed, sent, due, trace: DefaultHasher::new(), elapsed: Duration::ZERO }
    }

    /// The virtual time is now this.
    pub fn set_time(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
    }

    /// A hash over everything that any device did: equal hashes, equal runs.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Ends the run: `what` must not be.
    pub fn fail(&self, what: &str) -> ! {
        let Self { seed, elapsed, .. } = self;
        panic!("seed {seed} at {elapsed:?}: {what}\n{}", self.replay())
    }

    fn replay(&self) -> String {
        format!("replay: SIM_TRACE=1 SIM_SEED={} cargo test --test sim random", self.seed)
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
        let serial = packet.get(SERIAL_AT..SERIAL_AT + 8).and_then(|bytes| bytes.try_into().ok());
        let (Some(source), Some(serial)) = (source.map(Ipv6Addr::from), serial) else {
            self.fail(&format!("{at:?} received what nobody sent: {packet:02x?}"));
        };
        let Some((from, arrived)) = self.sent.get_mut(&u64::from_be_bytes(serial)) else {
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
            && (reason.contains("queued") || reason == "beacon output")
        {
            self.fail(&format!("{device:?} was drained and has more: {reason}"));
        }
    }

    /// A device does something that others see.
    pub fn effect(&mut self, device: DeviceNo, effect: &Effect) {
        self.trace.write_u128(self.elapsed.as_nanos());
        self.trace.write_usize(device.0);
        match effect {
            Effect::Send(to, bytes) => {
                self.trace.write(to.to_string().as_bytes());
                self.trace.write(bytes);
            }
            Effect::Beacon(bytes) => self.trace.write(bytes),
            Effect::Publish(item) => self.trace.write(&item.value),
            Effect::Lookup(key) => self.trace.write(format!("{key:?}").as_bytes()),
        }
    }
}
