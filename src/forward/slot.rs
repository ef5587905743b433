//! SKELETON (helper `forward` owns).
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use super::Tunnel;

/// The number of a peer's slot: 24 bits, the upper part of its WireGuard receiver indices. Never reused for another peer while the agent runs (wraps after 2^24).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotIndex(pub u32);

/// What a tunnel may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries { Everything, ControlOnly }

/// Everything the packet path shares with `mesh` about one peer in use.
pub struct PeerSlot {
    pub index: SlotIndex,
    pub tunnel: parking_lot::Mutex<Tunnel>,
    /// Where its datagrams go; only `mesh` writes.
    pub endpoint: arc_swap::ArcSwapOption<SocketAddr>,
    /// Inner sources that belong to this peer: exact addresses (/32, /128) and granted routes.
    pub allowed: Vec<(IpAddr, u8)>,
    pub carries: Carries,
    pub stats: Stats,
}

/// Counters of one peer; relaxed atomics.
#[derive(Debug, Default)]
pub struct Stats {
    pub rx_bytes: AtomicU64, pub tx_bytes: AtomicU64, pub rx_packets: AtomicU64, pub tx_packets: AtomicU64,
    /// Milliseconds since the slot's `born` instant of the last authentic datagram / last user data sent / received; 0 = never.
    pub last_authentic_ms: AtomicU64, pub last_data_sent_ms: AtomicU64, pub last_data_received_ms: AtomicU64,
}
