//! What is stored in the DHT: BEP 44 mutable items, all 640 bytes long, all sealed.
//!
//! Three things are stored, and a DHT node cannot tell them apart:
//!
//! * the [`Record`] of a device, under a blinded key only it can sign for ([`RecordKey`] is the public
//!   half): where it is, for the members;
//! * the doorbell ([`Bell`]), under a key every member can write: who is awake and has no tunnel;
//! * the rendezvous of an invite ([`Meeting`]), under keys from the invite: where the sponsors are
//!   and where the joining device is, for each other.
//!
//! # Form
//! `value = nonce 24 ‖ XChaCha20-Poly1305(KDF(k, "dht seal", A'), nonce, AAD = A' ‖ be64(seq))` of a
//! plaintext of 600 bytes that is padded with zeros; `A'` is the item's key, `k` is `K_net` (for an
//! invite: `rv`), `seq` the item's sequence number, which is Unix time in seconds. The signature is
//! BEP 44's, without salt: over `3:seqi<seq>e1:v640:<value>`.
//!
//! # Epochs
//! A record's key changes every six hours, at a moment of each device's own:
//! `epoch = (unix + phase) / 6 h`, `phase = be64(KDF(K_net, "phase", id_pk)[..8]) mod 6 h`. The
//! doorbell has one phase for all, `KDF(K_net, "phase", "bell")`. Nobody without `K_net` can link
//! two epochs.
//!
//! # Who may make one
//! The opened forms ([`Record`], [`Bell`], [`Meeting`]) have no public constructor: they come only
//! from `open`, which checks length, signature, seal, form and age. So holding one proves the checks.

mod bell;
mod body;
mod cache;
mod endpoints;
mod rendezvous;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

pub use bell::{Bell, BellKey, MAX_RINGERS, Ring, bell_epoch};
pub use body::{Record, RecordBody, RecordKey, device_epoch};
pub use cache::{
    CachedDevice, MAX_CACHED_DEVICES, MAX_CACHED_SEQS, decode_devices, decode_seqs, encode_devices,
    encode_seqs,
};
pub use endpoints::{AddressKind, MAX_ENDPOINTS, acceptable};
pub use rendezvous::{MAX_SPONSORS, Meeting, Rendezvous, Seat};

use zeroize::Zeroizing;

use crate::identity::blind::{DhtSecret, verify_dht};
use crate::identity::kdf;
use crate::membership::UnixTime;

/// Length of every value stored in the DHT, in bytes: one length, so that it tells nothing. BEP 44
/// allows 1,000 bytes bencoded.
pub const VALUE_LEN: usize = 640;

/// Length of the nonce of XChaCha20-Poly1305, in bytes.
pub const NONCE_LEN: usize = 24;

/// Length of the authentication tag, in bytes.
const TAG_LEN: usize = 16;

/// Length of what is sealed, in bytes.
const PLAIN_LEN: usize = VALUE_LEN - NONCE_LEN - TAG_LEN;

/// How long an epoch lasts, in seconds: short enough that an address book of keys ages quickly,
/// long enough that a device need not publish under two keys most of the time.
pub const EPOCH_SECS: u64 = 6 * 60 * 60;

/// The oldest item that is believed, in seconds: two missed publications of at most 75 minutes
/// each, and 45 minutes of slack for clocks.
pub const MAX_AGE_SECS: u64 = 3 * 3600 + 15 * 60;

/// How far ahead of this device's clock an item may be, in seconds. Members' clocks differ; beyond
/// an hour their epochs would soon differ too.
pub const MAX_AHEAD_SECS: u64 = 3600;

/// A BEP 44 public key: the DHT key of a mutable item (no salt).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DhtKey(pub [u8; 32]);

/// A signed BEP 44 mutable item, as it goes to or comes from any DHT node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedItem {
    /// The key that signed it.
    pub key: DhtKey,
    /// The sequence number: Unix time in seconds.
    pub seq: i64,
    /// What is stored, at most 900 bytes; ours is [`VALUE_LEN`].
    pub value: Vec<u8>,
    /// Ed25519 over [`signed_text`].
    pub signature: [u8; 64],
    /// For a store: only over the version with this sequence number (BEP 44).
    pub cas: Option<i64>,
}

