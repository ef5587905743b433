//! Two agents in a small virtual Internet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::search::MAX_IN_FLIGHT;
use super::*;
use crate::api::PathKind;
use crate::identity::WgSecret;
use crate::mesh::candidate::MAX_REMOTES;
use crate::mesh::event::{InterfaceAddress, InterfaceSnapshot};
use crate::wire::stun::{Envelope, StunError};

/// A Monday.
const UNIX: u64 = 1_769_385_600;

// a 10.1.0.2 ── NAT 198.51.100.1 ── 25 ms ── NAT 198.51.100.2 ── b 10.2.0.2

#[test]
fn two_port_restricted_nats_are_punched_within_300_ms() {
    for late in [0, 10, 30, 70, 120] {
        let mut net = Net::two_nats(Nat::PortRestricted, Nat::PortRestricted);
        net.agents[0].demand(Demand::Active, net.now);
        net.run(late);
        net.agents[1].demand(Demand::Active, net.now);
        net.run(300 - late);
        for side in [0, 1] {
            let path = net.agents[side].agent.primary().unwrap();
            assert_eq!(path.endpoint.ip(), ip(["198.51.100.2", "198.51.100.1"][side]));
            assert_eq!((path.kind, path.rtt.as_millis()), (PathKind::Direct, 50), "late {late}");
        }
        assert!(net.agents.iter().all(|host| matches!(host.events[0], PathEvent::Validated(_))
            || matches!(host.events[0], PathEvent::Observed(_))));
    }
}

#[test]
fn punching_survives_a_fifth_of_all_packets_lost() {
    for seed in 0..20 {
        let mut net = Net::two_nats(Nat::PortRestricted, Nat::PortRestricted);
        (net.loss, net.dice) = (20, seed);
        net.demand_both(Demand::Active);
        net.run(1_100);
        assert!(net.agents.iter().all(|host| host.agent.primary().is_some()), "seed {seed}");
    }
}

#[test]
fn a_symmetric_nat_meets_an_open_one_through_its_peer_reflexive_address() {
    let mut net = Net::two_nats(Nat::Symmetric, Nat::FullCone);
    net.demand_both(Demand::Active);
    net.run(1_000);
    let seen = net.agents[1].agent.primary().unwrap().endpoint;
    assert_eq!(seen.ip(), ip("198.51.100.1"));
    assert_ne!(seen.port(), 41641, "the NAT chose a port that nobody had told");
    assert!(net.agents[0].agent.primary().is_some());
}

#[test]
fn two_symmetric_nats_find_no_path_and_the_search_slows_down() {
    let mut net = Net::two_nats(Nat::Symmetric, Nat::PortRestricted);
    net.demand_both(Demand::Active);
    net.run(10_000);
    assert!(net.agents.iter().all(|host| host.agent.primary().is_none()));
    let before = net.agents[0].sent;
    net.run(60_000);
    assert!(net.agents[0].sent - before <= 4, "one check of one address each 16 s");
}

#[test]
fn devices_that_start_together_do_not_go_on_asking_in_step() {
    let start = Instant::now() + Duration::from_secs(3600);
    let key = || {
        let known = WgSecret::from_bytes([2; 32]).public();
        CheckKey::derive(&WgSecret::from_bytes([1; 32]), &known).unwrap()
    };
    let here = Arc::new(Surroundings::new(&InterfaceSnapshot::default(), 41641, &[]));
    let after_burst = start + *BURST.last().unwrap() + Duration::from_millis(1);
    let next = (0..50).map(|seed| {
        let mut agent = PathAgent::new(key(), [seed; 32], here.clone(), UNIX, start);
        agent.set_remotes(&[addr("198.51.100.2:41641")], start);
        agent.set_demand(Demand::Warm, start);
        loop {
            let at = agent.poll_timeout().unwrap().0;
            agent.handle_timeout(at);
            if agent.poll_transmit().is_some() && at >= after_burst {
                return at - start;
            }
        }
    });
    let mut next: Vec<_> = next.collect();
    next.sort();
    // In step, all would ask again after two seconds.
    assert!(next[37] - next[12] > Duration::from_millis(400), "{next:?}");
}

#[test]
fn each_side_learns_how_the_other_sees_it() {
    let mut net = Net::two_nats(Nat::PortRestricted, Nat::PortRestricted);
    net.demand_both(Demand::Warm);
    net.run(500);
    let expected = PathEvent::Observed(addr("198.51.100.1:41641"));
    assert!(net.agents[0].events.contains(&expected));
}

