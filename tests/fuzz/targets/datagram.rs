//! What arrives at the UDP socket: `datagram` up to what goes to the TUN or to `mesh`, `handshake`
//! what `mesh` then does with a handshake message.

use std::cell::RefCell;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use blake2::digest::{KeyInit, Mac, consts::U16};
use blake2::{Blake2s256, Blake2sMac, Digest};
use ginnel::forward::coalesce::Merge;
use ginnel::forward::ecn::Ecn;
use ginnel::forward::ingress::{Ingress, Run};
use ginnel::forward::packet::{Header, is_special};
use ginnel::forward::segment::VnetHeader;
use ginnel::forward::tunnel::{Initiation, SEAL_OVERHEAD};
use ginnel::forward::{
    Carries, DropCounters, ForwardingTable, HandshakeGuard, LocalAddresses, PeerSlot, Shared,
    SlotIndex, Tunnel, Upcall, Upcalls,
};
use ginnel::identity::{WgPublicKey, WgSecret};
use ginnel::wire::classify::{
    Class, INITIATION_LEN, RESPONSE_LEN, classify, counter, ephemeral_key, receiver_index,
    sender_index,
};
use ginnel::wire::control::{Control, MAX_MESSAGE};
use ginnel::wire::stun::Envelope;

use super::packets::{build, joined};
use super::{Source, messages, said};

/// Inputs after which the sessions are made anew: a hundred seconds of [`STEP`]s, before one is old.
const SESSION_INPUTS: u32 = 20_000;

/// How far the time moves with each input: some handshakes are within their rate, some are not.
const STEP: Duration = Duration::from_millis(5);

/// The longest inner packet that is sealed: more than an MTU.
const MAX_INNER: usize = 2_000;

/// Bytes of MAC1 and of MAC2.
const MAC_LEN: usize = 16;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// A device with two peers that have sessions: the first may send user data, the second control
/// messages only.
struct World {
    me: WgSecret,
    table: ForwardingTable,
    guard: HandshakeGuard,
    drops: DropCounters,
    upcalls: Upcalls,
    ingress: Ingress,
    /// The peers' ends.
    peers: [Tunnel; 2],
    /// Handshake messages of the first peer that hold, an initiation and an answer to ours.
    true_ones: [Vec<u8>; 2],
    now: Instant,
    inputs: u32,
}

fn secret(byte: u8) -> WgSecret {
    WgSecret::from_bytes([byte; 32])
}

fn own() -> LocalAddresses {
    LocalAddresses {
        ipv4: Some((Ipv4Addr::new(10, 0, 0, 1), 16)),
        ipv6: Some((Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), 48)),
        routes: vec![(Ipv4Addr::new(192, 168, 9, 0).into(), 24)],
    }
}

/// The first peer's addresses.
fn allowed() -> Vec<(IpAddr, u8)> {
    vec![
        (Ipv4Addr::new(10, 0, 0, 2).into(), 32),
        (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into(), 128),
        (Ipv4Addr::new(192, 168, 7, 0).into(), 24),
    ]
}

