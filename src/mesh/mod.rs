//! SKELETON (lead owns).
pub mod deadlines;
pub mod event;
pub mod gossip;
pub mod join;
pub mod key;
pub mod rate;
