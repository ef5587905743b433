//! A TCP stream that flows until it is stopped, compared byte by byte while it flows.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::namespace::Namespace;

/// A connection that stands still this long has failed.
const STALL: Duration = Duration::from_secs(20);
/// What is written at once.
const BLOCK: usize = 1 << 16;

/// A running stream.
pub struct Pump {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<Result<()>>,
    receiver: JoinHandle<Result<Flowed>>,
}

/// What came of one.
#[derive(Debug)]
pub struct Flowed {
    /// Bytes that arrived, all of them right.
    pub bytes: u64,
    /// The longest time without any.
    pub longest_pause: Duration,
}

impl Pump {
    /// From `from` to `address` in `to`, at most so many bytes a second (0: as fast as it goes).
    pub fn start(from: &Namespace, to: &Namespace, address: IpAddr, rate: u64) -> Result<Self> {
        let listener = to.run(|| TcpListener::bind((address, 0)))?;
        let target = listener.local_addr()?;
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&received);
        let receiver = std::thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            compare(stream, &count)
        });
        let stream = from
            .run(|| TcpStream::connect_timeout(&target, STALL))
            .with_context(|| format!("connect to {target}"))?;
        let stopping = Arc::clone(&stop);
        let sender = std::thread::spawn(move || send(stream, rate, &stopping));
        Ok(Pump { stop, received, sender, receiver })
    }

    /// Bytes that arrived so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Stops the stream; everything that was sent has arrived on return.
    pub fn finish(self) -> Result<Flowed> {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        self.receiver.join().map_err(|_| anyhow!("the receiver panicked"))?
    }
}

/// The same noise at both ends.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_exact_mut(8) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            word.copy_from_slice(&(self.0 ^ self.0 >> 29).to_le_bytes());
        }
    }
}

fn send(mut stream: TcpStream, rate: u64, stop: &AtomicBool) -> Result<()> {
    stream.set_write_timeout(Some(STALL))?;
    let (mut noise, mut block) = (Noise(7), vec![0; BLOCK]);
    let (started, mut sent) = (Instant::now(), 0u64);
    while !stop.load(Ordering::Relaxed) {
        noise.fill(&mut block);
        stream.write_all(&block).context("send")?;
        sent += BLOCK as u64;
        if let Some(due_ms) = (sent * 1000).checked_div(rate) {
            let due = started + Duration::from_millis(due_ms);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.read_exact(&mut [0]).context("wait for the other end to have everything")
}

fn compare(mut stream: TcpStream, count: &AtomicU64) -> Result<Flowed> {
    stream.set_read_timeout(Some(STALL))?;
    let (mut noise, mut block, mut expected) = (Noise(7), vec![0; BLOCK], vec![0; BLOCK]);
    let (mut last, mut longest_pause, mut filled) = (Instant::now(), Duration::ZERO, 0);
    loop {
        let length = stream.read(&mut block[filled..]).context("receive")?;
        let now = Instant::now();
        longest_pause = longest_pause.max(now - last);
        last = now;
        if length == 0 {
            ensure!(filled == 0, "the stream ended within a block");
            stream.write_all(b"k")?;
            return Ok(Flowed { bytes: count.load(Ordering::Relaxed), longest_pause });
        }
        filled += length;
        count.fetch_add(length as u64, Ordering::Relaxed);
        if filled == BLOCK {
            noise.fill(&mut expected);
            ensure!(block == expected, "bytes arrived changed");
            filled = 0;
        }
    }
}
