//! The UDP sockets of a network: pairs of an IPv4 and an IPv6 socket, all on one port.
//!
//! There is one pair a packet thread ([`UdpQueue`]). Where there are several, the kernel spreads what
//! arrives by the hash of addresses and ports (`SO_REUSEPORT`), so that everything from one endpoint
//! comes to one socket, in order; whatever is sent leaves from the same port, whichever socket sends
//! it. One pair more, the [`gate`](UdpPort::gate), gets all that is no transport datagram (`steer`).
//! The first pair is bound without `SO_REUSEPORT`, so that a port that anybody else has is found
//! taken, and is opened to the others afterwards. While strangers flood a socket,
//! the kernel drops what they send before it is queued (`sieve`).
//!
//! A send is one `sendmsg`, with `UDP_SEGMENT` (GSO) where a batch of equal datagrams goes to one
//! address; a receive is one `recvmmsg` with `UDP_GRO`, which gives runs of datagrams of one
//! sender. quinn-udp encodes the control messages; which error means what is decided here:
//!
//! * **Nothing that the network says kills the socket.** ICMP errors, unreachable routes and full
//!   queues are this datagram's loss; senders retransmit anyway.
//! * **Would block**: the send waits up to [`SEND_PATIENCE`] for room in the socket's buffer, then
//!   the datagram is dropped, which the caller counts. UDP has no better place to queue, and a sender that does
//!   not wait at all throws away what a burst needs a millisecond for.
//! * **GSO refused**: the batch goes out datagram by datagram. Only when that works was GSO the
//!   culprit; with `EMSGSIZE` only this batch was too large for its link. With `EIO`, `EINVAL` and
//!   `ENOPROTOOPT` the driver or the kernel cannot, or not to that destination: older kernels answer so
//!   to what is too large, and every one for links under IPsec. So GSO is left off on this socket after
//!   three batches in a row, and tried again later.
//!
//! The ECN field of the IP header goes out as told and comes in as it was.
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
mod queue;
mod sieve;
mod socket;
mod steer;

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::event::Timespec;
use rustix::io::Errno;

use crate::forward::ecn::Ecn;
use socket::Share;

pub use batch::{Received, RecvBatch};
pub use queue::UdpQueue;
pub use sieve::{MAX_SOURCES, MAX_TAGS};

/// How long a send waits for room in the socket's buffer: at 1 Gbit/s, 2 ms drain 250 kB, more
/// than three full GSO batches.
pub const SEND_PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// How many ports are tried for one that is free for both families.
const PORT_TRIES: usize = 32;

/// Which of the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// How to open the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpOptions {
    /// The port; 0 = any that is free for both families.
    pub port: u16,
    /// `SO_MARK` of what is sent, for policy routing (needs `CAP_NET_ADMIN`).
    pub mark: Option<u32>,
    /// How many pairs, at least one. Where the kernel refuses to share the port there is one.
    pub queues: usize,
    /// Whether what is no transport datagram gets a pair of its own, where the kernel can.
    pub gate: bool,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { port: 0, mark: None, queues: 1, gate: false }
    }
}

/// The sockets of one network.
#[derive(Debug)]
pub struct UdpPort {
    port: u16,
    /// At least one.
    queues: Vec<UdpQueue>,
    gate: Option<UdpQueue>,
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

