//! WireGuard's handshake: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (paper, sections 5.4.1 to 5.4.3, and
//! 5.4.5 for the keys that come of it). Pure: keys, the timestamp and the ephemeral secret are handed in,
//! and the MACs at the end of a message are [`mac`](super::mac)'s.
//!
//! ```text
//!            initiator                                      responder
//!   initiate → e, es, s, ss, {timestamp} ────────────────→ Claim::read     who says that he is it
//!      │                                                    Claim::prove    he is, and when he said so
//!   Initiated::finish → Keys ←──────────── e, ee, se, psk, {} ← Proof::respond → Keys
//! ```
//!
//! The types are the steps: there is no answer without a proof, and no proof without the timestamp that the
//! caller has to compare. A [`Claim`] is no proof: whoever knows both public keys can make one.
//!
//! | message | bytes |
//! |---|---|
//! | initiation, 148 | type 4, sender 4, ephemeral 32, static 32 + 16, timestamp 12 + 16, MAC1 16, MAC2 16 |
//! | response, 92 | type 4, sender 4, receiver 4, ephemeral 32, nothing 0 + 16, MAC1 16, MAC2 16 |

use blake2::{Blake2s256, Digest};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hkdf::SimpleHkdf;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::timestamp::Timestamp;
use crate::identity::{WgPublicKey, WgSecret};
use crate::wire::classify::{INITIATION_LEN, RESPONSE_LEN, ephemeral_key, sender_index};

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// No pre-shared key: members are told apart by their keys, and a network has no common secret.
const NO_PSK: [u8; 32] = [0; 32];

/// The static keys of both ends of one tunnel.
pub(super) struct Statics {
    pub(super) local: WgSecret,
    pub(super) remote: WgPublicKey,
    /// Their Diffie-Hellman secret: the same in every handshake, so computed once.
    shared: Zeroizing<[u8; 32]>,
}

impl Statics {
    /// `None` where `remote` is a point of low order.
    pub(super) fn new(local: &WgSecret, remote: &WgPublicKey) -> Option<Self> {
        Some(Self { local: local.clone(), remote: *remote, shared: local.agree(remote)? })
    }
}

/// What both ends have when a handshake is done: one key a direction.
pub(super) struct Keys {
    pub(super) send: Zeroizing<[u8; 32]>,
    pub(super) receive: Zeroizing<[u8; 32]>,
}

/// Our initiation, of which the answer is awaited.
pub(super) struct Initiated {
    transcript: Transcript,
    ephemeral: WgSecret,
}

/// A first message, its MACs still zero, and what the answer is to be read with. `None` where the
/// peer's key is of low order, which [`Statics`] excludes.
pub(super) fn initiate(
    statics: &Statics,
    sender: u32,
    timestamp: Timestamp,
    ephemeral: WgSecret,
) -> Option<([u8; INITIATION_LEN], Box<Initiated>)> {
    let mut transcript = Transcript::with(&statics.remote);
    transcript.mix_ephemeral(&ephemeral.public());
    let key = transcript.mix_secret(&*ephemeral.agree(&statics.remote)?);
    let name = transcript.seal(&key, &statics.local.public().0);
    let key = transcript.mix_secret(&statics.shared);
    let time = transcript.seal(&key, &timestamp.to_bytes());
    let mut message = [0; INITIATION_LEN];
    message[0] = 1;
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message[8..40].copy_from_slice(&ephemeral.public().0);
    message[40..88].copy_from_slice(&name);
    message[88..116].copy_from_slice(&time);
    Some((message, Box::new(Initiated { transcript, ephemeral })))
}

impl Initiated {
    /// The keys, if `response` answers this initiation and whoever made it holds the peer's secret.
    pub(super) fn finish(&self, statics: &Statics, response: &[u8]) -> Option<Keys> {
        let remote = WgPublicKey(ephemeral_key(response)?);
        let mut transcript = self.transcript.clone();
        transcript.mix_ephemeral(&remote);
        transcript.mix_secret(&*self.ephemeral.agree(&remote)?);
        transcript.mix_secret(&*statics.local.agree(&remote)?);
        let key = transcript.mix_psk();
        transcript.open(&key, response.get(44..60)?)?;
        let [first, second] = transcript.split();
        Some(Keys { send: first, receive: second })
    }
}

