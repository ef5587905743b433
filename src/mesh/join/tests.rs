//! Guests and sponsors over tunnels with a delay and loss, in virtual time, with real signatures.
//! The test's world does what `Mesh` does: it gives tunnels, writes Grants and keeps rosters.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::api::{self, ErrorKind, Stage};
use crate::identity::{
    AdminSecret, DeviceId, IdSecret, NetworkId, RootSecret, Signature, WgPublicKey, WgSecret,
};
use crate::membership::op::{Author, bind};
use crate::membership::{
    Certificate, DeviceName, Flags, Genesis, GenesisPool, Invite, Logs, OpBody, Roster, SignedOp,
    UnixTime, Verified,
};
use crate::mesh::key::PeerKey;
use crate::mesh::rate::tests::start;
use crate::wire::control::join::{
    JoinClaim, JoinHello, JoinOffer, JoinProve, JoinRequest, JoinScene, Refusal,
};
use crate::wire::control::{Control, OpBytes, Ops, Secret};
use crate::wire::record::NetworkSecret;

const WALL: UnixTime = UnixTime(1_800_000_000);
const DAY: u64 = 86_400;

#[test]
fn a_guest_becomes_a_member_in_three_round_trips_and_a_handshake() {
    let (mut world, invite) = World::with_laptop();
    world.run(Duration::from_secs(5));
    let guest = &world.guests[0];
    assert_eq!(
        guest.stages(),
        [Stage::Searching, Stage::Reaching, Stage::Connected, Stage::Requested, Stage::Admitted]
    );
    let took = guest.admitted.unwrap() - world.start;
    println!("join over tunnels that stand, 50 ms round trip: {took:?}");
    assert_eq!(took, Duration::from_millis(3 * 50));
    assert_eq!(guest.roster().unwrap().by_name("laptop").unwrap().id, guest.id());
    assert_eq!(guest.logs.as_ref().unwrap().digest(), world.offices[0].logs.digest());
    assert_eq!(guest.secret.as_ref().unwrap().generation, 7);
    assert!(!world.offices[0].guest_is_open(&invite));
}

#[test]
fn a_join_survives_loss() {
    for seed in 0..30 {
        let mut world = World::seeded(25, seed);
        let invite = world.invite(0, None);
        world.guest(&invite, 50, "laptop");
        world.connect(0, 0);
        world.run(Duration::from_secs(60));
        assert!(world.guests[0].admitted.is_some(), "{seed}: {:?}", world.guests[0].log);
        assert_eq!(world.offices[0].grants(), 2, "the founder's and one more");
    }
}

#[test]
fn a_device_joins_a_network_whose_log_is_longer_than_one_answer() {
    for loss in [0, 5] {
        let mut world = World::new(loss);
        for n in 0..300u16 {
            let seed = [&n.to_be_bytes()[..], &[9; 30]].concat().try_into().unwrap();
            let (id, wg) = (IdSecret::from_seed(seed), WgSecret::from_bytes(seed).public());
            let office = &world.offices[0];
            let bound = bind(&id, &wg, &office.genesis.network_id());
            let grant = office.grant((id.public(), wg), &format!("d{n}"), None, bound);
            world.offices[0].sign_only(grant);
        }
        world.offices[0].refresh();
        let invite = world.invite(0, None);
        world.guest(&invite, 50, "laptop");
        world.connect(0, 0);
        world.run(Duration::from_secs(60));
        let guest = &world.guests[0];
        let took = guest.admitted.expect("it is admitted") - world.start;
        let bytes = world.offices[0].logs.bytes() / 1024;
        println!("join with {bytes} KiB of logs, {loss} % loss: {took:?}, {} messages", world.sent);
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert!(world.sent < 400, "nothing is repeated for nothing: {}", world.sent);
        assert!(guest.secret.is_some());
    }
}

#[test]
fn of_two_devices_with_one_invite_at_the_same_instant_one_gets_in() {
    let mut world = World::new(0);
    let invite = world.invite(0, None);
    world.guest(&invite, 50, "laptop");
    world.guest(&invite, 60, "thief");
    world.connect(0, 0);
    world.connect(1, 0);
    world.run(Duration::from_secs(20));
    let inside: Vec<bool> = world.guests.iter().map(|guest| guest.admitted.is_some()).collect();
    assert_eq!(inside, [true, false]);
    assert_eq!(world.offices[0].grants(), 2);
    let error = world.guests[1].error.as_ref().unwrap();
    assert_eq!(error.kind, ErrorKind::Failed);
    assert!(error.message.contains("used by another device already"), "{}", error.message);
}

#[test]
fn while_a_grant_is_being_written_the_second_device_waits() {
    let mut world = World::new(0);
    world.offices[0].disk = Disk::Slow;
    let invite = world.invite(0, None);
    world.guest(&invite, 50, "laptop");
    world.guest(&invite, 60, "thief");
    world.connect(0, 0);
    world.connect(1, 0);
    world.run(Duration::from_secs(2));
    assert!(world.guests.iter().all(|guest| guest.admitted.is_none() && guest.error.is_none()));
    world.offices[0].disk = Disk::Good;
    world.write_pending();
    world.run(Duration::from_secs(20));
    assert!(world.guests[0].admitted.is_some());
    assert!(world.guests[1].error.is_some());
    assert_eq!(world.offices[0].grants(), 2);
}

#[test]
fn a_used_invite_is_worthless_a_year_later_too() {
    let (mut world, invite) = World::with_laptop();
    world.run(Duration::from_secs(5));
    world.pass(12 * 3600);
    world.guest(&invite, 60, "late");
    world.connect(1, 0);
    world.run(Duration::from_secs(5));
    let error = world.guests[1].error.as_ref().unwrap();
    assert!(error.message.contains("used by another device already"), "{}", error.message);
    world.pass(365 * DAY);
    assert_eq!(world.offices[0].guests().len(), 0, "the guest key is not answered any more");
}

