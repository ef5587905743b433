//! The keys under which items are stored in the DHT (BEP 44): Ed25519 keys that any DHT node can
//! verify and that name nobody.
//!
//! An item's key is one of two kinds.
//!
//! * **Derived**: an ordinary Ed25519 key of which the seed comes from a shared secret. Whoever
//!   holds the secret may write (the doorbell, the rendezvous of an invite).
//! * **Blinded**: the device's own key `A = a·B`, moved by a factor that only members can compute
//!   and that changes with every epoch. With the 32 bytes `f` of the factor and `h = clamp(f)`
//!   (RFC 7748's clamping), the public key is `A' = h·A`, which every member can compute, and the
//!   secret scalar is `a' = h·a mod L`, which only the device can. The nonce prefix that Ed25519
//!   signing needs is `SHA512("ginnel/1 dht blind prefix" ‖ prefix ‖ le32(h))[..32]`, where
//!   `prefix` is the upper half of the device key's expanded seed (RFC 8032) and `le32(h)` the 32
//!   clamped bytes. Tor's version 3 onion services blind their keys in the same way
//!   (rend-spec-v3, appendix A).
//!
//! Signatures are plain Ed25519, so that a stock verifier accepts them; ours are checked strictly.

use std::fmt;

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use curve25519_dalek::traits::IsIdentity;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use super::keys::{DeviceId, IdSecret};

/// Separates the nonce prefix of a blinded key from every other use of SHA-512.
const PREFIX_LABEL: &[u8] = b"ginnel/1 dht blind prefix";

/// An Ed25519 key that signs items of the DHT.
pub struct DhtSecret {
    /// Zeroizes itself when dropped.
    expanded: ExpandedSecretKey,
    public: [u8; 32],
}

impl DhtSecret {
    /// The key with this RFC 8032 seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let expanded = ExpandedSecretKey::from(&key.to_bytes());
        Self { expanded, public: key.verifying_key().to_bytes() }
    }

    /// The device's key, blinded by `factor`.
    pub fn blinded(id: &IdSecret, factor: &[u8; 32]) -> Self {
        let own = ExpandedSecretKey::from(id.seed());
        let clamped = Zeroizing::new(clamp_integer(*factor));
        let scalar = Scalar::from_bytes_mod_order(*clamped) * own.scalar;
        let mut digest = Sha512::new();
        digest.update(PREFIX_LABEL);
        digest.update(own.hash_prefix);
        digest.update(*clamped);
        let mut hash_prefix = [0; 32];
        hash_prefix.copy_from_slice(&digest.finalize()[..32]);
        let public = curve25519_dalek::EdwardsPoint::mul_base(&scalar).compress().to_bytes();
        Self { expanded: ExpandedSecretKey { scalar, hash_prefix }, public }
    }

    /// The public half: the key of the item.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Signs the whole of `text`, with no prefix of ours: BEP 44 fixes what is signed.
    pub fn sign(&self, text: &[u8]) -> [u8; 64] {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.public)
            .expect("a multiple of the base point is a point");
        raw_sign::<Sha512>(&self.expanded, text, &key).to_bytes()
    }
}

impl fmt::Debug for DhtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DhtSecret([redacted])")
    }
}

/// The public half of [`DhtSecret::blinded`], as any member computes it. `None` where the id is
/// no point of the curve, or one of small order.
pub fn blind_public(id: &DeviceId, factor: &[u8; 32]) -> Option<[u8; 32]> {
    let point = CompressedEdwardsY(id.0).decompress()?.mul_clamped(*factor);
    (!point.is_identity()).then(|| point.compress().to_bytes())
}

/// Whether `signature` is the one of `public` over the whole of `text`, strictly verified:
/// small-order keys and non-canonical signatures are refused.
pub fn verify_dht(public: &[u8; 32], text: &[u8], signature: &[u8; 64]) -> bool {
    let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(public) else { return false };
    if key.is_weak() {
        return false;
    }
    key.verify_strict(text, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_and_device_compute_the_same_blinded_key() {
        let id = IdSecret::from_seed([7; 32]);
        let factor = [9; 32];
        let secret = DhtSecret::blinded(&id, &factor);
        assert_eq!(blind_public(&id.public(), &factor), Some(secret.public()));
        let signature = secret.sign(b"text");
        assert!(verify_dht(&secret.public(), b"text", &signature));
        assert!(!verify_dht(&secret.public(), b"Text", &signature));
        assert!(!verify_dht(&id.public().0, b"text", &signature));
    }

    #[test]
    fn small_order_and_undecodable_ids_have_no_blinded_key() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(blind_public(&DeviceId(identity), &[3; 32]), None);
        assert_eq!(blind_public(&DeviceId([0; 32]), &[3; 32]), None);
        let undecodable = (0..=255_u8)
            .map(|byte| [byte; 32])
            .find(|bytes| CompressedEdwardsY(*bytes).decompress().is_none())
            .expect("half of all texts are no point");
        assert_eq!(blind_public(&DeviceId(undecodable), &[3; 32]), None);
    }

    #[test]
    fn weak_keys_and_malleable_signatures_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(!verify_dht(&identity, b"", &[0; 64]));
        let secret = DhtSecret::from_seed(&[1; 32]);
        let mut signature = secret.sign(b"x");
        // S + L: the same signature in a non-canonical form.
        let order: [u8; 32] = (Scalar::ZERO - Scalar::ONE).to_bytes();
        let mut carry = 1_u16;
        for (byte, add) in signature[32..].iter_mut().zip(order) {
            carry += u16::from(*byte) + u16::from(add);
            *byte = carry as u8;
            carry >>= 8;
        }
        assert!(!verify_dht(&secret.public(), b"x", &signature));
    }
}
