//! Frames of the TUN for a path that carries less: TCP cut more finely, fragments, and the answer of
//! a router, against naive references.

use ginnel::forward::fragment::{Fragments, too_big, wants_answer};
use ginnel::forward::packet::{Header, IPV4_HEADER, IPV6_HEADER, TCP, UDP};
use ginnel::forward::segment::{Segments, VnetHeader};

use super::Source;
use super::packets::{build, complete, naive_cut, naive_pseudo, naive_sum, sized, transport_of};

/// The widest path, in bytes: a little more than an Ethernet.
const MAX_LIMIT: u16 = 1_600;

/// How many bytes of payload one byte of the input stands for: two packets of an Ethernet at most, since
/// a super-packet may be cut into as many packets as it has bytes.
const STEP: usize = 8;

/// What a packet is lengthened by.
const PAYLOAD: [u8; 255 * STEP] = {
    let mut bytes = [0; 255 * STEP];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (at % 251) as u8;
        at += 1;
    }
    bytes
};

/// The most pieces of one packet, about.
const MAX_PIECES: usize = 128;

/// An IPv6 header and the longest of TCP.
const LONGEST_HEADERS: usize = 100;

/// TCP's flags of packets that mean something as they are: SYN, RST, URG.
const ALONE: u8 = 0x02 | 0x04 | 0x20;

/// A frame and the limit of a path. Of the first byte the lowest bit has the lengths put right, the
/// next one the checksums; the second lengthens the packet.
pub fn narrow(data: &[u8]) {
    let mut source = Source(data);
    let [mode, longer] = source.array();
    let limit = usize::from(u16::from_be_bytes(source.array()) % MAX_LIMIT);
    let Some((vnet, bytes)) = VnetHeader::decode(source.rest()) else { return };
    let mut packet = [bytes, &PAYLOAD[..usize::from(longer) * STEP]].concat();
    if mode & 1 == 1 {
        packet = sized(&packet);
    }
    let Some(header) = Header::parse(&packet) else { return };
    // Thousands of pieces of one packet take time and show nothing that a hundred do not.
    let offload = vnet.encode();
    let size = usize::from(u16::from_ne_bytes([offload[4], offload[5]]));
    if offload[1] & 0x7f != 0 && size * MAX_PIECES < packet.len() {
        return;
    }
    let limit = if packet.len() > MAX_PIECES { limit.max(LONGEST_HEADERS + 16) } else { limit };
    if mode & 2 == 2 && is_whole_upper(&packet, &header) {
        complete(&mut packet);
    }
    for packet in fit(vnet, &packet, header, limit) {
        if packet.len() > limit {
            let header = Header::parse(&packet).expect("a packet of a frame is one");
            fragment(&packet, &header, limit);
            answer(&packet, &header, limit as u16);
        }
    }
}

fn is_whole_upper(packet: &[u8], header: &Header) -> bool {
    let least = match header.protocol {
        TCP => 20,
        UDP => 8,
        _ => return false,
    };
    header.is_plain() && !header.fragment && packet.len() >= header.transport_at + least
}

/// Cuts a frame for a path; the packets that the frame stands for.
fn fit(vnet: VnetHeader, packet: &[u8], header: Header, limit: usize) -> Vec<Vec<u8>> {
    let mut frame = packet.to_vec();
    let Ok(mut segments) = Segments::split(vnet, &mut frame, header) else {
        return Vec::new();
    };
    let mut offload = vnet.encode();
    let plain = naive_cut(&offload, packet, &header).expect("what cannot be cut is refused");
    let fits = plain.iter().all(|packet| packet.len() <= limit);
    let upper = upper_of(&offload, packet, &header).filter(|upper| *upper < limit);
    assert_eq!(segments.fit(limit), fits || upper.is_some());
    let wanted = match upper.filter(|_| !fits) {
        None => plain.clone(),
        Some(upper) => {
            offload[1] = if header.source.is_ipv4() { 1 } else { 4 };
            offload[4..6].copy_from_slice(&((limit - upper) as u16).to_ne_bytes());
            naive_cut(&offload, packet, &header).expect("it was told so")
        }
    };
    for wanted in &wanted {
        let piece = segments.make_next().expect("the next packet");
        assert_eq!(piece, wanted);
        assert!(piece.len() <= limit || !fits && upper.is_none());
    }
    assert_eq!(segments.next_len(), None);
    if let Some(upper) = upper {
        let payload: Vec<_> = wanted.iter().map(|piece| &piece[upper..]).collect();
        assert!(payload.concat() == packet[upper..], "the same bytes");
    }
    plain
}

