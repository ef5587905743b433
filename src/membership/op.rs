//! An act of an author, signed and chained to the one before it.
//!
//! # Bytes
//! What is signed, all integers big-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | author: 0 root, 1 admin |
//! | 32 | the author's Ed25519 key |
//! | 8 | `seq`, 1 for the author's first |
//! | 32 | `prev`, the id of the op before it; zeros for the first |
//! | 8 | `time`, Unix seconds by the author's clock |
//! | 1 | kind |
//! | 1 | flags: bit 0 critical, the others zero |
//! | ≤ 900 | body |
//!
//! The signature is the author's, of type `op`; the wire form is `signature 64 ‖ these bytes`. The
//! id of an op is `H(these bytes)`, without the signature. An op is kept and passed on as it was
//! received, never encoded again.
//!
//! # Kinds
//! Bodies are postcard of the fields in the order of the table; only the shortest encoding is read.
//! All kinds below are critical, and each may be written by the one sort of author only.
//!
//! | kind | author | op | body |
//! |---|---|---|---|
//! | 1 | root | `AdminAdd` | admin key 32, device id 32 |
//! | 2 | root | `AdminCut` | admin key 32, seq, op id 32 |
//! | 16 | admin | `Grant` | [`Certificate`] |
//! | 17 | admin | `Revoke` | device id 32, reason ≤ 200 B, K_net generation, H(K_net) 32 |
//! | 18 | admin | `InviteOpen` | [`InviteOpen`] |
//! | 19 | admin | `InviteClose` | invite id 16 |
//!
//! Every other kind is [`OpBody::Unknown`]: kept and passed on byte for byte (R9).
//!
//! # Unverified and verified
//! [`SignedOp::decode`] checks the form and gives an [`Unverified`]; [`Unverified::verify`] checks
//! the author's signature and, inside a Grant, the device's consent. Only a [`Verified`] op can get
//! into a log.

pub use super::invite::InviteOpen;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::invite::InviteId;
use super::policy::is_clean_reason;
use crate::identity::{
    AdminId, AdminSecret, DeviceId, NetworkId, RootId, RootSecret, Signature, hash,
};

pub use super::certificate::{Certificate, Flags, bind};
pub use super::genesis::{Genesis, GenesisPool};
pub use super::time::UnixTime;

/// The longest body, in bytes: with header, signature and the framing of a control message it fits
/// one packet of 1,232 bytes.
pub const MAX_BODY_LEN: usize = 900;

/// The length of what is before the body, in bytes: 1 + 32 + 8 + 32 + 8 + 1 + 1.
const HEADER_LEN: usize = 83;

/// The length of an Ed25519 signature, in bytes.
const SIGNATURE_LEN: usize = 64;

/// The longest wire form of a signed op, in bytes; it fits one control message.
pub const MAX_WIRE_LEN: usize = SIGNATURE_LEN + HEADER_LEN + MAX_BODY_LEN;

/// The type of an op in the signed text.
const OP: &str = "op";

const KIND_ADMIN_ADD: u8 = 1;
const KIND_ADMIN_CUT: u8 = 2;
const KIND_GRANT: u8 = 16;
const KIND_REVOKE: u8 = 17;
const KIND_INVITE_OPEN: u8 = 18;
const KIND_INVITE_CLOSE: u8 = 19;

/// Who wrote an op. Root comes first in every order, so that a reader of logs knows an admin before
/// it reads what that admin wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Author {
    /// The network's root.
    Root(RootId),
    /// An admin.
    Admin(AdminId),
}

/// `H` of the op's signed bytes, without the signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId(pub [u8; 32]);

impl OpId {
    /// Stands where there is no op: before the first of a log.
    pub const NONE: Self = Self([0; 32]);
}

impl std::fmt::Debug for OpId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpId({}…)", data_encoding::HEXLOWER.encode(&self.0[..5]))
    }
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// Who wrote it.
    pub author: Author,
    /// 1 for the first of its author.
    pub seq: u64,
    /// The op before it in the author's log; [`OpId::NONE`] for the first.
    pub prev: OpId,
    /// By the author's clock.
    pub time: UnixTime,
    /// What it does.
    pub body: OpBody,
}

