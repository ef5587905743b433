//! What a datagram at the data port is, by its first bytes alone.
//!
//! One UDP socket a family carries everything. In this order:
//!
//! | class | first bytes | length |
//! |---|---|---|
//! | STUN (RFC 8489) | top two bits clear, bytes 4..8 = `2112A442` | 20 + the length in bytes 2..4, a multiple of 4 |
//! | WireGuard | `01`…`04`, then `00 00 00` | 148, 92, 64, or ≥ 32 |
//! | relay | `06 00 00 00` | ≥ 64: 32 bytes of its own round a WireGuard message |
//!
//! Everything else is dropped in silence. Nothing here is authentic yet. No message can be taken for
//! one of another class: WireGuard's bytes 2..4 are zero, which as STUN means exactly 20 bytes, and
//! WireGuard has no message that short.

/// What a datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A STUN message.
    Stun,
    /// WireGuard type 1.
    Initiation,
    /// WireGuard type 2.
    Response,
    /// WireGuard type 3.
    CookieReply,
    /// WireGuard type 4.
    Transport,
    /// A frame of the relay protocol.
    Relay,
    /// None of these.
    Unknown,
}

/// Length of a WireGuard handshake initiation.
pub const INITIATION_LEN: usize = 148;
/// Length of a WireGuard handshake response.
pub const RESPONSE_LEN: usize = 92;
/// Length of a WireGuard cookie reply.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Length of the shortest WireGuard transport message, a keepalive.
pub const TRANSPORT_MIN_LEN: usize = 32;
/// Length of the shortest relay frame: 32 bytes of its own and a keepalive.
pub const RELAY_MIN_LEN: usize = 64;

/// Length of a STUN header.
const STUN_HEADER_LEN: usize = 20;
/// Bytes 4..8 of every STUN message.
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// What `datagram` is.
#[inline]
pub fn classify(datagram: &[u8]) -> Class {
    let Some((first, rest)) = datagram.split_first_chunk::<4>() else { return Class::Unknown };
    if is_stun(*first, rest, datagram.len()) {
        return Class::Stun;
    }
    match (*first, datagram.len()) {
        ([1, 0, 0, 0], INITIATION_LEN) => Class::Initiation,
        ([2, 0, 0, 0], RESPONSE_LEN) => Class::Response,
        ([3, 0, 0, 0], COOKIE_REPLY_LEN) => Class::CookieReply,
        ([4, 0, 0, 0], TRANSPORT_MIN_LEN..) => Class::Transport,
        ([6, 0, 0, 0], RELAY_MIN_LEN..) => Class::Relay,
        _ => Class::Unknown,
    }
}

/// The index under which the receiver of a WireGuard message knows its session or handshake: of
/// types 2, 3 and 4.
#[inline]
pub fn receiver_index(datagram: &[u8]) -> Option<u32> {
    match classify(datagram) {
        Class::Response => field(datagram, 8).map(u32::from_le_bytes),
        Class::CookieReply | Class::Transport => field(datagram, 4).map(u32::from_le_bytes),
        _ => None,
    }
}

/// The index that the sender of a WireGuard handshake message chose: of types 1 and 2.
pub fn sender_index(datagram: &[u8]) -> Option<u32> {
    match classify(datagram) {
        Class::Initiation | Class::Response => field(datagram, 4).map(u32::from_le_bytes),
        _ => None,
    }
}

/// The ephemeral public key in a WireGuard handshake message: of types 1 and 2.
pub fn ephemeral_key(datagram: &[u8]) -> Option<[u8; 32]> {
    match classify(datagram) {
        Class::Initiation => field(datagram, 8),
        Class::Response => field(datagram, 12),
        _ => None,
    }
}

/// The counter of a WireGuard transport message.
#[inline]
pub fn counter(datagram: &[u8]) -> Option<u64> {
    match classify(datagram) {
        Class::Transport => field(datagram, 8).map(u64::from_le_bytes),
        _ => None,
    }
}

#[inline]
fn field<const N: usize>(datagram: &[u8], at: usize) -> Option<[u8; N]> {
    datagram.get(at..)?.first_chunk().copied()
}

