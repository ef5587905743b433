//! The packet path from its public face: two devices, frames in, frames out, hostile datagrams.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::coalesce::Merge;
use super::egress::Egress;
use super::ingress::{Ingress, Run};
use super::packet::tests::build;
use super::packet::{TCP, UDP, wrap_control};
use super::segment::VnetHeader;
use super::segment::tests::{split_all, super_packet};
use super::tunnel::tests::{secret, shake};
use super::*;
use crate::identity::WgSecret;

const A: (&str, &str) = ("10.0.0.1", "fd00::1");
const B: (&str, &str) = ("10.0.0.2", "fd00::2");

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 41_641))
}

/// One device with one peer.
struct Device {
    table: ForwardingTable,
    guard: HandshakeGuard,
    drops: DropCounters,
    upcalls: Upcalls,
    egress: Egress,
    ingress: Ingress,
    now: Instant,
}

impl Device {
    fn new(own: (&str, &str), slot: PeerSlot, key: &WgSecret, now: Instant) -> Self {
        let local = LocalAddresses {
            ipv4: Some((own.0.parse().unwrap(), 16)),
            ipv6: Some((own.1.parse().unwrap(), 48)),
            routes: vec![],
        };
        Self {
            table: ForwardingTable::new([Arc::new(slot)]).with_local(local),
            guard: HandshakeGuard::new(&[key], now),
            drops: DropCounters::default(),
            upcalls: Upcalls::default(),
            egress: Egress::new(true),
            ingress: Ingress::new(Merge::TcpAndUdp),
            now,
        }
    }

    fn slot(&self) -> &Arc<PeerSlot> {
        (1..=2).find_map(|index| self.table.slot(SlotIndex(index))).unwrap()
    }

    /// Sends frames and flushes; the batches, each as destination, stride and bytes.
    fn send(&mut self, frames: &[Vec<u8>]) -> Vec<(SocketAddr, usize, Vec<u8>)> {
        let mut batches = Vec::new();
        let mut send = |batch: buffer::Batch<'_>| {
            batches.push((batch.to, batch.segment_size, batch.bytes.to_vec()));
        };
        let mut shared = Shared {
            table: &self.table,
            guard: &self.guard,
            drops: &self.drops,
            upcalls: &mut self.upcalls,
        };
        for frame in frames {
            self.egress.handle_frame(frame, &mut shared, &mut send, self.now);
        }
        self.egress.flush(&mut send);
        batches
    }

    /// Receives runs and flushes; the frames.
    fn receive(&mut self, from: SocketAddr, runs: &[(usize, Vec<u8>)]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut write = |slices: &[std::io::IoSlice<'_>]| {
            frames.push(slices.iter().flat_map(|slice| slice.to_vec()).collect());
        };
        let mut shared = Shared {
            table: &self.table,
            guard: &self.guard,
            drops: &self.drops,
            upcalls: &mut self.upcalls,
        };
        for (stride, bytes) in runs {
            let run = Run { from, bytes, stride: *stride };
            self.ingress.handle_run(run, &mut shared, &mut write, self.now);
        }
        self.ingress.flush(&mut write);
        frames
    }

    /// Seals any inner packet, as a hostile member could.
    fn seal(&self, inner: &[u8]) -> (usize, Vec<u8>) {
        let datagram = self.slot().tunnel.lock().seal_to_vec(inner, self.now).unwrap();
        (datagram.len(), datagram)
    }

    fn upcalls(&mut self) -> Vec<Upcall> {
        self.upcalls.drain().filter(|upcall| !matches!(upcall, Upcall::Awake { .. })).collect()
    }
}

fn device(
    own: (&str, &str),
    peer: (&str, &str),
    key: u8,
    peer_key: u8,
    carries: Carries,
) -> Device {
    let now = Instant::now();
    let index = SlotIndex(key.into());
    let tunnel = Tunnel::new(&secret(key), &secret(peer_key).public(), index).unwrap();
    let allowed = vec![(ip(peer.0), 32), (ip(peer.1), 128)];
    let slot = PeerSlot::new(index, tunnel, allowed, carries, now);
    slot.set_endpoint(Some(at(peer_key)));
    Device::new(own, slot, &secret(key), now)
}

fn strangers() -> (Device, Device) {
    let (mut a, b) =
        (device(A, B, 1, 2, Carries::Everything), device(B, A, 2, 1, Carries::Everything));
    a.now = b.now;
    (a, b)
}