#[test]
fn an_idle_agent_sends_nothing_but_answers() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    net.run(120_000);
    assert_eq!((net.agents[0].sent, net.agents[1].sent), (0, 0));
    net.agents[0].demand(Demand::Active, net.now);
    net.run(200);
    assert!(net.agents[0].agent.primary().is_some());
    assert!(net.agents[1].agent.primary().is_some(), "asked back");
}

#[test]
fn an_hour_of_a_warm_path_costs_one_exchange_each_25_s() {
    let mut net = Net::two_nats(Nat::PortRestricted, Nat::PortRestricted);
    net.demand_both(Demand::Warm);
    net.run(10_000);
    let before: u64 = net.agents.iter().map(|host| host.sent).sum();
    let bytes: u64 = net.agents.iter().map(|host| host.bytes).sum();
    net.run(3_600_000);
    let sent = net.agents.iter().map(|host| host.sent).sum::<u64>() - before;
    let bytes = net.agents.iter().map(|host| host.bytes).sum::<u64>() - bytes;
    println!("an hour of a warm path: {sent} datagrams, {bytes} bytes on the wire (both sides)");
    assert!((280..=290).contains(&sent), "{sent} datagrams, where naive upkeep sends 576");
    assert!(bytes < 30_000, "{bytes}");
    assert!(net.agents.iter().all(|host| !host.events.contains(&PathEvent::Lost)));
}

#[test]
fn keepalives_hold_the_mapping_of_a_nat_that_forgets_after_30_s() {
    let mut net = Net::two_nats(Nat::PortRestricted, Nat::PortRestricted);
    net.mapping_life = Duration::from_secs(30);
    net.demand_both(Demand::Warm);
    net.run(600_000);
    assert!(net.agents.iter().all(|host| !host.events.contains(&PathEvent::Lost)));
}

#[test]
fn the_other_side_asks_when_the_one_that_should_is_silent() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    net.demand_both(Demand::Warm);
    net.run(500);
    let (asks, other) = if net.agents[0].agent.key().is_lower() { (0, 1) } else { (1, 0) };
    net.agents[asks].demand(Demand::Idle, net.now);
    let before = net.agents[other].sent;
    net.run(34_000);
    assert_eq!(net.agents[other].sent, before);
    net.run(2_000);
    assert_eq!(net.agents[other].sent, before + 1);
}

#[test]
fn the_first_answer_wins_and_a_better_path_replaces_it() {
    let mut net = Net::open(
        &["198.51.100.1:41641", "192.168.1.1:41641"],
        &["198.51.100.2:41641", "192.168.1.2:41641"],
    );
    net.delay_to("192.168.1.2", 40);
    net.demand_both(Demand::Active);
    net.run(55);
    assert_eq!(net.agents[0].endpoint(), addr("198.51.100.2:41641"));
    // The link was slow to resolve; from now on it is what it should be.
    net.delay_to("192.168.1.2", 1);
    net.run(1_000);
    let path = net.agents[0].agent.primary().unwrap();
    assert_eq!((path.endpoint, path.kind), (addr("192.168.1.2:41641"), PathKind::Lan));
    assert!(matches!(net.agents[0].last_path(), PathEvent::PrimaryChanged(_)));
}

#[test]
fn ipv6_is_preferred_on_a_tie_and_a_clearly_faster_path_against_all_preference() {
    for (v6_delay, wanted) in [(25, "[2001:db8::2]:41641"), (60, "198.51.100.2:41641")] {
        let mut net = Net::open(
            &["198.51.100.1:41641", "[2001:db8::1]:41641"],
            &["198.51.100.2:41641", "[2001:db8::2]:41641"],
        );
        net.delay_to("2001:db8::2", v6_delay);
        net.demand_both(Demand::Active);
        net.run(2_000);
        assert_eq!(net.agents[0].endpoint(), addr(wanted));
    }
}

#[test]
fn a_path_that_is_a_little_faster_does_not_replace_the_primary() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641", "198.51.100.3:41641"]);
    net.delay_to("198.51.100.3", 30);
    net.agents[0].demand(Demand::Active, net.now);
    net.run(2_000);
    assert_eq!(net.agents[0].endpoint(), addr("198.51.100.2:41641"));
    // 50 ms against 47: within the tolerance. Against 20: not.
    for (delay, wanted) in [(22, "198.51.100.2:41641"), (10, "198.51.100.3:41641")] {
        net.delay_to("198.51.100.3", delay);
        net.run(20_000);
        let now = net.now;
        net.agents[0].agent.restart(now);
        net.run(2_000);
        assert_eq!(net.agents[0].endpoint(), addr(wanted), "{delay} ms");
    }
}

