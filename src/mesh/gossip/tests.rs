//! Devices that exchange messages over links with a delay and loss, in virtual time, with real
//! signatures.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use rand::SeedableRng;

use super::neighbours::NEIGHBOURS;
use super::peer::BAD_OPS;
use super::*;
use crate::identity::{AdminSecret, IdSecret, NetworkId, RootSecret, Signature};
use crate::membership::invite::InviteId;
use crate::membership::{Op, OpBody, UnixTime};
use crate::mesh::rate::tests::start;
use crate::wire::control::{Goodbye, OpBytes, Reply, VERSION};

const NETWORK: NetworkId = NetworkId([9; 32]);

#[test]
fn an_op_of_any_device_reaches_all_others_at_once() {
    let mut net = Net::new(10, 0);
    net.connect_all();
    net.run(Duration::from_secs(5));
    net.sign(3, close(1));
    net.run(Duration::from_millis(30));
    net.assert_equal();
}

#[test]
fn devices_agree_in_spite_of_loss() {
    let mut net = Net::new(12, 20);
    net.connect_all();
    for n in 0..60 {
        let device = n % 12;
        net.sign(device, close(n as u8));
        net.run(Duration::from_millis(137));
    }
    net.run(Duration::from_secs(90));
    net.assert_equal();
    assert_eq!(net.devices[0].logs.len(), net.admins + 60);
}

#[test]
fn ops_travel_along_a_line_of_devices() {
    let mut net = Net::new(10, 0);
    for i in 0..9 {
        net.connect(i, i + 1);
    }
    net.sign(0, close(1));
    net.sign(9, revoke(2));
    net.run(Duration::from_secs(1));
    net.assert_equal();
}

#[test]
fn a_denial_reaches_online_devices_within_two_seconds_despite_loss() {
    let mut late = Vec::new();
    for seed in 0..20 {
        let mut net = Net::seeded(20, 5, seed);
        net.connect_all();
        net.run(Duration::from_secs(20));
        let at = net.now;
        net.sign(0, revoke(7));
        let digest = net.devices[0].logs.digest();
        while net.devices.iter().any(|device| device.logs.digest() != digest) {
            net.step();
        }
        late.push(net.now - at);
    }
    late.sort();
    println!("a revoke to 19 devices, 5 % loss: median {:?}, p95 {:?}", late[10], late[18]);
    assert!(late[18] <= Duration::from_secs(2), "{late:?}");
}

#[test]
fn a_partition_heals_when_one_link_comes_up() {
    let mut net = Net::new(6, 0);
    for (a, b) in [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5)] {
        net.connect(a, b);
    }
    for n in 0..50 {
        net.sign(0, close(n));
        net.sign(4, close(n));
    }
    net.run(Duration::from_secs(5));
    assert_ne!(net.devices[0].logs.digest(), net.devices[5].logs.digest());
    net.connect(2, 3);
    net.run(Duration::from_secs(5));
    net.assert_equal();
}

#[test]
fn both_branches_of_a_fork_reach_everybody() {
    let mut net = Net::new(6, 5);
    net.connect_all();
    for n in 0..10 {
        net.sign(0, close(n));
    }
    net.run(Duration::from_secs(10));
    // The admin of device 0 writes on from its second op, once with one more and once with a
    // longer branch, and shows each branch to one device only.
    let author = net.author(0);
    let prev = net.devices[0].logs.after(author, 3).next().unwrap().op().clone();
    let short = net.op_at(0, 4, OpId(prev_id(&net, author, 3).0), close(100));
    let long = net.chain_from(0, 4, prev_id(&net, author, 3), 40);
    assert_eq!(prev.seq, 3);
    net.give(1, vec![short]);
    net.give(2, long);
    net.run(Duration::from_secs(240));
    net.assert_equal();
    assert!(net.devices[5].logs.is_forked(author));
}

