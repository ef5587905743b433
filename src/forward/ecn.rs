//! Congestion marks through the tunnel, as RFC 6040 says.
//!
//! A router that is about to drop a datagram marks it instead, if its sender said that it understands
//! (RFC 3168). The outer header is all that a router between two devices sees, therefore:
//!
//! * **Out** (section 4.1, normal mode): the outer header says what the inner one says. A burst has
//!   one inner header, so all of its datagrams share one codepoint and stay one send.
//! * **In** (section 4.2, figure 4): what arrived outside is written into the inner header,
//!   [`Ecn::decapsulated`]. A mark on a packet whose sender does not understand marks
//!   drops it: that is the signal which such a sender does understand.
//!
//! Control messages have no congestion control that a mark could slow down, and are let in whatever
//! is outside; they go out unmarked, as the inner header says.

use super::packet::{IPV4_HEADER, IPV6_HEADER, be16, checksum, put16};

/// The ECN field of an IP header: the low two bits of the traffic class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// The sender does not understand marks.
    #[default]
    NotEct = 0,
    /// It does (the experimental codepoint of L4S, RFC 9331).
    Ect1 = 1,
    /// It does.
    Ect0 = 2,
    /// Marked: congestion experienced.
    Ce = 3,
}

impl Ecn {
    /// The field in the low two bits of `bits`.
    pub fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The field of an IP packet, which must be what [`Header::parse`](super::packet::Header::parse)
    /// took.
    #[inline]
    pub fn of(packet: &[u8]) -> Self {
        match packet {
            [first, second, ..] if first >> 4 == 4 => Self::from_bits(*second),
            [_, second, ..] => Self::from_bits(second >> 4),
            _ => Self::NotEct,
        }
    }

    /// What the inner header has to say after a packet with `self` inside arrived with `outer`
    /// outside (RFC 6040, figure 4); `None`: the packet is to be dropped.
    #[inline]
    pub fn decapsulated(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, _) => Some(Self::NotEct),
            (Self::Ce, _) | (_, Self::Ce) => Some(Self::Ce),
            (_, Self::Ect1) => Some(Self::Ect1),
            (inner, Self::NotEct | Self::Ect0) => Some(inner),
        }
    }

    /// Writes the field into a whole IP packet and mends an IPv4 header's checksum by the difference
    /// (RFC 1624): one that was wrong stays wrong. No upper checksum covers the field.
    pub fn write(self, packet: &mut [u8]) {
        match packet.first().map(|first| first >> 4) {
            Some(4) if packet.len() >= IPV4_HEADER => {
                let before = be16(packet, 0).unwrap_or_default();
                packet[1] = packet[1] & !3 | self as u8;
                let after = be16(packet, 0).unwrap_or_default();
                let old = be16(packet, 10).unwrap_or_default();
                put16(
                    packet,
                    10,
                    checksum(u32::from(!old) + u32::from(!before) + u32::from(after)),
                );
            }
            Some(6) if packet.len() >= IPV6_HEADER => {
                packet[1] = packet[1] & !0x30 | (self as u8) << 4;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::build;
    use super::super::packet::{Header, TCP, UDP, pseudo_sum, sum};
    use super::Ecn::{Ce, Ect0, Ect1, NotEct};
    use super::*;

    const ALL: [Ecn; 4] = [NotEct, Ect1, Ect0, Ce];

    #[test]
    fn the_inner_field_becomes_what_figure_4_of_rfc_6040_says() {
        // Rows: the inner field; columns: Not-ECT, ECT(0), ECT(1), CE outside.
        let figure = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(row) {
                assert_eq!(inner.decapsulated(outer), expected, "{inner:?} in {outer:?}");
            }
        }
    }

    #[test]
    fn a_field_that_was_written_is_read_again_and_all_checksums_hold() {
        for protocol in [TCP, UDP] {
            for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
                for (from, to) in ALL.iter().flat_map(|from| ALL.map(|to| (*from, to))) {
                    let mut packet = build(a, b, protocol, b"payload");
                    let plain = packet.clone();
                    from.write(&mut packet);
                    to.write(&mut packet);
                    assert_eq!(Ecn::of(&packet), to);
                    let header = Header::parse(&packet).unwrap();
                    if header.source.is_ipv4() {
                        assert_eq!(checksum(sum(&packet[..20])), 0, "{from:?} to {to:?}");
                    }
                    let upper = &packet[header.transport_at..];
                    assert_eq!(checksum(pseudo_sum(&header, upper.len()) + sum(upper)), 0);
                    NotEct.write(&mut packet);
                    assert_eq!(packet, plain, "nothing else changed");
                }
            }
        }
    }

    #[test]
    fn the_other_bits_of_the_traffic_class_stay_and_a_wrong_checksum_stays_wrong() {
        let mut v4 = build("10.0.0.1", "10.0.0.2", UDP, b"x");
        v4[1] = 0xb8;
        let wrong = checksum(sum(&v4[..20]));
        assert_ne!(wrong, 0);
        Ce.write(&mut v4);
        assert_eq!((v4[1], checksum(sum(&v4[..20]))), (0xbb, wrong));
        let mut v6 = build("fd00::1", "fd00::2", UDP, b"x");
        v6[..2].copy_from_slice(&[0x6b, 0x8f]);
        Ect0.write(&mut v6);
        assert_eq!(v6[..2], [0x6b, 0xaf]);
    }

    #[test]
    fn what_is_no_packet_is_left_alone() {
        for mut bytes in [vec![], vec![0x45], vec![0x45; 19], vec![0x60; 39], vec![0; 60]] {
            let before = bytes.clone();
            Ce.write(&mut bytes);
            assert_eq!((Ecn::of(&bytes[..bytes.len().min(1)]), bytes), (NotEct, before));
        }
    }
}
