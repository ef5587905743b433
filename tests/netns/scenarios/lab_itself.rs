//! The lab does what it says: without this, a green scenario proves nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Scenario;
use crate::lab::lan::{Lan, Plan, Router};
use crate::lab::namespace::Namespace;
use crate::lab::nat::Nat;
use crate::lab::traffic::{ping, round_trip};
use crate::lab::upnp::PortMapper;
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("lab_two_lines_are_25_ms_apart_one_way", delay),
    ("lab_internet_takes_one_hop_of_the_ttl", hops),
    ("lab_internet_loses_the_share_it_is_told_to", loss),
    ("lab_each_nat_maps_and_filters_as_named", nat_kinds),
    ("lab_carrier_grade_nat_is_a_nat_behind_a_nat", carrier_grade),
    ("lab_holes_can_be_punched_where_theory_says_so", punching),
    ("lab_udp_blocked_router_lets_only_tcp_443_out", udp_blocked),
    ("lab_ipv6_is_routed_and_stateful", ipv6),
    ("lab_changed_wan_address_is_the_new_source", changed_wan),
    ("lab_miniupnpd_maps_a_port", natpmp),
    ("lab_hosts_without_a_router_reach_only_each_other", isolated),
    ("lab_coturn_tells_the_public_address", coturn),
];

/// How long to wait for what must come, on a machine that does other work beside.
const CERTAIN: Duration = Duration::from_secs(5);

/// How often a reflector is asked within that time.
const QUESTIONS: u32 = 10;

/// A reply that did not come within this does not come: four times the round trip.
const PATIENCE: Duration = Duration::from_millis(200);

/// ```text
/// public1 ── Internet ── public2
/// ```
fn delay(world: &mut World) -> Result<()> {
    let (one, _) = public(world, "public1")?;
    let (_two, two_address) = public(world, "public2")?;
    let mean = round_trip(&one, two_address.into(), 10)?;
    let milliseconds = mean.as_secs_f64() * 1000.0;
    ensure!((49.5..65.0).contains(&milliseconds), "the round trip is {milliseconds} ms, not 50");
    Ok(())
}

/// As [`delay`].
fn hops(world: &mut World) -> Result<()> {
    let (one, _) = public(world, "public1")?;
    let (_two, two_address) = public(world, "public2")?;
    let sent_with = |ttl: &str| {
        let to = two_address.to_string();
        one.command(
            std::process::Command::new("ping").args(["-c", "1", "-W", "1", "-t", ttl, &to]),
            Duration::from_secs(5),
        )
    };
    ensure!(sent_with("1")?.code == Some(1), "a packet with TTL 1 crossed the Internet");
    ensure!(sent_with("2")?.code == Some(0), "a packet with TTL 2 did not cross the Internet");
    Ok(())
}

/// As [`delay`].
fn loss(world: &mut World) -> Result<()> {
    let (one, _) = public(world, "public1")?;
    let (_two, two_address) = public(world, "public2")?;
    world.internet.lose(50);
    let answered = ping(&one, two_address.into(), 40)?;
    ensure!((2..25).contains(&answered), "{answered} of 40 pings survived 50 % loss each way");
    world.internet.lose(0);
    ensure!(ping(&one, two_address.into(), 5)? == 5, "packets are lost without being told to");
    Ok(())
}

/// ```text
/// host ── Router(kind) ── Internet ── reflector1 (two ports)
///                                └─── reflector2
/// ```
fn nat_kinds(world: &mut World) -> Result<()> {
    let reflectors = Reflectors::new(world)?;
    let expected = [
        (Nat::PortRestricted, "endpoint-independent mapping, address and port must match"),
        (Nat::Symmetric, "endpoint-dependent mapping, address and port must match"),
        (Nat::FullCone, "endpoint-independent mapping, anybody may answer"),
        (Nat::AddressRestricted, "endpoint-independent mapping, the address must match"),
        (Nat::None, "no translation, anybody may answer"),
    ];
    for (nat, expected) in expected {
        let router = world.router("nat", nat)?;
        // Without translation the host needs a public address of its own.
        let host = if nat == Nat::None { public(world, "host")?.0 } else { inside(&router.lan)? };
        let found = reflectors.classify(&host)?;
        ensure!(found == expected, "{nat:?} is {found}, not {expected}");
    }
    Ok(())
}

