//! Two devices for tests of the packet path from its public face: frames in, frames out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::coalesce::Merge;
use super::ecn::Ecn;
use super::egress::Egress;
use super::ingress::{Ingress, Run};
use super::segment::VnetHeader;
use super::segment::tests::split_all;
use super::tunnel::tests::{secret, shake};
use super::*;
use crate::identity::WgSecret;
use crate::wire::control::encode_packet;

pub(super) const A: (&str, &str) = ("10.0.0.1", "fd00::1");
pub(super) const B: (&str, &str) = ("10.0.0.2", "fd00::2");

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn at(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 41_641))
}

/// One device with one peer.
pub(super) struct Device {
    pub(super) table: ForwardingTable,
    pub(super) guard: HandshakeGuard,
    pub(super) drops: DropCounters,
    pub(super) upcalls: Upcalls,
    pub(super) egress: Egress,
    pub(super) ingress: Ingress,
    pub(super) now: Instant,
    /// The ECN fields of the batches that were sent.
    pub(super) sent_ecn: Vec<Ecn>,
    /// The ECN field that datagrams arrive with.
    pub(super) outer: Ecn,
}

impl Device {
    pub(super) fn new(own: (&str, &str), slot: PeerSlot, key: &WgSecret, now: Instant) -> Self {
        let local = LocalAddresses {
            ipv4: Some((own.0.parse().unwrap(), 16)),
            ipv6: Some((own.1.parse().unwrap(), 48)),
            routes: vec![],
        };
        Self {
            table: ForwardingTable::new([Arc::new(slot)]).with_local(local),
            guard: HandshakeGuard::new(&[key], now),
            drops: DropCounters::default(),
            upcalls: Upcalls::default(),
            egress: Egress::new(true),
            ingress: Ingress::new(Merge::TcpAndUdp),
            now,
            sent_ecn: Vec::new(),
            outer: Ecn::NotEct,
        }
    }

    pub(super) fn slot(&self) -> &Arc<PeerSlot> {
        (1..=2).find_map(|index| self.table.slot(SlotIndex(index))).unwrap()
    }

    /// Sends frames and flushes; the batches, each as destination, stride and bytes.
    pub(super) fn send(&mut self, frames: &[Vec<u8>]) -> Vec<(SocketAddr, usize, Vec<u8>)> {
        let mut batches = Vec::new();
        let mut send = |batch: buffer::Batch<'_>| {
            batches.push((batch.to, batch.segment_size, batch.bytes.to_vec()));
            self.sent_ecn.push(batch.ecn);
        };
        let mut shared = Shared {
            table: &self.table,
            guard: &self.guard,
            drops: &self.drops,
            upcalls: &mut self.upcalls,
        };
        for frame in frames {
            self.egress.room()[..frame.len()].copy_from_slice(frame);
            self.egress.handle_frame(frame.len(), &mut shared, &mut send, self.now);
        }
        self.egress.flush(&mut send);
        batches
    }

    /// Receives runs and flushes; the frames.
    pub(super) fn receive(&mut self, from: SocketAddr, runs: &[(usize, Vec<u8>)]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut write = |slices: &[std::io::IoSlice<'_>]| {
            frames.push(slices.iter().flat_map(|slice| slice.to_vec()).collect());
        };
        let mut shared = Shared {
            table: &self.table,
            guard: &self.guard,
            drops: &self.drops,
            upcalls: &mut self.upcalls,
        };
        for (stride, bytes) in runs {
            let run = Run { from, ecn: self.outer, bytes, stride: *stride };
            self.ingress.handle_run(run, &mut shared, &mut write, self.now);
        }
        self.ingress.flush(&mut write);
        frames
    }

    /// Seals any inner packet, as a hostile member could.
    pub(super) fn seal(&self, inner: &[u8]) -> (usize, Vec<u8>) {
        let datagram = self.slot().tunnel.lock().seal_to_vec(inner, self.now).unwrap();
        (datagram.len(), datagram)
    }

    pub(super) fn upcalls(&mut self) -> Vec<Upcall> {
        self.upcalls.drain().filter(|upcall| !matches!(upcall, Upcall::Awake { .. })).collect()
    }
}

pub(super) fn device(
    own: (&str, &str),
    peer: (&str, &str),
    key: u8,
    peer_key: u8,
    carries: Carries,
) -> Device {
    let now = Instant::now();
    let index = SlotIndex(key.into());
    let tunnel = Tunnel::new(&secret(key), &secret(peer_key).public(), index).unwrap();
    let allowed = vec![(ip(peer.0), 32), (ip(peer.1), 128)];
    let slot = PeerSlot::new(index, tunnel, allowed, carries, now);
    slot.set_endpoint(Some(at(peer_key)));
    slot.set_limit(Limit { packet: 1420, settled: true });
    Device::new(own, slot, &secret(key), now)
}

pub(super) fn strangers() -> (Device, Device) {
    let (mut a, b) =
        (device(A, B, 1, 2, Carries::Everything), device(B, A, 2, 1, Carries::Everything));
    a.now = b.now;
    (a, b)
}

pub(super) fn connected() -> (Device, Device) {
    let (a, b) = strangers();
    shake(&mut a.slot().tunnel.lock(), &mut b.slot().tunnel.lock(), a.now);
    (a, b)
}

pub(super) fn single(packet: &[u8]) -> Vec<u8> {
    [&VnetHeader::default().encode()[..], packet].concat()
}

pub(super) fn bare(frame: &[u8]) -> &[u8] {
    VnetHeader::decode(frame).unwrap().1
}

/// How many packets a frame stands for.
pub(super) fn split_frame(frame: &[u8]) -> usize {
    let (vnet, packet) = VnetHeader::decode(frame).unwrap();
    split_all(vnet, packet).len()
}

/// The inner packet of a control message.
pub(super) fn control(message: &[u8]) -> Vec<u8> {
    encode_packet(message).unwrap()
}
