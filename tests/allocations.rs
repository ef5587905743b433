//! The packet path allocates nothing for a packet, in either direction: counted by the allocator.
//!
//! ```text
//! frame ─▶ Egress of a ─▶ batches ─▶ Ingress of b ─▶ frames          and back
//! ```
//! A first round may allocate, for buffers that live on; the thousands of packets after it may not.

#![allow(clippy::disallowed_methods, reason = "tests make up their instants from the real clock")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ginnel::forward::buffer::Batch;
use ginnel::forward::coalesce::Merge;
use ginnel::forward::egress::Egress;
use ginnel::forward::ingress::{Ingress, Run};
use ginnel::forward::slot::Limit;
use ginnel::forward::{
    Carries, DropCounters, ForwardingTable, HandshakeGuard, LocalAddresses, PeerSlot, Shared,
    SlotIndex, Tunnel, Upcalls,
};
use ginnel::identity::WgSecret;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts what this thread asks of it.
struct Counting;

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One end: its addresses end in its number.
struct End {
    table: ForwardingTable,
    guard: HandshakeGuard,
    drops: DropCounters,
    upcalls: Upcalls,
    egress: Egress,
    ingress: Ingress,
}

fn address(v4: bool, host: u8) -> IpAddr {
    if v4 {
        IpAddr::from([10, 0, 0, host])
    } else {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)])
    }
}

fn endpoint(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 41_641))
}

impl End {
    fn new(own: u8, peer: u8, now: Instant) -> Self {
        let (secret, remote) = (WgSecret::from_bytes([own; 32]), WgSecret::from_bytes([peer; 32]));
        let index = SlotIndex(own.into());
        let tunnel = Tunnel::new(&secret, &remote.public(), index).expect("an ordinary key");
        let allowed = vec![(address(true, peer), 32), (address(false, peer), 128)];
        let slot = PeerSlot::new(index, tunnel, allowed, Carries::Everything, now);
        slot.set_endpoint(Some(endpoint(peer)));
        slot.set_limit(Limit { packet: 1_420, settled: true });
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (address(true, own), address(false, own)) else {
            unreachable!("one of each family")
        };
        let local = LocalAddresses { ipv4: Some((v4, 16)), ipv6: Some((v6, 48)), routes: vec![] };
        Self {
            table: ForwardingTable::new([Arc::new(slot)]).with_local(local),
            guard: HandshakeGuard::new(&[&secret], now),
            drops: DropCounters::default(),
            upcalls: Upcalls::default(),
            egress: Egress::new(true),
            ingress: Ingress::new(Merge::TcpAndUdp),
        }
    }

    fn slot(&self) -> Arc<PeerSlot> {
        (1..=2).find_map(|index| self.table.slot(SlotIndex(index))).expect("one slot").clone()
    }
}

fn connected() -> [End; 2] {
    let now = Instant::now();
    let (a, b) = (End::new(1, 2, now), End::new(2, 1, now));
    let (a_slot, b_slot) = (a.slot(), b.slot());
    let (mut first, mut second) = (a_slot.tunnel.lock(), b_slot.tunnel.lock());
    let (mut answer, mut confirmation) = (Vec::new(), Vec::new());
    let initiation = first.initiate(now);
    second.handle_handshake(&initiation, &mut answer, now).expect("an initiation");
    first.handle_handshake(&answer[0], &mut confirmation, now).expect("a response");
    let mut out = [0; 256];
    second.open_into(&confirmation[0], &mut out, now).expect("a keepalive");
    drop((first, second));
    [a, b]
}