#[test]
fn a_device_whose_answer_was_lost_gets_the_same_answer_again() {
    let (mut world, invite) = World::with_laptop();
    world.run(Duration::from_secs(5));
    // The joiner was killed before it saved its Grant, and starts again with the keys it kept.
    world.guest(&invite, 50, "laptop");
    world.connect(1, 0);
    world.run(Duration::from_secs(5));
    assert!(world.guests[1].admitted.is_some(), "{:?}", world.guests[1].log);
    assert_eq!(world.offices[0].grants(), 2);
}

#[test]
fn expired_and_closed_invites_are_refused_with_the_reason() {
    let mut world = World::new(0);
    let expired = world.invite(0, None);
    world.pass(DAY + 1);
    let closed = world.invite(0, None);
    world.offices[0].sign(OpBody::InviteClose { invite: closed.keys().id });
    world.guest(&expired, 50, "a");
    world.guest(&closed, 60, "b");
    world.connect(0, 0);
    world.connect(1, 0);
    world.run(Duration::from_secs(2));
    let messages: Vec<_> =
        world.guests.iter().map(|g| &g.error.as_ref().unwrap().message).collect();
    assert!(messages[0].contains("expired"), "{messages:?}");
    assert!(messages[1].contains("withdrawn"), "{messages:?}");
    assert_eq!(world.offices[0].grants(), 1);
}

#[test]
fn an_invite_that_expires_between_request_and_proof_admits_nobody() {
    let (mut world, _) = World::with_laptop();
    world.run(Duration::from_millis(110));
    assert_eq!(world.guests[0].joiner.stage(), Stage::Requested);
    world.pass(DAY + 1);
    world.run(Duration::from_secs(2));
    assert!(world.guests[0].error.as_ref().unwrap().message.contains("expired"));
    assert_eq!(world.offices[0].grants(), 1);
}

#[test]
fn a_fake_network_for_a_stolen_token_is_told_apart() {
    let mut world = World::new(0);
    let invite = world.invite(0, None);
    let thief = world.fake(&invite);
    world.guest(&invite, 50, "laptop");
    world.connect(0, thief);
    world.run(Duration::from_secs(5));
    assert!(world.guests[0].error.is_none(), "a better one may come");
    world.run(Duration::from_secs(10));
    let error = world.guests[0].error.as_ref().unwrap();
    assert_eq!(error.kind, ErrorKind::Failed);
    assert!(error.message.contains("does not belong to the network of this invite"));
    assert!(!world.guests[0].log.iter().any(|line| line.contains("Verified")));
    assert_eq!(world.offices[thief].grants(), 1);
}

#[test]
fn the_true_network_wins_over_a_fake_one() {
    let mut world = World::new(0);
    let invite = world.invite(0, None);
    let thief = world.fake(&invite);
    world.guest(&invite, 50, "laptop");
    world.connect(0, thief);
    world.run(Duration::from_secs(5));
    assert!(!world.guests[0].joiner.wants_sponsor(&world.offices[thief].wg.public()));
    world.connect(0, 0);
    world.run(Duration::from_secs(5));
    assert!(world.guests[0].admitted.is_some());
}

#[test]
fn an_offer_must_be_signed_from_the_genesis_to_the_key_of_the_tunnel() {
    let mut world = World::new(0);
    let member = world.member(0, 30, "nas");
    let office = &world.offices[0];
    let network = office.genesis.network_id();
    let check = |change: &dyn Fn(&mut Vec<JoinOffer>), wg: WgPublicKey| {
        let genesis = office.genesis.encode();
        let mut parts =
            offer::make(&genesis, &office.id.public(), &office.roster, &office.logs).unwrap();
        change(&mut parts);
        let mut all = offer::Parts::default();
        let whole = parts.iter().filter_map(|part| all.add(part)).count() > 0;
        assert!(whole);
        all.verify(&network, &wg).map(|shown| shown.sponsor)
    };
    let wg = office.wg.public();
    assert_eq!(check(&|_| {}, wg), Ok(office.id.public()));
    let other = WgSecret::from_bytes([77; 32]).public();
    assert_eq!(check(&|_| {}, other), Err(offer::OfferError::Uncertified));
    assert_eq!(
        check(&|_| {}, world.offices[member].wg.public()),
        Err(offer::OfferError::Uncertified)
    );
    let genesis = |parts: &mut Vec<JoinOffer>| parts[0].genesis[5] ^= 1;
    assert_eq!(check(&genesis, wg), Err(offer::OfferError::Network));
    let empty = |parts: &mut Vec<JoinOffer>| parts[0].genesis.clear();
    assert_eq!(check(&empty, wg), Err(offer::OfferError::Network));
    let forged = |parts: &mut Vec<JoinOffer>| parts[0].ops[0].0[3] ^= 1;
    assert_eq!(check(&forged, wg), Err(offer::OfferError::Signature));
    let garbage = |parts: &mut Vec<JoinOffer>| parts[0].ops.push(OpBytes(vec![0xff; 1000]));
    assert_eq!(check(&garbage, wg), Err(offer::OfferError::Signature));
    // Without its first op the root's log begins in the middle, and nobody is an admin.
    let beheaded = |parts: &mut Vec<JoinOffer>| drop(parts[0].ops.remove(0));
    assert!(check(&beheaded, wg).is_err());
    let no_grant = |parts: &mut Vec<JoinOffer>| drop(parts.last_mut().unwrap().ops.pop());
    assert_eq!(check(&no_grant, wg), Err(offer::OfferError::Uncertified));
}