fn connected() -> (Device, Device) {
    let (a, b) = strangers();
    shake(&mut a.slot().tunnel.lock(), &mut b.slot().tunnel.lock(), a.now);
    (a, b)
}

fn single(packet: &[u8]) -> Vec<u8> {
    [&VnetHeader::default().encode()[..], packet].concat()
}

fn bare(frame: &[u8]) -> &[u8] {
    VnetHeader::decode(frame).unwrap().1
}

#[test]
fn a_super_packet_crosses_as_equal_datagrams_and_arrives_as_the_same_super_packet() {
    for v4 in [true, false] {
        for protocol in [TCP, UDP] {
            let (mut a, mut b) = connected();
            let (vnet, whole, _) = super_packet(v4, protocol, &[7; 30_000], 1200);
            let frame = [&vnet.encode()[..], &whole].concat();
            let batches = a.send(std::slice::from_ref(&frame));
            assert_eq!(batches.len(), 1);
            let (to, stride, bytes) = &batches[0];
            assert_eq!((*to, bytes.len().div_ceil(*stride)), (at(2), 25));
            let frames = b.receive(at(1), &[(*stride, bytes.clone())]);
            assert_eq!(frames, [frame]);
            assert_eq!(a.drops.snapshot(), []);
            assert_eq!(b.drops.snapshot(), []);
            let stats = &b.slot().stats;
            assert_eq!(stats.rx_packets.load(std::sync::atomic::Ordering::Relaxed), 25);
        }
    }
}

#[test]
fn a_frame_beyond_one_send_becomes_several_and_loses_nothing() {
    let (mut a, mut b) = connected();
    let (vnet, whole, packets) = super_packet(true, TCP, &[7; 65_000], 1228);
    let batches = a.send(&[[&vnet.encode()[..], &whole].concat()]);
    assert_eq!(batches.len(), 2);
    assert!(batches.iter().all(|(_, stride, bytes)| bytes.len() <= 65_487 && *stride <= 1312));
    let runs: Vec<_> = batches.into_iter().map(|(_, stride, bytes)| (stride, bytes)).collect();
    let frames = b.receive(at(1), &runs);
    let arrived: Vec<_> = frames
        .iter()
        .map(|frame| VnetHeader::decode(frame).unwrap())
        .flat_map(|(vnet, packet)| split_all(vnet, packet))
        .collect();
    assert_eq!(arrived, packets);
}

#[test]
fn small_frames_share_a_send_while_their_lengths_allow_it() {
    let (mut a, mut b) = connected();
    let packet = |len: usize| single(&build(A.0, B.0, UDP, &vec![1; len]));
    let batches = a.send(&[packet(20), packet(20), packet(4), packet(20), packet(100)]);
    let shapes: Vec<_> = batches.iter().map(|(_, stride, bytes)| (*stride, bytes.len())).collect();
    assert_eq!(shapes, [(80, 224), (80, 80), (160, 160)]);
    let runs: Vec<_> = batches.into_iter().map(|(_, stride, bytes)| (stride, bytes)).collect();
    assert_eq!(b.receive(at(1), &runs).iter().map(|f| split_frame(f)).sum::<usize>(), 5);
}

fn split_frame(frame: &[u8]) -> usize {
    let (vnet, packet) = VnetHeader::decode(frame).unwrap();
    split_all(vnet, packet).len()
}

#[test]
fn a_plain_device_sends_and_gets_bare_packets() {
    let (mut a, mut b) = connected();
    a.egress = Egress::new(false);
    b.ingress.set_merge(Merge::Nothing);
    let packets: Vec<_> = (0..3).map(|i| build(A.1, B.1, TCP, &[i; 99])).collect();
    let batches = a.send(&packets);
    let runs: Vec<_> = batches.into_iter().map(|(_, stride, bytes)| (stride, bytes)).collect();
    assert_eq!(b.receive(at(1), &runs), packets);
}

