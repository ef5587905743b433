//! IP packets: headers, control packets, and the cutting of super-packets against a naive reference.

use std::io::IoSlice;
use std::net::IpAddr;

use ginnel::forward::LocalAddresses;
use ginnel::forward::packet::{
    Header, IPV4_HEADER, IPV6_HEADER, TCP, UDP, checksum, is_special, pseudo_sum, sum,
};
use ginnel::forward::segment::{Segments, VnetHeader};
use ginnel::wire::control::{MAX_PACKET, decode_packet};

use super::{Source, messages};

/// The longest frame that is cut: past it only the count of packets grows.
const MAX_FRAME: usize = 16 << 10;

/// A packet; where the first byte is odd, with its lengths put right.
pub fn packet(data: &[u8]) {
    let mut source = Source(data);
    let packet = if source.byte() & 1 == 0 { source.rest().to_vec() } else { sized(source.rest()) };
    assert_eq!(sum(&packet), u32::from(naive_sum(&packet, 0)));
    let Some(header) = Header::parse(&packet) else {
        assert!(decode_packet(&packet).is_err() || packet.len() > IPV6_HEADER);
        return;
    };
    assert!(header.transport_at <= packet.len());
    assert!(header.transport_at >= if header.source.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER });
    assert_eq!(header.source.is_ipv4(), header.destination.is_ipv4());
    if packet.len() <= MAX_PACKET {
        assert_eq!(header.is_control(), decode_packet(&packet).is_ok());
    }
    let local = LocalAddresses {
        ipv4: Some(([10, 0, 0, 1].into(), 16)),
        ipv6: Some(([0xfd00, 0, 0, 0, 0, 0, 0, 1].into(), 48)),
        routes: vec![(header.destination, packet[0] & 0x7f), (header.source, 0)],
    };
    assert!(local.owns(header.source), "a prefix of no bits holds its whole family");
    let _ = (local.owns(header.destination), local.is_overlay(header.destination));
    let _ = (is_special(header.source), is_special(header.destination));
}

/// The bytes with an IP header that says how long they are.
pub fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut packet = bytes.to_vec();
    if let Some(first) = packet.first_mut() {
        *first = if *first & 0x80 == 0 { 0x40 | *first & 0x0f } else { 0x60 | *first & 0x0f };
    }
    let len = packet.len();
    match packet.first() {
        Some(first) if first >> 4 == 4 && len >= IPV4_HEADER => {
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        }
        Some(_) if len >= IPV6_HEADER => {
            packet[4..6].copy_from_slice(&((len - IPV6_HEADER) as u16).to_be_bytes());
        }
        _ => {}
    }
    packet
}

