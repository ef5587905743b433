//! A member that keeps its keys and says whatever it likes: what [`Attack`]s there are, and how they
//! are made from its identity, its tunnels, and what was seen on the wire; `treason.rs` has those that
//! its keys make.
//!
//! Its own mesh goes on as if nothing were, so that it is everybody's peer while it lies.

use std::net::{Ipv6Addr, SocketAddr};

use ginnel::identity::{AdminSecret, IdSecret, Signature};
use ginnel::membership::{Author, InviteId, Op, OpBody, OpId, SignedOp, UnixTime};
use ginnel::wire::control::join::{JoinHello, JoinProve};
use ginnel::wire::control::{
    AuthorTag, Control, Endpoints, Fetch, Goodbye, HeadEntry, Heads, Hello, Introduction,
    IntroductionRequest, MAX_WAY, OpBytes, Ops, Passing, Ping, Pong, Proof, Reply, Secret,
    encode_packet,
};
use ginnel::wire::record::NetworkSecret;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};

use super::clock::EPOCH;
use super::node::Effect;
use super::packets::udp6;
use super::world::{DeviceNo, World};

/// What a hostile member does, towards one other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Packets from addresses that are not its own, in its tunnel.
    WrongSources,
    /// Control messages that are no messages.
    Garbage,
    /// Well-formed messages that lie.
    Lies,
    /// Ops: forged, of others, cut short, of an admin that is none.
    Ops,
    /// More messages at once than anybody hears.
    Flood,
    /// Datagrams that were seen on the wire, again and in another order.
    Replays,
    /// The same, with bits turned over, cut short, or longer.
    Mutants,
    /// Handshakes from ten years ahead, then true ones.
    FutureHandshakes,
    /// Beacons that were never sent.
    Beacons,
    /// Two ops under one number, where it is an admin: the other hears of one, the rest of the other.
    Fork,
    /// What all members can write in the DHT, with the last sequence number that there is.
    EndOfTime,
    /// Handshakes and certificates with keys of low order.
    LowOrder,
}

impl Attack {
    /// Every one.
    pub const ALL: [Self; 12] = [
        Self::WrongSources,
        Self::Garbage,
        Self::Lies,
        Self::Ops,
        Self::Flood,
        Self::Replays,
        Self::Mutants,
        Self::FutureHandshakes,
        Self::Beacons,
        Self::Fork,
        Self::EndOfTime,
        Self::LowOrder,
    ];
}

/// Ten years, in seconds.
const TEN_YEARS: i64 = 10 * 31_536_000;

impl World {
    /// A hostile member does its worst towards another.
    pub fn attack(&mut self, villain: DeviceNo, victim: DeviceNo, attack: Attack, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        match attack {
            Attack::WrongSources => self.send_from_wrong_sources(villain, victim),
            Attack::Garbage => {
                for _ in 0..20 {
                    let mut bytes = vec![0; rng.random_range(0..1200)];
                    rng.fill_bytes(&mut bytes);
                    if let Some(kind) = bytes.first_mut() {
                        *kind %= 24;
                    }
                    self.say(villain, victim, &bytes);
                }
            }
            Attack::Lies => {
                for message in self.lies(villain, victim, &mut rng) {
                    self.tell(villain, victim, &message);
                }
            }
            Attack::Ops => {
                for ops in self.false_ops(villain, &mut rng).chunks(2) {
                    let ops = ops.iter().cloned().map(OpBytes).collect();
                    self.tell(villain, victim, &Control::Ops(Ops { reply: None, ops }));
                }
            }
            Attack::Flood => {
                for token in 0..500 {
                    let padding = vec![0; rng.random_range(0..1000)];
                    self.tell(villain, victim, &Control::Ping(Ping { token, padding }));
                }
            }
            Attack::Replays | Attack::Mutants => {
                self.replay(villain, attack == Attack::Mutants, &mut rng);
            }
            Attack::FutureHandshakes => {
                for wrong_by in [TEN_YEARS, 0] {
                    self.set_clock(villain, wrong_by);
                    self.crash_and_restart(villain);
                    self.run_for(std::time::Duration::from_secs(5));
                }
            }
            Attack::Beacons => {
                for _ in 0..5 {
                    let mut bytes = vec![0; rng.random_range(0..600)];
                    rng.fill_bytes(&mut bytes);
                    self.take_effect(villain, vec![Effect::Beacon(bytes)]);
                }
            }
            Attack::Fork => self.fork(villain, victim, &mut rng),
            Attack::EndOfTime => self.write_at_the_end_of_time(villain, &mut rng),
            Attack::LowOrder => self.use_low_order(villain, victim, &mut rng),
        }
    }

