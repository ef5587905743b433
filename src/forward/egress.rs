//! Out: a frame of the TUN device into sealed datagrams.
//!
//! One frame is one flow, therefore: one look at its headers, one route, one lock. Each packet is
//! written and sealed at its place in the send buffer, which goes out when it is full, when the next
//! datagram does not fit its shape, or when the device has nothing more to read: grouping adds no
//! latency. The lock is never held while something is sent.
//!
//! Only packets with a source of our own and an ordinary destination leave. A packet for a device
//! that has no slot, no path or no session goes up to `mesh`, which connects and sends it later.

use std::net::SocketAddr;
use std::time::Instant;

use super::buffer::{Batch, SendBuffer};
use super::packet::{Header, is_special};
use super::segment::{Segments, VnetHeader};
use super::slot::PeerSlot;
use super::tunnel::TunnelError;
use super::{DropReason, Shared, Upcall};

/// Room for one packet of a frame.
const MAX_PACKET: usize = 65_535;

/// How many packets of one frame wait for a session: what a peer is kept for in all, so that a
/// super-packet does not fill the queue of the control loop.
const MAX_WAITING: usize = 8;

/// Seals what one TUN queue reads; belongs to its thread.
#[derive(Debug)]
pub struct Egress {
    vnet: bool,
    buffer: SendBuffer,
    packet: Box<[u8]>,
}

/// Why a round of sealing ended.
enum Round {
    /// Every packet of the frame is in the buffer.
    Complete,
    /// The next packet does not fit the batch.
    Full,
    /// There is no session; so many bytes of the first packet are in the scratch space.
    NoSession(usize),
    /// The packet cannot be sealed.
    Refused,
}

impl Egress {
    /// For a queue whose frames begin with a `virtio_net_hdr`, or not.
    pub fn new(vnet: bool) -> Self {
        let packet = vec![0; MAX_PACKET].into_boxed_slice();
        Self { vnet, buffer: SendBuffer::new(), packet }
    }

    /// Takes one frame; batches that are complete go to `send`.
    pub fn handle_frame(
        &mut self,
        frame: &[u8],
        shared: &mut Shared<'_>,
        send: &mut dyn FnMut(Batch<'_>),
        now: Instant,
    ) {
        if let Err(reason) = self.try_frame(frame, shared, send, now) {
            shared.drops.count(reason);
        }
    }

    /// Sends what waits; to be called when the device has nothing more to read.
    pub fn flush(&mut self, send: &mut dyn FnMut(Batch<'_>)) {
        if let Some(batch) = self.buffer.take() {
            send(batch);
        }
    }

    fn try_frame(
        &mut self,
        frame: &[u8],
        shared: &mut Shared<'_>,
        send: &mut dyn FnMut(Batch<'_>),
        now: Instant,
    ) -> Result<(), DropReason> {
        let (vnet, packet) = if self.vnet {
            VnetHeader::decode(frame).ok_or(DropReason::MalformedPacket)?
        } else {
            (VnetHeader::default(), frame)
        };
        let header = Header::parse(packet).ok_or(DropReason::MalformedPacket)?;
        let table = shared.table;
        check_addresses(&header, shared)?;
        let mut segments =
            Segments::split(vnet, packet, header).map_err(|_| DropReason::BadOffload)?;
        let route = table.route(header.destination);
        if route.is_none() && !table.local().is_overlay(header.destination) {
            return Err(DropReason::NoRoute);
        }
        let Some((slot, to)) = route.and_then(|slot| Some((slot, slot.endpoint()?))) else {
            self.hand_up(&mut segments, &header, 0, shared);
            return Ok(());
        };
        loop {
            match self.seal_round(&mut segments, slot, to, shared, now) {
                Round::Complete => return Ok(()),
                Round::Full if self.buffer.is_empty() => return Err(DropReason::BadOffload),
                Round::Full => self.flush(send),
                Round::NoSession(first) => {
                    self.hand_up(&mut segments, &header, first, shared);
                    return Ok(());
                }
                Round::Refused => return Err(DropReason::BadOffload),
            }
        }
    }

    /// Seals packets into the buffer until the frame or the batch ends; holds the lock meanwhile.
    fn seal_round(
        &mut self,
        segments: &mut Segments<'_>,
        slot: &PeerSlot,
        to: SocketAddr,
        shared: &mut Shared<'_>,
        now: Instant,
    ) -> Round {
        let mut tunnel = slot.tunnel.lock();
        let (mut packets, mut bytes) = (0, 0);
        let round = loop {
            let Some(len) = segments.next_len() else { break Round::Complete };
            let sealed_len = tunnel.sealed_len(len);
            let Some(mut room) = self.buffer.reserve(to, sealed_len) else { break Round::Full };
            if segments.write_next(&mut self.packet).is_none() {
                break Round::Refused;
            }
            match tunnel.seal_into(&self.packet[..len], &mut room, now) {
                Ok(_) => room.commit(),
                Err(TunnelError::NoSession | TunnelError::CounterLimit) => {
                    break Round::NoSession(len);
                }
                Err(_) => break Round::Refused,
            }
            packets += 1;
            bytes += sealed_len;
        };
        let overdue = tunnel.is_overdue(now);
        drop(tunnel);
        if packets > 0 {
            slot.count_sent(packets, bytes, now);
        }
        if overdue && slot.may_report_awake(now) {
            shared.upcalls.push(Upcall::Awake { slot: slot.index }, shared.drops);
        }
        round
    }

    /// Gives the first packets of a frame to `mesh`; `first` bytes of one are in the scratch space
    /// already.
    fn hand_up(
        &mut self,
        segments: &mut Segments<'_>,
        header: &Header,
        first: usize,
        shared: &mut Shared<'_>,
    ) {
        let destination = header.destination;
        let mut len = if first > 0 { Some(first) } else { segments.write_next(&mut self.packet) };
        for _ in 0..MAX_WAITING {
            let Some(packet) = len.map(|len| self.packet[..len].to_vec()) else { return };
            shared.upcalls.push(Upcall::NoSession { destination, packet }, shared.drops);
            len = segments.write_next(&mut self.packet);
        }
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
