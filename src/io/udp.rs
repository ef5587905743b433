//! The UDP socket pair of a network: IPv4 and IPv6 on one port.
//!
//! A send is one `sendmsg`, with `UDP_SEGMENT` (GSO) where a batch of equal datagrams goes to one
//! address; a receive is one `recvmmsg` with `UDP_GRO`, which gives runs of datagrams of one
//! sender. quinn-udp encodes the control messages; which error means what is decided here:
//!
//! * **Nothing that the network says kills the socket.** ICMP errors, unreachable routes and full
//!   queues are this datagram's loss; senders retransmit anyway.
//! * **Would block**: the send waits up to [`SEND_PATIENCE`] for room in the socket's buffer, then
//!   the datagram is dropped and counted. UDP has no better place to queue, and a sender that does
//!   not wait at all throws away what a burst needs a millisecond for.
//! * **GSO refused**: the batch goes out datagram by datagram. Only when that works was GSO the
//!   culprit, and is left off for `EIO` and `EINVAL` (the driver cannot); for `EMSGSIZE` only this
//!   batch was too large for its link.
//!
//! Datagrams are not longer than what passed a path whole ([`UdpPort::send_whole`] asks), and so are
//! hardly ever fragmented. That IPv4 ones may be, on the way (no DF), as WireGuard's own, is for the
//! moment after a path became narrower. IPv6 ones may not (`IPV6_DONTFRAG`, set by quinn-udp): Linux
//! would make them as long as ICMP said, if it got through. What ICMP says of sizes is ignored in
//! both families, since anybody can forge it.
//!
//! All methods take `&self` and are safe from several threads; none blocks longer than
//! [`SEND_PATIENCE`].

mod batch;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quinn_udp::{Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

pub use batch::{Received, RecvBatch};

/// How long a send waits for room in the socket's buffer: at 1 Gbit/s, 2 ms drain 250 kB, more
/// than three full GSO batches.
pub const SEND_PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// Wanted size of both socket buffers, in bytes; the kernel doubles it for its own bookkeeping.
/// At 3 Gbit/s it holds 10 ms, which a data thread may lose to the scheduler.
const BUFFER_SIZE: usize = 4 << 20;

/// How many ports are tried for one that is free for both families.
const PORT_TRIES: usize = 32;

/// The longest batch one `sendmsg` takes: the largest UDP payload over IPv4 is 65,507 bytes, over
/// IPv6 20 more; 20 fewer leave room for IPv4 options.
const MAX_GSO_BYTES: usize = 65_487;

/// The most segments one `sendmsg` takes (`UDP_MAX_SEGMENTS` before Linux 6.9).
const MAX_GSO_SEGMENTS: usize = 64;

/// No DF, and no belief in ICMP; the link's own MTU holds.
const MAY_FRAGMENT: sockopt::Ipv4PathMtuDiscovery = sockopt::Ipv4PathMtuDiscovery::OMIT;

/// How many queued errors of the socket one receive clears before it gives up for this time.
const ERROR_TRIES: usize = 16;

/// Which of the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// How to open the pair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UdpOptions {
    /// The port; 0 = any that is free for both families.
    pub port: u16,
    /// `SO_MARK` of what is sent, for policy routing (needs `CAP_NET_ADMIN`).
    pub mark: Option<u32>,
}

