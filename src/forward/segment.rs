//! One frame of the TUN device out: a packet, or up to 64 KiB of one flow to be cut into packets.
//!
//! With offload the kernel puts a `virtio_net_hdr` of 10 bytes (virtio 1.2, section 5.1.6, in host
//! byte order, [`VnetHeader`]) before each frame and leaves to us what a network card would do:
//! complete a partial checksum, and cut a TCP (TSO) or UDP (USO) super-packet into packets of
//! `gso_size` payload bytes each. [`Segments::split`] looks at a frame once and
//! [`Segments::make_next`] lends packet after packet.
//!
//! **No payload byte is copied**: a packet is made where its payload lies in the frame. Its headers are
//! written before the payload, over the end of the packet before, which was sealed by then. So a frame
//! is used up by cutting it.
//!
//! Each packet gets the super-packet's headers with its own total length, IPv4 identification
//! (counted up), TCP sequence number or UDP length, and checksums computed anew. FIN and PSH stay on
//! the last packet, CWR on the first (RFC 3168), as a network card does.
//!
//! Where a path carries less than the interface, [`Segments::fit`] has TCP cut more finely, single
//! packets too: to TCP a segment boundary means nothing, so neither end notices. Left alone is what
//! would notice: SYN, RST, urgent data, and segments that are signed (RFC 2385, RFC 5925).
//!
//! Nothing of the header but `gso_type`, `gso_size` and where the checksum goes is believed: `hdr_len`
//! is wrong for some senders, so header lengths are read from the packet itself.

mod vnet;

use std::ops::Range;

use super::packet::{
    Header, IPV6_HEADER, TCP, UDP, be16, be32, checksum, fold, pseudo_sum, put16, sum,
};

pub use vnet::VnetHeader;
use vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM};

/// The longest headers of a packet that is cut: IPv6 40, TCP 60.
const MAX_HEADERS: usize = 100;

/// Length of a TCP header without options.
const TCP_HEADER: usize = 20;
/// Length of a UDP header.
const UDP_HEADER: usize = 8;

/// TCP flags, in byte 13 of its header.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// Why a frame cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// An offload that was not asked for, or the sizes contradict the packet.
    #[error("the offload header does not fit the packet")]
    BadOffload,
}

/// The packets of one frame, made one by one.
#[derive(Debug)]
pub struct Segments<'a> {
    frame: &'a mut [u8],
    header: Header,
    plan: Plan,
    /// The super-packet's headers: in the frame, payload may lie where others' headers were.
    headers: [u8; MAX_HEADERS],
    /// Payload bytes made into packets so far.
    done: usize,
    /// Packets made so far.
    index: u16,
    /// Where the last packet lies.
    made: Range<usize>,
}

/// What is to be done with the packet.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// It goes out as it is.
    Whole,
    /// It goes out with its checksum completed: from `start`, stored at `at`.
    Complete { start: usize, at: usize },
    /// It is cut: `header_len` bytes before the payload of packets with `size` each.
    Cut { header_len: usize, size: usize },
    /// Everything was written.
    Done,
}

impl<'a> Segments<'a> {
    /// Looks at the packet in `frame`, of which `header` is what [`Header::parse`] said.
    pub fn split(
        vnet: VnetHeader,
        frame: &'a mut [u8],
        header: Header,
    ) -> Result<Self, SegmentError> {
        let packet = &*frame;
        let plan = match vnet.gso_type & !GSO_ECN {
            GSO_NONE if vnet.flags & NEEDS_CSUM != 0 => completion(vnet, packet, &header)?,
            GSO_NONE => Plan::Whole,
            GSO_TCPV4 if header.protocol == TCP && header.source.is_ipv4() => {
                cut(vnet, packet, &header)?
            }
            GSO_TCPV6 if header.protocol == TCP && header.source.is_ipv6() => {
                cut(vnet, packet, &header)?
            }
            GSO_UDP_L4 if header.protocol == UDP => cut(vnet, packet, &header)?,
            _ => return Err(SegmentError::BadOffload),
        };
        let mut headers = [0; MAX_HEADERS];
        if let Plan::Cut { header_len, .. } = plan {
            headers[..header_len].copy_from_slice(&packet[..header_len]);
        }
        Ok(Self { frame, header, plan, headers, done: 0, index: 0, made: 0..0 })
    }

