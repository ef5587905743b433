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
//! The kinds and their bodies are those of [`OpBody`]; [`SignedOp`] is the wire form.

use serde::{Deserialize, Serialize};

use super::policy::is_clean_reason;
use crate::identity::{AdminId, NetworkId, RootId};

pub use super::body::OpBody;
pub use super::certificate::{Certificate, Flags, bind};
pub use super::genesis::{Genesis, GenesisPool};
pub use super::invite::InviteOpen;
pub use super::signed::{MAX_WIRE_LEN, SignedOp, Unverified, Verified};
pub use super::time::UnixTime;

/// The longest body, in bytes: with header, signature and the framing of a control message it fits
/// one packet of 1,232 bytes.
pub const MAX_BODY_LEN: usize = 900;

/// The length of what is before the body, in bytes: 1 + 32 + 8 + 32 + 8 + 1 + 1.
const HEADER_LEN: usize = 83;

/// The longest text that is signed, in bytes.
pub(super) const MAX_OP_LEN: usize = HEADER_LEN + MAX_BODY_LEN;

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
        if out.len() > MAX_OP_LEN {
            return Err(OpError::TooLong);
        }
        if Self::decode(&out)? != *self {
            return Err(OpError::Malformed);
        }
        Ok(out)
    }

    /// Reads the bytes that are signed.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, OpError> {
        if bytes.len() > MAX_OP_LEN {
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
    pub(super) fn check_consent(&self, network: &NetworkId) -> Result<(), OpError> {
        match &self.body {
            OpBody::Grant(certificate) if !certificate.is_bound(network) => Err(OpError::Signature),
            _ => Ok(()),
        }
    }
}

/// Takes the first `N` bytes off `rest`.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], OpError> {
    let (first, after) = rest.split_first_chunk::<N>().ok_or(OpError::Malformed)?;
    *rest = after;
    Ok(*first)
}