fn from(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 41_641))
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let me = secret(1);
        let mut slots = Vec::new();
        let mut peers = Vec::new();
        for (index, carries) in [(1, Carries::Everything), (2, Carries::ControlOnly)] {
            let other = secret(index + 1);
            let number = SlotIndex(index.into());
            let tunnel = Tunnel::new(&me, &other.public(), number).expect("no low-order key");
            let peer = Tunnel::new(&other, &me.public(), SlotIndex(7)).expect("no low-order key");
            let slot = PeerSlot::new(number, tunnel, allowed(), carries, now);
            slot.set_endpoint(Some(from(2)));
            slots.push(Arc::new(slot));
            peers.push(peer);
        }
        let mut true_ones = [Vec::new(), Vec::new()];
        for (slot, peer) in slots.iter().zip(&mut peers) {
            let mut tunnel = slot.tunnel.lock();
            let initiation = peer.initiate(now);
            shake(peer, &mut tunnel, &initiation, now);
            let ours = tunnel.initiate(now);
            let mut answers = Vec::new();
            peer.handle_handshake(&ours, &mut answers, now).expect("it holds");
            if true_ones[0].is_empty() {
                true_ones = [initiation, answers.remove(0)];
            }
        }
        Self {
            table: ForwardingTable::new(slots).with_local(own()),
            guard: HandshakeGuard::new(&[&me], now),
            me,
            drops: DropCounters::default(),
            upcalls: Upcalls::default(),
            ingress: Ingress::new(Merge::TcpAndUdp),
            peers: peers.try_into().unwrap_or_else(|_| unreachable!("two peers")),
            true_ones,
            now,
            inputs: 0,
        }
    }

    /// Runs `work` on the world of this thread.
    fn with(work: impl FnOnce(&mut Self)) {
        WORLD.with_borrow_mut(|world| {
            world.take_if(|world| world.inputs >= SESSION_INPUTS);
            let world = world.get_or_insert_with(Self::new);
            world.inputs += 1;
            world.now += STEP;
            work(world);
        });
    }

    /// Receives one run; the frames that come of it.
    fn receive(&mut self, bytes: &[u8], stride: usize) -> Vec<Vec<u8>> {
        let run = Run { from: from(3), ecn: Ecn::NotEct, bytes, stride };
        let mut frames = Vec::new();
        let mut write = |parts: &[IoSlice<'_>]| frames.push(joined(parts));
        let mut shared = Shared {
            table: &self.table,
            guard: &self.guard,
            drops: &self.drops,
            upcalls: &mut self.upcalls,
        };
        self.ingress.handle_run(run, &mut shared, &mut write, self.now);
        self.ingress.flush(&mut write);
        self.ingress.drain_replies().for_each(drop);
        for upcall in self.upcalls.drain() {
            check_upcall(&upcall);
        }
        frames
    }

    fn seal(&mut self, peer: usize, inner: &[u8]) -> Vec<u8> {
        let inner = &inner[..inner.len().min(MAX_INNER)];
        self.peers[peer].seal_to_vec(inner, self.now).expect("the session is young")
    }

    /// Authentic datagrams that came from both peers.
    fn authentic(&self) -> u64 {
        let slots = [1, 2].map(|index| self.table.slot(SlotIndex(index)).expect("two slots"));
        slots.iter().map(|slot| slot.stats.rx_packets.load(Relaxed)).sum()
    }
}

/// Carries `initiation` of `a` to its end.
fn shake(a: &mut Tunnel, b: &mut Tunnel, initiation: &[u8], now: Instant) {
    let (mut answers, mut confirmations) = (Vec::new(), Vec::new());
    b.handle_handshake(initiation, &mut answers, now).expect("a true initiation");
    a.handle_handshake(&answers[0], &mut confirmations, now).expect("a true answer");
    b.open_into(&confirmations[0], &mut [0; 256], now).expect("a true keepalive");
}

/// What goes up to `mesh` is what its kind says, and bounded.
fn check_upcall(upcall: &Upcall) {
    match upcall {
        Upcall::Datagram { bytes, .. } => {
            assert_eq!(classify(bytes), Class::Stun);
            let _ = Envelope::peek(bytes);
        }
        Upcall::Handshake { bytes, .. } => assert!(bytes.len() <= INITIATION_LEN),
        Upcall::Control { bytes, .. } => {
            assert!(bytes.len() <= MAX_MESSAGE);
            let _ = Control::decode(bytes);
        }
        Upcall::NoSession { .. } => panic!("nothing is sent here"),
        Upcall::Roamed { .. } | Upcall::Awake { .. } => {}
    }
}

/// What goes to the TUN comes from an address of the first peer, and for us.
fn check_frames(frames: &[Vec<u8>]) {
    let own = own();
    for frame in frames {
        let (_, packet) = VnetHeader::decode(frame).expect("a frame has its offload header");
        let header = Header::parse(packet).expect("only whole packets");
        assert!(allowed().iter().any(|(prefix, len)| match (header.source, prefix) {
            (IpAddr::V4(a), IpAddr::V4(b)) =>
                a.to_bits() >> (32 - len) == b.to_bits() >> (32 - len),
            (source, prefix) => source == *prefix,
        }));
        assert!(own.owns(header.destination));
        assert!(!is_special(header.source) && !is_special(header.destination));
    }
}

