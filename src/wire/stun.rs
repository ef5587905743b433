//! STUN (RFC 8489): how a device learns its public address, and how two devices prove a path.
//!
//! Two kinds of Binding transactions share the data socket. Nothing longer than [`MAX_LEN`] is
//! looked at, nothing is answered that did not verify, and every failure is a [`StunError`].
//!
//! # Path checks, between two devices that know each other's WireGuard key
//!
//! ```text
//! request  (76 B)  header 20 · USERNAME 20 · ICE-CONTROLLING or -CONTROLLED 12 · MESSAGE-INTEGRITY 24
//! response (56 or 68 B)      header 20 · XOR-MAPPED-ADDRESS 12 or 24           · MESSAGE-INTEGRITY 24
//! ```
//!
//! * USERNAME is the pair's [`CheckTag`] of the hour as 16 lower-case hexadecimal digits:
//!   `KDF(check key, "check tag", be64(unix seconds / 3600))[..8]`. A stranger cannot link two
//!   hours; a receiver finds the pair by it before it computes anything.
//! * MESSAGE-INTEGRITY is HMAC-SHA1 over what is before it (RFC 8489, section 14.5), with a
//!   short-term credential: the password is the [`CheckKey`], `KDF(X25519(wg_a, wg_b), "check")`,
//!   as 64 lower-case hexadecimal digits. It is the last attribute; nothing may follow it. It is
//!   verified over the received bytes, before any attribute is read.
//! * Both devices have the same key, so a request also says who asks: the device with the lower
//!   WireGuard key sends ICE-CONTROLLING, the other ICE-CONTROLLED (RFC 8445, section 7.1.3; the
//!   tie-breaker is zero, since keys never tie). A request in our own role is our own request
//!   that somebody sent back, and is refused: otherwise an echo at a candidate address would
//!   make us answer ourselves and believe that the peer is there.
//! * The response is shorter than any request, so answering cannot amplify (checked in a test).
//! * A request may be longer: PADDING (RFC 5780, section 7.6) before MESSAGE-INTEGRITY makes it as
//!   long as the datagram whose passage it tests; the answer stays short.
//!
//! # Asking a reflector, any STUN server
//!
//! The request is a bare header, or one CHANGE-REQUEST (RFC 5780). A [`StunResponse`] carries
//! XOR-MAPPED-ADDRESS, or MAPPED-ADDRESS of servers older than RFC 5389, and OTHER-ADDRESS. It is
//! not authenticated: whoever uses it compares transaction and source, and asks several servers.
//! Attributes we do not know are skipped, required ones too: RFC 3489 servers send
//! SOURCE-ADDRESS and CHANGED-ADDRESS, which deserve no refusal.

mod check;
mod reflector;

use std::fmt;
use std::net::SocketAddr;

use bytecodec::{DecodeExt, EncodeExt};
use stun_codec::rfc5245::attributes::{IceControlled, IceControlling};
use stun_codec::rfc5389::attributes::{
    ErrorCode, MappedAddress, MessageIntegrity, Username, XorMappedAddress,
};
use stun_codec::rfc5780::attributes::{ChangeRequest, OtherAddress};
use stun_codec::{Message, MessageClass, MessageDecoder, MessageEncoder, RawAttribute};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::identity::{WgPublicKey, WgSecret, kdf};

pub use check::{CheckRequest, CheckResponse};
pub use reflector::{StunRequest, StunResponse};
pub use stun_codec::TransactionId;

/// The longest datagram that is read as STUN, in bytes: a padded request as long as an Ethernet's
/// largest UDP payload over IPv4, since larger paths are not looked for.
pub const MAX_LEN: usize = 1472;

/// The longest response: what fits the smallest IPv4 datagram every host must accept (576) without
/// its IP and UDP headers, RFC 8489, section 6.1.
const MAX_RESPONSE_LEN: usize = 548;

/// The length of a check without padding.
pub const REQUEST_LEN: usize = 76;

