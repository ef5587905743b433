//! One UDP socket: what is sent in one system call, and what is done where the kernel refuses.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use quinn_udp::{EcnCodepoint, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use super::sieve::{sift, take_all};
use super::steer::steer;
use super::{Family, RecvBatch, SEND_PATIENCE};
use crate::forward::Known;
use crate::forward::ecn::Ecn;

/// Wanted size of both socket buffers, in bytes; the kernel doubles it for its own bookkeeping.
/// At 3 Gbit/s it holds 10 ms, which a data thread may lose to the scheduler.
const BUFFER_SIZE: usize = 4 << 20;

/// The longest batch one `sendmsg` takes: the largest UDP payload over IPv4 is 65,507 bytes, over
/// IPv6 20 more; 20 fewer leave room for IPv4 options.
const MAX_GSO_BYTES: usize = 65_487;

/// The most segments one `sendmsg` takes (`UDP_MAX_SEGMENTS` before Linux 6.9).
const MAX_GSO_SEGMENTS: usize = 64;

/// GSO is left off after so many batches in a row that only went out without. A single one shows little:
/// the link to its destination may be too narrow at the moment, or sealed by IPsec.
const GSO_REFUSALS: u32 = 3;

/// And is tried again after so many batches without it: a few seconds of full speed.
const GSO_RETRY: u32 = 4096;

/// No DF, and no belief in ICMP; the link's own MTU holds.
const MAY_FRAGMENT: sockopt::Ipv4PathMtuDiscovery = sockopt::Ipv4PathMtuDiscovery::OMIT;

/// How many queued errors of the socket one receive clears before it gives up for this time.
const ERROR_TRIES: usize = 16;

/// Whether other sockets of ours share the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// This one has the port to itself, so far.
    First,
    /// This one joins those that [`UdpHalf::share`] opened to it.
    Further,
}

/// A socket of one family.
#[derive(Debug)]
pub(super) struct UdpHalf {
    socket: UdpSocket,
    /// Sends by GSO where the kernel does. quinn-udp answers any `EINVAL` or `EIO` by leaving GSO and
    /// the ECN field out for ever, so after one there is a new state.
    state: ArcSwap<UdpSocketState>,
    /// Batches in a row for which GSO was refused, and after those the ones that were sent without.
    refused: AtomicU32,
}

