//! IP packets as the packet path needs them: lengths, addresses, the upper protocol, checksums.
//!
//! [`Header::parse`] takes a packet whole and fails where its lengths contradict one another, so that
//! nothing later indexes out of bounds. IPv4 (RFC 791) and IPv6 (RFC 8200) with at most
//! [`MAX_EXTENSIONS`] extension headers. Checksums are RFC 1071's.
//!
//! Control messages ride in IPv6 packets that [`wire::control`](crate::wire::control) makes, and are
//! known by their next-header and both addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::control;

pub use super::sum::{fold, sum};

/// Upper protocol TCP.
pub const TCP: u8 = 6;
/// Upper protocol UDP.
pub const UDP: u8 = 17;

/// Length of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header without extensions.
pub const IPV6_HEADER: usize = 40;

/// More extension headers than this and the packet is dropped: real stacks send two at most, and
/// a chain is work for whoever has to walk it (RFC 8504, section 5.3 allows such a limit).
pub const MAX_EXTENSIONS: usize = 8;

/// What an IP header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// The upper protocol (after IPv6 extension headers).
    pub protocol: u8,
    /// Where the upper header begins.
    pub transport_at: usize,
    /// Whether this is a fragment: only then may the upper header be absent or incomplete.
    pub fragment: bool,
}

impl Header {
    /// Reads the header of `packet`, which must be as long as its header says.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    /// Whether the header has neither IPv4 options nor IPv6 extensions.
    pub fn is_plain(&self) -> bool {
        self.transport_at == if self.source.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER }
    }

    /// Whether this is a control message.
    pub fn is_control(&self) -> bool {
        self.protocol == control::NEXT_HEADER
            && self.is_plain()
            && self.source == IpAddr::V6(control::SOURCE)
            && self.destination == IpAddr::V6(control::DESTINATION)
    }

    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<IPV4_HEADER>()?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let total = usize::from(be16(packet, 2)?);
        if header_len < IPV4_HEADER || total < header_len || total != packet.len() {
            return None;
        }
        Some(Self {
            source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
            destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
            protocol: fixed[9],
            transport_at: header_len,
            // More-fragments or an offset; the don't-fragment bit is neither.
            fragment: be16(packet, 6)? & 0x3fff != 0,
        })
    }

    fn parse_v6(packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<IPV6_HEADER>()?;
        if usize::from(be16(packet, 4)?) + IPV6_HEADER != packet.len() {
            return None;
        }
        let mut source = [0; 16];
        let mut destination = [0; 16];
        source.copy_from_slice(&fixed[8..24]);
        destination.copy_from_slice(&fixed[24..40]);
        let mut header = Self {
            source: Ipv6Addr::from(source).into(),
            destination: Ipv6Addr::from(destination).into(),
            protocol: fixed[6],
            transport_at: IPV6_HEADER,
            fragment: false,
        };
        header.skip_extensions(packet)?;
        Some(header)
    }

    /// Walks the extension headers (RFC 8200, section 4; AH: RFC 4302) up to the upper protocol,
    /// or to the first fragment that does not begin with it.
    fn skip_extensions(&mut self, packet: &[u8]) -> Option<()> {
        for _ in 0..=MAX_EXTENSIONS {
            let at = self.transport_at;
            let len = match self.protocol {
                0 | 43 | 60 => (usize::from(*packet.get(at + 1)?) + 1) * 8,
                51 => (usize::from(*packet.get(at + 1)?) + 2) * 4,
                44 => 8,
                _ => return Some(()),
            };
            if at + len > packet.len() {
                return None;
            }
            if self.protocol == 44 {
                let offset = be16(packet, at + 2)?;
                self.fragment |= offset & 0xfff9 != 0;
                if offset & 0xfff8 != 0 {
                    self.protocol = packet[at];
                    self.transport_at += len;
                    return Some(());
                }
            }
            self.protocol = packet[at];
            self.transport_at += len;
        }
        None
    }
}

/// Whether no packet of a network's devices may have this address, as source or as destination:
/// multicast, broadcast, link-local, loopback, unspecified, and IPv4 inside IPv6.
pub fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first == 0 || first >= 224 || v4.is_loopback() || v4.is_link_local()
        }
        IpAddr::V6(v6) => {
            v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.is_loopback()
                || v6.is_unspecified()
                || v6.to_ipv4_mapped().is_some()
        }
    }
}

/// The sum of the pseudo-header of TCP or UDP (RFC 9293, section 3.1; RFC 8200, section 8.1).
pub fn pseudo_sum(header: &Header, transport_len: usize) -> u32 {
    let addresses = match (header.source, header.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            sum(&source.octets()) + sum(&destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            sum(&source.octets()) + sum(&destination.octets())
        }
        _ => 0,
    };
    let len = transport_len as u32;
    addresses + u32::from(header.protocol) + (len >> 16) + (len & 0xffff)
}