#[test]
fn the_size_of_a_path_is_found_told_and_followed_when_the_path_narrows_under_traffic() {
    let mut net = Net::two_nats(Nat::PortRestricted, Nat::PortRestricted);
    net.width = 1372;
    net.demand_both(Demand::Active);
    net.run(8_000);
    let size = |net: &Net| net.agents[0].agent.size().unwrap();
    assert_eq!(size(&net), size::PathSize { payload: 1372, settled: true });
    let told = |host: &Host| {
        host.events.iter().rev().find_map(|event| match event {
            PathEvent::Sized(size) => Some(*size),
            _ => None,
        })
    };
    assert_eq!(told(&net.agents[0]), Some(size(&net)));
    net.width = 1252;
    for _ in 0..10 {
        // Large datagrams leave and nothing comes back, but the path lives.
        let now = net.now;
        net.agents[0].agent.note_traffic(Some(now), None, now);
        net.agents[0].agent.note_large(Some(now));
        net.run(1_000);
    }
    assert_eq!(size(&net), size::PathSize { payload: 1252, settled: true });
    assert!(!net.agents[0].events.contains(&PathEvent::Lost));
}

#[test]
fn no_probe_leaves_while_no_user_data_flows() {
    let mut net = Net::two_nats(Nat::PortRestricted, Nat::PortRestricted);
    net.demand_both(Demand::Warm);
    net.run(100_000);
    let size = |net: &Net| net.agents[0].agent.size().unwrap();
    assert_eq!(size(&net), size::PathSize { payload: 1252, settled: false });
    net.demand_both(Demand::Active);
    net.run(100);
    assert_eq!(size(&net), size::PathSize { payload: 1452, settled: true });
}

#[test]
fn a_lossy_path_is_not_taken_for_a_narrow_one_for_long() {
    for seed in 0..10 {
        let mut net = Net::two_nats(Nat::PortRestricted, Nat::PortRestricted);
        (net.loss, net.dice) = (5, seed);
        net.demand_both(Demand::Active);
        net.run(15_000);
        assert_eq!(net.agents[0].agent.size().unwrap().payload, 1452, "seed {seed}");
    }
}

#[test]
fn a_jittering_path_of_equal_speed_causes_no_flapping() {
    let mut net = Net::open(
        &["198.51.100.1:41641", "[2001:db8::1]:41641"],
        &["198.51.100.2:41641", "[2001:db8::2]:41641"],
    );
    net.demand_both(Demand::Active);
    net.run(2_000);
    let before = net.agents[0].events.len();
    for round in 0..100 {
        net.delay_to("2001:db8::2", 25 + (round * 7) % 5);
        let now = net.now;
        net.agents[0].agent.restart(now);
        net.run(2_000);
    }
    assert_eq!(net.agents[0].events.len(), before, "{:?}", net.agents[0].events);
}

#[test]
fn a_dead_path_under_traffic_fails_over_within_two_seconds() {
    let mut net = Net::open(
        &["198.51.100.1:41641", "[2001:db8::1]:41641"],
        &["198.51.100.2:41641", "[2001:db8::2]:41641"],
    );
    net.demand_both(Demand::Active);
    net.run(5_000);
    assert_eq!(net.agents[0].endpoint(), addr("[2001:db8::2]:41641"));
    net.dead.insert(ip("2001:db8::2"));
    let received = net.now;
    let mut took = 0;
    while net.agents[0].endpoint() != addr("198.51.100.2:41641") {
        let now = net.now;
        net.agents[0].agent.note_traffic(Some(now), Some(received), now);
        net.run(50);
        took += 50;
        assert!(took < 2_000);
    }
    assert!(!net.agents[0].events.contains(&PathEvent::Lost));
    // It comes back, and with it the preference.
    net.dead.clear();
    net.run(61_000);
    assert_eq!(net.agents[0].endpoint(), addr("[2001:db8::2]:41641"));
}

#[test]
fn one_lost_check_changes_nothing() {
    let mut net = Net::open(
        &["198.51.100.1:41641", "[2001:db8::1]:41641"],
        &["198.51.100.2:41641", "[2001:db8::2]:41641"],
    );
    net.demand_both(Demand::Warm);
    net.run(5_000);
    let events = net.agents[0].events.len();
    for _ in 0..20 {
        net.run(20_000);
        net.drop_next = 1;
    }
    assert_eq!(net.agents[0].events.len(), events);
}

