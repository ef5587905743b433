//! A pair of UDP sockets, one for each family.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use super::socket::{Share, UdpHalf};
use super::{Family, RecvBatch, check_destination, is_missing, normalize};
use crate::forward::Known;
use crate::forward::ecn::Ecn;

/// What one packet thread receives from; anybody may send. A host without IPv6 (or without IPv4) has
/// one of the two sockets.
#[derive(Debug)]
pub struct UdpQueue {
    v4: Option<UdpHalf>,
    v6: Option<UdpHalf>,
}

impl UdpQueue {
    /// Binds both families to one port, and says which.
    pub(super) fn bind(port: u16, mark: Option<u32>, share: Share) -> io::Result<(Self, u16)> {
        let v4 = UdpHalf::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), mark, share);
        let (v4, port) = match v4 {
            Ok((half, port)) => (Some(half), port),
            Err(error) if is_missing(&error) => (None, port),
            Err(error) => return Err(error),
        };
        let v6 = UdpHalf::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), mark, share);
        let (v6, port) = match v6 {
            Ok((half, port)) => (Some(half), port),
            Err(error) if v4.is_some() && is_missing(&error) => (None, port),
            Err(error) => return Err(error),
        };
        Ok((Self { v4, v6 }, port))
    }

    /// Lets further pairs bind the same port.
    pub(super) fn share(&self) -> io::Result<()> {
        self.halves().try_for_each(UdpHalf::share)
    }

    /// Has the kernel give transport datagrams to the first `data` pairs of this one's port, and the
    /// rest to the pair after them.
    pub(super) fn steer(&self, data: u32) -> io::Result<()> {
        let v4 = self.v4.as_ref().map_or(Ok(()), |half| half.steer(Family::V4, data));
        v4.and_then(|()| self.v6.as_ref().map_or(Ok(()), |half| half.steer(Family::V6, data)))
    }

    /// Has the kernel drop what comes by `family` from nobody in `known`, but for one in 2^`lot`,
    /// before it is received, until [`take_all`](Self::take_all).
    ///
    /// # Errors
    /// Where the kernel cannot; everything is received then.
    pub fn sift(&self, family: Family, known: &Known, lot: u32) -> io::Result<()> {
        self.half(family).map_or(Ok(()), |half| half.sift(family, known, lot))
    }

    /// Receives everything again.
    pub fn take_all(&self) {
        for half in self.halves() {
            // There may be nothing to take away.
            half.take_all().ok();
        }
    }

    fn halves(&self) -> impl Iterator<Item = &UdpHalf> {
        self.v4.iter().chain(&self.v6)
    }

    /// The descriptor to poll for datagrams of `family`; `None` where the host has it not.
    pub fn fd(&self, family: Family) -> Option<BorrowedFd<'_>> {
        self.half(family).map(UdpHalf::fd)
    }

    /// Whether batches to `family` go out by GSO, as far as is known.
    pub fn gso(&self, family: Family) -> bool {
        self.half(family).is_some_and(UdpHalf::gso)
    }

    /// Sends `bytes` to `to`: one datagram, or with `segment_size` a run of datagrams of that size
    /// of which only the last may be shorter; any length. All bear the field `ecn`.
    ///
    /// # Errors
    /// What the kernel said of the datagram that failed first (unreachable, too large for the
    /// link, forbidden by a firewall); the rest of the run was tried all the same, and the socket
    /// lives on. `WouldBlock` where the socket's buffer stayed full, `InvalidInput` for an address
    /// that nothing can be sent to, `Unsupported` for a family that the host has not.
    pub fn send(
        &self,
        to: SocketAddr,
        ecn: Ecn,
        bytes: &[u8],
        segment_size: Option<u16>,
    ) -> io::Result<()> {
        let to = normalize(to);
        check_destination(to)?;
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let half = self.half(family).ok_or(io::ErrorKind::Unsupported)?;
        match segment_size.map_or(0, usize::from) {
            stride if stride == 0 || stride >= bytes.len() => half.send_one(to, ecn, bytes),
            stride => half.send_run(to, ecn, bytes, stride),
        }
    }

    /// Sends one datagram that no router may fragment: see
    /// [`UdpPort::send_whole`](super::UdpPort::send_whole).
    pub(super) fn send_whole(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let Some(v4) = self.v4.as_ref().filter(|_| normalize(to).is_ipv4()) else {
            return self.send(to, Ecn::NotEct, datagram, None);
        };
        v4.forbid_fragments(true)?;
        let sent = self.send(to, Ecn::NotEct, datagram, None);
        v4.forbid_fragments(false)?;
        sent
    }

    /// Receives what is there, into `batch`, and says how many messages that is; 0 = nothing.
    ///
    /// # Errors
    /// Only what no later call can mend; what the network reports is skipped.
    pub fn recv(&self, family: Family, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.clear();
        self.half(family).map_or(Ok(0), |half| half.recv(batch))
    }

    fn half(&self, family: Family) -> Option<&UdpHalf> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }
}