#[inline]
fn is_stun(first: [u8; 4], rest: &[u8], len: usize) -> bool {
    let said = usize::from(u16::from_be_bytes([first[2], first[3]]));
    rest.starts_with(&STUN_COOKIE)
        && first[0] < 0x40
        && said.is_multiple_of(4)
        && len == STUN_HEADER_LEN + said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wireguard(kind: u8, len: usize) -> Vec<u8> {
        let mut datagram = vec![0xab; len];
        datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
        datagram
    }

    fn stun(kind: u16, attributes: usize) -> Vec<u8> {
        let mut datagram = vec![0; 20 + attributes];
        datagram[..2].copy_from_slice(&kind.to_be_bytes());
        datagram[2..4].copy_from_slice(&(attributes as u16).to_be_bytes());
        datagram[4..8].copy_from_slice(&STUN_COOKIE);
        datagram
    }

    #[test]
    fn each_class_is_told_by_type_and_length() {
        assert_eq!(classify(&wireguard(1, 148)), Class::Initiation);
        assert_eq!(classify(&wireguard(2, 92)), Class::Response);
        assert_eq!(classify(&wireguard(3, 64)), Class::CookieReply);
        assert_eq!(classify(&wireguard(4, 32)), Class::Transport);
        assert_eq!(classify(&wireguard(4, 65507)), Class::Transport);
        assert_eq!(classify(&wireguard(6, 64)), Class::Relay);
        assert_eq!(classify(&stun(0x0001, 0)), Class::Stun);
        assert_eq!(classify(&stun(0x0101, 1212)), Class::Stun);
    }

    #[test]
    fn wrong_lengths_types_and_reserved_bytes_are_unknown() {
        for len in [0, 1, 3, 31] {
            assert_eq!(classify(&vec![4; len]), Class::Unknown, "{len} bytes");
        }
        assert_eq!(classify(&wireguard(4, 31)), Class::Unknown);
        for len in [147, 149] {
            assert_eq!(classify(&wireguard(1, len)), Class::Unknown);
        }
        for kind in [0, 5, 7, b'd', 0xff] {
            assert_eq!(classify(&wireguard(kind, 148)), Class::Unknown);
        }
        for at in 1..4 {
            let mut datagram = wireguard(4, 64);
            datagram[at] = 1;
            assert_eq!(classify(&datagram), Class::Unknown);
        }
    }

    #[test]
    fn stun_needs_its_cookie_its_length_and_clear_top_bits() {
        let mut trailing = stun(1, 8);
        trailing.push(0);
        let mut odd = stun(1, 8);
        odd[3] = 7;
        odd.truncate(27);
        let mut cookie = stun(1, 8);
        cookie[4] ^= 1;
        for datagram in [trailing, odd, cookie, stun(0x4001, 8), stun(1, 8)[..19].to_vec()] {
            assert_eq!(classify(&datagram), Class::Unknown);
        }
    }

    #[test]
    fn a_wireguard_message_to_the_index_of_the_stun_cookie_stays_wireguard() {
        let mut datagram = wireguard(4, 96);
        datagram[4..8].copy_from_slice(&STUN_COOKIE);
        assert_eq!(classify(&datagram), Class::Transport);
    }

    #[test]
    fn fields_are_read_where_their_message_has_them_and_nowhere_else() {
        let numbered = |kind, len: usize| {
            let mut datagram: Vec<u8> = (0..len).map(|at| at as u8).collect();
            datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
            datagram
        };
        let (one, two) = (numbered(1, 148), numbered(2, 92));
        let (three, four) = (numbered(3, 64), numbered(4, 32));
        let at = |first: u8| u32::from_le_bytes([first, first + 1, first + 2, first + 3]);
        let receivers = [&one, &two, &three, &four].map(|datagram| receiver_index(datagram));
        assert_eq!(receivers, [None, Some(at(8)), Some(at(4)), Some(at(4))]);
        let senders = [&one, &two, &three, &four].map(|datagram| sender_index(datagram));
        assert_eq!(senders, [Some(at(4)), Some(at(4)), None, None]);
        let keys = [&one, &two, &three, &four].map(|d| ephemeral_key(d).map(|key| key[0]));
        assert_eq!(keys, [Some(8), Some(12), None, None]);
        let counters = [&one, &two, &three, &four].map(|datagram| counter(datagram).is_some());
        assert_eq!(counters, [false, false, false, true]);
        assert_eq!(counter(&four), Some(u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15])));
    }
}