/// One run of datagrams. The first byte says from whom, the second how they are cut.
pub fn datagram(data: &[u8]) {
    World::with(|world| {
        let mut source = Source(data);
        let (mode, detail) = (source.byte(), source.byte());
        let rest = source.rest();
        let before = world.authentic();
        match mode % 8 {
            0 => {
                read_fields(rest);
                let frames = world.receive(rest, rest.len());
                check_frames(&frames);
            }
            1 => check_frames(&world.receive(rest, usize::from(detail) + 1)),
            2 => {
                let sealed = world.seal(0, rest);
                let frames = world.receive(&sealed, sealed.len());
                check_frames(&frames);
                assert_eq!(world.authentic(), before + u64::from(is_whole(rest)));
                assert!(world.receive(&sealed, sealed.len()).is_empty(), "a replay");
            }
            3 => {
                let sealed = world.seal(1, rest);
                assert!(world.receive(&sealed, sealed.len()).is_empty(), "control only");
            }
            4 => {
                let mut sealed = world.seal(usize::from(detail & 1), rest);
                let at = usize::from(detail) % sealed.len();
                sealed[at] ^= (detail >> 1) | 1;
                assert!(world.receive(&sealed, sealed.len()).is_empty(), "a forgery");
                assert_eq!(world.authentic(), before);
            }
            5 => {
                let len = usize::from(detail) * 6 + 1;
                let sealed: Vec<_> =
                    rest.chunks(len).take(32).map(|inner| world.seal(0, inner)).collect();
                let sealed = sealed.concat();
                let frames = world.receive(&sealed, len.next_multiple_of(16) + SEAL_OVERHEAD);
                check_frames(&frames);
            }
            6 => {
                let message = with_mac1(&world.me, detail, rest);
                assert!(world.receive(&message, message.len()).is_empty());
            }
            _ => {
                let index = (u32::from(detail & 3) << 8 | u32::from(detail >> 2)).to_le_bytes();
                let transport = [&[4, 0, 0, 0][..], &index, rest].concat();
                assert!(world.receive(&transport, transport.len()).is_empty(), "not sealed");
                assert_eq!(world.authentic(), before);
            }
        }
    });
}

/// Every field that is read before anything is authentic.
fn read_fields(datagram: &[u8]) {
    let class = classify(datagram);
    assert_eq!(receiver_index(datagram).is_some(), {
        matches!(class, Class::Response | Class::CookieReply | Class::Transport)
    });
    assert_eq!(sender_index(datagram).is_some(), {
        matches!(class, Class::Initiation | Class::Response)
    });
    assert_eq!(ephemeral_key(datagram).is_some(), sender_index(datagram).is_some());
    assert_eq!(counter(datagram).is_some(), class == Class::Transport);
}

/// Whether a tunnel takes this for an inner packet: nothing is a keepalive, and what is longer than
/// its header says is padding.
fn is_whole(inner: &[u8]) -> bool {
    let inner = &inner[..inner.len().min(MAX_INNER)];
    let mut padded = inner.to_vec();
    padded.resize(inner.len().next_multiple_of(16), 0);
    let said = |at: usize| usize::from(u16::from_be_bytes([padded[at], padded[at + 1]]));
    match padded.first().map(|first| first >> 4) {
        None => true,
        Some(4) if padded.len() >= 20 => (20..=padded.len()).contains(&said(2)),
        Some(6) if padded.len() >= 40 => said(4) + 40 <= padded.len(),
        Some(_) => false,
    }
}

/// A handshake message with a right MAC1: an initiation or an answer.
fn with_mac1(to: &WgSecret, kind: u8, body: &[u8]) -> Vec<u8> {
    let (first, len) = if kind & 1 == 0 { (1, INITIATION_LEN) } else { (2, RESPONSE_LEN) };
    let mut message = vec![0; len];
    message[0] = first;
    let taken = body.len().min(len - 4 - 2 * MAC_LEN);
    message[4..4 + taken].copy_from_slice(&body[..taken]);
    set_mac1(&mut message, &to.public());
    message
}

