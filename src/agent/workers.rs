//! The packet threads of one network.
//!
//! Two plain threads, each carrying every packet to completion, with blocking `poll(2)` and no
//! runtime: one receives from the UDP sockets and writes to the TUN device, one reads the TUN device
//! and sends. The first runs as long as the network, because control needs no interface; the second
//! comes and goes with the interface. What they share with `mesh` is a [`ForwardingTable`] snapshot
//! and the slots in it; what they cannot answer goes up as an [`Upcall`] over the control loop's
//! bounded channel, never waiting: what finds it full is counted and dropped.
//!
//! A thread that has nothing to do sleeps in `poll` without a time-out; an eventfd wakes it to stop.
//! No error of one packet ends a thread, only a device or a socket that is gone.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::forward::buffer::Batch;
use crate::forward::coalesce::Merge;
use crate::forward::egress::Egress;
use crate::forward::ingress::{Ingress, Run};
use crate::forward::{
    DropCounters, DropReason, ForwardingTable, HandshakeGuard, Shared, Upcall, Upcalls,
};
use crate::identity::NetworkId;
use crate::io::clock;
use crate::io::tun::{MAX_FRAME_LEN, TunDevice, TunQueue};
use crate::io::udp::{Family, RecvBatch, UdpPort};

/// Frames read before what waits to be sent goes out and upcalls go up: a full send of the smallest
/// datagrams.
const FRAMES_A_TURN: usize = 64;

/// Receives of one family before the other is looked at.
const BATCHES_A_TURN: usize = 8;

/// Errors of the device in a row after which it is gone: one or two may be passing.
const MAX_ERRORS: usize = 16;

/// How long the interface may take to vanish, in milliseconds: the receiving thread gives it up
/// after the batch at hand.
const VANISH_MS: u64 = 100;

/// The packet threads of one network. Dropping stops them.
#[derive(Debug)]
pub struct Workers {
    plane: Arc<Plane>,
    udp: Option<Worker>,
    tun: Option<Worker>,
}

/// What both threads use.
#[derive(Debug)]
struct Plane {
    network: NetworkId,
    port: Arc<UdpPort>,
    table: ArcSwap<ForwardingTable>,
    guard: ArcSwap<HandshakeGuard>,
    drops: DropCounters,
    device: ArcSwapOption<Device>,
    upcalls: mpsc::Sender<(NetworkId, Upcall)>,
}

/// The interface, while it is on.
#[derive(Debug)]
struct Device {
    queue: TunQueue,
    /// What it takes; lowered when it refuses.
    merge: Mutex<Merge>,
}

/// A running thread and how to stop it.
#[derive(Debug)]
struct Worker {
    stop: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts to receive on `port`; there is no interface yet, and no peer.
    ///
    /// # Errors
    /// Where the kernel gives no thread or no descriptor.
    pub fn start(
        network: NetworkId,
        port: Arc<UdpPort>,
        guard: Arc<HandshakeGuard>,
        upcalls: mpsc::Sender<(NetworkId, Upcall)>,
    ) -> io::Result<Self> {
        let plane = Arc::new(Plane {
            network,
            port,
            table: ArcSwap::default(),
            guard: ArcSwap::new(guard),
            drops: DropCounters::default(),
            device: ArcSwapOption::empty(),
            upcalls,
        });
        let shared = plane.clone();
        let udp = Worker::start("ginnel-udp", move |stop| shared.run_udp(stop))?;
        Ok(Self { plane, udp: Some(udp), tun: None })
    }

    /// Packets go by this table from now on.
    pub fn set_table(&self, table: Arc<ForwardingTable>) {
        self.plane.table.store(table);
    }

    /// Handshakes are guarded by this from now on.
    pub fn set_guard(&self, guard: Arc<HandshakeGuard>) {
        self.plane.guard.store(guard);
    }

    /// What was dropped, and why.
    pub fn drops(&self) -> &DropCounters {
        &self.plane.drops
    }

