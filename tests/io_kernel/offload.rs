//! What `forward` joins, a kernel takes apart into the very same packets.
//!
//! ```text
//! joined frame ──▶ in0 (offload) ── this kernel forwards ── out0 (plain) ──▶ packets
//! ```
//!
//! The plain device takes no offload, so the kernel itself has to cut the frame and complete the
//! checksums before it hands the packets out.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ginnel::forward::coalesce::{Coalescer, Merge};
use ginnel::forward::packet::{Header, TCP, UDP, checksum, pseudo_sum, sum};
use ginnel::io::tun::{MAX_FRAME_LEN, TunDevice, TunOptions, TunQueue};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::namespace::{isolated, sh};

const MTU: u16 = 1_420;

/// Packet `index` of a flow, as a host sends it with offload switched off.
fn packet(v4: bool, protocol: u8, index: usize, sizes: &[usize]) -> Vec<u8> {
    let payload: Vec<u8> = (0..sizes[index]).map(|at| (at * 7 + index) as u8).collect();
    let before: usize = sizes[..index].iter().sum();
    let mut upper = vec![0x30, 0x39, 0x00, 0x50];
    if protocol == TCP {
        upper.extend(((1 << 31) - 5_000 + before as u32).to_be_bytes());
        let flags = if index + 1 == sizes.len() { 0x18 } else { 0x10 };
        upper.extend([0, 0, 0, 7, 0x80, flags, 1, 0xf5, 0, 0, 0, 0]);
        upper.extend([1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4]);
    } else {
        upper.extend((8 + payload.len() as u16).to_be_bytes());
        upper.extend([0, 0]);
    }
    upper.extend(payload);
    let mut packet = Vec::new();
    if v4 {
        packet.extend([0x45, 0]);
        packet.extend((20 + upper.len() as u16).to_be_bytes());
        packet.extend((0xfffe_u16.wrapping_add(index as u16)).to_be_bytes());
        packet.extend([0x40, 0, 64, protocol, 0, 0, 10, 9, 1, 2, 10, 9, 2, 2]);
    } else {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend((upper.len() as u16).to_be_bytes());
        packet.extend([protocol, 64]);
        for net in ["fd91::2", "fd92::2"] {
            let IpAddr::V6(address) = net.parse().unwrap() else { unreachable!() };
            packet.extend(address.octets());
        }
    }
    packet.extend(upper);
    finish(&mut packet);
    packet
}

/// Sets all checksums.
fn finish(packet: &mut [u8]) {
    let header = Header::parse(packet).unwrap();
    if header.source.is_ipv4() {
        packet[10..12].fill(0);
        let value = checksum(sum(&packet[..20]));
        packet[10..12].copy_from_slice(&value.to_be_bytes());
    }
    let at = header.transport_at;
    let field = at + if header.protocol == TCP { 16 } else { 6 };
    packet[field..field + 2].fill(0);
    let value = checksum(pseudo_sum(&header, packet.len() - at) + sum(&packet[at..]));
    packet[field..field + 2].copy_from_slice(&value.to_be_bytes());
}

/// The next packet of the flow that comes out.
fn read(queue: &TunQueue) -> Vec<u8> {
    let mut buffer = vec![0; MAX_FRAME_LEN];
    loop {
        let mut poll = [PollFd::from_borrowed_fd(queue.as_fd(), PollFlags::IN)];
        let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1), "no packet came");
        let len = queue.read(&mut buffer).unwrap();
        let header = Header::parse(&buffer[..len]).unwrap();
        if matches!(header.protocol, TCP | UDP) {
            return buffer[..len].to_vec();
        }
    }
}

fn the_kernel_gives_back(v4: bool, protocol: u8, sizes: &[usize], [inside, out]: [&TunQueue; 2]) {
    let packets: Vec<_> = (0..sizes.len()).map(|i| packet(v4, protocol, i, sizes)).collect();
    let mut arena = Vec::new();
    let mut coalescer = Coalescer::new(Merge::TcpAndUdp);
    let ranges: Vec<_> = packets
        .iter()
        .map(|packet| {
            arena.extend_from_slice(packet);
            arena.len() - packet.len()..arena.len()
        })
        .collect();
    for (packet, range) in packets.iter().zip(ranges) {
        coalescer.push(&arena, range, Header::parse(packet).unwrap());
    }
    let mut frames = 0;
    coalescer.flush(&arena, &mut |frame| {
        frames += 1;
        inside.write_vectored(frame).expect("the kernel takes the frame");
    });
    assert_eq!(frames, 1, "all were joined");
    for mut expected in packets {
        // A hop further.
        expected[if v4 { 8 } else { 7 }] -= 1;
        finish(&mut expected);
        let got = read(out);
        assert_eq!(got.len(), expected.len(), "v4 {v4}, protocol {protocol}, {sizes:?}");
        assert!(got == expected, "v4 {v4}, protocol {protocol}: {got:02x?}\n{expected:02x?}");
    }
}

#[test]
fn a_kernel_takes_joined_frames_apart_into_the_packets_they_were_made_of() {
    isolated(|| {
        let open = |name, offload| {
            TunDevice::open(name, TunOptions { mtu: MTU, offload, queues: 1 }).unwrap()
        };
        let (inside, out) = (open("in0", true), open("out0", false));
        assert!(inside.udp_offload() && !out.offload());
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward; \
            echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; \
            ip addr add 10.9.1.1/24 dev in0; ip addr add fd91::1/64 dev in0 nodad; \
            ip addr add 10.9.2.1/24 dev out0; ip addr add fd92::1/64 dev out0 nodad; \
            ip link set in0 up; ip link set out0 up");
        let queues = [&inside.queues()[0], &out.queues()[0]];
        for v4 in [true, false] {
            for protocol in [TCP, UDP] {
                for sizes in [&[1_300, 1_300][..], &[1_300, 1_300, 7], &[512; 40], &[1, 1, 1]] {
                    the_kernel_gives_back(v4, protocol, sizes, queues);
                }
            }
        }
    });
}
