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
use zeroize::{ZeroizeOnDrop, Zeroizing};

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
pub(super) fn hkdf(key: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
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
        #[derive(Clone, ZeroizeOnDrop)]
        pub struct $secret(ed25519_dalek::SigningKey);

        impl $secret {
            /// The secret with this 32-byte seed (RFC 8032).
            pub fn from_seed(seed: [u8; 32]) -> Self {
                Self(ed25519_dalek::SigningKey::from_bytes(&seed))
            }

            /// The 32-byte seed, for the key file.
            pub fn seed(&self) -> &[u8; 32] {
                self.0.as_bytes()
            }

            /// The public half; computed once, as it is asked for with every event.
            pub fn public(&self) -> $public {
                $public(self.0.verifying_key().to_bytes())
            }

            /// Signs `bytes` as a `kind` of `network`.
            pub fn sign(&self, kind: &str, network: &NetworkId, bytes: &[u8]) -> Signature {
                Signature(self.0.sign(&signed_text(kind, network, bytes)).to_bytes())
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
pub(super) fn verify_strict(public: &[u8; 32], text: &[u8], signature: &Signature) -> bool {
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
        const PROBE: [u8; 32] = [0x42; 32];
        self.is_canonical() && agree(&x25519_dalek::StaticSecret::from(PROBE), self).is_some()
    }

    /// Whether the bytes are a number below 2^255 − 19.
    fn is_canonical(&self) -> bool {
        let [low, middle @ .., high] = &self.0;
        *high < 0x7f || (*high == 0x7f && (*low < 0xed || middle.iter().any(|byte| *byte != 0xff)))
    }
}

/// An X25519 secret key: WireGuard's static secret of this device, or of an invite's guest.
#[derive(Clone, ZeroizeOnDrop)]
pub struct WgSecret {
    secret: x25519_dalek::StaticSecret,
    #[zeroize(skip)]
    public: WgPublicKey,
}

impl WgSecret {
    /// The secret with these bytes; clamped when used (RFC 7748).
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let secret = x25519_dalek::StaticSecret::from(bytes);
        let public = WgPublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes());
        Self { secret, public }
    }

    /// The secret bytes, for the key file and the session layer.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.secret.as_bytes()
    }

    /// The public half; computed once, as it is asked for with every event.
    pub fn public(&self) -> WgPublicKey {
        self.public
    }

    /// The Diffie-Hellman secret with `peer`, or `None` where `peer` is a low-order point, with
    /// which every secret would come out the same.
    pub fn agree(&self, peer: &WgPublicKey) -> Option<Zeroizing<[u8; 32]>> {
        agree(&self.secret, peer)
    }
}

