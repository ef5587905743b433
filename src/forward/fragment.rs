//! Packets that are longer than the path carries: fragments, and the answer that a router gives.
//!
//! An IPv4 packet is fragmented as any router may (RFC 791, section 3.2); its DF bit says that it
//! must not be, unless the caller knows better. An IPv6 packet is fragmented as its source may (RFC 8200, section 4.5), which this device is.
//! Fragments themselves are fragmented further. Rare forms are refused: IPv4 options, and IPv6
//! extensions other than a fragment header before the upper protocol.
//!
//! What is not fragmented is answered with "fragmentation needed" (RFC 1191) or "packet too big"
//! (RFC 4443, section 3.2), from the packet's destination, which lies behind the path in question.
//! The host remembers the size for that destination and says it to the program, if it asks.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::packet::{
    Header, IPV4_HEADER, IPV6_HEADER, be16, be32, checksum, pseudo_sum, put16, sum,
};
use super::slot::LEAST_MTU;

/// The upper protocol of ICMP, and of ICMPv6.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The next-header of a fragment header, and its length.
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;

/// Headers that may stand before the upper one: hop-by-hop, routing, fragment, authentication,
/// destination options. All of them would have to be in the first fragment (RFC 7112).
const EXTENSIONS: [u8; 5] = [0, 43, FRAGMENT, 51, 60];

/// Don't-fragment and more-fragments in IPv4's flags, and the offset behind them in units of 8.
const DF: u16 = 0x4000;
const MF: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// The most that fragments make together, in bytes: what a length field of IP can say.
const MAX_PAYLOAD: usize = 65_535;

/// Names the fragments of packets that had no name; for all threads together, since several may fragment
/// packets of the same two hosts.
static NAMES: LazyLock<Names> = LazyLock::new(Names::new);

/// Counts that pairs of hosts share by lot: with so many, two pairs hardly ever do.
const COUNTS: usize = 256;

/// Which name comes next between two hosts: RFC 7739, section 5.3. Each pair counts from a number that
/// nobody can know who has not seen the pair's fragments: so nobody can make fragments that are put
/// together with them, or learn from fragments to itself how many others get.
struct Names {
    key: RandomState,
    counts: [AtomicU32; COUNTS],
}

impl Names {
    fn new() -> Self {
        Self { key: RandomState::new(), counts: [const { AtomicU32::new(0) }; COUNTS] }
    }

    /// The next name between the two whose `addresses` these are.
    fn next(&self, addresses: &[u8]) -> u32 {
        let hash = self.key.hash_one(addresses);
        let count = &self.counts[hash as usize % COUNTS];
        ((hash >> 32) as u32).wrapping_add(count.fetch_add(1, Ordering::Relaxed))
    }
}

/// The fragments of one packet, written one by one.
#[derive(Debug)]
pub struct Fragments<'a> {
    /// The headers that each begins with.
    headers: &'a [u8],
    /// What is cut.
    payload: &'a [u8],
    v4: bool,
    /// The name, and where this packet itself begins in units of 8 bytes.
    id: u32,
    offset: u16,
    /// Whether more follow after this packet.
    more: bool,
    /// IPv6: the header after the fragment header.
    next_header: u8,
    /// The most payload of one.
    size: usize,
    done: usize,
}

impl<'a> Fragments<'a> {
    /// Cuts `packet`, which [`Header::parse`] took, into fragments of at most `limit` bytes. `None`
    /// where it has a form that is not fragmented, or is itself a fragment of more than an IP packet
    /// can be, whose offsets could not be said.
    pub fn new(packet: &'a [u8], limit: usize) -> Option<Self> {
        let fragments = if packet.first()? >> 4 == 4 {
            Self::of_v4(packet, limit)?
        } else {
            Self::of_v6(packet, limit)?
        };
        let end = usize::from(fragments.offset) * 8 + fragments.payload.len();
        (end <= MAX_PAYLOAD).then_some(fragments)
    }