    /// Whether there is an interface; not so where it was removed behind our back.
    pub fn has_tun(&self) -> bool {
        self.tun.as_ref().is_some_and(|worker| !worker.thread.is_finished())
    }

    /// Whether datagrams are received.
    pub fn is_running(&self) -> bool {
        self.udp.as_ref().is_some_and(|worker| !worker.thread.is_finished())
    }

    /// Takes an interface into use, in place of the one before. Of several queues the first.
    ///
    /// # Errors
    /// Where the kernel gives no thread or no descriptor; there is no interface then.
    pub fn start_tun(&mut self, device: TunDevice) -> io::Result<()> {
        self.stop_tun();
        let udp_offload = device.udp_offload();
        let queue = device.into_queues().into_iter().next().ok_or(io::ErrorKind::InvalidInput)?;
        let merge = match (queue.has_vnet_header(), udp_offload) {
            (true, true) => Merge::TcpAndUdp,
            (true, false) => Merge::Tcp,
            (false, _) => Merge::Plain,
        };
        let device = Arc::new(Device { queue, merge: Mutex::new(merge) });
        let (plane, own) = (self.plane.clone(), device.clone());
        self.tun = Some(Worker::start("ginnel-tun", move |stop| plane.run_tun(&own.queue, stop))?);
        self.plane.device.store(Some(device));
        Ok(())
    }

