use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use ginnel::io::netlink::{InterfaceSettings, Netlink, NetlinkError};
use ginnel::io::tun::{TunDevice, TunOptions};

use crate::namespace::{Neighbour, drop_net_admin, isolated_async, sh};

fn device() -> TunDevice {
    TunDevice::open("gin0", TunOptions { mtu: 1_300, offload: true, queues: 1 }).unwrap()
}

fn settings() -> InterfaceSettings {
    InterfaceSettings {
        ipv6: ("fd11:2233:4455::7".parse().unwrap(), 48),
        ipv4: Some(("10.71.3.9".parse().unwrap(), 16)),
        mtu: 1_280,
        routes: vec![
            ("192.168.77.1".parse().unwrap(), 24),
            ("fd77::".parse::<IpAddr>().unwrap(), 64),
        ],
    }
}

fn own() -> Vec<String> {
    vec!["gin0".to_owned()]
}

#[test]
fn an_interface_is_usable_at_once_and_configuring_it_again_changes_nothing() {
    isolated_async(|| async {
        let _device = device();
        let netlink = Netlink::new().unwrap();
        netlink.configure("gin0", &settings()).await.unwrap();
        // Usable: no duplicate address detection stands in the way of a bind.
        UdpSocket::bind("[fd11:2233:4455::7]:0").unwrap();
        UdpSocket::bind("10.71.3.9:0").unwrap();
        let seen = || sh("ip -d link show gin0; ip addr show gin0; ip route; ip -6 route");
        let first = seen();
        for part in [
            "mtu 1280",
            "UP",
            "addrgenmode none",
            "gso_max_segs 49",
            "10.71.3.9/16",
            "fd11:2233:4455::7/48",
            "10.71.0.0/16 dev gin0",
            "192.168.77.0/24 dev gin0",
            "fd77::/64 dev gin0",
            "fd11:2233:4455::/48 dev gin0",
        ] {
            assert!(first.contains(part), "{part} is missing in\n{first}");
        }
        for part in ["tentative", "fe80"] {
            assert!(!first.contains(part), "{part} is in\n{first}");
        }
        netlink.configure("gin0", &settings()).await.unwrap();
        assert_eq!(seen(), first);
    });
}

#[test]
fn what_is_stale_goes() {
    isolated_async(|| async {
        let _device = device();
        let netlink = Netlink::new().unwrap();
        netlink.configure("gin0", &settings()).await.unwrap();
        let wanted = InterfaceSettings {
            // The same address under another prefix length, too.
            ipv6: ("fd11:2233:4455::7".parse().unwrap(), 64),
            ipv4: None,
            mtu: 1_400,
            routes: vec![("fd78::".parse().unwrap(), 64)],
        };
        netlink.configure("gin0", &wanted).await.unwrap();
        let seen = sh("ip addr show gin0; ip route; ip -6 route");
        for part in ["mtu 1400", "fd11:2233:4455::7/64", "fd78::/64 dev gin0"] {
            assert!(seen.contains(part), "{part} is missing in\n{seen}");
        }
        for part in ["10.71", "192.168.77", "fd77", "/48"] {
            assert!(!seen.contains(part), "{part} is in\n{seen}");
        }
    });
}

#[test]
fn a_route_of_another_link_is_left_alone_and_the_rest_is_done() {
    isolated_async(|| async {
        let _neighbour = Neighbour::on_lan();
        sh("ip route add 192.168.77.0/24 dev lan");
        let _device = device();
        let netlink = Netlink::new().unwrap();
        let error = netlink.configure("gin0", &settings()).await.unwrap_err();
        assert!(matches!(error, NetlinkError::RouteTaken(..)), "{error:?}");
        assert!(sh("ip route").contains("192.168.77.0/24 dev lan"));
        assert!(sh("ip -6 route").contains("fd77::/64 dev gin0"));
    });
}