/// ```text
/// host ── Router(port-restricted) ── 100.64.0.0/24 ── Router(port-restricted) ── Internet
/// ```
fn carrier_grade(world: &mut World) -> Result<()> {
    let reflectors = Reflectors::new(world)?;
    let (outer, inner) = behind_carrier(world)?;
    let host = inside(&inner.lan)?;
    let mapped = reflectors.mapped(&host)?;
    ensure!(mapped.ip() == IpAddr::V4(outer.wan()), "seen as {mapped}, not as {}", outer.wan());
    ensure!(inner.wan().octets()[0] == 100, "the inner WAN address is {}", inner.wan());
    let found = reflectors.classify(&host)?;
    ensure!(
        found == "endpoint-independent mapping, address and port must match",
        "two port-restricted NATs in a row are {found}"
    );
    Ok(())
}

fn behind_carrier(world: &World) -> Result<(Router, Router)> {
    let plan = Plan { label: "cgn", nat: Nat::PortRestricted, subnet: [100, 64, 0], prefix: None };
    let outer = Router::new(&world.internet, world.fresh_address(), &plan)?;
    let plan =
        Plan { label: "home", nat: Nat::PortRestricted, subnet: [192, 168, 1], prefix: None };
    let inner = Router::behind(&outer.lan, &plan)?;
    Ok((outer, inner))
}

/// ```text
/// a ── Router(kind) ── Internet ── Router(kind) ── b
///                         └─ reflectors
/// ```
fn punching(world: &mut World) -> Result<()> {
    let reflectors = Reflectors::new(world)?;
    let cases = [
        (Nat::PortRestricted, Nat::PortRestricted, true),
        (Nat::Symmetric, Nat::FullCone, true),
        (Nat::Symmetric, Nat::AddressRestricted, true),
        (Nat::Symmetric, Nat::PortRestricted, false),
        (Nat::Symmetric, Nat::Symmetric, false),
    ];
    for (left, right, possible) in cases {
        let (one, two) = (world.router("left", left)?, world.router("right", right)?);
        let (a, b) = (inside(&one.lan)?, inside(&two.lan)?);
        let done = reflectors.punch(&a, &b)?;
        ensure!(done == possible, "punching {left:?} with {right:?}: {done}, expected {possible}");
    }
    Ok(())
}

/// ```text
/// host ── Router(UDP blocked) ── Internet ── server
/// ```
fn udp_blocked(world: &mut World) -> Result<()> {
    let router = world.router("office", Nat::UdpBlocked)?;
    let host = inside(&router.lan)?;
    let (server, address) = public(world, "server")?;
    let sink = server.run(|| UdpSocket::bind((address, 443)))?;
    sink.set_read_timeout(Some(PATIENCE))?;
    let source = host.run(|| UdpSocket::bind("0.0.0.0:0"))?;
    source.send_to(b"out", (address, 443))?;
    ensure!(sink.recv_from(&mut [0u8; 8]).is_err(), "UDP came through");
    let open = server.run(|| TcpListener::bind((address, 443)))?;
    let shut = server.run(|| TcpListener::bind((address, 80)))?;
    let connect = |port| {
        let to = SocketAddr::from((address, port));
        host.run(|| TcpStream::connect_timeout(&to, 3 * PATIENCE))
    };
    let through = host.run(|| TcpStream::connect_timeout(&(address, 443).into(), CERTAIN));
    ensure!(through.is_ok(), "TCP 443 does not come through");
    ensure!(connect(80).is_err(), "TCP 80 came through");
    drop((open, shut));
    Ok(())
}

/// ```text
/// host ── Router(port-restricted, IPv6 /64) ── Internet ── public
/// ```
fn ipv6(world: &mut World) -> Result<()> {
    let router = world.router_with_ipv6("home", Nat::PortRestricted, [192, 168, 7])?;
    let host = inside(&router.lan)?;
    let (server, _) = public(world, "server")?;
    let ours = global_ipv6(&host, "eth0")?;
    let theirs = global_ipv6(&server, "wan")?;
    ensure!(ping(&host, theirs, 3)? == 3, "IPv6 does not reach the Internet");
    ensure!(ping(&server, ours, 2)? == 0, "an unsolicited IPv6 ping came in");
    Ok(())
}

