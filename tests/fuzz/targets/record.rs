//! Items of the DHT: as any node may hand them out, and as only members and invited devices can
//! make them.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use ginnel::identity::blind::DhtSecret;
use ginnel::identity::{DeviceId, IdSecret, kdf};
use ginnel::membership::UnixTime;
use ginnel::wire::record::{
    AddressKind, Bell, BellKey, DhtKey, Epoch, MAX_ENDPOINTS, MAX_RINGERS, Meeting, NONCE_LEN,
    NetworkSecret, Record, RecordBody, RecordKey, Rendezvous, Ring, Seat, SignedItem, VALUE_LEN,
    acceptable,
};

use super::Source;
use super::said::seldom;

const PLAIN_LEN: usize = VALUE_LEN - NONCE_LEN - 16;
const NOW: i64 = 1_700_000_000;
const EPOCH: Epoch = Epoch(81_915);

/// Which of the three things that are stored.
#[derive(Clone, Copy)]
enum Kind {
    Record,
    Bell,
    Meeting(Seat),
}

/// The first byte: what it is, and whether it comes from a stranger. A plaintext is decoded as it
/// is, and now and then sealed, signed and opened again.
pub fn record(data: &[u8]) {
    let mut source = Source(data);
    let mode = source.byte();
    let kind = match mode % 4 {
        0 => Kind::Record,
        1 => Kind::Bell,
        2 => Kind::Meeting(Seat::Joiner),
        _ => Kind::Meeting(Seat::Sponsor(mode >> 4 & 3)),
    };
    if mode & 4 != 0 {
        stranger(kind, source);
        return;
    }
    let mut plain = source.rest().to_vec();
    plain.resize(PLAIN_LEN, 0);
    let told = decode(kind, &plain);
    if seldom() {
        let item = seal(kind, &plain, NOW);
        assert_eq!(open(kind, &item).is_some(), told.is_some());
    }
}

/// What is read of a plaintext: endpoints, which must be ones that may be tried.
fn decode(kind: Kind, plain: &[u8]) -> Option<()> {
    let endpoints = match kind {
        Kind::Record => {
            let body = RecordBody::decode(plain).ok()?;
            assert!(body.relays.len() <= 4);
            body.endpoints
        }
        Kind::Bell => {
            let rings = Ring::decode_all(plain).ok()?;
            assert!(rings.len() <= MAX_RINGERS);
            rings.into_iter().flat_map(|ring| ring.endpoints).collect()
        }
        Kind::Meeting(seat) => {
            let (wg, endpoints) = seat.decode(plain).ok()?;
            assert_eq!(wg.is_some(), seat != Seat::Joiner);
            endpoints
        }
    };
    let most = if matches!(kind, Kind::Bell) { MAX_RINGERS * 5 } else { MAX_ENDPOINTS };
    assert!(endpoints.len() <= most);
    for endpoint in endpoints {
        assert_ne!(AddressKind::of(&endpoint), AddressKind::Unusable);
        let _ = acceptable(&endpoint, |_| false);
    }
    Some(())
}

/// An item of which nothing holds but what the first bytes grant: its key, its length.
fn stranger(kind: Kind, mut source: Source<'_>) {
    let [right_key, right_len] = source.array();
    let key = if right_key & 1 == 0 { DhtKey(source.array()) } else { key_of(kind) };
    let seq = i64::from_be_bytes(source.array());
    let signature = source.array();
    let mut value = source.rest().to_vec();
    if right_len & 1 == 1 {
        value.resize(VALUE_LEN, 0);
    }
    // A right key costs a signature's verification.
    if right_key & right_len & 1 == 0 || seldom() {
        let item = SignedItem { key, seq, value, signature, cas: None };
        assert!(open(kind, &item).is_none(), "a forgery");
    }
}

