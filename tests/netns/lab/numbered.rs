//! UDP datagrams of many lengths, each numbered and checked: none arrives changed or twice.
//!
//! ```text
//! number 8 · noise that number and length determine
//! ```
//!
//! They leave in runs of equal length with `UDP_SEGMENT`, as a QUIC program's do, so that they cross
//! the kernel's offloads merged where it has them. The sender goes no further ahead of the receiver
//! than its socket holds, so that nothing is lost at either end.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use ginnel::io::udp::{Family, RecvBatch, UdpOptions, UdpPort};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::namespace::Namespace;

/// Lengths of a run, in turn: small, odd, and what fills a packet of the interface (1,420 less 48
/// of IPv6 and UDP) and of an IPv6 path of least size.
const LENGTHS: [usize; 5] = [1372, 1232, 1001, 200, 16];
/// Datagrams of a run.
const RUN: usize = 32;
/// How many datagrams may be under way: four such streams must not fill the queue of an interface,
/// which holds 500 packets.
const WINDOW: u64 = 3 * RUN as u64;
/// How long the sender sleeps while that many are.
const PAUSE: Duration = Duration::from_micros(100);
/// What did not arrive after this long is lost; a busy machine lets nobody run for half of that.
const PATIENCE: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Debug)]
pub struct Count {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that arrived.
    pub received: u64,
}

impl Count {
    /// The share that did not arrive.
    pub fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent as f64
    }
}

/// Sends `bytes` in datagrams from `from` to `address` in `to`.
///
/// # Errors
/// When one arrives changed or a second time.
pub fn exchange(from: &Namespace, to: &Namespace, address: IpAddr, bytes: u64) -> Result<Count> {
    let bind = || UdpPort::bind(UdpOptions::default());
    let (source, sink) = (from.run(bind)?, to.run(bind)?);
    let target = SocketAddr::new(address, sink.port());
    let arrived = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&arrived);
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    let (done, finished) = std::sync::mpsc::channel::<u64>();
    let receiver = std::thread::spawn(move || receive(&sink, family, &count, &finished));
    let mut number = 0u64;
    let mut sent_bytes = 0u64;
    let (mut forgiven, mut run) = (0u64, Vec::new());
    'runs: for length in LENGTHS.into_iter().cycle() {
        run.clear();
        for _ in 0..RUN {
            run.extend_from_slice(&datagram(number, length));
            number += 1;
        }
        // A send that is refused is a loss; which those may have, the caller knows.
        let _ = source.send(target, &run, u16::try_from(length).ok());
        sent_bytes += run.len() as u64;
        if sent_bytes >= bytes {
            break;
        }
        let mut since = (Instant::now(), arrived.load(Ordering::Relaxed));
        while (number - forgiven).saturating_sub(since.1) > WINDOW {
            std::thread::sleep(PAUSE);
            let now = arrived.load(Ordering::Relaxed);
            if now != since.1 {
                since = (Instant::now(), now);
            } else if since.0.elapsed() > PATIENCE {
                forgiven = number - now;
                continue 'runs;
            }
        }
    }
    let _ = done.send(number);
    let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
    Ok(Count { sent: number, received })
}

/// Receives until everything came or nothing more does.
fn receive(
    sink: &UdpPort,
    family: Family,
    arrived: &AtomicU64,
    finished: &std::sync::mpsc::Receiver<u64>,
) -> Result<u64> {
    let fd = sink.queues()[0].fd(family).ok_or_else(|| anyhow!("no such family"))?;
    let (mut batch, mut seen) = (RecvBatch::new(), Vec::<u64>::new());
    let (mut received, mut total) = (0, None);
    loop {
        total = total.or_else(|| finished.try_recv().ok());
        if total == Some(received) {
            return Ok(received);
        }
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        let wait = if total.is_some() { PATIENCE } else { PATIENCE / 10 };
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        if poll(&mut fds, Some(&wait))? == 0 {
            if total.is_some() {
                return Ok(received);
            }
            continue;
        }
        sink.queues()[0].recv(family, &mut batch)?;
        for mut run in batch.received() {
            for bytes in run.datagrams() {
                check(bytes, &mut seen)?;
                received += 1;
            }
            arrived.store(received, Ordering::Relaxed);
        }
    }
}

fn check(datagram: &[u8], seen: &mut Vec<u64>) -> Result<()> {
    let number = datagram.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let number = number.ok_or_else(|| anyhow!("a datagram of {} bytes", datagram.len()))?;
    let (word, bit) = (usize::try_from(number / 64)?, 1 << (number % 64));
    let expected = self::datagram(number, datagram.len());
    ensure!(datagram == expected, "datagram {number} of {} bytes arrived changed", datagram.len());
    if seen.len() <= word {
        seen.resize(word + 1, 0);
    }
    ensure!(seen[word] & bit == 0, "datagram {number} arrived twice");
    seen[word] |= bit;
    Ok(())
}

/// Datagram `number`. Its length is part of the noise, so that one cut short is seen.
fn datagram(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    let mut state = number ^ (length as u64) << 48 ^ 0x9e37_79b9_7f4a_7c15;
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