/// The length of the header, and so of the shortest message (RFC 8489, section 5).
const HEADER_LEN: usize = 20;

/// Bytes 4 to 8 of every message (RFC 8489, section 5).
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// The length of a MESSAGE-INTEGRITY attribute: type 2, length 2, HMAC-SHA1 20.
const INTEGRITY_LEN: usize = 24;

/// The type and length fields of a MESSAGE-INTEGRITY attribute.
const INTEGRITY_HEADER: [u8; 4] = [0x00, 0x08, 0x00, 20];

/// The digits of a tag in USERNAME.
const TAG_DIGITS: usize = 16;

/// Seconds for which a tag is used.
const TAG_PERIOD_S: u64 = 3600;

/// Why a datagram is not the message that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    /// The header is not that of a Binding message of at most [`MAX_LEN`] bytes.
    #[error("not a STUN Binding message")]
    NotStun,
    /// The attributes do not parse, or one that must be there is missing.
    #[error("its attributes are malformed or incomplete")]
    Malformed,
    /// It is a request where a response was expected, or the other way round.
    #[error("it is of another class than expected")]
    Class,
    /// MESSAGE-INTEGRITY does not verify under the key.
    #[error("its integrity does not verify")]
    Integrity,
    /// It is a request in our own role: our own, sent back to us.
    #[error("it is a request of our own that came back")]
    Reflected,
    /// The mapped address cannot be anybody's: unspecified, multicast, or port 0.
    #[error("it maps to an impossible address")]
    Address,
}

/// Whether a datagram has the form of a STUN message: top two bits clear, magic cookie, and a
/// length field that fits. Reads the header only, so it can run on every datagram.
pub fn is_stun(datagram: &[u8]) -> bool {
    let Some(header) = datagram.first_chunk::<HEADER_LEN>() else { return false };
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    header[0] & 0xc0 == 0
        && header[4..8] == MAGIC_COOKIE
        && length.is_multiple_of(4)
        && HEADER_LEN + length == datagram.len()
        && datagram.len() <= MAX_LEN
}

/// What a datagram claims to be, read without any key, to find out whom to hand it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    /// A path check of the pair with this tag; [`CheckRequest::decode`] with that pair's key.
    Request(CheckTag),
    /// An answer: [`StunResponse::decode`] where a reflector was asked in this transaction,
    /// [`CheckResponse::decode`] where a peer was.
    Response(TransactionId),
}

impl Envelope {
    /// Reads the header, and of a request the tag, which must be the first attribute, and whether
    /// there is a MESSAGE-INTEGRITY to verify.
    pub fn peek(datagram: &[u8]) -> Result<Self, StunError> {
        match class(datagram)? {
            MessageClass::Request => {
                let tail = datagram.len().saturating_sub(INTEGRITY_LEN);
                if datagram.len() < REQUEST_LEN || !datagram[tail..].starts_with(&INTEGRITY_HEADER)
                {
                    return Err(StunError::Malformed);
                }
                let name = datagram.get(HEADER_LEN..HEADER_LEN + 4 + TAG_DIGITS);
                let name = name.and_then(|name| name.strip_prefix(&[0x00, 0x06, 0x00, 16]));
                name.and_then(CheckTag::from_digits).map(Self::Request).ok_or(StunError::Malformed)
            }
            MessageClass::SuccessResponse | MessageClass::ErrorResponse => {
                Ok(Self::Response(transaction(datagram)))
            }
            MessageClass::Indication => Err(StunError::Class),
        }
    }
}

/// The transaction that a message begins; `None` where it is no request.
pub fn question(datagram: &[u8]) -> Option<TransactionId> {
    (class(datagram) == Ok(MessageClass::Request)).then(|| transaction(datagram))
}

/// What a pair of devices authenticates its path checks with: `KDF(X25519(wg_a, wg_b), "check")`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct CheckKey {
    key: [u8; 32],
    /// Whether our WireGuard key is the lower one of the two.
    lower: bool,
}