/// ```text
/// host ── Router(port-restricted, WAN address changes) ── Internet ── reflectors
/// ```
fn changed_wan(world: &mut World) -> Result<()> {
    let reflectors = Reflectors::new(world)?;
    let mut router = world.router("home", Nat::PortRestricted)?;
    let host = inside(&router.lan)?;
    let before = reflectors.mapped(&host)?;
    let fresh = world.fresh_address();
    router.change_wan(&world.internet, fresh)?;
    let after = reflectors.mapped(&host)?;
    ensure!(
        before.ip() != after.ip() && after.ip() == IpAddr::V4(fresh),
        "{before} became {after}"
    );
    Ok(())
}

/// ```text
/// host ── Router(port-restricted, miniupnpd) ── Internet ── public
/// ```
fn natpmp(world: &mut World) -> Result<()> {
    let router = world.router("home", Nat::PortRestricted)?;
    let _mapper = PortMapper::start(world, &router)?;
    let host = inside(&router.lan)?;
    let (server, _) = public(world, "server")?;
    let inner = host.run(|| UdpSocket::bind("0.0.0.0:5000"))?;
    inner.set_read_timeout(Some(CERTAIN))?;
    // RFC 6886: version 0, opcode 1 (map UDP), reserved, inner port, wanted outer port, lifetime.
    let request = [
        &[0u8, 1, 0, 0][..],
        &5000u16.to_be_bytes(),
        &6000u16.to_be_bytes(),
        &600u32.to_be_bytes(),
    ];
    let client = host.run(|| UdpSocket::bind("0.0.0.0:0"))?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    client.send_to(&request.concat(), (router.lan.gateway(), 5351))?;
    let mut answer = [0u8; 16];
    client.recv(&mut answer).context("miniupnpd does not answer NAT-PMP")?;
    ensure!(answer[..4] == [0, 129, 0, 0], "NAT-PMP refused: {answer:?}");
    ensure!(PortMapper::mappings(&router)?.len() == 1, "no rule was made");
    let outside = server.run(|| UdpSocket::bind("0.0.0.0:0"))?;
    outside.send_to(b"in", (router.wan(), 6000))?;
    inner.recv(&mut [0u8; 8]).context("a datagram through the mapping")?;
    Ok(())
}

/// ```text
/// a ── switch ── b
/// ```
fn isolated(_world: &mut World) -> Result<()> {
    let switch = Lan::isolated("switch", [192, 168, 1])?;
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    switch.connect(&a, "eth0")?;
    let address = switch.connect(&b, "eth0")?;
    ensure!(ping(&a, address.into(), 2)? == 2, "two hosts on a switch do not see each other");
    let socket = a.run(|| UdpSocket::bind("0.0.0.0:0"))?;
    ensure!(socket.send_to(b"x", "11.0.0.1:1").is_err(), "there is a way out of the switch");
    Ok(())
}

/// ```text
/// host ── Router(port-restricted) ── Internet ── coturn, coturn
/// ```
fn coturn(world: &mut World) -> Result<()> {
    world.add_stun()?;
    let router = world.router("home", Nat::PortRestricted)?;
    let host = inside(&router.lan)?;
    for server in world.stun_addresses() {
        let port = server.port().to_string();
        let answer = host.tool("turnutils_stunclient", &["-p", &port, &server.ip().to_string()])?;
        ensure!(answer.contains(&router.wan().to_string()), "{server} says {answer}");
    }
    Ok(())
}

fn public(world: &World, label: &str) -> Result<(Namespace, Ipv4Addr)> {
    let address = world.fresh_address();
    Ok((world.public_namespace(label, address)?, address))
}

fn inside(lan: &Lan) -> Result<Namespace> {
    let host = Namespace::new("host")?;
    lan.connect(&host, "eth0")?;
    Ok(host)
}

fn global_ipv6(namespace: &Namespace, interface: &str) -> Result<IpAddr> {
    let list =
        namespace.tool("ip", &["-6", "-o", "addr", "show", "dev", interface, "scope", "global"])?;
    let address = list.split_whitespace().skip_while(|word| *word != "inet6").nth(1);
    Ok(address.and_then(|text| text.split('/').next()).context("no IPv6 address")?.parse()?)
}

