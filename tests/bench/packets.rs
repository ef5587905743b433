//! What a packet costs in each step of its way, one thread, no system call.
//!
//! ```text
//! cargo bench --bench packets              all, with bytes a second
//! cargo bench --bench packets -- seal      those with "seal" in their name
//! cargo test  --bench packets              each once: do they still work?
//! ```
//!
//! Figures compare on one machine only, and only while nothing else runs.

#![expect(
    clippy::disallowed_methods,
    reason = "reads the clock: a bench is neither simulated nor on a hot path"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

use ginnel::forward::aead::{TAG, TransportKey};
use ginnel::forward::coalesce::{Coalescer, Merge};
use ginnel::forward::packet::{Header, TCP, checksum, pseudo_sum, sum};
use ginnel::forward::segment::{Segments, VnetHeader};
use ginnel::forward::{Carries, ForwardingTable, PeerSlot, SlotIndex, Tunnel};
use ginnel::identity::WgSecret;
use ginnel::wire::classify;

/// An inner packet that fills the MTU of a tunnel over Ethernet.
const PACKET: usize = 1420;
/// Packets of one super-packet of 64 KiB.
const BURST: usize = 46;
/// IPv4 and TCP headers without options.
const HEADERS: usize = 40;
/// Peers in use at once: a device of a large network that talks to all of it.
const PEERS: u32 = 1000;

fn main() {
    divan::main();
}

/// Sealing one packet.
#[divan::bench]
fn seal(bencher: Bencher<'_, '_>) {
    let (mut near, _) = connected();
    let packet = tcp(0);
    let mut datagram = vec![0; near.sealed_len(packet.len())];
    let now = Instant::now();
    bencher
        .counter(BytesCount::new(packet.len()))
        .bench_local(|| near.seal_into(black_box(&packet), &mut datagram, now).expect("a session"));
}

/// Opening one datagram, each once: the window refuses a second time.
#[divan::bench]
fn open(bencher: Bencher<'_, '_>) {
    let (mut near, mut far) = connected();
    let packet = tcp(0);
    let mut out = vec![0; PACKET + 64];
    let now = Instant::now();
    bencher
        .counter(BytesCount::new(packet.len()))
        .with_inputs(|| near.seal_to_vec(&packet, now).expect("a session"))
        .bench_local_values(|datagram| {
            far.open_into(&datagram, &mut out, now).map(drop).expect("it came in order");
        });
}

/// The cipher alone, sealing: of this processor, and of every processor.
#[divan::bench(args = [64, PACKET], consts = [true, false])]
fn cipher_seal<const BEST: bool>(bencher: Bencher<'_, '_>, length: usize) {
    let key = cipher(BEST);
    let plain = vec![0x5a; length];
    let mut sealed = vec![0; length.next_multiple_of(16) + TAG];
    let mut counter = 0;
    bencher.counter(BytesCount::new(length)).bench_local(|| {
        counter += 1;
        key.seal_into(counter, black_box(&plain), &mut sealed);
    });
}

/// The cipher alone, opening; it has no window, so one datagram will do.
#[divan::bench(args = [64, PACKET], consts = [true, false])]
fn cipher_open<const BEST: bool>(bencher: Bencher<'_, '_>, length: usize) {
    let key = cipher(BEST);
    let mut sealed = vec![0; length.next_multiple_of(16) + TAG];
    key.seal_into(1, &vec![0x5a; length], &mut sealed);
    let mut opened = vec![0; sealed.len() - TAG];
    bencher
        .counter(BytesCount::new(length))
        .bench_local(|| key.open_into(1, black_box(&sealed), &mut opened).expect("as sealed"));
}

fn cipher(best: bool) -> TransportKey {
    if best { TransportKey::new(&[7; 32]) } else { TransportKey::portable(&[7; 32]) }
}

/// Cutting a super-packet of the TUN device, checksums computed anew.
#[divan::bench]
fn segment(bencher: Bencher<'_, '_>) {
    let payload = PACKET - HEADERS;
    let mut packet = tcp(0);
    packet.resize(HEADERS + BURST * payload, 0x5a);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let header = Header::parse(&packet).expect("a TCP super-packet");
    // NEEDS_CSUM, TCPV4; then header length, payload of each packet, where the checksum goes.
    let fields = [HEADERS as u16, payload as u16, 20, 16].map(u16::to_ne_bytes).concat();
    let vnet = [&[1, 1][..], &fields].concat();
    let (vnet, _) = VnetHeader::decode(&vnet).expect("a whole header");
    // Cutting uses a frame up, but leaves the first packet's headers where the next cut reads them.
    let mut frame = packet;
    bencher.counter(BytesCount::new(frame.len())).bench_local(|| {
        let frame = black_box(&mut frame);
        let mut segments = Segments::split(vnet, frame, header).expect("it fits the packet");
        let mut cut = 0;
        while segments.make_next().is_some() {
            cut += 1;
        }
        assert_eq!(cut, BURST, "a full packet each");
    });
}

