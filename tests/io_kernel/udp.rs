use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use ginnel::forward::{Known, Version};
use ginnel::io::udp::{Family, MAX_SOURCES, MAX_TAGS, RecvBatch, UdpOptions, UdpPort};
use ginnel::wire::stun::CheckTag;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::namespace::{Neighbour, isolated, sh};

fn collect(port: &UdpPort, family: Family, bytes: usize) -> (Vec<usize>, SocketAddr) {
    let mut batch = RecvBatch::new();
    let mut lengths = Vec::new();
    let mut sender = None;
    while lengths.iter().sum::<usize>() < bytes {
        let fd = port.queues()[0].fd(family).unwrap();
        let mut poll = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1), "only {lengths:?} came");
        port.queues()[0].recv(family, &mut batch).unwrap();
        for mut received in batch.received() {
            sender = Some(received.from);
            lengths.extend(received.datagrams().map(|datagram| datagram.len()));
        }
    }
    (lengths, sender.unwrap())
}

fn neighbours() -> Neighbour {
    let neighbour = Neighbour::on_lan();
    sh("ip addr add 192.168.5.1/24 dev lan; ip addr add fd05::1/64 dev lan nodad");
    neighbour.sh("ip addr add 192.168.5.2/24 dev lan; ip addr add fd05::2/64 dev lan nodad");
    neighbour
}

#[test]
fn runs_cross_a_link_in_both_families() {
    isolated(|| {
        let neighbour = neighbours();
        let there =
            neighbour.spawn(|| UdpPort::bind(UdpOptions::default()).unwrap()).join().unwrap();
        let here = UdpPort::bind(UdpOptions { mark: Some(0x67), ..UdpOptions::default() }).unwrap();
        for (family, host) in [(Family::V4, "192.168.5.2"), (Family::V6, "fd05::2")] {
            let to = SocketAddr::new(host.parse().unwrap(), there.port());
            here.send(to, &[5; 70_000], Some(1_312)).unwrap();
            let (lengths, from) = collect(&there, family, 70_000);
            assert_eq!(lengths.len(), 70_000_usize.div_ceil(1_312));
            assert_eq!(from.port(), here.port());
            assert!(here.queues()[0].gso(family));
        }
    });
}

#[test]
fn datagrams_above_the_mtu_of_a_link_arrive_in_fragments_and_leave_gso_on() {
    isolated(|| {
        let neighbour = neighbours();
        sh("ip link set lan mtu 1280");
        neighbour.sh("ip link set lan mtu 1280");
        let there =
            neighbour.spawn(|| UdpPort::bind(UdpOptions::default()).unwrap()).join().unwrap();
        let here = UdpPort::bind(UdpOptions::default()).unwrap();
        let to = SocketAddr::new("192.168.5.2".parse().unwrap(), there.port());
        here.send(to, &[5; 4_500], Some(1_400)).unwrap();
        assert_eq!(collect(&there, Family::V4, 4_500).0, [1_400, 1_400, 1_400, 300]);
        here.send(to, &[5; 1_400], None).unwrap();
        assert_eq!(collect(&there, Family::V4, 1_400).0, [1_400]);
        assert!(here.queues()[0].gso(Family::V4));
    });
}

#[test]
fn a_probe_is_not_fragmented_and_what_is_sent_after_it_may_be() {
    isolated(|| {
        let neighbour = neighbours();
        sh("ip link set lan mtu 1280");
        neighbour.sh("ip link set lan mtu 1280");
        let there =
            neighbour.spawn(|| UdpPort::bind(UdpOptions::default()).unwrap()).join().unwrap();
        let here = UdpPort::bind(UdpOptions::default()).unwrap();
        for (family, host, most) in
            [(Family::V4, "192.168.5.2", 1_252), (Family::V6, "fd05::2", 1_232)]
        {
            let to = SocketAddr::new(host.parse().unwrap(), there.port());
            here.send_whole(to, &vec![5; most + 4]).unwrap_err();
            here.send_whole(to, &vec![5; most]).unwrap();
            assert_eq!(collect(&there, family, most).0, [most]);
        }
        let to = SocketAddr::new("192.168.5.2".parse().unwrap(), there.port());
        here.send(to, &[5; 1_400], None).unwrap();
        assert_eq!(collect(&there, Family::V4, 1_400).0, [1_400]);
    });
}

