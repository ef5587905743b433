//! The packet threads of one network.
//!
//! Plain threads carry every packet to completion, with blocking `poll(2)` and no runtime. What they
//! share with `mesh` is a [`ForwardingTable`] snapshot and the slots in it; what they cannot answer
//! goes up as an [`Upcall`](crate::forward::Upcall) over the control loop's bounded queue, never
//! waiting: what finds its share of it full is counted and dropped.
//!
//! # The division
//!
//! A *worker* is a pair of threads: [`outward`] reads one queue of the TUN device and sends, [`inward`]
//! receives from one pair of UDP sockets and writes to that queue. The inward threads run as long as
//! the network, because control needs no interface; the outward ones come and go with it. One worker
//! already keeps two cores busy, one with each direction. With more (`agent.workers`), work is divided
//! by peers, because a peer's sessions are one state: two threads on them would fight for one lock.
//! The kernel does all of it, by two rules that meet:
//!
//! ```text
//!   peer B ──▶ socket pair 0 ─ inward 0 ──▶ queue 0 ──▶ host      sockets: SO_REUSEPORT picks by the
//!   peer C ──▶ socket pair 1 ─ inward 1 ──▶ queue 1 ──▶ host      hash of addresses and ports: a peer's
//!                                                                 path leads to one thread
//!   peer B ◀────────────────── outward 0 ◀─ queue 0 ◀── host      queues: the device remembers which
//!   peer C ◀────────────────── outward 1 ◀─ queue 1 ◀── host      queue a flow was last written to, and
//!                                                                 answers it there
//! ```
//!
//! So a flow is on one thread each way, and never reordered; and a peer's flows are all on one worker,
//! save those that had no answer yet: the kernel spreads their first packets by their hash. Where two
//! outward threads have packets for one peer, they take turns from the first packet sealed until it is
//! sent ([`PeerSlot::order`](crate::forward::PeerSlot::order)), so that its datagrams leave in the
//! order of their counters: the receiver's replay window would refuse what a thread that lost its
//! core sends too late.
//!
//! Handshakes, STUN and whatever strangers send come to a socket pair of their own, and to a thread
//! that does the same as an inward one, but may be slow: where it finds much at once, it lets more
//! come together before it looks again ([`inward`]). So a flood wakes nobody who waits for data, and
//! costs a thread's waking once for hundreds of datagrams, in the control loop too; and while it lasts
//! the kernel sifts most of it out before it is received ([`sieve`]). Where the kernel
//! cannot tell datagrams apart they arrive at the workers, and go up from there. The control loop
//! sends by the first pair.
//!
//! One peer gets no faster by more workers: that is the price of leaving its sessions whole.
//! A plain device has one queue, so then one outward thread serves all.
//!
//! # Stopping
//!
//! A thread that has nothing to do sleeps in `poll` without a time-out; an eventfd wakes it to stop.
//! No error of one packet ends a thread, only a device or a socket that is gone.

mod inward;
mod outward;
mod sieve;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, Timespec, eventfd, poll};

use self::sieve::Sieve;
use super::upcalls::UpcallSender;
use crate::forward::coalesce::Merge;
use crate::forward::{DropCounters, ForwardingTable, HandshakeGuard, Upcalls};
use crate::identity::NetworkId;
use crate::io::tun::{TunDevice, TunQueue};
use crate::io::udp::UdpPort;

/// How long the interface may take to vanish, in milliseconds: the receiving threads give it up
/// after the batch at hand.
const VANISH_MS: u64 = 100;

/// The packet threads of one network. Dropping stops them.
#[derive(Debug)]
pub struct Workers {
    plane: Arc<Plane>,
    inward: Vec<Worker>,
    outward: Vec<Worker>,
}

/// What all threads use.
#[derive(Debug)]
struct Plane {
    network: NetworkId,
    port: Arc<UdpPort>,
    table: ArcSwap<ForwardingTable>,
    guard: Arc<HandshakeGuard>,
    drops: DropCounters,
    device: ArcSwapOption<Device>,
    upcalls: UpcallSender,
    sieve: Sieve,
}