/// What an op does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpBody {
    /// Root: the holder of `admin`, on `device`, may admit and remove.
    AdminAdd {
        /// The key of the admin's log.
        admin: AdminId,
        /// The device that holds it.
        device: DeviceId,
    },
    /// Root: nothing of this admin counts but what leads up to the op `hash` at `seq`.
    AdminCut {
        /// The key of the admin's log.
        admin: AdminId,
        /// The sequence number of the last op that counts; 0 for none.
        seq: u64,
        /// Its id.
        hash: OpId,
    },
    /// Admin: this device belongs.
    Grant(Box<Certificate>),
    /// Admin: this device is out for ever.
    Revoke {
        /// Which.
        device: DeviceId,
        /// Why, for people; see [`clean_reason`](super::policy::clean_reason).
        reason: String,
        /// The generation of K_net from here on.
        knet_generation: u32,
        /// Its hash.
        knet_hash: [u8; 32],
    },
    /// Admin: whoever holds this invite may join, once.
    InviteOpen(InviteOpen),
    /// Admin: it may not any more.
    InviteClose {
        /// Which.
        invite: InviteId,
    },
    /// A kind of a later version, kept byte for byte (R9).
    Unknown {
        /// Its number.
        kind: u8,
        /// Whether a device that does not know it must stop writing ops.
        critical: bool,
        /// Its body.
        bytes: Vec<u8>,
    },
}

/// Why bytes are not an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// Cut short, bytes too many, or a value that cannot be.
    #[error("it is malformed")]
    Malformed,
    /// The signature, or a device's consent inside, is not of that key, network and text.
    #[error("its signature does not verify")]
    Signature,
    /// Longer than any op.
    #[error("it is too long")]
    TooLong,
    /// This author may not write this kind, or the key is not the author's.
    #[error("its author may not do this")]
    Author,
}

impl Op {
    /// The bytes that are signed.
    ///
    /// # Errors
    /// As [`SignedOp::decode`] would refuse them.
    pub fn encode(&self) -> Result<Vec<u8>, OpError> {
        let (tag, key) = match self.author {
            Author::Root(RootId(key)) => (0, key),
            Author::Admin(AdminId(key)) => (1, key),
        };
        let mut out = Vec::with_capacity(HEADER_LEN + 256);
        out.push(tag);
        out.extend_from_slice(&key);
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.prev.0);
        out.extend_from_slice(&self.time.0.to_be_bytes());
        out.push(self.body.kind());
        out.push(u8::from(self.body.is_critical()));
        out.extend_from_slice(&self.body.encode());
        if out.len() > HEADER_LEN + MAX_BODY_LEN {
            return Err(OpError::TooLong);
        }
        if Self::decode(&out)? != *self {
            return Err(OpError::Malformed);
        }
        Ok(out)
    }

    /// Reads the bytes that are signed.
    fn decode(bytes: &[u8]) -> Result<Self, OpError> {
        if bytes.len() > HEADER_LEN + MAX_BODY_LEN {
            return Err(OpError::TooLong);
        }
        let mut rest = bytes;
        let [tag] = take(&mut rest)?;
        let key = take(&mut rest)?;
        let author = match tag {
            0 => Author::Root(RootId(key)),
            1 => Author::Admin(AdminId(key)),
            _ => return Err(OpError::Malformed),
        };
        let seq = u64::from_be_bytes(take(&mut rest)?);
        let prev = OpId(take(&mut rest)?);
        let time = UnixTime(u64::from_be_bytes(take(&mut rest)?));
        let [kind, flags] = take(&mut rest)?;
        if seq == 0 || (seq == 1) != (prev == OpId::NONE) || flags > 1 {
            return Err(OpError::Malformed);
        }
        let op = Self { author, seq, prev, time, body: OpBody::decode(kind, flags == 1, rest)? };
        op.check()?;
        Ok(op)
    }

    /// Whether the author may do this, and every field is within its bounds.
    fn check(&self) -> Result<(), OpError> {
        let by_root = matches!(self.author, Author::Root(_));
        let (allowed, well_formed) = match &self.body {
            OpBody::AdminAdd { .. } => (by_root, true),
            OpBody::AdminCut { seq, hash, .. } => (by_root, (*seq == 0) == (*hash == OpId::NONE)),
            OpBody::Grant(certificate) => (!by_root, certificate.is_well_formed()),
            OpBody::Revoke { reason, .. } => (!by_root, is_clean_reason(reason)),
            OpBody::InviteOpen(invite) => (!by_root, invite.is_well_formed(self.time)),
            OpBody::InviteClose { .. } => (!by_root, true),
            OpBody::Unknown { .. } => (true, true),
        };
        match (allowed, well_formed) {
            (false, _) => Err(OpError::Author),
            (true, false) => Err(OpError::Malformed),
            (true, true) => Ok(()),
        }
    }

    /// Whether the consent inside holds in `network`.
    fn check_consent(&self, network: &NetworkId) -> Result<(), OpError> {
        match &self.body {
            OpBody::Grant(certificate) if !certificate.is_bound(network) => Err(OpError::Signature),
            _ => Ok(()),
        }
    }
}