impl UdpHalf {
    /// Binds a socket; also says which port it got.
    pub(super) fn bind(
        address: SocketAddr,
        mark: Option<u32>,
        share: Share,
    ) -> io::Result<(Self, u16)> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if let Some(mark) = mark {
            socket.set_mark(mark)?;
        }
        if share == Share::Further {
            socket.set_reuse_port(true)?;
        }
        enlarge_buffers(&socket);
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        let state = ArcSwap::from_pointee(state_of(&socket)?);
        let port = socket.local_addr()?.port();
        Ok((Self { socket, state, refused: AtomicU32::new(0) }, port))
    }

    /// Lets further sockets of this process bind the same port. Only afterwards, so that the first
    /// bind finds out whether anybody else has it.
    pub(super) fn share(&self) -> io::Result<()> {
        socket2::SockRef::from(&self.socket).set_reuse_port(true)
    }

    /// See [`UdpQueue::steer`](super::UdpQueue).
    pub(super) fn steer(&self, family: Family, data: u32) -> io::Result<()> {
        steer(&self.socket, family, data)
    }

    /// See [`UdpQueue::sift`](super::UdpQueue).
    pub(super) fn sift(&self, family: Family, known: &Known, lot: u32) -> io::Result<()> {
        sift(&self.socket, family, known, lot)
    }

    /// See [`UdpQueue::take_all`](super::UdpQueue).
    pub(super) fn take_all(&self) -> io::Result<()> {
        take_all(&self.socket)
    }

    /// Whether what this IPv4 socket sends bears DF from now on.
    pub(super) fn forbid_fragments(&self, forbid: bool) -> io::Result<()> {
        let probe = sockopt::Ipv4PathMtuDiscovery::PROBE;
        let how = if forbid { probe } else { MAY_FRAGMENT };
        Ok(sockopt::set_ip_mtu_discover(&self.socket, how)?)
    }

    /// The descriptor to poll.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether batches go out by GSO, as far as is known.
    pub(super) fn gso(&self) -> bool {
        self.refused.load(Ordering::Relaxed) < GSO_REFUSALS && self.can_gso()
    }

    fn can_gso(&self) -> bool {
        self.state.load().max_gso_segments() > 1
    }

    /// Whether the next batch goes out by GSO.
    fn tries_gso(&self) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        if refused < GSO_REFUSALS {
            return self.can_gso();
        }
        let again = refused >= GSO_REFUSALS + GSO_RETRY;
        self.refused.store(if again { GSO_REFUSALS - 1 } else { refused + 1 }, Ordering::Relaxed);
        again && self.can_gso()
    }

    /// Sends a run of datagrams of `stride` bytes each but the last.
    pub(super) fn send_run(
        &self,
        to: SocketAddr,
        ecn: Ecn,
        run: &[u8],
        stride: usize,
    ) -> io::Result<()> {
        let segments = (MAX_GSO_BYTES / stride).clamp(1, MAX_GSO_SEGMENTS);
        let mut result = Ok(());
        for batch in run.chunks(stride * segments) {
            result = result.and(self.send_batch(to, ecn, batch, stride));
        }
        result
    }

    fn send_batch(&self, to: SocketAddr, ecn: Ecn, batch: &[u8], stride: usize) -> io::Result<()> {
        let mut refused = None;
        if self.tries_gso() {
            match self.patiently(to, ecn, batch, Some(stride)) {
                Err(error) if is_gso_refusal(&error) => refused = Errno::from_io_error(&error),
                other => {
                    self.refused.store(0, Ordering::Relaxed);
                    return other;
                }
            }
        }
        let mut result = Ok(());
        for datagram in batch.chunks(stride) {
            result = result.and(self.send_one(to, ecn, datagram));
        }
        if result.is_ok() && refused.is_some_and(|errno| errno != Errno::MSGSIZE) {
            let before = self.refused.fetch_add(1, Ordering::Relaxed);
            if before + 1 == GSO_REFUSALS {
                tracing::debug!(
                    ?refused,
                    "the kernel refuses UDP GSO; going on without for a while"
                );
            }
        }
        result
    }

    /// Sends one datagram.
    pub(super) fn send_one(&self, to: SocketAddr, ecn: Ecn, datagram: &[u8]) -> io::Result<()> {
        match self.patiently(to, ecn, datagram, None) {
            // A pending error of an earlier datagram, which this call took off the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.patiently(to, ecn, datagram, None)
            }
            other => other,
        }
    }

    /// One `sendmsg`, and one more after a wait for room.
    fn patiently(
        &self,
        destination: SocketAddr,
        ecn: Ecn,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let ecn = EcnCodepoint::from_bits(ecn as u8);
        let transmit = Transmit { destination, ecn, contents, segment_size, src_ip: None };
        let send = || {
            let sent = self.state.load().try_send((&self.socket).into(), &transmit);
            if sent.as_ref().is_err_and(ends_state)
                && let Ok(state) = state_of(&self.socket)
            {
                self.state.store(Arc::new(state));
            }
            sent
        };
        match send() {
            Err(error) if is_full(&error) => {}
            other => return other,
        }
        let mut poll = [PollFd::new(&self.socket, PollFlags::OUT)];
        rustix::event::poll(&mut poll, Some(&SEND_PATIENCE)).ok();
        send().map_err(
            |error| {
                if is_full(&error) { io::ErrorKind::WouldBlock.into() } else { error }
            },
        )
    }

    /// Receives what is there; see [`UdpQueue::recv`](super::UdpQueue::recv).
    pub(super) fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        for _ in 0..ERROR_TRIES {
            let filled = batch
                .fill(|slices, meta| self.state.load().recv((&self.socket).into(), slices, meta));
            match filled {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if !is_fatal(&error) => {}
                filled_or_fatal => return filled_or_fatal,
            }
        }
        Ok(0)
    }
}

/// The state that quinn-udp keeps of a socket; also sets what the socket reports and allows.
fn state_of(socket: &UdpSocket) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(socket.into())?;
    if socket.local_addr()?.is_ipv4() {
        // After quinn-udp, which forbids fragments.
        sockopt::set_ip_mtu_discover(socket, MAY_FRAGMENT).ok();
    }
    set_option(socket, libc::SO_TIMESTAMPNS, false)?;
    Ok(state)
}

/// Switches a yes-or-no option of the socket layer.
///
/// quinn-udp asks for arrival times. Nobody reads them, and their control message takes the room in
/// which that of the ECN field has to arrive: without it, a burst received by GRO seems unmarked.
fn set_option(socket: &UdpSocket, name: libc::c_int, on: bool) -> io::Result<()> {
    let value = libc::c_int::from(on);
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel reads an int of this length.
    let done = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, value, len)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn enlarge_buffers(socket: &Socket) {
    // Without CAP_NET_ADMIN the kernel's own limit (net.core.rmem_max) holds.
    if sockopt::set_socket_recv_buffer_size_force(socket, BUFFER_SIZE).is_err() {
        socket.set_recv_buffer_size(BUFFER_SIZE).ok();
    }
    if sockopt::set_socket_send_buffer_size_force(socket, BUFFER_SIZE).is_err() {
        socket.set_send_buffer_size(BUFFER_SIZE).ok();
    }
}