#[test]
fn without_slot_path_or_session_overlay_packets_go_up_and_others_are_dropped() {
    let (mut a, _) = strangers();
    let packet = build(A.0, B.0, UDP, b"hello");
    let no_session = |to: &str, packet: &Vec<u8>| Upcall::NoSession {
        destination: ip(to),
        packet: packet.clone(),
    };
    assert_eq!(a.send(&[single(&packet)]), []);
    assert_eq!(a.upcalls(), [no_session(B.0, &packet)]);
    let unknown = build(A.1, "fd00::99", UDP, b"hello");
    a.send(&[single(&unknown)]);
    assert_eq!(a.upcalls(), [no_session("fd00::99", &unknown)]);
    a.slot().set_endpoint(None);
    a.send(&[single(&packet)]);
    assert_eq!(a.upcalls(), [no_session(B.0, &packet)]);
    a.send(&[single(&build(A.0, "8.8.8.8", UDP, b"hello"))]);
    assert_eq!((a.upcalls(), a.drops.get(DropReason::NoRoute)), (vec![], 1));
    let (vnet, whole, packets) = super_packet(true, TCP, &[7; 30_000], 1200);
    a.slot().set_endpoint(Some(at(2)));
    a.send(&[[&vnet.encode()[..], &whole].concat()]);
    let first: Vec<_> = packets[..8].iter().map(|packet| no_session(B.0, packet)).collect();
    assert_eq!(a.upcalls(), first, "the first eight of a super-packet");
}

#[test]
fn only_ordinary_packets_of_our_own_leave() {
    let (mut a, _) = connected();
    for (source, destination, reason) in [
        ("10.0.0.9", B.0, DropReason::NotOurSource),
        (B.1, B.1, DropReason::NotOurSource),
        ("fe80::1", "fe80::2", DropReason::SpecialAddress),
        (A.1, "ff02::1", DropReason::SpecialAddress),
        (A.0, "255.255.255.255", DropReason::SpecialAddress),
        (A.0, "224.0.0.251", DropReason::SpecialAddress),
        ("127.0.0.1", B.0, DropReason::SpecialAddress),
    ] {
        let before = a.drops.get(reason);
        assert_eq!(a.send(&[single(&build(source, destination, UDP, b"x"))]), []);
        assert_eq!(a.drops.get(reason), before + 1, "{source} to {destination}");
    }
    for frame in [vec![], vec![0; 9], vec![0; 10], single(&[0x45; 19]), single(&[0x66; 70_000])] {
        let before = a.drops.get(DropReason::MalformedPacket);
        assert_eq!(a.send(&[frame]), []);
        assert_eq!(a.drops.get(DropReason::MalformedPacket), before + 1);
    }
    assert_eq!(a.send(&[single(&wrap_control(b"forged by a local user"))]), []);
    assert_eq!(a.upcalls(), []);
}

#[test]
fn inner_packets_with_addresses_that_are_not_the_peers_are_dropped() {
    let (a, mut b) = connected();
    for (source, destination, reason) in [
        ("10.0.0.9", B.0, DropReason::ForeignSource),
        ("8.8.8.8", B.0, DropReason::ForeignSource),
        (B.0, B.0, DropReason::ForeignSource),
        ("fd00::9", B.1, DropReason::ForeignSource),
        ("224.0.0.1", B.0, DropReason::SpecialAddress),
        ("127.0.0.1", B.0, DropReason::SpecialAddress),
        ("0.0.0.0", B.0, DropReason::SpecialAddress),
        ("fe80::1", B.1, DropReason::SpecialAddress),
        ("ff02::1", B.1, DropReason::SpecialAddress),
        ("::1", B.1, DropReason::SpecialAddress),
        ("::ffff:10.0.0.1", B.1, DropReason::SpecialAddress),
        (A.0, "10.0.0.9", DropReason::ForeignDestination),
        (A.0, "8.8.8.8", DropReason::ForeignDestination),
        (A.0, "255.255.255.255", DropReason::SpecialAddress),
        (A.1, "ff02::1", DropReason::SpecialAddress),
        (A.1, "fe80::2", DropReason::SpecialAddress),
    ] {
        let before = b.drops.get(reason);
        let sealed = a.seal(&build(source, destination, UDP, b"x"));
        assert_eq!(b.receive(at(1), &[sealed]), Vec::<Vec<u8>>::new(), "{source}");
        assert_eq!(b.drops.get(reason), before + 1, "{source} to {destination}");
    }
    let honest = build(A.0, B.0, UDP, b"x");
    assert_eq!(bare(&b.receive(at(1), &[a.seal(&honest)])[0]), honest);
}