    fn try_bind(UdpOptions { port, mark, queues, gate }: UdpOptions) -> io::Result<Self> {
        let (first, port) = UdpQueue::bind(port, mark, Share::First)?;
        let shared = (queues > 1 || gate) && first.share().is_ok();
        let further = || UdpQueue::bind(port, mark, Share::Further).map(|(queue, _)| queue);
        let rest = (1..queues).filter(|_| shared).map(|_| further());
        let queues = std::iter::once(Ok(first)).chain(rest).collect::<io::Result<Vec<_>>>()?;
        // Last, as the program that steers counts them.
        let gate = (gate && shared).then(further).transpose()?;
        let gate = gate.filter(|_| match queues[0].steer(queues.len() as u32) {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(%error, "the kernel does not tell datagrams apart");
                false
            }
        });
        Ok(Self { port, queues, gate })
    }

    /// The port of all sockets.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The pairs, at least one; each is received from by one thread.
    pub fn queues(&self) -> &[UdpQueue] {
        &self.queues
    }

    /// The pair that gets what is no transport datagram; where there is none, the others do. A
    /// transport datagram may come here too, and to the others what is none.
    pub fn gate(&self) -> Option<&UdpQueue> {
        self.gate.as_ref()
    }

    /// Sends a datagram, or a run of them, that is no packet's: see [`UdpQueue::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, to: SocketAddr, bytes: &[u8], segment_size: Option<u16>) -> io::Result<()> {
        self.queues[0].send(to, Ecn::NotEct, bytes, segment_size)
    }

    /// Sends one datagram that no router may fragment, to ask whether it arrives. What another thread
    /// sends in the same instant may not be fragmented either, which only matters where it would
    /// have been.
    ///
    /// # Errors
    /// As [`send`](Self::send); `EMSGSIZE` where it is longer than the link.
    pub fn send_whole(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.queues[0].send_whole(to, datagram)
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

/// Whether the host lacks this family: not built in, or switched off.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT | Errno::PFNOSUPPORT)
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use rustix::event::{PollFd, PollFlags};

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
            let fd = port.queues()[0].fd(family).expect("the family exists");
            let mut poll = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1), "{count} expected");
            port.queues()[0].recv(family, &mut batch).unwrap();
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
        assert!(a.queues()[0].fd(Family::V4).is_some());
    }

    #[test]
    fn a_taken_port_is_named() {
        let (a, _) = pair();
        let error =
            UdpPort::bind(UdpOptions { port: a.port(), ..UdpOptions::default() }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&a.port().to_string()));
    }

    #[test]
    fn several_pairs_share_a_port_and_one_sender_keeps_to_one_of_them() {
        let queues =
            |queues| UdpPort::bind(UdpOptions { queues, ..UdpOptions::default() }).unwrap();
        let shared = queues(4);
        assert_eq!(shared.queues().len(), 4);
        let taken =
            UdpPort::bind(UdpOptions { port: shared.port(), queues: 4, ..UdpOptions::default() });
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let mut hit = std::collections::BTreeSet::new();
        for sender in (0..32).map(|_| queues(2)) {
            let to = loopback(Family::V4, shared.port());
            for queue in sender.queues().iter().cycle().take(6) {
                queue.send(to, Ecn::NotEct, b"x", None).unwrap();
            }
            let mut batch = RecvBatch::new();
            let counts: Vec<_> = shared
                .queues()
                .iter()
                .map(|queue| queue.recv(Family::V4, &mut batch).unwrap())
                .collect();
            assert_eq!(counts.iter().filter(|count| **count == 6).count(), 1, "{counts:?}");
            hit.insert(counts);
        }
        assert!(hit.len() > 1, "several senders spread");
    }

    #[test]
    fn data_spreads_over_the_pairs_and_all_else_comes_to_the_gate() {
        let bind = |queues, gate| {
            UdpPort::bind(UdpOptions { queues, gate, ..UdpOptions::default() }).unwrap()
        };
        let received = |queue: &UdpQueue, family| {
            let mut batch = RecvBatch::of_many();
            queue.recv(family, &mut batch).unwrap();
            let mut lengths = Vec::new();
            for mut received in batch.received() {
                lengths.extend(received.datagrams().map(|datagram| datagram.len()));
            }
            lengths
        };
        for (queues, family) in [(1, Family::V4), (1, Family::V6), (3, Family::V4), (3, Family::V6)]
        {
            let port = bind(queues, true);
            let gate = port.gate().expect("this kernel steers");
            let Some(_) = gate.fd(family) else { continue };
            let mut hit = std::collections::BTreeSet::new();
            for sender in (0..24).map(|_| bind(1, false)) {
                let send = |first: u8, len: usize| {
                    let datagram = [&[first, 0, 0, 0][..], &vec![0; len]].concat();
                    let to = loopback(family, port.port());
                    sender.send(to, &datagram[..len], None).unwrap();
                };
                for (first, len) in
                    [(4, 32), (1, 148), (4, 31), (4, 1452), (5, 64), (4, 3), (0, 20)]
                {
                    send(first, len);
                }
                assert_eq!(received(gate, family), [148, 31, 64, 3, 20]);
                let data: Vec<_> = port.queues().iter().map(|q| received(q, family)).collect();
                let at = data.iter().position(|lengths| *lengths == [32, 1452]);
                hit.insert(at.expect("the data of one sender comes to one pair, in order"));
                assert_eq!(data.concat().len(), 2);
            }
            assert_eq!(hit.len(), queues, "several senders spread");
        }
    }

    #[test]
    fn a_run_arrives_as_the_datagrams_that_were_sent() {
        let (a, b) = pair();
        for family in [Family::V4, Family::V6] {
            if a.queues()[0].fd(family).is_none() {
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
        assert_eq!(a.queues()[0].recv(Family::V4, &mut RecvBatch::new()).unwrap(), 0);
        a.send(loopback(Family::V4, b.port()), b"x", None).unwrap();
        assert_eq!(collect(&b, Family::V4, 1)[0].1, b"x");
    }

    #[test]
    fn addresses_that_mean_nobody_are_refused_and_leave_gso_on() {
        let (a, _) = pair();
        let before = a.queues()[0].gso(Family::V4);
        for to in ["127.0.0.1:0", "0.0.0.0:9", "[::]:9", "[fe80::1]:9", "[::ffff:0.0.0.0]:9"] {
            let error = a.send(to.parse().unwrap(), &[0; 3_000], Some(1_000)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{to}");
        }
        // Broadcast without permission, and what the kernel refuses by itself.
        assert!(a.send("255.255.255.255:9".parse().unwrap(), &[0; 3_000], Some(1_000)).is_err());
        assert_eq!(a.queues()[0].gso(Family::V4), before);
    }

    #[test]
    fn mapped_addresses_are_sent_and_shown_as_ipv4() {
        let (a, b) = pair();
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), b.port()));
        a.send(mapped, b"x", None).unwrap();
        assert_eq!(collect(&b, Family::V4, 1)[0].0, loopback(Family::V4, a.port()));
    }
}
