//! In: one pair of UDP sockets to a queue of the TUN device.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::{Device, Plane, wait};
use crate::forward::coalesce::Merge;
use crate::forward::ecn::Ecn;
use crate::forward::ingress::{Ingress, Run};
use crate::forward::{DropReason, Shared, Upcalls};
use crate::io::clock;
use crate::io::udp::{Family, RecvBatch};

/// Receives of one family before the other is looked at.
const BATCHES_A_TURN: usize = 8;

/// What one thread receives into and opens with.
struct Inbox {
    /// Which pair of sockets, and which queue of the device where it has several.
    index: usize,
    batch: RecvBatch,
    ingress: Ingress,
    upcalls: Upcalls,
}

impl Plane {
    /// Serves a pair of sockets until stopped or one is broken.
    pub(super) fn run_inward(&self, index: usize, stop: &OwnedFd) {
        let mut inbox = Inbox {
            index,
            batch: RecvBatch::new(),
            ingress: Ingress::new(Merge::Plain),
            upcalls: Upcalls::default(),
        };
        let pair = &self.port.queues()[index];
        let families: Vec<_> = [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| pair.fd(*family).is_some())
            .collect();
        let sockets = families.iter().filter_map(|family| pair.fd(*family));
        let mut fds: Vec<_> = std::iter::once(stop.as_fd())
            .chain(sockets)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        loop {
            if !wait(&mut fds) || !fds[0].revents().is_empty() {
                return;
            }
            for (family, fd) in families.iter().zip(&fds[1..]) {
                if fd.revents().is_empty() {
                    continue;
                }
                let received = self.receive(*family, &mut inbox);
                self.pass(&mut inbox.upcalls);
                if let Err(error) = received {
                    tracing::error!(network = ?self.network, %error, "the UDP socket is broken");
                    return;
                }
            }
        }
    }

    /// One turn: what the sockets have, up to a limit.
    fn receive(&self, family: Family, inbox: &mut Inbox) -> io::Result<()> {
        let Inbox { index, batch, ingress, upcalls } = inbox;
        let pair = &self.port.queues()[*index];
        let table = self.table.load();
        let device = self.device.load_full();
        ingress.set_merge(device.as_ref().map_or(Merge::Plain, |device| *device.merge.lock()));
        let mut shared = Shared { table: &table, guard: &self.guard, drops: &self.drops, upcalls };
        let mut write = |frame: &[IoSlice<'_>]| self.write(device.as_deref(), *index, frame);
        for _ in 0..BATCHES_A_TURN {
            if pair.recv(family, batch)? == 0 {
                break;
            }
            let now = clock::now();
            for run in batch.received() {
                let run =
                    Run { from: run.from, ecn: run.ecn, bytes: run.bytes, stride: run.stride };
                ingress.handle_run(run, &mut shared, &mut write, now);
            }
            ingress.flush(&mut write);
            for (to, cookie) in ingress.drain_replies() {
                // Lost like any datagram: the other side asks again.
                pair.send(to, Ecn::NotEct, &cookie, None).ok();
            }
        }
        Ok(())
    }

    fn write(&self, device: Option<&Device>, index: usize, frame: &[IoSlice<'_>]) {
        // A header and a packet, or one header for many packets.
        let packets = frame.len().saturating_sub(1).max(1) as u64;
        let lost = || self.drops.count_many(DropReason::InterfaceWrite, packets);
        let Some(device) = device else { return lost() };
        let queue = &device.queues[index % device.queues.len()];
        let Err(error) = queue.write_vectored(frame) else { return };
        lost();
        // Two slices are one packet; of a kernel that refuses more we ask less from now on.
        if frame.len() > 2 && Errno::from_io_error(&error) == Some(Errno::INVAL) {
            let mut merge = device.merge.lock();
            *merge = merge.lower();
            tracing::info!(network = ?self.network, now = ?*merge, "the interface takes less");
        }
    }
}
