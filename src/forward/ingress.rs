//! In: received datagrams into frames of the TUN device.
//!
//! Datagrams come in runs: those of one sender that the kernel received together. Each is told apart
//! by its first bytes. STUN and handshakes go up to `mesh`, STUN only of those it knows or
//! asked ([`ExpectedStun`](super::ExpectedStun)), handshakes only past the
//! [`HandshakeGuard`](super::HandshakeGuard). Transport datagrams are opened under their slot's lock,
//! which is held over consecutive datagrams of one slot, into an arena, from which the coalescer
//! makes frames when the batch ends. Of an opened packet
//!
//! * a control message (next-header 253, fe80::1 to fe80::2) goes up to `mesh`, never to the device;
//! * the source must belong to the peer, the destination must be our own or behind us;
//! * multicast, link-local, loopback and unspecified addresses are dropped, whatever was granted;
//! * a peer that may carry control only delivers nothing else;
//! * a congestion mark outside is written into the header inside, or drops it, see
//!   [`ecn`](super::ecn).
//!
//! Received data never moves the path that we send on: that it came from elsewhere is a hint.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Instant;

use parking_lot::MutexGuard;

use super::buffer::Arena;
use super::coalesce::{Coalescer, Merge};
use super::ecn::Ecn;
use super::guard::Verdict;
use super::outcome::{Opened, TunnelError};
use super::packet::{Header, is_special};
use super::proven::ProvenSources;
use super::slot::{Carries, PeerSlot, SlotIndex};
use super::{DropReason, ForwardingTable, LocalAddresses, Shared, Tunnel, Upcall};
use crate::wire::classify::{COOKIE_REPLY_LEN, Class, classify, receiver_index};
use crate::wire::control::{HEADER_LEN, MAX_PACKET};

/// Cookie replies that wait to be sent; past that a sender has to try again, as it would anyway.
const MAX_REPLIES: usize = 64;

/// Datagrams that were received together.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Who sent them, unverified.
    pub from: SocketAddr,
    /// What their IP headers said of congestion.
    pub ecn: Ecn,
    /// The datagrams without gaps.
    pub bytes: &'a [u8],
    /// The length of each but the last, which may be shorter.
    pub stride: usize,
}

/// Opens what one UDP socket receives; belongs to its thread.
#[derive(Debug)]
pub struct Ingress {
    arena: Arena,
    coalescer: Coalescer,
    merge: Merge,
    replies: Vec<(SocketAddr, [u8; COOKIE_REPLY_LEN])>,
    proven: ProvenSources,
    opened: usize,
    strange: Strange,
}

/// What was dropped of those to whom nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strange {
    /// Path checks of strangers.
    pub checks: usize,
    /// All else but transport datagrams.
    pub others: usize,
}

impl Strange {
    fn count(&mut self, reason: DropReason, from: SocketAddr, table: &ForwardingTable) {
        if table.expected().is_from_somebody(from.ip()) {
            return;
        }
        match reason {
            DropReason::StrangersCheck => self.checks += 1,
            _ => self.others += 1,
        }
    }
}

/// What an opened packet is.
enum Inner {
    Control,
    Data(Header),
}

/// A slot whose lock is held, and what came for it so far.
struct Held<'a> {
    slot: &'a PeerSlot,
    tunnel: MutexGuard<'a, Tunnel>,
    endpoint: Option<SocketAddr>,
    packets: usize,
    bytes: usize,
    data: bool,
}

impl Ingress {
    /// For a device that takes `merge`.
    pub fn new(merge: Merge) -> Self {
        Self {
            arena: Arena::new(),
            coalescer: Coalescer::new(merge),
            merge,
            replies: Vec::new(),
            proven: ProvenSources::default(),
            opened: 0,
            strange: Strange::default(),
        }
    }

    /// Takes another device; to be called between a flush and the next run.
    pub fn set_merge(&mut self, merge: Merge) {
        if merge != self.merge {
            self.merge = merge;
            self.coalescer = Coalescer::new(merge);
            self.arena.clear();
        }
    }