/// The interface, while it is on.
#[derive(Debug)]
struct Device {
    /// At least one.
    queues: Vec<TunQueue>,
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
    /// Starts to receive on `port`, a thread for each of its queues; there is no interface yet, and
    /// no peer.
    ///
    /// # Errors
    /// Where the kernel gives no thread or no descriptor.
    pub fn start(
        network: NetworkId,
        port: Arc<UdpPort>,
        guard: Arc<HandshakeGuard>,
        upcalls: UpcallSender,
    ) -> io::Result<Self> {
        let (queues, gate) = (port.queues().len(), port.gate().is_some());
        let plane = Arc::new(Plane {
            network,
            port,
            table: ArcSwap::default(),
            guard,
            drops: DropCounters::default(),
            device: ArcSwapOption::empty(),
            upcalls,
            sieve: Sieve::default(),
        });
        let mut workers = Self { plane, inward: Vec::new(), outward: Vec::new() };
        for index in 0..queues {
            let plane = workers.plane.clone();
            let run = move |stop: &OwnedFd| plane.run_inward(index, stop);
            workers.inward.push(Worker::start(format!("ginnel-in-{index}"), run)?);
        }
        if gate {
            let plane = workers.plane.clone();
            let run = move |stop: &OwnedFd| plane.run_gate(stop);
            workers.inward.push(Worker::start("ginnel-gate".to_owned(), run)?);
        }
        Ok(workers)
    }

    /// Packets go by this table from now on.
    pub fn set_table(&self, table: Arc<ForwardingTable>) {
        self.plane.table.store(table);
    }

    /// To be called before a datagram of the mesh leaves: what comes back will be received, in a flood
    /// too.
    pub fn expect_from(&self, to: IpAddr) {
        let table = self.plane.table.load();
        table.expected().expect_from(to);
        if let Some(gate) = self.plane.port.gate() {
            self.plane.sieve.follow(gate, &table);
        }
    }

    /// What was dropped, and why.
    pub fn drops(&self) -> &DropCounters {
        &self.plane.drops
    }

    /// Whether there is an interface; not so where it was removed behind our back.
    pub fn has_tun(&self) -> bool {
        !self.outward.is_empty() && self.outward.iter().all(Worker::is_running)
    }

    /// Whether datagrams are received.
    #[cfg(test)]
    fn is_running(&self) -> bool {
        !self.inward.is_empty() && self.inward.iter().all(Worker::is_running)
    }

    /// Takes an interface into use, in place of the one before, with a thread for each queue.
    ///
    /// # Errors
    /// Where the kernel gives no thread or no descriptor; there is no interface then.
    pub fn start_tun(&mut self, device: TunDevice) -> io::Result<()> {
        self.stop_tun();
        let merge = match (device.offload(), device.udp_offload()) {
            (true, true) => Merge::TcpAndUdp,
            (true, false) => Merge::Tcp,
            (false, _) => Merge::Plain,
        };
        let queues = device.into_queues();
        let count = queues.len();
        let device = Arc::new(Device { queues, merge: Mutex::new(merge) });
        for index in 0..count {
            let (plane, device) = (self.plane.clone(), device.clone());
            let run = move |stop: &OwnedFd| plane.run_outward(&device, index, stop);
            match Worker::start(format!("ginnel-out-{index}"), run) {
                Ok(worker) => self.outward.push(worker),
                Err(error) => {
                    self.stop_tun();
                    return Err(error);
                }
            }
        }
        self.plane.device.store(Some(device));
        Ok(())
    }

