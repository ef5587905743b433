//! The sockets of the beacons: multicast on every link of this host.
//!
//! * IPv4: [`GROUP_V4`], in the link-local part of the administratively scoped block (RFC 2365),
//!   TTL 1. IPv6: [`GROUP_V6`], a transient group of link-local scope (RFC 4291), hop limit 1. Both
//!   on UDP port [`PORT`], which is shared with other programs and agents of this host
//!   (`SO_REUSEADDR`, `SO_REUSEPORT`).
//! * A group is joined on each link, and a beacon sent on each: by the link's address for IPv4
//!   (`IP_MULTICAST_IF`), by its index for IPv6. [`Lan::set_interfaces`] follows the links.
//! * Beacons loop back, so that two agents of one host hear each other; who sent one knows it by
//!   its nonce.
//! * Datagrams of another length than a beacon's are dropped here, as is what comes faster than
//!   [`RATE`] a second; the channel is bounded, and a full one drops.
//!
//! A host without IPv6, or one that forbids multicast, has one socket less or none: never an error.

#![allow(clippy::disallowed_methods, reason = "io may spawn tasks")]

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::mesh::event::InterfaceSnapshot;
use crate::wire::beacon::LEN;

/// The IPv4 group.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 71, 76);

/// The IPv6 group: `ff12` is transient and link-local; the rest is "ginnel".
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0x6769, 0x6e6e, 0x656c);

/// The UDP port: below the ephemeral ports, and registered to nobody.
pub const PORT: u16 = 21746;

/// The most beacons a second that are handed on, and sent, each: a busy link of a hundred devices.
const RATE: u32 = 200;

/// Room in the channel; past that beacons are dropped, as a lossy link would.
const ROOM: usize = 64;

/// A beacon as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Who sent it. A link-local IPv6 address carries its scope.
    pub from: SocketAddr,
    /// What it says, of the length of a beacon.
    pub datagram: Vec<u8>,
}

/// The sockets; they close when it is dropped.
#[derive(Debug)]
pub struct Lan {
    v4: Option<Arc<UdpSocket>>,
    v6: Option<Arc<UdpSocket>>,
    /// The links on which the groups are joined.
    links: BTreeMap<u32, Link>,
    sent: Bucket,
    /// Holds the receiving tasks, and ends them.
    _receivers: JoinSet<()>,
}

/// A link, as far as beacons care.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Link {
    /// The address that names the link for IPv4, where it has one.
    v4: Option<Ipv4Addr>,
    /// Whether it has any IPv6 address.
    v6: bool,
}

impl Lan {
    /// Opens the sockets, inside a tokio runtime. No group is joined before
    /// [`Self::set_interfaces`].
    pub fn start() -> (Self, mpsc::Receiver<Received>) {
        let (sender, receiver) = mpsc::channel(ROOM);
        let open = |socket: io::Result<UdpSocket>, family| match socket {
            Ok(socket) => Some(Arc::new(socket)),
            Err(error) => {
                tracing::info!(family, %error, "no beacons: the socket does not open");
                None
            }
        };
        let v4 = open(open_v4(), "IPv4");
        let v6 = open(open_v6(), "IPv6");
        let mut receivers = JoinSet::new();
        for socket in [&v4, &v6].into_iter().flatten() {
            receivers.spawn(receive(Arc::clone(socket), sender.clone()));
        }
        let links = BTreeMap::new();
        let lan = Self { v4, v6, links, sent: Bucket::new(), _receivers: receivers };
        (lan, receiver)
    }

    /// Joins the groups on new links and leaves them on those that went.
    pub fn set_interfaces(&mut self, interfaces: &InterfaceSnapshot) {
        let mut links: BTreeMap<u32, Link> = BTreeMap::new();
        for interface in &interfaces.addresses {
            let link = links.entry(interface.link).or_default();
            match interface.address {
                IpAddr::V4(v4) => link.v4 = link.v4.or(Some(v4)),
                IpAddr::V6(_) => link.v6 = true,
            }
        }
        for (index, old) in &self.links {
            let new = links.get(index).copied().unwrap_or_default();
            if old.v4.is_some() && new.v4.is_none() {
                self.membership_v4(*index, false);
            }
            if old.v6 && !new.v6 {
                self.membership_v6(*index, false);
            }
        }
        for (index, new) in &links {
            let old = self.links.get(index).copied().unwrap_or_default();
            if old.v4.is_none() && new.v4.is_some() {
                self.membership_v4(*index, true);
            }
            if !old.v6 && new.v6 {
                self.membership_v6(*index, true);
            }
        }
        self.links = links;
    }

    /// Sends a beacon on every link. What does not go out is only logged: links come and go.
    pub fn send(&mut self, beacon: &[u8]) {
        if !self.sent.take(Instant::now()) {
            tracing::debug!("too many beacons");
            return;
        }
        for (index, link) in &self.links {
            if let (Some(socket), Some(address)) = (&self.v4, link.v4) {
                log(*index, send_v4(socket, address, beacon));
            }
            if let (Some(socket), true) = (&self.v6, link.v6) {
                let to = SocketAddrV6::new(GROUP_V6, PORT, 0, *index);
                log(*index, SockRef::from(&**socket).send_to(beacon, &to.into()));
            }
        }
    }

