//! ```text
//! host 10.1.0.2/24 ── lan ── 10.1.0.1/24 router, 11.0.0.11/32 outside, miniupnpd
//! ```
//! The host is the test's own namespace. miniupnpd refuses private and documentation addresses as
//! its outside, hence 11.0.0.11, which never leaves the namespace.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ginnel::io::netlink::Netlink;
use ginnel::io::portmap::{Kind, PortMapEvent, PortMapper};
use tokio::sync::mpsc::Receiver;

use crate::namespace::{Neighbour, isolated, isolated_async, sh};

const PORT: u16 = 41_641;

/// A router without any port mapping protocol, and our way through it.
fn router() -> Neighbour {
    let router = Neighbour::on_lan();
    sh("ip addr add 10.1.0.2/24 dev lan; ip route add default via 10.1.0.1");
    router.sh("ip addr add 10.1.0.1/24 dev lan; ip link add wan type veth peer name isp; \
         ip link set wan up; ip link set isp up; ip addr add 11.0.0.11/32 dev wan; \
         echo 1 > /proc/sys/net/ipv4/ip_forward");
    router
}

/// Starts miniupnpd; the folder holds its files.
fn miniupnpd(router: &Neighbour, upnp: &str, natpmp: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let conf: PathBuf = folder.path().join("conf");
    let text = format!(
        "ext_ifname=wan\nlistening_ip=lan\next_ip=11.0.0.11\nenable_upnp={upnp}\n\
         enable_natpmp={natpmp}\nsecure_mode=yes\nuuid=00000000-0000-0000-0000-000000000001\n\
         allow 1024-65535 10.1.0.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
    );
    std::fs::write(&conf, text).unwrap();
    let rules = folder.path().join("rules");
    std::fs::write(
        &rules,
        "table inet filter {
           chain miniupnpd { }
           chain prerouting_miniupnpd { }
           chain postrouting_miniupnpd { }
           chain forward { type filter hook forward priority 0; jump miniupnpd; }
           chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
           chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd; }
         }",
    )
    .unwrap();
    router.sh(&format!("nft -f {}", rules.display()));
    let (pid, log) = (folder.path().join("pid"), folder.path().join("log"));
    router.sh(&format!(
        "miniupnpd -d -f {} -P {} >{} 2>&1 </dev/null &",
        conf.display(),
        pid.display(),
        log.display()
    ));
    let start = Instant::now();
    while router.sh("ss -Hlun").matches(if natpmp == "yes" { ":5351" } else { ":1900" }).count()
        == 0
    {
        assert!(start.elapsed() < Duration::from_secs(5), "miniupnpd does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    folder
}

async fn start() -> (PortMapper, Receiver<PortMapEvent>) {
    let (mut mapper, events) = PortMapper::start([5; 32]);
    let snapshot = Netlink::new().unwrap().snapshot(&[]).await.unwrap();
    assert_eq!(snapshot.gateways().len(), 1);
    mapper.network_changed(snapshot.gateways());
    mapper.set(PORT, true);
    (mapper, events)
}

async fn next(events: &mut Receiver<PortMapEvent>) -> Option<PortMapEvent> {
    tokio::time::timeout(Duration::from_secs(8), events.recv()).await.ok().flatten()
}

fn rules(router: &Neighbour) -> String {
    router.sh("nft list chain inet filter prerouting_miniupnpd")
}

async fn a_mapping_lives_as_long_as_the_agent(upnp: &str, natpmp: &str, kind: Kind) {
    let router = router();
    let _daemon = miniupnpd(&router, upnp, natpmp);
    let (mapper, mut events) = start().await;
    let external = "11.0.0.11:41641".parse().unwrap();
    let mapped = PortMapEvent::Mapped { port: PORT, kind, external };
    assert_eq!(next(&mut events).await, Some(mapped));
    let seen = rules(&router);
    assert!(seen.contains("41641") && seen.contains("10.1.0.2"), "{seen}");
    let start = Instant::now();
    mapper.shutdown().await;
    assert!(start.elapsed() < Duration::from_millis(1_500));
    assert_eq!(next(&mut events).await, Some(PortMapEvent::Lost { port: PORT, kind }));
    let seen = rules(&router);
    assert!(!seen.contains("41641"), "{seen}");
}

#[test]
fn a_pcp_mapping_lives_as_long_as_the_agent() {
    isolated_async(|| a_mapping_lives_as_long_as_the_agent("yes", "yes", Kind::Pcp));
}

#[test]
fn a_upnp_mapping_lives_as_long_as_the_agent() {
    isolated_async(|| a_mapping_lives_as_long_as_the_agent("yes", "no", Kind::Upnp));
}

#[test]
fn datagrams_from_outside_arrive_through_the_mapping() {
    isolated_async(|| async {
        let router = router();
        let _daemon = miniupnpd(&router, "yes", "yes");
        let outside = Neighbour(format!("{}-out", router.0));
        sh(&format!("ip netns add {0}; ip -n {1} link set isp netns {0}", outside.0, router.0));
        outside.sh(
            "ip link set isp up; ip addr add 11.0.0.99/32 dev isp; ip route add 11.0.0.11 dev isp",
        );
        router.sh("ip route add 11.0.0.99 dev wan");
        let (mapper, mut events) = start().await;
        let Some(PortMapEvent::Mapped { external, .. }) = next(&mut events).await else {
            panic!("not mapped");
        };
        let socket = UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let knock = move || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"knock", external);
        outside.spawn(knock).join().unwrap().unwrap();
        let mut buffer = [0; 10];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from.ip()), (&b"knock"[..], "11.0.0.99".parse().unwrap()));
        mapper.shutdown().await;
    });
}

