//! The number by which `mesh` knows a peer.

/// Numbers the peers of one network on this device: members, guests under an invite's key, and
/// candidates that are being admitted. Never reused while the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub u32);
