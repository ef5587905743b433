//! SKELETON
pub mod dht;
pub mod lan;