/// Joining a burst of one flow, its checksums verified, to one frame.
#[divan::bench]
fn coalesce(bencher: Bencher<'_, '_>) {
    let mut arena = Vec::new();
    let packets: Vec<(Range<usize>, Header)> = (0..BURST)
        .map(|number| {
            let packet = tcp(number);
            let at = arena.len()..arena.len() + packet.len();
            let header = Header::parse(&packet).expect("a TCP segment");
            arena.extend(packet);
            (at, header)
        })
        .collect();
    let mut coalescer = Coalescer::new(Merge::TcpAndUdp);
    bencher.counter(BytesCount::new(arena.len())).bench_local(|| {
        for (at, header) in &packets {
            coalescer.push(black_box(&arena), at.clone(), *header);
        }
        let mut frames = 0;
        coalescer.flush(&arena, &mut |_| frames += 1);
        assert_eq!(frames, 1, "one flow is one frame");
    });
}

/// Finding the peer of a destination among a thousand.
#[divan::bench]
fn route(bencher: Bencher<'_, '_>) {
    let now = Instant::now();
    let own = WgSecret::from_bytes([7; 32]);
    let peer = WgSecret::from_bytes([9; 32]).public();
    let slots = (1..=PEERS).map(|number| {
        let tunnel = Tunnel::new(&own, &peer, SlotIndex(number)).expect("a usable key");
        let allowed = vec![(address(number), 32)];
        let slot = PeerSlot::new(SlotIndex(number), tunnel, allowed, Carries::Everything, now);
        slot.set_endpoint(Some(SocketAddr::from(([192, 0, 2, 1], 41_641))));
        Arc::new(slot)
    });
    let table = ForwardingTable::new(slots);
    let mut number = 0;
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        number = number % PEERS + 1;
        table.route(black_box(address(number))).and_then(|slot| slot.endpoint()).expect("a peer")
    });
}

/// Telling apart what a socket receives.
#[divan::bench]
fn classify(bencher: Bencher<'_, '_>) {
    let (mut near, _) = connected();
    let now = Instant::now();
    let mut stun = vec![0; 20];
    stun[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
    let datagrams = [
        near.seal_to_vec(&tcp(0), now).expect("a session"),
        near.initiate(now),
        stun,
        vec![0xff; PACKET],
    ];
    bencher.counter(ItemsCount::new(datagrams.len())).bench_local(|| {
        for datagram in &datagrams {
            black_box(classify::classify(black_box(datagram)));
        }
    });
}

/// Two ends of a session.
fn connected() -> (Tunnel, Tunnel) {
    let (a, b) = (WgSecret::from_bytes([1; 32]), WgSecret::from_bytes([2; 32]));
    let mut near = Tunnel::new(&a, &b.public(), SlotIndex(1)).expect("a usable key");
    let mut far = Tunnel::new(&b, &a.public(), SlotIndex(2)).expect("a usable key");
    let now = Instant::now();
    let initiation = near.initiate(now);
    let (mut response, mut confirmation) = (Vec::new(), Vec::new());
    far.handle_handshake(&initiation, &mut response, now).expect("an initiation");
    near.handle_handshake(&response[0], &mut confirmation, now).expect("a response");
    far.open_into(&confirmation[0], &mut [0; 256], now).map(drop).expect("a keepalive");
    (near, far)
}

/// The overlay address of a peer.
fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

/// A full TCP segment over IPv4 with right checksums, the `number`th of its flow.
fn tcp(number: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; PACKET];
    packet[..HEADERS].fill(0);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(PACKET as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&(number as u16).to_be_bytes());
    packet[6] = 0x40;
    packet[8..10].copy_from_slice(&[64, TCP]);
    packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
    packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
    let above = checksum(sum(&packet[..20]));
    packet[10..12].copy_from_slice(&above.to_be_bytes());
    packet[20..24].copy_from_slice(&[0x13, 0x88, 0x13, 0x89]);
    let sequence = (number * (PACKET - HEADERS)) as u32;
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[32..36].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]);
    let header = Header::parse(&packet).expect("a TCP segment");
    let inner = checksum(pseudo_sum(&header, PACKET - 20) + sum(&packet[20..]));
    packet[36..38].copy_from_slice(&inner.to_be_bytes());
    packet
}
