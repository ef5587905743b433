//! SKELETON (helper `discovery` owns and completes this file).
/// The longest beacon, in bytes.
pub const MAX_LEN: usize = 256;