#[test]
fn links_that_are_not_there_and_powers_that_we_lack_are_named() {
    isolated_async(|| async {
        let netlink = Netlink::new().unwrap();
        let error = netlink.configure("gin9", &settings()).await.unwrap_err();
        assert!(matches!(&error, NetlinkError::NoSuchLink(name) if name == "gin9"), "{error:?}");
        netlink.remove_link("gin9").await.unwrap();
        sh("ip link add gin8 type veth");
        netlink.remove_link("gin8").await.unwrap();
        assert!(!sh("ip -o link").contains("gin8"));
        sh("ip link add gin8 type veth");
        drop_net_admin();
        let error = netlink.configure("gin8", &settings()).await.unwrap_err();
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}

#[test]
fn ipv6_is_switched_on_for_our_link_alone() {
    isolated_async(|| async {
        sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
        let _device = device();
        let netlink = Netlink::new().unwrap();
        netlink.configure("gin0", &settings()).await.unwrap();
        UdpSocket::bind("[fd11:2233:4455::7]:0").unwrap();
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/default/disable_ipv6").trim(), "1");
    });
}

#[test]
fn the_snapshot_is_the_host_without_loopback_and_our_own_links() {
    isolated_async(|| async {
        let _neighbour = Neighbour::on_lan();
        let _device = device();
        sh("ip addr add 192.168.1.7/24 dev lan; ip addr add 2001:db8::7/64 dev lan nodad; \
            ip link add off type veth; ip addr add 10.5.5.5/8 dev off; \
            ip route add default via 192.168.1.1; \
            ip route add default via 192.168.1.2 metric 50; \
            ip -6 route add default via 2001:db8::1");
        let netlink = Netlink::new().unwrap();
        netlink.configure("gin0", &settings()).await.unwrap();
        let snapshot = netlink.snapshot(&own()).await.unwrap();
        let seen: Vec<_> = snapshot
            .addresses
            .iter()
            .filter(|address| !address.ip.to_string().starts_with("fe80"))
            .map(|a| format!("{} {}/{} {} {}", a.link_name, a.ip, a.prefix_len, a.mtu, a.up))
            .collect();
        assert_eq!(
            seen,
            [
                "lan 192.168.1.7/24 1500 true",
                "lan 2001:db8::7/64 1500 true",
                "off 10.5.5.5/8 1500 false"
            ]
        );
        assert_eq!(snapshot.has_default_route(), (true, true));
        let routers: Vec<_> =
            snapshot.gateways().iter().map(|g| format!("{} {}", g.local, g.router)).collect();
        assert_eq!(routers, ["192.168.1.7 192.168.1.1", "192.168.1.7 192.168.1.2"]);
    });
}

#[test]
fn a_pool_that_the_host_uses_is_found_by_address_and_by_route() {
    isolated_async(|| async {
        let _neighbour = Neighbour::on_lan();
        let _device = device();
        sh("ip addr add 10.5.5.5/16 dev lan; ip route add 10.200.0.0/20 via 10.5.0.1; \
            ip route add default via 10.5.0.1; ip route add 0.0.0.0/1 via 10.5.0.1");
        let netlink = Netlink::new().unwrap();
        netlink.configure("gin0", &settings()).await.unwrap();
        let overlap = async |pool: &str, len| {
            netlink.overlap(pool.parse().unwrap(), len, &own()).await.unwrap()
        };
        assert_eq!(overlap("10.71.0.0", 16).await, None);
        assert_eq!(overlap("10.5.128.0", 24).await.unwrap(), "10.5.5.5/16 on lan");
        assert!(overlap("10.200.0.0", 16).await.unwrap().contains("10.200.0.0/20 by lan"));
        assert!(overlap("10.0.0.0", 8).await.is_some());
    });
}

#[test]
fn a_change_is_told_once_and_soon() {
    isolated_async(|| async {
        let mut changes = Netlink::watch().unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(300), changes.changed()).await;
        assert!(quiet.is_err(), "told of no change");
        let start = Instant::now();
        sh("ip link add d0 type veth; ip addr add 10.5.5.5/16 dev d0; ip link set d0 up");
        // Dropped in the middle, as a select loop does.
        for _ in 0..3 {
            tokio::time::timeout(Duration::from_millis(10), changes.changed()).await.ok();
        }
        tokio::time::timeout(Duration::from_secs(2), changes.changed()).await.unwrap().unwrap();
        assert!(start.elapsed() < Duration::from_secs(1));
        let quiet = tokio::time::timeout(Duration::from_millis(300), changes.changed()).await;
        assert!(quiet.is_err(), "told twice");
    });
}

#[test]
fn a_network_that_never_rests_is_told_of_all_the_same() {
    isolated_async(|| async {
        sh("ip link add d0 type veth; ip link set d0 up");
        let mut changes = Netlink::watch().unwrap();
        let noise = std::thread::spawn({
            let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            move || {
                use std::os::fd::AsFd;
                rustix::thread::move_into_link_name_space(namespace.as_fd(), None).unwrap();
                sh("for i in $(seq 150); do ip addr add 10.5.5.$i/32 dev d0; done");
            }
        });
        tokio::time::timeout(Duration::from_secs(2), changes.changed()).await.unwrap().unwrap();
        noise.join().unwrap();
    });
}