/// The one's complement sum of big-endian words. Eight bytes are added at once, which the carries
/// make the same, and a block of them without a branch, each of which the fuzzer would watch.
pub fn naive_sum(bytes: &[u8], start: u32) -> u16 {
    let (blocks, rest) = bytes.as_chunks::<128>();
    let mut last = [0; 128];
    last[..rest.len()].copy_from_slice(rest);
    let of_block = |block: &[u8; 128]| {
        let words = block.as_chunks::<8>().0;
        words.iter().map(|word| u128::from(u64::from_be_bytes(*word))).sum::<u128>()
    };
    let mut total = u128::from(start) + blocks.iter().chain([&last]).map(of_block).sum::<u128>();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The bytes of a frame that was handed over in parts.
pub fn joined(parts: &[IoSlice<'_>]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame
}

/// The sum of the pseudo-header of a packet without options or extensions, from its bytes.
pub fn naive_pseudo(packet: &[u8], transport_len: usize) -> u32 {
    let v4 = packet[0] >> 4 == 4;
    let (addresses, protocol) =
        if v4 { (&packet[12..20], packet[9]) } else { (&packet[8..40], packet[6]) };
    u32::from(naive_sum(addresses, 0)) + u32::from(protocol) + transport_len as u32
}

/// Where the upper header of a packet without options or extensions begins.
pub fn transport_of(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { IPV4_HEADER } else { IPV6_HEADER }
}

/// Sets the lengths and checksums of a packet without options or extensions.
pub fn complete(packet: &mut [u8]) {
    let (at, len) = (transport_of(packet), packet.len());
    let protocol = if at == IPV4_HEADER { packet[9] } else { packet[6] };
    if at == IPV4_HEADER {
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[10..12].fill(0);
        let value = !naive_sum(&packet[..at], 0);
        packet[10..12].copy_from_slice(&value.to_be_bytes());
    } else {
        packet[4..6].copy_from_slice(&((len - at) as u16).to_be_bytes());
    }
    if protocol == UDP {
        packet[at + 4..at + 6].copy_from_slice(&((len - at) as u16).to_be_bytes());
    }
    let sum_at = at + if protocol == TCP { 16 } else { 6 };
    packet[sum_at..sum_at + 2].fill(0);
    let value = !naive_sum(&packet[at..], naive_pseudo(packet, len - at));
    let value = if protocol == UDP && value == 0 { 0xffff } else { value };
    packet[sum_at..sum_at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A whole TCP packet (sequence number 1,000, with the timestamp option) or UDP packet.
pub fn build(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut transport = vec![0x30, 0x39, 0x00, 0x50];
    if protocol == TCP {
        transport.extend([0, 0, 3, 0xe8, 0, 0, 0, 7, 0x80, 0x10, 1, 0xf5, 0, 0, 0, 0]);
        transport.extend([1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4]);
    } else {
        transport.extend([0; 4]);
    }
    transport.extend_from_slice(payload);
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut packet = match (address(source), address(destination)) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => [
            &[0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0][..],
            &source.octets(),
            &destination.octets(),
        ]
        .concat(),
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            [&[0x60, 0, 0, 9, 0, 0, protocol, 64][..], &source.octets(), &destination.octets()]
                .concat()
        }
        _ => panic!("one family"),
    };
    packet.extend(transport);
    complete(&mut packet);
    packet
}

/// A frame of the TUN: the offload header, and a packet of which the lengths are put right where
/// the first byte is odd.
pub fn segment(data: &[u8]) {
    let mut source = Source(data);
    let sized_right = source.byte() & 1 == 1;
    let bytes = source.rest();
    let bytes = &bytes[..bytes.len().min(MAX_FRAME)];
    let Some((vnet, packet)) = VnetHeader::decode(bytes) else {
        assert!(bytes.len() < VnetHeader::LEN);
        return;
    };
    assert_eq!(vnet.encode(), bytes[..VnetHeader::LEN]);
    let packet = if sized_right { sized(packet) } else { packet.to_vec() };
    let Some(header) = Header::parse(&packet) else { return };
    let expected = naive_cut(&vnet.encode(), &packet, &header);
    let mut frame = packet.clone();
    let Ok(mut segments) = Segments::split(vnet, &mut frame, header) else {
        assert_eq!(expected, None, "refused for no reason");
        return;
    };
    let expected = expected.expect("what cannot be cut is refused");
    for wanted in &expected {
        assert_eq!(segments.next_len(), Some(wanted.len()));
        assert_eq!(segments.make_next(), Some(&wanted[..]));
    }
    assert_eq!((segments.next_len(), segments.make_next()), (None, None));
}

/// What virtio 1.2, section 5.1.6 says of a frame: the packets, or `None` where the header does not
/// fit. Written without looking at `forward::segment`, for shortness rather than speed.
pub fn naive_cut(vnet: &[u8; 10], packet: &[u8], header: &Header) -> Option<Vec<Vec<u8>>> {
    let field = |at: usize| usize::from(u16::from_ne_bytes([vnet[at], vnet[at + 1]]));
    let (size, sum_start) = (field(4), field(6));
    let v4 = header.source.is_ipv4();
    let protocol = match (vnet[1] & 0x7f, v4) {
        (0, _) if vnet[0] & 1 == 0 => return Some(vec![packet.to_vec()]),
        (0, _) => {
            let sum_at = sum_start + field(8);
            let mut packet = packet.to_vec();
            if sum_start < header.transport_at || sum_at + 2 > packet.len() {
                return None;
            }
            let value = !naive_sum(&packet[sum_start..], 0);
            let value = if header.protocol == UDP && value == 0 { 0xffff } else { value };
            packet[sum_at..sum_at + 2].copy_from_slice(&value.to_be_bytes());
            return Some(vec![packet]);
        }
        (1, true) | (4, false) => TCP,
        (5, _) => UDP,
        _ => return None,
    };
    let at = transport_of(packet);
    if header.protocol != protocol || header.transport_at != at || header.fragment || size == 0 {
        return None;
    }
    let upper = if protocol == TCP { usize::from(packet.get(at + 12)? >> 4) * 4 } else { 8 };
    if (protocol == TCP && upper < 20) || at + upper > packet.len() {
        return None;
    }
    let (headers, payload) = packet.split_at(at + upper);
    let chunks: Vec<&[u8]> =
        if payload.is_empty() { vec![&[]] } else { payload.chunks(size).collect() };
    let mut packets = Vec::new();
    for (index, chunk) in chunks.iter().enumerate() {
        let mut packet = [headers, chunk].concat();
        if v4 {
            let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(index as u16);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
        }
        if protocol == TCP {
            let sequence: [u8; 4] = packet[at + 4..at + 8].try_into().ok()?;
            let sequence = u32::from_be_bytes(sequence).wrapping_add((index * size) as u32);
            packet[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
            let (first, last) = (index == 0, index + 1 == chunks.len());
            // FIN 1 and PSH 8 stay on the last, CWR 128 on the first.
            let gone = if first { 0 } else { 0x80 } | if last { 0 } else { 0x09 };
            packet[at + 13] &= !gone;
        }
        complete(&mut packet);
        packets.push(packet);
    }
    Some(packets)
}

pub fn packet_seeds() -> Vec<Vec<u8>> {
    let mut packets = vec![
        build("10.0.0.2", "10.0.0.1", TCP, b"some payload"),
        build("fd00::2", "fd00::1", UDP, b"some payload"),
    ];
    let control = &messages::every_message()[0];
    packets.push(control.to_packet().expect("it fits"));
    // Hop-by-hop, routing, fragment, authentication, destination options, then UDP.
    let mut extended = build("fd00::2", "fd00::1", 0, &[0; 60]);
    for (at, next) in [(40, 43), (48, 44), (56, 51), (64, 60), (72, UDP)] {
        extended[at..at + 8].fill(0);
        extended[at] = next;
    }
    packets.push(sized(&[&[0x80], &extended[1..]].concat()));
    let mut options = build("10.0.0.2", "10.0.0.1", UDP, b"with options in its header");
    options[0] = 0x47;
    packets.push(options);
    packets.iter().flat_map(|packet| [0, 1].map(|mode| [&[mode][..], packet].concat())).collect()
}

/// Frames of the kernel: single packets with a partial checksum, and super-packets.
pub fn segment_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (source, destination) in [("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")] {
        for protocol in [TCP, UDP] {
            let mut packet = build(source, destination, protocol, &[7; 500]);
            let header = Header::parse(&packet).expect("our own packet");
            let at = header.transport_at;
            let offset = if protocol == TCP { 16 } else { 6 };
            let partial = !checksum(pseudo_sum(&header, packet.len() - at));
            packet[at + offset..at + offset + 2].copy_from_slice(&partial.to_be_bytes());
            let gso = match (protocol, header.source.is_ipv4()) {
                (TCP, true) => 1,
                (TCP, false) => 4,
                _ => 5,
            };
            for (gso_type, size) in [(0, 0), (gso, 100), (gso | 0x80, 500)] {
                let mut frame = vec![1, 1, gso_type];
                for field in [at + 8, size, at, offset] {
                    frame.extend_from_slice(&(field as u16).to_ne_bytes());
                }
                frame.extend_from_slice(&packet);
                seeds.push(frame);
            }
        }
    }
    seeds
}