/// Why an item is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is stored under another key.
    #[error("the item has another key")]
    Key,
    /// The value has not the one length.
    #[error("the item has {0} bytes, not {VALUE_LEN}")]
    Length(usize),
    /// The signature does not verify, or the sequence number is negative.
    #[error("the item's signature does not verify")]
    Signature,
    /// The seal does not open.
    #[error("the item does not open")]
    Seal,
    /// The plaintext is not of the expected form.
    #[error("the item is malformed")]
    Malformed,
    /// Too old.
    #[error("the item is too old")]
    Stale,
    /// Too far in the future.
    #[error("the item is from the future")]
    Future,
}

impl SignedItem {
    /// Signs `value`.
    pub fn sign(secret: &DhtSecret, seq: i64, value: Vec<u8>) -> Self {
        let signature = secret.sign(&signed_text(seq, &value));
        Self { key: DhtKey(secret.public()), seq, value, signature, cas: None }
    }

    /// Whether the signature verifies, strictly.
    pub fn verify(&self) -> bool {
        verify_dht(&self.key.0, &signed_text(self.seq, &self.value), &self.signature)
    }
}

/// What BEP 44 signs for an item without salt.
pub fn signed_text(seq: i64, value: &[u8]) -> Vec<u8> {
    let mut text = format!("3:seqi{seq}e1:v{}:", value.len()).into_bytes();
    text.extend_from_slice(value);
    text
}

/// 32 secret bytes that members share; they hide where records are, and protect nothing else.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct NetworkSecret {
    /// Counts up with each revocation.
    pub generation: u32,
    key: [u8; 32],
}

impl NetworkSecret {
    /// The secret of this generation.
    pub fn new(generation: u32, key: [u8; 32]) -> Self {
        Self { generation, key }
    }

    /// The file form: generation 4 bytes, key 32 bytes.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([self.generation.to_be_bytes().as_slice(), &self.key].concat())
    }

    /// Reads the file form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (generation, key) = bytes.split_first_chunk()?;
        let key = key.try_into().ok()?;
        Some(Self { generation: u32::from_be_bytes(*generation), key })
    }

    /// The secret bytes.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

impl std::fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NetworkSecret({}, [redacted])", self.generation)
    }
}

/// The number of a six-hour period: `(unix + phase) / 6 h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// When a time lies within its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochTime {
    /// The epoch.
    pub epoch: Epoch,
    /// Seconds since it began.
    pub elapsed: u64,
}

impl EpochTime {
    fn new(secret: &NetworkSecret, whose: &[u8], now: UnixTime) -> Self {
        let bytes = kdf(secret.key(), "phase", whose);
        let mut first = [0; 8];
        first.copy_from_slice(&bytes[..8]);
        let shifted = now.0.saturating_add(u64::from_be_bytes(first) % EPOCH_SECS);
        Self { epoch: Epoch(shifted / EPOCH_SECS), elapsed: shifted % EPOCH_SECS }
    }

    /// Seconds until the next epoch begins, at least 1.
    pub fn remaining(&self) -> u64 {
        EPOCH_SECS - self.elapsed
    }

    /// Whether the last fifth has begun, in which records are published under the next key too.
    pub fn in_last_fifth(&self) -> bool {
        self.until_last_fifth().is_none()
    }

    /// Seconds until the last fifth begins; `None` once it has.
    pub fn until_last_fifth(&self) -> Option<u64> {
        let until = self.remaining().saturating_sub(EPOCH_SECS / 5);
        (until > 0).then_some(until)
    }

    /// The epoch whose key is most likely in use by a publisher whose clock differs, or that has
    /// not published in this one yet: the one before in the first half, the one after in the second.
    pub fn neighbour(&self) -> Epoch {
        if self.elapsed < EPOCH_SECS / 2 {
            Epoch(self.epoch.0.saturating_sub(1))
        } else {
            Epoch(self.epoch.0.saturating_add(1))
        }
    }
}

