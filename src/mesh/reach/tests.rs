//! One host, some STUN servers, and a router that says what the servers see.

use super::known::MAX_OBSERVED;
use super::*;
use crate::api::NatMapping;
use crate::mesh::candidate::MAX_ADVERTISED;
use crate::mesh::event::InterfaceAddress;

const S1: &str = "192.0.2.1:3478";
const S2: &str = "192.0.2.2:3478";
const PUBLIC: &str = "198.51.100.1:41641";
const LAN: &str = "192.168.1.10:41641";

#[test]
fn a_start_behind_a_nat_tells_once_when_two_servers_agree() {
    let (mut reach, t0) = started();
    let asked = drain(&mut reach);
    assert_eq!(asked.len(), 2);
    assert_eq!(reach.poll_event(), None, "answers are awaited");
    answer(&mut reach, &asked[0], PUBLIC, t0 + ms(20));
    assert_eq!(reach.poll_event(), None);
    answer(&mut reach, &asked[1], PUBLIC, t0 + ms(30));
    assert_eq!(reach.poll_event(), Some(ReachEvent::Changed));
    assert_eq!(reach.poll_event(), None);
    assert_eq!(reach.endpoints(), [addr(PUBLIC), addr(LAN)]);
    assert_eq!(reach.public_endpoints(), [addr(PUBLIC)]);
    assert_eq!(reach.nat().mapping, NatMapping::EndpointIndependent);
    assert_eq!(reach.poll_timeout(), None);
}

#[test]
fn one_answer_is_better_than_none_and_told_after_300_ms() {
    let (mut reach, t0) = started();
    let asked = drain(&mut reach);
    answer(&mut reach, &asked[1], PUBLIC, t0 + ms(20));
    let (at, reason) = reach.poll_timeout().unwrap();
    assert_eq!((at, reason), (t0 + GATHER, "addresses changed"));
    reach.handle_timeout(at);
    assert_eq!(reach.poll_event(), Some(ReachEvent::Changed));
    assert_eq!(reach.endpoints(), [addr(PUBLIC), addr(LAN)]);
    assert_eq!(reach.nat().mapping, NatMapping::Unknown);
}

#[test]
fn servers_may_be_known_before_the_links_and_after() {
    let t0 = start();
    let mut reach = Reachability::new(41641, [1; 32], t0);
    reach.set_servers(vec![addr(S1)], t0);
    assert_eq!(reach.poll_transmit(), None, "no route yet");
    reach.handle_interfaces(&home(), t0);
    reach.handle_timeout(t0);
    assert_eq!(drain(&mut reach).len(), 1);
    reach.set_servers(vec![addr(S1), addr(S2)], t0 + ms(10));
    let asked = drain(&mut reach);
    assert_eq!(asked.iter().map(|out| out.to).collect::<Vec<_>>(), [addr(S2)]);
}

#[test]
fn without_servers_the_links_are_told_at_once() {
    let t0 = start();
    let mut reach = Reachability::new(41641, [1; 32], t0);
    reach.handle_interfaces(&home(), t0);
    reach.handle_timeout(t0);
    assert_eq!(reach.poll_event(), Some(ReachEvent::Changed));
    assert_eq!(reach.endpoints(), [addr(LAN)]);
    assert_eq!(reach.poll_timeout(), None);
}

#[test]
fn a_question_is_repeated_with_doubling_gaps_and_given_up() {
    let (mut reach, t0) = started();
    drain(&mut reach);
    let mut sent = Vec::new();
    while let Some((at, _)) = reach.poll_timeout() {
        reach.handle_timeout(at);
        sent.extend(drain(&mut reach).iter().map(|_| (at - t0).as_millis()));
        while reach.poll_event().is_some() {}
        assert!(at <= t0 + ms(7_500));
    }
    assert_eq!(sent, [500, 500, 1500, 1500, 3500, 3500]);
    assert!(reach.netcheck_stun().iter().all(|server| server.mapped.is_none()));
}

#[test]
fn answers_from_elsewhere_or_to_other_transactions_count_nothing() {
    let (mut reach, t0) = started();
    let asked = drain(&mut reach);
    let mut forged = asked[0].clone();
    forged.to = addr("203.0.113.66:3478");
    answer(&mut reach, &forged, "203.0.113.66:1", t0);
    forged = asked[0].clone();
    forged.payload[15] ^= 1;
    answer(&mut reach, &forged, "203.0.113.66:1", t0);
    assert_eq!(reach.endpoints(), [addr(LAN)]);
    let transaction = transaction(&asked[0]);
    assert!(reach.awaits(&transaction));
    answer(&mut reach, &asked[0], PUBLIC, t0);
    assert!(!reach.awaits(&transaction));
    answer(&mut reach, &asked[0], "203.0.113.66:1", t0);
    assert!(reach.endpoints().contains(&addr(PUBLIC)), "only the first answer counts");
}