#[test]
fn a_revocation_past_a_hole_reaches_everybody() {
    let mut net = Net::new(4, 0);
    net.connect_all();
    net.run(Duration::from_secs(2));
    // Nobody has ops 2 to 8 of that log, nor ever will.
    let orphan = net.op_at(1, 9, OpId([5; 32]), revoke(1));
    net.give(1, vec![orphan]);
    net.run(Duration::from_secs(5));
    net.assert_equal();
}

#[test]
fn a_late_device_fetches_five_thousand_ops_without_being_limited() {
    let mut net = Net::new(3, 1);
    net.connect(0, 1);
    for n in 0..5000u32 {
        net.sign_quietly(0, close((n % 251) as u8));
    }
    net.copy_logs(0, 1);
    net.run(Duration::from_secs(2));
    let (at, sent) = (net.now, net.bytes);
    net.connect(0, 2);
    net.connect(1, 2);
    while net.devices[2].logs.digest() != net.devices[0].logs.digest() {
        net.step();
        assert!(net.now - at < Duration::from_secs(60), "{} ops", net.devices[2].logs.len());
    }
    println!(
        "5,000 ops from two peers, 20 ms, 1 % loss: {:?}, {} KiB sent by all",
        net.now - at,
        (net.bytes - sent) / 1024
    );
    let dropped: Vec<u64> = net.devices.iter().map(|device| device.gossip.dropped()).collect();
    assert_eq!(dropped, [0, 0, 0]);
}

#[test]
fn idle_devices_hardly_speak() {
    let mut net = Net::new(11, 0);
    net.connect_all();
    for n in 0..5 {
        net.sign(n, close(1));
    }
    net.run(Duration::from_secs(3600));
    let (messages, bytes) = (net.messages, net.bytes);
    net.run(Duration::from_secs(3600));
    let (messages, bytes) = (net.messages - messages, net.bytes - bytes);
    // Each message may be the only traffic of its tunnel: then WireGuard shakes hands before it
    // (148 + 92 + 32 bytes and three UDP headers) and answers it with a keepalive (32 + 28).
    let worst = bytes + messages * (148 + 92 + 32 + 3 * 28 + 32 + 28);
    println!(
        "idle, 10 peers: {} messages and {} bytes an hour sent by each device, {} with handshakes",
        messages / 11,
        bytes / 11,
        worst / 11
    );
    assert!(messages / 11 <= 15, "{messages}");
    assert!(worst / 11 <= 20_000, "{worst}");
}

#[test]
fn the_first_message_on_a_tunnel_is_the_head_vector() {
    let mut net = Net::new(2, 0);
    net.sign_quietly(0, close(1));
    let (peer, now) = (net.devices[1].id, net.now);
    let device = &mut net.devices[0];
    device.gossip.peer_up(peer, &device.logs, now);
    let (to, message) = device.gossip.poll_transmit().unwrap();
    let Control::Heads(heads) = message else { panic!("{message:?}") };
    assert_eq!(to, peer);
    assert_eq!(heads.entries.len(), 2);
    assert_eq!(heads.digest, device.logs.digest());
}

#[test]
fn heads_are_asked_for_again_until_they_come_and_not_for_ever() {
    let mut net = Net::new(2, 100);
    net.connect(0, 1);
    net.run(Duration::from_secs(29));
    assert_eq!(net.messages, 10, "five tries each");
    assert!(!net.devices[0].gossip.is_compared(&net.devices[1].id));
}

#[test]
fn a_tunnel_counts_as_compared_once_nothing_is_missing() {
    let mut net = Net::new(2, 0);
    for n in 0..100 {
        net.sign_quietly(0, close(n));
    }
    net.connect(0, 1);
    let peer = net.devices[0].id;
    while net.devices[1].logs.len() < net.admins + 100 {
        assert!(!net.devices[1].gossip.is_compared(&peer));
        net.step();
    }
    assert!(net.devices[1].gossip.is_compared(&peer));
}

