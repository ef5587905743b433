//! SKELETON (lead owns).
pub mod cadence;
pub mod directory;
pub mod event;
pub mod lan;
pub mod publisher;
pub mod wall;