    fn of_v4(packet: &'a [u8], limit: usize) -> Option<Self> {
        let (headers, payload) = packet.split_at_checked(IPV4_HEADER)?;
        let flags = be16(headers, 6)?;
        // An unfragmented packet with DF needs no name, and often has none (RFC 6864).
        let named = flags & (DF | MF | OFFSET) != DF;
        let id = if named { be16(headers, 4)?.into() } else { NAMES.next(&headers[12..]) };
        (headers[0] == 0x45).then_some(())?;
        Some(Self {
            headers,
            payload,
            v4: true,
            id,
            offset: flags & OFFSET,
            more: flags & MF != 0,
            next_header: 0,
            size: room(limit, IPV4_HEADER)?,
            done: 0,
        })
    }

    fn of_v6(packet: &'a [u8], limit: usize) -> Option<Self> {
        let (headers, rest) = packet.split_at_checked(IPV6_HEADER)?;
        let size = room(limit, IPV6_HEADER + FRAGMENT_HEADER)?;
        let whole = Self {
            headers,
            payload: rest,
            v4: false,
            id: 0,
            offset: 0,
            more: false,
            next_header: headers[6],
            size,
            done: 0,
        };
        let fragments = if headers[6] == FRAGMENT {
            let (fragment, payload) = rest.split_at_checked(FRAGMENT_HEADER)?;
            let place = be16(fragment, 2)?;
            Self {
                payload,
                id: be32(fragment, 4)?,
                offset: place >> 3,
                more: place & 1 != 0,
                next_header: fragment[0],
                ..whole
            }
        } else {
            Self { id: NAMES.next(&headers[8..]), ..whole }
        };
        let extended = EXTENSIONS.contains(&fragments.next_header) && fragments.offset == 0;
        (!extended).then_some(fragments)
    }

    /// Writes the next fragment to the start of `out`; its length, or `None` after the last or where
    /// `out` is too short.
    pub fn write_next(&mut self, out: &mut [u8]) -> Option<usize> {
        let rest = self.payload.get(self.done..).filter(|rest| !rest.is_empty())?;
        let part = &rest[..rest.len().min(self.size)];
        let more = self.more || part.len() < rest.len();
        let offset = self.offset + (self.done / 8) as u16;
        let extra = if self.v4 { 0 } else { FRAGMENT_HEADER };
        let at = self.headers.len() + extra;
        let len = at + part.len();
        let out = out.get_mut(..len)?;
        out[..self.headers.len()].copy_from_slice(self.headers);
        out[at..].copy_from_slice(part);
        if self.v4 {
            put16(out, 2, len as u16);
            put16(out, 4, self.id as u16);
            put16(out, 6, offset | if more { MF } else { 0 });
            put16(out, 10, 0);
            let value = checksum(sum(&out[..IPV4_HEADER]));
            put16(out, 10, value);
        } else {
            put16(out, 4, (len - IPV6_HEADER) as u16);
            out[6] = FRAGMENT;
            out[IPV6_HEADER..IPV6_HEADER + 2].copy_from_slice(&[self.next_header, 0]);
            put16(out, IPV6_HEADER + 2, offset << 3 | u16::from(more));
            out[IPV6_HEADER + 4..at].copy_from_slice(&self.id.to_be_bytes());
        }
        self.done += part.len();
        Some(len)
    }
}

/// Whether its source wants to hear of a path that does not carry `packet` whole, rather than have
/// it fragmented.
pub fn wants_answer(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => be16(packet, 6).is_some_and(|flags| flags & DF != 0),
        _ => packet.len() > usize::from(LEAST_MTU),
    }
}

