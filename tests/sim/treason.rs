//! What a hostile member can do with keys, beside saying what it likes: fork its own log where root
//! made it an admin, write where everybody of the network can write, and use keys with which every secret is
//! zero.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use ginnel::identity::{AdminSecret, IdSecret, Identity, WgPublicKey, WgSecret};
use ginnel::membership::op::bind;
use ginnel::membership::{
    Author, Certificate, Flags, Invite, Op, OpBody, OpId, SignedOp, UnixTime,
};
use ginnel::wire::classify::{INITIATION_LEN, RESPONSE_LEN, sender_index};
use ginnel::wire::control::{Control, OpBytes, Ops};
use ginnel::wire::record::{
    Bell, Epoch, MAX_SPONSORS, Meeting, Record, RecordBody, Rendezvous, Ring, Seat, bell_epoch,
    device_epoch,
};
use rand::RngExt;
use rand::rngs::StdRng;

use super::acts::{invite, join, reaches};
use super::byzantine::Attack;
use super::clock::EPOCH;
use super::net::{NatKind, Weather};
use super::node::{Effect, PORT};
use super::recorded::Datagram;
use super::world::{DeviceNo, World};

/// Points of low order on Curve25519, in the encodings that differ in more than the top bit: 0, 1,
/// two of order 8, and p − 1, p, p + 1.
const LOW_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    point([1, 0], 0, [0, 0]),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    point([0xec, 0xff], 0xff, [0xff, 0x7f]),
    point([0xed, 0xff], 0xff, [0xff, 0x7f]),
    point([0xee, 0xff], 0xff, [0xff, 0x7f]),
];

const fn point(first: [u8; 2], middle: u8, last: [u8; 2]) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first[0];
    bytes[1] = first[1];
    bytes[30] = last[0];
    bytes[31] = last[1];
    bytes
}

/// Bytes of MAC1 and MAC2.
const MAC_LEN: usize = 16;

impl World {
    /// Root names the device an admin, and everybody hears of it. Its own mesh does not know the key.
    fn crown(&mut self, villain: DeviceNo) -> Option<AdminSecret> {
        let saved = self.nodes[0].disk.saved()?;
        let (root, ledger, network) = (saved.root?, saved.ledger?, saved.identity.network);
        let admin = AdminSecret::from_seed([villain.0 as u8; 32]);
        let device = self.nodes[villain.0].disk.identity()?.id.public();
        if !ledger.logs().admits(Author::Admin(admin.public())) {
            let body = OpBody::AdminAdd { admin: admin.public(), device };
            let op = ledger.next(Author::Root(root.public()), UnixTime(EPOCH), body).ok()?;
            let op = SignedOp::sign_root(&op, &root, &network).ok()?;
            self.checks.betrayed(op.id());
            let bytes = op.signed().encode();
            for device in (0..self.nodes.len()).map(DeviceNo) {
                self.tell_ops(villain, device, vec![bytes.clone()]);
            }
            // Nobody keeps ops of an admin that it does not know yet.
            self.run_for(Duration::from_secs(1));
        }
        Some(admin)
    }

    /// An admin writes two ops under one number: the victim hears of one, all others of the other.
    pub(super) fn fork(&mut self, villain: DeviceNo, victim: DeviceNo, rng: &mut StdRng) {
        let network = self.nodes[villain.0].mesh.network();
        let mut keys = || Invite::new(network, rng.random(), Vec::new()).keys();
        let until = UnixTime(EPOCH).plus(86_400);
        let open = [0, 1].map(|_| OpBody::InviteOpen(keys().open(until, false, None)));
        let close = [0, 1].map(|_| OpBody::InviteClose { invite: keys().id });
        // Past a fork only denials are written.
        if !self.fork_with(villain, victim, open) {
            self.fork_with(villain, victim, close);
        }
    }