#[test]
fn parts_of_an_offer_may_come_in_any_order_and_lie_without_harm() {
    let part = |part, parts, nonce: u8| JoinOffer {
        guest_nonce: [0; 16],
        nonce: [nonce; 16],
        part,
        parts,
        genesis: Vec::new(),
        ops: Vec::new(),
    };
    let mut all = offer::Parts::default();
    for bad in [part(0, 0, 1), part(5, 5, 1), part(0, 255, 1), part(255, 255, 1)] {
        assert_eq!(all.add(&bad), None);
    }
    assert_eq!(all.add(&part(2, 3, 1)), None);
    assert_eq!(all.add(&part(0, 3, 1)), None);
    assert_eq!(all.add(&part(2, 3, 1)), None);
    assert_eq!(all.add(&part(1, 3, 2)), None, "the sponsor began anew");
    assert_eq!(all.add(&part(0, 3, 2)), None);
    assert_eq!(all.add(&part(2, 3, 2)), Some([2; 16]));
}

#[test]
fn a_request_is_worth_nothing_at_another_sponsor_or_on_another_tunnel() {
    let mut world = World::new(0);
    let invite = world.invite(0, None);
    let other = world.member(0, 30, "nas");
    world.make_admin(0, other);
    let peer = PeerKey(1);
    let request = world.request(0, &invite, peer, |claim| claim.name = "laptop".parse().unwrap());
    assert_eq!(world.offices[0].ask(peer, &invite, &request), None, "good where it was made");
    assert_eq!(world.offices[0].events().len(), 1);
    let refused = Some(Refusal::BadRequest);
    assert_eq!(world.offices[other].ask(peer, &invite, &request), refused, "another sponsor");
    assert_eq!(world.offices[0].ask(PeerKey(2), &invite, &request), refused, "another tunnel");
    let Control::JoinRequest(mut other_nonce) = request else { panic!() };
    other_nonce.guest_nonce = [9; 16];
    let other_nonce = Control::JoinRequest(other_nonce);
    assert_eq!(world.offices[0].ask(peer, &invite, &other_nonce), refused, "another nonce");
}