    /// Has TCP cut so finely that no packet is longer than `limit`. Whether none is then.
    pub fn fit(&mut self, limit: usize) -> bool {
        if self.next_len().is_none_or(|len| len <= limit) {
            return true;
        }
        let header_len = match self.plan {
            Plan::Cut { header_len, .. } if self.header.protocol == TCP => Some(header_len),
            Plan::Whole if self.is_intact() => divisible(self.frame, &self.header),
            Plan::Complete { start, at }
                if start == self.header.transport_at && at == start + 16 =>
            {
                divisible(self.frame, &self.header)
            }
            _ => None,
        };
        let Some(header_len) = header_len.filter(|header_len| *header_len < limit) else {
            return false;
        };
        if !matches!(self.plan, Plan::Cut { .. }) {
            self.headers[..header_len].copy_from_slice(&self.frame[..header_len]);
        }
        self.plan = Plan::Cut { header_len, size: limit - header_len };
        true
    }

    /// Whether the upper checksum is right: what was bad before must not be made good.
    fn is_intact(&self) -> bool {
        let transport = &self.frame[self.header.transport_at..];
        checksum(pseudo_sum(&self.header, transport.len()) + sum(transport)) == 0
    }

    /// The length of the packet that [`make_next`](Self::make_next) would lend, `None` after the last.
    pub fn next_len(&self) -> Option<usize> {
        match self.plan {
            Plan::Whole | Plan::Complete { .. } => Some(self.frame.len()),
            Plan::Cut { header_len, size } => {
                Some(header_len + size.min(self.frame.len() - header_len - self.done))
            }
            Plan::Done => None,
        }
    }

    /// Makes the next packet and lends it; `None` after the last.
    pub fn make_next(&mut self) -> Option<&[u8]> {
        let len = self.next_len()?;
        let start = self.done;
        match self.plan {
            Plan::Whole | Plan::Done => self.plan = Plan::Done,
            Plan::Complete { start, at } => {
                let value = checksum(sum(&self.frame[start..len]));
                put16(self.frame, at, udp_zero(self.header.protocol, value));
                self.plan = Plan::Done;
            }
            Plan::Cut { header_len, size } => {
                let last = start + len == self.frame.len();
                let packet = &mut self.frame[start..start + len];
                packet[..header_len].copy_from_slice(&self.headers[..header_len]);
                patch(packet, &self.header, start, self.index, last);
                self.done += size;
                self.index = self.index.wrapping_add(1);
                if last {
                    self.plan = Plan::Done;
                }
            }
        }
        self.made = start..start + len;
        Some(self.made())
    }

    /// The packet that was made last.
    pub fn made(&self) -> &[u8] {
        &self.frame[self.made.clone()]
    }
}

