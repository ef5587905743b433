//! The room that datagrams are received into, and the datagrams in it.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use quinn_udp::RecvMeta;

use super::normalize;
use crate::forward::ecn::Ecn;

/// How many messages one `recvmmsg` takes where they are data. Each may hold 64 datagrams by GRO;
/// without GRO, 8 share the cost of the system call well enough, and the buffers stay at 512 KiB.
const DATA_BATCH: usize = 8;

/// How many it takes at most, and does where they are short: each touches a page of its 64 KiB.
const BATCH: usize = quinn_udp::BATCH_SIZE;

/// Room for one message: the largest that GRO merges, and a little, so that the beginnings of all are
/// not in the same few lines of the cache.
const MESSAGE_SIZE: usize = 65_536 + 320;

/// Room for what one [`UdpQueue::recv`](super::UdpQueue::recv) brings; allocated once, used by one thread.
pub struct RecvBatch {
    storage: Vec<u8>,
    meta: [RecvMeta; BATCH],
    filled: usize,
}

/// A run of datagrams of one sender.
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent them; never a v4-mapped IPv6 address.
    pub from: SocketAddr,
    /// What their IP headers say of congestion.
    pub ecn: Ecn,
    /// The datagrams, one after the other, without gaps.
    pub bytes: &'a mut [u8],
    /// The length of each but the last, which may be shorter; never 0.
    pub stride: usize,
}

impl Received<'_> {
    /// The single datagrams.
    pub fn datagrams(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.bytes.chunks_mut(self.stride)
    }
}

impl RecvBatch {
    /// Empty room for data. The kernel hands out the pages when they are first written to.
    pub fn new() -> Self {
        Self::of(DATA_BATCH)
    }

    /// Empty room for what is mostly short and may be much.
    pub fn of_many() -> Self {
        Self::of(BATCH)
    }

    fn of(messages: usize) -> Self {
        Self {
            storage: vec![0; messages * MESSAGE_SIZE],
            meta: [RecvMeta::default(); BATCH],
            filled: 0,
        }
    }

    /// How many messages one receive brings at most.
    pub fn capacity(&self) -> usize {
        self.storage.len() / MESSAGE_SIZE
    }

    /// Forgets what the last receive brought.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Has `receive` fill the room, and says how many messages came.
    pub(super) fn fill(
        &mut self,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let messages = self.capacity();
        let mut chunks = self.storage.chunks_exact_mut(MESSAGE_SIZE);
        let mut slices: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        self.filled = receive(&mut slices[..messages], &mut self.meta[..messages])?;
        Ok(self.filled)
    }

    /// What the last receive brought, in the order of arrival; empty datagrams are left out.
    pub fn received(&mut self) -> impl Iterator<Item = Received<'_>> {
        let messages = self.storage.chunks_exact_mut(MESSAGE_SIZE).zip(&self.meta);
        messages.take(self.filled).filter(|(_, meta)| meta.len > 0).map(|(chunk, meta)| {
            let bytes = &mut chunk[..meta.len.min(MESSAGE_SIZE)];
            let stride = meta.stride.clamp(1, bytes.len());
            let ecn = Ecn::from_bits(meta.ecn.map_or(0, |ecn| ecn as u8));
            Received { from: normalize(meta.addr), ecn, bytes, stride }
        })
    }
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}