/// Who an initiation says that it is from, and what is left of it to read.
pub(super) struct Claim {
    /// The static key that it names.
    pub(super) remote: WgPublicKey,
    transcript: Transcript,
    ephemeral: WgPublicKey,
    sender: u32,
    sealed_time: [u8; 28],
}

impl Claim {
    /// Reads the first half of an initiation to `local`: one X25519.
    pub(super) fn read(local: &WgSecret, initiation: &[u8]) -> Option<Self> {
        let ephemeral = WgPublicKey(ephemeral_key(initiation)?);
        let sender = sender_index(initiation)?;
        let sealed_time = initiation.get(88..116)?.try_into().ok()?;
        let mut transcript = Transcript::with(&local.public());
        transcript.mix_ephemeral(&ephemeral);
        let key = transcript.mix_secret(&*local.agree(&ephemeral)?);
        let name = transcript.open(&key, initiation.get(40..88)?)?;
        let remote = WgPublicKey(name.as_slice().try_into().ok()?);
        Some(Self { remote, transcript, ephemeral, sender, sealed_time })
    }

    /// Reads the second half, which only the device that was named can have made.
    pub(super) fn prove(mut self, statics: &Statics) -> Option<Proof> {
        if self.remote != statics.remote {
            return None;
        }
        let key = self.transcript.mix_secret(&statics.shared);
        let time = self.transcript.open(&key, &self.sealed_time)?;
        let timestamp = Timestamp::from_bytes(time.as_slice().try_into().ok()?);
        Some(Proof { timestamp, claim: self })
    }
}

/// An initiation that the peer made; perhaps long ago.
pub(super) struct Proof {
    /// When, by its clock: an older one than seen before is a replay (paper, section 5.1).
    pub(super) timestamp: Timestamp,
    claim: Claim,
}

impl Proof {
    /// The index under which the peer knows the session.
    pub(super) fn sender(&self) -> u32 {
        self.claim.sender
    }

    /// The answer, its MACs still zero, and the keys.
    pub(super) fn respond(
        self,
        sender: u32,
        ephemeral: &WgSecret,
    ) -> Option<([u8; RESPONSE_LEN], Keys)> {
        let Claim { remote, mut transcript, ephemeral: initiator, sender: receiver, .. } =
            self.claim;
        transcript.mix_ephemeral(&ephemeral.public());
        transcript.mix_secret(&*ephemeral.agree(&initiator)?);
        transcript.mix_secret(&*ephemeral.agree(&remote)?);
        let key = transcript.mix_psk();
        let nothing = transcript.seal(&key, &[]);
        let mut message = [0; RESPONSE_LEN];
        message[0] = 2;
        message[4..8].copy_from_slice(&sender.to_le_bytes());
        message[8..12].copy_from_slice(&receiver.to_le_bytes());
        message[12..44].copy_from_slice(&ephemeral.public().0);
        message[44..60].copy_from_slice(&nothing);
        let [first, second] = transcript.split();
        Some((message, Keys { send: second, receive: first }))
    }
}

/// Noise's symmetric state: the chaining key, and the hash of all that was said.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct Transcript {
    chain: [u8; 32],
    hash: [u8; 32],
}

impl Transcript {
    /// The state before the first message to `responder`.
    fn with(responder: &WgPublicKey) -> Self {
        let chain = hash(&[CONSTRUCTION]);
        let mut transcript = Self { chain, hash: hash(&[&chain, IDENTIFIER]) };
        transcript.mix_hash(&responder.0);
        transcript
    }

    fn mix_hash(&mut self, said: &[u8]) {
        self.hash = hash(&[&self.hash, said]);
    }

    /// A public ephemeral key goes into the chaining key too, as patterns with a psk want.
    fn mix_ephemeral(&mut self, public: &WgPublicKey) {
        self.mix_hash(&public.0);
        self.mix_secret(&public.0);
    }

    /// Mixes `secret` into the chaining key; the key for what is sealed next, under nonce 0.
    fn mix_secret(&mut self, secret: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        let [chain, key] = self.derive::<2, 64>(secret);
        self.chain = *chain;
        key
    }

    fn mix_psk(&mut self) -> Zeroizing<[u8; 32]> {
        let [chain, said, key] = self.derive::<3, 96>(&NO_PSK);
        self.chain = *chain;
        self.mix_hash(&*said);
        key
    }

    /// The keys of the initiator's and of the responder's packets.
    fn split(&self) -> [Zeroizing<[u8; 32]>; 2] {
        self.derive::<2, 64>(&[])
    }

