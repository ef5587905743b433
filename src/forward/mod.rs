//! SKELETON (helper `forward` owns and completes this folder).
pub mod slot;
pub mod table;
pub mod tunnel;
pub use slot::{Carries, PeerSlot, SlotIndex};
pub use table::ForwardingTable;
pub use tunnel::Tunnel;
use std::net::SocketAddr;

/// What the packet path could not answer by itself; a bounded channel carries it to `mesh`.
#[derive(Debug)]
pub enum Upcall {
    /// A datagram that is not WireGuard transport: STUN (the only kind today).
    Datagram { from: SocketAddr, bytes: Vec<u8> },
    /// A WireGuard handshake message (types 1, 2, 3) of which MAC1 (and the cookie, under load) verified.
    Handshake { from: SocketAddr, bytes: Vec<u8> },
    /// A control payload (next-header 253, fe80::1 to fe80::2) from inside the tunnel of that slot.
    Control { slot: SlotIndex, bytes: Vec<u8> },
    /// An inner packet for an overlay address that no slot or no session serves.
    NoSession { destination: std::net::IpAddr, packet: Vec<u8> },
    /// Authentic transport data of that slot came from an address that is not its endpoint (at most once a second a slot).
    Roamed { slot: SlotIndex, from: SocketAddr },
}
