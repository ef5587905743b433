use super::join::{JoinClaim, JoinRefused, JoinRequest, JoinScene, Refusal};
use super::*;
use crate::identity::{InviteSecret, WgSecret};
use crate::membership::invite::InviteId;
use messages::every_message;

#[path = "../../../tests/fuzz/targets/messages.rs"]
mod messages;

const NETWORK: NetworkId = NetworkId([7; 32]);

fn id(n: u8) -> IdSecret {
    IdSecret::from_seed([n; 32])
}

fn endpoints() -> Endpoints {
    let v4 = "203.0.113.11:41641".parse().unwrap();
    let v6 = "[2001:db8::1]:41641".parse().unwrap();
    Endpoints { seq: 9, endpoints: vec![v4, v6], nat: 1 }
}

fn request() -> JoinRequest {
    let scene =
        JoinScene { sponsor: WgPublicKey([1; 32]), guest_nonce: [2; 16], sponsor_nonce: [3; 16] };
    let claim = JoinClaim {
        invite: InviteId([4; 16]),
        id: id(5).public(),
        wg: WgPublicKey([6; 32]),
        admin: None,
        name: "laptop".parse().unwrap(),
        bind_sig: Signature([7; 64]),
    };
    JoinRequest::sign(claim, &scene, &NETWORK, &InviteSecret::from_seed([8; 32]), &id(5))
}

/// Those that hold lists, as long as they may be, and the longest ping.
fn longest() -> Vec<Control> {
    let entry =
        HeadEntry { author: AuthorTag([1; 8]), seq: 300, head: [2; 8], aside: Some([3; 8]) };
    vec![
        Control::Heads(Heads { digest: [1; 8], ask: true, entries: vec![entry; MAX_HEADS] }),
        Control::Ops(Ops {
            reply: None,
            ops: vec![OpBytes(vec![9; crate::membership::op::MAX_WIRE_LEN])],
        }),
        Control::Endpoints(Endpoints {
            endpoints: vec![endpoints().endpoints[1]; MAX_ENDPOINTS],
            ..endpoints()
        }),
        Control::Introduce(IntroductionRequest {
            device: DeviceId([9; 32]),
            at: Endpoints {
                seq: u64::MAX,
                endpoints: vec![endpoints().endpoints[1]; MAX_ENDPOINTS],
                nat: 255,
            },
            passing: Passing::Nearest,
            way: vec![DeviceId([8; 32]); MAX_WAY],
        }),
        Control::Ping(Ping { token: u64::MAX, padding: vec![0; 1000] }),
    ]
}

#[test]
fn every_message_comes_back_from_its_packet_and_keeps_its_number() {
    let mut numbers = Vec::new();
    for message in every_message() {
        numbers.push(comes_back(&message));
    }
    numbers.dedup();
    assert_eq!(numbers, (0..KINDS).collect::<Vec<u8>>());
    for message in longest() {
        comes_back(&message);
    }
}

/// Sends it and reads it; its number.
fn comes_back(message: &Control) -> u8 {
    let packet = message.to_packet().unwrap();
    assert!(packet.len() <= MAX_PACKET, "{message:?}");
    let bytes = decode_packet(&packet).unwrap();
    assert_eq!(Control::decode(bytes).as_ref(), Ok(message));
    bytes[0]
}

#[test]
fn a_kind_of_a_later_version_is_told_apart_from_garbage() {
    assert_eq!(Control::decode(&[KINDS, 1, 2, 3]), Ok(Control::Unknown(KINDS)));
    assert_eq!(Control::decode(&[0xff]), Ok(Control::Unknown(0xff)));
    assert_eq!(Control::decode(&[]), Err(ControlError::Malformed));
    assert!(Control::Unknown(200).encode().is_err());
}