#[test]
fn a_request_with_a_wrong_field_is_refused() {
    let mut world = World::new(0);
    let invite = world.invite(0, None);
    let member = world.member(0, 30, "nas");
    let member_wg = world.offices[member].wg.public();
    let member_id = world.offices[member].id.public();
    let peer = PeerKey(1);
    type Change<'a> = &'a dyn Fn(&mut JoinClaim);
    let changes: [(Refusal, Change<'_>); 5] = [
        (Refusal::BadRequest, &|claim| claim.bind_sig = Signature([1; 64])),
        (Refusal::BadRequest, &|claim| claim.wg = WgSecret::from_bytes([99; 32]).public()),
        (Refusal::BadRequest, &|claim| claim.invite.0[0] ^= 1),
        (Refusal::BadRequest, &|claim| {
            claim.admin = Some(AdminSecret::from_seed([9; 32]).public());
        }),
        (Refusal::BadRequest, &|claim| claim.id = member_id),
    ];
    for (n, (refusal, change)) in changes.into_iter().enumerate() {
        let request = world.request(0, &invite, peer, change);
        assert_eq!(world.offices[0].ask(peer, &invite, &request), Some(refusal), "change {n}");
    }
    // A member's tunnel key, with the consent of the new device: R7 would put both out.
    let network = world.offices[0].genesis.network_id();
    let request = world.request(0, &invite, peer, |claim| {
        claim.wg = member_wg;
        claim.bind_sig = bind(&IdSecret::from_seed([50; 32]), &member_wg, &network);
    });
    assert_eq!(world.offices[0].ask(peer, &invite, &request), Some(Refusal::KeyInUse));
    // A low-order tunnel key.
    let request = world.request(0, &invite, peer, |claim| {
        claim.wg = WgPublicKey([0; 32]);
        claim.bind_sig = bind(&IdSecret::from_seed([50; 32]), &claim.wg, &network);
    });
    assert_eq!(world.offices[0].ask(peer, &invite, &request), Some(Refusal::BadRequest));
    // A signature by another invite's key.
    let Control::JoinRequest(mut request) = world.request(0, &invite, peer, |_| {}) else {
        panic!()
    };
    request.by_invite = request.by_device;
    let request = Control::JoinRequest(request);
    assert_eq!(world.offices[0].ask(peer, &invite, &request), Some(Refusal::BadRequest));
    assert!(world.offices[0].events().is_empty());
}

#[test]
fn a_revoked_device_does_not_come_back_with_a_new_invite() {
    let mut world = World::new(0);
    let first = world.invite(0, None);
    world.guest(&first, 50, "laptop");
    world.connect(0, 0);
    world.run(Duration::from_secs(5));
    let device = world.guests[0].id();
    world.offices[0].sign(OpBody::Revoke {
        device,
        reason: String::new(),
        knet_generation: 2,
        knet_hash: [0; 32],
    });
    let second = world.invite(0, None);
    world.guest(&second, 50, "laptop");
    world.connect(1, 0);
    world.run(Duration::from_secs(20));
    let error = world.guests[1].error.as_ref().unwrap();
    assert!(error.message.contains("keys of this device"), "{}", error.message);
}

#[test]
fn a_name_that_is_taken_gets_a_number() {
    let mut world = World::new(0);
    for n in 0..3 {
        let invite = world.invite(0, None);
        world.guest(&invite, 50 + n, "laptop");
        world.connect(usize::from(n), 0);
        world.run(Duration::from_secs(3));
    }
    let roster = &world.offices[0].roster;
    for name in ["laptop", "laptop-2", "laptop-3"] {
        assert!(roster.by_name(name).is_some(), "{name}");
    }
    let long: DeviceName = "x".repeat(63).parse().unwrap();
    let id = world.guests[0].id();
    assert_eq!(unique_name(roster, &long, &id), long);
    let taken: DeviceName = "laptop".parse().unwrap();
    assert_eq!(unique_name(roster, &taken, &id), taken, "its own name");
    let other = IdSecret::from_seed([99; 32]).public();
    assert_eq!(unique_name(roster, &taken, &other).as_str(), "laptop-4");
}

#[test]
fn the_name_in_the_invite_counts() {
    let mut world = World::new(0);
    let invite = world.invite(0, Some("printer"));
    world.guest(&invite, 50, "laptop");
    world.connect(0, 0);
    world.run(Duration::from_secs(3));
    let roster = &world.offices[0].roster;
    assert_eq!(roster.by_name("printer").unwrap().id, world.guests[0].id());
}

#[test]
fn a_member_that_may_not_admit_makes_room_for_an_admin() {
    let mut world = World::new(0);
    let member = world.member(0, 30, "nas");
    let invite = world.invite(0, None);
    world.sync(0, member);
    world.guest(&invite, 50, "laptop");
    world.connect(0, member);
    world.run(Duration::from_secs(2));
    assert!(world.guests[0].admitted.is_none() && world.guests[0].error.is_none());
    world.connect(0, 0);
    world.run(Duration::from_secs(2));
    assert!(world.guests[0].admitted.is_some(), "{:?}", world.guests[0].log);
}

#[test]
fn only_members_that_may_not_admit_is_an_error_that_says_so() {
    let mut world = World::new(0);
    let member = world.member(0, 30, "nas");
    let invite = world.invite(0, None);
    world.sync(0, member);
    world.guest(&invite, 50, "laptop");
    world.connect(0, member);
    world.run(Duration::from_secs(30));
    let error = world.guests[0].error.as_ref().unwrap();
    assert!(error.message.contains("may not let others in"), "{}", error.message);
}

#[test]
fn a_silent_sponsor_makes_room_for_the_next() {
    let mut world = World::new(0);
    let invite = world.invite(0, None);
    let second = world.member(0, 30, "nas");
    world.make_admin(0, second);
    world.sync(0, second);
    world.offices[0].silent = true;
    world.guest(&invite, 50, "laptop");
    world.connect(0, 0);
    world.connect(0, second);
    world.run(Duration::from_secs(15));
    assert!(world.guests[0].admitted.is_some(), "{:?}", world.guests[0].log);
    assert_eq!(world.offices[second].grants(), 3);
}

#[test]
fn a_sponsor_whose_disk_fails_lets_the_device_try_again() {
    let mut world = World::new(0);
    world.offices[0].disk = Disk::Broken;
    let invite = world.invite(0, None);
    world.guest(&invite, 50, "laptop");
    world.connect(0, 0);
    world.run(Duration::from_secs(2));
    assert!(world.guests[0].admitted.is_none() && world.guests[0].error.is_none());
    world.offices[0].disk = Disk::Good;
    world.run(Duration::from_secs(10));
    assert!(world.guests[0].admitted.is_some(), "{:?}", world.guests[0].log);
}

#[test]
fn a_join_that_finds_nobody_says_how_far_it_came() {
    let mut world = World::new(0);
    let invite = world.invite(0, None);
    for n in 0..2 {
        world.guest(&invite, 50 + n, "laptop");
    }
    world.guests[1].joiner.reaching();
    world.run(Duration::from_secs(121));
    for (guest, word) in world.guests.iter().zip(["could be found", "could not be reached"]) {
        let error = guest.error.as_ref().unwrap();
        assert_eq!(error.kind, ErrorKind::Unreachable);
        assert!(error.message.contains(word), "{}", error.message);
        assert!(guest.joiner.is_over());
        assert_eq!(guest.joiner.poll_timeout(), None);
    }
}

#[test]
fn an_invite_for_an_admin_carries_the_key_of_its_log() {
    let mut world = World::new(0);
    let invite = world.offices[0].open(true, None);
    let peer = PeerKey(1);
    let request = world.request(0, &invite, peer, |_| {});
    assert_eq!(world.offices[0].ask(peer, &invite, &request), Some(Refusal::BadRequest));
    let admin = AdminSecret::from_seed([9; 32]).public();
    let request = world.request(0, &invite, peer, |claim| claim.admin = Some(admin));
    assert_eq!(world.offices[0].ask(peer, &invite, &request), None);
    let id = IdSecret::from_seed([50; 32]).public();
    let prove = Control::JoinProve(JoinProve { invite: invite.keys().id, id, have: 0 });
    let wg = WgSecret::from_bytes([50; 32]).public();
    world.offices[0].hear(PeerKey(3), Channel::Device(wg), &prove);
    let events = world.offices[0].events();
    let Some(SponsorEvent::Admit(admission)) = events.last() else { panic!("{events:?}") };
    assert_eq!(admission.admin, Some(admin));
}

#[test]
fn a_proof_needs_the_tunnel_of_the_requested_key() {
    let mut world = World::new(0);
    let invite = world.invite(0, None);
    let id = IdSecret::from_seed([50; 32]).public();
    let wg = WgSecret::from_bytes([50; 32]).public();
    let prove = Control::JoinProve(JoinProve { invite: invite.keys().id, id, have: 0 });
    let office = &mut world.offices[0];
    office.hear(PeerKey(3), Channel::Device(wg), &prove);
    assert_eq!(office.refusal(), Some(Refusal::Unknown), "nothing was requested");
    let request = world.request(0, &invite, PeerKey(1), |_| {});
    let office = &mut world.offices[0];
    assert_eq!(office.ask(PeerKey(1), &invite, &request), None);
    let other = WgSecret::from_bytes([51; 32]).public();
    office.hear(PeerKey(3), Channel::Device(other), &prove);
    assert_eq!(office.refusal(), Some(Refusal::BadRequest), "another key's tunnel");
    office.hear(PeerKey(1), Channel::Guest(invite.keys().id), &prove);
    assert_eq!(office.sponsor.poll_transmit(), None, "the guest's tunnel proves nothing");
    let events = office.events();
    assert!(!events.iter().any(|event| matches!(event, SponsorEvent::Admit(_))), "{events:?}");
    office.hear(PeerKey(3), Channel::Device(wg), &prove);
    office.hear(PeerKey(3), Channel::Device(wg), &prove);
    let admits = office.events();
    assert_eq!(admits.len(), 1, "once: {admits:?}");
}

#[test]
fn candidates_are_few_and_are_forgotten() {
    let mut world = World::new(0);
    let invite = world.invite(0, None);
    let network = world.offices[0].genesis.network_id();
    let mut refused = 0;
    for n in 0..20 {
        let id = IdSecret::from_seed([100 + n; 32]);
        let wg = WgSecret::from_bytes([100 + n; 32]).public();
        let scene = world.scene(0, &invite, PeerKey(1));
        let claim = JoinClaim {
            invite: invite.keys().id,
            id: id.public(),
            wg,
            admin: None,
            name: "x".parse().unwrap(),
            bind_sig: bind(&id, &wg, &network),
        };
        let request = JoinRequest::sign(claim, &scene, &network, &invite.keys().ik, &id);
        let request = Control::JoinRequest(Box::new(request));
        let answer = world.offices[0].ask(PeerKey(1), &invite, &request);
        refused += usize::from(answer == Some(Refusal::Busy));
    }
    assert_eq!(refused, 16);
    let now = world.now;
    let office = &mut world.offices[0];
    office.events();
    let (at, _) = office.sponsor.poll_timeout().unwrap();
    assert!(at > now);
    office.sponsor.handle_timeout(at + Duration::from_secs(1));
    let events = office.events();
    assert_eq!(events.len(), 4);
    assert!(events.iter().all(|event| matches!(event, SponsorEvent::Forget(_))));
    assert_eq!(office.sponsor.poll_timeout(), None);
}

#[test]
fn a_guest_that_talks_nonsense_gets_nothing() {
    let mut world = World::new(0);
    let invite = world.invite(0, None);
    let other = world.invite(0, None);
    let guest = Channel::Guest(invite.keys().id);
    let hello = |invite: &Invite| {
        Control::JoinHello(JoinHello { invite: invite.keys().id, nonce: [1; 16] })
    };
    let office = &mut world.offices[0];
    office.hear(PeerKey(1), guest, &hello(&other));
    assert_eq!(office.refusal(), Some(Refusal::Unknown), "another invite's guest key");
    let wg = WgSecret::from_bytes([50; 32]).public();
    for (channel, message) in [
        (guest, Control::Unknown(99)),
        (guest, Control::Ops(Ops { reply: None, ops: vec![OpBytes(vec![1; 900])] })),
        (Channel::Device(wg), hello(&invite)),
        (
            guest,
            Control::JoinGranted(crate::wire::control::join::JoinGranted {
                id: office.id.public(),
                grant: crate::membership::OpId::NONE,
            }),
        ),
    ] {
        office.hear(PeerKey(1), channel, &message);
        assert_eq!(office.sponsor.poll_transmit(), None);
    }
    assert!(Control::decode(&vec![0; 10 * 1024]).is_err());
}

#[test]
fn a_joiner_takes_secrets_and_ops_over_its_own_key_only() {
    let (mut world, _) = World::with_laptop();
    let secret = Control::Secret(Secret::from(&NetworkSecret::new(1, [6; 32])));
    let op = world.offices[0].logs.iter().next().unwrap().signed().encode();
    let ops = Control::Ops(Ops { reply: None, ops: vec![OpBytes(op)] });
    let granted = Control::JoinGranted(crate::wire::control::join::JoinGranted {
        id: world.guests[0].id(),
        grant: crate::membership::OpId::NONE,
    });
    let joiner = &mut world.guests[0].joiner;
    while joiner.poll_event().is_some() {}
    for message in [secret, ops, granted] {
        joiner.handle(PeerKey(0), &message, world.start);
        joiner.handle(PeerKey(77), &message, world.start);
        assert!(joiner.poll_event().is_none());
    }
}

#[test]
fn a_lost_tunnel_is_given_up_and_a_new_one_goes_on() {
    let (mut world, _) = World::with_laptop();
    world.run(Duration::from_millis(60));
    let now = world.now;
    world.guests[0].joiner.lost(PeerKey(0), now);
    world.run(Duration::from_secs(20));
    assert!(world.guests[0].admitted.is_none() && world.guests[0].error.is_none());
    world.connect(0, 0);
    world.run(Duration::from_secs(5));
    assert!(world.guests[0].admitted.is_some(), "{:?}", world.guests[0].log);
}

/// What a sponsor's disk does with a Grant.
#[derive(Clone, Copy, PartialEq)]
enum Disk {
    Good,
    Slow,
    Broken,
}

/// A device of a network.
struct Office {
    genesis: Genesis,
    root: RootSecret,
    id: IdSecret,
    wg: WgSecret,
    admin: Option<AdminSecret>,
    logs: Logs,
    roster: Roster,
    wall: UnixTime,
    sponsor: Sponsor,
    disk: Disk,
    pending: Vec<Admission>,
    silent: bool,
}

impl Office {
    fn found(seed: u8, name: &str) -> Self {
        let root = RootSecret::from_seed([seed; 32]);
        let genesis = Genesis {
            version: 1,
            root: root.public(),
            created: WALL,
            salt: [seed; 16],
            ipv4_pool: GenesisPool::Default,
            name: name.parse().unwrap(),
        };
        let admin = AdminSecret::from_seed([seed; 32]);
        let mut office = Self::new(genesis, root, seed, Some(admin.clone()));
        let body = OpBody::AdminAdd { admin: admin.public(), device: office.id.public() };
        office.sign_root(body);
        let grant = office.grant(
            (office.id.public(), office.wg.public()),
            "founder",
            None,
            bind(&office.id, &office.wg.public(), &office.genesis.network_id()),
        );
        office.sign(grant);
        office
    }

    fn new(genesis: Genesis, root: RootSecret, seed: u8, admin: Option<AdminSecret>) -> Self {
        let id = IdSecret::from_seed([seed; 32]);
        let wg = WgSecret::from_bytes([seed; 32]);
        let me = SponsorIdentity {
            network: genesis.network_id(),
            genesis: genesis.encode(),
            device: id.public(),
            wg: wg.public(),
            admin: admin.as_ref().map(AdminSecret::public),
        };
        let logs = Logs::new(root.public());
        Self {
            roster: Roster::derive(&genesis, &logs, WALL),
            sponsor: Sponsor::new(me, [seed; 32]),
            genesis,
            root,
            id,
            wg,
            admin,
            logs,
            wall: WALL,
            disk: Disk::Good,
            pending: Vec::new(),
            silent: false,
        }
    }

    fn grant(
        &self,
        (id, wg): (DeviceId, WgPublicKey),
        name: &str,
        invite: Option<crate::membership::InviteId>,
        bind_sig: Signature,
    ) -> OpBody {
        OpBody::Grant(Box::new(Certificate {
            id,
            wg,
            name: name.parse().unwrap(),
            ipv4: None,
            groups: Vec::new(),
            routes: Vec::new(),
            flags: Flags::default(),
            not_before: self.wall,
            not_after: UnixTime(self.wall.0 + 365 * DAY),
            invite,
            bind_sig,
        }))
    }

    fn sign_root(&mut self, body: OpBody) {
        let author = Author::Root(self.root.public());
        let op = self.logs.next_op(author, self.wall, body).unwrap();
        let network = self.genesis.network_id();
        self.insert([SignedOp::sign_root(&op, &self.root, &network).unwrap()]);
    }

    fn sign(&mut self, body: OpBody) {
        self.sign_only(body);
        self.refresh();
    }

    fn sign_only(&mut self, body: OpBody) {
        let admin = self.admin.as_ref().unwrap();
        let op = self.logs.next_op(Author::Admin(admin.public()), self.wall, body).unwrap();
        let op = SignedOp::sign_admin(&op, admin, &self.genesis.network_id()).unwrap();
        self.logs.insert(op).unwrap();
    }

    fn insert(&mut self, ops: impl IntoIterator<Item = Verified<SignedOp>>) {
        for op in ops {
            self.logs.insert(op).unwrap();
        }
        self.refresh();
    }

    fn refresh(&mut self) {
        self.roster = Roster::derive(&self.genesis, &self.logs, self.wall);
        self.sponsor.refresh(&self.roster, &self.logs, self.wall);
    }

    fn open(&mut self, admin: bool, name: Option<&str>) -> Invite {
        let seed = [self.logs.len() as u8; 16];
        let invite = Invite::new(self.genesis.network_id(), seed, Vec::new());
        let name = name.map(|name| name.parse().unwrap());
        let open = invite.keys().open(UnixTime(self.wall.0 + DAY), admin, name);
        self.sign(OpBody::InviteOpen(open));
        invite
    }

    fn hear(&mut self, peer: PeerKey, channel: Channel, message: &Control) {
        self.sponsor.handle((peer, channel), message, (&self.roster, &self.logs), start());
    }

    /// Hands a request in; the refusal, or `None` where it was accepted.
    fn ask(&mut self, peer: PeerKey, invite: &Invite, request: &Control) -> Option<Refusal> {
        self.hear(peer, Channel::Guest(invite.keys().id), request);
        self.refusal()
    }

    fn refusal(&mut self) -> Option<Refusal> {
        match self.sponsor.poll_transmit() {
            Some((_, Control::JoinRefused(refused))) => Some(refused.reason),
            Some((_, Control::JoinAccepted(_))) => None,
            other => panic!("neither accepted nor refused: {other:?}"),
        }
    }

    fn events(&mut self) -> Vec<SponsorEvent> {
        std::iter::from_fn(|| self.sponsor.poll_event()).collect()
    }

    fn guests(&self) -> Vec<super::Guest> {
        self.sponsor.guests(&self.roster).collect()
    }

    fn guest_is_open(&self, invite: &Invite) -> bool {
        let id = invite.keys().id;
        self.guests().iter().any(|guest| guest.invite == id && guest.open)
    }

    fn grants(&self) -> usize {
        self.logs.iter().filter(|op| matches!(op.op().body, OpBody::Grant(_))).count()
    }
}

/// A device that joins.
struct Newcomer {
    invite: Invite,
    id: IdSecret,
    wg: WgSecret,
    joiner: Joiner,
    genesis: Option<Genesis>,
    logs: Option<Logs>,
    secret: Option<NetworkSecret>,
    admitted: Option<Instant>,
    error: Option<api::Error>,
    log: Vec<String>,
    seen: Vec<Stage>,
}

impl Newcomer {
    fn id(&self) -> DeviceId {
        self.id.public()
    }

    fn roster(&self) -> Option<Roster> {
        Some(Roster::derive(self.genesis.as_ref()?, self.logs.as_ref()?, WALL))
    }

    fn check(&mut self) {
        if let Some(roster) = self.roster().filter(|_| self.secret.is_some()) {
            self.joiner.roster_changed(&roster);
        }
    }

    fn stages(&self) -> &[Stage] {
        &self.seen
    }
}

/// Which end of which tunnel: the guest's number, the office's, and whether under the new key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Tunnel {
    guest: usize,
    office: usize,
    own: bool,
    to_office: bool,
}

