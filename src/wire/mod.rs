//! What is said on the wire: codecs only. They take a slice and a hard cap, fail on trailing
//! bytes, and allocate no more than their input.
pub mod beacon;
pub mod classify;
pub mod control;
pub mod record;
pub mod saved;
pub mod stun;

#[cfg(test)]
mod tests;