    /// The same with these two acts. Whether it could sign them.
    fn fork_with(&mut self, villain: DeviceNo, victim: DeviceNo, bodies: [OpBody; 2]) -> bool {
        let Some(admin) = self.crown(villain) else { return false };
        let [one, other] = bodies.map(|body| self.next_op(villain, &admin, body));
        let (Some(one), Some(other)) = (one, other) else { return false };
        for device in (0..self.nodes.len()).map(DeviceNo) {
            let op = if device == victim { &one } else { &other };
            self.tell_ops(villain, device, vec![op.clone()]);
        }
        true
    }

    /// What the admin would write next, signed.
    fn next_op(&mut self, villain: DeviceNo, admin: &AdminSecret, body: OpBody) -> Option<Vec<u8>> {
        let saved = self.nodes[villain.0].disk.saved()?;
        let author = Author::Admin(admin.public());
        let op = saved.ledger?.next(author, UnixTime(EPOCH), body).ok()?;
        let signed = SignedOp::sign_admin(&op, admin, &saved.identity.network).ok()?;
        self.checks.betrayed(signed.id());
        Some(signed.signed().encode())
    }

    fn tell_ops(&mut self, villain: DeviceNo, device: DeviceNo, ops: Vec<Vec<u8>>) {
        let ops = ops.into_iter().map(OpBytes).collect();
        self.tell(villain, device, &Control::Ops(Ops { reply: None, ops }));
    }

    /// Writes with the last sequence number that there is whatever the keys of a member can write: the
    /// doorbell, the seats at invites, its own record; in this epoch and its neighbours.
    pub(super) fn write_at_the_end_of_time(&mut self, villain: DeviceNo, rng: &mut StdRng) {
        let Some(saved) = self.nodes[villain.0].disk.saved() else { return };
        let (Some(secret), Some(ledger)) = (saved.secret, saved.ledger) else { return };
        let (id, unix) = (saved.identity.id, self.unix_now());
        let nowhere = [SocketAddr::from(([198, 51, 100, 9], 9))];
        let others = self.nodes.iter().filter_map(|node| node.disk.identity());
        let rings: Vec<Ring> = others
            .map(|identity| Ring {
                device: identity.id.public(),
                at: unix,
                endpoints: nowhere.to_vec(),
            })
            .collect();
        let around = |Epoch(epoch)| [epoch - 1, epoch, epoch + 1].map(Epoch);
        let mut items = Vec::new();
        for epoch in around(bell_epoch(&secret, unix).epoch) {
            items.push(Bell::seal(&secret, epoch, rings.clone(), i64::MAX, rng.random()));
        }
        let body = RecordBody { endpoints: nowhere.to_vec(), ..RecordBody::default() };
        for epoch in around(device_epoch(&id.public(), &secret, unix).epoch) {
            items.push(Record::seal(&id, &secret, epoch, (&body, i64::MAX), rng.random()));
        }
        for op in ledger.logs().iter() {
            let OpBody::InviteOpen(open) = &op.op().body else { continue };
            let rv = Rendezvous::new(open.rv);
            for seat in (0..MAX_SPONSORS).map(Seat::Sponsor).chain([Seat::Joiner]) {
                let wg = (seat != Seat::Joiner).then(|| saved.identity.wg.public());
                items.push(Meeting::seal(&rv, seat, (wg, &nowhere), i64::MAX, rng.random()));
            }
        }
        self.take_effect(villain, items.into_iter().map(Effect::Publish).collect());
    }