/// What a router says of `packet` that is longer than `limit`. `None` for what is never answered: later
/// fragments, and ICMP's own errors (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
pub fn too_big(packet: &[u8], header: &Header, limit: u16) -> Option<Vec<u8>> {
    let first = packet.get(header.transport_at).copied().unwrap_or_default();
    match (header.source, header.destination) {
        (IpAddr::V4(host), IpAddr::V4(beyond)) => {
            // Errors are types 3, 4, 5, 11 and 12.
            let error = header.protocol == ICMP && matches!(first, 3..=5 | 11 | 12);
            if error || be16(packet, 6)? & OFFSET != 0 {
                return None;
            }
            // RFC 1812, section 4.3.2.3: as much of the packet as makes 576 bytes.
            let quoted = &packet[..packet.len().min(576 - 28)];
            let mut out = vec![0x45, 0xc0];
            out.extend_from_slice(&((28 + quoted.len()) as u16).to_be_bytes());
            out.extend_from_slice(&[0, 0, 0, 0, 64, ICMP, 0, 0]);
            out.extend_from_slice(&beyond.octets());
            out.extend_from_slice(&host.octets());
            let value = checksum(sum(&out));
            put16(&mut out, 10, value);
            out.extend_from_slice(&[3, 4, 0, 0, 0, 0]);
            out.extend_from_slice(&limit.to_be_bytes());
            out.extend_from_slice(quoted);
            let value = checksum(sum(&out[IPV4_HEADER..]));
            put16(&mut out, IPV4_HEADER + 2, value);
            Some(out)
        }
        (IpAddr::V6(host), IpAddr::V6(beyond)) => {
            // Errors are the types below 128.
            let error = header.protocol == ICMPV6 && first < 128;
            let later = packet[6] == FRAGMENT && be16(packet, IPV6_HEADER + 2)? & 0xfff8 != 0;
            if error || later {
                return None;
            }
            let quoted = &packet[..packet.len().min(usize::from(LEAST_MTU) - IPV6_HEADER - 8)];
            let mut out = vec![0x60, 0, 0, 0];
            out.extend_from_slice(&((8 + quoted.len()) as u16).to_be_bytes());
            out.extend_from_slice(&[ICMPV6, 64]);
            out.extend_from_slice(&beyond.octets());
            out.extend_from_slice(&host.octets());
            out.extend_from_slice(&[2, 0, 0, 0]);
            out.extend_from_slice(&u32::from(limit.max(LEAST_MTU)).to_be_bytes());
            out.extend_from_slice(quoted);
            let header = Header::parse(&out)?;
            let value = checksum(pseudo_sum(&header, 8 + quoted.len()) + sum(&out[IPV6_HEADER..]));
            put16(&mut out, IPV6_HEADER + 2, value);
            Some(out)
        }
        _ => None,
    }
}

/// The most payload of one fragment: all but the last are multiples of 8.
fn room(limit: usize, headers: usize) -> Option<usize> {
    limit.checked_sub(headers).map(|room| room / 8 * 8).filter(|room| *room > 0)
}

#[cfg(test)]
mod tests {
    use super::super::packet::UDP;
    use super::super::packet::tests::build;
    use super::*;

    fn fragments(packet: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut fragments = Fragments::new(packet, limit).expect("it can be fragmented");
        let mut out = vec![0; limit];
        std::iter::from_fn(|| fragments.write_next(&mut out).map(|len| out[..len].to_vec()))
            .collect()
    }

