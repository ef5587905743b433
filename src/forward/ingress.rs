//! In: received datagrams into frames of the TUN device.
//!
//! Datagrams come in runs: those of one sender that the kernel received together. Each is told apart
//! by its first bytes. STUN and handshakes go up to `mesh`, handshakes only past the
//! [`HandshakeGuard`](super::HandshakeGuard). Transport datagrams are opened under their slot's lock,
//! which is held over consecutive datagrams of one slot, into an arena, from which the coalescer
//! makes frames when the batch ends. Of an opened packet
//!
//! * a control message (next-header 253, fe80::1 to fe80::2) goes up to `mesh`, never to the device;
//! * the source must belong to the peer, the destination must be our own or behind us;
//! * multicast, link-local, loopback and unspecified addresses are dropped, whatever was granted;
//! * a peer that may carry control only delivers nothing else.
//!
//! Received data never moves the path that we send on: that it came from elsewhere is a hint.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Instant;

use parking_lot::MutexGuard;

use super::buffer::Arena;
use super::coalesce::{Coalescer, Merge};
use super::guard::Verdict;
use super::packet::{Header, IPV6_HEADER, MAX_CONTROL, is_special};
use super::slot::{Carries, PeerSlot, SlotIndex};
use super::tunnel::{Opened, TunnelError};
use super::{DropReason, LocalAddresses, Shared, Tunnel, Upcall};
use crate::wire::classify::{COOKIE_REPLY_LEN, Class, classify};

/// The longest STUN message that is looked at: no check and no answer of a server is longer than
/// the smallest IPv6 MTU.
const MAX_STUN: usize = 1280;

/// Cookie replies that wait to be sent; past that a sender has to try again, as it would anyway.
const MAX_REPLIES: usize = 64;

/// Datagrams that were received together.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Who sent them, unverified.
    pub from: SocketAddr,
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
        Self { arena: Arena::new(), coalescer: Coalescer::new(merge), merge, replies: Vec::new() }
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
                Class::Transport => self.transport(run.from, datagram, &mut held, shared, now),
                Class::Initiation | Class::Response | Class::CookieReply => {
                    self.handshake(run.from, datagram, shared, now)
                }
                Class::Stun if datagram.len() <= MAX_STUN => {
                    let bytes = datagram.to_vec();
                    shared.upcalls.push(Upcall::Datagram { from: run.from, bytes }, shared.drops);
                    Ok(())
                }
                Class::Relay => Err(DropReason::Relay),
                Class::Stun | Class::Unknown => Err(DropReason::UnknownDatagram),
            };
            if let Err(reason) = handled {
                shared.drops.count(reason);
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
        let receiver = match classify(datagram) {
            Class::Response => Some(le32(datagram, 8)),
            Class::CookieReply => Some(le32(datagram, 4)),
            _ => None,
        };
        let unknown = |index| shared.table.slot(SlotIndex::of_receiver(index)).is_none();
        if receiver.is_some_and(unknown) {
            return Err(DropReason::UnknownIndex);
        }
        match shared.guard.check(from, datagram, now) {
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
        from: SocketAddr,
        datagram: &[u8],
        held: &mut Option<Held<'a>>,
        shared: &mut Shared<'a>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let index = SlotIndex::of_receiver(le32(datagram, 4));
        let held = hold(held, index, shared, now)?;
        let (len, inner) = match held.tunnel.open_into(datagram, self.arena.reserve(), now) {
            Ok(Opened::Packet(packet)) => {
                (packet.len(), Some(judge(packet, held.slot, shared.table.local())))
            }
            Ok(Opened::Keepalive) => (0, None),
            Err(error) => return Err(refusal(error)),
        };
        held.packets += 1;
        held.bytes += datagram.len();
        if held.endpoint != Some(from) && held.slot.may_report_roaming(now) {
            shared.upcalls.push(Upcall::Roamed { slot: index, from }, shared.drops);
        }
        match inner.transpose()? {
            Some(Inner::Control) => {
                let bytes = self.arena.reserve()[IPV6_HEADER..len].to_vec();
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
    let overdue = tunnel.is_overdue(now);
    drop(tunnel);
    if packets > 0 {
        slot.count_received(packets, bytes, data, now);
    }
    if overdue && slot.may_report_awake(now) {
        shared.upcalls.push(Upcall::Awake { slot: slot.index }, shared.drops);
    }
}

/// What an opened packet of `slot` is, or why it goes nowhere.
fn judge(packet: &[u8], slot: &PeerSlot, local: &LocalAddresses) -> Result<Inner, DropReason> {
    let header = Header::parse(packet).ok_or(DropReason::MalformedPacket)?;
    if header.is_control() {
        let fits = packet.len() - IPV6_HEADER <= MAX_CONTROL;
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

fn refusal(error: TunnelError) -> DropReason {
    match error {
        TunnelError::NoSession => DropReason::UnknownIndex,
        TunnelError::NotAuthentic => DropReason::NotAuthentic,
        TunnelError::Replayed => DropReason::Replayed,
        TunnelError::CounterLimit => DropReason::CounterLimit,
        TunnelError::Malformed | TunnelError::BufferTooSmall => DropReason::MalformedPacket,
    }
}

/// A little-endian number of a message whose length its class vouches for.
fn le32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|field| field.first_chunk());
    u32::from_le_bytes(field.copied().unwrap_or_default())
}