#[test]
fn an_idle_path_whose_peer_vanished_is_lost_within_five_seconds_of_the_keepalive() {
    let mut net = Net::two_nats(Nat::PortRestricted, Nat::PortRestricted);
    net.demand_both(Demand::Warm);
    net.run(1_000);
    net.dead.extend([ip("198.51.100.1"), ip("198.51.100.2")]);
    net.run(40_000);
    assert!(net.agents.iter().all(|host| host.events.contains(&PathEvent::Lost)));
    assert!(net.agents.iter().all(|host| host.agent.primary().is_none()));
    // Both keep searching, and find each other when the line is back.
    net.dead.clear();
    net.demand_both(Demand::Active);
    net.run(500);
    assert!(net.agents.iter().all(|host| host.agent.primary().is_some()));
}

#[test]
fn a_peer_whose_nat_changed_its_port_is_followed_within_a_second() {
    let mut net = Net::two_nats(Nat::FullCone, Nat::FullCone);
    net.demand_both(Demand::Active);
    net.run(1_000);
    net.nats.get_mut(&ip("198.51.100.1")).unwrap().forget();
    // a notices that nothing comes back, and asks.
    let now = net.now;
    net.agents[0].agent.note_traffic(Some(now), Some(now - RETRY), now);
    net.run(1_000);
    let seen = net.agents[1].endpoint();
    assert_eq!(seen.ip(), ip("198.51.100.1"));
    assert_ne!(seen.port(), 41641);
    assert!(!net.agents[1].events.contains(&PathEvent::Lost));
}

#[test]
fn a_changed_wan_address_heals_as_soon_as_the_peer_knows_it() {
    let mut net = Net::two_nats(Nat::PortRestricted, Nat::PortRestricted);
    net.demand_both(Demand::Active);
    net.run(1_000);
    // a's router gets 198.51.100.9; b's NAT drops what comes from there.
    let router = net.nats.remove(&ip("198.51.100.1")).unwrap();
    net.nats.insert(ip("198.51.100.9"), Router { open: BTreeMap::new(), ..router });
    net.public[0] = ip("198.51.100.9");
    net.run(5_000);
    let now = net.now;
    net.agents[0].agent.restart(now);
    net.agents[1].agent.set_remotes(&[addr("198.51.100.9:50002")], now);
    net.run(400);
    assert_eq!(net.agents[1].endpoint().ip(), ip("198.51.100.9"));
    assert!(net.agents[0].agent.primary().is_some());
}

#[test]
fn whatever_happens_deadlines_are_met_and_memory_is_bounded() {
    for seed in 0..12 {
        let mut net = Net::open(
            &["198.51.100.1:41641", "[2001:db8::1]:41641"],
            &["198.51.100.2:41641", "[2001:db8::2]:41641"],
        );
        net.loss = 30;
        let mut dice = seed;
        let mut roll = |sides: u64| {
            dice = u64::wrapping_mul(dice, 6_364_136_223_846_793_005).wrapping_add(99);
            (dice >> 33) % sides
        };
        for _ in 0..200 {
            let now = net.now;
            let host = &mut net.agents[roll(2) as usize];
            match roll(7) {
                0 => {
                    host.demand([Demand::Idle, Demand::Warm, Demand::Active][roll(3) as usize], now)
                }
                1 => host.agent.restart(now),
                2 => host.agent.handle_roamed(SocketAddr::new(ip("8.8.8.8"), roll(9) as u16), now),
                3 => host
                    .agent
                    .set_remotes(&[SocketAddr::new(ip("9.9.9.9"), 1 + roll(9) as u16)], now),
                4 => host.agent.note_traffic(Some(now), None, now),
                5 => host.agent.add_remote(host.addresses[0], now),
                _ => net.dead = [ip("2001:db8::2")].into_iter().take(roll(2) as usize).collect(),
            }
            // Timers may be late.
            net.now += Duration::from_millis(roll(3_000));
            net.run(roll(5_000));
            for host in &mut net.agents {
                assert!(host.agent.poll_timeout().is_none_or(|(at, _)| at > net.now));
                assert!(host.agent.routes.len() <= MAX_REMOTES + MAX_LEARNT + 1);
                assert!(host.agent.asked.len() <= MAX_IN_FLIGHT + 8);
                assert_eq!(host.agent.primary.is_some(), host.agent.primary().is_some());
            }
        }
    }
}

