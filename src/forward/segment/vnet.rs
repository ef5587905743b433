//! The `virtio_net_hdr` before each frame of a device with offload.

use super::super::packet::{Header, TCP};

/// Flag: the checksum at `csum_start + csum_offset` holds only the pseudo-header's sum.
pub(super) const NEEDS_CSUM: u8 = 1;
/// Flag: the checksum was verified.
const DATA_VALID: u8 = 2;

/// `gso_type` of a frame that is one packet.
pub(super) const GSO_NONE: u8 = 0;
/// `gso_type` of TCP over IPv4.
pub(super) const GSO_TCPV4: u8 = 1;
/// `gso_type` of TCP over IPv6.
pub(super) const GSO_TCPV6: u8 = 4;
/// `gso_type` of UDP datagrams of equal length (USO).
pub(super) const GSO_UDP_L4: u8 = 5;
/// Added to `gso_type` where the flow uses ECN: CWR belongs to the first segment only, which is
/// what we do for every flow.
pub(super) const GSO_ECN: u8 = 0x80;

/// The `virtio_net_hdr` before a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    pub(super) flags: u8,
    pub(super) gso_type: u8,
    pub(super) hdr_len: u16,
    pub(super) gso_size: u16,
    pub(super) csum_start: u16,
    pub(super) csum_offset: u16,
}

impl VnetHeader {
    /// Its length.
    pub const LEN: usize = 10;

    /// Reads it off the front of a frame; the rest is the packet.
    pub fn decode(frame: &[u8]) -> Option<(Self, &[u8])> {
        let (bytes, packet) = frame.split_first_chunk::<{ Self::LEN }>()?;
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let header = Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
        };
        Some((header, packet))
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        (bytes[0], bytes[1]) = (self.flags, self.gso_type);
        let fields = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        for (at, field) in fields.into_iter().enumerate() {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }

    /// For a packet of which the checksums were verified here.
    pub(in crate::forward) fn verified() -> Self {
        Self { flags: DATA_VALID, ..Self::default() }
    }

    /// For a super-packet of `gso_size` payload bytes a packet, of which the upper checksum holds
    /// the pseudo-header's sum.
    pub(in crate::forward) fn merged(header: &Header, header_len: usize, gso_size: usize) -> Self {
        let (gso_type, csum_offset) = match (header.protocol, header.source.is_ipv4()) {
            (TCP, true) => (GSO_TCPV4, 16),
            (TCP, false) => (GSO_TCPV6, 16),
            _ => (GSO_UDP_L4, 6),
        };
        Self {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: header_len as u16,
            gso_size: gso_size as u16,
            csum_start: header.transport_at as u16,
            csum_offset,
        }
    }
}
