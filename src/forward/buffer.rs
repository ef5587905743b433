//! The two buffers of the packet path: what is being sealed for one send, and what was opened in
//! one receive.
//!
//! Both work by reserve and commit: a reservation lends room, and what is not committed was never
//! there. Both are allocated once and belong to one worker thread.
//!
//! * [`SendBuffer`]: datagrams of equal length and equal ECN field to one address, one after the
//!   other, as one `sendmsg` with `UDP_SEGMENT` takes them. Only the last may be shorter, so a shorter
//!   one closes the batch. [`SendBuffer::take`] lends the batch out and empties the buffer.
//! * [`Arena`]: opened packets, each where it was decrypted. It lends them to the
//!   [`Coalescer`](super::coalesce::Coalescer) until the batch is flushed and the arena cleared.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut, Range};

use super::ecn::Ecn;

/// The most datagrams of one send (`UDP_MAX_SEGMENTS` before Linux 6.9).
const MAX_DATAGRAMS: usize = 64;

/// The longest batch: the largest UDP payload over IPv4 with room for 20 bytes of IP options.
const MAX_BATCH: usize = 65_487;

/// Room of an arena: what a `recvmmsg` that brings a few large runs needs; small enough to stay in
/// the second-level cache.
const ARENA: usize = 256 * 1024;

/// Datagrams for one send.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Where they go.
    pub to: SocketAddr,
    /// What their IP headers say of congestion.
    pub ecn: Ecn,
    /// The length of each but the last, which may be shorter.
    pub segment_size: usize,
    /// All of them, without gaps.
    pub bytes: &'a [u8],
}

/// A batch in the making.
#[derive(Debug)]
pub struct SendBuffer {
    bytes: Box<[u8]>,
    len: usize,
    datagrams: usize,
    shape: Option<Shape>,
    /// Whether the last datagram was shorter.
    closed: bool,
}

/// What the datagrams of one send have in common.
#[derive(Debug, Clone, Copy)]
struct Shape {
    to: SocketAddr,
    ecn: Ecn,
    /// The length of the first.
    len: usize,
}

impl SendBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        let bytes = vec![0; MAX_BATCH].into_boxed_slice();
        Self { bytes, len: 0, datagrams: 0, shape: None, closed: false }
    }

    /// Whether nothing was committed since the last [`take`](Self::take).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether nothing more fits behind what is there: waiting would be for nothing.
    pub fn is_complete(&self) -> bool {
        self.closed || self.datagrams == MAX_DATAGRAMS
    }

    /// Room for one datagram of `len` bytes to `to` behind what is there, or `None` where it does
    /// not fit this batch.
    pub fn reserve(&mut self, to: SocketAddr, ecn: Ecn, len: usize) -> Option<Reservation<'_>> {
        let fits = self.shape.is_none_or(|first| {
            let alike = to == first.to && ecn == first.ecn && len <= first.len;
            !self.closed && alike && self.datagrams < MAX_DATAGRAMS
        });
        let fits = fits && len > 0 && self.len + len <= self.bytes.len();
        fits.then_some(Reservation { buffer: self, shape: Shape { to, ecn, len } })
    }

    /// The batch so far; the buffer is empty afterwards.
    pub fn take(&mut self) -> Option<Batch<'_>> {
        let Shape { to, ecn, len } = self.shape.take()?;
        let bytes = &self.bytes[..self.len];
        (self.len, self.datagrams, self.closed) = (0, 0, false);
        Some(Batch { to, ecn, segment_size: len, bytes })
    }
}

impl Default for SendBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// Room for one datagram; not part of the batch unless committed.
#[derive(Debug)]
pub struct Reservation<'a> {
    buffer: &'a mut SendBuffer,
    shape: Shape,
}

impl Reservation<'_> {
    /// Makes the room, which the caller filled, part of the batch.
    pub fn commit(self) {
        let (buffer, len) = (self.buffer, self.shape.len);
        let first = *buffer.shape.get_or_insert(self.shape);
        buffer.len += len;
        buffer.datagrams += 1;
        buffer.closed = len < first.len;
    }
}

impl Deref for Reservation<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.bytes[self.buffer.len..self.buffer.len + self.shape.len]
    }
}