/// Makes the headers of the super-packet those of `packet`, whose payload begins `offset` bytes
/// into the super-packet's.
fn patch(packet: &mut [u8], header: &Header, offset: usize, index: u16, last: bool) {
    let at = header.transport_at;
    let transport_len = packet.len() - at;
    patch_ip(packet, header, index);
    let checksum_at = if header.protocol == TCP {
        let sequence = be32(packet, at + 4).unwrap_or_default().wrapping_add(offset as u32);
        packet[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
        if !last {
            packet[at + 13] &= !(FIN | PSH);
        }
        if index != 0 {
            packet[at + 13] &= !CWR;
        }
        at + 16
    } else {
        put16(packet, at + 4, transport_len as u16);
        at + 6
    };
    put16(packet, checksum_at, 0);
    let value = checksum(pseudo_sum(header, transport_len) + sum(&packet[at..]));
    put16(packet, checksum_at, udp_zero(header.protocol, value));
}

/// Sets the lengths of an IP header without options for the packet `out`, and of IPv4 the
/// identification (counted up by `index`) and the checksum.
fn patch_ip(out: &mut [u8], header: &Header, index: u16) {
    let total = out.len();
    if header.source.is_ipv4() {
        put16(out, 2, total as u16);
        let id = be16(out, 4).unwrap_or_default().wrapping_add(index);
        put16(out, 4, id);
        put16(out, 10, 0);
        let value = checksum(sum(&out[..header.transport_at]));
        put16(out, 10, value);
    } else {
        put16(out, 4, (total - IPV6_HEADER) as u16);
    }
}

/// Makes a super-packet's headers out of its first packet's: `total` is the length of all, and the
/// upper checksum becomes the pseudo-header's sum. The reverse of what [`Segments`] does.
pub(super) fn merge_headers(first: &mut [u8], header: &Header, total: usize) {
    let at = header.transport_at;
    if header.source.is_ipv4() {
        put16(first, 2, total as u16);
        put16(first, 10, 0);
        let value = checksum(sum(&first[..at]));
        put16(first, 10, value);
    } else {
        put16(first, 4, (total - IPV6_HEADER) as u16);
    }
    let transport_len = total - at;
    let checksum_at = if header.protocol == TCP {
        at + 16
    } else {
        put16(first, at + 4, transport_len as u16);
        at + 6
    };
    put16(first, checksum_at, fold(pseudo_sum(header, transport_len).into()));
}

fn completion(vnet: VnetHeader, packet: &[u8], header: &Header) -> Result<Plan, SegmentError> {
    let start = usize::from(vnet.csum_start);
    let at = start + usize::from(vnet.csum_offset);
    // The checksum belongs to an upper header: the IP header must stay what was checked.
    if start < header.transport_at || at + 2 > packet.len() {
        return Err(SegmentError::BadOffload);
    }
    Ok(Plan::Complete { start, at })
}

fn cut(vnet: VnetHeader, packet: &[u8], header: &Header) -> Result<Plan, SegmentError> {
    let size = usize::from(vnet.gso_size);
    let transport = packet.get(header.transport_at..).ok_or(SegmentError::BadOffload)?;
    let transport_header = if header.protocol == TCP {
        usize::from(transport.get(12).ok_or(SegmentError::BadOffload)? >> 4) * 4
    } else {
        UDP_HEADER
    };
    let minimum = if header.protocol == TCP { TCP_HEADER } else { UDP_HEADER };
    let fits = header.is_plain()
        && !header.fragment
        && size > 0
        && transport_header >= minimum
        && transport_header <= transport.len();
    if fits {
        Ok(Plan::Cut { header_len: header.transport_at + transport_header, size })
    } else {
        Err(SegmentError::BadOffload)
    }
}

/// Where the payload of a TCP packet begins that may be cut in two.
fn divisible(packet: &[u8], header: &Header) -> Option<usize> {
    if header.protocol != TCP || !header.is_plain() || header.fragment {
        return None;
    }
    let tcp = packet.get(header.transport_at..)?;
    let header_len = usize::from(tcp.get(12)? >> 4) * 4;
    let options = tcp.get(TCP_HEADER..header_len)?;
    let alone = tcp[13] & (SYN | RST | URG) != 0 || is_signed(options);
    (!alone && header_len < tcp.len()).then_some(header.transport_at + header_len)
}

/// Whether TCP options sign the segment, or are too odd to tell.
fn is_signed(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        options = match (kind, rest) {
            (0, _) => return false,
            (1, _) => rest,
            // MD5 (RFC 2385), TCP-AO (RFC 5925).
            (19 | 29, _) => return true,
            (_, [len, ..]) if *len >= 2 && usize::from(*len) <= options.len() => {
                &options[usize::from(*len)..]
            }
            _ => return true,
        };
    }
    false
}

