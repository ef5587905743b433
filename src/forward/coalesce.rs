//! Received packets of one flow into super-packets, so that the kernel's stack runs once for many.
//!
//! What [`segment`](super::segment) does in reverse: consecutive TCP segments, or UDP datagrams of
//! equal length, whose headers differ only where cutting would make them differ, are written to the
//! TUN device as one frame with a `virtio_net_hdr`. Cutting that frame gives back the same bytes
//! (but for the IPv4 identification of packets that forbid fragments, which means nothing: RFC 6864,
//! section 4.1).
//!
//! A packet joins only after its own checksums were verified: the super-packet's checksum is
//! computed anew, and a packet that was bad before it was sealed must stay bad.
//!
//! **Order**: packets of one flow leave in the order in which they came; different flows may
//! overtake one another within a batch. A packet that cannot join ends its flow's super-packet.
//!
//! **Ownership**: packets lie in an arena that belongs to the caller, which must not touch them
//! between [`push`](Coalescer::push) and the [`flush`](Coalescer::flush) that ends the batch. No
//! payload byte is copied: a frame is a list of slices into the arena behind one patched header.
//! Groups are reused, so nothing is allocated once the largest batch was seen.

use std::io::IoSlice;
use std::net::IpAddr;
use std::ops::Range;

use super::packet::{Header, IPV4_HEADER, TCP, UDP, be16, be32, checksum, pseudo_sum, sum};
use super::segment::{VnetHeader, merge_headers};

/// What the device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Merge {
    /// Single packets without a `virtio_net_hdr`.
    Plain,
    /// Single packets behind a `virtio_net_hdr`.
    Singles,
    /// TCP super-packets.
    Tcp,
    /// TCP and UDP super-packets (Linux 6.2).
    TcpAndUdp,
}

impl Merge {
    /// What to go on with when the device refused a super-packet.
    pub fn lower(self) -> Self {
        match self {
            Self::TcpAndUdp => Self::Tcp,
            Self::Tcp | Self::Singles => Self::Singles,
            Self::Plain => Self::Plain,
        }
    }
}

/// The longest super-packet: what an IPv4 total length can say.
const MAX_TOTAL: usize = 65_535;

/// The most packets of one super-packet: 46 full ones of an MTU of 1,420 bytes reach 64 KiB, 51 of a peer that sends 1,280.
const MAX_PACKETS: usize = 64;

/// How many of the latest groups are searched for a packet's flow: a batch rarely has more flows,
/// and a sender of many must not make each packet dearer.
const SEARCHED: usize = 16;

/// The longest headers: IPv6 40, TCP 60.
const MAX_HEADERS: usize = 100;

/// TCP flags: PSH may be set on the last packet, ECE on all; any other but ACK ends a group.
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// A checksum that verifies where zero would, which is what cutting writes; of UDP the other way
/// round, where zero says that there is none (RFC 768).
const OTHER_ZERO: [u8; 2] = [0xff; 2];

/// Joins the packets of one batch.
#[derive(Debug)]
pub struct Coalescer {
    merge: Merge,
    groups: Vec<Group>,
    /// How many of `groups` this batch uses.
    used: usize,
}

/// Packets that become one frame.
#[derive(Debug)]
struct Group {
    flow: Option<Flow>,
    header: Header,
    /// The first packet.
    first: Range<usize>,
    /// The payloads of the others.
    rest: Vec<Range<usize>>,
    joint: Option<Joint>,
}

/// Whose packets keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: u32,
}

/// A packet that others may join, or a group so far.
#[derive(Debug, Clone, Copy)]
struct Joint {
    header_len: usize,
    /// Payload bytes of each packet but the last.
    size: usize,
    /// Bytes of the whole super-packet.
    total: usize,
    /// The TCP sequence number after the last byte.
    next_sequence: u32,
    /// The IPv4 identification that follows.
    next_id: u16,
    /// Whether the last packet has PSH set.
    push: bool,
    /// Whether more may join.
    open: bool,
}

impl Coalescer {
    /// A coalescer for a device that takes `merge`.
    pub fn new(merge: Merge) -> Self {
        Self { merge, groups: Vec::new(), used: 0 }
    }

