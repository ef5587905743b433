//! What members say to one another: control messages, beacons.

use std::cell::Cell;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use ginnel::identity::kdf;
use ginnel::membership::UnixTime;
use ginnel::wire::beacon::{Beacon, BeaconKey, LEN, MAX_SKEW_SECS, Sender};
use ginnel::wire::control::{Control, MAX_MESSAGE, MAX_PACKET, decode_packet};
use ginnel::wire::record::{NONCE_LEN, NetworkSecret, Rendezvous};

use super::Source;
use super::messages::every_message;

/// How many times an expensive check is left out for each time it runs, while fuzzing.
const SELDOM: u32 = 64;

/// Whether to make an expensive check now: always where a corpus is replayed; while fuzzing the
/// first time, so that a finding shows again, and then seldom.
pub fn seldom() -> bool {
    thread_local! {
        static CALLS: Cell<u32> = const { Cell::new(0) };
    }
    let calls = CALLS.replace(CALLS.get().wrapping_add(1));
    !cfg!(fuzzing) || calls.is_multiple_of(SELDOM)
}

/// A message, or with an odd first byte a whole inner packet.
pub fn control(data: &[u8]) {
    let mut source = Source(data);
    let message = if source.byte() & 1 == 0 {
        source.rest()
    } else {
        match decode_packet(source.rest()) {
            Ok(message) => message,
            Err(_) => return,
        }
    };
    match Control::decode(message) {
        Ok(Control::Unknown(kind)) => assert_eq!(message[0], kind),
        Ok(said) => {
            let bytes = said.encode().expect("what was read can be written");
            assert!(bytes.len() <= message.len(), "ours is the shortest form");
            assert_eq!(Control::decode(&bytes).as_ref(), Ok(&said));
            assert!(said.to_packet().expect("it fits").len() <= MAX_PACKET);
            if let Control::Secret(secret) = &said {
                let _ = NetworkSecret::from(secret);
            }
        }
        Err(_) => {}
    }
    assert!(message.len() <= MAX_MESSAGE || Control::decode(message).is_err());
}

pub fn control_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for message in every_message() {
        let bytes = message.encode().expect("it fits");
        seeds.push([&[0], &bytes[..]].concat());
        seeds.push([&[1], &message.to_packet().expect("it fits")[..]].concat());
    }
    // A list that says it has 2^63 entries.
    let mut lie = vec![0, 2];
    lie.extend([0; 9]);
    lie.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    seeds.push(lie);
    seeds
}

const NOW: UnixTime = UnixTime(1_700_000_000);

/// A datagram of the local network: as it is, or sealed by a member or by the holder of an invite.
pub fn beacon(data: &[u8]) {
    let mut source = Source(data);
    let network = NetworkSecret::new(1, [42; 32]);
    let rv = Rendezvous::new([43; 32]);
    let keys = [BeaconKey::of_network(&network), BeaconKey::of_invite(&rv)];
    let mode = source.byte() % 3;
    let seal = |key: &[u8; 32], context: &[u8], source: Source<'_>| {
        let mut plain = source.rest().to_vec();
        plain.resize(LEN - NONCE_LEN - 16, 0);
        let cipher = XChaCha20Poly1305::new(&Key::from(*kdf(key, "beacon", context)));
        let nonce = [5; NONCE_LEN];
        let sealed = cipher.encrypt(&XNonce::from(nonce), plain.as_slice()).expect("a short text");
        [&nonce[..], &sealed].concat()
    };
    let datagram = match mode {
        0 => source.rest().to_vec(),
        1 => seal(network.key(), &[], source),
        _ => seal(rv.key(), b"invite", source),
    };
    for (number, key) in keys.iter().enumerate() {
        if let Ok(beacon) = Beacon::open(&datagram, key, NOW) {
            let of_member = matches!(beacon.sender, Sender::Member(_));
            assert_eq!(of_member, number == 0);
            assert!(beacon.port != 0 && beacon.time.0.abs_diff(NOW.0) <= MAX_SKEW_SECS);
            let nonce = datagram[..NONCE_LEN].try_into().expect("a beacon starts with its nonce");
            assert_eq!(beacon.seal(key, nonce), datagram, "one form only");
        }
    }
}

pub fn beacon_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![[&[0][..], &[9; LEN]].concat(), vec![0], [&[0][..], &[9; 300]].concat()];
    for (mode, kind) in [(1, 1), (1, 2), (2, 2), (2, 3)] {
        let mut plain = vec![mode, kind, 1, 0xa2, 0xa9];
        plain.extend_from_slice(&NOW.0.to_be_bytes());
        plain.extend_from_slice(if kind == 3 { &[0; 32] } else { &[7; 32] });
        seeds.push(plain);
    }
    seeds
}
