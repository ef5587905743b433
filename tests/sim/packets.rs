//! The few packets that the world makes by itself.

use std::net::{Ipv6Addr, SocketAddr};

/// A Binding success response (RFC 8489) with XOR-MAPPED-ADDRESS.
pub fn binding_success(transaction: [u8; 12], mapped: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(mapped) = mapped else { return Vec::new() };
    let mut message = vec![0x01, 0x01, 0, 12, 0x21, 0x12, 0xa4, 0x42];
    message.extend_from_slice(&transaction);
    message.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
    message.extend_from_slice(&(mapped.port() ^ 0x2112).to_be_bytes());
    message.extend_from_slice(&(mapped.ip().to_bits() ^ 0x2112_a442).to_be_bytes());
    message
}

/// A UDP packet over IPv6; nobody looks at its checksum.
pub fn udp6(from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len() + 8).expect("a short payload");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&len.to_be_bytes());
    packet.extend_from_slice(&[17, 64]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(&[0x30, 0x39, 0x30, 0x39]);
    packet.extend_from_slice(&len.to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    packet
}

/// The serial number in front of a packet's payload, behind the headers of IPv6 and UDP.
pub fn serial(packet: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(packet.get(48..56)?.try_into().ok()?))
}
