//! SKELETON (helper `membership` owns and completes this file).
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::invite::InviteId;
use super::policy::DeviceName;
use crate::identity::{AdminId, AdminSecret, DeviceId, IdSecret, InviteKey, Ipv4Pool, NetworkId, RootId, RootSecret, Signature, WgPublicKey, WgSecret};

/// Seconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// RFC 3339, whole seconds, `Z`.
    pub fn rfc3339(self) -> String { todo!() }
}

/// What a network is: fixed for ever; its hash is the network's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    pub version: u8,
    pub root: RootId,
    pub created: UnixTime,
    pub salt: [u8; 16],
    pub ipv4_pool: GenesisPool,
    /// DNS label
    pub name: DeviceName,
}

/// The network's choice of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GenesisPool { Default, None, Named(Ipv4Pool) }

impl Genesis {
    pub fn encode(&self) -> Vec<u8> { todo!() }
    /// Hard cap 256 bytes; trailing bytes are an error.
    pub fn decode(_bytes: &[u8]) -> Result<Self, OpError> { todo!() }
    /// H(encoded)
    pub fn network_id(&self) -> NetworkId { todo!() }
    /// The pool in force (the default one is computed from the network id).
    pub fn pool(&self) -> Option<Ipv4Pool> { todo!() }
}

/// Who wrote an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Author { Root(RootId), Admin(AdminId) }

/// H of the op's signed bytes, without the signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct OpId(pub [u8; 32]);

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    pub author: Author,
    /// 1 for the first of its author.
    pub seq: u64,
    /// The op before it in the author's log; zeros for the first.
    pub prev: OpId,
    /// By the author's clock.
    pub time: UnixTime,
    pub body: OpBody,
}

/// What an op does. Unknown kinds are kept byte for byte (R9): (kind, critical, bytes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpBody {
    AdminAdd { admin: AdminId, device: DeviceId },
    AdminCut { admin: AdminId, seq: u64, hash: OpId },
    Grant(Box<Certificate>),
    Revoke { device: DeviceId, reason: String, knet_generation: u32, knet_hash: [u8; 32] },
    InviteOpen(InviteOpen),
    InviteClose { invite: InviteId },
    Unknown { kind: u8, critical: bool, bytes: Vec<u8> },
}

/// A device's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    pub id: DeviceId,
    pub wg: WgPublicKey,
    pub name: DeviceName,
    pub ipv4: Option<Ipv4Addr>,
    pub groups: Vec<DeviceName>,
    pub routes: Vec<(std::net::IpAddr, u8)>,
    pub flags: Flags,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    pub invite: Option<InviteId>,
    /// The device's own consent to this pair of keys: `id` signs `wg`, and ... (define exactly)
    pub bind_sig: Signature,
}

/// What a device may do beside being a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Flags { pub relay: bool, pub exit: bool, pub sponsor: bool }

/// An invite, as its admin announces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteOpen {
    pub invite: InviteId,
    pub ik: InviteKey,
    pub gk: WgPublicKey,
    /// The rendezvous secret.
    pub rv: [u8; 32],
    pub expires: UnixTime,
    /// The joining device becomes an admin.
    pub admin: bool,
    pub name: Option<DeviceName>,
}

/// Makes `bind_sig` of a certificate.
pub fn bind(_id: &IdSecret, _wg: &WgPublicKey, _network: &NetworkId) -> Signature { todo!() }

/// A signed op in its wire form, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOp { pub bytes: Vec<u8>, pub signature: Signature }

/// The longest wire form of a signed op, in bytes; it fits one control message.
pub const MAX_WIRE_LEN: usize = 1100;

impl SignedOp {
    pub fn encode(&self) -> Vec<u8> { todo!() }
    pub fn decode(_bytes: &[u8]) -> Result<Unverified<SignedOp>, OpError> { todo!() }
    pub fn sign_admin(_op: &Op, _key: &AdminSecret, _network: &NetworkId) -> Result<Verified<SignedOp>, OpError> { todo!() }
    pub fn sign_root(_op: &Op, _key: &RootSecret, _network: &NetworkId) -> Result<Verified<SignedOp>, OpError> { todo!() }
}

/// Something from outside, of which only the form was checked.
#[derive(Debug, Clone)]
pub struct Unverified<T>(T);

/// Something of which the signature was checked. Only `verify` and the signer make it.
#[derive(Debug, Clone)]
pub struct Verified<T> { inner: T, id: OpId, op: Op }

impl Unverified<SignedOp> {
    pub fn verify(self, _network: &NetworkId) -> Result<Verified<SignedOp>, OpError> { let _ = self.0; todo!() }
}

impl Verified<SignedOp> {
    pub fn id(&self) -> OpId { self.id }
    pub fn op(&self) -> &Op { &self.op }
    pub fn signed(&self) -> &SignedOp { &self.inner }
}

/// Why bytes are not an op.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    #[error("malformed")]
    Malformed,
    #[error("the signature does not verify")]
    Signature,
    #[error("too long")]
    TooLong,
}
#[allow(unused)] fn _unused(_: WgSecret) {}