fn open(kind: Kind, item: &SignedItem) -> Option<()> {
    let now = UnixTime(NOW as u64);
    match kind {
        Kind::Record => {
            let key = RecordKey::new(&device().public(), &knet(), EPOCH)?;
            let record = Record::open(item, &key, now).ok()?;
            let again = Record::seal(
                &device(),
                &knet(),
                EPOCH,
                (record.body(), record.seq()),
                item.value[..NONCE_LEN].try_into().expect("a value starts with its nonce"),
            );
            let again = Record::open(&again, &key, now);
            assert_eq!(again.as_ref(), Ok(&record));
        }
        Kind::Bell => drop(Bell::open(item, &BellKey::new(&knet(), EPOCH), now).ok()?),
        Kind::Meeting(seat) => drop(Meeting::open(item, &rv(), seat).ok()?),
    }
    Some(())
}

fn device() -> IdSecret {
    IdSecret::from_seed([7; 32])
}

fn knet() -> NetworkSecret {
    NetworkSecret::new(1, [42; 32])
}

fn rv() -> Rendezvous {
    Rendezvous::new([43; 32])
}

/// The key under which it is stored: of the device a stale one, since blinding costs too much here.
fn key_of(kind: Kind) -> DhtKey {
    match kind {
        Kind::Record => DhtKey(device().public().0),
        Kind::Bell => BellKey::new(&knet(), EPOCH).dht(),
        Kind::Meeting(seat) => rv().seat_key(seat),
    }
}

/// Seals and signs any plaintext, as whoever holds the keys could.
fn seal(kind: Kind, plain: &[u8], seq: i64) -> SignedItem {
    let epoch = EPOCH.0.to_be_bytes();
    let (secret, shared) = match kind {
        Kind::Record => {
            let DeviceId(id) = device().public();
            let factor = kdf(knet().key(), "dht blind", &[&id[..], &epoch].concat());
            (DhtSecret::blinded(&device(), &factor), *knet().key())
        }
        Kind::Bell => (DhtSecret::from_seed(&kdf(knet().key(), "bell", &epoch)), *knet().key()),
        Kind::Meeting(seat) => {
            let seed = match seat {
                Seat::Sponsor(number) => kdf(rv().key(), "sponsor", &[number]),
                Seat::Joiner => kdf(rv().key(), "joiner", &[]),
            };
            (DhtSecret::from_seed(&seed), *rv().key())
        }
    };
    let nonce = [5; NONCE_LEN];
    let aad = [&secret.public()[..], &seq.to_be_bytes()].concat();
    let key = Key::from(*kdf(&shared, "dht seal", &secret.public()));
    let sealed = XChaCha20Poly1305::new(&key)
        .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: &aad })
        .expect("600 bytes");
    SignedItem::sign(&secret, seq, [&nonce[..], &sealed].concat())
}

pub fn seeds() -> Vec<Vec<u8>> {
    let endpoints = [&[2, 4, 192, 0, 2, 1, 0xa2, 0xa9, 6][..], &[0x20; 16], &[0xa2, 0xa9]].concat();
    let body = [&[1, 2][..], &[3; 8], &endpoints, &[1], &[4; 32]].concat();
    let ring = [&[9; 32][..], &(NOW as u32).to_be_bytes(), &endpoints].concat();
    let bell = [&[1, 2][..], &ring, &[8; 32], &ring[32..]].concat();
    let sponsor = [&[1, 1][..], &[6; 32], &endpoints].concat();
    let joiner = [&[1, 0][..], &[0; 32], &endpoints].concat();
    let mut seeds: Vec<Vec<u8>> = [(0, body), (1, bell), (2, joiner), (3, sponsor)]
        .into_iter()
        .map(|(mode, plain)| [&[mode][..], &plain].concat())
        .collect();
    for mode in 4..8 {
        for keys in [[0, 0], [0, 1], [1, 0], [1, 1]] {
            let seq = NOW.to_be_bytes();
            seeds.push([&[mode][..], &keys, &seq, &[1; 64], &[2; 100]].concat());
        }
    }
    seeds
}
