//! SKELETON
pub mod server;