/// The sockets of one network. A host without IPv6 (or without IPv4) has one of them.
#[derive(Debug)]
pub struct UdpPort {
    port: u16,
    v4: Option<Half>,
    v6: Option<Half>,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Half {
    socket: UdpSocket,
    state: UdpSocketState,
    gso: AtomicBool,
}

impl UdpPort {
    /// Binds both families to one port.
    ///
    /// # Errors
    /// `AddrInUse` when the named port is taken in either family, with a sentence that names it;
    /// what the kernel says when neither family exists.
    pub fn bind(options: UdpOptions) -> io::Result<Self> {
        for _ in 0..PORT_TRIES {
            match Self::try_bind(options) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && options.port == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    let sentence = format!(
                        "UDP port {} is in use: set another port in the configuration, or 0",
                        options.port
                    );
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, sentence));
                }
                other => return other,
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "found no UDP port that is free"))
    }

    fn try_bind(options: UdpOptions) -> io::Result<Self> {
        let v4 = Half::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, options.port)), options.mark);
        let (v4, port) = match v4 {
            Ok((half, port)) => (Some(half), port),
            Err(error) if is_missing(&error) => (None, options.port),
            Err(error) => return Err(error),
        };
        let v6 = Half::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), options.mark);
        let (v6, port) = match v6 {
            Ok((half, port)) => (Some(half), port),
            Err(error) if v4.is_some() && is_missing(&error) => (None, port),
            Err(error) => return Err(error),
        };
        Ok(Self { port, v4, v6, dropped: AtomicU64::new(0) })
    }

    /// The port of both sockets.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The descriptor to poll for datagrams of `family`; `None` where the host has it not.
    pub fn fd(&self, family: Family) -> Option<BorrowedFd<'_>> {
        self.half(family).map(|half| half.socket.as_fd())
    }

    /// How many sends were dropped because the socket's buffer stayed full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Whether batches to `family` go out by GSO, as far as is known.
    pub fn gso(&self, family: Family) -> bool {
        self.half(family).is_some_and(|half| half.gso.load(Ordering::Relaxed))
    }

    /// Sends `bytes` to `to`: one datagram, or with `segment_size` a run of datagrams of that size
    /// of which only the last may be shorter; any length.
    ///
    /// # Errors
    /// What the kernel said of the datagram that failed first (unreachable, too large for the
    /// link, forbidden by a firewall); the rest of the run was tried all the same, and the socket
    /// lives on. `InvalidInput` for an address that nothing can be sent to, `Unsupported` for a
    /// family that the host has not.
    pub fn send(&self, to: SocketAddr, bytes: &[u8], segment_size: Option<u16>) -> io::Result<()> {
        let to = normalize(to);
        check_destination(to)?;
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let half = self.half(family).ok_or(io::ErrorKind::Unsupported)?;
        let stride = segment_size.map_or(0, usize::from);
        if stride == 0 || stride >= bytes.len() {
            return self.send_one(half, to, bytes);
        }
        let segments = (MAX_GSO_BYTES / stride).clamp(1, MAX_GSO_SEGMENTS);
        let mut result = Ok(());
        for batch in bytes.chunks(stride * segments) {
            result = result.and(self.send_batch(half, to, batch, stride));
        }
        result
    }

    /// Sends one datagram that no router may fragment, to ask whether it arrives. What another thread
    /// sends in the same instant may not be fragmented either, which only matters where it would
    /// have been.
    ///
    /// # Errors
    /// As [`send`](Self::send); `EMSGSIZE` where it is longer than the link.
    pub fn send_whole(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let socket = self.v4.as_ref().map(|half| &half.socket);
        let Some(socket) = socket.filter(|_| normalize(to).is_ipv4()) else {
            return self.send(to, datagram, None);
        };
        sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::PROBE)?;
        let sent = self.send(to, datagram, None);
        sockopt::set_ip_mtu_discover(socket, MAY_FRAGMENT)?;
        sent
    }

    /// Receives what is there, into `batch`, and says how many messages that is; 0 = nothing.
    ///
    /// # Errors
    /// Only what no later call can mend; what the network reports is skipped.
    pub fn recv(&self, family: Family, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.clear();
        let Some(half) = self.half(family) else { return Ok(0) };
        for _ in 0..ERROR_TRIES {
            match half.recv(batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if !is_fatal(&error) => {}
                filled_or_fatal => return filled_or_fatal,
            }
        }
        Ok(0)
    }

    fn half(&self, family: Family) -> Option<&Half> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    fn send_batch(
        &self,
        half: &Half,
        to: SocketAddr,
        batch: &[u8],
        stride: usize,
    ) -> io::Result<()> {
        let mut refused = None;
        if half.gso.load(Ordering::Relaxed) {
            match self.patiently(half, to, batch, Some(stride)) {
                Err(error) if is_gso_refusal(&error) => refused = Errno::from_io_error(&error),
                other => return other,
            }
        }
        let mut result = Ok(());
        for datagram in batch.chunks(stride) {
            result = result.and(self.send_one(half, to, datagram));
        }
        if result.is_ok() && matches!(refused, Some(Errno::IO | Errno::INVAL)) {
            tracing::info!(?refused, "the kernel refuses UDP GSO; going on without");
            half.gso.store(false, Ordering::Relaxed);
        }
        result
    }

    fn send_one(&self, half: &Half, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        match self.patiently(half, to, datagram, None) {
            // A pending error of an earlier datagram, which this call took off the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.patiently(half, to, datagram, None)
            }
            other => other,
        }
    }

    /// One `sendmsg`, and one more after a wait for room.
    fn patiently(
        &self,
        half: &Half,
        to: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let transmit =
            Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
        let send = || half.state.try_send((&half.socket).into(), &transmit);
        let would_block = |error: &io::Error| {
            error.kind() == io::ErrorKind::WouldBlock
                || Errno::from_io_error(error) == Some(Errno::NOBUFS)
        };
        match send() {
            Err(error) if would_block(&error) => {}
            other => return other,
        }
        let mut poll = [PollFd::new(&half.socket, PollFlags::OUT)];
        rustix::event::poll(&mut poll, Some(&SEND_PATIENCE)).ok();
        match send() {
            Err(error) if would_block(&error) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            other => other,
        }
    }
}

