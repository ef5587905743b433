//! SKELETON (helper `forward` owns).
use std::sync::Arc;
use super::slot::PeerSlot;
/// An immutable snapshot: overlay address → slot, receiver index → slot. Built whole by `mesh` on every change of peers in use.
#[derive(Default)]
pub struct ForwardingTable { }
impl std::fmt::Debug for ForwardingTable { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("ForwardingTable") } }
impl ForwardingTable { pub fn new(_slots: impl IntoIterator<Item = Arc<PeerSlot>>) -> Self { todo!() } }
