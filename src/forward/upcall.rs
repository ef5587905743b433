//! What the packet path cannot answer by itself, on its way to `mesh`.
//!
//! A worker collects [`Upcall`]s while it handles a batch and passes them on when the batch ends. The
//! queue is bounded: what does not fit is dropped and counted by kind, so that a flood costs a
//! counter and no memory. Everything that goes up is sent again by its sender if it mattered.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use super::drops::{DropCounters, DropReason};
use super::slot::SlotIndex;

/// The most upcalls of one batch: more than a batch of receives can bring of other kinds than
/// floods.
const CAPACITY: usize = 256;

/// What the packet path could not answer by itself; a bounded channel carries it to `mesh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upcall {
    /// A datagram that is not WireGuard transport: STUN (the only kind today).
    Datagram {
        /// Who sent it, unverified.
        from: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// A WireGuard handshake message (types 1, 2, 3) of which MAC1 (and the cookie, under load)
    /// verified; type 3 has no MAC1.
    Handshake {
        /// Who sent it, unverified.
        from: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// A control payload (next-header 253, fe80::1 to fe80::2) from inside the tunnel of that slot.
    Control {
        /// The peer that sent it.
        slot: SlotIndex,
        /// What follows the IPv6 header.
        bytes: Vec<u8>,
    },
    /// An inner packet for an overlay address that no slot or no session serves.
    NoSession {
        /// The packet's destination.
        destination: IpAddr,
        /// The packet, whole.
        packet: Vec<u8>,
    },
    /// Authentic transport data of that slot came from an address that is not its endpoint (at most
    /// once a second a slot).
    Roamed {
        /// The peer.
        slot: SlotIndex,
        /// Where its data came from.
        from: SocketAddr,
    },
    /// Data woke that slot's tunnel: its [`Tunnel::poll_timeout`] came nearer, or is overdue (at
    /// most once a second a slot). `mesh` runs its timers and takes the new deadline.
    Awake {
        /// The peer.
        slot: SlotIndex,
    },
}

impl Upcall {
    /// What is counted where this has no room.
    pub fn overflow(&self) -> DropReason {
        match self {
            Self::Datagram { .. } => DropReason::DatagramUpcall,
            Self::Handshake { .. } => DropReason::HandshakeUpcall,
            Self::Control { .. } => DropReason::ControlUpcall,
            Self::NoSession { .. } => DropReason::NoSessionUpcall,
            Self::Roamed { .. } => DropReason::RoamedUpcall,
            Self::Awake { .. } => DropReason::AwakeUpcall,
        }
    }
}

/// The upcalls of one batch, oldest first.
#[derive(Debug, Default)]
pub struct Upcalls(VecDeque<Upcall>);

impl Upcalls {
    /// Adds one, or counts it as dropped.
    pub fn push(&mut self, upcall: Upcall, drops: &DropCounters) {
        if self.0.len() < CAPACITY {
            self.0.push_back(upcall);
        } else {
            drops.count(upcall.overflow());
        }
    }

    /// Takes all.
    pub fn drain(&mut self) -> impl Iterator<Item = Upcall> + '_ {
        self.0.drain(..)
    }
}