#[test]
fn a_nat_is_classified_by_what_different_servers_see() {
    for (seen, alternate, expected) in [
        (["198.51.100.1:41641", "198.51.100.1:41641"], None, NatMapping::EndpointIndependent),
        (["198.51.100.1:50001", "198.51.100.1:50002"], None, NatMapping::EndpointDependent),
        (
            ["198.51.100.1:50001", "198.51.100.1:50002"],
            Some("198.51.100.1:50001"),
            NatMapping::AddressDependent,
        ),
        (
            ["198.51.100.1:50001", "198.51.100.1:50002"],
            Some("198.51.100.1:50003"),
            NatMapping::EndpointDependent,
        ),
        ([LAN, LAN], None, NatMapping::None),
    ] {
        let (mut reach, t0) = started();
        let asked = drain(&mut reach);
        let other = alternate.map(|_| addr("192.0.2.2:3479"));
        let first =
            StunResponse { transaction: transaction(&asked[0]), mapped: Ok(addr(seen[0])), other };
        reach.handle_stun(asked[0].to, &first, t0);
        answer(&mut reach, &asked[1], seen[1], t0);
        let more = drain(&mut reach);
        assert_eq!(more.len(), usize::from(alternate.is_some()));
        for (out, mapped) in more.iter().zip(alternate) {
            assert_eq!(out.to, addr("192.0.2.1:3479"));
            answer(&mut reach, out, mapped, t0);
        }
        assert_eq!(reach.nat().mapping, expected);
    }
}

#[test]
fn behind_a_symmetric_nat_one_address_is_told() {
    let (mut reach, t0) = started();
    let asked = drain(&mut reach);
    answer(&mut reach, &asked[0], "198.51.100.1:50001", t0);
    answer(&mut reach, &asked[1], "198.51.100.1:50002", t0);
    assert_eq!(reach.endpoints(), [addr("198.51.100.1:50001"), addr(LAN)]);
    let shown = reach.netcheck_addresses();
    let told: Vec<_> =
        shown.iter().map(|entry| (entry.source.as_str(), entry.advertised)).collect();
    assert_eq!(told, [("interface", true), ("stun", true), ("stun", false)]);
}

#[test]
fn what_a_peer_sees_is_told_and_agrees_with_a_server() {
    let (mut reach, t0) = started();
    let asked = drain(&mut reach);
    answer(&mut reach, &asked[0], "198.51.100.1:50001", t0);
    answer(&mut reach, &asked[1], "198.51.100.1:50002", t0);
    reach.note_observed(DeviceId([1; 32]), addr("198.51.100.1:50002"), t0);
    assert_eq!(reach.endpoints(), [addr("198.51.100.1:50002"), addr(LAN)]);
    reach.note_observed(DeviceId([2; 32]), addr("198.51.100.1:50009"), t0);
    assert!(reach.endpoints().contains(&addr("198.51.100.1:50009")));
    reach.forget_observer(&DeviceId([2; 32]), t0);
    assert!(!reach.endpoints().contains(&addr("198.51.100.1:50009")));
}

#[test]
fn private_and_impossible_observations_are_ignored_and_floods_bounded() {
    let (mut reach, t0) = started();
    for useless in ["192.168.1.10:41641", "127.0.0.1:1", "203.0.113.1:0", "[fe80::1]:1"] {
        reach.note_observed(DeviceId([1; 32]), addr(useless), t0);
    }
    assert!(reach.observed.is_empty());
    for i in 0..10_000_u32 {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&i.to_be_bytes());
        let seen = SocketAddr::new(std::net::Ipv4Addr::from(0x0801_0000 + i).into(), 5);
        reach.note_observed(DeviceId(id), seen, t0 + ms(u64::from(i)));
    }
    assert_eq!(reach.observed.len(), MAX_OBSERVERS);
    assert_eq!(reach.endpoints().len(), MAX_OBSERVED + 1);
}

#[test]
fn a_port_map_is_told_with_the_routers_and_the_servers_address() {
    let (mut reach, t0) = settled();
    let external = addr("11.0.0.11:41641");
    reach.handle_port_map(PortMapInput::Mapped { kind: PortMappingKind::Upnp, external }, t0);
    assert_eq!(reach.poll_event(), Some(ReachEvent::Changed));
    let told = [addr("11.0.0.11:41641"), addr(PUBLIC), addr(LAN)];
    assert_eq!(reach.endpoints(), told);
    assert_eq!(reach.nat().port_mapping, PortMappingKind::Upnp);
    // A router behind a router: its own address is useless, the mapped port may not be.
    let external = addr("100.64.0.9:7000");
    reach.handle_port_map(PortMapInput::Mapped { kind: PortMappingKind::Upnp, external }, t0);
    assert_eq!(reach.endpoints(), [addr("198.51.100.1:7000"), addr(PUBLIC), addr(LAN)]);
    reach.handle_port_map(PortMapInput::Lost(PortMappingKind::Upnp), t0);
    assert_eq!(reach.endpoints(), [addr(PUBLIC), addr(LAN)]);
    assert_eq!(reach.nat().port_mapping, PortMappingKind::None);
}

