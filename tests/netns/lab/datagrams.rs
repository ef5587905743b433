//! Datagrams in number: sent in batches at an even pace, and counted at the other end.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

use super::namespace::Namespace;

/// Datagrams of one system call: its cost is shared, and no queue on the way is filled by one.
pub const BATCH: usize = 64;
/// How often a sender looks what is due. At 3 Gbit/s of full packets that is one batch.
const TICK: Duration = Duration::from_micros(200);
/// What a sender that was kept waiting may catch up on at once; more is never sent.
const CATCH_UP: Duration = Duration::from_millis(2);
/// Buffers of both ends: a receiver that is not scheduled for 10 ms at 5 Gbit/s loses nothing.
const BUFFER: usize = 8 << 20;
/// Nothing is under way any more when nothing came for this long.
const SILENCE: Duration = Duration::from_millis(60);

/// Sends datagrams through a connected socket with one system call a [`BATCH`]; returns how many
/// the kernel took. One that it refuses is left out.
pub fn send_batch(socket: impl AsFd, datagrams: &[Vec<u8>]) -> usize {
    let slices: Vec<[IoSlice<'_>; 1]> =
        datagrams.iter().map(|datagram| [IoSlice::new(datagram)]).collect();
    let mut taken = 0;
    let mut rest = slices.as_slice();
    while !rest.is_empty() {
        let mut none: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            rest.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<MMsgHdr<'_>> =
            rest.iter().zip(&mut none).map(|(slice, none)| MMsgHdr::new(slice, none)).collect();
        let sent = sendmmsg(socket.as_fd(), &mut messages, SendFlags::empty()).unwrap_or(0);
        taken += sent;
        rest = &rest[(sent + usize::from(sent < rest.len())).min(rest.len())..];
    }
    taken
}

/// Says how many are due at an even pace.
pub struct Pacer {
    since: Instant,
    a_second: f64,
    sent: f64,
}

impl Pacer {
    /// `a_second` from now on.
    pub fn new(a_second: f64) -> Self {
        Pacer { since: Instant::now(), a_second, sent: 0.0 }
    }

    /// How many to send now, at most a [`BATCH`]; sleeps a little when none is due.
    pub fn due(&mut self) -> usize {
        let due = self.since.elapsed().as_secs_f64() * self.a_second - self.sent;
        let most = (CATCH_UP.as_secs_f64() * self.a_second).max(BATCH as f64);
        self.sent += (due - most).max(0.0);
        let now = due.min(most).min(BATCH as f64);
        if now < 1.0 {
            std::thread::sleep(TICK);
            return 0;
        }
        self.sent += now.floor();
        now as usize
    }
}

/// One way from a socket here to a socket there, for trials at different rates.
pub struct Lane {
    source: UdpSocket,
    sink: UdpSocket,
    payload: usize,
    trials: u64,
}

/// What one trial showed.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams of these that arrived.
    pub received: u64,
    /// Bits of payload that arrived for each second of sending.
    pub bits: f64,
}

impl Lane {
    /// From `from` to a fresh port of `address` in `to`; `payload` bytes a datagram.
    pub fn new(from: &Namespace, to: &Namespace, address: IpAddr, payload: usize) -> Result<Self> {
        let sink = to.run(|| UdpSocket::bind((address, 0))).context("bind the sink")?;
        let target = sink.local_addr()?;
        let any: IpAddr = if address.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
        let source = from.run(|| UdpSocket::bind(SocketAddr::new(any, 0)))?;
        from.run(|| source.connect(target))?;
        set_socket_recv_buffer_size_force(&sink, BUFFER)?;
        set_socket_send_buffer_size_force(&source, BUFFER)?;
        sink.set_read_timeout(Some(SILENCE))?;
        Ok(Lane { source, sink, payload, trials: 0 })
    }

    /// Sends `bits` of payload a second, evenly, for `time`, and counts what arrives.
    pub fn trial(&mut self, bits: f64, time: Duration) -> Result<Trial> {
        self.trials += 1;
        let (over, received) = (AtomicBool::new(false), AtomicU64::new(0));
        let (sent, took) = std::thread::scope(|scope| {
            scope.spawn(|| self.count(&over, &received));
            let sent = self.send(bits, time);
            over.store(true, Ordering::Relaxed);
            sent
        });
        let received = received.into_inner();
        let bits = received as f64 * self.payload as f64 * 8.0 / took.as_secs_f64();
        Ok(Trial { sent, received, bits })
    }

    fn send(&self, bits: f64, time: Duration) -> (u64, Duration) {
        let mut datagrams = vec![vec![0u8; self.payload]; BATCH];
        for datagram in &mut datagrams {
            datagram[..8].copy_from_slice(&self.trials.to_be_bytes());
        }
        let started = Instant::now();
        let mut pacer = Pacer::new(bits / (self.payload as f64 * 8.0));
        let mut sent = 0;
        while started.elapsed() < time {
            let due = pacer.due();
            // What the kernel does not take is lost like anything else on the way.
            send_batch(&self.source, &datagrams[..due]);
            sent += due as u64;
        }
        (sent, started.elapsed())
    }

    /// Counts datagrams of this trial until the sender is done and nothing comes any more.
    fn count(&self, over: &AtomicBool, received: &AtomicU64) {
        let mut buffer = vec![0u8; self.payload + 1];
        loop {
            match self.sink.recv(&mut buffer) {
                Ok(length) if length == self.payload => {
                    if buffer[..8] == self.trials.to_be_bytes() {
                        received.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(_) => {}
                Err(_) if over.load(Ordering::Relaxed) => return,
                Err(_) => {}
            }
        }
    }
}