fn set_mac1(message: &mut [u8], receiver: &WgPublicKey) {
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver.0).finalize();
    let at = message.len() - 2 * MAC_LEN;
    let mut mac = Blake2sMac::<U16>::new_from_slice(&key).expect("32 bytes are a key");
    mac.update(&message[..at]);
    message[at..at + MAC_LEN].copy_from_slice(&mac.finalize().into_bytes());
}

/// One handshake message past the guard: made up, or a true one with some bytes changed.
pub fn handshake(data: &[u8]) {
    World::with(|world| {
        let mut source = Source(data);
        let kind = source.byte();
        let mut message = match kind % 3 {
            0 => with_mac1(&world.me, kind >> 2, source.0),
            1 => world.true_ones[usize::from(kind >> 2 & 1)].clone(),
            _ => [&[3, 0, 0, 0][..], source.take(60)].concat(),
        };
        if kind % 3 == 1 {
            while !source.0.is_empty() {
                let at = usize::from(source.byte()) % message.len();
                message[at] ^= source.byte();
            }
            set_mac1(&mut message, &world.me.public());
        }
        let changed = !world.true_ones.iter().any(|one| signed(one) == signed(&message));
        let named = Initiation::read(&world.me, &message).map(|read| read.names());
        assert!(named.is_none() || message.len() == INITIATION_LEN);
        // A stranger's initiation costs the tunnel as much as it cost to see that it is one.
        if named.is_none() && message.len() == INITIATION_LEN && !said::seldom() {
            return;
        }
        let slot = world.table.slot(SlotIndex(1)).expect("two slots").clone();
        let mut answers = Vec::new();
        let outcome = slot.tunnel.lock().handle_handshake(&message, &mut answers, world.now);
        assert!(outcome.is_err() || !changed, "{outcome:?} from a message that nobody made");
        assert!(answers.len() <= 8);
    });
}

/// A handshake message without what only the MACs cover, and so whoever knows the receiver's public
/// key can change: the index that its sender gave the session, in bytes 4 to 8.
fn signed(message: &[u8]) -> Option<(&[u8], &[u8])> {
    Some((message.get(..4)?, message.get(8..message.len().checked_sub(2 * MAC_LEN)?)?))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut inners = vec![
        build("10.0.0.2", "10.0.0.1", 6, b"some payload"),
        build("fd00::2", "fd00::1", 17, b"some payload"),
        build("192.168.7.9", "192.168.9.1", 17, b"behind both"),
        build("10.0.0.3", "10.0.0.1", 6, b"of somebody else"),
        build("fe80::1", "fd00::1", 17, b"link-local"),
    ];
    inners.extend(messages::every_message().iter().filter_map(|message| message.to_packet().ok()));
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for inner in &inners {
        seeds.extend([2, 3, 4].map(|mode| [&[mode, 20][..], inner].concat()));
    }
    let run: Vec<u8> = (0..4).flat_map(|_| inners[0].iter().copied()).collect();
    seeds.push([&[5, (inners[0].len() / 6) as u8][..], &run].concat());
    for len in [0, 1, 3, 31, 32, 64, 92, 148] {
        for first in 1..7 {
            let mut raw = vec![0; len];
            raw.iter_mut().take(1).for_each(|byte| *byte = first);
            seeds.push([&[0, 0][..], &raw].concat());
        }
    }
    let check = super::stun::request();
    seeds.push([&[0, 0][..], &check].concat());
    seeds.push([&[1, check.len() as u8 - 1][..], &check, &check].concat());
    seeds.extend([6, 7].map(|mode| [&[mode, 5][..], &[9; 116]].concat()));
    seeds
}

pub fn handshake_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [1, 5].map(|kind| vec![kind]).to_vec();
    seeds.extend([1, 5].map(|kind| vec![kind, 40, 1]));
    seeds.extend([0, 3, 4].map(|kind| [&[kind][..], &[7; 112]].concat()));
    seeds.push([&[2][..], &[7; 60]].concat());
    seeds
}