#[test]
fn a_granted_route_admits_its_sources_and_no_special_ones() {
    let (a, mut b) = connected();
    let now = b.now;
    let tunnel = std::mem::replace(
        &mut *b.slot().tunnel.lock(),
        Tunnel::new(&secret(2), &secret(1).public(), SlotIndex(2)).unwrap(),
    );
    let allowed = vec![(ip(A.0), 32), (ip("0.0.0.0"), 0)];
    let slot = PeerSlot::new(SlotIndex(2), tunnel, allowed, Carries::Everything, now);
    b = Device::new(B, slot, &secret(2), now);
    let routed = build("192.168.7.7", B.0, UDP, b"x");
    assert_eq!(b.receive(at(1), &[a.seal(&routed)]).len(), 1);
    for source in ["127.0.0.1", "224.0.0.1", B.0] {
        let sealed = a.seal(&build(source, B.0, UDP, b"x"));
        assert!(b.receive(at(1), &[sealed]).is_empty(), "{source}");
    }
}

#[test]
fn a_control_only_peer_delivers_control_and_nothing_else() {
    let a = device(A, B, 1, 2, Carries::Everything);
    let mut b = device(B, A, 2, 1, Carries::ControlOnly);
    shake(&mut a.slot().tunnel.lock(), &mut b.slot().tunnel.lock(), a.now);
    let runs = [a.seal(&build(A.0, B.0, UDP, b"x")), a.seal(&wrap_control(b"join"))];
    assert!(b.receive(at(1), &runs).is_empty());
    assert_eq!(b.upcalls(), [Upcall::Control { slot: SlotIndex(2), bytes: b"join".to_vec() }]);
    assert_eq!(b.drops.snapshot(), [("control-only", 1)]);
}

#[test]
fn control_goes_up_and_never_to_the_device() {
    let (a, mut b) = connected();
    let longest = vec![9; packet::MAX_CONTROL];
    let mut reversed = wrap_control(b"x");
    reversed[8..40].rotate_left(16);
    let runs = [
        a.seal(&wrap_control(&longest)),
        a.seal(&wrap_control(&vec![9; packet::MAX_CONTROL + 1])),
        a.seal(&wrap_control(b"")),
        a.seal(&reversed),
    ];
    assert!(b.receive(at(1), &runs).is_empty());
    let control = |bytes: &[u8]| Upcall::Control { slot: SlotIndex(2), bytes: bytes.to_vec() };
    assert_eq!(b.upcalls(), [control(&longest), control(b"")]);
    assert_eq!(b.drops.snapshot(), [("malformed-packet", 1), ("special-address", 1)]);
}

#[test]
fn one_bad_datagram_never_ends_a_run() {
    let (a, mut b) = connected();
    let datagrams: Vec<_> = (0..6u8).map(|i| a.seal(&build(A.0, B.0, UDP, &[i; 20])).1).collect();
    let stride = datagrams[0].len();
    let mut run = datagrams.clone();
    run[1][40] ^= 1;
    run[2][..4].copy_from_slice(&[9, 9, 9, 9]);
    run[3][4..8].copy_from_slice(&(77u32 << 8).to_le_bytes());
    run[4] = datagrams[0].clone();
    let frames = b.receive(at(1), &[(stride, run.concat())]);
    let arrived: usize = frames.iter().map(|frame| split_frame(frame)).sum();
    assert_eq!(arrived, 2);
    assert_eq!(
        b.drops.snapshot(),
        [("unknown-datagram", 1), ("unknown-index", 1), ("not-authentic", 1), ("replayed", 1)]
    );
}

#[test]
fn hostile_lengths_and_counters_are_counted_and_silent() {
    let (a, mut b) = connected();
    for len in [0, 1, 3, 31, 65_507] {
        for first in [0u8, 1, 2, 3, 4, 6, b'd', 0xff] {
            let mut datagram = vec![0; len];
            if let Some(byte) = datagram.first_mut() {
                *byte = first;
            }
            assert!(b.receive(at(9), &[(len.max(1), datagram)]).is_empty());
        }
    }
    let (stride, mut datagram) = a.seal(&build(A.0, B.0, UDP, b"x"));
    datagram[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(b.receive(at(1), &[(stride, datagram)]).is_empty());
    assert_eq!(b.drops.get(DropReason::CounterLimit), 1);
    assert_eq!(b.upcalls(), []);
    let honest = a.seal(&build(A.0, B.0, UDP, b"x"));
    assert_eq!(b.receive(at(1), &[honest]).len(), 1);
}

#[test]
fn random_datagrams_cause_no_upcall_no_reply_and_no_frame() {
    let (_, mut b) = connected();
    let mut state = 88_172_645_463_325_252u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let len = (random() % 200) as usize + 1;
        let mut datagram: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        if random() % 2 == 0 && len > 8 {
            // Not type 3: a cookie reply to a slot goes up, at the rate a source is allowed.
            let kind = [0, 1, 2, 4, 5, 6][(random() % 6) as usize];
            datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
            datagram[4..8].copy_from_slice(&(2u32 << 8 | 1).to_le_bytes());
        }
        assert!(b.receive(at(9), &[(len, datagram)]).is_empty());
    }
    assert_eq!(b.upcalls(), []);
    assert_eq!(b.ingress.drain_replies().count(), 0);
}