impl DerefMut for Reservation<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.bytes[self.buffer.len..self.buffer.len + self.shape.len]
    }
}

/// Opened packets of one batch.
#[derive(Debug)]
pub struct Arena {
    bytes: Box<[u8]>,
    len: usize,
}

impl Arena {
    /// An empty arena.
    pub fn new() -> Self {
        Self { bytes: vec![0; ARENA].into_boxed_slice(), len: 0 }
    }

    /// Whether `len` more bytes have room.
    pub fn has_room(&self, len: usize) -> bool {
        self.bytes.len() - self.len >= len
    }

    /// The free room.
    pub fn reserve(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// Keeps the first `len` bytes of the free room; says where they are.
    pub fn commit(&mut self, len: usize) -> Range<usize> {
        let at = self.len..(self.len + len).min(self.bytes.len());
        self.len = at.end;
        at
    }

    /// Everything that was kept, and behind it what was not.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn add(buffer: &mut SendBuffer, port: u16, len: usize) -> bool {
        let Some(mut room) = buffer.reserve(address(port), Ecn::Ect0, len) else { return false };
        room.fill(port as u8);
        room.commit();
        true
    }

    #[test]
    fn equal_datagrams_to_one_address_make_a_batch_and_a_shorter_one_ends_it() {
        let mut buffer = SendBuffer::new();
        assert!(add(&mut buffer, 1, 100) && add(&mut buffer, 1, 100));
        assert!(!buffer.is_complete());
        assert!(!add(&mut buffer, 2, 100), "another address");
        assert!(!add(&mut buffer, 1, 101), "longer");
        assert!(buffer.reserve(address(1), Ecn::Ce, 100).is_none(), "another ECN field");
        assert!(add(&mut buffer, 1, 40) && buffer.is_complete());
        assert!(!add(&mut buffer, 1, 40), "behind a shorter one");
        let batch = buffer.take().unwrap();
        assert_eq!((batch.to, batch.ecn, batch.segment_size), (address(1), Ecn::Ect0, 100));
        assert_eq!(batch.bytes, &[1; 240]);
        assert!(buffer.is_empty() && buffer.take().is_none());
        assert!(add(&mut buffer, 2, 50));
    }

    #[test]
    fn a_reservation_that_is_not_committed_was_never_there() {
        let mut buffer = SendBuffer::new();
        buffer.reserve(address(9), Ecn::NotEct, 100).unwrap().fill(9);
        assert!(buffer.is_empty());
        assert!(add(&mut buffer, 1, 100));
        buffer.reserve(address(1), Ecn::Ect0, 60).unwrap().fill(9);
        assert!(add(&mut buffer, 1, 100));
        assert_eq!(buffer.take().unwrap().bytes, &[1; 200]);
    }

    #[test]
    fn a_batch_keeps_to_what_one_send_takes() {
        let mut buffer = SendBuffer::new();
        assert_eq!((0..100).filter(|_| add(&mut buffer, 1, 32)).count(), MAX_DATAGRAMS);
        assert!(buffer.is_complete());
        buffer.take();
        assert_eq!((0..100).filter(|_| add(&mut buffer, 1, 1312)).count(), MAX_BATCH / 1312);
        buffer.take();
        assert!(!add(&mut buffer, 1, MAX_BATCH + 1));
        assert!(!add(&mut buffer, 1, 0));
        assert!(add(&mut buffer, 1, MAX_BATCH));
    }

    #[test]
    fn an_arena_keeps_what_was_committed_and_reuses_the_rest() {
        let mut arena = Arena::new();
        arena.reserve()[..4].copy_from_slice(b"left");
        arena.reserve()[..4].copy_from_slice(b"kept");
        let first = arena.commit(4);
        arena.reserve()[..3].copy_from_slice(b"two");
        let second = arena.commit(3);
        assert_eq!((&arena.bytes()[first], &arena.bytes()[second]), (&b"kept"[..], &b"two"[..]));
        assert!(arena.has_room(ARENA - 7) && !arena.has_room(ARENA - 6));
        arena.clear();
        assert!(arena.has_room(ARENA));
    }
}