impl CheckKey {
    /// The key that `own` shares with `peer`. `None` where `peer` is a low-order point or our own
    /// key: neither is a peer.
    pub fn derive(own: &WgSecret, peer: &WgPublicKey) -> Option<Self> {
        let public = own.public();
        if public == *peer {
            return None;
        }
        let shared = own.agree(peer)?;
        Some(Self { key: *kdf(shared.as_ref(), "check", &[]), lower: public < *peer })
    }

    /// The tag of the pair in the hour that holds `unix_seconds`.
    pub fn tag(&self, unix_seconds: u64) -> CheckTag {
        let hour = unix_seconds / TAG_PERIOD_S;
        let long = kdf(&self.key, "check tag", &hour.to_be_bytes());
        CheckTag(*long.first_chunk().expect("32 bytes begin with 8"))
    }

    /// The tags to accept at `unix_seconds`: of this hour and of its neighbours, since two clocks
    /// may differ by an hour.
    pub fn tags(&self, unix_seconds: u64) -> [CheckTag; 3] {
        [
            self.tag(unix_seconds),
            self.tag(unix_seconds.saturating_sub(TAG_PERIOD_S)),
            self.tag(unix_seconds.saturating_add(TAG_PERIOD_S)),
        ]
    }

    /// Whether our WireGuard key is the lower one of the two: that side keeps idle paths open.
    pub fn is_lower(&self) -> bool {
        self.lower
    }

    /// The password of the short-term credential.
    fn password(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * self.key.len()));
        for byte in self.key {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        text
    }

    /// Appends MESSAGE-INTEGRITY.
    fn sign(&self, message: &mut Message<Attribute>) {
        let integrity = MessageIntegrity::new_short_term_credential(message, &self.password())
            .expect("our own attributes always encode");
        message.add_attribute(integrity);
    }

    /// The message before MESSAGE-INTEGRITY, once that has verified over the received bytes.
    fn verify(&self, datagram: &[u8]) -> Result<Message<Attribute>, StunError> {
        let at = datagram.len().checked_sub(INTEGRITY_LEN).filter(|at| *at >= HEADER_LEN);
        let (body, tail) = datagram.split_at(at.ok_or(StunError::Malformed)?);
        let received = tail.strip_prefix(&INTEGRITY_HEADER).ok_or(StunError::Malformed)?;
        let mut body = body.to_vec();
        set_length(&mut body);
        if !equal(&self.integrity(&body)?, received) {
            return Err(StunError::Integrity);
        }
        decode(&body)
    }

    /// The integrity of a message that ends before MESSAGE-INTEGRITY.
    fn integrity(&self, body: &[u8]) -> Result<[u8; 20], StunError> {
        // As raw attributes, so that what is hashed are the very bytes, padding included.
        let raw: Message<RawAttribute> = decode(body)?;
        let integrity = MessageIntegrity::new_short_term_credential(&raw, &self.password());
        Ok(integrity.map_err(|_| StunError::Malformed)?.hmac_sha1())
    }
}

impl fmt::Debug for CheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckKey([redacted])")
    }
}

/// Names a pair of devices for an hour, to those two only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckTag(pub [u8; 8]);

impl CheckTag {
    /// Reads 16 lower-case hexadecimal digits.
    fn from_digits(digits: &[u8]) -> Option<Self> {
        let lower_case = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        let well = digits.len() == TAG_DIGITS && digits.iter().all(lower_case);
        let text = std::str::from_utf8(digits).ok().filter(|_| well)?;
        Some(Self(u64::from_str_radix(text, 16).ok()?.to_be_bytes()))
    }

    /// As it stands in USERNAME: 16 lower-case hexadecimal digits.
    pub fn digits(self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.0))
    }
}