/// In UDP a checksum of zero says that there is none; its other form says zero (RFC 768).
fn udp_zero(protocol: u8, value: u16) -> u16 {
    if protocol == UDP && value == 0 { 0xffff } else { value }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::packet::tests::{build, fix_checksums};
    use super::*;

    /// A super-packet of the flow, as the kernel hands it over, and the packets it stands for, made
    /// by a naive reference.
    pub(in crate::forward) fn super_packet(
        v4: bool,
        protocol: u8,
        payload: &[u8],
        size: usize,
    ) -> (VnetHeader, Vec<u8>, Vec<Vec<u8>>) {
        let (source, destination) =
            if v4 { ("10.0.0.1", "10.0.0.2") } else { ("fd00::1", "fd00::2") };
        let mut whole = build(source, destination, protocol, payload);
        let header = Header::parse(&whole).unwrap();
        let header_len = whole.len() - payload.len();
        let total = whole.len();
        let expected = payload
            .chunks(size)
            .enumerate()
            .map(|(index, chunk)| {
                let mut packet = build(source, destination, protocol, chunk);
                let at = header.transport_at;
                if v4 {
                    put16(&mut packet, 4, 0x1234 + index as u16);
                }
                if protocol == TCP {
                    let sequence = 1000 + (index * size) as u32;
                    packet[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
                }
                fix_checksums(&mut packet);
                packet
            })
            .collect();
        merge_headers(&mut whole, &header, total);
        (VnetHeader::merged(&header, header_len, size), whole, expected)
    }

    pub(in crate::forward) fn split_all(vnet: VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
        let header = Header::parse(packet).unwrap();
        let mut frame = packet.to_vec();
        let mut segments = Segments::split(vnet, &mut frame, header).unwrap();
        let mut packets = Vec::new();
        while let Some(len) = segments.next_len() {
            packets.push(segments.make_next().unwrap().to_vec());
            assert_eq!(
                (segments.made().len(), Some(segments.made())),
                (len, packets.last().map(|p| &p[..]))
            );
        }
        assert_eq!(segments.make_next(), None);
        packets
    }

    #[test]
    fn super_packets_become_the_packets_a_naive_reference_makes() {
        let payload: Vec<u8> = (0..60_001u32).map(|i| (i % 253) as u8).collect();
        for v4 in [true, false] {
            for protocol in [TCP, UDP] {
                for (len, size) in [(60_001, 1228), (1, 1), (100, 100), (101, 100), (5000, 9)] {
                    let (vnet, whole, expected) = super_packet(v4, protocol, &payload[..len], size);
                    assert_eq!(split_all(vnet, &whole), expected, "{v4} {protocol} {len} {size}");
                }
            }
        }
    }

    #[test]
    fn fin_and_psh_stay_on_the_last_packet_and_cwr_on_the_first() {
        let (vnet, mut whole, _) = super_packet(true, TCP, &[1; 300], 100);
        whole[33] |= FIN | PSH | CWR;
        let flags: Vec<u8> = split_all(vnet, &whole).iter().map(|packet| packet[33]).collect();
        assert_eq!(flags, [0x10 | CWR, 0x10, 0x10 | FIN | PSH]);
        let ecn = VnetHeader { gso_type: GSO_TCPV4 | GSO_ECN, ..vnet };
        assert_eq!(split_all(ecn, &whole).len(), 3);
    }

    #[test]
    fn a_header_length_that_lies_changes_nothing() {
        let (vnet, whole, expected) = super_packet(false, TCP, &[9; 3000], 1000);
        for hdr_len in [0, 1, 40, 60, 2999, u16::MAX] {
            assert_eq!(split_all(VnetHeader { hdr_len, ..vnet }, &whole), expected);
        }
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        for (v4, protocol) in [(true, TCP), (true, UDP), (false, TCP), (false, UDP)] {
            let (vnet, whole, expected) = super_packet(v4, protocol, b"odd length!", 1400);
            let single = VnetHeader { gso_type: GSO_NONE, gso_size: 0, ..vnet };
            assert_eq!(split_all(single, &whole), expected);
            assert_eq!(split_all(VnetHeader::default(), &expected[0]), expected);
        }
    }

    #[test]
    fn offloads_that_contradict_the_packet_are_refused() {
        let (vnet, whole, _) = super_packet(true, TCP, &[1; 300], 100);
        let header = Header::parse(&whole).unwrap();
        let refused = |vnet: VnetHeader, packet: &[u8]| {
            let header = Header::parse(packet).unwrap_or(header);
            Segments::split(vnet, &mut packet.to_vec(), header).is_err()
        };
        assert!(refused(VnetHeader { gso_size: 0, ..vnet }, &whole));
        for gso_type in [2, 3, GSO_TCPV6, GSO_UDP_L4, 6, 0x7f] {
            assert!(refused(VnetHeader { gso_type, ..vnet }, &whole), "type {gso_type}");
        }
        let mut offset = whole.clone();
        for words in [0, 4] {
            offset[32] = words << 4;
            assert!(refused(vnet, &offset));
        }
        let mut short = build("10.0.0.1", "10.0.0.2", TCP, &[]);
        short.truncate(40);
        put16(&mut short, 2, 40);
        short[32] = 0xf0;
        assert!(refused(vnet, &short), "a TCP header longer than the packet");
        let mut fragment = whole.clone();
        put16(&mut fragment, 6, 0x2000);
        assert!(refused(vnet, &fragment));
        let single = VnetHeader { gso_type: GSO_NONE, ..vnet };
        for (csum_start, csum_offset) in [(0, 10), (19, 0), (351, 0), (20, 331), (65_535, 65_535)] {
            assert!(refused(VnetHeader { csum_start, csum_offset, ..single }, &whole));
        }
    }

    #[test]
    fn the_vnet_header_survives_its_bytes() {
        let (vnet, ..) = super_packet(true, UDP, &[1; 300], 100);
        let mut frame = vnet.encode().to_vec();
        frame.extend_from_slice(b"rest");
        assert_eq!(VnetHeader::decode(&frame), Some((vnet, &b"rest"[..])));
        assert_eq!(VnetHeader::decode(&frame[..9]), None);
    }

    /// The packets of a frame on a path that carries `limit` bytes, where they fit.
    fn fitted(vnet: VnetHeader, packet: &[u8], limit: usize) -> Option<Vec<Vec<u8>>> {
        let header = Header::parse(packet).unwrap();
        let mut frame = packet.to_vec();
        let mut segments = Segments::split(vnet, &mut frame, header).unwrap();
        if !segments.fit(limit) {
            return None;
        }
        let mut packets = Vec::new();
        while let Some(packet) = segments.make_next() {
            packets.push(packet.to_vec());
        }
        Some(packets)
    }

    #[test]
    fn on_a_narrow_path_tcp_is_cut_as_if_its_sender_had_known() {
        for v4 in [true, false] {
            let header_len = if v4 { 52 } else { 72 };
            for payload in [&[7; 1368][..], &[7; 30_000]] {
                let (vnet, whole, _) = super_packet(v4, TCP, payload, 1368);
                let (_, _, expected) = super_packet(v4, TCP, payload, 1220 - header_len);
                assert_eq!(fitted(vnet, &whole, 1220), Some(expected));
            }
            // A single packet with its checksum complete, and one without.
            let (_, _, mut single) = super_packet(v4, TCP, &[7; 1368], 1368);
            let single = single.remove(0);
            let (_, _, expected) = super_packet(v4, TCP, &[7; 1368], 1220 - header_len);
            assert_eq!(fitted(VnetHeader::default(), &single, 1220), Some(expected));
            let mut bad = single.clone();
            bad[header_len] ^= 1;
            assert_eq!(fitted(VnetHeader::default(), &bad, 1220), None, "bad before, bad after");
            assert_eq!(fitted(VnetHeader::default(), &bad, 1500), Some(vec![bad]));
        }
    }

    #[test]
    fn what_would_notice_is_not_cut() {
        let (_, _, packets) = super_packet(true, TCP, &[7; 1368], 1368);
        let at = 20;
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = packets[0].clone();
            change(&mut packet);
            fix_checksums(&mut packet);
            fitted(VnetHeader::default(), &packet, 1220).is_none()
        };
        assert!(!refused(&|_| {}));
        for flag in [SYN, RST, URG] {
            assert!(refused(&|packet| packet[at + 13] |= flag));
        }
        for kind in [19, 29] {
            assert!(refused(&|packet| packet[at + 22] = kind), "a signature");
        }
        assert!(refused(&|packet| packet[at + 23] = 1), "an option shorter than itself");
        let (vnet, whole, _) = super_packet(true, UDP, &[7; 5_600], 1400);
        assert_eq!(fitted(vnet, &whole, 1220), None, "datagrams keep their bounds");
    }
}
