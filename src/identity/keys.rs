//! Keys, ids, and the three primitives everything else is made of.
//!
//! * `H` is SHA-256 ([`hash`]).
//! * `KDF(k, label, ctx)` is HKDF-SHA256 (RFC 5869) with an empty salt and
//!   `info = "ginnel/1 " ‖ label ‖ 0x00 ‖ ctx` ([`kdf`]).
//! * A signature is Ed25519 (RFC 8032, verified strictly) over
//!   `"ginnel/1 " ‖ type ‖ 0x00 ‖ network_id ‖ bytes` (the `sign` methods), always over the
//!   received bytes and never over a re-encoding.
//!
//! Public keys are `Copy`, ordered, and print as base32 (WireGuard keys as base64, the form of the
//! `wg` tool). Secret keys are zeroized when dropped and print as `[redacted]`.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, BASE64};
use ed25519_dalek::Signer;
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Starts every signed text and every KDF info string, so that nothing signed or derived for
/// another program or version can be taken for ours.
const LABEL: &[u8] = b"ginnel/1 ";

/// SHA-256.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// HKDF-SHA256 with an empty salt and `info = "ginnel/1 " ‖ label ‖ 0x00 ‖ ctx`; 32 bytes.
pub fn kdf(key: &[u8], label: &str, ctx: &[u8]) -> Zeroizing<[u8; 32]> {
    hkdf(key, &[LABEL, label.as_bytes(), &[0], ctx])
}

/// HKDF-SHA256 with an empty salt; `info` in parts; 32 bytes.
fn hkdf(key: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, key)
        .expand_multi_info(info, out.as_mut())
        .expect("32 bytes is a valid HKDF-SHA256 output length");
    out
}

/// The text that a signature of `kind` in `network` covers.
fn signed_text(kind: &str, network: &NetworkId, bytes: &[u8]) -> Vec<u8> {
    [LABEL, kind.as_bytes(), &[0], &network.0, bytes].concat()
}

/// A text that is not a key of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text does not decode to 32 bytes.
    #[error("not a 32-byte key")]
    Malformed,
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}…)", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        <([u8; 32], [u8; 32])>::serialize(&self.halves(), s)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (r, s) = <([u8; 32], [u8; 32])>::deserialize(d)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&r);
        bytes[32..].copy_from_slice(&s);
        Ok(Self(bytes))
    }
}

impl Signature {
    fn halves(&self) -> ([u8; 32], [u8; 32]) {
        let mut halves = ([0; 32], [0; 32]);
        halves.0.copy_from_slice(&self.0[..32]);
        halves.1.copy_from_slice(&self.0[32..]);
        halves
    }
}

/// Defines a 32-byte public value that prints as lower-case base32.
macro_rules! public_value {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = BASE32_NOPAD.encode(&self.0[..5]).to_ascii_lowercase();
                write!(f, concat!(stringify!($name), "({}…)"), text)
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                let bytes = BASE32_NOPAD
                    .decode(text.to_ascii_uppercase().as_bytes())
                    .map_err(|_| KeyError::Malformed)?;
                bytes.try_into().map(Self).map_err(|_| KeyError::Malformed)
            }
        }
    };
}

public_value! {
    /// The id of a network: the hash of its genesis.
    NetworkId
}
public_value! {
    /// The permanent Ed25519 public key of a device; its identity.
    DeviceId
}
public_value! {
    /// The Ed25519 public key under which an admin device writes its log.
    AdminId
}
public_value! {
    /// The Ed25519 public key of the network's root.
    RootId
}
public_value! {
    /// The Ed25519 public key of an invite (`ik_pk`).
    InviteKey
}

/// Defines an Ed25519 secret of which the public half has the given type.
macro_rules! signing_secret {
    ($(#[$doc:meta])* $secret:ident, $public:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $secret([u8; 32]);

        impl $secret {
            /// The secret with this 32-byte seed (RFC 8032).
            pub fn from_seed(seed: [u8; 32]) -> Self {
                Self(seed)
            }

            /// The 32-byte seed, for the key file.
            pub fn seed(&self) -> &[u8; 32] {
                &self.0
            }

            /// The public half.
            pub fn public(&self) -> $public {
                $public(self.key().verifying_key().to_bytes())
            }

            /// Signs `bytes` as a `kind` of `network`.
            pub fn sign(&self, kind: &str, network: &NetworkId, bytes: &[u8]) -> Signature {
                Signature(self.key().sign(&signed_text(kind, network, bytes)).to_bytes())
            }

            fn key(&self) -> ed25519_dalek::SigningKey {
                ed25519_dalek::SigningKey::from_bytes(&self.0)
            }
        }

        impl fmt::Debug for $secret {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($secret), "([redacted])"))
            }
        }

        impl $public {
            /// Whether `signature` is this key's, strictly verified, over `bytes` as a `kind` of
            /// `network`. Small-order keys and non-canonical signatures are refused.
            pub fn verify(
                &self,
                kind: &str,
                network: &NetworkId,
                bytes: &[u8],
                signature: &Signature,
            ) -> bool {
                verify_strict(&self.0, &signed_text(kind, network, bytes), signature)
            }
        }
    };
}