impl Half {
    fn bind(address: SocketAddr, mark: Option<u32>) -> io::Result<(Self, u16)> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if let Some(mark) = mark {
            socket.set_mark(mark)?;
        }
        enlarge_buffers(&socket);
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        if address.is_ipv4() {
            // After quinn-udp, which forbids fragments.
            sockopt::set_ip_mtu_discover(&socket, MAY_FRAGMENT).ok();
        }
        let port = socket.local_addr()?.port();
        let gso = AtomicBool::new(state.max_gso_segments() > 1);
        Ok((Self { socket, state, gso }, port))
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.fill(|slices, meta| self.state.recv((&self.socket).into(), slices, meta))
    }
}

/// The same address, as IPv4 where it is a v4-mapped IPv6 address.
pub fn normalize(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, v6.port())),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// Refuses what the kernel would answer with `EINVAL`, which must not be taken for a fault of GSO,
/// and 0.0.0.0 and ::, which it would deliver to this host itself.
fn check_destination(to: SocketAddr) -> io::Result<()> {
    let scopeless = match to {
        SocketAddr::V6(v6) => v6.ip().is_unicast_link_local() && v6.scope_id() == 0,
        SocketAddr::V4(_) => false,
    };
    let nowhere = match to.ip() {
        IpAddr::V4(ip) => ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    if to.port() == 0 || nowhere || scopeless {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("cannot send to {to}")));
    }
    Ok(())
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

/// Whether the host lacks this family: not built in, or switched off.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT | Errno::PFNOSUPPORT)
    )
}