impl OpBody {
    /// The kind, as a word for people and for `--json`.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::AdminAdd { .. } => "admin-add",
            Self::AdminCut { .. } => "admin-cut",
            Self::Grant(_) => "grant",
            Self::Revoke { .. } => "revoke",
            Self::InviteOpen(_) => "invite-open",
            Self::InviteClose { .. } => "invite-close",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// What it did, in words that follow the author's name; `names` says what a device is called.
    pub fn summary(&self, names: &dyn Fn(&DeviceId) -> String) -> String {
        match self {
            Self::AdminAdd { device, .. } => format!("made {} an admin", names(device)),
            Self::AdminCut { admin, seq, .. } => {
                format!("cut the admin {} after its act {seq}", short(&admin.to_string()))
            }
            Self::Grant(certificate) => {
                let address = certificate.ipv4.map(|ip| format!(" ({ip})")).unwrap_or_default();
                format!("admitted {}{address} until {}", certificate.name, certificate.not_after)
            }
            Self::Revoke { device, reason, .. } if reason.is_empty() => {
                format!("removed {}", names(device))
            }
            Self::Revoke { device, reason, .. } => format!("removed {}: {reason}", names(device)),
            Self::InviteOpen(invite) => {
                let role = if invite.admin { "an admin invite" } else { "an invite" };
                let name = invite.name.as_ref().map(|n| format!(" for {n}")).unwrap_or_default();
                format!("opened {role}{name} ({}) until {}", invite.invite, invite.expires)
            }
            Self::InviteClose { invite } => format!("closed the invite {invite}"),
            Self::Unknown { kind, .. } => {
                format!("did something that this version does not know (kind {kind})")
            }
        }
    }

    /// Whether it only takes away, and so counts even past a fork (R4).
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Revoke { .. } | Self::InviteClose { .. })
    }

    /// Whether a device that does not know this kind must stop writing ops (R9).
    pub fn is_critical(&self) -> bool {
        match self {
            Self::Unknown { critical, .. } => *critical,
            _ => true,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::AdminAdd { .. } => KIND_ADMIN_ADD,
            Self::AdminCut { .. } => KIND_ADMIN_CUT,
            Self::Grant(_) => KIND_GRANT,
            Self::Revoke { .. } => KIND_REVOKE,
            Self::InviteOpen(_) => KIND_INVITE_OPEN,
            Self::InviteClose { .. } => KIND_INVITE_CLOSE,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::AdminAdd { admin, device } => to_postcard(&(admin, device)),
            Self::AdminCut { admin, seq, hash } => to_postcard(&(admin, seq, hash)),
            Self::Grant(certificate) => to_postcard(certificate),
            Self::Revoke { device, reason, knet_generation, knet_hash } => {
                to_postcard(&(device, reason, knet_generation, knet_hash))
            }
            Self::InviteOpen(invite) => to_postcard(invite),
            Self::InviteClose { invite } => to_postcard(invite),
            Self::Unknown { bytes, .. } => bytes.clone(),
        }
    }

    fn decode(kind: u8, critical: bool, bytes: &[u8]) -> Result<Self, OpError> {
        let body = match kind {
            KIND_ADMIN_ADD => {
                let (admin, device) = from_postcard(bytes)?;
                Self::AdminAdd { admin, device }
            }
            KIND_ADMIN_CUT => {
                let (admin, seq, hash) = from_postcard(bytes)?;
                Self::AdminCut { admin, seq, hash }
            }
            KIND_GRANT => Self::Grant(Box::new(from_postcard(bytes)?)),
            KIND_REVOKE => {
                let (device, reason, knet_generation, knet_hash) = from_postcard(bytes)?;
                Self::Revoke { device, reason, knet_generation, knet_hash }
            }
            KIND_INVITE_OPEN => Self::InviteOpen(from_postcard(bytes)?),
            KIND_INVITE_CLOSE => Self::InviteClose { invite: from_postcard(bytes)? },
            _ => return Ok(Self::Unknown { kind, critical, bytes: bytes.to_vec() }),
        };
        // The one encoding only: what is read is what would be written.
        if critical && body.encode() == bytes { Ok(body) } else { Err(OpError::Malformed) }
    }
}

/// A signed op as it came from or goes to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOp {
    /// What was signed.
    pub bytes: Vec<u8>,
    /// The author's signature over it.
    pub signature: Signature,
}

impl SignedOp {
    /// The wire form: `signature 64 ‖ bytes`.
    pub fn encode(&self) -> Vec<u8> {
        [&self.signature.0, self.bytes.as_slice()].concat()
    }