/// A frame as the kernel hands it over: a TCP or UDP packet, or a super-packet of `size` payload
/// bytes a packet, with a partial checksum.
fn frame(v4: bool, tcp: bool, from: u8, payload: usize, size: usize) -> Vec<u8> {
    let (ip, upper) = (if v4 { 20 } else { 40 }, if tcp { 20 } else { 8 });
    let gso = match (payload > size, tcp, v4) {
        (false, ..) => 0u8,
        (true, true, true) => 1,
        (true, true, false) => 4,
        (true, false, _) => 5,
    };
    let mut frame = vec![1, gso];
    let fields = [ip + upper, if gso == 0 { 0 } else { size }, ip, if tcp { 16 } else { 6 }];
    frame.extend(fields.iter().flat_map(|field| (*field as u16).to_ne_bytes()));
    let len = (upper + payload) as u16;
    let protocol = if tcp { 6 } else { 17 };
    let (source, destination) = (address(v4, from), address(v4, 3 - from));
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = (len + 20).to_be_bytes();
            frame.extend([0x45, 0, high, low, 0, 1, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend(source.octets().into_iter().chain(destination.octets()));
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [high, low] = len.to_be_bytes();
            frame.extend([0x60, 0, 0, 0, high, low, protocol, 64]);
            frame.extend(source.octets().into_iter().chain(destination.octets()));
        }
        _ => unreachable!("one family"),
    }
    frame.extend([0x30, 0x39, 0, 80]);
    if tcp {
        frame.extend([0, 0, 0, 1, 0, 0, 0, 7, 0x50, 0x10, 1, 0xf5, 0, 0, 0, 0]);
    } else {
        frame.extend(len.to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.resize(frame.len() + payload, 0x5a);
    frame
}

/// Carries a frame across and checks that as many bytes of it arrive; how many packets that were.
fn carry(from: &mut End, to: &mut End, frame: &[u8], sender: u8, now: Instant) -> usize {
    let (mut packets, mut arrived) = (0, 0);
    let End { table, guard, drops, upcalls, egress, .. } = from;
    let mut shared = Shared { table, guard, drops, upcalls };
    egress.room()[..frame.len()].copy_from_slice(frame);
    let mut send = |batch: Batch<'_>| {
        let Batch { bytes, segment_size: stride, ecn, .. } = batch;
        packets += bytes.len().div_ceil(stride);
        let End { table, guard, drops, upcalls, ingress, .. } = &mut *to;
        let mut shared = Shared { table, guard, drops, upcalls };
        let run = Run { from: endpoint(sender), ecn, bytes, stride };
        let mut write = |pieces: &[std::io::IoSlice<'_>]| {
            arrived += pieces.iter().map(|piece| piece.len()).sum::<usize>();
        };
        ingress.handle_run(run, &mut shared, &mut write, now);
        ingress.flush(&mut write);
    };
    egress.handle_frame(frame.len(), &mut shared, &mut send, now);
    egress.flush(&mut send);
    assert!(arrived >= frame.len(), "{arrived} of {} bytes", frame.len());
    packets
}

#[test]
fn thousands_of_packets_either_way_cost_no_allocation() {
    let [mut a, mut b] = connected();
    let now = Instant::now();
    let families = [true, false];
    let frames: Vec<(u8, Vec<u8>)> = families
        .iter()
        .flat_map(|v4| families.map(|tcp| (*v4, tcp)))
        .flat_map(|(v4, tcp)| {
            [(1, 50_000, 1_200), (2, 50_000, 1_200), (1, 33, 1_200), (2, 1_001, 1_200)]
                .map(|(from, payload, size)| (from, frame(v4, tcp, from, payload, size)))
        })
        .collect();
    let mut packets = 0;
    let mut round = || {
        for (from, frame) in &frames {
            let (sender, receiver) = if *from == 1 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            packets += carry(sender, receiver, frame, *from, now);
        }
    };
    round();
    let before = ALLOCATIONS.with(Cell::get);
    (0..20).for_each(|_| round());
    let allocations = ALLOCATIONS.with(Cell::get) - before;
    assert!(packets > 7_000, "{packets} packets");
    assert_eq!(allocations, 0, "for {packets} packets");
    assert_eq!((a.drops.snapshot(), b.drops.snapshot()), (vec![], vec![]));
    assert!(ALLOCATIONS.with(Cell::get) > 0, "the allocator counts");
}
