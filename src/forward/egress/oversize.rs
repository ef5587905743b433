//! Packets that are longer than the path carries and are not TCP that could be cut.
//!
//! While the path's size is not settled they are fragmented, all of them: hosts remember what they
//! are told for minutes, so nobody is told before it is known. Then a packet whose source can send
//! less is answered, and dropped; what may be fragmented is. IPv6 packets up to 1,280 bytes always
//! are, since no host can be told less. Packets that wait for a session are made to fit any path.

use std::time::Instant;

use super::super::buffer::Batch;
use super::super::fragment::{Fragments, too_big, wants_answer};
use super::super::outcome::TunnelError;
use super::super::packet::Header;
use super::super::segment::{Segments, VnetHeader};
use super::super::slot::{Allowance, Limit, PeerSlot};
use super::super::{DropReason, Shared, Upcall};
use super::{MAX_WAITING, Outbox, Target, tell_awake};

/// The most answers of one turn; a host that needs another sends another packet.
const MAX_ANSWERS: usize = 16;

/// Room for what a packet that does not fit a path is cut into: no path is found to carry more than
/// an Ethernet.
const MAX_PIECE: usize = 1_500;

/// Packets a second, of one queue, that go up for devices that are not in use: each may bring one
/// into use. More is a program that talks to every address there is.
const UNROUTED_A_SECOND: u64 = 256;

/// The slow way.
#[derive(Debug)]
pub(super) struct Detour {
    vnet: bool,
    /// A part of a packet that is too long.
    piece: Box<[u8]>,
    /// Frames for the device.
    answers: Vec<Vec<u8>>,
    /// What goes up for devices that are not in use, by the second since the first.
    unrouted: Allowance,
    since: Option<Instant>,
}

impl Detour {
    /// For a queue whose frames begin with a `virtio_net_hdr`, or not.
    pub(super) fn new(vnet: bool) -> Self {
        Self {
            vnet,
            piece: vec![0; MAX_PIECE].into_boxed_slice(),
            answers: Vec::new(),
            unrouted: Allowance::default(),
            since: None,
        }
    }

    /// What a router on the way would say.
    pub(super) fn drain_answers(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.answers.drain(..)
    }