impl Tunnel {
    /// Each side's number of it.
    fn key(self) -> PeerKey {
        PeerKey((self.guest * 100 + self.office * 2 + usize::from(self.own)) as u32)
    }
}

/// A message under way: when it arrives, its number, through what, what.
type Flight = (Instant, u64, Tunnel, Vec<u8>);

struct World {
    offices: Vec<Office>,
    guests: Vec<Newcomer>,
    tunnels: BTreeMap<(usize, PeerKey), Tunnel>,
    queue: BinaryHeap<Reverse<Flight>>,
    start: Instant,
    now: Instant,
    rng: StdRng,
    loss_percent: u32,
    sent: u64,
}

impl World {
    /// One office and its first guest, which holds an invite and stands at the door.
    fn with_laptop() -> (Self, Invite) {
        let mut world = Self::new(0);
        let invite = world.invite(0, None);
        world.guest(&invite, 50, "laptop");
        world.connect(0, 0);
        (world, invite)
    }

    fn new(loss_percent: u32) -> Self {
        Self::seeded(loss_percent, 1)
    }

    fn seeded(loss_percent: u32, seed: u64) -> Self {
        let start = start();
        Self {
            offices: vec![Office::found(1, "home")],
            guests: Vec::new(),
            tunnels: BTreeMap::new(),
            queue: BinaryHeap::new(),
            start,
            now: start,
            rng: StdRng::seed_from_u64(seed),
            loss_percent,
            sent: 0,
        }
    }