    /// Takes one run; frames go to `write` when the arena is full.
    pub fn handle_run(
        &mut self,
        run: Run<'_>,
        shared: &mut Shared<'_>,
        write: &mut dyn FnMut(&[IoSlice<'_>]),
        now: Instant,
    ) {
        if !self.arena.has_room(run.bytes.len()) {
            self.flush(write);
        }
        let mut held = None;
        for datagram in run.bytes.chunks(run.stride.max(1)) {
            let class = classify(datagram);
            if class != Class::Transport {
                release(&mut held, shared, now);
            }
            let handled = match class {
                Class::Transport => self.transport(&run, datagram, &mut held, shared, now),
                Class::Initiation | Class::Response | Class::CookieReply => {
                    self.handshake(run.from, datagram, shared, now)
                }
                Class::Stun => shared.table.expected().judge(datagram).map(|()| {
                    let bytes = datagram.to_vec();
                    shared.upcalls.push(Upcall::Datagram { from: run.from, bytes }, shared.drops);
                }),
                Class::Relay => Err(DropReason::Relay),
                Class::Unknown => Err(DropReason::UnknownDatagram),
            };
            if let Err(reason) = handled {
                shared.drops.count(reason);
                if class != Class::Transport {
                    self.strange.count(reason, run.from, shared.table);
                }
            }
        }
        release(&mut held, shared, now);
    }

    /// Hands over the frames of the batch, each as slices that belong together.
    pub fn flush(&mut self, write: &mut dyn FnMut(&[IoSlice<'_>])) {
        if !self.coalescer.is_empty() {
            self.coalescer.flush(self.arena.bytes(), write);
        }
        self.arena.clear();
    }

    /// How many transport datagrams were authentic since this was last asked.
    pub fn take_opened(&mut self) -> usize {
        std::mem::take(&mut self.opened)
    }

    /// What strangers sent in vain since this was last asked.
    pub fn take_strange(&mut self) -> Strange {
        std::mem::take(&mut self.strange)
    }

    /// Cookie replies to send.
    pub fn drain_replies(
        &mut self,
    ) -> impl Iterator<Item = (SocketAddr, [u8; COOKIE_REPLY_LEN])> + '_ {
        self.replies.drain(..)
    }

    fn handshake(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        shared: &mut Shared<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        // Answers name the slot that asked: one that asked nothing costs nothing.
        if let Some(index) = receiver_index(datagram) {
            let slot = shared.table.slot(SlotIndex::of_receiver(index));
            let slot = slot.ok_or(DropReason::UnknownIndex)?;
            if classify(datagram) == Class::CookieReply && !slot.may_take_cookie(from, now) {
                return Err(DropReason::UnaskedCookie);
            }
        }
        let proven = || self.proven.holds(from, shared.table, now);
        match shared.guard.check(from, datagram, proven, now) {
            Verdict::Pass => {
                let bytes = datagram.to_vec();
                shared.upcalls.push(Upcall::Handshake { from, bytes }, shared.drops);
                Ok(())
            }
            Verdict::Reply(cookie) => {
                if self.replies.len() < MAX_REPLIES {
                    self.replies.push((from, cookie));
                }
                Err(DropReason::CookieSent)
            }
            Verdict::Drop(reason) => Err(reason),
        }
    }

    fn transport<'a>(
        &mut self,
        run: &Run<'_>,
        datagram: &[u8],
        held: &mut Option<Held<'a>>,
        shared: &mut Shared<'a>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let index = receiver_index(datagram).ok_or(DropReason::UnknownDatagram)?;
        let index = SlotIndex::of_receiver(index);
        let held = hold(held, index, shared, now)?;
        let (len, inner) = match held.tunnel.open_into(datagram, self.arena.reserve(), now) {
            Ok(Opened::Packet(packet)) => {
                let inner = judge(packet, held.slot, shared.table.local());
                (packet.len(), Some(inner.and_then(|inner| mark(packet, inner, run.ecn))))
            }
            Ok(Opened::Keepalive) => (0, None),
            Err(error) => return Err(refusal(error)),
        };
        self.opened += 1;
        held.packets += 1;
        held.bytes += datagram.len();
        if held.endpoint != Some(run.from) && held.slot.may_report_roaming(now) {
            shared.upcalls.push(Upcall::Roamed { slot: index, from: run.from }, shared.drops);
        }
        match inner.transpose()? {
            Some(Inner::Control) if !held.slot.may_pass_control(now) => {
                return Err(DropReason::ControlUpcall);
            }
            Some(Inner::Control) => {
                let bytes = self.arena.reserve()[HEADER_LEN..len].to_vec();
                shared.upcalls.push(Upcall::Control { slot: index, bytes }, shared.drops);
            }
            Some(Inner::Data(header)) => {
                held.data = true;
                let at = self.arena.commit(len);
                self.coalescer.push(self.arena.bytes(), at, header);
            }
            None => {}
        }
        Ok(())
    }
}

/// Locks the slot with this number, unless it is locked already.
fn hold<'a, 'h>(
    held: &'h mut Option<Held<'a>>,
    index: SlotIndex,
    shared: &mut Shared<'a>,
    now: Instant,
) -> Result<&'h mut Held<'a>, DropReason> {
    if held.as_ref().is_none_or(|held| held.slot.index != index) {
        release(held, shared, now);
        let slot = shared.table.slot(index).ok_or(DropReason::UnknownIndex)?;
        let (tunnel, endpoint) = (slot.tunnel.lock(), slot.endpoint());
        *held = Some(Held { slot, tunnel, endpoint, packets: 0, bytes: 0, data: false });
    }
    held.as_mut().ok_or(DropReason::UnknownIndex)
}

/// Unlocks the slot and counts what came for it.
fn release(held: &mut Option<Held<'_>>, shared: &mut Shared<'_>, now: Instant) {
    let Some(Held { slot, tunnel, packets, bytes, data, .. }) = held.take() else { return };
    let late = tunnel.is_overdue(now) || (data && !slot.is_watched(now));
    drop(tunnel);
    if packets > 0 {
        slot.count_received(packets, bytes, data, now);
    }
    if late && slot.may_report_awake(now) {
        shared.upcalls.push(Upcall::Awake { slot: slot.index }, shared.drops);
    }
}

/// What an opened packet of `slot` is, or why it goes nowhere.
fn judge(packet: &[u8], slot: &PeerSlot, local: &LocalAddresses) -> Result<Inner, DropReason> {
    let header = Header::parse(packet).ok_or(DropReason::MalformedPacket)?;
    if header.is_control() {
        let fits = packet.len() <= MAX_PACKET;
        return if fits { Ok(Inner::Control) } else { Err(DropReason::MalformedPacket) };
    }
    if slot.carries == Carries::ControlOnly {
        return Err(DropReason::ControlOnly);
    }
    if is_special(header.source) || is_special(header.destination) {
        return Err(DropReason::SpecialAddress);
    }
    if !slot.allows(header.source) || local.owns(header.source) {
        return Err(DropReason::ForeignSource);
    }
    if !local.owns(header.destination) {
        return Err(DropReason::ForeignDestination);
    }
    Ok(Inner::Data(header))
}

/// Writes the congestion mark that a packet of data arrived with into its own header.
fn mark(packet: &mut [u8], inner: Inner, outer: Ecn) -> Result<Inner, DropReason> {
    if matches!(inner, Inner::Data(_)) {
        let before = Ecn::of(packet);
        let after = before.decapsulated(outer).ok_or(DropReason::CongestionMark)?;
        if after != before {
            after.write(packet);
        }
    }
    Ok(inner)
}

fn refusal(error: TunnelError) -> DropReason {
    match error {
        TunnelError::NoSession => DropReason::UnknownIndex,
        TunnelError::NotAuthentic => DropReason::NotAuthentic,
        TunnelError::Replayed => DropReason::Replayed,
        TunnelError::CounterLimit => DropReason::CounterLimit,
        TunnelError::Malformed | TunnelError::BufferTooSmall => DropReason::MalformedPacket,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::ExpectedStun;
    use super::super::fixture::*;
    use super::super::packet::tests::build;
    use super::super::packet::{TCP, UDP};
    use super::super::segment::VnetHeader;
    use super::super::segment::tests::{split_all, super_packet};
    use super::super::tunnel::tests::{secret, shake};
    use super::*;
    use crate::wire::control::MAX_MESSAGE;
    use crate::wire::stun::{CheckKey, CheckRequest, CheckResponse, StunRequest, TransactionId};

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
    fn a_mark_outside_is_written_inside_and_drops_what_does_not_understand_it() {
        let fields = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];
        for (source, destination) in [(A.0, B.0), (A.1, B.1)] {
            for (inner, outer) in
                fields.iter().flat_map(|inner| fields.map(|outer| (*inner, outer)))
            {
                let (a, mut b) = connected();
                let mut packet = build(source, destination, UDP, b"x");
                inner.write(&mut packet);
                b.outer = outer;
                let frames = b.receive(at(1), &[a.seal(&packet)]);
                let Some(expected) = inner.decapsulated(outer) else {
                    assert_eq!((frames.len(), b.drops.get(DropReason::CongestionMark)), (0, 1));
                    continue;
                };
                expected.write(&mut packet);
                assert_eq!(bare(&frames[0]), packet, "{inner:?} in {outer:?}");
            }
        }
    }

    #[test]
    fn marked_and_unmarked_packets_of_a_flow_are_not_joined_and_keep_their_order() {
        for v4 in [true, false] {
            let (a, mut b) = connected();
            let (_, _, mut packets) = super_packet(v4, TCP, &[7; 600], 100);
            packets.iter_mut().for_each(|packet| Ecn::Ect0.write(packet));
            let sealed: Vec<_> = packets.iter().map(|packet| a.seal(packet)).collect();
            let mut frames = Vec::new();
            for (outer, runs) in [(Ecn::Ect0, &sealed[..2]), (Ecn::Ce, &sealed[2..4])] {
                b.outer = outer;
                frames.extend(b.receive(at(1), runs));
            }
            packets[2..4].iter_mut().for_each(|packet| Ecn::Ce.write(packet));
            let arrived: Vec<_> = frames
                .iter()
                .map(|frame| VnetHeader::decode(frame).unwrap())
                .flat_map(|(vnet, packet)| split_all(vnet, packet))
                .collect();
            assert_eq!((frames.len(), &arrived[..]), (2, &packets[..4]));
            // Within one batch too.
            Ecn::Ce.write(&mut packets[5]);
            b.outer = Ecn::Ect0;
            assert_eq!(b.receive(at(1), &[a.seal(&packets[4]), a.seal(&packets[5])]).len(), 2);
        }
    }

    #[test]
    fn a_mark_never_stops_control() {
        let (a, mut b) = connected();
        b.outer = Ecn::Ce;
        assert!(b.receive(at(1), &[a.seal(&control(b"hello"))]).is_empty());
        assert_eq!(b.upcalls(), [Upcall::Control { slot: SlotIndex(2), bytes: b"hello".to_vec() }]);
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
        let runs = [a.seal(&build(A.0, B.0, UDP, b"x")), a.seal(&control(b"join"))];
        assert!(b.receive(at(1), &runs).is_empty());
        assert_eq!(b.upcalls(), [Upcall::Control { slot: SlotIndex(2), bytes: b"join".to_vec() }]);
        assert_eq!(b.drops.snapshot(), [("control-only", 1)]);
    }

    #[test]
    fn control_goes_up_and_never_to_the_device() {
        let (a, mut b) = connected();
        let longest = vec![9; MAX_MESSAGE];
        let mut oversized = control(&longest);
        oversized.push(9);
        oversized[4..6].copy_from_slice(&(MAX_MESSAGE as u16 + 1).to_be_bytes());
        let mut reversed = control(b"x");
        reversed[8..40].rotate_left(16);
        let packets = [control(&longest), oversized, control(b""), reversed];
        let runs: Vec<_> = packets.iter().map(|packet| a.seal(packet)).collect();
        assert!(b.receive(at(1), &runs).is_empty());
        let up = |bytes: &[u8]| Upcall::Control { slot: SlotIndex(2), bytes: bytes.to_vec() };
        assert_eq!(b.upcalls(), [up(&longest), up(b"")]);
        assert_eq!(b.drops.snapshot(), [("malformed-packet", 1), ("special-address", 1)]);
    }

    #[test]
    fn one_bad_datagram_never_ends_a_run() {
        let (a, mut b) = connected();
        let datagrams: Vec<_> =
            (0..6u8).map(|i| a.seal(&build(A.0, B.0, UDP, &[i; 20])).1).collect();
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

    /// `count` sealed packets of a UDP flow, each with its number.
    fn numbered(a: &Device, count: u32) -> Vec<(usize, Vec<u8>)> {
        (0..count).map(|i| a.seal(&build(A.0, B.0, UDP, &i.to_be_bytes()))).collect()
    }

    /// The numbers in what arrived, in order.
    fn numbers(frames: &[Vec<u8>]) -> Vec<u32> {
        let packets = frames.iter().map(|frame| VnetHeader::decode(frame).unwrap());
        let packets = packets.flat_map(|(vnet, packet)| split_all(vnet, packet));
        packets.map(|packet| u32::from_be_bytes(packet[28..].try_into().unwrap())).collect()
    }

    #[test]
    fn whatever_comes_again_is_dropped_alone_or_in_runs_and_changes_nothing() {
        let (a, mut b) = connected();
        let sealed = numbered(&a, 60);
        let stride = sealed[0].0;
        let run: Vec<u8> = sealed[..40].iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(numbers(&b.receive(at(1), &[(stride, run.clone())])).len(), 40);
        for again in [(stride, run), sealed[39].clone(), sealed[0].clone()] {
            let before = b.drops.get(DropReason::Replayed);
            assert!(b.receive(at(9), std::slice::from_ref(&again)).is_empty());
            let copies = (again.1.len() / stride) as u64;
            assert_eq!(b.drops.get(DropReason::Replayed), before + copies);
        }
        assert_eq!(b.upcalls(), [], "a replay from elsewhere moves nothing");
        let mixed = [sealed[41].clone(), sealed[5].clone(), sealed[40].clone()];
        assert_eq!(numbers(&b.receive(at(1), &mixed)), [41, 40]);
    }

    #[test]
    fn what_is_late_arrives_as_it_came_as_long_as_the_window_reaches() {
        let (a, mut b) = connected();
        let sealed = numbered(&a, 8_200);
        let order = [3, 0, 2, 1, 9, 4];
        let late: Vec<_> = order.iter().map(|at| sealed[*at].clone()).collect();
        assert_eq!(numbers(&b.receive(at(1), &late)), [3, 0, 2, 1, 9, 4]);
        b.receive(at(1), &sealed[8_199..]);
        // The window holds 8,128 counters below the next one.
        assert_eq!(numbers(&b.receive(at(1), &sealed[72..73])), [72]);
        assert!(b.receive(at(1), &sealed[71..72]).is_empty());
        assert!(b.receive(at(1), &sealed[5..6]).is_empty());
        assert_eq!(b.drops.snapshot(), [("replayed", 2)]);
    }

    #[test]
    fn counters_at_the_limit_are_refused_in_a_run_and_spoil_no_window() {
        let (a, mut b) = connected();
        let mut sealed = numbered(&a, 4);
        for (at, counter) in [(0, u64::MAX), (2, u64::MAX - (1 << 13))] {
            sealed[at].1[8..16].copy_from_slice(&counter.to_le_bytes());
        }
        let run = sealed.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(numbers(&b.receive(at(1), &[(sealed[0].0, run)])), [1, 3]);
        assert_eq!(b.drops.snapshot(), [("counter-limit", 2)]);
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
    fn handshakes_and_stun_go_up_and_a_flood_is_bounded_and_counted() {
        let (a, mut b) = strangers();
        let initiation = a.slot().tunnel.lock().initiate(a.now);
        b.receive(at(1), &[(148, initiation.clone())]);
        assert_eq!(b.upcalls(), [Upcall::Handshake { from: at(1), bytes: initiation }]);
        let key = CheckKey::derive(&secret(1), &secret(2).public()).unwrap();
        let transaction = TransactionId::new([7; 12]);
        let check = CheckRequest { transaction, tag: key.tag(0) }.encode(&key);
        b.receive(at(3), &[(check.len(), check.repeat(1000))]);
        assert_eq!(b.upcalls().len(), 128, "its share: the rest is for whom we know");
        assert_eq!(b.drops.get(DropReason::DatagramUpcall), 872);
        let mut answer = vec![0; 92];
        answer[0] = 2;
        answer[9] = 77;
        b.receive(at(3), &[(92, answer)]);
        assert_eq!(b.drops.get(DropReason::UnknownIndex), 1, "an answer to nobody");
    }

    #[test]
    fn stun_that_nobody_known_sent_and_nobody_asked_for_goes_nowhere_and_keeps_no_check_out() {
        let (_, mut b) = strangers();
        let expected = Arc::new(ExpectedStun::default());
        b.table = b.table.with_expected(expected.clone());
        let [known, stranger] = [2, 3].map(|other| {
            let key = CheckKey::derive(&secret(1), &secret(other).public()).unwrap();
            (key.tag(0), key)
        });
        expected.extend([known.0]);
        expected.set_complete(true);
        let transaction = TransactionId::new([7; 12]);
        let check =
            |(tag, key): &(_, CheckKey)| CheckRequest { transaction, tag: *tag }.encode(key);
        let (ours, theirs) = (check(&known), check(&stranger));
        let answer = CheckResponse { transaction, mapped: at(1) }.encode(&known.1);
        let bare = StunRequest { transaction, change: (false, false) }.encode();
        let flood = |b: &mut Device| {
            for message in [&theirs, &answer, &bare] {
                b.receive(at(3), &[(message.len(), message.repeat(1000))]);
            }
        };
        flood(&mut b);
        b.receive(at(4), &[(ours.len(), ours.clone())]);
        flood(&mut b);
        assert_eq!(b.upcalls(), [Upcall::Datagram { from: at(4), bytes: ours }]);
        let drops =
            [DropReason::StrangersCheck, DropReason::UnaskedAnswer, DropReason::UnknownDatagram];
        assert_eq!(drops.map(|reason| b.drops.get(reason)), [2000; 3]);
        expected.expect_answer(transaction);
        b.receive(at(3), &[(answer.len(), answer.clone())]);
        assert_eq!(b.upcalls(), [Upcall::Datagram { from: at(3), bytes: answer }]);
    }

    #[test]
    fn cookies_go_up_only_where_a_handshake_waits_for_them() {
        let (a, mut b) = strangers();
        let mut cookie = vec![9; 64];
        cookie[..8].copy_from_slice(&[3, 0, 0, 0, 0, 2, 0, 0]);
        let run = [(64, cookie.clone())];
        b.receive(at(1), &run);
        assert_eq!(b.drops.get(DropReason::UnaskedCookie), 1, "no handshake is under way");
        b.slot().tunnel.lock().initiate(a.now);
        b.receive(at(3), &run);
        assert_eq!(b.drops.get(DropReason::UnaskedCookie), 2, "the initiation went elsewhere");
        assert_eq!(b.upcalls(), []);
        for _ in 0..20 {
            b.receive(at(1), &run);
        }
        let up = Upcall::Handshake { from: at(1), bytes: cookie };
        assert_eq!(b.upcalls(), [up.clone(), up], "two a second");
    }

    #[test]
    fn a_flood_of_handshakes_is_answered_with_cookies_that_are_counted() {
        let (a, mut b) = strangers();
        let initiation = a.slot().tunnel.lock().initiate(a.now);
        let mut up = 0;
        for host in 0..120 {
            b.receive(at(host), &[(148, initiation.clone())]);
            up += b.upcalls().len();
        }
        let replies: Vec<_> = b.ingress.drain_replies().collect();
        assert_eq!(replies.len(), 20);
        assert!(replies.iter().all(|(_, cookie)| cookie[..4] == [3, 0, 0, 0]));
        assert_eq!(b.drops.get(DropReason::CookieSent), 20);
        assert_eq!(up, 100);
    }
}