#[test]
fn a_peer_that_has_more_and_does_not_tell_it_never_counts_as_compared() {
    let mut net = Net::new(2, 0);
    for n in 0..100 {
        net.sign_quietly(0, close(n));
    }
    net.connect(0, 1);
    net.deaf = Some(0);
    let peer = net.devices[0].id;
    let end = net.now + Duration::from_secs(300);
    while net.now < end {
        net.step();
        assert!(!net.devices[1].gossip.is_compared(&peer));
    }
}

#[test]
fn a_silent_source_is_replaced_by_another() {
    let mut net = Net::new(3, 0);
    for n in 0..200 {
        net.sign_quietly(0, close(n));
    }
    net.copy_logs(0, 1);
    net.connect(0, 2);
    net.connect(1, 2);
    // Device 0 tells its heads and answers no fetch.
    net.deaf = Some(0);
    net.run(Duration::from_secs(10));
    assert_eq!(net.devices[2].logs.digest(), net.devices[1].logs.digest());
}

#[test]
fn more_than_eight_peers_make_eight_neighbours_that_change() {
    let mut net = Net::new(20, 0);
    net.connect_all();
    net.run(Duration::from_secs(1));
    let before = net.neighbours(0);
    assert_eq!(before.len(), NEIGHBOURS);
    net.run(Duration::from_secs(1900));
    let after = net.neighbours(0);
    assert_eq!(after.len(), NEIGHBOURS);
    assert!((1..=3).contains(&after.difference(&before).count()));
    let gone = *after.first().unwrap();
    let (device, now) = (&mut net.devices[0], net.now);
    device.gossip.peer_down(&gone, &device.logs, now);
    assert_eq!(net.neighbours(0).len(), NEIGHBOURS);
    assert!(!net.neighbours(0).contains(&gone));
}

#[test]
fn ops_that_do_not_verify_silence_their_sender_for_a_while() {
    let mut net = Net::new(2, 0);
    net.connect(0, 1);
    net.run(Duration::from_secs(1));
    let forged = |n: u8| {
        let mut op = net.op_at(0, 50, OpId([n + 1; 32]), close(n)).signed().clone();
        op.signature = Signature([n; 64]);
        OpBytes(op.encode())
    };
    let forged: Vec<OpBytes> = (0..40).map(forged).collect();
    let (from, now) = (net.devices[0].id, net.now);
    let device = &mut net.devices[1];
    let mut looked_at = 0;
    for op in forged {
        let message = Control::Ops(Ops { reply: None, ops: vec![op] });
        for op in device.gossip.handle(from, &message, &device.logs, now) {
            looked_at += 1;
            assert!(op.verify(&NETWORK).is_err());
            device.gossip.refused(&from, now);
        }
    }
    assert_eq!(looked_at, BAD_OPS as usize + 1);
    // It is heard again later.
    net.run(Duration::from_secs(120));
    net.sign(0, close(3));
    net.run(Duration::from_secs(1));
    net.assert_equal();
}

#[test]
fn garbage_and_inventions_of_a_peer_cost_little() {
    let mut net = Net::new(2, 0);
    net.connect(0, 1);
    net.run(Duration::from_secs(1));
    let from = net.devices[0].id;
    let entry = |n: u8, seq| HeadEntry {
        author: AuthorTag([n; 8]),
        seq,
        head: [n; 8],
        aside: n.is_multiple_of(2).then_some([n; 8]),
    };
    let root = AuthorTag::of(&Author::Root(net.root.public()));
    let messages = [
        Control::Heads(Heads {
            digest: [1; 8],
            ask: false,
            entries: (0..33).map(|n| entry(n, u64::MAX)).collect(),
        }),
        Control::Heads(Heads {
            digest: [2; 8],
            ask: true,
            entries: vec![HeadEntry { author: root, ..entry(4, u64::MAX) }],
        }),
        Control::Heads(Heads {
            digest: [3; 8],
            ask: true,
            entries: vec![HeadEntry { author: root, ..entry(4, 0) }],
        }),
        Control::Fetch(Fetch { author: AuthorTag([0xee; 8]), from: u64::MAX }),
        Control::Fetch(Fetch { author: root, from: 0 }),
        Control::Ops(Ops { reply: None, ops: vec![OpBytes(vec![7; 900]), OpBytes(Vec::new())] }),
        Control::Ops(Ops {
            reply: Some(Reply { author: root, index: 9, left: 0, next: u64::MAX, end: false }),
            ops: Vec::new(),
        }),
        Control::Goodbye(Goodbye::Down),
        Control::Unknown(200),
    ];
    let sent = net.messages;
    for _ in 0..60 {
        for message in &messages {
            let now = net.now;
            let device = &mut net.devices[1];
            assert!(device.gossip.handle(from, message, &device.logs, now).is_empty());
        }
        net.run(Duration::from_secs(1));
    }
    // 20 a second, of which the most are the empty answers to what it invents.
    assert!(net.messages - sent < 60 * 60, "{}", net.messages - sent);
    assert!(net.devices[1].gossip.gaps.is_empty() || net.devices[1].gossip.outbox.is_empty());
    net.sign(1, close(1));
    net.run(Duration::from_secs(90));
    net.assert_equal();
}