/// The checksum over parts with these sums: folded and complemented.
pub fn checksum(sum: u32) -> u16 {
    !fold(sum.into())
}

/// How long the IP packet at the start of `bytes` says that it is; `None` where that is less than its
/// fixed header, or it is no IP packet.
#[inline]
pub(super) fn said_len(bytes: &[u8]) -> Option<usize> {
    let (len, least) = match bytes.first()? >> 4 {
        4 => (usize::from(be16(bytes, 2)?), IPV4_HEADER),
        6 => (usize::from(be16(bytes, 4)?) + IPV6_HEADER, IPV6_HEADER),
        _ => return None,
    };
    (len >= least).then_some(len)
}

/// A big-endian number, where it is there.
#[inline]
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|field| u16::from_be_bytes(*field))
}

/// A big-endian number, where it is there.
#[inline]
pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|field| u32::from_be_bytes(*field))
}

/// Writes a big-endian number at a place that the caller knows to exist.
#[inline]
pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A UDP or TCP packet with right lengths and checksums; TCP with sequence number 1,000 and
    /// the timestamp option, as Linux sends it.
    pub(in crate::forward) fn build(
        source: &str,
        destination: &str,
        protocol: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut transport = vec![0x30, 0x39, 0x00, 0x50];
        if protocol == TCP {
            transport.extend_from_slice(&1000u32.to_be_bytes());
            transport.extend_from_slice(&[0, 0, 0, 7, 0x80, 0x10, 1, 0xf5, 0, 0, 0, 0]);
            transport.extend_from_slice(&[1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4]);
        } else {
            transport.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
            transport.extend_from_slice(&[0, 0]);
        }
        transport.extend_from_slice(payload);
        let (source, destination): (IpAddr, IpAddr) =
            (source.parse().unwrap(), destination.parse().unwrap());
        let mut packet = ip_header(source, destination, protocol, transport.len());
        packet.extend_from_slice(&transport);
        fix_checksums(&mut packet);
        packet
    }

    fn ip_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet.extend_from_slice(&[0x45, 0]);
                packet.extend_from_slice(&(20 + len as u16).to_be_bytes());
                packet.extend_from_slice(&[0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
                packet.extend_from_slice(&source.octets());
                packet.extend_from_slice(&destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet.extend_from_slice(&[0x60, 0, 0, 9]);
                packet.extend_from_slice(&(len as u16).to_be_bytes());
                packet.extend_from_slice(&[protocol, 64]);
                packet.extend_from_slice(&source.octets());
                packet.extend_from_slice(&destination.octets());
            }
            _ => panic!("one family"),
        }
        packet
    }

    /// Sets the checksums as a naive reference computes them, word by word.
    pub(in crate::forward) fn fix_checksums(packet: &mut [u8]) {
        let header = Header::parse(packet).unwrap();
        if header.source.is_ipv4() {
            put16(packet, 10, 0);
            let value = !naive(&packet[..header.transport_at], 0);
            put16(packet, 10, value);
        }
        let at = header.transport_at + if header.protocol == TCP { 16 } else { 6 };
        put16(packet, at, 0);
        let transport = &packet[header.transport_at..];
        let mut pseudo = Vec::new();
        match (header.source, header.destination) {
            (IpAddr::V4(a), IpAddr::V4(b)) => pseudo.extend([a.octets(), b.octets()].concat()),
            (IpAddr::V6(a), IpAddr::V6(b)) => pseudo.extend([a.octets(), b.octets()].concat()),
            _ => unreachable!(),
        }
        pseudo.extend((transport.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, header.protocol]);
        let value = !naive(transport, naive(&pseudo, 0));
        put16(packet, at, if value == 0 && header.protocol == UDP { 0xffff } else { value });
    }

    fn naive(bytes: &[u8], start: u16) -> u16 {
        let mut total = u32::from(start);
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn headers_of_both_families_are_read() {
        let v4 = build("10.0.0.1", "10.0.0.2", TCP, b"hello");
        let header = Header::parse(&v4).unwrap();
        assert_eq!((header.protocol, header.transport_at, header.fragment), (TCP, 20, false));
        assert!(header.is_plain());
        let v6 = build("fd00::1", "fd00::2", UDP, b"hello");
        let header = Header::parse(&v6).unwrap();
        assert_eq!((header.protocol, header.transport_at, header.fragment), (UDP, 40, false));
        assert_eq!(header.destination, "fd00::2".parse::<IpAddr>().unwrap());
        assert_eq!(checksum(pseudo_sum(&header, v6.len() - 40) + sum(&v6[40..])), 0);
    }

    #[test]
    fn lengths_that_contradict_the_packet_are_refused() {
        for packet in [
            build("10.0.0.1", "10.0.0.2", UDP, b"hello"),
            build("fd00::1", "fd00::2", UDP, b"hello"),
        ] {
            for len in 0..packet.len() {
                assert_eq!(Header::parse(&packet[..len]), None);
            }
            let mut long = packet.clone();
            long.push(0);
            assert_eq!(Header::parse(&long), None);
        }
        let mut options = build("10.0.0.1", "10.0.0.2", UDP, &[]);
        for ihl in [0, 4, 15] {
            options[0] = 0x40 | ihl;
            assert_eq!(Header::parse(&options), None);
        }
        assert_eq!(Header::parse(&[0x75; 64]), None);
    }

    fn with_extensions(kinds: &[u8]) -> Vec<u8> {
        let mut packet = build("fd00::1", "fd00::2", UDP, b"payload.");
        let upper = packet.split_off(40);
        let mut next: Vec<u8> = kinds.to_vec();
        next.push(UDP);
        packet[6] = next[0];
        for (at, kind) in kinds.iter().enumerate() {
            // AH counts its length in words of four bytes, less two; the fragment header has none.
            let len = if *kind == 44 { 0 } else { u8::from(*kind == 51) * 2 };
            let size = if *kind == 51 { 16 } else { 8 };
            let mut extension = vec![0; size];
            (extension[0], extension[1]) = (next[at + 1], len);
            packet.extend_from_slice(&extension);
        }
        packet.extend_from_slice(&upper);
        let len = packet.len() as u16 - 40;
        put16(&mut packet, 4, len);
        packet
    }

    #[test]
    fn eight_extension_headers_are_walked_and_nine_refused() {
        let eight = with_extensions(&[0, 60, 43, 51, 60, 60, 60, 60]);
        let header = Header::parse(&eight).unwrap();
        assert_eq!((header.protocol, header.transport_at), (UDP, 40 + 72));
        assert!(!header.is_plain());
        assert_eq!(Header::parse(&with_extensions(&[60; 9])), None);
    }

    #[test]
    fn extension_headers_that_reach_beyond_the_packet_are_refused() {
        let packet = with_extensions(&[60]);
        for len in 1..=255 {
            let mut long = packet.clone();
            long[41] = len;
            if (usize::from(len) + 1) * 8 + 40 > long.len() {
                assert_eq!(Header::parse(&long), None);
            }
        }
        let mut cut = packet[..41].to_vec();
        put16(&mut cut, 4, 1);
        assert_eq!(Header::parse(&cut), None);
    }

    #[test]
    fn fragments_are_recognized_in_both_families() {
        let mut v4 = build("10.0.0.1", "10.0.0.2", UDP, b"hello");
        assert!(!Header::parse(&v4).unwrap().fragment);
        for (field, fragment) in [(0x4000, false), (0x2000, true), (0x0001, true), (0x6000, true)] {
            put16(&mut v4, 6, field);
            assert_eq!(Header::parse(&v4).unwrap().fragment, fragment, "{field:04x}");
        }
        let mut v6 = with_extensions(&[44]);
        assert!(!Header::parse(&v6).unwrap().fragment, "an atomic fragment is whole");
        put16(&mut v6, 42, 0x0001);
        assert!(Header::parse(&v6).unwrap().fragment);
        put16(&mut v6, 42, 0x0008);
        // What looks like an extension behind the first fragment is payload.
        v6[40] = 60;
        let later = Header::parse(&v6).unwrap();
        assert_eq!((later.fragment, later.protocol, later.transport_at), (true, 60, 48));
    }

    #[test]
    fn special_addresses_are_told_from_usable_ones() {
        for special in [
            "0.0.0.0",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "0.1.2.3",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_special(special.parse().unwrap()), "{special}");
        }
        for usable in ["10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1"] {
            assert!(!is_special(usable.parse().unwrap()), "{usable}");
        }
    }

    #[test]
    fn control_packets_are_known_by_protocol_and_both_addresses() {
        let control = control::encode_packet(&[7; control::MAX_MESSAGE]).unwrap();
        let header = Header::parse(&control).unwrap();
        assert!(header.is_control());
        assert_eq!(&control[header.transport_at..], &[7; control::MAX_MESSAGE]);
        for at in [6, 23, 39] {
            let mut other = control.clone();
            other[at] ^= 4;
            assert!(!Header::parse(&other).is_some_and(|header| header.is_control()), "byte {at}");
        }
    }
}
