use std::io::{ErrorKind, IoSlice};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use ginnel::forward::coalesce::{Coalescer, Merge};
use ginnel::forward::packet::Header;
use ginnel::forward::segment::{Segments, VnetHeader};
use ginnel::io::tun::{MAX_FRAME_LEN, TunDevice, TunError, TunOptions, TunQueue, VNET_HDR_LEN};
use ginnel::io::udp::{Family, RecvBatch, UdpOptions, UdpPort};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::namespace::{drop_net_admin, isolated, sh};

const PLAIN: TunOptions = TunOptions { mtu: 1_280, offload: false, queues: 1 };
const OFFLOAD: TunOptions = TunOptions { mtu: 1_280, offload: true, queues: 1 };

/// Waits for a frame and reads it.
fn read_next(queue: &TunQueue, buffer: &mut [u8]) -> usize {
    let mut poll = [PollFd::from_borrowed_fd(queue.as_fd(), PollFlags::IN)];
    let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1), "no packet came");
    queue.read(buffer).unwrap()
}

/// Reads until a UDP packet to port 7 comes; the kernel also sends its own.
fn read_echo_packet(queue: &TunQueue) -> Vec<u8> {
    let mut buffer = vec![0; MAX_FRAME_LEN];
    let header = if queue.has_vnet_header() { VNET_HDR_LEN } else { 0 };
    loop {
        let len = read_next(queue, &mut buffer);
        let packet = &buffer[header..len];
        if packet[0] >> 4 == 4 && packet[9] == 17 && packet[22..24] == [0, 7] {
            return packet.to_vec();
        }
    }
}

/// An IPv4 UDP packet without UDP checksum, from 10.9.0.2:7 to 10.9.0.1:`port`.
fn reply(port: u16, payload: &[u8]) -> Vec<u8> {
    let total = (28 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1];
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    let sum: u32 = packet.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(port.to_be_bytes());
    packet.extend((total - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

fn packets_go_both_ways(options: TunOptions) {
    let device = TunDevice::open("gin0", options).unwrap();
    assert_eq!(device.offload(), options.offload);
    assert_eq!(sh("cat /proc/self/net/dev | grep -c gin0").trim(), "1");
    assert!(sh("ip link show gin0").contains("mtu 1280"));
    sh("ip addr add 10.9.0.1/24 dev gin0; ip link set gin0 up");
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(b"out", "10.9.0.2:7").unwrap();
    let queue = &device.queues()[0];
    assert!(read_echo_packet(queue).ends_with(b"out"));
    while let Ok(len) = queue.read(&mut vec![0; MAX_FRAME_LEN]) {
        assert!(len > 0);
    }
    let empty = queue.read(&mut [0; 2_000]).unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::WouldBlock);

    let port = socket.local_addr().unwrap().port();
    let header = if queue.has_vnet_header() { &[0; VNET_HDR_LEN][..] } else { &[] };
    let packet = reply(port, b"whole");
    queue.write(&[header, &packet].concat()).unwrap();
    let packet = reply(port, b"pieces");
    let pieces = [IoSlice::new(header), IoSlice::new(&packet[..20]), IoSlice::new(&packet[20..])];
    assert_eq!(queue.write_vectored(&pieces).unwrap(), header.len() + packet.len());
    let mut buffer = [0; 100];
    let len = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"whole");
    let len = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"pieces");
}

#[test]
fn packets_go_both_ways_with_offload() {
    isolated(|| packets_go_both_ways(OFFLOAD));
}

#[test]
fn packets_go_both_ways_on_the_plain_device() {
    isolated(|| packets_go_both_ways(PLAIN));
}

#[test]
fn one_read_gives_many_segments_where_offload_is_taken() {
    isolated(|| {
        let device = TunDevice::open("gin0", OFFLOAD).unwrap();
        assert!(device.udp_offload(), "Linux 6.2 and later take USO");
        sh("ip addr add 10.9.0.1/24 dev gin0; ip link set gin0 up");
        let port = UdpPort::bind(UdpOptions::default()).unwrap();
        port.send("10.9.0.2:7".parse().unwrap(), &[3; 10_000], Some(1_000)).unwrap();
        assert_eq!(read_echo_packet(&device.queues()[0]).len(), 28 + 10_000);
    });
}

/// Swaps the addresses and ports of a UDP packet: what was for others is for its sender. No
/// checksum changes.
fn turn_around(packet: &mut [u8]) {
    let (addresses, len, ports) = if packet[0] >> 4 == 4 { (12, 4, 20) } else { (8, 16, 40) };
    packet[addresses..addresses + 2 * len].rotate_left(len);
    packet[ports..ports + 4].rotate_left(2);
}

/// Cuts a frame and joins the packets again; the frames to write.
fn cut_and_join(vnet: VnetHeader, packet: &[u8]) -> (usize, Vec<Vec<u8>>) {
    let header = Header::parse(packet).unwrap();
    let mut frame = packet.to_vec();
    let mut segments = Segments::split(vnet, &mut frame, header).unwrap();
    let (mut arena, mut places) = (Vec::new(), Vec::new());
    while let Some(packet) = segments.make_next() {
        places.push(arena.len()..arena.len() + packet.len());
        arena.extend_from_slice(packet);
    }
    let mut coalescer = Coalescer::new(Merge::TcpAndUdp);
    for at in &places {
        coalescer.push(&arena, at.clone(), Header::parse(&arena[at.clone()]).unwrap());
    }
    let mut frames = Vec::new();
    coalescer.flush(&arena, &mut |pieces| {
        frames.push(pieces.iter().flat_map(|piece| piece.to_vec()).collect());
    });
    (places.len(), frames)
}