    /// Gives the interface up; it has vanished on return. Control goes on.
    pub fn stop_tun(&mut self) {
        let device = self.plane.device.swap(None);
        if let Some(worker) = self.tun.take() {
            worker.stop();
        }
        let Some(device) = device else { return };
        for _ in 0..VANISH_MS {
            if Arc::strong_count(&device) == 1 {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops both threads, and with them the interface.
    pub fn stop(&mut self) {
        self.stop_tun();
        if let Some(worker) = self.udp.take() {
            worker.stop();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Worker {
    fn start(name: &str, run: impl FnOnce(&OwnedFd) + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let own = stop.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || run(&own))?;
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        let told = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        // A thread that panicked has told its tale already, and one that was not told never ends.
        if told.is_ok() {
            self.thread.join().ok();
        }
    }
}

impl Plane {
    /// TUN → UDP, until stopped or the device is gone.
    fn run_tun(&self, queue: &TunQueue, stop: &OwnedFd) {
        let mut frame = vec![0; MAX_FRAME_LEN];
        let mut egress = Egress::new(queue.has_vnet_header());
        let mut upcalls = Upcalls::default();
        let mut errors = 0;
        while errors < MAX_ERRORS {
            let mut fds = [PollFd::new(queue, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            if !wait(&mut fds) || !fds[1].revents().is_empty() {
                return;
            }
            match self.send_frames(queue, &mut frame, &mut egress, &mut upcalls) {
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
        frame: &mut [u8],
        egress: &mut Egress,
        upcalls: &mut Upcalls,
    ) -> io::Result<()> {
        let (table, guard) = (self.table.load(), self.guard.load());
        let mut shared = Shared { table: &table, guard: &guard, drops: &self.drops, upcalls };
        let mut send = |batch: Batch<'_>| self.send(&batch);
        let mut result = Ok(());
        for _ in 0..FRAMES_A_TURN {
            match queue.read(frame) {
                Ok(len) => {
                    egress.handle_frame(&frame[..len], &mut shared, &mut send, clock::now());
                }
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

    fn send(&self, batch: &Batch<'_>) {
        let stride = u16::try_from(batch.segment_size).ok();
        let stride = stride.filter(|stride| usize::from(*stride) < batch.bytes.len());
        if let Err(error) = self.port.send(batch.to, batch.bytes, stride) {
            tracing::trace!(to = %batch.to, %error, "a batch was not sent");
            self.drops.count(DropReason::SocketSend);
        }
    }

    /// UDP → TUN, until stopped or a socket is broken.
    fn run_udp(&self, stop: &OwnedFd) {
        let mut batch = RecvBatch::new();
        let mut ingress = Ingress::new(Merge::Plain);
        let mut upcalls = Upcalls::default();
        let families: Vec<_> = [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| self.port.fd(*family).is_some())
            .collect();
        loop {
            let sockets = families.iter().filter_map(|family| self.port.fd(*family));
            let mut fds: Vec<_> = std::iter::once(stop.as_fd())
                .chain(sockets)
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            if !wait(&mut fds) || !fds[0].revents().is_empty() {
                return;
            }
            for (family, fd) in families.iter().zip(&fds[1..]) {
                if fd.revents().is_empty() {
                    continue;
                }
                let received = self.receive(*family, &mut batch, &mut ingress, &mut upcalls);
                self.pass(&mut upcalls);
                if let Err(error) = received {
                    tracing::error!(network = ?self.network, %error, "the UDP socket is broken");
                    return;
                }
            }
        }
    }

    /// One turn: what the sockets have, up to a limit.
    fn receive(
        &self,
        family: Family,
        batch: &mut RecvBatch,
        ingress: &mut Ingress,
        upcalls: &mut Upcalls,
    ) -> io::Result<()> {
        let (table, guard) = (self.table.load(), self.guard.load());
        let device = self.device.load_full();
        ingress.set_merge(device.as_ref().map_or(Merge::Plain, |device| *device.merge.lock()));
        let mut shared = Shared { table: &table, guard: &guard, drops: &self.drops, upcalls };
        let mut write = |frame: &[IoSlice<'_>]| self.write(device.as_deref(), frame);
        for _ in 0..BATCHES_A_TURN {
            if self.port.recv(family, batch)? == 0 {
                break;
            }
            let now = clock::now();
            for run in batch.received() {
                let run = Run { from: run.from, bytes: run.bytes, stride: run.stride };
                ingress.handle_run(run, &mut shared, &mut write, now);
            }
            ingress.flush(&mut write);
            for (to, cookie) in ingress.drain_replies() {
                // Lost like any datagram: the other side asks again.
                self.port.send(to, &cookie, None).ok();
            }
        }
        Ok(())
    }

    fn write(&self, device: Option<&Device>, frame: &[IoSlice<'_>]) {
        let Some(device) = device else { return self.drops.count(DropReason::InterfaceWrite) };
        let Err(error) = device.queue.write_vectored(frame) else { return };
        self.drops.count(DropReason::InterfaceWrite);
        // Two slices are one packet; of a kernel that refuses more we ask less from now on.
        if frame.len() > 2 && Errno::from_io_error(&error) == Some(Errno::INVAL) {
            let mut merge = device.merge.lock();
            *merge = merge.lower();
            tracing::info!(network = ?self.network, now = ?*merge, "the interface takes less");
        }
    }

    fn pass(&self, upcalls: &mut Upcalls) {
        // Anybody can send a STUN message, so these fill half of the queue at most: a flood of them
        // must not keep out what came through a tunnel or passed the guard.
        let half = self.upcalls.max_capacity() / 2;
        for upcall in upcalls.drain() {
            let anybodys = matches!(upcall, Upcall::Datagram { .. });
            if anybodys && self.upcalls.capacity() <= half {
                self.drops.count(upcall.overflow());
                continue;
            }
            if let Err(refused) = self.upcalls.try_send((self.network, upcall)) {
                let (_, upcall) = refused.into_inner();
                self.drops.count(upcall.overflow());
            }
        }
    }
}

/// Sleeps until a descriptor is ready; `false` where that is impossible.
fn wait(fds: &mut [PollFd<'_>]) -> bool {
    match rustix::io::retry_on_intr(|| poll(fds, None)) {
        Ok(_) => true,
        Err(error) => {
            tracing::error!(%error, "cannot wait for packets");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Instant;

    use super::*;
    use crate::forward::{Carries, PeerSlot, SlotIndex, Tunnel};
    use crate::identity::WgSecret;
    use crate::io::udp::UdpOptions;
    use crate::wire::control::encode_packet;

    const NETWORK: NetworkId = NetworkId([7; 32]);

    struct Side {
        workers: Workers,
        port: Arc<UdpPort>,
        slot: Arc<PeerSlot>,
        upcalls: mpsc::Receiver<(NetworkId, Upcall)>,
    }

    impl Side {
        fn new(own: u8, peer: u8, queue: usize) -> Self {
            let (secret, remote) =
                (WgSecret::from_bytes([own; 32]), WgSecret::from_bytes([peer; 32]).public());
            let now = clock::now();
            let index = SlotIndex(own.into());
            let tunnel = Tunnel::new(&secret, &remote, index).unwrap();
            let slot = PeerSlot::new(index, tunnel, vec![], Carries::ControlOnly, now);
            let slot = Arc::new(slot);
            let port = Arc::new(UdpPort::bind(UdpOptions::default()).unwrap());
            let guard = Arc::new(HandshakeGuard::new(&[&secret], now));
            let (sender, upcalls) = mpsc::channel(queue);
            let workers = Workers::start(NETWORK, port.clone(), guard, sender).unwrap();
            workers.set_table(Arc::new(ForwardingTable::new([slot.clone()])));
            Self { workers, port, slot, upcalls }
        }

        fn address(&self) -> SocketAddr {
            SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.port()))
        }

        fn send(&self, to: &Self, datagram: &[u8]) {
            self.port.send(to.address(), datagram, None).unwrap();
        }

        fn next(&mut self) -> Upcall {
            let (network, upcall) = self.upcalls.blocking_recv().unwrap();
            assert_eq!(network, NETWORK);
            upcall
        }

        /// Handles the handshake message that comes next; what to answer.
        fn handshake(&mut self) -> Vec<Vec<u8>> {
            let Upcall::Handshake { bytes, .. } = self.next() else { panic!("no handshake") };
            let mut answers = Vec::new();
            self.slot.tunnel.lock().handle_handshake(&bytes, &mut answers, clock::now()).unwrap();
            answers
        }
    }

    #[test]
    fn two_networks_connect_and_pass_control_without_an_interface() {
        let (mut a, mut b) = (Side::new(1, 2, 16), Side::new(2, 1, 16));
        a.slot.set_endpoint(Some(b.address()));
        b.slot.set_endpoint(Some(a.address()));
        let initiation = a.slot.tunnel.lock().initiate(clock::now());
        a.send(&b, &initiation);
        for answer in b.handshake() {
            b.send(&a, &answer);
        }
        for confirmation in a.handshake() {
            a.send(&b, &confirmation);
        }
        let hello = encode_packet(b"hello").unwrap();
        let hello = a.slot.tunnel.lock().seal_to_vec(&hello, clock::now()).unwrap();
        a.send(&b, &hello);
        let upcall = b.next();
        assert_eq!(upcall, Upcall::Control { slot: SlotIndex(2), bytes: b"hello".to_vec() });
        assert!(b.workers.is_running() && !b.workers.has_tun());
    }

    #[test]
    fn a_control_loop_that_is_behind_costs_upcalls_and_nothing_else() {
        let (a, b) = (Side::new(1, 2, 1), Side::new(2, 1, 1));
        let mut stun = vec![0; 20];
        stun[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        for _ in 0..10 {
            a.send(&b, &stun);
        }
        let deadline = clock::now() + Duration::from_secs(10);
        while b.workers.drops().get(DropReason::DatagramUpcall) < 9 {
            assert!(clock::now() < deadline, "{:?}", b.workers.drops().snapshot());
            thread::yield_now();
        }
    }

    #[test]
    fn threads_stop_at_once_and_twice_is_no_harm() {
        let mut a = Side::new(1, 2, 1);
        let before = Instant::now();
        a.workers.stop();
        a.workers.stop();
        assert!(before.elapsed() < Duration::from_secs(1));
        assert!(!a.workers.is_running());
    }
}
