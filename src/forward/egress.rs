//! Out: a frame of the TUN device into sealed datagrams.
//!
//! One frame is one flow, therefore: one look at its headers, one route, one lock. A frame is read
//! into the [`room`](Egress::room) that belongs to the egress and cut there; each packet is sealed
//! from where it lies to its place in the send buffer, which is the one copy in between. The buffer
//! goes out when nothing more fits, when the next datagram does not fit its shape, or when the device
//! has nothing more to read: grouping adds no latency. The tunnel's lock is never held while something
//! is sent; the slot's [`order`](PeerSlot::order) is, so that no other thread's datagrams to the same
//! peer, with later counters, go out before.
//!
//! The outer header bears the congestion mark of the inner one, see [`ecn`](super::ecn).
//!
//! No datagram is longer than the path carries ([`Limit`]): TCP is cut more finely
//! where that is less than the interface's MTU, and what else is too long takes the slow way
//! (`oversize`).
//!
//! Only packets with a source of our own and an ordinary destination leave. A packet for a device
//! that has no slot, no path or no session goes up to `mesh`, which connects and sends it later.

mod oversize;

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use parking_lot::{ArcMutexGuard, RawMutex};

use super::buffer::{Batch, SendBuffer};
use super::ecn::Ecn;
use super::outcome::TunnelError;
use super::packet::{Header, is_special};
use super::segment::{Segments, VnetHeader};
use super::slot::{Limit, PeerSlot, SlotIndex};
use super::{DropReason, Shared, Upcall};
use oversize::Detour;

/// The longest frame: a `virtio_net_hdr` and what an IPv4 total length or an IPv6 payload length can
/// say.
const MAX_FRAME: usize = VnetHeader::LEN + 40 + 65_535;

/// How many packets of one frame wait for a session: what a peer is kept for in all, so that a
/// super-packet does not fill the queue of the control loop.
const MAX_WAITING: usize = 8;

/// Seals what one TUN queue reads; belongs to its thread.
#[derive(Debug)]
pub struct Egress {
    vnet: bool,
    outbox: Outbox,
    detour: Detour,
    /// The frame that is being handled.
    frame: Box<[u8]>,
}

/// What was sealed for one peer and not sent yet, and that peer's order.
#[derive(Default)]
struct Outbox {
    buffer: SendBuffer,
    order: Option<(SlotIndex, ArcMutexGuard<RawMutex, ()>)>,
}

/// Where a frame goes.
#[derive(Clone, Copy)]
struct Target<'a> {
    slot: &'a PeerSlot,
    to: SocketAddr,
    ecn: Ecn,
}

/// Why a round of sealing ended.
enum Round {
    /// Every packet of the frame is in the buffer.
    Complete,
    /// The next packet does not fit the batch.
    Full,
    /// There is no session for the packet that was made last.
    NoSession,
    /// The packet cannot be sealed.
    Refused,
}

impl Egress {
    /// For a queue whose frames begin with a `virtio_net_hdr`, or not.
    pub fn new(vnet: bool) -> Self {
        let frame = vec![0; MAX_FRAME].into_boxed_slice();
        Self { vnet, outbox: Outbox::default(), detour: Detour::new(vnet), frame }
    }