    fn invite(&mut self, office: usize, name: Option<&str>) -> Invite {
        self.offices[office].open(false, name)
    }

    /// A network of the same name by somebody who holds the token.
    fn fake(&mut self, invite: &Invite) -> usize {
        let mut office = Office::found(66, "home");
        let keys = invite.keys();
        let open = keys.open(UnixTime(WALL.0 + DAY), false, None);
        office.sign(OpBody::InviteOpen(open));
        self.offices.push(office);
        self.offices.len() - 1
    }

    /// A device that office admitted long ago.
    fn member(&mut self, by: usize, seed: u8, name: &str) -> usize {
        let office = &self.offices[by];
        let mut member = Office::new(
            office.genesis.clone(),
            office.root.clone(),
            seed,
            Some(AdminSecret::from_seed([seed; 32])),
        );
        let network = office.genesis.network_id();
        let wg = member.wg.public();
        let grant =
            office.grant((member.id.public(), wg), name, None, bind(&member.id, &wg, &network));
        self.offices[by].sign(grant);
        let ops: Vec<_> = self.offices[by].logs.iter().cloned().collect();
        member.insert(ops);
        self.offices.push(member);
        self.offices.len() - 1
    }

    fn make_admin(&mut self, by: usize, office: usize) {
        let admin = self.offices[office].admin.as_ref().unwrap().public();
        let device = self.offices[office].id.public();
        self.offices[by].sign_root(OpBody::AdminAdd { admin, device });
        self.sync(by, office);
    }