    /// Gives the interface up; it has vanished on return. Control goes on.
    pub fn stop_tun(&mut self) {
        let device = self.plane.device.swap(None);
        self.outward.drain(..).for_each(Worker::stop);
        let Some(device) = device else { return };
        for _ in 0..VANISH_MS {
            if Arc::strong_count(&device) == 1 {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops all threads, and with them the interface.
    pub fn stop(&mut self) {
        self.stop_tun();
        self.inward.drain(..).for_each(Worker::stop);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Worker {
    fn start(name: String, run: impl FnOnce(&OwnedFd) + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let own = stop.clone();
        let thread = thread::Builder::new().name(name).spawn(move || run(&own))?;
        Ok(Self { stop, thread })
    }

    fn is_running(&self) -> bool {
        !self.thread.is_finished()
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
    /// Gives the upcalls of a batch to the control loop.
    fn pass(&self, upcalls: &mut Upcalls) {
        for upcall in upcalls.drain() {
            if let Err(refused) = self.upcalls.offer(self.network, upcall) {
                self.drops.count(refused.overflow());
            }
        }
    }
}

/// Sleeps until a descriptor is ready, or the time is over; `false` where that is impossible.
fn wait(fds: &mut [PollFd<'_>], limit: Option<&Timespec>) -> bool {
    match rustix::io::retry_on_intr(|| poll(fds, limit)) {
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

    use super::super::upcalls::{UpcallReceiver, upcall_queue};
    use super::*;
    use crate::forward::{Carries, DropReason, ExpectedStun, PeerSlot, SlotIndex, Tunnel, Upcall};
    use crate::identity::WgSecret;
    use crate::io::clock;
    use crate::io::udp::UdpOptions;
    use crate::wire::control::encode_packet;
    use crate::wire::stun::{CheckKey, CheckRequest, CheckTag, TransactionId};

    const NETWORK: NetworkId = NetworkId([7; 32]);

    struct Side {
        workers: Workers,
        port: Arc<UdpPort>,
        slot: Arc<PeerSlot>,
        upcalls: UpcallReceiver,
    }

    impl Side {
        fn new(own: u8, peer: u8, queue: usize) -> Self {
            Self::with_workers(own, peer, queue, 2)
        }

        fn with_workers(own: u8, peer: u8, queue: usize, workers: usize) -> Self {
            let (secret, remote) =
                (WgSecret::from_bytes([own; 32]), WgSecret::from_bytes([peer; 32]).public());
            let now = clock::now();
            let index = SlotIndex(own.into());
            let tunnel = Tunnel::new(&secret, &remote, index).unwrap();
            let slot = PeerSlot::new(index, tunnel, vec![], Carries::ControlOnly, now);
            let slot = Arc::new(slot);
            let options = UdpOptions { queues: workers, gate: true, ..UdpOptions::default() };
            let port = Arc::new(UdpPort::bind(options).unwrap());
            let guard = Arc::new(HandshakeGuard::new(&[&secret], now));
            let (sender, upcalls) = upcall_queue(queue);
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

    /// A path check of somebody.
    fn check() -> Vec<u8> {
        let (own, peer) = (WgSecret::from_bytes([8; 32]), WgSecret::from_bytes([9; 32]));
        let key = CheckKey::derive(&own, &peer.public()).unwrap();
        CheckRequest { transaction: TransactionId::new([7; 12]), tag: key.tag(0) }.encode(&key)
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
    fn whatever_worker_a_sender_reaches_its_messages_go_up() {
        let mut a = Side::with_workers(1, 2, 64, 4);
        let stun = check();
        let senders: Vec<_> =
            (0..16).map(|_| UdpPort::bind(UdpOptions::default()).unwrap()).collect();
        for sender in &senders {
            sender.send(a.address(), &stun, None).unwrap();
        }
        let mut heard: Vec<_> = (0..16)
            .map(|_| match a.next() {
                Upcall::Datagram { from, .. } => from.port(),
                other => panic!("{other:?}"),
            })
            .collect();
        let mut sent: Vec<_> = senders.iter().map(UdpPort::port).collect();
        heard.sort_unstable();
        sent.sort_unstable();
        assert_eq!(heard, sent);
    }

    #[test]
    fn a_control_loop_that_is_behind_costs_upcalls_and_nothing_else() {
        let (a, b) = (Side::new(1, 2, 1), Side::new(2, 1, 1));
        let stun = check();
        for _ in 0..10 {
            a.send(&b, &stun);
        }
        let deadline = clock::now() + Duration::from_secs(10);
        while b.workers.drops().get(DropReason::DatagramUpcall) < 9 {
            assert!(clock::now() < deadline, "{:?}", b.workers.drops().snapshot());
            thread::yield_now();
        }
    }

    /// Path checks with the tags that they bear.
    fn checks<const N: usize>(numbers: [u8; N]) -> [(CheckTag, Vec<u8>); N] {
        let (own, peer) = (WgSecret::from_bytes([8; 32]), WgSecret::from_bytes([9; 32]).public());
        let key = CheckKey::derive(&own, &peer).unwrap();
        numbers.map(|number| {
            let (tag, transaction) = (CheckTag([number; 8]), TransactionId::new([number; 12]));
            (tag, CheckRequest { transaction, tag }.encode(&key))
        })
    }

    #[test]
    fn strangers_who_flood_are_not_received_and_whoever_becomes_known_is_heard() {
        let (a, mut b) = (Side::new(1, 2, 64), Side::new(2, 1, 64));
        let [stranger, known, new] = checks([1, 2, 3]);
        let expected = Arc::new(ExpectedStun::default());
        expected.extend([known.0]);
        expected.set_complete(true);
        let table = ForwardingTable::new([b.slot.clone()]).with_expected(expected.clone());
        b.workers.set_table(Arc::new(table));
        let heard = |b: &mut Side, check: &[u8]| matches!(b.next(), Upcall::Datagram { bytes, .. } if bytes == check);
        let deadline = clock::now() + Duration::from_secs(10);
        let strangers = |b: &Side| b.workers.drops().get(DropReason::StrangersCheck);
        let mut before = 0;
        loop {
            (0..100).for_each(|_| a.send(&b, &stranger.1));
            a.send(&b, &known.1);
            assert!(heard(&mut b, &known.1));
            let received = strangers(&b) - before;
            before += received;
            if received == 0 {
                break;
            }
            assert!(clock::now() < deadline, "{received} of 100 were received");
        }
        expected.extend([new.0]);
        while b
            .upcalls
            .try_recv()
            .is_none_or(|(_, upcall)| !matches!(upcall, Upcall::Datagram { .. }))
        {
            assert!(clock::now() < deadline, "the new one is not heard");
            a.send(&b, &new.1);
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_flood_of_handshakes_is_sifted_but_for_those_who_were_asked_until_it_is_over() {
        let (a, mut b) = (Side::new(1, 2, 64), Side::new(2, 1, 64));
        let [(tag, check)] = checks([1]);
        let expected = Arc::new(ExpectedStun::default());
        expected.extend([tag]);
        expected.set_complete(true);
        let table = ForwardingTable::new([b.slot.clone()]).with_expected(expected.clone());
        b.workers.set_table(Arc::new(table));
        let deadline = clock::now() + Duration::from_secs(60);
        // Of so many, told by a check that comes behind them.
        let received = |b: &mut Side, sent: usize| {
            let count = |b: &Side| b.workers.drops().get(DropReason::WrongMac);
            let before = count(b);
            (0..sent).for_each(|_| a.send(b, &[&[1, 0, 0, 0][..], &[7; 144]].concat()));
            a.send(b, &check);
            assert!(matches!(b.next(), Upcall::Datagram { bytes, .. } if bytes == check));
            count(b) - before
        };
        while received(&mut b, 100) > 10 {
            assert!(clock::now() < deadline, "it is not sifted");
        }
        let other = std::net::UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap();
        b.workers.expect_from(other.local_addr().unwrap().ip());
        for _ in 0..5 {
            let initiation = a.slot.tunnel.lock().initiate(clock::now());
            other.send_to(&initiation, b.address()).unwrap();
            assert!(matches!(b.next(), Upcall::Handshake { bytes, .. } if bytes == initiation));
        }
        while received(&mut b, 10) < 10 {
            assert!(clock::now() < deadline, "it is still sifted");
            thread::sleep(Duration::from_millis(100));
        }
        // What no sieve would hold back makes none finer for others.
        b.workers.expect_from(Ipv4Addr::LOCALHOST.into());
        (0..10).for_each(|_| assert_eq!(received(&mut b, 500), 500));
        assert!(!b.workers.plane.sieve.is_in_place());
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
