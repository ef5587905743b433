//! Out: one queue of the TUN device to the UDP sockets.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags};

use super::{Device, Plane, wait};
use crate::forward::buffer::Batch;
use crate::forward::egress::Egress;
use crate::forward::{DropReason, Shared, Upcalls};
use crate::io::clock;
use crate::io::tun::TunQueue;
use crate::io::udp::UdpQueue;

/// Frames read before what waits to be sent goes out and upcalls go up: a full send of the smallest
/// datagrams.
const FRAMES_A_TURN: usize = 64;

/// Errors of the device in a row after which it is gone: one or two may be passing.
const MAX_ERRORS: usize = 16;

impl Plane {
    /// Serves a queue until stopped or the device is gone.
    pub(super) fn run_outward(&self, device: &Device, index: usize, stop: &OwnedFd) {
        let queue = &device.queues[index];
        let sockets = self.port.queues();
        let socket = &sockets[index % sockets.len()];
        let mut egress = Egress::new(queue.has_vnet_header());
        let mut upcalls = Upcalls::default();
        let mut errors = 0;
        while errors < MAX_ERRORS {
            let mut fds = [PollFd::new(queue, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            if !wait(&mut fds, None) || !fds[1].revents().is_empty() {
                return;
            }
            match self.send_frames(queue, socket, &mut egress, &mut upcalls) {
                Ok(()) => errors = 0,
                Err(error) => {
                    errors += 1;
                    tracing::debug!(network = ?self.network, %error, "cannot read the interface");
                }
            }
            self.pass(&mut upcalls);
        }
        tracing::warn!(network = ?self.network, "the interface is gone");
    }

    /// One turn: what the device has, up to a limit, then what waits in the send buffer.
    fn send_frames(
        &self,
        queue: &TunQueue,
        socket: &UdpQueue,
        egress: &mut Egress,
        upcalls: &mut Upcalls,
    ) -> io::Result<()> {
        let (table, now) = (self.table.load(), clock::now());
        let mut shared = Shared { table: &table, guard: &self.guard, drops: &self.drops, upcalls };
        let mut send = |batch: Batch<'_>| self.send(socket, &batch);
        let mut result = Ok(());
        for _ in 0..FRAMES_A_TURN {
            match queue.read(egress.room()) {
                Ok(len) => egress.handle_frame(len, &mut shared, &mut send, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        egress.flush(&mut send);
        for answer in egress.drain_answers() {
            if queue.write(&answer).is_err() {
                self.drops.count(DropReason::InterfaceWrite);
            }
        }
        result
    }

    fn send(&self, socket: &UdpQueue, batch: &Batch<'_>) {
        let stride = u16::try_from(batch.segment_size).ok();
        let Err(error) = socket.send(batch.to, batch.ecn, batch.bytes, stride) else { return };
        tracing::trace!(to = %batch.to, %error, "a batch was not sent");
        let full = error.kind() == io::ErrorKind::WouldBlock;
        let reason = if full { DropReason::SocketFull } else { DropReason::SocketSend };
        let datagrams = batch.bytes.len().div_ceil(batch.segment_size);
        self.drops.count_many(reason, datagrams as u64);
    }
}