/// The key under which items are stored, and the one that opens them.
#[derive(Clone, PartialEq, Eq)]
struct ItemKey {
    public: DhtKey,
    seal: Zeroizing<[u8; 32]>,
}

impl ItemKey {
    fn new(public: DhtKey, shared: &[u8; 32]) -> Self {
        Self { public, seal: seal_key(shared, &public.0) }
    }
}

/// Seals `plain` (at most [`PLAIN_LEN`] bytes; padded with zeros) and signs the item.
fn seal_item(
    secret: &DhtSecret,
    shared: &[u8; 32],
    mut plain: Vec<u8>,
    seq: i64,
    nonce: [u8; NONCE_LEN],
) -> SignedItem {
    assert!(plain.len() <= PLAIN_LEN, "the encoders bound every list");
    plain.resize(PLAIN_LEN, 0);
    let key = secret.public();
    let aad = aad(&key, seq);
    let sealed = XChaCha20Poly1305::new(&Key::from(*seal_key(shared, &key)))
        .encrypt(&XNonce::from(nonce), Payload { msg: &plain, aad: &aad })
        .expect("600 bytes are no more than the cipher takes");
    let value = [nonce.as_slice(), &sealed].concat();
    SignedItem::sign(secret, seq, value)
}

/// Checks and opens an item: its key, length, signature and seal, in this order.
fn open_item(item: &SignedItem, key: &ItemKey) -> Result<Vec<u8>, RecordError> {
    if item.key != key.public {
        return Err(RecordError::Key);
    }
    if item.value.len() != VALUE_LEN {
        return Err(RecordError::Length(item.value.len()));
    }
    if item.seq < 0 || !item.verify() {
        return Err(RecordError::Signature);
    }
    let (nonce, sealed) = item.value.split_at(NONCE_LEN);
    let nonce = XNonce::try_from(nonce).map_err(|_| RecordError::Malformed)?;
    let aad = aad(&key.public.0, item.seq);
    XChaCha20Poly1305::new(&Key::from(*key.seal))
        .decrypt(&nonce, Payload { msg: sealed, aad: &aad })
        .map_err(|_| RecordError::Seal)
}

/// Refuses what is too old or from the future, by the sequence number.
fn check_age(seq: i64, now: UnixTime) -> Result<(), RecordError> {
    if is_future(seq, now) {
        return Err(RecordError::Future);
    }
    let seq = u64::try_from(seq).map_err(|_| RecordError::Malformed)?;
    if seq.saturating_add(MAX_AGE_SECS) < now.0 {
        return Err(RecordError::Stale);
    }
    Ok(())
}

/// Whether no honest clock can have given this sequence number by now.
pub fn is_future(seq: i64, now: UnixTime) -> bool {
    u64::try_from(seq).is_ok_and(|seq| seq > now.0.saturating_add(MAX_AHEAD_SECS))
}

fn seal_key(shared: &[u8; 32], key: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    kdf(shared, "dht seal", key)
}

fn aad(key: &[u8; 32], seq: i64) -> [u8; 40] {
    let mut aad = [0; 40];
    aad[..32].copy_from_slice(key);
    aad[32..].copy_from_slice(&seq.to_be_bytes());
    aad
}