#[test]
fn data_from_elsewhere_makes_the_agent_ask_but_moves_nothing() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    net.demand_both(Demand::Warm);
    net.run(1_000);
    let now = net.now;
    net.agents[0].agent.handle_roamed(addr("203.0.113.66:9"), now);
    let asked: Vec<_> = std::iter::from_fn(|| net.agents[0].agent.poll_transmit()).collect();
    assert_eq!(asked[0].to, addr("203.0.113.66:9"));
    net.run(10_000);
    assert_eq!(net.agents[0].endpoint(), addr("198.51.100.2:41641"));
}

#[test]
fn restart_checks_everything_and_keeps_the_primary_meanwhile() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    net.demand_both(Demand::Warm);
    net.run(1_000);
    let (now, sent) = (net.now, net.agents[0].sent);
    net.agents[0].agent.restart(now);
    assert!(net.agents[0].agent.primary().is_some());
    net.run(500);
    assert_eq!(net.agents[0].sent, sent + 1);
    assert!(net.agents[0].agent.primary().is_some());
}

#[test]
fn a_peer_that_is_wanted_again_is_checked_before_it_is_trusted() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    net.demand_both(Demand::Warm);
    net.run(1_000);
    net.demand_both(Demand::Idle);
    net.run(60_000);
    net.dead.insert(ip("198.51.100.2"));
    net.demand_both(Demand::Active);
    net.run(3_500);
    assert_eq!(net.agents[0].agent.primary(), None);
}

#[test]
fn answers_from_elsewhere_and_to_foreign_transactions_validate_nothing() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    let now = net.now;
    let b_key = net.agents[1].agent.key().clone();
    let host = &mut net.agents[0];
    host.demand(Demand::Active, now);
    host.agent.handle_timeout(now);
    let asked = host.agent.poll_transmit().unwrap();
    let request = CheckRequest::decode(&asked.payload, &b_key).unwrap();
    let mapped = addr("198.51.100.1:41641");
    let answer = CheckResponse { transaction: request.transaction, mapped };
    let foreign = CheckResponse { transaction: TransactionId::new([7; 12]), mapped };
    host.agent.handle_response(addr("203.0.113.66:41641"), &answer, now);
    host.agent.handle_response(asked.to, &foreign, now);
    assert_eq!(host.agent.primary(), None);
    // The true answer still counts, once, and not when it is too late.
    assert!(host.agent.asked.contains_key(&request.transaction));
    host.agent.handle_response(asked.to, &answer, now + Duration::from_secs(6));
    assert_eq!(host.agent.primary(), None);
    host.agent.handle_response(asked.to, &answer, now + Duration::from_millis(50));
    assert_eq!(host.agent.primary().unwrap().endpoint, asked.to);
    assert!(!host.agent.asked.contains_key(&request.transaction));
}

#[test]
fn an_echo_at_a_candidate_address_is_not_taken_for_the_peer() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    net.dead.insert(ip("198.51.100.2"));
    net.echo = Some(addr("203.0.113.66:7"));
    let now = net.now;
    net.agents[0].agent.add_remote(addr("203.0.113.66:7"), now);
    net.agents[0].demand(Demand::Active, now);
    net.run(10_000);
    assert_eq!(net.agents[0].agent.primary(), None);
    assert!(net.agents[0].refused.contains(&StunError::Reflected));
}

#[test]
fn requests_alone_never_move_the_primary() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    net.demand_both(Demand::Active);
    net.run(1_000);
    for round in 0..200_u16 {
        let now = net.now;
        let transaction = TransactionId::new([round as u8; 12]);
        let request = CheckRequest { transaction, tag: net.agents[0].agent.tag };
        let from = SocketAddr::new(ip("203.0.113.66"), 1 + round);
        net.agents[0].agent.handle_request(from, &request, now);
        net.run(20);
    }
    net.run(5_000);
    assert_eq!(net.agents[0].endpoint(), addr("198.51.100.2:41641"));
    assert!(net.agents[0].agent.routes.len() <= MAX_LEARNT + MAX_REMOTES);
}

#[test]
fn answers_are_limited_and_some_are_kept_for_the_primary() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    net.demand_both(Demand::Warm);
    net.run(15_000);
    let now = net.now;
    let host = &mut net.agents[0];
    let mut fresh = 0..;
    let mut answers = |from: &str| {
        for round in fresh.by_ref().take(50) {
            let transaction = TransactionId::new([round; 12]);
            let request = CheckRequest { transaction, tag: host.agent.tag };
            host.agent.handle_request(addr(from), &request, now);
        }
        let out: Vec<_> = std::iter::from_fn(|| host.agent.poll_transmit()).collect();
        out.iter().filter(|out| out.payload[0] == 1).count()
    };
    assert_eq!(answers("203.0.113.66:9"), 7);
    assert_eq!(answers("198.51.100.2:41641"), 3);
}