    /// Takes a frame that does not fit the path, packet by packet.
    pub(super) fn seal(
        &mut self,
        segments: &mut Segments<'_>,
        target: Target<'_>,
        outbox: &mut Outbox,
        shared: &mut Shared<'_>,
        send: &mut dyn FnMut(Batch<'_>),
        now: Instant,
    ) {
        let (slot, limit) = (target.slot, target.slot.limit());
        while let Some(packet) = segments.make_next() {
            if packet.len() > limit.packet.into() && limit.settled && wants_answer(packet) {
                shared.drops.count(DropReason::TooBig);
                if self.answers.len() < MAX_ANSWERS && slot.may_answer_too_big(now) {
                    self.answers.extend(answer(packet, limit.packet, self.vnet));
                }
                continue;
            }
            let mut seal = |piece: &[u8]| seal_piece(outbox, piece, target, shared, send, now);
            let sealed = each_piece(packet, limit.packet.into(), &mut self.piece, &mut seal);
            // One packet that cannot go is no reason to keep back those behind it.
            if let Err(reason) = sealed {
                shared.drops.count(reason);
            }
        }
    }

    /// Gives the first packets of what is left of a frame to `mesh`, with the one that was made last;
    /// `slot` is the device's, where it is in use.
    pub(super) fn hand_up(
        &mut self,
        segments: &mut Segments<'_>,
        header: &Header,
        slot: Option<&PeerSlot>,
        shared: &mut Shared<'_>,
        now: Instant,
    ) {
        let second = now.saturating_duration_since(*self.since.get_or_insert(now)).as_secs();
        let may_wait = || match slot {
            Some(slot) => slot.may_wait(now),
            None => self.unrouted.take(UNROUTED_A_SECOND, second),
        };
        let lowest = usize::from(Limit::LOWEST.packet);
        // Whether they fit is seen to below, packet by packet.
        let _ = segments.fit(lowest);
        let mut room = MAX_WAITING;
        loop {
            let mut push = |piece: &[u8]| {
                if room > 0 {
                    room -= 1;
                    wait(header, piece, may_wait(), shared);
                }
                Ok(())
            };
            let packet = segments.made();
            if !packet.is_empty() && each_piece(packet, lowest, &mut self.piece, &mut push).is_err()
            {
                shared.drops.count(DropReason::TooBig);
            }
            if room == 0 || segments.make_next().is_none() {
                return;
            }
        }
    }
}

/// Hands `packet` on in pieces of at most `limit` bytes each.
fn each_piece(
    packet: &[u8],
    limit: usize,
    scratch: &mut [u8],
    emit: &mut dyn FnMut(&[u8]) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    if packet.len() <= limit {
        return emit(packet);
    }
    let header = Header::parse(packet).ok_or(DropReason::MalformedPacket)?;
    let mut copy = packet.to_vec();
    let segments = Segments::split(VnetHeader::default(), &mut copy, header);
    let mut segments = segments.map_err(|_| DropReason::BadOffload)?;
    if segments.fit(limit) {
        while let Some(piece) = segments.make_next() {
            emit(piece)?;
        }
        return Ok(());
    }
    let mut fragments = Fragments::new(packet, limit).ok_or(DropReason::TooBig)?;
    while let Some(len) = fragments.write_next(scratch) {
        emit(&scratch[..len])?;
    }
    Ok(())
}

/// Seals one packet that fits.
fn seal_piece(
    outbox: &mut Outbox,
    piece: &[u8],
    Target { slot, to, ecn }: Target<'_>,
    shared: &mut Shared<'_>,
    send: &mut dyn FnMut(Batch<'_>),
    now: Instant,
) -> Result<(), DropReason> {
    // One lock for the length and the sealing: `mesh` may set another limit in between.
    let seal = |outbox: &mut Outbox| {
        let mut tunnel = slot.tunnel.lock();
        let sealed_len = tunnel.sealed_len(piece.len());
        let mut room = outbox.buffer.reserve(to, ecn, sealed_len)?;
        let sealed = tunnel.seal_into(piece, &mut room, now);
        let late = tunnel.is_overdue(now) || !slot.is_watched(now);
        Some(sealed.map(|_| room.commit()).map(|()| (sealed_len, late)))
    };
    let sealed = seal(outbox).or_else(|| {
        outbox.send_on(send);
        seal(outbox)
    });
    match sealed.ok_or(DropReason::BadOffload)? {
        Ok((sealed_len, late)) => {
            slot.count_sent(1, sealed_len, now);
            if late {
                tell_awake(slot, shared, now);
            }
        }
        Err(TunnelError::NoSession | TunnelError::CounterLimit) => {
            let header = Header::parse(piece).ok_or(DropReason::MalformedPacket)?;
            wait(&header, piece, slot.may_wait(now), shared);
        }
        Err(_) => return Err(DropReason::BadOffload),
    }
    Ok(())
}

/// Hands a packet up to wait for a session, where it `may`.
fn wait(header: &Header, packet: &[u8], may: bool, shared: &mut Shared<'_>) {
    if !may {
        return shared.drops.count(DropReason::NoSessionUpcall);
    }
    let (destination, packet) = (header.destination, packet.to_vec());
    shared.upcalls.push(Upcall::NoSession { destination, packet }, shared.drops);
}

/// The frame that tells the host.
fn answer(packet: &[u8], limit: u16, vnet: bool) -> Option<Vec<u8>> {
    let header = Header::parse(packet)?;
    let answer = too_big(packet, &header, limit)?;
    let vnet = if vnet { &VnetHeader::default().encode()[..] } else { &[] };
    Some([vnet, &answer].concat())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::super::super::fixture::*;
    use super::super::super::packet::tests::{build, fix_checksums};
    use super::super::super::packet::{TCP, UDP};
    use super::super::super::segment::tests::super_packet;
    use super::*;

    /// The datagrams' lengths, and what the other side's interface got.
    fn cross(a: &mut Device, b: &mut Device, frame: Vec<u8>) -> (Vec<usize>, Vec<Vec<u8>>) {
        let batches = a.send(&[frame]);
        let lengths = batches
            .iter()
            .flat_map(|(_, stride, bytes)| bytes.chunks(*stride).map(<[u8]>::len))
            .collect();
        let runs: Vec<_> = batches.into_iter().map(|(_, stride, bytes)| (stride, bytes)).collect();
        let frames = b.receive(at(1), &runs);
        (lengths, frames)
    }

    fn limit(device: &Device, packet: u16, settled: bool) {
        device.slot().set_limit(Limit { packet, settled });
    }

    #[test]
    fn tcp_crosses_a_narrow_path_in_smaller_segments_and_nobody_is_told() {
        for v4 in [true, false] {
            let (mut a, mut b) = connected();
            limit(&a, 1220, true);
            let (vnet, whole, _) = super_packet(v4, TCP, &[7; 30_000], 1348);
            let (lengths, frames) = cross(&mut a, &mut b, [&vnet.encode()[..], &whole].concat());
            assert!(lengths.iter().all(|len| *len <= 1220 + 32), "{lengths:?}");
            let payload: usize = frames.iter().map(|frame| bare(frame).len()).sum();
            assert!(payload >= 30_000);
            assert_eq!((a.drops.snapshot(), a.egress.drain_answers().count()), (vec![], 0));
        }
    }

    #[test]
    fn before_the_size_is_settled_everything_is_fragmented_and_nobody_is_told() {
        for (from, to) in [(A.0, B.0), (A.1, B.1)] {
            let (mut a, mut b) = connected();
            a.slot().set_limit(Limit::LOWEST);
            let packet = build(from, to, UDP, &[7; 1372]);
            let (lengths, frames) = cross(&mut a, &mut b, single(&packet));
            assert_eq!((lengths.len(), frames.len()), (2, 2));
            assert!(lengths.iter().all(|len| *len <= 1232), "{lengths:?}");
            assert_eq!((a.drops.snapshot(), a.egress.drain_answers().count()), (vec![], 0));
        }
    }

    #[test]
    fn on_a_settled_path_the_source_is_told_at_a_limited_rate_and_the_packet_dropped() {
        for (from, to) in [(A.0, B.0), (A.1, B.1)] {
            let (mut a, mut b) = connected();
            limit(&a, 1220, true);
            let packet = build(from, to, UDP, &[7; 1372]);
            assert_eq!(cross(&mut a, &mut b, single(&packet)), (vec![], vec![]));
            cross(&mut a, &mut b, single(&packet));
            let answers: Vec<_> = a.egress.drain_answers().collect();
            assert_eq!(answers.len(), 1);
            let header = Header::parse(bare(&answers[0])).unwrap();
            assert_eq!((header.source, header.destination), (ip(to), ip(from)));
            assert_eq!(a.drops.snapshot(), [("too-big", 2)]);
            a.now += Duration::from_millis(20);
            cross(&mut a, &mut b, single(&packet));
            assert_eq!(a.egress.drain_answers().count(), 1);
        }
    }

    #[test]
    fn what_cannot_be_sent_smaller_is_fragmented_on_a_settled_path() {
        let (mut a, mut b) = connected();
        limit(&a, 1220, true);
        let mut open = build(A.0, B.0, UDP, &[7; 1372]);
        open[6] = 0;
        fix_checksums(&mut open);
        let least = build(A.1, B.1, UDP, &[7; 1232]);
        for packet in [open, least] {
            let (lengths, frames) = cross(&mut a, &mut b, single(&packet));
            assert_eq!((lengths.len(), frames.len()), (2, 2));
            assert!(lengths.iter().all(|len| *len <= 1252), "{lengths:?}");
        }
        assert_eq!((a.drops.snapshot(), a.egress.drain_answers().count()), (vec![], 0));
    }

    #[test]
    fn packets_that_wait_for_a_session_fit_every_path() {
        let (mut a, _) = strangers();
        for packet in [build(A.0, B.0, UDP, &[7; 1372]), build(A.1, B.1, TCP, &[7; 1348])] {
            a.send(&[single(&packet)]);
            let waiting: Vec<_> = a
                .upcalls()
                .into_iter()
                .map(|upcall| match upcall {
                    Upcall::NoSession { packet, .. } => packet.len(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(waiting.len(), 2);
            assert!(waiting.iter().all(|len| *len <= 1200), "{waiting:?}");
        }
    }

    #[test]
    fn large_packets_are_noted_and_small_ones_are_not() {
        let (mut a, mut b) = connected();
        limit(&a, 1420, true);
        let large = |a: &Device| a.slot().stats.last_large_sent_ms.load(Ordering::Relaxed);
        cross(&mut a, &mut b, single(&build(A.0, B.0, UDP, &[7; 1000])));
        assert_eq!(large(&a), 0);
        cross(&mut a, &mut b, single(&build(A.0, B.0, UDP, &[7; 1392])));
        assert_ne!(large(&a), 0);
    }
}