    /// Noise's HKDF: that of RFC 5869 with the chaining key as salt and without info.
    fn derive<const N: usize, const BYTES: usize>(
        &self,
        secret: &[u8],
    ) -> [Zeroizing<[u8; 32]>; N] {
        let mut bytes = Zeroizing::new([0; BYTES]);
        SimpleHkdf::<Blake2s256>::new(Some(&self.chain), secret)
            .expand(&[], &mut *bytes)
            .expect("HKDF gives up to 255 times the hash's length");
        let (keys, _) = bytes.as_chunks::<32>();
        std::array::from_fn(|at| Zeroizing::new(keys[at]))
    }

    fn seal(&mut self, key: &[u8; 32], plain: &[u8]) -> Vec<u8> {
        let payload = Payload { msg: plain, aad: &self.hash };
        let sealed = cipher(key)
            .encrypt(&Nonce::default(), payload)
            .expect("ChaCha20-Poly1305 takes messages of up to 256 GiB");
        self.mix_hash(&sealed);
        sealed
    }

    fn open(&mut self, key: &[u8; 32], sealed: &[u8]) -> Option<Vec<u8>> {
        let payload = Payload { msg: sealed, aad: &self.hash };
        let plain = cipher(key).decrypt(&Nonce::default(), payload).ok()?;
        self.mix_hash(sealed);
        Some(plain)
    }
}

fn cipher(key: &[u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&Key::from(*key))
}

/// BLAKE2s-256 of the parts one after the other.
pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::secret;
    use super::*;

    fn statics(local: u8, remote: u8) -> Statics {
        Statics::new(&secret(local), &secret(remote).public()).unwrap()
    }

    #[test]
    fn both_ends_come_to_the_same_keys_and_an_eavesdropper_with_other_secrets_does_not() {
        let (a, b) = (statics(1, 2), statics(2, 1));
        let at = Timestamp::from_bytes([7; 12]);
        let (initiation, initiated) = initiate(&a, 5, at, secret(11)).unwrap();
        let claim = Claim::read(&b.local, &initiation).unwrap();
        assert_eq!(claim.remote, a.local.public());
        let proof = claim.prove(&b).unwrap();
        assert_eq!((proof.timestamp, proof.sender()), (at, 5));
        let (response, theirs) = proof.respond(6, &secret(12)).unwrap();
        let ours = initiated.finish(&a, &response).unwrap();
        assert_eq!((&*ours.send, &*ours.receive), (&*theirs.receive, &*theirs.send));
        assert_ne!(ours.send, ours.receive);
        assert!(Claim::read(&secret(3), &initiation).is_none());
        assert!(initiated.finish(&statics(3, 2), &response).is_none());
    }

    #[test]
    fn whoever_knows_only_public_keys_can_claim_a_name_but_not_prove_it() {
        // Mallory (3) names Alice (1), whose secret she does not hold.
        let alice = secret(1).public();
        let mut transcript = Transcript::with(&secret(2).public());
        transcript.mix_ephemeral(&secret(11).public());
        let key = transcript.mix_secret(&secret(11).agree(&secret(2).public()).unwrap());
        let name = transcript.seal(&key, &alice.0);
        let mallory = statics(3, 2);
        let (mut initiation, _) =
            initiate(&mallory, 5, Timestamp::from_bytes([7; 12]), secret(11)).unwrap();
        initiation[40..88].copy_from_slice(&name);
        let claim = Claim::read(&secret(2), &initiation).unwrap();
        assert_eq!(claim.remote, alice);
        assert!(claim.prove(&statics(2, 1)).is_none());
    }

    #[test]
    fn every_byte_of_both_messages_counts() {
        let (a, b) = (statics(1, 2), statics(2, 1));
        let (initiation, initiated) =
            initiate(&a, 5, Timestamp::from_bytes([7; 12]), secret(11)).unwrap();
        let prove = |message: &[u8]| Claim::read(&b.local, message)?.prove(&b);
        for at in 8..116 {
            let mut forged = initiation;
            forged[at] ^= 0x10;
            assert!(prove(&forged).is_none(), "byte {at} of the initiation");
        }
        let (response, _) = prove(&initiation).unwrap().respond(6, &secret(12)).unwrap();
        for at in 12..60 {
            let mut forged = response;
            forged[at] ^= 0x10;
            assert!(initiated.finish(&a, &forged).is_none(), "byte {at} of the response");
        }
    }
}
