//! What a hostile member, or whoever saw its datagrams, can make one device do: the real [`Mesh`]
//! of an admin, driven by hand.

use std::time::Duration;

use super::event::{Input, RequestId};
use super::peer::{Purpose, Who};
use super::stage::{Stage, UNIX, Villain, villain};
use super::writes::Then;
use super::*;
use crate::forward::{SlotIndex, Tunnel, Upcall};
use crate::membership::OpBody;
use crate::membership::invite::InviteId;
use crate::wire::control::{
    Control, Endpoints, Hello, Introduction, IntroductionRequest, Passing, Ping, Secret, VERSION,
};
use crate::wire::stun::{CheckKey, CheckRequest, TransactionId};

#[test]
fn a_member_cannot_give_the_network_a_secret_of_its_own() {
    let (mut stage, mallory) = (Stage::new(), villain(3));
    stage.admit(&mallory, "mallory");
    let key = stage.proven(&mallory);
    for generation in [0, 1, u32::MAX] {
        let forged = NetworkSecret::new(generation, [0x66; 32]);
        stage.say(key, &Control::Secret(Secret::from(&forged))).unwrap();
        assert_ne!(stage.mesh.me.secret.as_ref().unwrap().key(), &[0x66; 32], "{generation}");
    }
    // The one that an admin's Revoke names is taken.
    let next = NetworkSecret::new(1, [0x77; 32]);
    let revoke = OpBody::Revoke {
        device: villain(9).id.public(),
        reason: String::new(),
        knet_generation: 1,
        knet_hash: crate::identity::hash(next.key()),
    };
    stage.mesh.act(revoke, Then::Revoked { request: RequestId(2) }, stage.now).unwrap();
    stage.drain();
    stage.say(key, &Control::Secret(Secret::from(&next))).unwrap();
    assert_eq!(stage.mesh.me.secret.as_ref().unwrap().key(), &[0x77; 32]);
}

#[test]
fn a_replayed_check_does_not_use_up_the_answers_of_the_others() {
    let (mut stage, mallory, alice) = (Stage::new(), villain(3), villain(4));
    stage.admit(&mallory, "mallory");
    stage.admit(&alice, "alice");
    let ours = stage.mesh.me.identity.wg.public();
    let check = |villain: &Villain, n: u8| {
        let key = CheckKey::derive(&villain.wg, &ours).unwrap();
        let transaction = TransactionId::new([n; 12]);
        CheckRequest { transaction, tag: key.tag(UNIX.0) }.encode(&key)
    };
    let replay = check(&mallory, 1);
    for n in 0..1000u16 {
        let from = std::net::SocketAddr::from(([203, 0, 113, 9], 1000 + n));
        let upcall = Upcall::Datagram { from, bytes: replay.clone() };
        let _ = stage.mesh.handle_input(Input::Upcall(upcall), stage.now);
    }
    let from = "198.51.100.4:41641".parse().unwrap();
    let upcall = Upcall::Datagram { from, bytes: check(&alice, 2) };
    assert_eq!(stage.mesh.handle_input(Input::Upcall(upcall), stage.now), Ok(()));
    stage.drain();
    assert!(stage.sent.iter().any(|sent| sent.to == from), "alice was not answered");
}

#[test]
fn what_cannot_prove_itself_is_heard_fifty_times_a_second() {
    let (mut stage, mallory) = (Stage::new(), villain(3));
    stage.admit(&mallory, "mallory");
    let key = stage.mesh.bring_member(&mallory.id.public(), Purpose::User, stage.now).unwrap();
    let hello = |n: u16| {
        let mut nonce = [0; 16];
        nonce[..2].copy_from_slice(&n.to_be_bytes());
        let (id, cert) = (mallory.id.public(), crate::membership::OpId::NONE);
        let hello = Hello { version: VERSION, id, cert, digest: [0; 8], knet_generation: 0, nonce };
        Control::Hello(hello)
    };
    let heard = (0..1000).filter(|n| stage.say(key, &hello(*n)).is_ok()).count();
    assert_eq!(heard, 50, "each costs two signatures");
}

#[test]
fn greeting_again_buys_no_further_messages() {
    let (mut stage, mallory) = (Stage::new(), villain(3));
    stage.admit(&mallory, "mallory");
    let mut heard = 0;
    for _ in 0..20 {
        let key = stage.proven(&mallory);
        let ping = Control::Ping(Ping { token: 1, padding: Vec::new() });
        heard += (0..100).filter(|_| stage.say(key, &ping).is_ok()).count();
    }
    assert_eq!(heard, 50);
}

