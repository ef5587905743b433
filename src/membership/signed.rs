//! Ops on the wire, and the line between what was checked and what was not.
//!
//! [`SignedOp::decode`] checks the form and gives an [`Unverified`]; [`Unverified::verify`] checks
//! the author's signature and, inside a Grant, the device's consent. Only a [`Verified`] op can get
//! into a log.

use super::op::{Author, MAX_OP_LEN, Op, OpError, OpId, take};
use crate::identity::{AdminSecret, NetworkId, RootSecret, Signature, hash};

/// The length of an Ed25519 signature, in bytes.
const SIGNATURE_LEN: usize = 64;

/// The longest wire form of a signed op, in bytes; it fits one control message.
pub const MAX_WIRE_LEN: usize = SIGNATURE_LEN + MAX_OP_LEN;

/// The type of an op in the signed text.
const OP: &str = "op";

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
        let op = Op::decode(rest)?;
        let id = OpId(hash(rest));
        Ok(Unverified { inner: SignedOp { bytes: rest.to_vec(), signature }, id, op })
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
pub struct Unverified<T> {
    inner: T,
    id: OpId,
    op: Op,
}

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
        let Self { inner, id, op } = self;
        let signed = match op.author {
            Author::Root(root) => root.verify(OP, network, &inner.bytes, &inner.signature),
            Author::Admin(admin) => admin.verify(OP, network, &inner.bytes, &inner.signature),
        };
        if !signed {
            return Err(OpError::Signature);
        }
        op.check_consent(network)?;
        Ok(Verified { inner, id, op })
    }

    /// Its id: where a log holds it already, verifying again is a waste.
    pub fn id(&self) -> OpId {
        self.id
    }

    /// Who is said to have written it: where a log knows no such author, verifying is a waste.
    pub fn author(&self) -> Author {
        self.op.author
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