#[test]
fn moving_to_another_lan_forgets_the_old_addresses_and_asks_again() {
    let (mut reach, t0) = settled();
    reach.note_observed(DeviceId([1; 32]), addr(PUBLIC), t0);
    let now = t0 + ms(60_000);
    let mut moved = home();
    moved.addresses[0].address = "192.168.7.20".parse().unwrap();
    assert!(reach.handle_interfaces(&moved, now));
    assert!(!reach.handle_interfaces(&moved, now), "nothing new");
    assert_eq!(reach.endpoints(), [addr("192.168.7.20:41641")]);
    reach.handle_timeout(now);
    let asked = drain(&mut reach);
    assert_eq!(asked.len(), 2);
    for out in &asked {
        answer(&mut reach, out, "203.0.113.9:50000", now + ms(40));
    }
    assert_eq!(reach.poll_event(), Some(ReachEvent::Changed));
    assert_eq!(reach.poll_event(), None, "one message for one move");
    assert_eq!(reach.endpoints(), [addr("203.0.113.9:50000"), addr("192.168.7.20:41641")]);
}

#[test]
fn one_more_address_on_the_same_link_keeps_what_is_known() {
    let (mut reach, t0) = settled();
    let mut more = home();
    let address =
        InterfaceAddress { address: "2001:db8::5".parse().unwrap(), ..more.addresses[0].clone() };
    more.addresses.push(address);
    reach.handle_interfaces(&more, t0 + ms(60_000));
    let told = [addr("[2001:db8::5]:41641"), addr(PUBLIC), addr(LAN)];
    assert_eq!(reach.endpoints(), told);
}

#[test]
fn a_dead_path_starts_a_round_but_not_twice_in_five_seconds() {
    let (mut reach, t0) = settled();
    let now = t0 + ms(60_000);
    reach.suspect(now);
    reach.handle_timeout(now);
    assert_eq!(drain(&mut reach).len(), 2);
    reach.suspect(now + ms(10));
    reach.handle_timeout(now + ms(10));
    assert_eq!(drain(&mut reach).len(), 0);
    assert_eq!(reach.urgent, Some(now + SUSPECT_GAP));
}

#[test]
fn a_changed_wan_address_replaces_what_servers_and_peers_saw_before() {
    let (mut reach, t0) = settled();
    reach.note_observed(DeviceId([1; 32]), addr(PUBLIC), t0 + ms(1000));
    let now = t0 + ms(60_000);
    reach.suspect(now);
    reach.handle_timeout(now);
    for out in drain(&mut reach) {
        answer(&mut reach, &out, "198.51.100.77:41641", now + ms(50));
    }
    assert_eq!(reach.poll_event(), Some(ReachEvent::Changed));
    assert_eq!(reach.endpoints(), [addr("198.51.100.77:41641"), addr(LAN)]);
}

#[test]
fn silent_servers_do_not_unsay_what_they_said() {
    let (mut reach, t0) = settled();
    reach.suspect(t0 + ms(60_000));
    while let Some((at, _)) = reach.poll_timeout() {
        reach.handle_timeout(at);
        drain(&mut reach);
    }
    assert_eq!(reach.poll_event(), None);
    assert_eq!(reach.endpoints(), [addr(PUBLIC), addr(LAN)]);
    assert!(reach.netcheck_stun().iter().all(|server| server.mapped.is_none()));
}

#[test]
fn refreshing_happens_only_in_demand() {
    let (mut reach, t0) = settled();
    assert_eq!(reach.poll_timeout(), None);
    reach.set_demand(true, t0 + ms(1000));
    let (at, reason) = reach.poll_timeout().unwrap();
    assert_eq!(reason, "STUN refresh");
    assert!((540..=660).contains(&(at - t0).as_secs()), "{:?}", at - t0);
    reach.handle_timeout(at);
    for out in drain(&mut reach) {
        answer(&mut reach, &out, PUBLIC, at + ms(50));
    }
    assert_eq!(reach.poll_event(), None, "nothing changed");
    assert!(reach.poll_timeout().is_some());
    reach.set_demand(false, at + ms(60));
    assert_eq!(reach.poll_timeout(), None);
}