#[test]
fn being_let_go_and_called_again_buys_no_further_messages() {
    let (mut stage, mallory) = (Stage::new(), villain(3));
    stage.admit(&mallory, "mallory");
    let (mut heard, mut introduced) = (0, 0);
    let at = Endpoints { seq: 1, endpoints: Vec::new(), nat: 0 };
    let device = villain(4).id.public();
    let (passing, way) = (Passing::Nearest, vec![device]);
    let asked = IntroductionRequest { device, at: at.clone(), passing, way: Vec::new() };
    let messages = [
        Control::Introduce(asked),
        Control::Introduced(Introduction { device, at: at.clone(), way: Vec::new() }),
        Control::Introduced(Introduction { device, at, way }),
    ];
    for _ in 0..20 {
        let key = stage.proven(&mallory);
        let ping = Control::Ping(Ping { token: 1, padding: Vec::new() });
        heard += (0..100).filter(|_| stage.say(key, &ping).is_ok()).count();
        let budget = &mut stage.mesh.peers.touch(key).unwrap().introductions;
        for what in messages.iter().cycle().take(300) {
            introduced += usize::from(budget.take(what, stage.now));
        }
        stage.mesh.drop_peer(key, stage.now);
    }
    assert_eq!((heard, introduced), (50, 3 * 32));
}

#[test]
fn a_recorded_initiation_does_not_end_the_search_for_who_made_it() {
    let (mut stage, alice) = (Stage::new(), villain(4));
    stage.admit(&alice, "alice");
    let device = alice.id.public();
    stage.mesh.bring_member(&device, Purpose::User, stage.now).unwrap();
    assert!(stage.mesh.directory.is_wanted(&device));
    let ours = stage.mesh.me.identity.wg.public();
    let bytes = Tunnel::new(&alice.wg, &ours, SlotIndex(9)).unwrap().initiate(stage.now);
    let from = "198.51.100.66:41641".parse().unwrap();
    let upcall = Upcall::Handshake { from, bytes };
    assert_eq!(stage.mesh.handle_input(Input::Upcall(upcall), stage.now), Ok(()));
    stage.drain();
    assert!(stage.sent.iter().any(|sent| sent.to == from), "it was answered");
    assert!(stage.mesh.directory.is_wanted(&device));
}

#[test]
fn one_member_cannot_have_any_number_of_others_looked_for() {
    let (mut stage, mallory) = (Stage::new(), villain(3));
    stage.admit(&mallory, "mallory");
    let others: Vec<_> = (10..110).map(villain).collect();
    for (n, other) in others.iter().enumerate() {
        stage.admit(other, &format!("d{n}"));
    }
    let key = stage.proven(&mallory);
    let before = stage.mesh.peers.iter().count();
    stage.mesh.outputs.clear();
    for other in &others {
        let endpoints = vec!["192.0.2.1:53".parse().unwrap()];
        let at = Endpoints { seq: 1, endpoints, nat: 0 };
        let device = other.id.public();
        let introduction = Introduction { device, at, way: Vec::new() };
        let _ = stage.say(key, &Control::Introduced(introduction));
    }
    assert!(stage.mesh.peers.iter().count() - before <= 32);
}

#[test]
fn the_workers_learn_first_where_it_stands_what_is_expected_though_there_is_no_peer() {
    let mut stage = Stage::founded();
    stage.mesh.handle_timeout(stage.now);
    let told = |output| match output {
        Output::Table(table) => Some(std::ptr::eq(table.expected(), &**stage.mesh.tags.expected())),
        _ => None,
    };
    assert_eq!(stage.mesh.outputs.drain(..).find_map(told), Some(true));
}