/// Where the payload of a frame begins that may be cut anywhere.
fn upper_of(offload: &[u8; VnetHeader::LEN], packet: &[u8], header: &Header) -> Option<usize> {
    let at = header.transport_at;
    if header.protocol != TCP || !header.is_plain() || header.fragment {
        return None;
    }
    let upper = usize::from(packet.get(at + 12)? >> 4) * 4;
    if offload[1] & 0x7f != 0 {
        return Some(at + upper);
    }
    let partial = offload[0] & 1 == 1;
    let [start, sum_at] = [6, 8].map(|at| u16::from_ne_bytes([offload[at], offload[at + 1]]));
    let sum_is_tcp = usize::from(start) == at && sum_at == 16;
    let intact = naive_sum(&packet[at..], naive_pseudo(packet, packet.len() - at)) == 0xffff;
    let complete = if partial { sum_is_tcp } else { intact };
    let options = packet.get(at + 20..at + upper)?;
    let alone = packet[at + 13] & ALONE != 0 || is_signed(options);
    (complete && !alone && at + upper < packet.len()).then_some(at + upper)
}

/// Whether TCP options sign the segment (kinds 19 and 29), or make no sense.
fn is_signed(options: &[u8]) -> bool {
    let mut at = 0;
    while at < options.len() && options[at] != 0 {
        let len = match options[at] {
            1 => 1,
            19 | 29 => return true,
            _ => options.get(at + 1).map_or(0, |len| usize::from(*len)),
        };
        if len == 0 || len == 1 && options[at] != 1 || at + len > options.len() {
            return true;
        }
        at += len;
    }
    false
}

/// What the IP header says of a packet's place in a larger one.
#[derive(Debug, PartialEq, Clone, Copy)]
struct Place {
    /// In bytes.
    offset: usize,
    more: bool,
    name: u32,
    /// Where the payload begins that is cut.
    at: usize,
}

impl Place {
    fn of(packet: &[u8]) -> Option<Self> {
        let field = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        if packet[0] >> 4 == 4 {
            let flags = field(6);
            return (flags & 0x3fff != 0).then(|| Self {
                offset: usize::from(flags & 0x1fff) * 8,
                more: flags & 0x2000 != 0,
                name: field(4).into(),
                at: IPV4_HEADER,
            });
        }
        (packet[6] == 44).then(|| Self {
            offset: usize::from(field(42) & 0xfff8),
            more: field(42) & 1 == 1,
            name: u32::from(field(44)) << 16 | u32::from(field(46)),
            at: IPV6_HEADER + 8,
        })
    }
}