#[test]
fn the_mapping_of_a_killed_agent_is_taken_over_by_the_next() {
    isolated_async(|| async {
        let router = router();
        let _daemon = miniupnpd(&router, "yes", "yes");
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let killed = std::thread::spawn(move || {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), None).unwrap();
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            // Dropping the runtime stops the tasks where they are.
            runtime.enable_all().build().unwrap().block_on(async {
                let (mapper, mut events) = start().await;
                let event = next(&mut events).await;
                std::mem::forget(mapper);
                event
            })
        });
        let before = killed.join().unwrap();
        assert!(before.is_some());
        assert!(rules(&router).contains("41641"), "the kill removed the mapping");
        let (mapper, mut events) = start().await;
        assert_eq!(next(&mut events).await, before);
        mapper.shutdown().await;
        assert!(!rules(&router).contains("41641"));
    });
}

#[test]
fn a_gateway_that_leaves_is_told_and_one_that_forgot_is_asked_again() {
    isolated_async(|| async {
        let router = router();
        let daemon = miniupnpd(&router, "yes", "yes");
        let (mut mapper, mut events) = start().await;
        let mapped = next(&mut events).await;
        let snapshot = Netlink::new().unwrap().snapshot(&[]).await.unwrap();
        mapper.network_changed(Vec::new());
        assert_eq!(
            next(&mut events).await,
            Some(PortMapEvent::Lost { port: PORT, kind: Kind::Pcp })
        );
        mapper.network_changed(snapshot.gateways());
        assert_eq!(next(&mut events).await, mapped);
        // A flap: the old mapping's removal must not overtake the new one's making.
        mapper.network_changed(Vec::new());
        mapper.network_changed(snapshot.gateways());
        assert_eq!(
            next(&mut events).await,
            Some(PortMapEvent::Lost { port: PORT, kind: Kind::Pcp })
        );
        assert_eq!(next(&mut events).await, mapped);
        assert!(rules(&router).contains("41641"));

        let pid = std::fs::read_to_string(daemon.path().join("pid")).unwrap();
        router.sh(&format!("kill -9 {}; nft delete table inet filter", pid.trim()));
        let _daemon = miniupnpd(&router, "yes", "yes");
        mapper.refresh();
        let start = Instant::now();
        while !rules(&router).contains("41641") {
            assert!(start.elapsed() < Duration::from_secs(8), "not mapped again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        mapper.set(PORT, false);
        assert_eq!(
            next(&mut events).await,
            Some(PortMapEvent::Lost { port: PORT, kind: Kind::Pcp })
        );
        mapper.shutdown().await;
        assert!(!rules(&router).contains("41641"));
    });
}

#[test]
fn a_router_that_maps_nothing_gives_no_news_and_no_delay() {
    isolated_async(|| async {
        let router = router();
        // Silence is worse than a refusal.
        router.sh(
            "nft add table ip t; nft add chain ip t i \"{ type filter hook input priority 0; }\"; \
             nft add rule ip t i meta l4proto { tcp, udp } drop",
        );
        let (mapper, mut events) = start().await;
        let early = tokio::time::timeout(Duration::from_millis(2_500), events.recv()).await;
        assert!(early.is_err(), "{early:?}");
        let start = Instant::now();
        mapper.shutdown().await;
        assert!(start.elapsed() < Duration::from_millis(200));
    });
}

/// NAT-PMP alone (RFC 6886): PCP is answered with "unsupported version", version 0.
fn serve_nat_pmp(socket: &UdpSocket, requests: &mut Vec<Vec<u8>>) {
    let mut buffer = [0; 1_100];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        let request = &buffer[..len];
        let mut answer = vec![0, 128 | request[1], 0, 0, 0, 0, 0, 9];
        match request[..2] {
            [0, 0] => answer.extend([11, 0, 0, 11]),
            [0, 1] => {
                requests.push(request.to_vec());
                answer.extend(&request[4..6]);
                let removal = request[8..12] == [0; 4];
                // Always another port outside than the one that was asked for.
                answer.extend(if removal { [0, 0] } else { [0x12, 0x34] });
                answer.extend(&request[8..12]);
            }
            _ => answer[3] = 1,
        }
        socket.send_to(&answer, from).unwrap();
        if requests.len() == 2 {
            return;
        }
    }
}

#[test]
fn a_router_that_only_speaks_nat_pmp_is_understood() {
    isolated_async(|| async {
        let router = router();
        let (ready, started) = std::sync::mpsc::channel();
        let server = router.spawn(move || {
            let socket = UdpSocket::bind("10.1.0.1:5351").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
            ready.send(()).unwrap();
            let mut requests = Vec::new();
            serve_nat_pmp(&socket, &mut requests);
            requests
        });
        started.recv().unwrap();
        let (mapper, mut events) = start().await;
        let external = "11.0.0.11:4660".parse().unwrap();
        let mapped = PortMapEvent::Mapped { port: PORT, kind: Kind::NatPmp, external };
        assert_eq!(next(&mut events).await, Some(mapped));
        mapper.shutdown().await;
        let requests = server.join().unwrap();
        assert_eq!(requests[0][8..], 3_600_u32.to_be_bytes());
        assert_eq!(requests[1][8..], [0; 4], "the mapping was not removed");
    });
}

/// Answers the first SSDP search with `location`, from `address`.
fn answer_search(address: &str, location: &str) {
    let socket = UdpSocket::bind("0.0.0.0:1900").unwrap();
    let group = "239.255.255.250".parse().unwrap();
    socket.join_multicast_v4(&group, &address.parse().unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = [0; 1_500];
    let (_, from) = socket.recv_from(&mut buffer).unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
         LOCATION: {location}\r\n\r\n"
    );
    socket.send_to(answer.as_bytes(), from).unwrap();
}

/// Serves `body` to whoever asks within 3 s, and says what was asked and how much was taken.
fn serve_http(address: &str, body: Vec<u8>) -> Vec<(String, usize)> {
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let limit = Instant::now() + Duration::from_secs(3);
    let mut served = Vec::new();
    while Instant::now() < limit {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut request = [0; 2_000];
        let len = stream.read(&mut request).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut taken = 0;
        if stream.write_all(head.as_bytes()).is_ok() {
            for chunk in body.chunks(65_536) {
                if stream.write_all(chunk).is_err() {
                    break;
                }
                taken += chunk.len();
            }
        }
        served.push((String::from_utf8_lossy(&request[..len]).into_owned(), taken));
    }
    served
}

/// What the hostile answer made us ask for, at the address it named.
fn asked(location: &'static str, server: &'static str, body: Vec<u8>) -> Vec<(String, usize)> {
    let router = router();
    router.sh("ip addr add 10.1.0.66/24 dev lan");
    let web = router.spawn(move || serve_http(server, body));
    let ssdp = router.spawn(move || answer_search("10.1.0.1", location));
    let limit = Instant::now() + Duration::from_secs(5);
    while !router.sh("ss -Hlun").contains(":1900 ") || !router.sh("ss -Hltn").contains(server) {
        assert!(Instant::now() < limit, "the hostile router does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(async {
        let (mapper, mut events) = start().await;
        let early = tokio::time::timeout(Duration::from_millis(2_200), events.recv()).await;
        assert!(early.is_err(), "{early:?}");
        mapper.shutdown().await;
    });
    ssdp.join().unwrap();
    web.join().unwrap()
}

#[test]
fn a_location_elsewhere_is_never_asked() {
    // A namespace each: the kernel removes the links of the one before some time after it is gone.
    for location in ["http://10.1.0.66:80/x", "http://127.0.0.1:80/", "http://user@10.1.0.66:80/"] {
        isolated(move || {
            assert_eq!(asked(location, "10.1.0.66:80", b"<root/>".to_vec()), []);
        });
    }
}

#[test]
fn ten_mebibytes_of_xml_are_not_taken() {
    isolated(|| {
        let mut body = b"<?xml version=\"1.0\"?><root>".to_vec();
        body.resize(10 << 20, b'x');
        let served = asked("http://10.1.0.1:81/d.xml", "10.1.0.1:81", body);
        assert_eq!(served.len(), 1);
        assert!(served[0].1 < 8 << 20, "{} bytes were taken", served[0].1);
    });
}

#[test]
fn line_breaks_in_a_control_url_inject_nothing_and_go_nowhere_else() {
    isolated(|| {
        let body = b"<?xml version=\"1.0\"?><root><device><serviceList><service>\
            <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
            <SCPDURL>/s.xml&#13;&#10;X-Injected: 1</SCPDURL>\
            <controlURL>/c&#13;&#10;X-Injected: 1</controlURL>\
            </service></serviceList></device></root>";
        for (request, _) in asked("http://10.1.0.1:82/d.xml", "10.1.0.1:82", body.to_vec()) {
            assert!(!request.contains("\nX-Injected"), "{request}");
        }
    });
}
