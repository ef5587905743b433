//! In: one pair of UDP sockets to a queue of the TUN device.
//!
//! A thread looks as soon as there is something, unless strangers flood it: where much came and nothing
//! of it was authentic data, it pauses before it looks again, so that waking up, which costs more
//! than a datagram that is dropped, is shared by hundreds. A handshake in between waits no longer than
//! on a slow path. Where data flows there are no pauses: TCP takes the longer round trip for a queue,
//! and stays slow.
//!
//! At the gate the kernel sifts out what strangers send while they flood it ([`super::sieve`]).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::{Device, Plane, wait};
use crate::forward::coalesce::Merge;
use crate::forward::ecn::Ecn;
use crate::forward::ingress::{Ingress, Run, Strange};
use crate::forward::{DropReason, Shared, Upcalls};
use crate::io::clock;
use crate::io::udp::{Family, RecvBatch, UdpQueue};

/// Receives of one family before the other is looked at.
const BATCHES_A_TURN: usize = 8;

/// So many messages without data in [`WINDOW`] come only where somebody floods, 4,000 a second: a crowd
/// of peers that all call at once brings fewer.
const FLOOD: usize = 16;
const WINDOW: Duration = Duration::from_millis(4);

/// Who received data in this time is spared: longer than TCP waits before it sends again (200 ms on
/// Linux at least).
const SPARED: Duration = Duration::from_millis(300);

/// How long a flood may gather: at 100,000 datagrams a second one turn's worth.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// How often a sieve is looked after: so long somebody new may not be heard who was not asked
/// anything yet.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// What one thread receives into and opens with.
struct Inbox {
    /// Which queue of the device, where it has several.
    index: usize,
    batch: RecvBatch,
    ingress: Ingress,
    upcalls: Upcalls,
}

/// What came without any data among it, and since when.
#[derive(Default)]
struct Noise {
    messages: usize,
    since: Option<Instant>,
    data_at: Option<Instant>,
}

impl Noise {
    /// Counts the messages of a turn that brought so many packets; whether a flood is on.
    fn count(&mut self, messages: usize, packets: usize, now: Instant) -> bool {
        if packets > 0 {
            self.data_at = Some(now);
        }
        let within = |at: Option<Instant>, time| {
            at.is_some_and(|at| now.saturating_duration_since(at) <= time)
        };
        if within(self.data_at, SPARED) || !within(self.since, WINDOW) {
            (self.messages, self.since) = (0, Some(now));
        }
        self.messages += messages;
        let flooded = self.messages >= FLOOD && !within(self.data_at, SPARED);
        if flooded {
            self.since = None;
        }
        flooded
    }
}

impl Inbox {
    fn new(index: usize, batch: RecvBatch) -> Self {
        let (ingress, upcalls) = (Ingress::new(Merge::Plain), Upcalls::default());
        Self { index, batch, ingress, upcalls }
    }
}

impl Plane {
    /// Serves the data sockets with this number until stopped or one is broken.
    pub(super) fn run_inward(&self, index: usize, stop: &OwnedFd) {
        let inbox = Inbox::new(index, RecvBatch::new());
        self.serve(&self.port.queues()[index], inbox, false, stop);
    }

    /// Serves the gate, where there is one, likewise.
    pub(super) fn run_gate(&self, stop: &OwnedFd) {
        if let Some(gate) = self.port.gate() {
            self.serve(gate, Inbox::new(0, RecvBatch::of_many()), true, stop);
        }
    }

    fn serve(&self, pair: &UdpQueue, mut inbox: Inbox, sifts: bool, stop: &OwnedFd) {
        let mut noise = Noise::default();
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
            let sifted = sifts && self.sieve.is_in_place();
            if !wait(&mut fds, sifted.then_some(&LOOK)) || !fds[0].revents().is_empty() {
                return;
            }
            if sifted {
                self.sieve.tend(pair, &self.table.load(), clock::now());
            }
            let mut messages = 0;
            for (family, fd) in families.iter().zip(&fds[1..]) {
                if fd.revents().is_empty() {
                    continue;
                }
                let received = self.receive(pair, *family, &mut inbox);
                self.pass(&mut inbox.upcalls);
                match received {
                    Ok(received) => messages += received,
                    Err(error) => {
                        tracing::error!(network = ?self.network, %error, "the UDP socket is broken");
                        return;
                    }
                }
            }
            let (strange, now) = (inbox.ingress.take_strange(), clock::now());
            if sifts && strange != Strange::default() {
                self.sieve.count(strange, pair, &self.table.load(), now);
            }
            let flooded = noise.count(messages, inbox.ingress.take_opened(), now);
            if flooded && !wait(&mut fds[..1], Some(&PAUSE)) {
                return;
            }
        }
    }

    /// One turn: what the sockets have, up to a limit; how many messages that was.
    fn receive(&self, pair: &UdpQueue, family: Family, inbox: &mut Inbox) -> io::Result<usize> {
        let Inbox { index, batch, ingress, upcalls } = inbox;
        let mut messages = 0;
        let table = self.table.load();
        let device = self.device.load_full();
        ingress.set_merge(device.as_ref().map_or(Merge::Plain, |device| *device.merge.lock()));
        let mut shared = Shared { table: &table, guard: &self.guard, drops: &self.drops, upcalls };
        let mut write = |frame: &[IoSlice<'_>]| self.write(device.as_deref(), *index, frame);
        for _ in 0..BATCHES_A_TURN {
            let received = pair.recv(family, batch)?;
            messages += received;
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
            if received < batch.capacity() {
                // There was no more.
                break;
            }
        }
        Ok(messages)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_in_a_short_time_is_a_flood_unless_data_came_lately() {
        let (mut noise, start) = (Noise::default(), clock::now());
        let at = |us: u64| start + Duration::from_micros(us);
        assert!((0..15).all(|number| !noise.count(1, 0, at(number))));
        assert!(noise.count(1, 0, at(16)));
        assert!(noise.count(100, 0, at(17)), "at once");
        assert!(!noise.count(10, 0, at(20)));
        assert!(!noise.count(10, 0, at(5_000)), "in a longer time");
        assert!(noise.count(6, 0, at(5_001)));
        assert!(!noise.count(100, 1, at(6_000)), "with data among it");
        assert!(!noise.count(100, 0, at(200_000)), "data may go on");
        assert!(noise.count(100, 0, at(306_001)));
    }
}
