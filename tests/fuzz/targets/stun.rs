//! STUN messages: as they come, and with an integrity that holds.

use bytecodec::DecodeExt;
use ginnel::identity::{WgSecret, kdf};
use ginnel::wire::classify::{Class, classify};
use ginnel::wire::stun::{
    CheckKey, CheckRequest, CheckResponse, Envelope, MAX_LEN, StunResponse, TransactionId, is_stun,
};
use stun_codec::rfc5389::attributes::MessageIntegrity;
use stun_codec::{Message, MessageDecoder, RawAttribute};

use super::Source;

/// The length of a header, and of the MESSAGE-INTEGRITY attribute.
const HEADER_LEN: usize = 20;
const INTEGRITY_LEN: usize = 24;

thread_local! {
    static KEYS: (CheckKey, CheckKey, String) = keys();
}

/// The key of a pair as each of the two holds it, and the password that follows from it.
fn keys() -> (CheckKey, CheckKey, String) {
    let (a, b) = (WgSecret::from_bytes([1; 32]), WgSecret::from_bytes([2; 32]));
    let derive = |own: &WgSecret, other: &WgSecret| {
        CheckKey::derive(own, &other.public()).expect("two different keys")
    };
    let shared = a.agree(&b.public()).expect("no low-order key");
    let password = data_encoding::HEXLOWER.encode(&*kdf(shared.as_ref(), "check", &[]));
    (derive(&a, &b), derive(&b, &a), password)
}

pub fn stun(data: &[u8]) {
    let mut source = Source(data);
    KEYS.with(|(ours, theirs, password)| match source.byte() % 3 {
        0 => read(source.rest(), ours, theirs),
        1 => read(&framed(source.rest()), ours, theirs),
        _ => {
            if let Some(signed) = signed(source.rest(), password) {
                read(&signed, ours, theirs);
            }
        }
    });
}

fn read(datagram: &[u8], ours: &CheckKey, theirs: &CheckKey) {
    assert_eq!(is_stun(datagram), classify(datagram) == Class::Stun && datagram.len() <= MAX_LEN);
    let envelope = Envelope::peek(datagram);
    if let Ok(request) = CheckRequest::decode(datagram, ours) {
        assert_eq!(CheckRequest::decode(&request.encode(theirs), ours), Ok(request));
        let answer =
            CheckResponse { transaction: request.transaction, mapped: ([192, 0, 2, 1], 7).into() };
        assert!(answer.encode(ours).len() <= datagram.len(), "an answer amplifies");
    }
    if let Ok(response) = CheckResponse::decode(datagram, ours) {
        assert_eq!(envelope, Ok(Envelope::Response(response.transaction)));
        assert_eq!(CheckResponse::decode(&response.encode(theirs), ours), Ok(response));
    }
    if let Ok(response) = StunResponse::decode(datagram) {
        assert_eq!(envelope, Ok(Envelope::Response(response.transaction)));
    }
}

/// A header of the right length and cookie before what follows.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut source = Source(bytes);
    let kind = [[0, 1], [1, 1], [1, 0x11], [0, 0x11]][usize::from(source.byte()) % 4];
    let transaction: [u8; 12] = source.array();
    let attributes = source.rest();
    let attributes = &attributes[..attributes.len().min(MAX_LEN) / 4 * 4];
    let len = (attributes.len() as u16).to_be_bytes();
    [&kind[..], &len, &[0x21, 0x12, 0xa4, 0x42], &transaction, attributes].concat()
}

/// The same with a MESSAGE-INTEGRITY that holds, where the rest can carry one.
fn signed(bytes: &[u8], password: &str) -> Option<Vec<u8>> {
    let mut message = framed(bytes);
    let raw: Message<RawAttribute> =
        MessageDecoder::new().decode_from_bytes(&message).ok()?.ok()?;
    let integrity = MessageIntegrity::new_short_term_credential(&raw, password).ok()?;
    let len = (message.len() - HEADER_LEN + INTEGRITY_LEN) as u16;
    message[2..4].copy_from_slice(&len.to_be_bytes());
    message.extend_from_slice(&[0, 8, 0, 20]);
    message.extend_from_slice(&integrity.hmac_sha1());
    Some(message)
}

/// A check of the other device of the pair.
pub fn request() -> Vec<u8> {
    KEYS.with(|(_, theirs, _)| {
        CheckRequest { transaction: TransactionId::new([5; 12]), tag: theirs.tag(1_700_000_000) }
            .encode(theirs)
    })
}

pub fn seeds() -> Vec<Vec<u8>> {
    let transaction = TransactionId::new([5; 12]);
    let answers = ["192.0.2.9:1234", "[2001:db8::9]:1234"].map(|mapped| {
        let mapped = mapped.parse().expect("an address");
        KEYS.with(|(_, theirs, _)| CheckResponse { transaction, mapped }.encode(theirs))
    });
    // XOR-MAPPED-ADDRESS, OTHER-ADDRESS, SOFTWARE; an ERROR-CODE; a MAPPED-ADDRESS.
    let reflected = [
        &[1, 1, 0, 36, 0x21, 0x12, 0xa4, 0x42, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5][..],
        &[0, 0x20, 0, 8, 0, 1, 1, 2, 3, 4, 5, 6, 0x80, 0x2c, 0, 8, 0, 1, 1, 2, 3, 4, 5, 6],
        &[0x80, 0x22, 0, 7, b's', b't', b'u', b'n', b'd', b'/', b'1', 0],
    ]
    .concat();
    let error = [
        &[1, 0x11, 0, 12, 0x21, 0x12, 0xa4, 0x42, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5][..],
        &[0, 9, 0, 7, 0, 0, 4, 20, b'N', b'o', b'.', 0],
    ]
    .concat();
    let old = [
        &[1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5][..],
        &[0, 1, 0, 8, 0, 1, 1, 2, 3, 4, 5, 6],
    ]
    .concat();
    let whole = [request(), reflected, error, old].into_iter().chain(answers);
    let mut seeds = Vec::new();
    for message in whole {
        seeds.push([&[0][..], &message].concat());
        // The same attributes for the target to put a header before, and to sign.
        let kind = [[0, 1], [1, 1], [1, 0x11]].iter().position(|kind| message.starts_with(kind));
        let kind = kind.unwrap_or_default() as u8;
        for mode in [1, 2] {
            seeds.push([&[mode, kind], &message[8..]].concat());
        }
    }
    seeds
}