    /// Takes the packet at `at` of the arena, of which `header` is what [`Header::parse`] said.
    pub fn push(&mut self, arena: &[u8], at: Range<usize>, header: Header) {
        let packet = &arena[at.clone()];
        let flow = Flow::of(packet, &header);
        let joint = self.joint(packet, &header);
        if let (Some(flow), Some(joint)) = (flow, joint)
            && let Some(group) = self.latest_of(flow)
            && group.join(arena, &at, &joint)
        {
            return;
        }
        self.add(Group { flow, header, first: at, rest: Vec::new(), joint });
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Hands over the frames of the batch, in order, each as slices that belong together.
    pub fn flush(&mut self, arena: &[u8], write: &mut dyn FnMut(&[IoSlice<'_>])) {
        for group in &self.groups[..self.used] {
            group.write(arena, self.merge, write);
        }
        self.used = 0;
    }

    fn latest_of(&mut self, flow: Flow) -> Option<&mut Group> {
        let first = self.used.saturating_sub(SEARCHED);
        let latest = &mut self.groups[first..self.used];
        latest.iter_mut().rev().find(|group| group.flow == Some(flow))
    }

    /// Puts a group where an old one was, to keep that one's allocation.
    fn add(&mut self, mut group: Group) {
        if let Some(old) = self.groups.get_mut(self.used) {
            old.rest.clear();
            std::mem::swap(&mut group.rest, &mut old.rest);
            *old = group;
        } else {
            self.groups.push(group);
        }
        self.used += 1;
    }

    /// What a packet brings for joining, if it is of a kind that may and its checksums are right.
    fn joint(&self, packet: &[u8], header: &Header) -> Option<Joint> {
        let wanted = match header.protocol {
            TCP => self.merge >= Merge::Tcp,
            UDP => self.merge >= Merge::TcpAndUdp,
            _ => false,
        };
        if !wanted || !header.is_plain() || header.fragment {
            return None;
        }
        let transport = &packet[header.transport_at..];
        let (transport_header, flags) = if header.protocol == TCP {
            (usize::from(transport.get(12)? >> 4) * 4, *transport.get(13)?)
        } else {
            (8, ACK)
        };
        let payload = transport.len().checked_sub(transport_header)?;
        if payload == 0 || !upper_header_fits(transport, transport_header, header.protocol, flags) {
            return None;
        }
        let verified = (header.source.is_ipv6() || verifies(&packet[..IPV4_HEADER]))
            && checksum(pseudo_sum(header, transport.len()) + sum(transport)) == 0;
        let sequence = be32(transport, 4)?;
        verified.then_some(Joint {
            header_len: header.transport_at + transport_header,
            size: payload,
            total: packet.len(),
            next_sequence: sequence.wrapping_add(payload as u32),
            next_id: be16(packet, 4)?.wrapping_add(1),
            push: header.protocol == TCP && flags & PSH != 0,
            open: flags & PSH == 0,
        })
    }
}

/// Whether the upper header is whole and has nothing that ends a super-packet.
fn upper_header_fits(transport: &[u8], len: usize, protocol: u8, flags: u8) -> bool {
    if protocol == TCP {
        // The urgent pointer is zero where the flag is not set; what differs is passed on alone.
        len >= 20
            && flags & !(PSH | ECE) == ACK
            && transport[16..18] != OTHER_ZERO
            && transport[18..20] == [0, 0]
    } else {
        // Without a checksum there is nothing to verify.
        be16(transport, 4) == Some(transport.len() as u16) && transport[6..8] != [0, 0]
    }
}

/// Whether an IPv4 header without options is right.
fn verifies(header: &[u8]) -> bool {
    checksum(sum(header)) == 0 && header[10..12] != OTHER_ZERO
}

impl Flow {
    fn of(packet: &[u8], header: &Header) -> Option<Self> {
        let with_ports = matches!(header.protocol, TCP | UDP) && !header.fragment;
        with_ports.then_some(())?;
        Some(Self {
            source: header.source,
            destination: header.destination,
            protocol: header.protocol,
            ports: be32(packet, header.transport_at)?,
        })
    }
}

impl Group {
    /// Appends a packet of the same flow, if cutting the result would give it back.
    fn join(&mut self, arena: &[u8], at: &Range<usize>, new: &Joint) -> bool {
        let Some(joint) = &mut self.joint else { return false };
        let (first, packet) = (&arena[self.first.clone()], &arena[at.clone()]);
        let payload = new.size;
        let fits = joint.open
            && new.header_len == joint.header_len
            && payload <= joint.size
            && joint.total + payload <= MAX_TOTAL
            && self.rest.len() + 1 < MAX_PACKETS
            && same_ip(first, packet, &self.header, joint.next_id)
            && same_upper(first, packet, &self.header, joint);
        if !fits {
            return false;
        }
        joint.total += payload;
        joint.next_sequence = new.next_sequence;
        joint.next_id = new.next_id;
        joint.push = new.push;
        joint.open = new.open && payload == joint.size;
        self.rest.push(at.start + joint.header_len..at.end);
        true
    }

    fn write(&self, arena: &[u8], merge: Merge, write: &mut dyn FnMut(&[IoSlice<'_>])) {
        let first = &arena[self.first.clone()];
        let (Some(joint), false) = (&self.joint, self.rest.is_empty()) else {
            let verified = self.joint.is_some();
            let vnet = if verified { VnetHeader::verified() } else { VnetHeader::default() };
            return match merge {
                Merge::Plain => write(&[IoSlice::new(first)]),
                _ => write(&[IoSlice::new(&vnet.encode()), IoSlice::new(first)]),
            };
        };
        let mut head = [0; VnetHeader::LEN + MAX_HEADERS];
        let (vnet, headers) = head.split_at_mut(VnetHeader::LEN);
        vnet.copy_from_slice(
            &VnetHeader::merged(&self.header, joint.header_len, joint.size).encode(),
        );
        let headers = &mut headers[..joint.header_len];
        headers.copy_from_slice(&first[..joint.header_len]);
        if joint.push {
            headers[self.header.transport_at + 13] |= PSH;
        }
        merge_headers(headers, &self.header, joint.total);
        let mut slices = [IoSlice::new(&[]); MAX_PACKETS + 1];
        slices[0] = IoSlice::new(&head[..VnetHeader::LEN + joint.header_len]);
        slices[1] = IoSlice::new(&first[joint.header_len..]);
        for (slice, payload) in slices[2..].iter_mut().zip(&self.rest) {
            *slice = IoSlice::new(&arena[payload.clone()]);
        }
        write(&slices[..2 + self.rest.len()]);
    }
}

/// Whether two IP headers without options differ only in length, identification and checksum.
fn same_ip(first: &[u8], packet: &[u8], header: &Header, next_id: u16) -> bool {
    if header.source.is_ipv4() {
        let dont_fragment = first[6] & 0x40 != 0;
        first[1] == packet[1]
            && first[6..9] == packet[6..9]
            && (dont_fragment || be16(packet, 4) == Some(next_id))
    } else {
        first[..4] == packet[..4] && first[7] == packet[7]
    }
}

/// Whether two TCP headers of equal length differ only in sequence number, PSH and checksum, and
/// the second continues the group. UDP datagrams of a flow always do.
fn same_upper(first: &[u8], packet: &[u8], header: &Header, joint: &Joint) -> bool {
    let at = header.transport_at;
    header.protocol == UDP
        || (be32(packet, at + 4) == Some(joint.next_sequence)
            && first[at + 8..at + 13] == packet[at + 8..at + 13]
            && (first[at + 13] ^ packet[at + 13]) & !PSH == 0
            && first[at + 14..at + 16] == packet[at + 14..at + 16]
            && first[at + 20..joint.header_len] == packet[at + 20..joint.header_len])
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::{build, fix_checksums};
    use super::super::packet::{fold, put16};
    use super::super::segment::tests::{split_all, super_packet};
    use super::*;

    /// The frames that a batch of packets becomes.
    fn coalesce(merge: Merge, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut coalescer = Coalescer::new(merge);
        let arena = packets.concat();
        let mut at = 0;
        for packet in packets {
            let header = Header::parse(packet).unwrap();
            coalescer.push(&arena, at..at + packet.len(), header);
            at += packet.len();
        }
        let mut frames = Vec::new();
        coalescer.flush(&arena, &mut |slices| {
            frames.push(slices.iter().flat_map(|slice| slice.to_vec()).collect());
        });
        assert!(coalescer.is_empty());
        frames
    }

    /// The packets that a kernel would cut the frames into.
    fn split(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let decoded = frames.iter().map(|frame| VnetHeader::decode(frame).unwrap());
        decoded.flat_map(|(vnet, packet)| split_all(vnet, packet)).collect()
    }

    #[test]
    fn cutting_what_was_joined_gives_back_the_same_bytes() {
        let payload: Vec<u8> = (0..50_000u32).map(|i| (i % 239) as u8).collect();
        for v4 in [true, false] {
            for protocol in [TCP, UDP] {
                for (len, size) in [(50_000, 1228), (2456, 1228), (2457, 1228), (1, 1), (640, 10)] {
                    let (vnet, whole, packets) = super_packet(v4, protocol, &payload[..len], size);
                    let frames = coalesce(Merge::TcpAndUdp, &packets);
                    assert_eq!(frames.len(), 1, "{v4} {protocol} {len} {size}");
                    if packets.len() > 1 {
                        assert_eq!(frames[0], [&vnet.encode()[..], &whole].concat());
                    }
                    assert_eq!(split(&frames), packets);
                }
            }
        }
    }

    #[test]
    fn interleaved_flows_keep_each_its_order_and_its_bytes() {
        let mut packets = Vec::new();
        let flows: Vec<_> = [(true, TCP), (false, TCP), (true, UDP), (false, UDP)]
            .into_iter()
            .map(|(v4, protocol)| super_packet(v4, protocol, &[protocol; 9000], 900).2)
            .collect();
        let mut state = 1u32;
        let mut next = [0; 4];
        while packets.len() < 40 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let flow = (state >> 16) as usize % 4;
            if let Some(packet) = flows[flow].get(next[flow]) {
                packets.push(packet.clone());
                next[flow] += 1;
            }
        }
        let frames = coalesce(Merge::TcpAndUdp, &packets);
        assert_eq!(frames.len(), 4);
        let out = split(&frames);
        for flow in &flows {
            let same = |packet: &&Vec<u8>| {
                let key = |p: &[u8]| Flow::of(p, &Header::parse(p).unwrap());
                key(packet) == key(&flow[0])
            };
            let of_flow: Vec<_> = out.iter().filter(same).cloned().collect();
            assert_eq!(&of_flow, flow);
        }
    }

    #[test]
    fn a_packet_with_a_wrong_checksum_stays_alone_and_wrong() {
        for at in [10, 36, 60] {
            let (_, _, mut packets) = super_packet(true, TCP, &[5; 400], 100);
            packets[1][at] ^= 0x40;
            let frames = coalesce(Merge::TcpAndUdp, &packets);
            let (vnet, alone) = VnetHeader::decode(&frames[1]).unwrap();
            assert_eq!(vnet, VnetHeader::default(), "not marked as verified");
            assert_eq!(alone, packets[1]);
            assert_eq!(split(&frames), packets);
        }
    }

    #[test]
    fn whatever_makes_headers_differ_ends_the_group() {
        type Change = fn(&mut Vec<u8>);
        let changes: [(&str, bool, Change); 10] = [
            ("TOS", true, |p| p[1] = 0x2e),
            ("TTL", true, |p| p[8] = 63),
            ("don't fragment", true, |p| p[6] = 0),
            ("ack", true, |p| p[31] ^= 1),
            ("window", true, |p| p[35] ^= 1),
            ("timestamp", true, |p| p[47] ^= 1),
            ("sequence", true, |p| p[27] ^= 1),
            ("FIN", true, |p| p[33] |= 1),
            ("flow label", false, |p| p[3] ^= 1),
            ("hop limit", false, |p| p[7] ^= 1),
        ];
        for (what, v4, change) in changes {
            let (_, _, mut packets) = super_packet(v4, TCP, &[5; 200], 100);
            change(&mut packets[1]);
            fix_checksums(&mut packets[1]);
            let frames = coalesce(Merge::TcpAndUdp, &packets);
            assert_eq!(frames.len(), 2, "{what}");
            assert_eq!(split(&frames), packets, "{what}");
        }
    }

    #[test]
    fn psh_and_a_short_packet_are_the_last_of_a_group() {
        let (_, _, mut packets) = super_packet(true, TCP, &[5; 400], 100);
        packets[1][33] |= PSH;
        fix_checksums(&mut packets[1]);
        let frames = coalesce(Merge::Tcp, &packets);
        assert_eq!(frames.len(), 2);
        assert_eq!(split(&frames), packets);

        let (_, _, mut packets) = super_packet(true, UDP, &[5; 250], 100);
        packets.push(packets[2].clone());
        let frames = coalesce(Merge::TcpAndUdp, &packets);
        assert_eq!(frames.len(), 2, "nothing joins behind a short one");
        assert_eq!(split(&frames), packets);
    }

    #[test]
    fn the_other_way_to_write_a_checksum_of_zero_is_left_as_it_came() {
        let (_, _, mut packets) = super_packet(true, TCP, &[5; 400], 100);
        for (packet, at) in packets.iter_mut().zip([16 + 20, 10]) {
            // The payload's end, or the identification, takes up what the checksum was.
            let spare = if at == 10 { 4 } else { packet.len() - 2 };
            let rest = be16(packet, at).unwrap();
            let value = be16(packet, spare).unwrap();
            put16(packet, spare, fold(u64::from(value) + u64::from(rest)));
            put16(packet, at, 0xffff);
        }
        let frames = coalesce(Merge::Tcp, &packets);
        assert_eq!(split(&frames), packets);
        assert_eq!(frames.len(), 3);
    }

    #[test]
    fn a_lost_or_reordered_segment_keeps_arrival_order() {
        let (_, _, packets) = super_packet(false, TCP, &[5; 600], 100);
        let order = [0, 1, 3, 4, 2, 5];
        let arrived: Vec<_> = order.iter().map(|i| packets[*i].clone()).collect();
        let frames = coalesce(Merge::Tcp, &arrived);
        assert_eq!(split(&frames), arrived);
        assert_eq!(frames.len(), 4);
    }

    #[test]
    fn without_the_dont_fragment_bit_identifications_must_count_up() {
        let (_, _, mut packets) = super_packet(true, UDP, &[5; 300], 100);
        for packet in &mut packets {
            packet[6] = 0;
            fix_checksums(packet);
        }
        assert_eq!(coalesce(Merge::TcpAndUdp, &packets).len(), 1);
        put16(&mut packets[2], 4, 7);
        fix_checksums(&mut packets[2]);
        let frames = coalesce(Merge::TcpAndUdp, &packets);
        assert_eq!(split(&frames), packets);
        assert_eq!(frames.len(), 2);
    }

    #[test]
    fn a_plain_device_gets_every_packet_as_it_came() {
        let (_, _, mut packets) = super_packet(true, TCP, &[5; 300], 100);
        packets.push(build("10.0.0.1", "10.0.0.2", 1, b"ping"));
        assert_eq!(coalesce(Merge::Plain, &packets), packets);
        let frames = coalesce(Merge::Tcp, &super_packet(true, UDP, &[5; 300], 100).2);
        assert_eq!(frames.len(), 3, "no UDP where the kernel does not take it");
        let frames = coalesce(Merge::Tcp.lower(), &packets);
        assert_eq!(frames.len(), 4, "nothing where it refused");
        assert_eq!(split(&frames), packets);
    }

    #[test]
    fn overlapping_fragments_and_cut_upper_headers_pass_untouched() {
        let (_, _, mut packets) = super_packet(true, UDP, &[5; 400], 100);
        for (packet, field) in packets.iter_mut().zip([0x2000, 0x2001, 0x0001, 0x2000]) {
            put16(packet, 6, field);
            put16(packet, 10, 0);
            let value = checksum(sum(&packet[..20]));
            put16(packet, 10, value);
        }
        for len in 0..24 {
            let mut cut = build("10.0.0.1", "10.0.0.2", TCP, &[])[..20 + len].to_vec();
            put16(&mut cut, 2, 20 + len as u16);
            packets.push(cut);
        }
        let frames = coalesce(Merge::TcpAndUdp, &packets);
        let bare: Vec<_> = frames.iter().map(|frame| frame[VnetHeader::LEN..].to_vec()).collect();
        assert_eq!(bare, packets);
    }

    #[test]
    fn a_super_packet_never_exceeds_what_its_length_field_can_say() {
        let (_, _, packets) = super_packet(true, TCP, &vec![5; 65_400], 6000);
        let mut more = packets.clone();
        let template = packets[0].clone();
        for index in 0..20u32 {
            let mut packet = template.clone();
            packet[24..28].copy_from_slice(&(1000 + 65_400 + index * 6000).to_be_bytes());
            fix_checksums(&mut packet);
            more.push(packet);
        }
        for frame in coalesce(Merge::Tcp, &more) {
            assert!(frame.len() <= VnetHeader::LEN + MAX_TOTAL);
        }
    }
}
