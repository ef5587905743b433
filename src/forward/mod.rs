//! Moves packets: TUN frames out into WireGuard datagrams, WireGuard datagrams in to TUN frames.
//!
//! No I/O, no clock, no allocation for a packet. `mesh` decides and writes two things, the
//! [`ForwardingTable`] snapshot and each [`PeerSlot`]'s endpoint; the worker threads of `agent` read
//! them and carry each frame to completion. What the packet path cannot answer by itself goes up to
//! `mesh` as an [`Upcall`].
//!
//! * Out: [`egress`] takes one frame through [`segment`] and a tunnel into a [`buffer`] for one send.
//! * In: [`ingress`] takes received datagrams through a tunnel and [`coalesce`] into frames.
//! * [`table`], [`slot`]: where a packet belongs, and what is known of that peer.
//! * [`tunnel`]: WireGuard sessions; the only file that knows boringtun.
//!   `timing` knows when its timers have something to do.
//! * [`guard`]: who may cost us a handshake.
//! * [`packet`]: IP headers, checksums, control packets.
//! * [`drops`], [`upcall`]: what becomes of the packets that do not go through.

pub mod buffer;
pub mod coalesce;
pub mod drops;
pub mod egress;
pub mod guard;
pub mod ingress;
pub mod packet;
pub mod segment;
pub mod slot;
pub mod table;
mod timing;
pub mod tunnel;
pub mod upcall;

pub use drops::{DropCounters, DropReason};
pub use guard::{HandshakeGuard, Verdict};
pub use slot::{Carries, PeerSlot, SlotIndex};
pub use table::{ForwardingTable, LocalAddresses};
pub use tunnel::Tunnel;
pub use upcall::{Upcall, Upcalls};

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

#[cfg(test)]
mod tests;