#[test]
fn a_request_is_answered_once_wherever_it_is_said_to_come_from() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    net.demand_both(Demand::Warm);
    net.run(15_000);
    let (peer, now) = (addr("198.51.100.2:41641"), net.now);
    let host = &mut net.agents[0];
    let recorded = CheckRequest { transaction: TransactionId::new([1; 12]), tag: host.agent.tag };
    for _ in 0..1000 {
        host.agent.handle_request(peer, &recorded, now);
        host.agent.handle_request(addr("203.0.113.66:9"), &recorded, now);
    }
    let honest = CheckRequest { transaction: TransactionId::new([2; 12]), tag: host.agent.tag };
    host.agent.handle_request(peer, &honest, now);
    let answers = std::iter::from_fn(|| host.agent.poll_transmit());
    let answers: Vec<_> = answers.filter(|out| out.payload[0] == 1).map(|out| out.to).collect();
    assert_eq!(answers, [peer, peer], "the recorded one once, and the honest one still");
}

#[test]
fn ten_thousand_candidates_cost_a_bounded_number_of_checks() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    let mut remotes = vec![addr("127.0.0.1:1"), addr("255.255.255.255:1"), addr("224.0.0.1:1")];
    remotes.extend(
        (0..10_000_u32)
            .map(|i| SocketAddr::new(std::net::Ipv4Addr::from(0x0801_0000 + i).into(), 5)),
    );
    let now = net.now;
    net.agents[0].agent.set_remotes(&remotes, now);
    net.agents[0].demand(Demand::Active, now);
    // A hostile peer that names new addresses all the time gains nothing.
    for chunk in remotes.chunks(24) {
        let now = net.now;
        net.agents[0].agent.set_remotes(chunk, now);
        net.run(10);
    }
    assert!(net.agents[0].agent.routes.len() <= MAX_REMOTES + MAX_LEARNT);
    assert!(net.agents[0].sent <= MAX_IN_FLIGHT as u64, "{}", net.agents[0].sent);
}

#[test]
fn addresses_that_answered_survive_a_new_list_and_others_do_not() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641", "198.51.100.9:41641"]);
    net.dead.insert(ip("198.51.100.9"));
    net.demand_both(Demand::Active);
    net.run(1_000);
    let now = net.now;
    net.agents[0].agent.set_remotes(&[addr("203.0.113.1:1")], now);
    let known: Vec<_> = net.agents[0].agent.addresses().map(|(address, _)| address).collect();
    assert_eq!(known, [addr("198.51.100.2:41641"), addr("203.0.113.1:1")]);
    assert_eq!(net.agents[0].endpoint(), addr("198.51.100.2:41641"));
}

#[test]
fn queued_output_is_due_at_once() {
    let mut net = Net::open(&["198.51.100.1:41641"], &["198.51.100.2:41641"]);
    let now = net.now;
    let host = &mut net.agents[0];
    assert_eq!(host.agent.poll_timeout(), None);
    let request = CheckRequest { transaction: TransactionId::new([1; 12]), tag: host.agent.tag };
    host.agent.handle_request(addr("198.51.100.2:41641"), &request, now);
    assert_eq!(host.agent.poll_timeout(), Some((now, "path output is queued")));
}

/// How a NAT maps and filters (RFC 4787).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nat {
    FullCone,
    PortRestricted,
    Symmetric,
}

/// One NAT with one host behind it.
struct Router {
    kind: Nat,
    next_port: u16,
    /// Public port → where it leads, and whom it was opened towards and when.
    open: BTreeMap<u16, (SocketAddr, BTreeMap<SocketAddr, Instant>)>,
}

impl Router {
    fn out(&mut self, from: SocketAddr, to: SocketAddr, now: Instant, life: Duration) -> u16 {
        for (_, towards) in self.open.values_mut() {
            towards.retain(|_, at| now < *at + life);
        }
        self.open.retain(|_, (_, towards)| !towards.is_empty());
        let known = self.open.iter().find(|(_, (inside, towards))| {
            *inside == from && (self.kind != Nat::Symmetric || towards.contains_key(&to))
        });
        let port = known.map(|(port, _)| *port).unwrap_or_else(|| {
            self.next_port += 1;
            // Like Linux: keeps the port unless the mapping depends on the destination.
            let keeps = self.kind != Nat::Symmetric && self.next_port == 50_001;
            if keeps { from.port() } else { self.next_port }
        });
        let entry = self.open.entry(port).or_insert_with(|| (from, BTreeMap::new()));
        entry.1.insert(to, now);
        port
    }

