//! Moves packets: TUN frames out into WireGuard datagrams, WireGuard datagrams in to TUN frames.
//!
//! No I/O, no clock (but for what handshakes need: `tunnel`), no allocation for a packet. `mesh`
//! decides and writes the [`ForwardingTable`] snapshot and each [`PeerSlot`]'s endpoint and size limit;
//! the worker threads of `agent` read them and carry each frame to completion. What the packet path cannot answer by itself goes up to
//! `mesh` as an [`Upcall`].
//!
//! * Out: [`egress`] takes one frame through [`segment`] and a tunnel into a [`buffer`] for one send.
//! * In: [`ingress`] takes received datagrams through a tunnel and [`coalesce`] into frames.
//! * [`table`], [`slot`]: where a packet belongs, and what is known of that peer.
//! * [`tunnel`]: WireGuard sessions: handshake, counters, timers, cookies.
//! * [`aead`]: the cipher of transport packets, in the instructions that the processor has.
//! * [`ecn`]: congestion marks through the tunnel.
//! * [`guard`]: who may cost us a handshake; `proven`: who needs no cookie for it.
//! * `expected`: which STUN messages are not a stranger's.
//! * [`fragment`]: what becomes of packets that a path does not carry whole.
//! * [`packet`]: IP headers, checksums, control packets.
//! * [`drops`], [`upcall`]: what becomes of the packets that do not go through.

pub mod aead;
pub mod buffer;
pub mod coalesce;
pub mod drops;
pub mod ecn;
pub mod egress;
mod expected;
#[cfg(test)]
mod fixture;
pub mod fragment;
pub mod guard;
pub mod ingress;
mod outcome;
pub mod packet;
mod proven;
mod recent;
pub mod segment;
pub mod slot;
mod sum;
pub mod table;
pub mod tunnel;
pub mod upcall;

pub use drops::{DropCounters, DropReason};
pub use expected::{ExpectedStun, Known, Version};
pub use guard::{HandshakeGuard, Verdict};
pub use slot::{Carries, Limit, PeerSlot, SlotIndex};
pub use table::{ForwardingTable, LocalAddresses};
pub use tunnel::Tunnel;
pub use upcall::{Kind as UpcallKind, Upcalls};

use std::net::{IpAddr, SocketAddr};

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
    /// User data flows in that slot's tunnel and `mesh` does not watch it, or its
    /// [`Tunnel::poll_timeout`] is overdue (at most once a second a slot). `mesh` runs its timers, takes
    /// the new deadline and watches.
    Awake {
        /// The peer.
        slot: SlotIndex,
    },
}

/// What every frame and run is handled with: the snapshot of the moment, and where to put what the
/// packet path drops or cannot answer.
#[derive(Debug)]
pub struct Shared<'a> {
    /// Where packets belong.
    pub table: &'a ForwardingTable,
    /// Who may cost a handshake.
    pub guard: &'a HandshakeGuard,
    /// Counts what is dropped.
    pub drops: &'a DropCounters,
    /// Takes what `mesh` has to answer.
    pub upcalls: &'a mut Upcalls,
}
