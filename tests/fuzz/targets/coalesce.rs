//! The joining of received packets: what a kernel would cut the frames into are the same packets,
//! each flow's in the same order.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ginnel::forward::coalesce::{Coalescer, Merge};
use ginnel::forward::packet::{Header, TCP, UDP};
use ginnel::forward::segment::VnetHeader;

use super::Source;
use super::packets::{build, complete, joined, naive_cut, naive_sum, sized, transport_of};

/// The most packets of a batch, more than one super-packet takes.
const MAX_PACKETS: usize = 80;

/// The longest payload is 255 times this: 64 KiB are reached and passed by the longest batch.
const STEP: usize = 5;

/// Senders and receivers of the flows that are made up.
const FLOWS: [(&str, &str, u8); 4] = [
    ("10.0.0.2", "10.0.0.1", TCP),
    ("10.0.0.2", "10.0.0.1", UDP),
    ("fd00::2", "fd00::1", TCP),
    ("fd00::2", "fd00::1", UDP),
];

/// A batch. The first byte says what the device takes. Packets follow: a byte that names a flow or
/// says that raw bytes follow, a length, and changes to what the flow's next packet would be.
pub fn coalesce(data: &[u8]) {
    let mut source = Source(data);
    let merge = [Merge::Plain, Merge::Singles, Merge::Tcp, Merge::TcpAndUdp]
        [usize::from(source.byte() & 3)];
    let mut flows =
        FLOWS.map(|(from, to, protocol)| Flow { next: build(from, to, protocol, &[]), size: 100 });
    let mut packets = Vec::new();
    while !source.0.is_empty() && packets.len() < MAX_PACKETS {
        let what = source.byte();
        let packet = if what & 0x80 != 0 {
            let len = usize::from(source.byte());
            sized(source.take(len))
        } else {
            flows[usize::from(what & 3)].packet(what, &mut source)
        };
        if Header::parse(&packet).is_some() {
            packets.push(packet);
        }
    }
    check(merge, &packets);
}

/// A sender whose packets continue one another unless the input changes them.
struct Flow {
    /// The headers of its next packet.
    next: Vec<u8>,
    size: usize,
}

impl Flow {
    /// Bits 2 to 6 of `what`: another size, a short packet, a change before and one after the
    /// checksums are computed, PSH.
    fn packet(&mut self, what: u8, source: &mut Source<'_>) -> Vec<u8> {
        let on = |bit: u8| what >> bit & 1 == 1;
        if on(2) {
            self.size = usize::from(source.byte()) * STEP;
        }
        let len = if on(3) { usize::from(source.byte()).min(self.size) } else { self.size };
        let mut packet = self.next.clone();
        packet.resize(self.next.len() + len, what);
        if on(4) {
            let at = usize::from(source.byte()) % self.next.len();
            packet[at] ^= source.byte();
        }
        let at = transport_of(&self.next);
        let tcp = self.next.len() - at > 8;
        if on(6) && tcp {
            packet[at + 13] |= 0x08;
        }
        // A change may have made it another kind of packet, which is sent as it is.
        let same = packet[0] == self.next[0] && packet[6] == self.next[6];
        if same && (at != 20 || packet[9] == self.next[9]) {
            complete(&mut packet);
        }
        if on(5) {
            let at = usize::from(source.byte()) % packet.len();
            packet[at] ^= source.byte();
        }
        if at == 20 {
            let id = u16::from_be_bytes([self.next[4], self.next[5]]).wrapping_add(1);
            self.next[4..6].copy_from_slice(&id.to_be_bytes());
        }
        if tcp {
            let sequence = self.next[at + 4..at + 8].try_into().expect("four bytes");
            let sequence = u32::from_be_bytes(sequence).wrapping_add(len as u32);
            self.next[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
        }
        packet
    }
}

fn check(merge: Merge, packets: &[Vec<u8>]) {
    let arena = packets.concat();
    let mut coalescer = Coalescer::new(merge);
    let mut at = 0;
    for packet in packets {
        let header = Header::parse(packet).expect("only packets that parse");
        coalescer.push(&arena, at..at + packet.len(), header);
        at += packet.len();
    }
    let mut frames = Vec::new();
    coalescer.flush(&arena, &mut |slices| frames.push(joined(slices)));
    assert!(coalescer.is_empty() && frames.len() <= packets.len());
    let mut cut = Vec::new();
    for frame in &frames {
        if merge == Merge::Plain {
            cut.push(frame.clone());
            continue;
        }
        let (vnet, packet) = VnetHeader::decode(frame).expect("a frame has its offload header");
        let header = Header::parse(packet).expect("a super-packet is a packet");
        cut.extend(naive_cut(&vnet.encode(), packet, &header).expect("a kernel can cut it"));
    }
    let (sent, arrived) = (by_flow(packets), by_flow(&cut));
    assert_eq!(sent.keys().collect::<Vec<_>>(), arrived.keys().collect::<Vec<_>>());
    for (flow, sent) in &sent {
        let arrived = &arrived[flow];
        assert_eq!(sent.len(), arrived.len());
        for (sent, arrived) in sent.iter().zip(arrived) {
            assert!(sent == arrived || comparable(sent) == comparable(arrived));
        }
    }
}

/// Addresses, and where they are there to be seen protocol and ports.
type FlowName = (IpAddr, IpAddr, Option<(u8, [u8; 4])>);

/// The packets of each flow.
fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<FlowName, Vec<&Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<&Vec<u8>>> = BTreeMap::new();
    for packet in packets {
        let header = Header::parse(packet).expect("only packets that parse");
        let ports = packet.get(header.transport_at..).and_then(|upper| upper.first_chunk());
        let known = matches!(header.protocol, TCP | UDP) && !header.fragment;
        let ports = ports.filter(|_| known).map(|ports| (header.protocol, *ports));
        flows.entry((header.source, header.destination, ports)).or_default().push(packet);
    }
    flows
}

/// A packet without the identification of an IPv4 packet that forbids fragments, which means
/// nothing (RFC 6864, section 4.1); unless its header's checksum is wrong, and it must stay so.
fn comparable(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let plain_v4 = packet[0] == 0x45;
    if plain_v4 && packet[6] & 0x40 != 0 && naive_sum(&packet[..20], 0) == 0xffff {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for merge in 0..4 {
        for flow in 0..4 {
            // Equal ones, a short one at the end, another after it.
            seeds.push(vec![merge, flow, flow, flow, flow | 8, 40, flow]);
            // A larger size, PSH, a change that the checksum covers, and one that it does not.
            seeds.push(vec![merge, flow | 4, 90, flow, flow | 0x40, flow | 0x10, 8, 1, flow]);
            seeds.push(vec![merge, flow, flow | 0x20, 10, 0xff, flow, flow | 0x20, 36, 1]);
        }
        seeds.push([merge, 0, 1, 2, 3, 0, 1, 2, 3, 3, 2, 1, 0, 8, 9, 10, 11].to_vec());
        seeds.push([vec![merge, 4, 255], vec![0; 60]].concat());
        seeds.push([vec![merge], vec![1; 70]].concat());
    }
    let raw = build("fd00::2", "fd00::1", UDP, b"raw");
    seeds.push([&[3, 0x80, raw.len() as u8][..], &raw, &[0x80, raw.len() as u8], &raw].concat());
    seeds
}