    /// Handshake messages with a right MAC1 whose ephemeral keys have low order, and a certificate of
    /// such a tunnel key.
    pub(super) fn use_low_order(&mut self, villain: DeviceNo, victim: DeviceNo, rng: &mut StdRng) {
        let Some(identity) = self.nodes[victim.0].disk.identity() else { return };
        let (receiver, host) = (identity.wg.public(), self.nodes[victim.0].host);
        let from = SocketAddr::from((self.net.address(self.nodes[villain.0].host), PORT));
        let to = SocketAddr::from((self.net.address(host), PORT));
        for mut point in LOW_ORDER {
            point[31] |= u8::from(rng.random::<bool>()) << 7;
            let asked = self.recorded.pick(rng).and_then(|seen| sender_index(&seen.bytes));
            let indexes = [[7, 0, 0, 0], asked.unwrap_or(7).to_le_bytes()].concat();
            let answer = handshake(2, &indexes, &point, &receiver);
            let initiation = handshake(1, &rng.random::<[u8; 4]>(), &point, &receiver);
            for bytes in [initiation, answer] {
                self.inject(Datagram { host, from, to, bytes });
            }
            let Some(admin) = self.crown(villain) else { continue };
            let Some(identity) = self.nodes[villain.0].disk.identity() else { continue };
            let mut body = grant(&identity, WgPublicKey(point), "low");
            let own = identity.wg.public();
            if let OpBody::Grant(certificate) = &mut body {
                certificate.wg = own;
            }
            let author = Author::Admin(admin.public());
            let op = Op { author, seq: 1, prev: OpId::NONE, time: UnixTime(EPOCH), body };
            // What makes ops refuses this one, so the key is put in afterwards.
            let mut bytes = op.encode().expect("it is short enough");
            let at = bytes.windows(32).position(|key| key == own.0).expect("it is in there");
            bytes[at..at + 32].copy_from_slice(&point);
            let signature = admin.sign("op", &identity.network, &bytes);
            self.tell_ops(villain, victim, vec![SignedOp { bytes, signature }.encode()]);
        }
    }
}

/// A certificate for these keys of one device.
fn grant(of: &Identity, wg: WgPublicKey, name: &str) -> OpBody {
    let time = UnixTime(EPOCH);
    OpBody::Grant(Box::new(Certificate {
        id: of.id.public(),
        wg,
        name: name.parse().expect("a label"),
        ipv4: None,
        groups: Vec::new(),
        routes: Vec::new(),
        flags: Flags::default(),
        not_before: time,
        not_after: time.plus(86_400),
        invite: None,
        bind_sig: bind(&of.id, &wg, &of.network),
    }))
}

/// A handshake message with these indexes and this ephemeral key, and a MAC1 that holds.
fn handshake(kind: u8, indexes: &[u8], ephemeral: &[u8; 32], receiver: &WgPublicKey) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], indexes, ephemeral].concat();
    message.resize(if kind == 1 { INITIATION_LEN } else { RESPONSE_LEN }, 0xa5);
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver.0).finalize();
    let at = message.len() - 2 * MAC_LEN;
    let mut mac = Blake2sMac::<U16>::new_from_slice(&key).expect("32 bytes are a key");
    mac.update(&message[..at]);
    message[at..at + MAC_LEN].copy_from_slice(&mac.finalize().into_bytes());
    message[at + MAC_LEN..].fill(0);
    message
}

/// A founder, a member that is hostile, and three more.
fn court(seed: u64) -> (World, DeviceNo, [DeviceNo; 4]) {
    let mut world = World::new(seed, Weather::FAIR);
    let (founder, _) = world.create(None, "founder");
    let others = ["traitor", "a", "b", "c"].map(|name| {
        let token = invite(&mut world, founder);
        let site = world.net.site(NatKind::PORT_RESTRICTED);
        join(&mut world, Some(site), name, &token)
    });
    // Neighbours were looked for once more.
    world.run_for(Duration::from_secs(40));
    (world, founder, others)
}

/// The names of those whom a device takes for members, itself left out.
fn known(world: &World, device: DeviceNo) -> Vec<String> {
    let mut names: Vec<_> = world.nodes[device.0]
        .status(world.now())
        .peers
        .iter()
        .map(|peer| peer.name.clone())
        .collect();
    names.sort();
    names
}