    /// Where to read the next frame to.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.frame[..MAX_FRAME]
    }

    /// Takes the frame in the first `len` bytes of the [`room`](Self::room), and uses it up; batches
    /// that are complete go to `send`.
    pub fn handle_frame(
        &mut self,
        len: usize,
        shared: &mut Shared<'_>,
        send: &mut dyn FnMut(Batch<'_>),
        now: Instant,
    ) {
        if let Err(reason) = self.try_frame(len, shared, send, now) {
            shared.drops.count(reason);
        }
    }

    /// Sends what waits; to be called when the device has nothing more to read.
    pub fn flush(&mut self, send: &mut dyn FnMut(Batch<'_>)) {
        self.outbox.send(send);
    }

    /// Frames for the device that was read: what a router on the way would say.
    pub fn drain_answers(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.detour.drain_answers()
    }

    fn try_frame(
        &mut self,
        len: usize,
        shared: &mut Shared<'_>,
        send: &mut dyn FnMut(Batch<'_>),
        now: Instant,
    ) -> Result<(), DropReason> {
        let Self { vnet, outbox, detour, frame } = self;
        let read = frame.get(..len).ok_or(DropReason::MalformedPacket)?;
        let (vnet, packet) = if *vnet {
            VnetHeader::decode(read).ok_or(DropReason::MalformedPacket)?
        } else {
            (VnetHeader::default(), read)
        };
        let header = Header::parse(packet).ok_or(DropReason::MalformedPacket)?;
        let (at, ecn) = (len - packet.len(), Ecn::of(packet));
        let table = shared.table;
        check_addresses(&header, shared)?;
        let mut segments = Segments::split(vnet, &mut frame[at..len], header)
            .map_err(|_| DropReason::BadOffload)?;
        let route = table.route(header.destination);
        if route.is_none() && !table.local().is_overlay(header.destination) {
            return Err(DropReason::NoRoute);
        }
        let Some((slot, to)) = route.and_then(|slot| Some((slot, slot.endpoint()?))) else {
            detour.hand_up(&mut segments, &header, route.map(|slot| &**slot), shared, now);
            return Ok(());
        };
        let target = Target { slot, to, ecn };
        outbox.take_turn(slot, send);
        let sealed = if segments.fit(slot.limit().packet.into()) {
            outbox.seal(&mut segments, target, shared, send, now)
        } else {
            detour.seal(&mut segments, target, outbox, shared, send, now);
            Ok(true)
        };
        if sealed == Ok(false) {
            detour.hand_up(&mut segments, &header, Some(slot), shared, now);
        }
        if outbox.buffer.is_empty() || outbox.buffer.is_complete() {
            outbox.send(send);
        }
        sealed.map(drop)
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let turn = self.order.as_ref().map(|(slot, _)| slot);
        f.debug_struct("Outbox").field("buffer", &self.buffer).field("turn", &turn).finish()
    }
}

impl Outbox {
    /// Waits until no other thread has something for this peer that it did not send yet.
    fn take_turn(&mut self, slot: &PeerSlot, send: &mut dyn FnMut(Batch<'_>)) {
        if self.order.as_ref().is_none_or(|(held, _)| *held != slot.index) {
            // Never two at once: two threads could wait for one another.
            self.send(send);
            self.order = Some((slot.index, slot.order.lock_arc()));
        }
    }

    /// Seals what is left of a frame; `false` where there is no session for the packet that was made
    /// last.
    fn seal(
        &mut self,
        segments: &mut Segments<'_>,
        target: Target<'_>,
        shared: &mut Shared<'_>,
        send: &mut dyn FnMut(Batch<'_>),
        now: Instant,
    ) -> Result<bool, DropReason> {
        loop {
            match seal_round(&mut self.buffer, segments, target, shared, now) {
                Round::Complete => return Ok(true),
                Round::Full if self.buffer.is_empty() => return Err(DropReason::BadOffload),
                Round::Full => self.send_on(send),
                Round::NoSession => return Ok(false),
                Round::Refused => return Err(DropReason::BadOffload),
            }
        }
    }

    /// Sends what waits, and keeps the turn.
    fn send_on(&mut self, send: &mut dyn FnMut(Batch<'_>)) {
        if let Some(batch) = self.buffer.take() {
            send(batch);
        }
    }

    /// Sends what waits, and ends the turn.
    fn send(&mut self, send: &mut dyn FnMut(Batch<'_>)) {
        self.send_on(send);
        self.order = None;
    }
}

/// Seals packets into the buffer until the frame or the batch ends; holds the lock meanwhile.
fn seal_round(
    buffer: &mut SendBuffer,
    segments: &mut Segments<'_>,
    Target { slot, to, ecn }: Target<'_>,
    shared: &mut Shared<'_>,
    now: Instant,
) -> Round {
    let large = segments.next_len() > Some(Limit::LOWEST.packet.into());
    let mut tunnel = slot.tunnel.lock();
    let (mut packets, mut bytes) = (0, 0);
    let round = loop {
        let Some(len) = segments.next_len() else { break Round::Complete };
        let sealed_len = tunnel.sealed_len(len);
        let Some(mut room) = buffer.reserve(to, ecn, sealed_len) else { break Round::Full };
        let Some(packet) = segments.make_next() else { break Round::Complete };
        match tunnel.seal_into(packet, &mut room, now) {
            Ok(_) => room.commit(),
            Err(TunnelError::NoSession | TunnelError::CounterLimit) => break Round::NoSession,
            Err(_) => break Round::Refused,
        }
        packets += 1;
        bytes += sealed_len;
    };
    let late = tunnel.is_overdue(now) || (packets > 0 && !slot.is_watched(now));
    drop(tunnel);
    if packets > 0 {
        slot.count_sent(packets, bytes, now);
    }
    if large && packets > 0 {
        slot.note_large(now);
    }
    if late {
        tell_awake(slot, shared, now);
    }
    round
}

/// `mesh` does not know that this tunnel has something to do.
fn tell_awake(slot: &PeerSlot, shared: &mut Shared<'_>, now: Instant) {
    if slot.may_report_awake(now) {
        shared.upcalls.push(Upcall::Awake { slot: slot.index }, shared.drops);
    }
}

fn check_addresses(header: &Header, shared: &Shared<'_>) -> Result<(), DropReason> {
    if is_special(header.source) || is_special(header.destination) {
        return Err(DropReason::SpecialAddress);
    }
    if !shared.table.local().owns(header.source) {
        return Err(DropReason::NotOurSource);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::super::coalesce::Merge;
    use super::super::fixture::*;
    use super::super::packet::tests::build;
    use super::super::packet::{TCP, UDP};
    use super::super::segment::tests::{split_all, super_packet};
    use super::*;
    use crate::forward::Upcalls;
    use crate::wire::classify::counter;

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
        let shapes: Vec<_> =
            batches.iter().map(|(_, stride, bytes)| (*stride, bytes.len())).collect();
        assert_eq!(shapes, [(80, 224), (80, 80), (160, 160)]);
        let runs: Vec<_> = batches.into_iter().map(|(_, stride, bytes)| (stride, bytes)).collect();
        assert_eq!(b.receive(at(1), &runs).iter().map(|f| split_frame(f)).sum::<usize>(), 5);
    }

    #[test]
    fn a_plain_device_sends_and_gets_bare_packets() {
        let (mut a, mut b) = connected();
        a.egress = Egress::new(false);
        b.ingress.set_merge(Merge::Plain);
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
        let (vnet, whole, packets) = super_packet(true, TCP, &[7; 30_000], 1100);
        a.slot().set_endpoint(Some(at(2)));
        a.send(&[[&vnet.encode()[..], &whole].concat()]);
        let first: Vec<_> = packets[..8].iter().map(|packet| no_session(B.0, packet)).collect();
        assert_eq!(a.upcalls(), first, "the first eight of a super-packet");
    }

    #[test]
    fn packets_for_whom_cannot_be_reached_go_up_a_few_a_second() {
        let (mut a, _) = strangers();
        a.slot().set_endpoint(None);
        let (peer, nobody) =
            (build(A.0, B.0, UDP, b"hello"), build(A.0, "10.0.9.9", UDP, b"hello"));
        let mut up = 0;
        for _ in 0..1000 {
            a.send(&[single(&peer)]);
            up += a.upcalls().len();
        }
        assert_eq!(up, 64, "for one device");
        for _ in 0..1000 {
            a.send(&[single(&nobody)]);
            up += a.upcalls().len();
        }
        assert_eq!(up, 64 + 256, "for all that are not in use");
        assert_eq!(a.drops.get(DropReason::NoSessionUpcall), 936 + 744);
        a.now += Duration::from_secs(1);
        a.send(&[single(&peer), single(&nobody)]);
        assert_eq!(a.upcalls().len(), 2);
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
        for frame in [vec![], vec![0; 9], vec![0; 10], single(&[0x45; 19]), single(&[0x66; 65_535])]
        {
            let before = a.drops.get(DropReason::MalformedPacket);
            assert_eq!(a.send(&[frame]), []);
            assert_eq!(a.drops.get(DropReason::MalformedPacket), before + 1);
        }
        assert_eq!(a.send(&[single(&control(b"forged by a local user"))]), []);
        assert_eq!(a.upcalls(), []);
    }

    /// A frame whose packets have this ECN field.
    fn marked(ecn: Ecn, vnet: VnetHeader, packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        ecn.write(&mut packet);
        [&vnet.encode()[..], &packet].concat()
    }

    #[test]
    fn the_outer_field_is_the_inner_one_and_parts_no_burst() {
        for v4 in [true, false] {
            for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
                let (mut a, mut b) = connected();
                let (vnet, whole, _) = super_packet(v4, TCP, &[7; 30_000], 1200);
                let frame = marked(ecn, vnet, &whole);
                let batches = a.send(std::slice::from_ref(&frame));
                assert_eq!((batches.len(), &a.sent_ecn[..]), (1, &[ecn][..]));
                b.outer = ecn;
                let (_, stride, bytes) = batches[0].clone();
                assert_eq!(b.receive(at(1), &[(stride, bytes)]), [frame]);
            }
        }
    }

    #[test]
    fn packets_with_different_fields_go_in_sends_of_their_own_and_in_order() {
        let (mut a, _) = connected();
        let packet = build(A.0, B.0, UDP, &[1; 20]);
        let fields = [Ecn::Ect0, Ecn::Ect0, Ecn::NotEct, Ecn::Ce, Ecn::Ce, Ecn::Ect0];
        let frames = fields.map(|ecn| marked(ecn, VnetHeader::default(), &packet));
        let batches = a.send(&frames);
        let lengths: Vec<_> =
            batches.iter().map(|(_, stride, bytes)| bytes.len() / stride).collect();
        assert_eq!(a.sent_ecn, [Ecn::Ect0, Ecn::NotEct, Ecn::Ce, Ecn::Ect0]);
        assert_eq!(lengths, [2, 1, 2, 1]);
    }

    #[test]
    fn threads_that_send_to_one_peer_send_in_the_order_of_the_counters() {
        const FRAMES: usize = 400;
        let (a, _) = connected();
        let counters = Mutex::new(Vec::new());
        let frames = [build(A.0, B.0, UDP, &[1; 40]), build(A.1, B.1, UDP, &[2; 40])];
        std::thread::scope(|scope| {
            for frame in frames {
                let (a, counters) = (&a, &counters);
                scope.spawn(move || {
                    let (mut egress, mut upcalls) = (Egress::new(false), Upcalls::default());
                    let (table, guard, drops) = (&a.table, &a.guard, &a.drops);
                    let mut send = |batch: Batch<'_>| {
                        // Whoever sealed later would now overtake.
                        std::thread::yield_now();
                        let sealed = batch.bytes.chunks(batch.segment_size);
                        counters.lock().extend(sealed.map(|datagram| counter(datagram).unwrap()));
                    };
                    for index in 0..FRAMES {
                        let mut shared = Shared { table, guard, drops, upcalls: &mut upcalls };
                        egress.room()[..frame.len()].copy_from_slice(&frame);
                        egress.handle_frame(frame.len(), &mut shared, &mut send, a.now);
                        if index % 3 == 0 {
                            egress.flush(&mut send);
                        }
                    }
                    egress.flush(&mut send);
                });
            }
        });
        let counters = counters.into_inner();
        assert_eq!(counters.len(), 2 * FRAMES);
        assert!(counters.is_sorted(), "{counters:?}");
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
        assert_eq!(due, (now + Duration::from_secs(15), "nothing came back"));
    }
}