    fn sync(&mut self, from: usize, to: usize) {
        let ops: Vec<_> = self.offices[from].logs.iter().cloned().collect();
        self.offices[to].insert(ops);
    }

    /// Wall time passes for all.
    fn pass(&mut self, seconds: u64) {
        for office in &mut self.offices {
            office.wall = UnixTime(office.wall.0 + seconds);
            office.refresh();
        }
    }

    fn guest(&mut self, invite: &Invite, seed: u8, name: &str) {
        let id = IdSecret::from_seed([seed; 32]);
        let wg = WgSecret::from_bytes([seed; 32]);
        let keys = JoinerKeys { id: id.clone(), wg: wg.public(), admin: None };
        let nonce = [seed; 16];
        let gives_up = self.now + Duration::from_secs(120);
        let name = name.parse().unwrap();
        let token = invite.token();
        let invite: Invite = token.parse().unwrap();
        let mut guest = Newcomer {
            joiner: Joiner::new(invite.clone(), keys, name, nonce, gives_up),
            invite,
            id,
            wg,
            genesis: None,
            logs: None,
            secret: None,
            admitted: None,
            error: None,
            log: Vec::new(),
            seen: Vec::new(),
        };
        while let Some(JoinerEvent::Stage(stage, _)) = guest.joiner.poll_event() {
            guest.seen.push(stage);
        }
        self.guests.push(guest);
    }

    /// A guest tunnel comes to stand.
    fn connect(&mut self, guest: usize, office: usize) {
        let tunnel = Tunnel { guest, office, own: false, to_office: true };
        self.tunnels.insert((guest, tunnel.key()), tunnel);
        let wg = self.offices[office].wg.public();
        self.guests[guest].joiner.reaching();
        self.guests[guest].joiner.connected(tunnel.key(), wg, self.now);
        self.flush();
    }

    fn scene(&mut self, office: usize, invite: &Invite, peer: PeerKey) -> JoinScene {
        let hello = JoinHello { invite: invite.keys().id, nonce: [4; 16] };
        let office = &mut self.offices[office];
        office.hear(peer, Channel::Guest(hello.invite), &Control::JoinHello(hello));
        let Some((_, Control::JoinOffer(offer))) = office.sponsor.poll_transmit() else { panic!() };
        while office.sponsor.poll_transmit().is_some() {}
        JoinScene { sponsor: office.wg.public(), guest_nonce: [4; 16], sponsor_nonce: offer.nonce }
    }