#[test]
fn an_admin_that_forks_its_log_makes_all_others_hold_both_branches_and_count_only_denials() {
    let (mut world, founder, [traitor, a, b, c]) = court(31);
    let identity = |device: DeviceNo| world.nodes[device.0].disk.identity().expect("it joined");
    let (c_id, network) = (identity(c).id.public(), identity(c).network);
    let (id, wg) = (IdSecret::from_seed([9; 32]), WgSecret::from_bytes([9; 32]));
    let wg_public = wg.public();
    let friend = Identity { network, id, wg, admin: None };
    let denial = OpBody::Revoke {
        device: c_id,
        reason: "treason".into(),
        knet_generation: 9,
        knet_hash: [9; 32],
    };
    assert!(world.fork_with(traitor, a, [grant(&friend, wg_public, "friend"), denial]));
    let knows = |world: &World, device: DeviceNo, name: &str| {
        known(world, device).iter().any(|known| known == name)
    };
    let second = Duration::from_secs(1);
    assert!(world.run_until(second, |world| knows(world, a, "friend") && !knows(world, b, "c")));
    let honest = [founder, a, b];
    let equal = world.run_until(Duration::from_secs(60), |world| {
        let digest = |device: &DeviceNo| world.nodes[device.0].mesh.digest();
        honest.iter().all(|device| digest(device) == digest(&founder))
    });
    assert!(equal, "not all hold both branches");
    assert_eq!(known(&world, founder), ["a", "b", "traitor"]);
    assert_eq!(known(&world, a), ["b", "founder", "traitor"]);
    assert_eq!(known(&world, b), ["a", "founder", "traitor"]);
}

#[test]
fn a_member_that_is_made_an_admin_keeps_its_tunnels() {
    let (mut world, founder, [_, promoted, ..]) = court(34);
    let address = world.nodes[promoted.0].status(world.now()).this.ipv6;
    let slot = |world: &World| world.nodes[founder.0].slot_of(address).expect("they are connected");
    let before = slot(&world);
    assert!(world.crown(promoted).is_some());
    world.run_for(Duration::from_secs(5));
    assert!(Arc::ptr_eq(&before.tunnel, &slot(&world).tunnel));
}

#[test]
fn what_all_members_can_write_at_the_end_of_time_keeps_nobody_from_the_others() {
    let (mut world, _, [traitor, a, b, _]) = court(32);
    world.attack(traitor, a, Attack::EndOfTime, 1);
    world.run_for(Duration::from_secs(5));
    // Both are elsewhere at once, and nobody else is there to tell one of the other.
    let far = world.elapsed() + Duration::from_secs(3600);
    for node in 0..world.nodes.len() {
        if ![a, b].contains(&DeviceNo(node)) {
            world.net.cut(world.nodes[node].host, far);
        }
    }
    for device in [a, b] {
        let site = world.net.site(NatKind::PORT_RESTRICTED);
        world.net.move_host(world.nodes[device.0].host, Some(site));
        world.forget_addresses(device);
        world.crash_and_restart(device);
    }
    assert!(reaches(&mut world, a, b, Duration::from_secs(30)));
    assert!(reaches(&mut world, b, a, Duration::from_secs(2)));
}

#[test]
fn keys_of_low_order_are_refused_wherever_they_come() {
    let (mut world, _, [traitor, a, ..]) = court(33);
    world.crown(traitor);
    let digest = world.nodes[a.0].mesh.digest();
    world.attack(traitor, a, Attack::LowOrder, 1);
    world.run_for(Duration::from_secs(5));
    let drops = world.nodes[a.0].drops();
    assert!(drops.iter().any(|(why, count)| *why == "low-order-key" && *count >= 7), "{drops:?}");
    assert_eq!(world.nodes[a.0].mesh.digest(), digest, "no certificate was taken");
    assert!(reaches(&mut world, a, DeviceNo(0), Duration::from_secs(2)));
}
