//! The news that links, addresses or routes changed.

use std::io;
use std::time::Duration;

use netlink_sys::Socket;
use rtnetlink::MulticastGroup;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// How long the network must be quiet before a change is told: an interface that comes up makes a
/// dozen messages within some ten milliseconds.
const QUIET: Duration = Duration::from_millis(60);

/// The longest a change is held back while more keep coming, as on a router whose routing daemon
/// never rests.
const MAX_DELAY: Duration = Duration::from_millis(500);

/// News that the network changed.
#[derive(Debug)]
pub struct Changes {
    socket: AsyncFd<Socket>,
    /// When the first and the last untold message came.
    untold: Option<(Instant, Instant)>,
}

impl Changes {
    pub(super) fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ] {
            socket.add_membership(group as u32)?;
        }
        // SAFETY: a netlink socket answers with the same descriptor for as long as it lives, and
        // closes it only when dropped, which the AsyncFd that owns it does after deregistering.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket, untold: None })
    }

    /// Waits until something changed and the network came to rest. Cancel safe: what was heard
    /// before is told by the next call.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let Some((first, last)) = self.untold else {
                self.hear().await?;
                continue;
            };
            let due = (last + QUIET).min(first + MAX_DELAY);
            match tokio::time::timeout_at(due, self.hear()).await {
                Ok(heard) => heard?,
                Err(_) => {
                    self.untold = None;
                    return Ok(());
                }
            }
        }
    }

    /// Waits for a message and takes all that are there.
    async fn hear(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            match drain(ready.get_inner()) {
                Ok(0) => ready.clear_ready(),
                Ok(_) => break,
                Err(error) => return Err(error),
            }
        }
        let now = Instant::now();
        self.untold = Some((self.untold.map_or(now, |(first, _)| first), now));
        Ok(())
    }
}

/// Throws away all messages that wait, and says how many there were.
fn drain(socket: &Socket) -> io::Result<usize> {
    // A message is cut to the buffer, which is all the same for one that is not looked at.
    let mut buffer = [0; 64];
    let mut heard = 0;
    loop {
        match socket.recv(&mut &mut buffer[..], 0) {
            Ok(_) => heard += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The queue overflowed: messages are lost, and that is news, too.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => heard += 1,
            Err(error) => return Err(error),
        }
    }
}
