//! Our sessions against boringtun's: another's reading of the paper at the other end.

use std::time::Instant;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use super::tests::secret;
use super::*;

/// boringtun as the device with secret 2, and our tunnel to it as the device with secret 1.
fn pair() -> (Tunnel, Tunn) {
    let theirs = x25519::StaticSecret::from(*secret(2).as_bytes());
    let ours = x25519::PublicKey::from(secret(1).public().0);
    let near = Tunnel::new(&secret(1), &secret(2).public(), SlotIndex(1)).unwrap();
    (near, Tunn::new(theirs, ours, None, None, 2, None))
}

fn packet() -> Vec<u8> {
    let mut packet = vec![0x5a; 100];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&100u16.to_be_bytes());
    packet
}

fn give(far: &mut Tunn, datagram: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 2048];
    match far.decapsulate(None, datagram, &mut buffer) {
        TunnResult::WriteToNetwork(answer) => answer.to_vec(),
        TunnResult::WriteToTunnelV4(packet, _) => packet.to_vec(),
        TunnResult::Done => Vec::new(),
        other => panic!("{other:?}"),
    }
}

fn exchange(near: &mut Tunnel, far: &mut Tunn, now: Instant) {
    for _ in 0..100 {
        let sealed = near.seal_to_vec(&packet(), now).unwrap();
        assert_eq!(give(far, &sealed), packet());
        let (mut wire, mut out) = ([0; 2048], [0; 2048]);
        let TunnResult::WriteToNetwork(sealed) = far.encapsulate(&packet(), &mut wire) else {
            panic!("boringtun has no session")
        };
        let opened = near.open_into(sealed, &mut out, now);
        assert_eq!(opened, Ok(Opened::Packet(&mut packet()[..])));
    }
}

#[test]
fn boringtun_answers_our_handshake_and_both_carry_packets() {
    let ((mut near, mut far), now) = (pair(), Instant::now());
    let response = give(&mut far, &near.initiate(now));
    let mut confirmation = Vec::new();
    near.handle_handshake(&response, &mut confirmation, now).unwrap();
    assert!(give(&mut far, &confirmation[0]).is_empty());
    exchange(&mut near, &mut far, now);
}

#[test]
fn we_answer_boringtuns_handshake_and_both_carry_packets() {
    let ((mut near, mut far), now) = (pair(), Instant::now());
    let mut buffer = [0; 2048];
    let TunnResult::WriteToNetwork(initiation) =
        far.format_handshake_initiation(&mut buffer, false)
    else {
        panic!("boringtun does not begin")
    };
    let read = Initiation::read(&secret(1), initiation).unwrap();
    assert_eq!(read.names(), secret(2).public());
    let mut response = Vec::new();
    near.handle_initiation(read, &mut response, now).unwrap();
    let keepalive = give(&mut far, &response[0]);
    assert_eq!(near.open_into(&keepalive, &mut [0; 64], now), Ok(Opened::Keepalive));
    exchange(&mut near, &mut far, now);
    let response = give(&mut far, &near.initiate(now));
    near.handle_handshake(&response, &mut Vec::new(), now).unwrap();
    exchange(&mut near, &mut far, now);
}