stun_codec::define_attribute_enums!(
    Attribute,
    AttributeDecoder,
    AttributeEncoder,
    [
        Username,
        MessageIntegrity,
        XorMappedAddress,
        MappedAddress,
        ErrorCode,
        IceControlling,
        IceControlled,
        ChangeRequest,
        OtherAddress
    ]
);

/// The class of a Binding message.
fn class(datagram: &[u8]) -> Result<MessageClass, StunError> {
    if !is_stun(datagram) {
        return Err(StunError::NotStun);
    }
    // RFC 8489, section 5: method Binding is 0x0001, the class is in bits 4 and 8.
    match datagram[..2] {
        [0x00, 0x01] => Ok(MessageClass::Request),
        _ if datagram.len() > MAX_RESPONSE_LEN => Err(StunError::NotStun),
        [0x00, 0x11] => Ok(MessageClass::Indication),
        [0x01, 0x01] => Ok(MessageClass::SuccessResponse),
        [0x01, 0x11] => Ok(MessageClass::ErrorResponse),
        _ => Err(StunError::NotStun),
    }
}

/// Makes the header's length that of the message, which is at least a header.
fn set_length(message: &mut [u8]) {
    let length = (message.len() - HEADER_LEN) as u16;
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

/// The transaction of a datagram that [`is_stun`].
fn transaction(datagram: &[u8]) -> TransactionId {
    let bytes = datagram[8..HEADER_LEN].try_into().expect("8 to 20 are 12 bytes");
    TransactionId::new(bytes)
}

fn encode<A: stun_codec::Attribute>(message: Message<A>) -> Vec<u8> {
    MessageEncoder::new().encode_into_bytes(message).expect("our own attributes always encode")
}

fn decode<A: stun_codec::Attribute>(bytes: &[u8]) -> Result<Message<A>, StunError> {
    match MessageDecoder::new().decode_from_bytes(bytes) {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(_)) | Err(_) => Err(StunError::Malformed),
    }
}

