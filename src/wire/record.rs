//! SKELETON (helper `discovery` owns and completes this file).
use std::net::SocketAddr;
use crate::identity::{DeviceId, IdSecret};

/// Length of every value stored in the DHT, in bytes.
pub const VALUE_LEN: usize = 640;

/// A BEP 44 public key: the DHT key of a mutable item (no salt).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DhtKey(pub [u8; 32]);

/// A signed BEP 44 mutable item, as it goes to or comes from any DHT node. The DHT adapter verified nothing but its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedItem { pub key: DhtKey, pub seq: i64, pub value: Vec<u8>, pub signature: [u8; 64], pub cas: Option<i64> }

/// 32 secret bytes that members share; they hide where records are, and protect nothing else.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct NetworkSecret { pub generation: u32, key: [u8; 32] }
impl NetworkSecret {
    pub fn new(generation: u32, key: [u8; 32]) -> Self { Self { generation, key } }
    pub fn key(&self) -> &[u8; 32] { &self.key }
}
impl std::fmt::Debug for NetworkSecret { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "NetworkSecret({}, [redacted])", self.generation) } }

/// The number of a six-hour period of one device: `(unix + phase) / 6 h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// What a device tells those who look for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordBody { /// at most 12
    pub endpoints: Vec<SocketAddr>, /// at most 4
    pub relays: Vec<DeviceId>, pub nat: u8, pub heads: [u8; 8] }

#[allow(unused)] fn _u(_: IdSecret) {}