    fn send_from_wrong_sources(&mut self, villain: DeviceNo, victim: DeviceNo) {
        let address = |device: DeviceNo| self.nodes[device.0].status(self.now()).this.ipv6;
        let (own, to) = (address(villain), address(victim));
        let others = (0..self.nodes.len()).map(|other| address(DeviceNo(other)));
        let mut sources: Vec<Ipv6Addr> = others.filter(|other| *other != own).collect();
        sources.extend(["::", "::1", "ff02::1", "fe80::1", "fd00::1", "2001:db8::1"].map(parse));
        let packets = sources.iter().map(|source| udp6(*source, to, &[7; 64]));
        let foreign = ["ff02::1", "fe80::2", "::1", "2001:db8::2"].map(parse);
        let foreign = foreign.iter().map(|to| udp6(own, *to, &[7; 64]));
        for packet in packets.chain(foreign).collect::<Vec<_>>() {
            self.seal(villain, victim, &packet);
        }
    }

    /// Messages that are well-formed, and lie.
    fn lies(&self, villain: DeviceNo, victim: DeviceNo, rng: &mut StdRng) -> Vec<Control> {
        let ids = self.nodes.iter().filter_map(|node| node.disk.identity());
        let others: Vec<_> = ids.map(|identity| identity.id.public()).collect();
        let other = *others.choose(rng).expect("there are devices");
        let victim = SocketAddr::from((self.net.address(self.nodes[victim.0].host), 41641));
        let own = SocketAddr::from((self.net.address(self.nodes[villain.0].host), 9));
        let mut endpoints: Vec<_> = [
            "127.0.0.1:1",
            "0.0.0.0:0",
            "255.255.255.255:1",
            "224.0.0.1:1",
            "10.0.0.1:1",
            "[::1]:1",
            "[ff02::1]:1",
            "[fe80::1]:1",
            "12.0.0.1:3478",
        ]
        .map(|text| text.parse().expect("an address"))
        .to_vec();
        endpoints.extend([victim, own]);
        let at = Endpoints { seq: rng.random(), endpoints, nat: 255 };
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        let author = AuthorTag(rng.random());
        let entry = HeadEntry { author, seq: u64::MAX, head: [1; 8], aside: Some([2; 8]) };
        let hello = Hello {
            version: rng.random(),
            id: other,
            cert: OpId(key),
            digest: [3; 8],
            knet_generation: u32::MAX,
            nonce: [4; 16],
        };
        let reply = Reply { author, index: 255, left: 255, next: u64::MAX, end: false };
        let invite = InviteId(rng.random());
        let passing = [Passing::Never, Passing::Nearest, Passing::ByLot];
        let passing = *passing.choose(rng).expect("three");
        let way: Vec<_> =
            others.iter().copied().cycle().take(rng.random_range(0..=MAX_WAY)).collect();
        let introduction = |device| Introduction { device, at: at.clone(), way: way.clone() };
        let asked =
            IntroductionRequest { device: other, at: at.clone(), passing, way: way.clone() };
        let all = vec![
            Control::Endpoints(at.clone()),
            Control::Introduce(asked),
            Control::Introduced(introduction(other)),
            Control::Introduced(introduction(IdSecret::from_seed(key).public())),
            Control::Secret(Secret::from(&NetworkSecret::new(u32::MAX, key))),
            Control::Heads(Heads { digest: [5; 8], ask: true, entries: vec![entry; 8] }),
            Control::Fetch(Fetch { author, from: u64::MAX }),
            Control::Fetch(Fetch { author, from: 0 }),
            Control::Ops(Ops { reply: Some(reply), ops: Vec::new() }),
            Control::Hello(hello),
            Control::Proof(Proof { signature: Signature([6; 64]) }),
            Control::Pong(Pong { token: 0, observed: Some(victim) }),
            Control::JoinHello(JoinHello { invite, nonce: [7; 16] }),
            Control::JoinProve(JoinProve { invite, id: other, have: u64::MAX }),
            Control::Goodbye(Goodbye::Leaving),
        ];
        (0..8).filter_map(|_| all.choose(rng).cloned()).collect()
    }