    /// Puts fragments together as a host does, into the packet's payload.
    fn reassemble(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut whole = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let header = Header::parse(part).expect("a fragment is a packet");
            let v4 = header.source.is_ipv4();
            let place = be16(part, if v4 { 6 } else { 42 }).unwrap();
            let (offset, more) = match v4 {
                true => (place & OFFSET, place & MF != 0),
                false => (place >> 3, place & 1 != 0),
            };
            assert_eq!(usize::from(offset) * 8, whole.len());
            assert_eq!(more, index + 1 < parts.len());
            assert!(header.fragment);
            if v4 {
                assert_eq!(checksum(sum(&part[..20])), 0);
            }
            whole.extend_from_slice(&part[if v4 { 20 } else { 48 }..]);
        }
        whole
    }

    #[test]
    fn names_count_up_between_two_hosts_and_tell_nothing_of_those_between_others() {
        let names = Names::new();
        let between = |host: u8| names.next(&[10, 0, 0, 1, 10, 0, 0, host]);
        let first: Vec<_> = (2..102).map(between).collect();
        for (host, first) in (2..102).zip(&first) {
            // Who shares its count may have come in between.
            assert!((1..=100).contains(&between(host).wrapping_sub(*first)), "{host}");
        }
        let near = |pair: &[u32]| pair[1].wrapping_sub(pair[0]).wrapping_add(1000) < 2000;
        assert!(!first.windows(2).any(near), "{first:?}");
        assert_ne!(Names::new().next(&[10, 0, 0, 1, 10, 0, 0, 2]), first[0], "another start");
    }

    #[test]
    fn fragments_of_packets_between_others_are_named_apart() {
        let name = |destination: &str| {
            let packet = build("fd00::1", destination, UDP, &[7; 1400]);
            be32(&fragments(&packet, 1280)[0], IPV6_HEADER + 4).unwrap()
        };
        let (a, b) = (name("fd00::2"), name("fd00::3"));
        assert!(a.abs_diff(b) > 1000, "{a} and {b}");
    }

    #[test]
    fn fragments_fit_the_path_and_make_the_packet_again_even_when_cut_twice() {
        for (source, destination, headers) in
            [("10.0.0.1", "10.0.0.2", 20), ("fd00::1", "fd00::2", 40)]
        {
            for len in [1173, 1180, 1181, 1392, 4000, 65_000] {
                let mut packet = build(source, destination, UDP, &vec![7; len]);
                if headers == 20 {
                    // May be fragmented.
                    put16(&mut packet, 6, 0);
                    put16(&mut packet, 10, 0);
                    let value = checksum(sum(&packet[..20]));
                    put16(&mut packet, 10, value);
                }
                let once = fragments(&packet, 1200);
                assert!(once.iter().all(|part| part.len() <= 1200));
                assert_eq!(reassemble(&once), &packet[headers..], "{len} bytes");
                let twice: Vec<_> = once.iter().flat_map(|part| fragments(part, 600)).collect();
                assert!(twice.iter().all(|part| part.len() <= 600));
                assert_eq!(reassemble(&twice), &packet[headers..]);
                let id = |part: &Vec<u8>| match headers {
                    20 => be16(part, 4).unwrap().into(),
                    _ => be32(part, 44).unwrap(),
                };
                assert!(twice.iter().all(|part| id(part) == id(&once[0])));
                assert!(headers == 40 || id(&once[0]) == 0x1234, "the packet's own name");
            }
        }
    }

    #[test]
    fn packets_that_had_no_name_get_different_ones() {
        let packet = build("10.0.0.1", "10.0.0.2", UDP, &[1; 1400]);
        let [a, b] = [fragments(&packet, 1220), fragments(&packet, 1220)];
        assert_ne!(a[0][4..6], b[0][4..6]);
        assert_eq!(a[0][4..6], a[1][4..6]);
        assert_eq!(a[0][6] & 0x40, 0, "DF is gone");
    }

    #[test]
    fn fragments_that_must_not_be_fragmented_keep_their_name() {
        let mut packet = build("10.0.0.1", "10.0.0.2", UDP, &[1; 1400]);
        for place in [DF | MF, DF | 100, DF | MF | 100] {
            put16(&mut packet, 6, place);
            assert!(fragments(&packet, 1220).iter().all(|part| part[4..6] == packet[4..6]));
        }
    }

    #[test]
    fn a_fragment_beyond_the_longest_packet_is_not_cut_further() {
        let mut v4 = build("10.0.0.1", "10.0.0.2", UDP, &[1; 1400]);
        // 1,408 bytes follow.
        let last = ((65_535 - 1408) / 8) as u16;
        for (offset, cut) in [(last, true), (last + 1, false), (OFFSET, false)] {
            put16(&mut v4, 6, offset);
            assert_eq!(Fragments::new(&v4, 1220).is_some(), cut);
            let mut v6 = build("fd00::1", "fd00::2", FRAGMENT, &[1; 1408]);
            put16(&mut v6, 42, offset << 3);
            assert_eq!(Fragments::new(&v6, 1220).is_some(), cut);
        }
    }

    #[test]
    fn odd_forms_are_not_fragmented() {
        let packet = build("fd00::1", "fd00::2", UDP, &[1; 1400]);
        for extension in [0, 43, 51, 60] {
            let mut packet = packet.clone();
            packet[6] = extension;
            assert!(Fragments::new(&packet, 1220).is_none());
            // Behind a fragment header, of the first fragment and of a later one.
            let mut fragment = build("fd00::1", "fd00::2", FRAGMENT, &[1; 1400]);
            fragment[40] = extension;
            for (place, cut) in [(1, false), (8, true)] {
                put16(&mut fragment, 42, place);
                assert_eq!(Fragments::new(&fragment, 1220).is_some(), cut);
            }
        }
        let mut options = build("10.0.0.1", "10.0.0.2", UDP, &[1; 1400]);
        options[0] = 0x46;
        assert!(Fragments::new(&options, 1220).is_none());
        assert!(Fragments::new(&packet, 48).is_none());
    }

    #[test]
    fn the_answer_names_the_size_quotes_the_packet_and_has_a_right_checksum() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let packet = build(source, destination, UDP, &[9; 1300]);
            let header = Header::parse(&packet).unwrap();
            let answer = too_big(&packet, &header, 1220).unwrap();
            let said = Header::parse(&answer).unwrap();
            assert_eq!((said.source, said.destination), (header.destination, header.source));
            let icmp = &answer[said.transport_at..];
            if said.source.is_ipv4() {
                assert_eq!((&icmp[..2], be16(icmp, 6)), (&[3, 4][..], Some(1220)));
                assert_eq!((checksum(sum(icmp)), answer.len()), (0, 576));
            } else {
                assert_eq!((&icmp[..2], be32(icmp, 4)), (&[2, 0][..], Some(1280)));
                assert_eq!(checksum(pseudo_sum(&said, icmp.len()) + sum(icmp)), 0);
                assert_eq!(answer.len(), 1280);
            }
            assert!(packet.starts_with(&icmp[8..]));
        }
    }

    #[test]
    fn errors_and_later_fragments_are_not_answered() {
        let packet = build("10.0.0.1", "10.0.0.2", UDP, &[9; 1300]);
        let header = Header::parse(&packet).unwrap();
        let error = too_big(&packet, &header, 1220).unwrap();
        assert_eq!(too_big(&error, &Header::parse(&error).unwrap(), 100), None);
        let later = &fragments(&packet, 800)[1];
        assert_eq!(too_big(later, &Header::parse(later).unwrap(), 100), None);
        let packet = build("fd00::1", "fd00::2", UDP, &[9; 1300]);
        let header = Header::parse(&packet).unwrap();
        let error = too_big(&packet, &header, 1280).unwrap();
        assert_eq!(too_big(&error, &Header::parse(&error).unwrap(), 1280), None);
        let later = &fragments(&packet, 800)[1];
        assert_eq!(too_big(later, &Header::parse(later).unwrap(), 1280), None);
    }

    #[test]
    fn only_what_its_source_can_send_smaller_wants_an_answer() {
        let v4 = build("10.0.0.1", "10.0.0.2", UDP, &[9; 1300]);
        assert!(wants_answer(&v4), "DF is set");
        let mut open = v4.clone();
        open[6] = 0;
        assert!(!wants_answer(&open));
        assert!(wants_answer(&build("fd00::1", "fd00::2", UDP, &[9; 1233])));
        assert!(!wants_answer(&build("fd00::1", "fd00::2", UDP, &[9; 1232])));
    }
}