/// Fragments of a packet that is too long: they fit, and a host makes the packet again.
fn fragment(packet: &[u8], header: &Header, limit: usize) {
    let _ = wants_answer(packet);
    let v4 = header.source.is_ipv4();
    let before = Place::of(packet);
    let whole_at = if v4 { IPV4_HEADER } else { IPV6_HEADER };
    let payload = &packet[before.map_or(whole_at, |place| place.at)..];
    let least = if v4 { IPV4_HEADER } else { IPV6_HEADER + 8 } + 8;
    let first = before.is_none_or(|place| place.offset == 0);
    let next = if before.is_some() && !v4 { packet[IPV6_HEADER] } else { packet[6] };
    let odd = if v4 { packet[0] != 0x45 } else { first && matches!(next, 0 | 43 | 44 | 51 | 60) };
    let beyond = before.map_or(0, |place| place.offset) + payload.len() > usize::from(u16::MAX);
    let Some(mut fragments) = Fragments::new(packet, limit) else {
        assert!(odd || limit < least || beyond, "refused for no reason");
        return;
    };
    assert!(!odd && !beyond, "what no host can put together");
    let mut out = vec![0xa5; limit];
    let (mut name, mut done) = (before.map(|place| place.name), 0);
    while let Some(len) = fragments.write_next(&mut out) {
        let part = &out[..len];
        let said = Header::parse(part).expect("a fragment is a packet");
        assert_eq!((said.source, said.destination), (header.source, header.destination));
        let place = Place::of(part).expect("a fragment says that it is one");
        assert_eq!(place.offset, before.map_or(0, |place| place.offset) + done);
        assert_eq!(place.name, *name.get_or_insert(place.name));
        let piece = &part[place.at..];
        assert!(payload[done..].starts_with(piece) && !piece.is_empty(), "the same bytes");
        done += piece.len();
        let last = done == payload.len();
        assert_eq!(place.more, !last || before.is_some_and(|place| place.more));
        assert!(last || piece.len().is_multiple_of(8));
        if v4 {
            assert_eq!(naive_sum(&part[..IPV4_HEADER], 0), 0xffff);
            assert_eq!((&part[..2], &part[8..10]), (&packet[..2], &packet[8..10]));
        } else {
            assert_eq!((&part[..4], part[7]), (&packet[..4], packet[7]));
        }
    }
    assert_eq!(done, payload.len());
}

/// What a router says: to the source, of this packet, and no longer than it may be.
fn answer(packet: &[u8], header: &Header, limit: u16) {
    let Some(answer) = too_big(packet, header, limit) else { return };
    let said = Header::parse(&answer).expect("an answer is a packet");
    assert_eq!((said.source, said.destination), (header.destination, header.source));
    let icmp = &answer[transport_of(&answer)..];
    let (most, pseudo) = match header.source.is_ipv4() {
        true => (576, 0),
        false => (1280, naive_pseudo(&answer, icmp.len())),
    };
    assert!(answer.len() <= most && packet.starts_with(&icmp[8..]));
    assert_eq!(naive_sum(icmp, pseudo), 0xffff);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (source, destination) in [("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")] {
        for protocol in [TCP, UDP] {
            let packet = build(source, destination, protocol, &[7; 40]);
            let at = transport_of(&packet);
            let (offset, gso) = match (protocol, at) {
                (TCP, IPV4_HEADER) => (16, 1),
                (TCP, _) => (16, 4),
                _ => (6, 5),
            };
            // A whole one, one with a partial checksum, a super-packet of 1,000 bytes a packet.
            for (flags, gso_type, size) in [(0, 0, 0), (1, 0, 0), (1, gso, 1000)] {
                for limit in [60_u16, 600, 1_220] {
                    let mut frame = vec![3, 200];
                    frame.extend(limit.to_be_bytes());
                    frame.extend([flags, gso_type]);
                    for field in [at + 8, size, at, offset] {
                        frame.extend_from_slice(&(field as u16).to_ne_bytes());
                    }
                    frame.extend_from_slice(&packet);
                    seeds.push(frame);
                }
            }
            // Fragments, to be cut further: in the middle, the last, and beyond what a length says.
            for place in [0x2010_u16, 0x0100, 0x1fff, 0x6004] {
                let mut frame = vec![1, 200, 4, 0];
                frame.extend([0; VnetHeader::LEN]);
                let mut packet = packet.clone();
                if at == IPV4_HEADER {
                    packet[6..8].copy_from_slice(&place.to_be_bytes());
                } else {
                    let field = (place << 3 | place >> 13 & 1).to_be_bytes();
                    packet.splice(40..40, [packet[6], 0, field[0], field[1], 0, 0, 0, 9]);
                    packet[6] = 44;
                }
                frame.extend(packet);
                seeds.push(frame);
            }
        }
    }
    seeds
}