/// Two public addresses with sockets that tell a sender how it looks, and answer from elsewhere.
struct Reflectors {
    _namespaces: [Namespace; 2],
    /// Address 1 port 1, address 1 port 2, address 2.
    sockets: [UdpSocket; 3],
    addresses: [SocketAddr; 3],
}

impl Reflectors {
    fn new(world: &World) -> Result<Self> {
        let (one, first) = public(world, "reflector1")?;
        let (two, second) = public(world, "reflector2")?;
        let bind = |namespace: &Namespace, address: Ipv4Addr, port: u16| -> Result<UdpSocket> {
            let socket = namespace.run(|| UdpSocket::bind((address, port)))?;
            socket.set_read_timeout(Some(CERTAIN / QUESTIONS))?;
            Ok(socket)
        };
        let sockets =
            [bind(&one, first, 3478)?, bind(&one, first, 3479)?, bind(&two, second, 3478)?];
        let addresses =
            [sockets[0].local_addr()?, sockets[1].local_addr()?, sockets[2].local_addr()?];
        Ok(Reflectors { _namespaces: [one, two], sockets, addresses })
    }

    /// How `socket` looks to reflector `index`.
    /// Where the reflector sees the socket; the question is repeated, as a datagram may be lost
    /// while routers change.
    fn seen_by(&self, index: usize, socket: &UdpSocket) -> Result<SocketAddr> {
        let question = socket.local_addr()?.port().to_be_bytes();
        for _ in 0..QUESTIONS {
            socket.send_to(&question, self.addresses[index])?;
            let mut heard = [0u8; 16];
            while let Ok((len, from)) = self.sockets[index].recv_from(&mut heard) {
                if heard[..len] == question {
                    return Ok(from);
                }
            }
        }
        bail!("reflector heard nothing")
    }

    fn mapped(&self, host: &Namespace) -> Result<SocketAddr> {
        self.seen_by(0, &host.run(|| UdpSocket::bind("0.0.0.0:0"))?)
    }

    fn classify(&self, host: &Namespace) -> Result<String> {
        let socket = host.run(|| UdpSocket::bind("0.0.0.0:0"))?;
        let seen =
            [self.seen_by(0, &socket)?, self.seen_by(1, &socket)?, self.seen_by(2, &socket)?];
        let own = host.run(|| seen.iter().all(|seen| UdpSocket::bind((seen.ip(), 0)).is_ok()));
        let mapping = match seen.iter().all(|address| *address == seen[0]) {
            true if own => "no translation",
            true => "endpoint-independent mapping",
            false => "endpoint-dependent mapping",
        };
        let socket = host.run(|| UdpSocket::bind("0.0.0.0:0"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mapped = self.seen_by(0, &socket)?;
        let answered_by = |index: usize| -> Result<bool> {
            self.sockets[index].send_to(b"you", mapped)?;
            Ok(socket.recv_from(&mut [0u8; 8]).is_ok())
        };
        ensure!(answered_by(0)?, "not even the reflector that was asked can answer");
        let filtering = match (answered_by(2)?, answered_by(1)?) {
            (true, _) => "anybody may answer",
            (false, true) => "the address must match",
            (false, false) => "address and port must match",
        };
        Ok(format!("{mapping}, {filtering}"))
    }

    /// Both send to the other's mapping, and to where they hear from, for two seconds.
    fn punch(&self, a: &Namespace, b: &Namespace) -> Result<bool> {
        let sockets =
            [a.run(|| UdpSocket::bind("0.0.0.0:0"))?, b.run(|| UdpSocket::bind("0.0.0.0:0"))?];
        let mut targets = [self.seen_by(0, &sockets[1])?, self.seen_by(0, &sockets[0])?];
        let mut heard = [false; 2];
        for socket in &sockets {
            socket.set_read_timeout(Some(Duration::from_millis(25)))?;
        }
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until && heard != [true; 2] {
            for side in [0, 1] {
                sockets[side].send_to(b"knock", targets[side])?;
                if let Ok((_, from)) = sockets[side].recv_from(&mut [0u8; 8]) {
                    targets[side] = from;
                    heard[side] = true;
                }
            }
        }
        Ok(heard == [true; 2])
    }
}