#[test]
fn what_the_network_refuses_is_an_error_of_one_datagram() {
    isolated(|| {
        let neighbour = neighbours();
        let there =
            neighbour.spawn(|| UdpPort::bind(UdpOptions::default()).unwrap()).join().unwrap();
        let here = UdpPort::bind(UdpOptions::default()).unwrap();
        sh("ip route add unreachable 10.66.0.0/16; ip route add prohibit 10.67.0.0/16");
        for nowhere in ["10.66.0.1:9", "10.67.0.1:9", "203.0.113.9:9", "[fd99::1]:9"] {
            assert!(here.send(nowhere.parse().unwrap(), &[1; 3_000], Some(1_000)).is_err());
            assert!(here.send(nowhere.parse().unwrap(), &[1; 100], None).is_err());
        }
        neighbour.sh(
            "nft add table ip t; nft add chain ip t i \"{ type filter hook input priority 0; }\"; \
             nft add rule ip t i udp dport 9 reject with icmp type admin-prohibited",
        );
        for _ in 0..5 {
            here.send("192.168.5.2:9".parse().unwrap(), b"x", None).unwrap();
        }
        assert_eq!(here.queues()[0].recv(Family::V4, &mut RecvBatch::new()).unwrap(), 0);
        for (family, host) in [(Family::V4, "192.168.5.2"), (Family::V6, "fd05::2")] {
            let to = SocketAddr::new(host.parse().unwrap(), there.port());
            here.send(to, &[1; 3_000], Some(1_000)).unwrap();
            assert_eq!(collect(&there, family, 3_000).0, [1_000; 3]);
            assert!(here.queues()[0].gso(family));
        }
    });
}

#[test]
fn a_host_with_ipv6_switched_off_has_ipv4() {
    isolated(|| {
        sh("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
        let (a, b) = (UdpPort::bind(UdpOptions::default()), UdpPort::bind(UdpOptions::default()));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!(a.send("[fd05::2]:9".parse().unwrap(), b"x", None).is_err());
        a.send(SocketAddr::from(([127, 0, 0, 1], b.port())), b"x", None).unwrap();
        assert_eq!(collect(&b, Family::V4, 1).0, [1]);
    });
}

#[test]
fn strangers_are_sifted_however_often_whoever_is_known_changes_and_on_older_kernels_too() {
    isolated(|| {
        // What Linux before 6.8 gives a socket; where it is not a namespace's own, there is more.
        sh("sysctl -qw net.core.optmem_max=20480 || true");
        let [here, there] = [(); 2].map(|()| UdpPort::bind(UdpOptions::default()).unwrap());
        let socket = &there.queues()[0];
        let tags: Vec<_> = (0..MAX_TAGS as u64).map(|tag| CheckTag(tag.to_be_bytes())).collect();
        let sources: Vec<_> =
            (0..MAX_SOURCES as u32).map(|host| Ipv4Addr::from_bits(host << 8).into()).collect();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, there.port()));
        let version = Version::default();
        for (tags, sources) in [
            (&tags[..], &sources[..]),
            (&tags, &sources[..1000]),
            (&tags, &[]),
            (&tags[..300], &sources[..300]),
            (&[], &sources),
        ] {
            let known = Known { tags: Some(tags.to_vec()), sources: sources.to_vec(), version };
            let (tags, sources) = (tags.len(), sources.len());
            for time in 0..10 {
                let sifted = socket.sift(Family::V4, &known, 32);
                sifted.unwrap_or_else(|error| panic!("{tags}, {sources}, {time}: {error}"));
                here.send(to, &[7; 100], None).unwrap();
            }
        }
        socket.take_all();
        here.send(to, &[7; 10], None).unwrap();
        assert_eq!(collect(&there, Family::V4, 10).0, [10]);
    });
}