fn is_gso_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::INVAL | Errno::MSGSIZE))
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
    use super::*;

    fn pair() -> (UdpPort, UdpPort) {
        let bind = || UdpPort::bind(UdpOptions::default()).expect("loopback always works");
        (bind(), bind())
    }

    fn loopback(family: Family, port: u16) -> SocketAddr {
        match family {
            Family::V4 => (Ipv4Addr::LOCALHOST, port).into(),
            Family::V6 => (Ipv6Addr::LOCALHOST, port).into(),
        }
    }

    /// Collects datagrams until `count` came.
    fn collect(port: &UdpPort, family: Family, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut batch = RecvBatch::new();
        let mut datagrams = Vec::new();
        while datagrams.len() < count {
            let fd = port.fd(family).expect("the family exists");
            let mut poll = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1), "{count} expected");
            port.recv(family, &mut batch).unwrap();
            for mut received in batch.received() {
                let from = received.from;
                datagrams.extend(received.datagrams().map(|d| (from, d.to_vec())));
            }
        }
        datagrams
    }

    #[test]
    fn both_families_share_one_port() {
        let (a, b) = pair();
        assert_ne!(a.port(), 0);
        assert_ne!(a.port(), b.port());
        assert!(a.fd(Family::V4).is_some());
    }

    #[test]
    fn a_taken_port_is_named() {
        let (a, _) = pair();
        let error = UdpPort::bind(UdpOptions { port: a.port(), mark: None }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&a.port().to_string()));
    }

    #[test]
    fn a_run_arrives_as_the_datagrams_that_were_sent() {
        let (a, b) = pair();
        for family in [Family::V4, Family::V6] {
            if a.fd(family).is_none() {
                continue;
            }
            let run: Vec<u8> = (0..200_000u32).flat_map(|i| (i as u16).to_be_bytes()).collect();
            a.send(loopback(family, b.port()), &run, Some(1_300)).unwrap();
            let datagrams = collect(&b, family, run.len().div_ceil(1_300));
            assert!(datagrams.iter().all(|(from, _)| *from == loopback(family, a.port())));
            let joined: Vec<u8> = datagrams.into_iter().flat_map(|(_, bytes)| bytes).collect();
            assert_eq!(joined, run);
        }
    }

    #[test]
    fn a_run_arrives_without_gso_too() {
        let (a, b) = pair();
        a.v4.as_ref().unwrap().gso.store(false, Ordering::Relaxed);
        a.send(loopback(Family::V4, b.port()), &[7; 2_500], Some(1_000)).unwrap();
        let lengths: Vec<_> =
            collect(&b, Family::V4, 3).into_iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lengths, [1_000, 1_000, 500]);
    }

    #[test]
    fn the_longest_datagram_passes_and_a_longer_one_is_an_error_only() {
        let (a, b) = pair();
        let to = loopback(Family::V4, b.port());
        a.send(to, &[1; 65_507], None).unwrap();
        assert_eq!(collect(&b, Family::V4, 1)[0].1.len(), 65_507);
        assert!(a.send(to, &[1; 65_508], None).is_err());
        a.send(to, b"still alive", None).unwrap();
        assert_eq!(collect(&b, Family::V4, 1)[0].1, b"still alive");
    }

    #[test]
    fn empty_datagrams_neither_appear_nor_stop_others() {
        let (a, b) = pair();
        let to = loopback(Family::V4, b.port());
        a.send(to, b"", None).unwrap();
        a.send(to, b"x", None).unwrap();
        assert_eq!(collect(&b, Family::V4, 1)[0].1, b"x");
    }

    #[test]
    fn a_refusing_host_kills_nothing() {
        let (a, b) = pair();
        let closed = pair().0.port();
        for _ in 0..20 {
            a.send(loopback(Family::V4, closed), b"knock", None).unwrap();
        }
        assert_eq!(a.recv(Family::V4, &mut RecvBatch::new()).unwrap(), 0);
        a.send(loopback(Family::V4, b.port()), b"x", None).unwrap();
        assert_eq!(collect(&b, Family::V4, 1)[0].1, b"x");
    }

    #[test]
    fn addresses_that_mean_nobody_are_refused_and_leave_gso_on() {
        let (a, _) = pair();
        let before = a.gso(Family::V4);
        for to in ["127.0.0.1:0", "0.0.0.0:9", "[::]:9", "[fe80::1]:9", "[::ffff:0.0.0.0]:9"] {
            let error = a.send(to.parse().unwrap(), &[0; 3_000], Some(1_000)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{to}");
        }
        // Broadcast without permission, and what the kernel refuses by itself.
        assert!(a.send("255.255.255.255:9".parse().unwrap(), &[0; 3_000], Some(1_000)).is_err());
        assert_eq!(a.gso(Family::V4), before);
    }

    #[test]
    fn mapped_addresses_are_sent_and_shown_as_ipv4() {
        let (a, b) = pair();
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), b.port()));
        a.send(mapped, b"x", None).unwrap();
        assert_eq!(collect(&b, Family::V4, 1)[0].0, loopback(Family::V4, a.port()));
    }
}