    fn into(&mut self, from: SocketAddr, port: u16, now: Instant) -> Option<SocketAddr> {
        let (inside, towards) = self.open.get_mut(&port)?;
        if self.kind != Nat::FullCone {
            *towards.get_mut(&from)? = now;
        }
        Some(*inside)
    }

    fn forget(&mut self) {
        self.open.clear();
    }
}

struct Host {
    addresses: Vec<SocketAddr>,
    agent: PathAgent,
    events: Vec<PathEvent>,
    refused: Vec<StunError>,
    sent: u64,
    bytes: u64,
}

impl Host {
    fn demand(&mut self, demand: Demand, now: Instant) {
        self.agent.set_demand(demand, now);
    }

    fn endpoint(&self) -> SocketAddr {
        self.agent.primary().unwrap().endpoint
    }

    fn last_path(&self) -> PathEvent {
        let path =
            |event: &&PathEvent| !matches!(event, PathEvent::Observed(_) | PathEvent::Sized(_));
        *self.events.iter().rfind(path).unwrap()
    }
}

struct Net {
    now: Instant,
    agents: [Host; 2],
    nats: BTreeMap<IpAddr, Router>,
    /// Which router each host is behind, if it exists.
    public: [IpAddr; 2],
    flying: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    count: u64,
    delays: BTreeMap<IpAddr, Duration>,
    dead: BTreeSet<IpAddr>,
    echo: Option<SocketAddr>,
    mapping_life: Duration,
    /// Per cent.
    loss: u64,
    dice: u64,
    drop_next: u32,
    /// The longest payload that passes.
    width: usize,
    /// The address of a host that a datagram came to last, by where it came from: a host with
    /// several addresses answers from the one that was asked.
    reached: BTreeMap<SocketAddr, SocketAddr>,
}

impl Net {
    fn new(addresses: [Vec<SocketAddr>; 2], told: [Vec<SocketAddr>; 2]) -> Self {
        // The only clock in these tests: an origin for virtual time.
        let now = Instant::now() + Duration::from_secs(3600);
        let secrets = [WgSecret::from_bytes([1; 32]), WgSecret::from_bytes([2; 32])];
        let agents = [0, 1].map(|side: usize| {
            let key = CheckKey::derive(&secrets[side], &secrets[1 - side].public()).unwrap();
            let mut interfaces = InterfaceSnapshot::default();
            for address in &addresses[side] {
                let prefix_len = if address.is_ipv4() { 24 } else { 64 };
                // Public addresses come alone, as behind a router of a provider.
                let lan = address.to_string().starts_with("192.168");
                let prefix_len = if lan { prefix_len } else { prefix_len * 2 };
                let prefix_len = if address.is_ipv4() { prefix_len.min(32) } else { prefix_len };
                let address = address.ip();
                interfaces.addresses.push(InterfaceAddress {
                    link: 2,
                    address,
                    prefix_len,
                    mtu: 1500,
                });
            }
            let here = Arc::new(Surroundings::new(&interfaces, 41641, &[]));
            let mut agent = PathAgent::new(key, [side as u8; 32], here, UNIX, now);
            agent.set_remotes(&told[1 - side], now);
            let (events, refused) = (Vec::new(), Vec::new());
            Host { addresses: addresses[side].clone(), agent, events, refused, sent: 0, bytes: 0 }
        });
        Self {
            now,
            agents,
            nats: BTreeMap::new(),
            public: [ip("198.51.100.1"), ip("198.51.100.2")],
            flying: BTreeMap::new(),
            count: 0,
            delays: BTreeMap::new(),
            dead: BTreeSet::new(),
            echo: None,
            mapping_life: Duration::from_secs(120),
            loss: 0,
            dice: 0,
            drop_next: 0,
            width: 1472,
            reached: BTreeMap::new(),
        }
    }

    /// Hosts without NATs that tell all their addresses.
    fn open(a: &[&str], b: &[&str]) -> Self {
        let addresses = [a, b].map(|list| list.iter().map(|text| addr(text)).collect::<Vec<_>>());
        Self::new(addresses.clone(), addresses)
    }