#[test]
fn a_round_that_nobody_answered_is_repeated_ever_more_patiently() {
    let (mut reach, t0) = started();
    reach.set_demand(true, t0);
    drain(&mut reach);
    let mut rounds = vec![t0];
    let mut asked = Vec::new();
    while rounds.len() < 9 {
        let (at, reason) = reach.poll_timeout().unwrap();
        reach.handle_timeout(at);
        asked = drain(&mut reach);
        while reach.poll_event().is_some() {}
        if reason == "STUN refresh" {
            rounds.push(at);
        }
    }
    let gaps: Vec<_> = rounds.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    for (gap, expected) in gaps.iter().zip([25.0, 50.0, 100.0, 200.0, 400.0, 600.0, 600.0, 600.0]) {
        assert!((0.9..1.1).contains(&(gap / expected)), "{gaps:?}");
    }
    let now = *rounds.last().unwrap();
    answer(&mut reach, &asked[0], PUBLIC, now);
    answer(&mut reach, &asked[1], PUBLIC, now);
    while reach.poll_event().is_some() {}
    let (at, _) = reach.poll_timeout().unwrap();
    assert!(at >= now + REFRESH.mul_f64(0.9), "the servers are there");
}

#[test]
fn a_server_without_a_route_is_not_asked_and_a_neighbour_is() {
    let t0 = start();
    let mut reach = Reachability::new(41641, [1; 32], t0);
    let offline = InterfaceSnapshot { default_route: (false, false), ..home() };
    reach.handle_interfaces(&offline, t0);
    reach.set_servers(vec![addr(S1), addr("192.168.1.1:3478"), addr("[2001:db8::1]:3478")], t0);
    let asked = drain(&mut reach);
    assert_eq!(asked.iter().map(|out| out.to).collect::<Vec<_>>(), [addr("192.168.1.1:3478")]);
}

#[test]
fn hostile_lists_of_servers_and_links_are_bounded() {
    let t0 = start();
    let mut reach = Reachability::new(41641, [1; 32], t0);
    let mut many = home();
    let first = many.addresses[0].clone();
    many.addresses.extend((0..1000_u128).map(|i| InterfaceAddress {
        address: std::net::Ipv6Addr::from((0x2001_0db8 << 96) + i).into(),
        ..first.clone()
    }));
    reach.handle_interfaces(&many, t0);
    let servers = (0..10_000_u32)
        .map(|i| SocketAddr::new(std::net::Ipv4Addr::from(0x0801_0000 + i).into(), 3478));
    let refused = [addr("127.0.0.1:1"), addr("0.0.0.0:1"), addr("192.0.2.1:0")];
    reach.set_servers(refused.into_iter().chain(servers).collect(), t0);
    assert_eq!(drain(&mut reach).len(), MAX_SERVERS - MAX_LEARNT);
    assert_eq!(reach.endpoints().len(), MAX_ADVERTISED);
    assert!(reach.endpoints().contains(&addr(LAN)), "a neighbour can still find us");
}

fn start() -> Instant {
    // The only clock in these tests: an origin for virtual time.
    Instant::now()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn home() -> InterfaceSnapshot {
    let address = "192.168.1.10".parse().unwrap();
    let entry = InterfaceAddress { link: 2, address, prefix_len: 24, mtu: 1500 };
    InterfaceSnapshot { addresses: vec![entry], default_route: (true, true) }
}

/// A host at home that has just asked two servers.
fn started() -> (Reachability, Instant) {
    let t0 = start();
    let mut reach = Reachability::new(41641, [1; 32], t0);
    reach.set_servers(vec![addr(S1), addr(S2)], t0);
    reach.handle_interfaces(&home(), t0);
    reach.handle_timeout(t0);
    (reach, t0)
}

/// The same after both answered and everything was told.
fn settled() -> (Reachability, Instant) {
    let (mut reach, t0) = started();
    for out in drain(&mut reach) {
        answer(&mut reach, &out, PUBLIC, t0);
    }
    assert_eq!(reach.poll_event(), Some(ReachEvent::Changed));
    (reach, t0)
}

fn drain(reach: &mut Reachability) -> Vec<Transmit> {
    std::iter::from_fn(|| reach.poll_transmit()).collect()
}

fn transaction(asked: &Transmit) -> TransactionId {
    TransactionId::new(asked.payload[8..20].try_into().unwrap())
}

fn answer(reach: &mut Reachability, asked: &Transmit, mapped: &str, now: Instant) {
    let transaction = transaction(asked);
    let response = StunResponse { transaction, mapped: Ok(addr(mapped)), other: None };
    reach.handle_stun(asked.to, &response, now);
}