signing_secret! {
    /// The permanent signing key of this device.
    IdSecret, DeviceId
}
signing_secret! {
    /// The signing key of this device's admin log.
    AdminSecret, AdminId
}
signing_secret! {
    /// The signing key of the network's root.
    RootSecret, RootId
}
signing_secret! {
    /// The signing key of an invite, derived from its seed.
    InviteSecret, InviteKey
}

/// Verifies an Ed25519 signature strictly (no small-order keys or `R`, canonical `S`).
fn verify_strict(public: &[u8; 32], text: &[u8], signature: &Signature) -> bool {
    let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(public) else { return false };
    key.verify_strict(text, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
}

/// An X25519 public key: WireGuard's static key of a device, or an invite's guest key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WgPublicKey(pub [u8; 32]);

impl fmt::Display for WgPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl fmt::Debug for WgPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WgPublicKey({}…)", BASE64.encode(&self.0[..6]))
    }
}

impl FromStr for WgPublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| KeyError::Malformed)?;
        bytes.try_into().map(Self).map_err(|_| KeyError::Malformed)
    }
}

impl WgPublicKey {
    /// Whether a key agreement with it means anything: the one encoding of a point that is not of
    /// low order. X25519 itself takes many encodings for one key (RFC 7748, section 5), so without
    /// this a key could be listed twice, or come back after it was revoked.
    pub fn is_usable(&self) -> bool {
        /// Any secret shows whether a point is of low order: clamping makes it a multiple of 8.
        const PROBE: WgSecret = WgSecret([0x42; 32]);
        self.is_canonical() && PROBE.agree(self).is_some()
    }

    /// Whether the bytes are a number below 2^255 − 19.
    fn is_canonical(&self) -> bool {
        let [low, middle @ .., high] = &self.0;
        *high < 0x7f || (*high == 0x7f && (*low < 0xed || middle.iter().any(|byte| *byte != 0xff)))
    }
}

/// An X25519 secret key: WireGuard's static secret of this device, or of an invite's guest.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct WgSecret([u8; 32]);

impl WgSecret {
    /// The secret with these bytes; clamped when used (RFC 7748).
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret bytes, for the key file and the session layer.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public half.
    pub fn public(&self) -> WgPublicKey {
        WgPublicKey(x25519_dalek::PublicKey::from(&self.key()).to_bytes())
    }

    /// The Diffie-Hellman secret with `peer`, or `None` where `peer` is a low-order point, with
    /// which every secret would come out the same.
    pub fn agree(&self, peer: &WgPublicKey) -> Option<Zeroizing<[u8; 32]>> {
        let shared = self.key().diffie_hellman(&x25519_dalek::PublicKey::from(peer.0));
        shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
    }

    fn key(&self) -> x25519_dalek::StaticSecret {
        x25519_dalek::StaticSecret::from(self.0)
    }
}

impl fmt::Debug for WgSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WgSecret([redacted])")
    }
}

/// Everything secret that makes this device a member of one network.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The network. Known before this device belongs to it.
    pub network: NetworkId,
    /// The permanent signing key.
    pub id: IdSecret,
    /// The WireGuard static key.
    pub wg: WgSecret,
    /// The key of this device's admin log, where it is an admin (or may become one).
    pub admin: Option<AdminSecret>,
}

/// Why bytes are not an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The length is wrong: cut short, or something else.
    #[error("it has {0} bytes, not {IDENTITY_LEN}")]
    Length(usize),
    /// The first bytes or the version are not those of an identity.
    #[error("it is not an identity of ginnel, or of a later version")]
    Magic,
    /// The checksum over all other bytes does not match.
    #[error("its checksum does not match: it was damaged")]
    Checksum,
}

/// Length of an encoded identity, in bytes: magic 8, network 32, id 32, wg 32, admin flag 1,
/// admin 32, checksum 32.
pub const IDENTITY_LEN: usize = 169;

/// Names the format and its version.
const IDENTITY_MAGIC: &[u8; 8] = b"ginnelI1";

impl Identity {
    /// The file form: fixed length, ending in a SHA-256 of what is before it.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(IDENTITY_LEN));
        out.extend_from_slice(IDENTITY_MAGIC);
        out.extend_from_slice(&self.network.0);
        out.extend_from_slice(self.id.seed());
        out.extend_from_slice(self.wg.as_bytes());
        out.push(u8::from(self.admin.is_some()));
        out.extend_from_slice(self.admin.as_ref().map_or(&[0; 32], |admin| admin.seed()));
        let check = hash(&out);
        out.extend_from_slice(&check);
        out
    }

    /// Reads the file form.
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        if bytes.len() != IDENTITY_LEN {
            return Err(IdentityError::Length(bytes.len()));
        }
        let (body, check) = bytes.split_at(IDENTITY_LEN - 32);
        let (magic, body_keys) = body.split_at(8);
        if magic != IDENTITY_MAGIC {
            return Err(IdentityError::Magic);
        }
        if hash(body) != check {
            return Err(IdentityError::Checksum);
        }
        let key = |at: usize| {
            <[u8; 32]>::try_from(&body_keys[at..at + 32]).expect("the length was checked above")
        };
        Ok(Self {
            network: NetworkId(key(0)),
            id: IdSecret::from_seed(key(32)),
            wg: WgSecret::from_bytes(key(64)),
            admin: (body_keys[96] == 1).then(|| AdminSecret::from_seed(key(97))),
        })
    }
}
