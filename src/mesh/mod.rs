//! SKELETON (lead owns).
pub mod event;