#[test]
fn a_flood_is_cut_to_the_rate_and_counted() {
    let mut net = Net::new(2, 0);
    net.connect(0, 1);
    net.run(Duration::from_secs(1));
    let (from, now) = (net.devices[0].id, net.now);
    let gossip = &mut net.devices[1].gossip;
    let heard = (0..10_000).filter(|_| gossip.admit(&from, 100, now)).count();
    assert!(heard <= 50);
    assert!(gossip.dropped() >= 9_950);
    assert!(!gossip.admit(&IdSecret::from_seed([99; 32]).public(), 1, now), "a stranger");
}

#[test]
fn a_message_from_a_device_without_a_proven_tunnel_does_nothing() {
    let mut net = Net::new(2, 0);
    let (stranger, now) = (net.devices[0].id, net.now);
    let device = &mut net.devices[1];
    let fetch = Control::Fetch(Fetch { author: AuthorTag([0; 8]), from: 1 });
    assert!(device.gossip.handle(stranger, &fetch, &device.logs, now).is_empty());
    assert!(device.gossip.poll_transmit().is_none());
    assert_eq!(VERSION, 1);
}

#[test]
fn an_answer_of_the_longest_ops_fits_its_packets() {
    let mut net = Net::new(1, 0);
    for n in 0..40 {
        let body = OpBody::Unknown { kind: 200, critical: false, bytes: vec![n; 900] };
        net.sign_quietly(0, body);
    }
    let author = net.author(0);
    let fetch = Fetch { author: AuthorTag::of(&author), from: 1 };
    let answer = serve::answer(&fetch, &net.devices[0].logs);
    let bytes: usize = answer.iter().flat_map(|part| &part.ops).map(|op| op.0.len()).sum();
    assert!(bytes <= serve::ANSWER_BYTES && bytes > serve::ANSWER_BYTES - 1100, "{bytes}");
    for (i, part) in answer.iter().enumerate() {
        assert!(Control::Ops(part.clone()).to_packet().is_ok());
        let reply = part.reply.unwrap();
        assert_eq!(usize::from(reply.index), i);
        assert_eq!(usize::from(reply.left), answer.len() - 1 - i);
        assert!(!reply.end);
    }
}

fn close(n: u8) -> OpBody {
    OpBody::InviteClose { invite: InviteId([n; 16]) }
}

fn revoke(n: u8) -> OpBody {
    OpBody::Revoke {
        device: IdSecret::from_seed([n; 32]).public(),
        reason: String::new(),
        knet_generation: 1,
        knet_hash: [0; 32],
    }
}

fn prev_id(net: &Net, author: Author, seq: u64) -> OpId {
    net.devices[0].logs.after(author, seq).next().unwrap().id()
}

struct Device {
    id: DeviceId,
    admin: AdminSecret,
    logs: Logs,
    gossip: Gossip,
    links: BTreeSet<usize>,
}

/// A message under way: when it arrives, its number, from whom, to whom, what.
type Flight = (Instant, u64, usize, usize, Vec<u8>);