/// Whether there was no room: in the socket's buffer, or in the queue of the link.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || Errno::from_io_error(error) == Some(Errno::NOBUFS)
}

/// Whether quinn-udp does less for ever after this.
fn ends_state(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::IO))
}

/// Whether a batch may have failed because it was one.
fn is_gso_refusal(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::IO | Errno::INVAL | Errno::NOPROTOOPT | Errno::MSGSIZE))
}

/// Whether no later receive can work: the descriptor is not what we think it is.
fn is_fatal(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::NOTSOCK | Errno::FAULT | Errno::OPNOTSUPP)
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use rustix::event::Timespec;

    use super::*;

    fn half(v4: bool) -> (UdpHalf, SocketAddr) {
        let at = |port| match v4 {
            true => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            false => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        };
        let (half, port) = UdpHalf::bind(at(0), None, Share::First).unwrap();
        (half, at(port))
    }

    /// Collects datagrams with their ECN fields until `count` came.
    fn collect(half: &UdpHalf, count: usize) -> Vec<(Ecn, usize)> {
        let mut batch = RecvBatch::new();
        let mut datagrams = Vec::new();
        while datagrams.len() < count {
            let mut poll = [PollFd::new(&half.socket, PollFlags::IN)];
            let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1), "{datagrams:?}");
            half.recv(&mut batch).unwrap();
            for mut received in batch.received() {
                let ecn = received.ecn;
                datagrams.extend(received.datagrams().map(|datagram| (ecn, datagram.len())));
            }
        }
        datagrams
    }

    #[test]
    fn the_ecn_field_crosses_with_single_datagrams_and_with_bursts_of_both_families() {
        for v4 in [true, false] {
            let ((a, _), (b, to)) = (half(v4), half(v4));
            for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
                a.send_one(to, ecn, &[7; 50]).unwrap();
                a.send_run(to, ecn, &[7; 2_500], 1_000).unwrap();
                let expected = [50, 1_000, 1_000, 500].map(|len| (ecn, len));
                assert_eq!(collect(&b, 4), expected);
            }
        }
    }

    /// Whether the socket's batches are refused: without checksums the kernel has no UDP_SEGMENT, which
    /// it says with EINVAL, and all else.
    fn refuse_gso(half: &UdpHalf, refuse: bool) {
        set_option(&half.socket, libc::SO_NO_CHECK, refuse).unwrap();
    }

    #[test]
    fn a_socket_that_refuses_gso_goes_on_without_and_keeps_the_ecn_field() {
        let ((a, _), (b, to)) = (half(true), half(true));
        assert!(a.gso());
        refuse_gso(&a, true);
        for ecn in [Ecn::Ect0, Ecn::Ce, Ecn::Ect1, Ecn::Ect0] {
            a.send_run(to, ecn, &[7; 2_500], 1_000).unwrap();
            assert_eq!(collect(&b, 3), [1_000, 1_000, 500].map(|len| (ecn, len)));
        }
        assert!(!a.gso());
        let (other, _) = half(true);
        assert!(other.gso(), "another socket is another question");
    }

    #[test]
    fn one_refused_batch_leaves_gso_on_and_after_several_it_is_tried_again() {
        let ((a, _), (b, to)) = (half(true), half(true));
        let run = || {
            a.send_run(to, Ecn::NotEct, &[7; 2_000], 1_000).unwrap();
            assert_eq!(collect(&b, 2).len(), 2);
        };
        for refusals in [1, GSO_REFUSALS] {
            refuse_gso(&a, true);
            (0..refusals).for_each(|_| run());
            refuse_gso(&a, false);
            assert_eq!(a.gso(), refusals < GSO_REFUSALS);
            run();
        }
        (0..GSO_RETRY).for_each(|_| run());
        assert!(a.gso());
    }

    #[test]
    fn a_datagram_that_cannot_be_sent_costs_the_others_neither_gso_nor_the_ecn_field() {
        let ((a, _), (b, to)) = (half(true), half(true));
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let error = a.send_one(nowhere, Ecn::NotEct, b"x").unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::INVAL), "as to a blackhole route");
        assert!(a.gso());
        a.send_run(to, Ecn::Ect0, &[7; 2_500], 1_000).unwrap();
        assert_eq!(collect(&b, 3), [1_000, 1_000, 500].map(|len| (Ecn::Ect0, len)));
    }
}