    /// A request of the device with seed 50, changed before it is signed.
    fn request(
        &mut self,
        office: usize,
        invite: &Invite,
        peer: PeerKey,
        change: impl Fn(&mut JoinClaim),
    ) -> Control {
        let scene = self.scene(office, invite, peer);
        let network = self.offices[office].genesis.network_id();
        let id = IdSecret::from_seed([50; 32]);
        let wg = WgSecret::from_bytes([50; 32]).public();
        let mut claim = JoinClaim {
            invite: invite.keys().id,
            id: id.public(),
            wg,
            admin: None,
            name: "laptop".parse().unwrap(),
            bind_sig: bind(&id, &wg, &network),
        };
        change(&mut claim);
        let ik = invite.keys().ik;
        Control::JoinRequest(Box::new(JoinRequest::sign(claim, &scene, &network, &ik, &id)))
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timers = self.guests.iter().filter_map(|guest| guest.joiner.poll_timeout());
            let sponsors = self.offices.iter().filter_map(|office| office.sponsor.poll_timeout());
            let arrival = self.queue.peek().map(|Reverse((at, ..))| *at);
            let next = timers.chain(sponsors).map(|(at, _)| at).chain(arrival).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
                let Reverse((_, _, tunnel, bytes)) = self.queue.pop().unwrap();
                self.deliver(tunnel, &bytes);
            }
            for guest in &mut self.guests {
                guest.joiner.handle_timeout(self.now);
                assert!(guest.joiner.poll_timeout().is_none_or(|(at, _)| at > self.now));
            }
            for office in &mut self.offices {
                office.sponsor.handle_timeout(self.now);
            }
            self.flush();
        }
        self.now = end;
    }

    fn deliver(&mut self, tunnel: Tunnel, bytes: &[u8]) {
        let message = Control::decode(bytes).unwrap();
        if !tunnel.to_office {
            self.guests[tunnel.guest].joiner.handle(tunnel.key(), &message, self.now);
        } else if !self.offices[tunnel.office].silent {
            let guest = &self.guests[tunnel.guest];
            let channel = if tunnel.own {
                Channel::Device(guest.wg.public())
            } else {
                Channel::Guest(guest.invite.keys().id)
            };
            let office = &mut self.offices[tunnel.office];
            let known = (&office.roster, &office.logs);
            office.sponsor.handle((tunnel.key(), channel), &message, known, self.now);
        }
        self.flush();
    }

    /// Does what the machines ask for, and sends what they say.
    fn flush(&mut self) {
        for n in 0..self.offices.len() {
            for event in self.offices[n].events() {
                if let SponsorEvent::Admit(admission) = event {
                    self.offices[n].pending.push(*admission);
                }
            }
            self.write(n);
            while let Some((peer, message)) = self.offices[n].sponsor.poll_transmit() {
                let of = |tunnel: &&Tunnel| tunnel.office == n && tunnel.key() == peer;
                let tunnel = *self.tunnels.values().find(of).unwrap();
                self.send(Tunnel { to_office: false, ..tunnel }, &message);
                if matches!(message, Control::JoinGranted(_)) {
                    let secret = Secret::from(&NetworkSecret::new(7, [7; 32]));
                    let secret = Control::Secret(secret);
                    self.send(Tunnel { to_office: false, ..tunnel }, &secret);
                }
            }
        }
        for n in 0..self.guests.len() {
            while let Some(event) = self.guests[n].joiner.poll_event() {
                self.obey(n, event);
            }
            while let Some((peer, message)) = self.guests[n].joiner.poll_transmit() {
                let tunnel = self.tunnels[&(n, peer)];
                self.send(tunnel, &message);
            }
        }
    }

    fn send(&mut self, tunnel: Tunnel, message: &Control) {
        self.sent += 1;
        let bytes = message.encode().unwrap();
        if self.rng.random_range(0..100) >= self.loss_percent {
            let at = self.now + Duration::from_millis(25);
            self.queue.push(Reverse((at, self.sent, tunnel, bytes)));
        }
    }

    fn write_pending(&mut self) {
        for n in 0..self.offices.len() {
            self.write(n);
        }
        self.flush();
    }

    fn write(&mut self, n: usize) {
        let office = &mut self.offices[n];
        if office.disk == Disk::Slow {
            return;
        }
        for admission in std::mem::take(&mut office.pending) {
            if office.disk == Disk::Broken {
                office.sponsor.failed(&admission.id);
                continue;
            }
            let keys = (admission.id, admission.wg);
            let (name, invite) = (admission.name.as_str(), Some(admission.invite));
            let grant = office.grant(keys, name, invite, admission.bind_sig);
            office.sign(grant);
            office.sponsor.granted(&admission.id, &office.roster, &office.logs);
        }
    }

    fn obey(&mut self, n: usize, event: JoinerEvent) {
        let now = self.now;
        let guest = &mut self.guests[n];
        guest.log.push(format!("{event:?}"));
        match event {
            JoinerEvent::Stage(stage, detail) => {
                assert!(!detail.is_empty());
                guest.seen.push(stage);
                if stage == Stage::Admitted {
                    guest.admitted = Some(now);
                }
            }
            JoinerEvent::Verified(shown) => {
                assert_eq!(shown.genesis.network_id(), guest.invite.network);
                let mut logs = Logs::new(shown.genesis.root);
                for op in shown.ops {
                    let _ = logs.insert(op);
                }
                guest.genesis = Some(shown.genesis);
                guest.logs.get_or_insert(logs);
            }
            JoinerEvent::Switch { guest: peer, sponsor } => {
                let tunnel = self.tunnels[&(n, peer)];
                assert_eq!(self.offices[tunnel.office].wg.public(), sponsor);
                let own = Tunnel { own: true, ..tunnel };
                self.tunnels.insert((n, own.key()), own);
                guest.joiner.switched(peer, own.key(), now);
            }
            JoinerEvent::Ops(ops) => {
                let network: NetworkId = guest.invite.network;
                let logs = guest.logs.as_mut().unwrap();
                for op in ops {
                    let _ = logs.insert(op.verify(&network).unwrap());
                }
                guest.check();
            }
            JoinerEvent::Secret(secret) => {
                guest.secret = Some(secret);
                guest.check();
            }
            JoinerEvent::Failed(error) => guest.error = Some(error),
            JoinerEvent::Granted { .. } | JoinerEvent::Abandon(_) => {}
        }
    }
}