#[test]
fn truncated_longer_and_oversized_messages_are_refused() {
    for message in every_message().into_iter().chain(longest()) {
        let bytes = message.encode().unwrap();
        for len in 1..bytes.len() {
            assert!(Control::decode(&bytes[..len]).is_err(), "{message:?} cut to {len}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(Control::decode(&longer).is_err(), "{message:?} with a byte too many");
    }
    assert_eq!(Control::decode(&vec![2; 10 * 1024]), Err(ControlError::TooLong));
    let huge = Control::Ping(Ping { token: 1, padding: vec![0; MAX_MESSAGE] });
    assert_eq!(huge.encode(), Err(ControlError::TooLong));
}

#[test]
fn length_fields_that_lie_are_refused_without_allocating() {
    // Heads, digest, ask, then a list that claims 2^63 entries.
    let mut heads = vec![2];
    heads.extend([0; 9]);
    heads.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(Control::decode(&heads), Err(ControlError::Malformed));
    // One entry more than there are authors.
    let entry = HeadEntry { author: AuthorTag([1; 8]), seq: 1, head: [2; 8], aside: None };
    let many = Heads { digest: [0; 8], ask: false, entries: vec![entry; MAX_HEADS + 1] };
    let bytes = Control::Heads(many).encode().unwrap();
    assert_eq!(Control::decode(&bytes), Err(ControlError::Malformed));
    let far = endpoints().endpoints[0];
    let many = Endpoints { seq: 1, endpoints: vec![far; MAX_ENDPOINTS + 1], nat: 0 };
    let bytes = Control::Endpoints(many).encode().unwrap();
    assert_eq!(Control::decode(&bytes), Err(ControlError::Malformed));
}

#[test]
fn random_bytes_never_panic_and_never_grow() {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    let valid: Vec<Vec<u8>> = every_message().iter().map(|m| m.encode().unwrap()).collect();
    for round in 0..20_000 {
        let mut bytes = valid[round % valid.len()].clone();
        for _ in 0..=next() % 4 {
            let at = usize::from(next()) * 256 + usize::from(next());
            let len = bytes.len();
            bytes[at % len] = next();
        }
        if let Ok(message) = Control::decode(&bytes)
            && !matches!(message, Control::Unknown(_))
        {
            assert!(message.encode().unwrap().len() <= bytes.len());
        }
    }
}

#[test]
fn only_control_packets_are_taken_for_them() {
    let packet = Control::Goodbye(Goodbye::Down).to_packet().unwrap();
    let padded = [packet.as_slice(), &[0; 15]].concat();
    assert_eq!(decode_packet(&padded), decode_packet(&packet));
    for at in [0, 6, 8, 23, 24, 39] {
        let mut other = packet.clone();
        other[at] ^= 0x80;
        assert_eq!(decode_packet(&other), Err(ControlError::NotControl), "byte {at}");
    }
    for len in 0..packet.len() {
        assert!(decode_packet(&packet[..len]).is_err(), "{len} bytes");
    }
    let mut long = packet.clone();
    long[4..6].copy_from_slice(&u16::MAX.to_be_bytes());
    assert_eq!(decode_packet(&long), Err(ControlError::TooLong));
    assert!(encode_packet(&vec![0; MAX_MESSAGE + 1]).is_err());
    assert!(encode_packet(&vec![0; 10 * 1024]).is_err());
}

#[test]
fn a_proof_holds_for_its_tunnel_and_its_direction_only() {
    let [a, b] = [1, 2].map(|n| WgSecret::from_bytes([n; 32]).public());
    let me = ProofEnd { nonce: [1; 16], wg: a };
    let peer = ProofEnd { nonce: [2; 16], wg: b };
    let proof = Proof::sign(&id(1), &NETWORK, &me, &peer);
    assert!(proof.verify(&id(1).public(), &NETWORK, &me, &peer));
    assert!(!proof.verify(&id(1).public(), &NETWORK, &peer, &me), "reflected");
    assert!(!proof.verify(&id(2).public(), &NETWORK, &me, &peer), "another device");
    assert!(!proof.verify(&id(1).public(), &NetworkId([8; 32]), &me, &peer), "another network");
    let replayed = ProofEnd { nonce: [3; 16], wg: b };
    assert!(!proof.verify(&id(1).public(), &NETWORK, &me, &replayed), "another nonce");
}

#[test]
fn a_join_request_covers_every_field() {
    let scene =
        JoinScene { sponsor: WgPublicKey([1; 32]), guest_nonce: [2; 16], sponsor_nonce: [3; 16] };
    let ik = InviteSecret::from_seed([8; 32]).public();
    let good = request();
    assert!(good.verify(&scene, &NETWORK, &ik));
    let changes: [fn(&mut JoinRequest); 6] = [
        |r| r.claim.invite.0[0] ^= 1,
        |r| r.claim.id = id(9).public(),
        |r| r.claim.wg.0[0] ^= 1,
        |r| r.claim.admin = Some(crate::identity::AdminId([0; 32])),
        |r| r.claim.name = "laptop2".parse().unwrap(),
        |r| r.claim.bind_sig.0[0] ^= 1,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(!bad.verify(&scene, &NETWORK, &ik), "change {i}");
    }
    let elsewhere = JoinScene { sponsor: WgPublicKey([9; 32]), ..scene };
    assert!(!good.verify(&elsewhere, &NETWORK, &ik), "replayed at another sponsor");
    let later = JoinScene { sponsor_nonce: [9; 16], ..scene };
    assert!(!good.verify(&later, &NETWORK, &ik), "replayed on another tunnel");
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let secret = Control::Secret(Secret { generation: 3, key: [42; 32] });
    assert!(!format!("{secret:?}").contains("42"));
}

#[test]
fn a_refusal_of_a_later_version_is_still_a_refusal() {
    let refused = Control::JoinRefused(JoinRefused { reason: Refusal::Used });
    let mut bytes = refused.encode().unwrap();
    *bytes.last_mut().unwrap() = 77;
    let other = Control::JoinRefused(JoinRefused { reason: Refusal::Other });
    assert_eq!(Control::decode(&bytes), Ok(other));
}