/// A plaintext that is read from its start; every step fails where it ends.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(RecordError::Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        self.take(N)?.try_into().map_err(|_| RecordError::Malformed)
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        Ok(self.array::<1>()?[0])
    }

    /// A count that may not be above `max`.
    fn count(&mut self, max: usize) -> Result<usize, RecordError> {
        let count = usize::from(self.byte()?);
        if count <= max { Ok(count) } else { Err(RecordError::Malformed) }
    }

    /// The rest must be padding.
    fn finish(self) -> Result<(), RecordError> {
        if self.0.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(RecordError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> DhtSecret {
        DhtSecret::from_seed(&[1; 32])
    }

    #[test]
    fn an_opened_item_is_what_was_sealed() {
        let item = seal_item(&secret(), &[2; 32], b"hello".to_vec(), 7, [3; NONCE_LEN]);
        assert_eq!(item.value.len(), VALUE_LEN);
        let plain = open_item(&item, &ItemKey::new(item.key, &[2; 32])).unwrap();
        assert_eq!(&plain[..5], b"hello");
        assert_eq!(plain.len(), PLAIN_LEN);
        assert!(plain[5..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn hostile_items_are_refused_each_for_its_reason() {
        let item = seal_item(&secret(), &[2; 32], vec![1], 7, [3; NONCE_LEN]);
        let key = ItemKey::new(DhtKey(secret().public()), &[2; 32]);
        let open = |item: &SignedItem| open_item(item, &key);

        let other = seal_item(&DhtSecret::from_seed(&[9; 32]), &[2; 32], vec![], 7, [3; NONCE_LEN]);
        assert_eq!(open(&other), Err(RecordError::Key));
        for len in [0, 1, 639, 641, 1001] {
            let short = SignedItem::sign(&secret(), 7, vec![0; len]);
            assert_eq!(open(&short), Err(RecordError::Length(len)));
        }
        let mut bad = item.clone();
        bad.signature[0] ^= 1;
        assert_eq!(open(&bad), Err(RecordError::Signature));
        let mut moved = item.clone();
        moved.seq = 8;
        assert_eq!(open(&moved), Err(RecordError::Signature));
        let negative = SignedItem::sign(&secret(), -1, item.value.clone());
        assert_eq!(open(&negative), Err(RecordError::Signature));
        let garbage = SignedItem::sign(&secret(), 7, vec![0xa5; VALUE_LEN]);
        assert_eq!(open(&garbage), Err(RecordError::Seal));
        let replayed = SignedItem::sign(&secret(), 8, item.value.clone());
        assert_eq!(open(&replayed), Err(RecordError::Seal));
        assert_eq!(open_item(&item, &ItemKey::new(item.key, &[4; 32])), Err(RecordError::Seal));
    }

    #[test]
    fn age_is_judged_by_the_sequence_number() {
        let now = UnixTime(1_800_000_000);
        let at = |seq: u64| check_age(i64::try_from(seq).unwrap(), now);
        assert_eq!(at(now.0), Ok(()));
        assert_eq!(at(now.0 - MAX_AGE_SECS), Ok(()));
        assert_eq!(at(now.0 - MAX_AGE_SECS - 1), Err(RecordError::Stale));
        assert_eq!(at(now.0 + MAX_AHEAD_SECS), Ok(()));
        assert_eq!(at(now.0 + MAX_AHEAD_SECS + 1), Err(RecordError::Future));
        assert_eq!(check_age(i64::MAX, UnixTime(u64::MAX)), Err(RecordError::Stale));
        assert_eq!(check_age(-1, now), Err(RecordError::Malformed));
    }

    #[test]
    fn signed_text_is_the_one_of_bep_44() {
        assert_eq!(signed_text(4, b"Hello world!"), b"3:seqi4e1:v12:Hello world!");
    }

    #[test]
    fn an_epoch_lasts_six_hours_and_names_its_likely_neighbour() {
        let secret = NetworkSecret::new(0, [5; 32]);
        let first = EpochTime::new(&secret, b"x", UnixTime(1_800_000_000));
        let start = 1_800_000_000 - first.elapsed;
        let early = EpochTime::new(&secret, b"x", UnixTime(start));
        assert_eq!((early.epoch, early.elapsed), (first.epoch, 0));
        assert_eq!(early.neighbour(), Epoch(first.epoch.0 - 1));
        assert!(!early.in_last_fifth());
        let late = EpochTime::new(&secret, b"x", UnixTime(start + EPOCH_SECS - 1));
        assert_eq!((late.epoch, late.remaining()), (first.epoch, 1));
        assert_eq!(late.neighbour(), Epoch(first.epoch.0 + 1));
        assert!(late.in_last_fifth());
        let next = EpochTime::new(&secret, b"x", UnixTime(start + EPOCH_SECS));
        assert_eq!(next.epoch, Epoch(first.epoch.0 + 1));
        // A clock at its end does not overflow.
        EpochTime::new(&secret, b"x", UnixTime(u64::MAX)).neighbour();
    }
}