/// Compares in a time that does not depend on where the first difference is.
fn equal(expected: &[u8; 20], received: &[u8]) -> bool {
    received.len() == expected.len()
        && expected.iter().zip(received).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// The address, with an IPv4 address never in its IPv6 form, if a device can have it.
fn possible(address: SocketAddr) -> Result<SocketAddr, StunError> {
    let address = canonical(address);
    let ip = address.ip();
    let broadcast = ip == std::net::Ipv4Addr::BROADCAST;
    match ip.is_unspecified() || ip.is_multicast() || broadcast || address.port() == 0 {
        true => Err(StunError::Address),
        false => Ok(address),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use stun_codec::rfc5389::methods::BINDING;

    use super::*;

    const NOW: u64 = 1_769_385_600;
    const V4: &str = "203.0.113.7:41641";
    const V6: &str = "[2001:db8::7]:41641";

    #[test]
    fn a_check_and_its_answer_arrive_in_both_directions_and_families() {
        let (a, b) = pair();
        for (asker, answerer) in [(&a, &b), (&b, &a)] {
            let request = CheckRequest { transaction: id(1), tag: asker.tag(NOW) };
            let datagram = request.encode(asker);
            assert!(is_stun(&datagram));
            assert_eq!(Envelope::peek(&datagram), Ok(Envelope::Request(answerer.tag(NOW))));
            assert_eq!(CheckRequest::decode(&datagram, answerer), Ok(request));
            for mapped in [V4, V6] {
                let response = CheckResponse { transaction: id(1), mapped: addr(mapped) };
                let answer = response.encode(answerer);
                assert_eq!(Envelope::peek(&answer), Ok(Envelope::Response(id(1))));
                assert_eq!(CheckResponse::decode(&answer, asker), Ok(response));
                assert!(answer.len() <= datagram.len(), "an answer must not amplify");
            }
        }
    }

    #[test]
    fn our_own_request_sent_back_is_refused() {
        let (a, _) = pair();
        let datagram = CheckRequest { transaction: id(1), tag: a.tag(NOW) }.encode(&a);
        assert_eq!(CheckRequest::decode(&datagram, &a), Err(StunError::Reflected));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_form_comes_out_as_ipv4() {
        let (a, b) = pair();
        let mapped = addr("[::ffff:203.0.113.7]:9");
        let answer = CheckResponse { transaction: id(1), mapped }.encode(&b);
        let read = CheckResponse::decode(&answer, &a).unwrap();
        assert_eq!(read.mapped, addr("203.0.113.7:9"));
    }

    #[test]
    fn the_key_is_symmetric_and_refuses_low_order_and_own_keys() {
        let (a, b) = pair();
        assert_eq!(a.key, b.key);
        assert_ne!(a.is_lower(), b.is_lower());
        assert_eq!(format!("{a:?}"), "CheckKey([redacted])");
        let own = WgSecret::from_bytes([1; 32]);
        assert!(CheckKey::derive(&own, &own.public()).is_none());
        for low in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            assert!(CheckKey::derive(&own, &WgPublicKey(low)).is_none());
        }
    }

    #[test]
    fn tags_change_hourly_and_those_of_neighbouring_hours_are_accepted() {
        let (a, b) = pair();
        assert_eq!(a.tag(NOW), b.tag(NOW + 3599));
        assert_ne!(a.tag(NOW), a.tag(NOW + 3600));
        assert!(a.tags(NOW).contains(&b.tag(NOW + 3600)));
        assert!(a.tags(NOW).contains(&b.tag(NOW - 3600)));
        assert!(!a.tags(NOW).contains(&b.tag(NOW + 7200)));
        let _ = (a.tags(0), a.tags(u64::MAX));
    }

    #[test]
    fn another_pairs_key_verifies_nothing() {
        let (a, b) = pair();
        let stranger = key(7, 8);
        let request = CheckRequest { transaction: id(1), tag: a.tag(NOW) }.encode(&a);
        assert_eq!(CheckRequest::decode(&request, &stranger), Err(StunError::Integrity));
        let response = CheckResponse { transaction: id(1), mapped: addr(V4) }.encode(&b);
        assert_eq!(CheckResponse::decode(&response, &stranger), Err(StunError::Integrity));
    }

    #[test]
    fn every_changed_bit_of_a_check_is_refused() {
        let (a, b) = pair();
        let request = CheckRequest { transaction: id(9), tag: a.tag(NOW) }.encode(&a);
        let response = CheckResponse { transaction: id(9), mapped: addr(V6) }.encode(&b);
        for bit in 0..request.len() * 8 {
            let mut changed = request.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(CheckRequest::decode(&changed, &b).is_err(), "bit {bit}");
        }
        for bit in 0..response.len() * 8 {
            let mut changed = response.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(CheckResponse::decode(&changed, &a).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_padded_check_has_the_length_asked_for_and_an_answer_that_is_short() {
        let (a, b) = pair();
        let request = CheckRequest { transaction: id(1), tag: a.tag(NOW) };
        assert_eq!(request.encode(&a).len(), REQUEST_LEN);
        for (asked, len) in [(0, 76), (79, 76), (80, 80), (1232, 1232), (1455, 1452), (9000, 1472)]
        {
            let datagram = request.encode_padded(asked, &a);
            assert_eq!(datagram.len(), len);
            assert_eq!(CheckRequest::decode(&datagram, &b), Ok(request));
            let mut changed = datagram.clone();
            changed[len - INTEGRITY_LEN - 1] ^= 1;
            assert!(CheckRequest::decode(&changed, &b).is_err());
        }
        let response = CheckResponse { transaction: id(1), mapped: addr(V6) }.encode(&b);
        assert!(response.len() < REQUEST_LEN);
        let mut padded = request.encode_padded(600, &a);
        padded[0] = 1;
        assert_eq!(Envelope::peek(&padded), Err(StunError::NotStun), "a response is short");
    }

    #[test]
    fn nothing_may_follow_the_integrity() {
        let (a, b) = pair();
        let mut message = Message::new(MessageClass::Request, BINDING, id(1));
        message.add_attribute(Username::new(a.tag(NOW).digits()).unwrap());
        message.add_attribute(IceControlling::new(0));
        a.sign(&mut message);
        message.add_attribute(IceControlled::new(0));
        assert!(CheckRequest::decode(&encode(message), &b).is_err());
        let mut trailing = CheckRequest { transaction: id(1), tag: a.tag(NOW) }.encode(&a);
        trailing.push(0);
        assert_eq!(CheckRequest::decode(&trailing, &b), Err(StunError::NotStun));
    }

    #[test]
    fn the_integrity_is_the_one_of_rfc_5769() {
        // RFC 5769, section 2.1, without its FINGERPRINT (which changes the hashed length only
        // after MESSAGE-INTEGRITY): the HMAC covers a header with length 80.
        let text = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e\
                    74002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020";
        let mut datagram = hex(text);
        datagram.extend(INTEGRITY_HEADER);
        datagram.extend(hex("9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"));
        datagram[3] = 80;
        let (body, tail) = datagram.split_at(datagram.len() - INTEGRITY_LEN);
        let mut body = body.to_vec();
        body[3] = 56;
        let raw: Message<RawAttribute> = decode(&body).unwrap();
        let integrity =
            MessageIntegrity::new_short_term_credential(&raw, "VOkJxbRl1RmTxUk/WvJxBt").unwrap();
        assert!(equal(&integrity.hmac_sha1(), &tail[4..]));
    }

    #[test]
    fn a_server_answer_is_read_in_every_form() {
        for mapped in [V4, V6] {
            let xored = answer(|m| m.add_attribute(XorMappedAddress::new(addr(mapped))));
            assert_eq!(StunResponse::decode(&xored).unwrap().mapped, Ok(addr(mapped)));
            let plain = answer(|m| m.add_attribute(MappedAddress::new(addr(mapped))));
            assert_eq!(StunResponse::decode(&plain).unwrap().mapped, Ok(addr(mapped)));
        }
        let both = answer(|m| {
            m.add_attribute(MappedAddress::new(addr("192.0.2.1:1")));
            m.add_attribute(OtherAddress::new(addr("192.0.2.9:3479")));
            m.add_attribute(XorMappedAddress::new(addr(V4)));
        });
        let read = StunResponse::decode(&both).unwrap();
        assert_eq!((read.mapped, read.other), (Ok(addr(V4)), Some(addr("192.0.2.9:3479"))));
        let mut refusal = Message::new(MessageClass::ErrorResponse, BINDING, id(3));
        refusal.add_attribute(ErrorCode::new(420, "what?".into()).unwrap());
        assert_eq!(StunResponse::decode(&encode::<Attribute>(refusal)).unwrap().mapped, Err(420));
    }

    #[test]
    fn an_answer_that_maps_to_an_impossible_address_is_refused() {
        for mapped in ["0.0.0.0:1", "203.0.113.7:0", "224.0.0.1:5", "255.255.255.255:5", "[::]:1"] {
            let datagram = answer(|m| m.add_attribute(XorMappedAddress::new(addr(mapped))));
            assert_eq!(StunResponse::decode(&datagram), Err(StunError::Address), "{mapped}");
        }
        let empty = answer(|_| ());
        assert_eq!(StunResponse::decode(&empty), Err(StunError::Malformed));
    }

    #[test]
    fn a_request_to_a_server_is_a_bare_header_or_asks_for_a_change() {
        let plain = StunRequest { transaction: id(2), change: (false, false) }.encode();
        assert_eq!(plain.len(), HEADER_LEN);
        assert!(is_stun(&plain));
        let change = StunRequest { transaction: id(2), change: (true, false) }.encode();
        assert_eq!(change[20..], [0, 3, 0, 4, 0, 0, 0, 4]);
        assert_eq!(StunResponse::decode(&plain), Err(StunError::Class));
        assert_eq!(Envelope::peek(&plain), Err(StunError::Malformed));
    }

    #[test]
    fn lying_lengths_truncation_and_giants_are_refused() {
        let good = answer(|m| m.add_attribute(XorMappedAddress::new(addr(V4))));
        for end in 0..good.len() {
            assert!(StunResponse::decode(&good[..end]).is_err());
            // Also with a header whose length fits the shorter datagram.
            let mut shorter = good[..end].to_vec();
            if let Some(length) = shorter.get_mut(2..4) {
                length.copy_from_slice(&(end.saturating_sub(HEADER_LEN) as u16).to_be_bytes());
            }
            assert!(StunResponse::decode(&shorter).is_err());
        }
        for length in [0_u16, 1, 7, 9, 12, 255, 0xffff] {
            let mut lying = good.clone();
            lying[22..24].copy_from_slice(&length.to_be_bytes());
            assert!(StunResponse::decode(&lying).is_err(), "attribute length {length}");
        }
        for size in [0, 1, 3, 19, 31, 1476, 65_507] {
            assert!(!is_stun(&vec![0; size]));
            let mut giant = vec![0; size];
            if size >= HEADER_LEN {
                giant[..HEADER_LEN].copy_from_slice(&good[..HEADER_LEN]);
                giant[2..4].copy_from_slice(&((size - HEADER_LEN) as u16).to_be_bytes());
            }
            assert_eq!(StunResponse::decode(&giant), Err(StunError::NotStun), "{size} bytes");
        }
    }

    #[test]
    fn a_hundred_thousand_mutations_neither_panic_nor_verify() {
        let (a, b) = pair();
        let seeds = [
            CheckRequest { transaction: id(1), tag: a.tag(NOW) }.encode(&a),
            CheckResponse { transaction: id(1), mapped: addr(V6) }.encode(&b),
            answer(|m| {
                m.add_attribute(MappedAddress::new(addr(V4)));
                m.add_attribute(OtherAddress::new(addr(V6)));
            }),
            StunRequest { transaction: id(1), change: (true, true) }.encode(),
        ];
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize
        };
        for round in 0..100_000 {
            let mut datagram = seeds[round % seeds.len()].clone();
            for _ in 0..1 + next() % 4 {
                let at = next() % datagram.len();
                datagram[at] = next() as u8;
            }
            if next() % 3 == 0 {
                datagram.truncate(next() % (datagram.len() + 1));
            }
            if datagram.len() >= HEADER_LEN && next() % 2 == 0 {
                let length = (datagram.len() - HEADER_LEN) as u16;
                datagram[2..4].copy_from_slice(&length.to_be_bytes());
            }
            let changed = datagram != seeds[round % seeds.len()];
            let _ = Envelope::peek(&datagram);
            let _ = StunResponse::decode(&datagram);
            assert!(!changed || CheckRequest::decode(&datagram, &b).is_err());
            assert!(!changed || CheckResponse::decode(&datagram, &a).is_err());
        }
    }

    fn key(own: u8, peer: u8) -> CheckKey {
        let peer = WgSecret::from_bytes([peer; 32]).public();
        CheckKey::derive(&WgSecret::from_bytes([own; 32]), &peer).unwrap()
    }

    /// The two sides' keys, the lower one first.
    fn pair() -> (CheckKey, CheckKey) {
        let (a, b) = (key(1, 2), key(2, 1));
        if a.is_lower() { (a, b) } else { (b, a) }
    }

    fn id(byte: u8) -> TransactionId {
        TransactionId::new([byte; 12])
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn answer(fill: impl FnOnce(&mut Message<Attribute>)) -> Vec<u8> {
        let mut message = Message::new(MessageClass::SuccessResponse, BINDING, id(3));
        fill(&mut message);
        encode(message)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }
}