fn agree(secret: &x25519_dalek::StaticSecret, peer: &WgPublicKey) -> Option<Zeroizing<[u8; 32]>> {
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(peer.0));
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
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
        let has_admin = match body_keys[96] {
            0 => false,
            1 => true,
            _ => return Err(IdentityError::Magic),
        };
        let key = |at: usize| {
            <[u8; 32]>::try_from(&body_keys[at..at + 32]).expect("the length was checked above")
        };
        Ok(Self {
            network: NetworkId(key(0)),
            id: IdSecret::from_seed(key(32)),
            wg: WgSecret::from_bytes(key(64)),
            admin: has_admin.then(|| AdminSecret::from_seed(key(97))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId([0x11; 32]);

    #[test]
    fn hashes_as_fips_180_says() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash(b"abc").to_vec(), hex(abc));
    }

    #[test]
    fn derives_as_rfc_5869_says() {
        // Test case 3: empty salt and info; the first 32 bytes of its output.
        let expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d";
        assert_eq!(hkdf(&[0x0b; 22], &[]).to_vec(), hex(expected));
        assert_eq!(kdf(b"k", "l", b"c"), hkdf(b"k", &[b"ginnel/1 l\0c"]));
    }

    #[test]
    fn a_label_cannot_be_taken_for_a_context() {
        assert_ne!(kdf(b"k", "ab", b"c"), kdf(b"k", "a", b"bc"));
        assert_ne!(kdf(b"k", "a", b""), kdf(b"k", "", b"a"));
    }

    #[test]
    fn signs_as_rfc_8032_says() {
        for (secret, public, text, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
        ] {
            let key = IdSecret::from_seed(key(secret));
            let made = Signature(key.0.sign(&hex(text)).to_bytes());
            assert_eq!(key.public().0.to_vec(), hex(public));
            assert_eq!(made.0.to_vec(), hex(signature));
            assert!(verify_strict(&key.public().0, &hex(text), &made));
        }
    }

    #[test]
    fn agrees_as_rfc_7748_says() {
        let alice = WgSecret::from_bytes(key(
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        ));
        let bob = WgSecret::from_bytes(key(
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        ));
        let public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
        let shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
        assert_eq!(alice.public().0.to_vec(), hex(public));
        assert_eq!(alice.agree(&bob.public()).unwrap().to_vec(), hex(shared));
        assert_eq!(bob.agree(&alice.public()).unwrap().to_vec(), hex(shared));
    }

    #[test]
    fn a_signature_holds_for_its_type_network_text_and_key_only() {
        let secret = IdSecret::from_seed([3; 32]);
        let (public, signature) = (secret.public(), secret.sign("op", &NETWORK, b"text"));
        assert!(public.verify("op", &NETWORK, b"text", &signature));
        assert!(!public.verify("bind", &NETWORK, b"text", &signature));
        assert!(!public.verify("op", &NetworkId([0x12; 32]), b"text", &signature));
        assert!(!public.verify("op", &NETWORK, b"texts", &signature));
        let other = IdSecret::from_seed([4; 32]).public();
        assert!(!other.verify("op", &NETWORK, b"text", &signature));
    }

    #[test]
    fn a_second_form_of_a_signature_is_refused() {
        let secret = IdSecret::from_seed([3; 32]);
        let mut signature = secret.sign("op", &NETWORK, b"text");
        add_group_order(&mut signature);
        assert!(!secret.public().verify("op", &NETWORK, b"text", &signature));
    }

    #[test]
    fn small_order_keys_are_refused_whatever_they_sign() {
        // With A and R of small order and S = 0 a lax verifier accepts one text in eight.
        for point in SMALL_ORDER {
            let public = DeviceId(key(point));
            for r in SMALL_ORDER {
                let mut signature = Signature([0; 64]);
                signature.0[..32].copy_from_slice(&hex(r));
                for text in 0..8_u8 {
                    assert!(!public.verify("op", &NETWORK, &[text], &signature), "{point} {r}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_point_verifies_nothing() {
        let mut off_curve = [0; 32];
        off_curve[0] = 2;
        assert!(!DeviceId(off_curve).verify("op", &NETWORK, b"", &Signature([0; 64])));
        assert!(!DeviceId([0xff; 32]).verify("op", &NETWORK, b"", &Signature([0xff; 64])));
    }

    #[test]
    fn low_order_tunnel_keys_agree_on_nothing() {
        let secret = WgSecret::from_bytes([7; 32]);
        for low in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ] {
            let low = WgPublicKey(key(low));
            assert!(secret.agree(&low).is_none(), "{low}");
            assert!(!low.is_usable(), "{low}");
        }
        assert!(secret.public().is_usable());
    }

    #[test]
    fn a_second_form_of_a_tunnel_key_is_not_usable() {
        let mut key = WgSecret::from_bytes([7; 32]).public();
        assert!(key.is_usable());
        key.0[31] |= 0x80; // X25519 ignores this bit
        assert!(!key.is_usable());
        let mut nine = WgPublicKey([0xff; 32]); // 9 + p, the base point
        (nine.0[0], nine.0[31]) = (0xed + 9, 0x7f);
        assert!(!nine.is_usable());
    }

    #[test]
    fn keys_read_what_they_print() {
        let id = IdSecret::from_seed([3; 32]).public();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_ascii_uppercase().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 52);
        let wg = WgSecret::from_bytes([3; 32]).public();
        assert_eq!(wg.to_string().parse(), Ok(wg));
        let (short, long, longest) = (id.to_string(), format!("{id}a"), "a".repeat(10_000));
        for bad in ["", "a", "é", &short[1..], &long, &longest] {
            assert_eq!(bad.parse::<DeviceId>(), Err(KeyError::Malformed));
            assert_eq!(bad.parse::<WgPublicKey>(), Err(KeyError::Malformed));
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let text = format!("{:?}", identity(true));
        for secret in ["0303", "3, 3", "[4", "[5"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(text.matches("[redacted]").count(), 3);
    }

    #[test]
    fn an_identity_reads_what_it_wrote() {
        for admin in [false, true] {
            let identity = identity(admin);
            let bytes = identity.encode();
            assert_eq!(bytes.len(), IDENTITY_LEN);
            let read = Identity::decode(&bytes).unwrap();
            assert_eq!(read.network, identity.network);
            assert_eq!(read.id.seed(), identity.id.seed());
            assert_eq!(read.wg.as_bytes(), identity.wg.as_bytes());
            assert_eq!(
                read.admin.map(|admin| *admin.seed()),
                identity.admin.map(|admin| *admin.seed())
            );
        }
    }

    #[test]
    fn every_damage_to_an_identity_is_named() {
        let good = identity(true).encode();
        for len in (0..IDENTITY_LEN).chain([IDENTITY_LEN + 1, 10_240]) {
            let mut bytes = good.to_vec();
            bytes.resize(len, 0);
            assert_eq!(Identity::decode(&bytes).err(), Some(IdentityError::Length(len)));
        }
        for at in 0..IDENTITY_LEN {
            for bit in 0..8 {
                let mut bytes = good.to_vec();
                bytes[at] ^= 1 << bit;
                let expected = if at < 8 { IdentityError::Magic } else { IdentityError::Checksum };
                assert_eq!(Identity::decode(&bytes).err(), Some(expected), "byte {at} bit {bit}");
            }
        }
        assert_eq!(Identity::decode(&[0; IDENTITY_LEN]).err(), Some(IdentityError::Magic));
    }

    #[test]
    fn an_identity_of_a_later_form_is_not_guessed_at() {
        let mut bytes = identity(true).encode().to_vec();
        bytes[8 + 96] = 2;
        let check = hash(&bytes[..IDENTITY_LEN - 32]);
        bytes[IDENTITY_LEN - 32..].copy_from_slice(&check);
        assert_eq!(Identity::decode(&bytes).err(), Some(IdentityError::Magic));
    }

    /// Every encoding of a point whose order divides 8 that decompresses.
    const SMALL_ORDER: [&str; 8] = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ];

    fn identity(admin: bool) -> Identity {
        Identity {
            network: NETWORK,
            id: IdSecret::from_seed([3; 32]),
            wg: WgSecret::from_bytes([4; 32]),
            admin: admin.then(|| AdminSecret::from_seed([5; 32])),
        }
    }

    /// Makes `S` into `S + L`, which a lax verifier accepts as well.
    fn add_group_order(signature: &mut Signature) {
        let order = hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        let mut carry = 0;
        for (byte, add) in signature.0[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
        assert_eq!(carry, 0);
    }

    fn key(text: &str) -> [u8; 32] {
        hex(text).try_into().unwrap()
    }

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }
}