    /// Hosts behind a NAT each that tell the address that a STUN server would have seen.
    fn two_nats(a: Nat, b: Nat) -> Self {
        let inside = [vec![addr("10.1.0.2:41641")], vec![addr("10.2.0.2:41641")]];
        let told = [vec![addr("198.51.100.1:41641")], vec![addr("198.51.100.2:41641")]];
        let mut net = Self::new(inside, told);
        for (kind, public) in [(a, "198.51.100.1"), (b, "198.51.100.2")] {
            net.nats.insert(ip(public), Router { kind, next_port: 50_000, open: BTreeMap::new() });
        }
        // The mapping that the STUN server made visible; a symmetric NAT made another one for it.
        for side in [0, 1] {
            let server = addr("203.0.113.3:3478");
            net.translate(side, server);
        }
        net
    }

    fn delay_to(&mut self, address: &str, ms: u64) {
        self.delays.insert(ip(address), Duration::from_millis(ms));
    }

    fn demand_both(&mut self, demand: Demand) {
        let now = self.now;
        self.agents.iter_mut().for_each(|host| host.demand(demand, now));
    }

    /// The source that the Internet sees.
    fn translate(&mut self, side: usize, to: SocketAddr) -> SocketAddr {
        let (now, life) = (self.now, self.mapping_life);
        let own = self.agents[side].addresses.iter().copied();
        let lan = to.to_string().starts_with("192.168");
        let own = own
            .filter(|own| own.is_ipv4() == to.is_ipv4())
            .min_by_key(|own| own.to_string().starts_with("192.168") != lan);
        let own = own.unwrap();
        let public = self.public[side];
        match self.nats.get_mut(&public) {
            Some(router) => SocketAddr::new(public, router.out(own, to, now, life)),
            None => *self.reached.get(&to).unwrap_or(&own),
        }
    }

    fn send(&mut self, side: usize, out: Transmit) {
        if out.payload[0] == 0 {
            self.reached.remove(&out.to);
        }
        let from = self.translate(side, out.to);
        let host = &mut self.agents[side];
        host.sent += 1;
        host.bytes += out.payload.len() as u64 + 28;
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let lost = (self.dice >> 33) % 100 < self.loss;
        if self.drop_next > 0 {
            self.drop_next -= 1;
            return;
        }
        let lost = lost || out.payload.len() > self.width;
        if lost || self.dead.contains(&out.to.ip()) || self.dead.contains(&from.ip()) {
            return;
        }
        let mut hops = self.delays.get(&out.to.ip()).or(self.delays.get(&from.ip())).copied();
        let delay = hops.get_or_insert(Duration::from_millis(25));
        self.count += 1;
        self.flying.insert((self.now + *delay, self.count), (from, out.to, out.payload));
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        let now = self.now;
        if self.echo == Some(to) {
            self.count += 1;
            let at = now + Duration::from_millis(25);
            self.flying.insert((at, self.count), (to, from, payload));
            return;
        }
        let inside = match self.nats.get_mut(&to.ip()) {
            Some(router) => router.into(from, to.port(), now),
            None => Some(to),
        };
        let host =
            self.agents.iter_mut().find(|h| inside.is_some_and(|to| h.addresses.contains(&to)));
        let Some(host) = host else { return };
        self.reached.insert(from, to);
        let key = host.agent.key().clone();
        match Envelope::peek(&payload).unwrap() {
            Envelope::Request(tag) => {
                assert!(key.tags(UNIX).contains(&tag));
                match CheckRequest::decode(&payload, &key) {
                    Ok(request) => host.agent.handle_request(from, &request, now),
                    Err(error) => host.refused.push(error),
                }
            }
            Envelope::Response(_) => {
                let response = CheckResponse::decode(&payload, &key).unwrap();
                host.agent.handle_response(from, &response, now);
            }
        }
    }

    /// Lets virtual time pass.
    fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            for side in [0, 1] {
                while let Some(out) = self.agents[side].agent.poll_transmit() {
                    self.send(side, out);
                }
                while let Some(event) = self.agents[side].agent.poll_event() {
                    self.agents[side].events.push(event);
                }
            }
            let packet = self.flying.first_key_value().map(|((at, _), _)| *at);
            let timer = self.agents.iter().filter_map(|host| host.agent.poll_timeout());
            let timer = timer.map(|(at, _)| at).min();
            let next = packet.into_iter().chain(timer).min().filter(|next| *next <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            let now = self.now;
            if packet.is_some_and(|at| at <= now) {
                let (_, (from, to, payload)) = self.flying.pop_first().unwrap();
                self.deliver(from, to, payload);
            } else {
                self.agents.iter_mut().for_each(|host| host.agent.handle_timeout(now));
            }
        }
        self.now = end;
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