    /// Ops that must change nothing.
    fn false_ops(&self, villain: DeviceNo, rng: &mut StdRng) -> Vec<Vec<u8>> {
        let true_ops: Vec<_> = self.nodes[villain.0].disk.ops().map(<[u8]>::to_vec).collect();
        let Some(op) = true_ops.choose(rng) else { return Vec::new() };
        let mut forged = op.clone();
        let at = rng.random_range(0..forged.len());
        forged[at] ^= 1 << rng.random_range(0..8);
        let mut ops = vec![op.clone(), forged, op[..op.len() / 2].to_vec()];
        ops.extend(self.ops_of_nobody(villain, rng));
        ops
    }

    /// A true signature of an admin that root never named.
    fn ops_of_nobody(&self, villain: DeviceNo, rng: &mut StdRng) -> Option<Vec<u8>> {
        let identity = self.nodes[villain.0].disk.identity()?;
        let admin = AdminSecret::from_seed(rng.random());
        let author = Author::Admin(admin.public());
        let victim = self.nodes[0].disk.identity()?.id.public();
        let body = OpBody::Revoke {
            device: victim,
            reason: String::new(),
            knet_generation: 1,
            knet_hash: rng.random(),
        };
        let op = Op { author, seq: 1, prev: OpId::NONE, time: UnixTime(EPOCH), body };
        Some(SignedOp::sign_admin(&op, &admin, &identity.network).ok()?.signed().encode())
    }

    /// Datagrams of anybody, to whom they went, from where they came or from the villain.
    fn replay(&mut self, villain: DeviceNo, mutate: bool, rng: &mut StdRng) {
        let from = SocketAddr::from((self.net.address(self.nodes[villain.0].host), 41641));
        for _ in 0..40 {
            let Some(mut datagram) = self.recorded.pick(rng) else { return };
            if rng.random_ratio(1, 4) {
                datagram.from = from;
            }
            if mutate {
                mutate_bytes(&mut datagram.bytes, rng);
            }
            self.inject(datagram);
        }
    }

    pub(super) fn tell(&mut self, villain: DeviceNo, victim: DeviceNo, message: &Control) {
        if let Ok(bytes) = message.encode() {
            self.say(villain, victim, &bytes);
        }
    }

    fn say(&mut self, villain: DeviceNo, victim: DeviceNo, message: &[u8]) {
        if let Ok(packet) = encode_packet(message) {
            self.seal(villain, victim, &packet);
        }
    }

    /// Sends a packet in the villain's tunnel to the victim, whatever it is.
    fn seal(&mut self, villain: DeviceNo, victim: DeviceNo, packet: &[u8]) {
        let to = self.nodes[victim.0].status(self.now()).this.ipv6;
        let (node, now) = self.on(villain);
        let effect = node.seal(to, packet, now);
        self.take_effect(villain, effect.into_iter().collect());
    }
}

fn mutate_bytes(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    match rng.random_range(0..4) {
        0 => bytes.truncate(rng.random_range(0..=bytes.len())),
        1 => bytes.resize(rng.random_range(0..1472), 0),
        2 => bytes.truncate(*[0, 1, 3, 31].choose(rng).expect("it is not empty")),
        _ => {}
    }
    if !bytes.is_empty() {
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
    }
}

fn parse(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}