#[test]
fn what_was_cut_and_joined_the_kernel_takes_for_what_was_sent() {
    isolated(|| {
        let device = TunDevice::open("gin0", OFFLOAD).unwrap();
        sh("ip addr add 10.9.0.1/24 dev gin0; ip link set gin0 up; \
            ip addr add fd09::1/64 dev gin0 nodad");
        let queue = &device.queues()[0];
        let mut buffer = vec![0; MAX_FRAME_LEN];
        for (to, family) in [("10.9.0.2:7", Family::V4), ("[fd09::2]:7", Family::V6)] {
            let port = UdpPort::bind(UdpOptions::default()).unwrap();
            let sent: Vec<u8> = (0..9_500u32).map(|i| (i % 251) as u8).collect();
            port.send(to.parse().unwrap(), &sent, Some(1_000)).unwrap();
            let own = port.port().to_be_bytes();
            let frame = loop {
                let len = read_next(queue, &mut buffer);
                let (_, packet) = VnetHeader::decode(&buffer[..len]).unwrap();
                let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
                if packet.get(at..at + 2) == Some(&own) {
                    break buffer[..len].to_vec();
                }
            };
            let (vnet, packet) = VnetHeader::decode(&frame).unwrap();
            let mut packet = packet.to_vec();
            turn_around(&mut packet);
            let (packets, frames) = cut_and_join(vnet, &packet);
            assert_eq!((packets, frames.len()), (10, 1), "{to}");
            queue.write(&frames[0]).unwrap();
            assert_eq!(received(&port, family, sent.len()), sent, "{to}");
        }
    });
}

/// What arrives, until so many bytes came.
fn received(port: &UdpPort, family: Family, bytes: usize) -> Vec<u8> {
    let (queue, mut batch, mut all) = (&port.queues()[0], RecvBatch::new(), Vec::new());
    while all.len() < bytes {
        let mut poll = [PollFd::from_borrowed_fd(queue.fd(family).unwrap(), PollFlags::IN)];
        let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1), "{} came", all.len());
        queue.recv(family, &mut batch).unwrap();
        batch.received().for_each(|run| all.extend_from_slice(run.bytes));
    }
    all
}

#[test]
fn a_flow_is_answered_on_the_queue_that_it_was_written_to() {
    isolated(|| {
        let device = TunDevice::open("gin0", TunOptions { queues: 4, ..OFFLOAD }).unwrap();
        sh("ip addr add 10.9.0.1/24 dev gin0; ip link set gin0 up");
        for queue in device.queues().iter().cycle().take(12) {
            let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let packet = reply(socket.local_addr().unwrap().port(), b"in");
            queue.write(&[&[0; VNET_HDR_LEN][..], &packet].concat()).unwrap();
            let mut buffer = [0; 100];
            assert_eq!(socket.recv(&mut buffer).unwrap(), 2);
            socket.send_to(b"back", "10.9.0.2:7").unwrap();
            assert!(read_echo_packet(queue).ends_with(b"back"));
        }
    });
}

#[test]
fn the_plain_device_has_one_queue_whatever_was_asked_for() {
    isolated(|| {
        let device = TunDevice::open("gin0", TunOptions { queues: 4, ..PLAIN }).unwrap();
        assert_eq!(device.queues().len(), 1);
    });
}

#[test]
fn the_device_vanishes_with_its_last_queue() {
    isolated(|| {
        for options in [PLAIN, OFFLOAD, TunOptions { queues: 3, ..OFFLOAD }] {
            let queues = TunDevice::open("gin0", options).unwrap().into_queues();
            assert_eq!(queues.len(), options.queues);
            sh("ip link show gin0");
            drop(queues);
            assert!(!sh("ip -o link").contains("gin0"));
        }
    });
}

#[test]
fn a_name_in_use_is_never_adopted() {
    isolated(|| {
        sh("ip link add taken type veth; ip tuntap add persistent mode tun");
        let _held = TunDevice::open("held", TunOptions { queues: 2, ..OFFLOAD }).unwrap();
        for name in ["taken", "persistent", "held", "lo"] {
            for options in [PLAIN, OFFLOAD, TunOptions { queues: 2, ..OFFLOAD }] {
                let error = TunDevice::open(name, options).unwrap_err();
                assert!(matches!(&error, TunError::NameInUse(used) if used == name), "{error:?}");
            }
        }
    });
}

#[test]
fn without_the_device_node_the_sentence_says_so() {
    isolated(|| {
        sh("mount -t tmpfs none /dev/net");
        for options in [PLAIN, OFFLOAD] {
            let error = TunDevice::open("gin0", options).unwrap_err();
            assert!(matches!(error, TunError::NoDeviceNode), "{error:?}");
        }
        assert_eq!(sh("ls /dev/net"), "", "the missing node was made");
        sh("touch /dev/net/tun");
        assert!(matches!(TunDevice::open("gin0", PLAIN).unwrap_err(), TunError::Kernel(..)));
    });
}

#[test]
fn without_the_capability_the_sentence_names_it() {
    isolated(|| {
        drop_net_admin();
        for options in [PLAIN, OFFLOAD] {
            let error = TunDevice::open("gin0", options).unwrap_err();
            assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        }
    });
}