#[test]
fn a_full_table_of_peers_still_lets_a_member_in() {
    let (mut stage, alice) = (Stage::new(), villain(4));
    stage.admit(&alice, "alice");
    let key = stage.mesh.bring_member(&alice.id.public(), Purpose::User, stage.now).unwrap();
    stage.mesh.drop_peer(key, stage.now);
    for n in 0..peers::MAX_PEERS as u32 {
        let mut seed = [9; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        let remote = WgSecret::from_bytes(seed).public();
        let caller = tags::Caller { who: Who::Guest(InviteId([0; 16])), remote };
        stage.mesh.allow(caller);
        assert!(stage.mesh.bring(caller, stage.now).is_some());
    }
    assert!(stage.mesh.bring_member(&alice.id.public(), Purpose::User, stage.now).is_some());
}

#[test]
fn packets_without_a_session_do_not_put_off_the_handshake_that_is_due() {
    let (mut stage, alice) = (Stage::new(), villain(4));
    stage.admit(&alice, "alice");
    let key = stage.mesh.bring_member(&alice.id.public(), Purpose::User, stage.now).unwrap();
    let due = stage.now + Duration::from_millis(500);
    stage.mesh.peers.touch(key).unwrap().call_at(due);
    stage.mesh.next_look(key, due);
    let destination = stage.mesh.ledger.roster().get(&alice.id.public()).unwrap().ipv6.into();
    for _ in 0..20 {
        stage.now += Duration::from_millis(49);
        let upcall = Upcall::NoSession { destination, packet: vec![0x60; 40] };
        stage.mesh.handle_input(Input::Upcall(upcall), stage.now).unwrap();
        let look = stage.mesh.deadlines.get(&Timer::Peer(key)).unwrap();
        assert!(look <= due, "put off by {:?}", look - due);
    }
}

#[test]
fn whoever_rang_in_a_crowd_is_called_a_little_later() {
    let mut stage = Stage::new();
    let crowd: Vec<_> = (10..23).map(villain).collect();
    for (n, ringing) in crowd.iter().enumerate() {
        stage.admit(ringing, &format!("d{n}"));
    }
    let keys: Vec<_> = stage.mesh.peers.iter().map(|peer| peer.key).collect();
    keys.into_iter().for_each(|key| stage.mesh.drop_peer(key, stage.now));
    for ringing in &crowd {
        stage.mesh.keep_company(&ringing.id.public(), stage.now);
    }
    let called = |stage: &Stage| {
        let is_called =
            |villain: &&Villain| stage.mesh.peers.member(&villain.id.public()).is_some();
        crowd.iter().filter(is_called).count()
    };
    assert_eq!(called(&stage), 8);
    for more in 1..=5 {
        stage.now += Duration::from_secs(1);
        stage.mesh.handle_timeout(stage.now);
        stage.drain();
        assert_eq!(called(&stage), 8 + more);
    }
}

#[test]
fn pinging_a_device_that_is_off_every_second_asks_for_it_ever_more_seldom() {
    let (mut stage, alice, bob) = (Stage::new(), villain(4), villain(5));
    stage.admit(&alice, "alice");
    stage.admit(&bob, "bob");
    stage.proven(&bob);
    let destination = stage.mesh.ledger.roster().get(&alice.id.public()).unwrap().ipv6.into();
    let mut asked = BTreeSet::new();
    for _ in 0..300 {
        stage.now += Duration::from_secs(1);
        let upcall = Upcall::NoSession { destination, packet: vec![0x60; 40] };
        stage.mesh.handle_input(Input::Upcall(upcall), stage.now).unwrap();
        stage.mesh.handle_timeout(stage.now);
        stage.drain();
        let key = stage.mesh.peers.member(&alice.id.public()).unwrap();
        asked.insert(stage.mesh.peers.get(key).unwrap().asking.due());
    }
    // After 1, 2, 4, 8, and then each 16 s.
    assert!((15..=25).contains(&asked.len()), "{} times", asked.len());
}

#[test]
fn nobody_calls_the_key_of_a_guest_that_uses_another_by_now() {
    let (mut stage, guest) = (Stage::new(), villain(4));
    let caller = tags::Caller { who: Who::Guest(InviteId([0; 16])), remote: guest.wg.public() };
    stage.mesh.allow(caller);
    let ours = stage.mesh.me.identity.wg.public();
    let mut tunnel = Tunnel::new(&guest.wg, &ours, SlotIndex(9)).unwrap();
    let from = "198.51.100.66:41641".parse().unwrap();
    let upcall = Upcall::Handshake { from, bytes: tunnel.initiate(stage.now) };
    stage.mesh.handle_input(Input::Upcall(upcall), stage.now).unwrap();
    stage.drain();
    let response = stage.sent.pop().unwrap().payload;
    let mut confirmation = Vec::new();
    tunnel.handle_handshake(&response, &mut confirmation, stage.now).unwrap();
    let slot = stage.mesh.peers.of(&caller.who).next().unwrap().slot.clone();
    let mut ours = slot.tunnel.lock();
    ours.open_into(&confirmation[0], &mut [0; 64], stage.now).unwrap();
    ours.seal_to_vec(&[0x45; 20], stage.now).unwrap();
    let mut sent = Vec::new();
    while let Some((due, _)) = ours.poll_timeout() {
        ours.handle_timeout(&mut sent, due);
    }
    assert_eq!(sent, Vec::<Vec<u8>>::new());
}

#[test]
fn a_client_that_pings_for_a_year_and_goes_away_keeps_no_peer() {
    let (mut stage, alice) = (Stage::new(), villain(4));
    stage.admit(&alice, "alice");
    let request = api::Request::Ping {
        device: "alice".to_owned(),
        count: None,
        until_direct: false,
        timeout_ms: u64::MAX,
    };
    stage.mesh.handle_input(Input::Request(RequestId(5), request), stage.now).unwrap();
    stage.mesh.handle_input(Input::Cancel(RequestId(5)), stage.now).unwrap();
    let key = stage.mesh.peers.member(&alice.id.public()).unwrap();
    let wanted = stage.mesh.peers.get(key).unwrap().wanted_until;
    assert!(wanted <= stage.now + sessions::WANTED_FOR, "{:?}", wanted - stage.now);
}