    fn membership_v4(&self, link: u32, join: bool) {
        let Some(socket) = &self.v4 else { return };
        let socket = SockRef::from(&**socket);
        let interface = InterfaceIndexOrAddress::Index(link);
        log(
            link,
            match join {
                true => socket.join_multicast_v4_n(&GROUP_V4, &interface),
                false => socket.leave_multicast_v4_n(&GROUP_V4, &interface),
            },
        );
    }

    fn membership_v6(&self, link: u32, join: bool) {
        let Some(socket) = &self.v6 else { return };
        let socket = SockRef::from(&**socket);
        log(
            link,
            match join {
                true => socket.join_multicast_v6(&GROUP_V6, link),
                false => socket.leave_multicast_v6(&GROUP_V6, link),
            },
        );
    }
}

/// Bound to the group, so that unicast datagrams never arrive.
fn open_v4() -> io::Result<UdpSocket> {
    let socket = open(Domain::IPV4)?;
    socket.set_multicast_all_v4(false)?;
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_ttl_v4(1)?;
    socket.bind(&SocketAddrV4::new(GROUP_V4, PORT).into())?;
    UdpSocket::from_std(socket.into())
}

/// Bound to the port only: a group of link-local scope can be bound on one link alone.
fn open_v6() -> io::Result<UdpSocket> {
    let socket = open(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.set_multicast_all_v6(false)?;
    socket.set_multicast_loop_v6(true)?;
    socket.set_multicast_hops_v6(1)?;
    socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0).into())?;
    UdpSocket::from_std(socket.into())
}

fn open(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

/// Past tokio, which would not send before the reactor saw the socket writable. The kernel takes the source address from the link that `address` names.
fn send_v4(socket: &UdpSocket, address: Ipv4Addr, beacon: &[u8]) -> io::Result<usize> {
    let socket = SockRef::from(socket);
    socket.set_multicast_if_v4(&address)?;
    socket.send_to(beacon, &SocketAddrV4::new(GROUP_V4, PORT).into())
}

async fn receive(socket: Arc<UdpSocket>, sender: mpsc::Sender<Received>) {
    // One byte more than a beacon: what fills it was longer.
    let mut buffer = [0; LEN + 1];
    let mut bucket = Bucket::new();
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((LEN, from)) if bucket.take(Instant::now()) => {
                let received = Received { from, datagram: buffer[..LEN].to_vec() };
                match sender.try_send(received) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => tracing::debug!("beacons dropped"),
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a beacon socket fails");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn log<T>(link: u32, result: io::Result<T>) {
    if let Err(error) = result {
        tracing::debug!(link, %error, "no beacons on this link");
    }
}

/// [`RATE`] a second, counted by the second.
#[derive(Debug)]
struct Bucket {
    since: Instant,
    taken: u32,
}

impl Bucket {
    fn new() -> Self {
        Self { since: Instant::now(), taken: 0 }
    }

    fn take(&mut self, now: Instant) -> bool {
        if now >= self.since + Duration::from_secs(1) {
            *self = Self { since: now, taken: 0 };
        }
        self.taken += 1;
        self.taken <= RATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::event::InterfaceAddress;
    use tokio::time::timeout;

    /// Loopback, which a real snapshot never holds, carries multicast as any link does.
    fn loopback() -> InterfaceSnapshot {
        let on = |address: &str, prefix_len| InterfaceAddress {
            link: 1,
            address: address.parse().unwrap(),
            prefix_len,
            mtu: 65_536,
        };
        let addresses = vec![on("127.0.0.1", 8), on("::1", 128)];
        InterfaceSnapshot { addresses, default_route: (false, false) }
    }

    async fn next(receiver: &mut mpsc::Receiver<Received>) -> Option<Received> {
        timeout(Duration::from_millis(500), receiver.recv()).await.ok().flatten()
    }

    #[tokio::test]
    async fn two_agents_of_one_host_hear_each_other_and_only_beacons() {
        let (mut one, _hears) = Lan::start();
        let (mut two, mut heard) = Lan::start();
        one.set_interfaces(&loopback());
        two.set_interfaces(&loopback());
        one.send(&[7; LEN - 1]);
        one.send(&[7; LEN + 1]);
        one.send(&[8; LEN]);
        let received = next(&mut heard).await.expect("a beacon arrives");
        assert_eq!(received.datagram, [8; LEN]);
        assert!(received.from.ip().is_loopback());
        while next(&mut heard).await.is_some() {}
        // Off the link, nothing is heard any more.
        two.set_interfaces(&InterfaceSnapshot::default());
        one.send(&[9; LEN]);
        assert_eq!(next(&mut heard).await, None);
        // And back on it.
        two.set_interfaces(&loopback());
        one.send(&[9; LEN]);
        assert!(next(&mut heard).await.is_some());
    }

    #[test]
    fn a_flood_is_cut_to_the_rate() {
        let mut bucket = Bucket::new();
        let now = Instant::now();
        assert_eq!((0..10_000).filter(|_| bucket.take(now)).count(), RATE as usize);
        assert!(bucket.take(now + Duration::from_secs(2)));
    }
}