#[test]
fn a_peer_that_moved_is_reported_once_a_second_and_the_path_stays() {
    let (a, mut b) = connected();
    let elsewhere = at(77);
    for _ in 0..5 {
        let sealed = a.seal(&build(A.0, B.0, UDP, b"x"));
        assert_eq!(b.receive(elsewhere, &[sealed]).len(), 1);
    }
    let roamed = Upcall::Roamed { slot: SlotIndex(2), from: elsewhere };
    assert_eq!(b.upcalls(), std::slice::from_ref(&roamed));
    assert_eq!(b.slot().endpoint(), Some(at(1)));
    b.now += Duration::from_secs(2);
    b.receive(elsewhere, &[a.seal(&build(A.0, B.0, UDP, b"x"))]);
    assert_eq!(b.upcalls(), [roamed]);
    let mut forged = a.seal(&build(A.0, B.0, UDP, b"x"));
    forged.1[60] ^= 1;
    b.now += Duration::from_secs(2);
    b.receive(at(66), &[forged]);
    assert_eq!(b.upcalls(), [], "what is not authentic tells nothing");
}

#[test]
fn data_that_wakes_an_idle_tunnel_is_reported_once() {
    let (mut a, _) = connected();
    a.slot().tunnel.lock().handle_timeout(&mut Vec::new(), a.now);
    a.now += Duration::from_secs(40);
    for _ in 0..3 {
        a.send(&[single(&build(A.0, B.0, UDP, b"x"))]);
    }
    let awake: Vec<_> = a.upcalls.drain().collect();
    assert_eq!(awake, [Upcall::Awake { slot: SlotIndex(1) }]);
    let now = a.now;
    let slot = a.slot().clone();
    slot.tunnel.lock().handle_timeout(&mut Vec::new(), now);
    let due = slot.tunnel.lock().poll_timeout().unwrap();
    assert_eq!(due, (now + Duration::from_secs(1), "session timers"));
}

#[test]
fn handshakes_and_stun_go_up_and_a_flood_is_bounded_and_counted() {
    let (a, mut b) = strangers();
    let initiation = a.slot().tunnel.lock().initiate(a.now);
    b.receive(at(1), &[(148, initiation.clone())]);
    assert_eq!(b.upcalls(), [Upcall::Handshake { from: at(1), bytes: initiation }]);
    let mut stun = vec![0; 20];
    stun[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
    b.receive(at(3), &[(20, stun.repeat(1000))]);
    assert_eq!(b.upcalls().len(), 256);
    assert_eq!(b.drops.get(DropReason::DatagramUpcall), 744);
    let mut answer = vec![0; 92];
    answer[0] = 2;
    answer[9] = 77;
    b.receive(at(3), &[(92, answer)]);
    assert_eq!(b.drops.get(DropReason::UnknownIndex), 1, "an answer to nobody");
}

#[test]
fn a_flood_of_handshakes_is_answered_with_cookies_that_are_counted() {
    let (a, mut b) = strangers();
    let initiation = a.slot().tunnel.lock().initiate(a.now);
    for host in 0..120 {
        b.receive(at(host), &[(148, initiation.clone())]);
    }
    let replies: Vec<_> = b.ingress.drain_replies().collect();
    assert_eq!(replies.len(), 20);
    assert!(replies.iter().all(|(_, cookie)| cookie[..4] == [3, 0, 0, 0]));
    assert_eq!(b.drops.get(DropReason::CookieSent), 20);
    assert_eq!(b.upcalls().len(), 100);
}