/// Every device is an admin, up to 8; a message takes 10 ms.
struct Net {
    devices: Vec<Device>,
    root: RootSecret,
    admins: usize,
    loss_percent: u32,
    /// Fetches to this device get lost.
    deaf: Option<usize>,
    queue: BinaryHeap<Reverse<Flight>>,
    now: Instant,
    rng: StdRng,
    sent: u64,
    messages: u64,
    /// With padding, WireGuard, UDP and IPv4.
    bytes: u64,
}

impl Net {
    fn new(count: usize, loss_percent: u32) -> Self {
        Self::seeded(count, loss_percent, 1)
    }

    fn seeded(count: usize, loss_percent: u32, seed: u64) -> Self {
        let root = RootSecret::from_seed([200; 32]);
        let admins = count.min(8);
        let mut logs = Logs::new(root.public());
        for n in 0..admins {
            let admin = AdminSecret::from_seed([n as u8 + 1; 32]).public();
            let device = IdSecret::from_seed([n as u8 + 1; 32]).public();
            let body = OpBody::AdminAdd { admin, device };
            let op = logs.next_op(Author::Root(root.public()), UnixTime(1), body).unwrap();
            logs.insert(SignedOp::sign_root(&op, &root, &NETWORK).unwrap()).unwrap();
        }
        let device = |n: usize| Device {
            id: IdSecret::from_seed([n as u8 + 1; 32]).public(),
            admin: AdminSecret::from_seed([(n % admins) as u8 + 1; 32]),
            logs: logs.clone(),
            gossip: Gossip::new(root.public(), StdRng::seed_from_u64(seed * 1000 + n as u64)),
            links: BTreeSet::new(),
        };
        Self {
            devices: (0..count).map(device).collect(),
            root,
            admins,
            loss_percent,
            deaf: None,
            queue: BinaryHeap::new(),
            now: start(),
            rng: StdRng::seed_from_u64(seed),
            sent: 0,
            messages: 0,
            bytes: 0,
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        for (me, peer) in [(a, b), (b, a)] {
            let id = self.devices[peer].id;
            let device = &mut self.devices[me];
            device.links.insert(peer);
            device.gossip.peer_up(id, &device.logs, self.now);
            self.flush(me);
        }
    }

    fn connect_all(&mut self) {
        for a in 0..self.devices.len() {
            for b in 0..a {
                self.connect(a, b);
            }
        }
    }

    fn author(&self, device: usize) -> Author {
        Author::Admin(self.devices[device].admin.public())
    }

    /// The device's admin signs, into its own logs and to its neighbours. Devices past the eighth
    /// share their keys with others, and then only relay.
    fn sign(&mut self, device: usize, body: OpBody) {
        let device = device % self.admins;
        let id = self.sign_quietly(device, body);
        let now = self.now;
        let this = &mut self.devices[device];
        this.gossip.inserted(&[id], None, &this.logs, now);
        self.flush(device);
    }

    fn sign_quietly(&mut self, device: usize, body: OpBody) -> OpId {
        let author = self.author(device);
        let this = &mut self.devices[device];
        let op = this.logs.next_op(author, UnixTime(1), body).unwrap();
        let op = SignedOp::sign_admin(&op, &this.admin, &NETWORK).unwrap();
        let id = op.id();
        assert_eq!(this.logs.insert(op).unwrap(), crate::membership::log::Inserted::New);
        id
    }

    fn op_at(&self, device: usize, seq: u64, prev: OpId, body: OpBody) -> Verified<SignedOp> {
        let op = Op { author: self.author(device), seq, prev, time: UnixTime(1), body };
        SignedOp::sign_admin(&op, &self.devices[device].admin, &NETWORK).unwrap()
    }

    fn chain_from(
        &self,
        device: usize,
        seq: u64,
        mut prev: OpId,
        count: u64,
    ) -> Vec<Verified<SignedOp>> {
        let mut chain = Vec::new();
        for seq in seq..seq + count {
            let op = self.op_at(device, seq, prev, close(seq as u8));
            prev = op.id();
            chain.push(op);
        }
        chain
    }

    /// Puts ops into a device as if they came from elsewhere.
    fn give(&mut self, device: usize, ops: Vec<Verified<SignedOp>>) {
        let now = self.now;
        let this = &mut self.devices[device];
        let ids: Vec<OpId> = ops.iter().map(Verified::id).collect();
        for op in ops {
            this.logs.insert(op).unwrap();
        }
        this.gossip.inserted(&ids, None, &this.logs, now);
        self.flush(device);
    }

    fn copy_logs(&mut self, from: usize, to: usize) {
        let logs = self.devices[from].logs.clone();
        let ids: Vec<OpId> = logs.iter().map(Verified::id).collect();
        let now = self.now;
        let this = &mut self.devices[to];
        this.logs = logs;
        this.gossip.inserted(&ids, None, &this.logs, now);
        while this.gossip.poll_transmit().is_some() {}
    }

    fn flush(&mut self, from: usize) {
        while let Some((to, message)) = self.devices[from].gossip.poll_transmit() {
            let to = self.devices.iter().position(|device| device.id == to).unwrap();
            assert!(self.devices[from].links.contains(&to));
            let bytes = message.encode().unwrap();
            self.sent += 1;
            self.messages += 1;
            self.bytes += ((40 + bytes.len()).next_multiple_of(16) + 32 + 28) as u64;
            let deaf = self.deaf == Some(to) && matches!(message, Control::Fetch(_));
            if !deaf && self.rng.random_range(0..100) >= self.loss_percent {
                let at = self.now + Duration::from_millis(10);
                self.queue.push(Reverse((at, self.sent, from, to, bytes)));
            }
        }
    }

    fn next_at(&self) -> Option<Instant> {
        let timers = self.devices.iter().filter_map(|device| device.gossip.poll_timeout());
        let arrival = self.queue.peek().map(|Reverse((at, ..))| *at);
        timers.map(|(at, _)| at).chain(arrival).min()
    }

    /// To the next arrival or deadline.
    fn step(&mut self) {
        let Some(at) = self.next_at() else { return };
        self.now = self.now.max(at);
        let now = self.now;
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Reverse((_, _, from, to, bytes)) = self.queue.pop().unwrap();
            self.deliver(from, to, &bytes);
        }
        for n in 0..self.devices.len() {
            let device = &mut self.devices[n];
            if device.gossip.poll_timeout().is_some_and(|(at, _)| at <= now) {
                device.gossip.handle_timeout(&device.logs, now);
                let next = device.gossip.poll_timeout();
                assert!(next.is_none_or(|(at, _)| at > now), "busy loop: {next:?}");
                self.flush(n);
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let (sender, now) = (self.devices[from].id, self.now);
        let device = &mut self.devices[to];
        if !device.gossip.admit(&sender, bytes.len(), now) {
            return;
        }
        let message = Control::decode(bytes).unwrap();
        let ops = device.gossip.handle(sender, &message, &device.logs, now);
        let mut ids = Vec::new();
        let any = !ops.is_empty();
        for op in ops {
            let Ok(op) = op.verify(&NETWORK) else {
                device.gossip.refused(&sender, now);
                continue;
            };
            let id = op.id();
            if device.logs.insert(op) == Ok(crate::membership::log::Inserted::New) {
                ids.push(id);
            }
        }
        if any {
            device.gossip.inserted(&ids, Some(sender), &device.logs, now);
        }
        self.flush(to);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = end;
    }

    fn neighbours(&self, device: usize) -> BTreeSet<DeviceId> {
        self.devices[device].gossip.neighbours.iter().copied().collect()
    }

    fn assert_equal(&self) {
        let digest = self.devices[0].logs.digest();
        for (n, device) in self.devices.iter().enumerate() {
            let len = device.logs.len();
            assert_eq!(device.logs.digest(), digest, "device {n} with {len} ops");
        }
    }
}