    /// The length of the wire form, in bytes.
    pub fn wire_len(&self) -> usize {
        SIGNATURE_LEN + self.bytes.len()
    }

    /// Reads the wire form of one op, all of `bytes`.
    ///
    /// # Errors
    /// [`OpError::TooLong`] over [`MAX_WIRE_LEN`]; [`OpError::Malformed`] or [`OpError::Author`]
    /// where the bytes are no op, whoever signed them.
    pub fn decode(bytes: &[u8]) -> Result<Unverified<SignedOp>, OpError> {
        if bytes.len() > MAX_WIRE_LEN {
            return Err(OpError::TooLong);
        }
        let mut rest = bytes;
        let signature = Signature(take(&mut rest)?);
        Op::decode(rest)?;
        Ok(Unverified(SignedOp { bytes: rest.to_vec(), signature }))
    }

    /// Signs `op` with the key of the admin that wrote it.
    ///
    /// # Errors
    /// [`OpError::Author`] where `key` is not the author's; else as [`SignedOp::decode`] and
    /// [`Unverified::verify`] would refuse it.
    pub fn sign_admin(
        op: &Op,
        key: &AdminSecret,
        network: &NetworkId,
    ) -> Result<Verified<SignedOp>, OpError> {
        if op.author != Author::Admin(key.public()) {
            return Err(OpError::Author);
        }
        Self::sign(op, network, |bytes| key.sign(OP, network, bytes))
    }

    /// Signs `op` with the root key.
    ///
    /// # Errors
    /// As [`SignedOp::sign_admin`].
    pub fn sign_root(
        op: &Op,
        key: &RootSecret,
        network: &NetworkId,
    ) -> Result<Verified<SignedOp>, OpError> {
        if op.author != Author::Root(key.public()) {
            return Err(OpError::Author);
        }
        Self::sign(op, network, |bytes| key.sign(OP, network, bytes))
    }

    fn sign(
        op: &Op,
        network: &NetworkId,
        signer: impl FnOnce(&[u8]) -> Signature,
    ) -> Result<Verified<SignedOp>, OpError> {
        op.check_consent(network)?;
        let bytes = op.encode()?;
        let signature = signer(&bytes);
        let id = OpId(hash(&bytes));
        Ok(Verified { inner: SignedOp { bytes, signature }, id, op: op.clone() })
    }
}

/// Something from outside, of which only the form was checked.
#[derive(Debug, Clone)]
pub struct Unverified<T>(T);

/// Something of which the signature was checked. Only `verify` and the signer make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    inner: T,
    id: OpId,
    op: Op,
}

impl Unverified<SignedOp> {
    /// Checks the author's signature and, inside a Grant, the device's consent.
    ///
    /// # Errors
    /// [`OpError::Signature`] for another network, type or key, a signature that is not canonical,
    /// or a small-order key.
    pub fn verify(self, network: &NetworkId) -> Result<Verified<SignedOp>, OpError> {
        let Self(inner) = self;
        let op = Op::decode(&inner.bytes)?;
        let signed = match op.author {
            Author::Root(root) => root.verify(OP, network, &inner.bytes, &inner.signature),
            Author::Admin(admin) => admin.verify(OP, network, &inner.bytes, &inner.signature),
        };
        if !signed {
            return Err(OpError::Signature);
        }
        op.check_consent(network)?;
        Ok(Verified { id: OpId(hash(&inner.bytes)), inner, op })
    }

    /// The id it claims: where a log holds it already, verifying again is a waste.
    pub fn id(&self) -> OpId {
        OpId(hash(&self.0.bytes))
    }

    /// The author it claims: where a log does not know it, verifying is a waste.
    pub fn author(&self) -> Option<Author> {
        Op::decode(&self.0.bytes).map(|op| op.author).ok()
    }
}

impl Verified<SignedOp> {
    /// Its id.
    pub fn id(&self) -> OpId {
        self.id
    }

    /// What it says.
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// Its bytes and signature, as received.
    pub fn signed(&self) -> &SignedOp {
        &self.inner
    }
}

/// Takes the first `N` bytes off `rest`.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], OpError> {
    let (first, after) = rest.split_first_chunk::<N>().ok_or(OpError::Malformed)?;
    *rest = after;
    Ok(*first)
}

fn to_postcard<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("no body has anything that postcard cannot write")
}

fn from_postcard<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, OpError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(OpError::Malformed),
    }
}

/// The first characters of a key, enough to tell a few apart.
fn short(key: &str) -> &str {
    key.get(..8).unwrap_or(key)
}
