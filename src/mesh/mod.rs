//! SKELETON (lead owns).
pub mod candidate;
pub mod event;
pub mod path;
pub mod reach;
