//! Traffic through the overlay, made and checked at both ends.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use sha2::{Digest, Sha256};

use super::namespace::Namespace;
use super::process::run;

/// A TCP connection that stands still this long has failed.
const STALL: Duration = Duration::from_secs(20);
/// A receiver looks this often whether it shall end.
const TICK: Duration = Duration::from_millis(50);

/// Sends `count` pings 100 ms apart and returns how many were answered within a second.
pub fn ping(from: &Namespace, to: IpAddr, count: u32) -> Result<u32> {
    let limit = Duration::from_secs(u64::from(count) / 5 + 10);
    let mut command = Command::new("ping");
    command.args(["-n", "-i", "0.1", "-W", "1", "-c", &count.to_string(), &to.to_string()]);
    let output = from.run(|| run(&mut command, limit))?.stdout;
    let line = output.lines().find(|line| line.contains("packets transmitted"));
    let received = line.and_then(|line| line.split(", ").nth(1)?.split(' ').next()?.parse().ok());
    received.with_context(|| format!("ping {to} printed no summary: {output}"))
}

/// The mean round trip of `count` pings.
pub fn round_trip(from: &Namespace, to: IpAddr, count: u32) -> Result<Duration> {
    let mut command = Command::new("ping");
    command.args(["-n", "-i", "0.1", "-W", "1", "-c", &count.to_string(), &to.to_string()]);
    let output = from.run(|| run(&mut command, Duration::from_secs(30)))?.success()?;
    let line = output.lines().find(|line| line.contains("min/avg/max"));
    let mean =
        line.and_then(|line| line.split(" = ").nth(1)?.split('/').nth(1)?.parse::<f64>().ok());
    mean.map(|ms| Duration::from_secs_f64(ms / 1000.0))
        .with_context(|| format!("no mean: {output}"))
}

/// Pings until one is answered; returns the time it took.
pub fn first_ping(from: &Namespace, to: IpAddr, limit: Duration) -> Result<Duration> {
    let started = Instant::now();
    let seconds = limit.as_secs().max(1).to_string();
    let mut command = Command::new("ping");
    command.args(["-n", "-i", "0.05", "-w", &seconds, "-c", "1", &to.to_string()]);
    let outcome = from.run(|| run(&mut command, limit + Duration::from_secs(5)))?;
    ensure!(outcome.code == Some(0), "no answer from {to} within {limit:?}");
    Ok(started.elapsed())
}

/// Sends `mebibytes` over TCP from `from` to `address` in `to`, compares SHA-256 at both ends and
/// returns the time from connecting to the receiver's last byte.
pub fn transfer(
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
    mebibytes: usize,
) -> Result<Duration> {
    let listener = to.run(|| TcpListener::bind((address, 0)))?;
    let target = listener.local_addr()?;
    let receiver = std::thread::spawn(move || -> Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(STALL))?;
        let digest = digest_of(&mut stream)?;
        stream.write_all(b"k")?;
        Ok(digest)
    });
    let started = Instant::now();
    let sent = from.run(|| -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&target, STALL)
            .with_context(|| format!("connect to {target}"))?;
        stream.set_write_timeout(Some(STALL))?;
        stream.set_read_timeout(Some(STALL))?;
        let digest = send_noise(&mut stream, mebibytes)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.read_exact(&mut [0u8]).context("wait for the receiver's confirmation")?;
        Ok(digest)
    })?;
    let took = started.elapsed();
    let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
    ensure!(sent == received, "{mebibytes} MiB arrived changed");
    Ok(took)
}

fn send_noise(stream: &mut TcpStream, mebibytes: usize) -> Result<Vec<u8>> {
    let mut hash = Sha256::new();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut block = vec![0u8; 1 << 20];
    for _ in 0..mebibytes {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        hash.update(&block);
        stream.write_all(&block).context("send")?;
    }
    Ok(hash.finalize().to_vec())
}

fn digest_of(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut hash = Sha256::new();
    let mut block = vec![0u8; 1 << 18];
    loop {
        match stream.read(&mut block).context("receive")? {
            0 => return Ok(hash.finalize().to_vec()),
            length => hash.update(&block[..length]),
        }
    }
}

/// A stream of small numbered datagrams, and the other end that notes when each one came.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<Vec<Instant>>>,
}

impl Stream {
    /// One datagram every `interval`, from `from` to a fresh port of `address` in `to`.
    ///
    /// Errors of the sender (no route, no interface) are not the stream's end: it goes on trying.
    pub fn start(
        from: &Namespace,
        to: &Namespace,
        address: IpAddr,
        interval: Duration,
    ) -> Result<Self> {
        let sink = to.run(|| UdpSocket::bind((address, 0)))?;
        sink.set_read_timeout(Some(TICK))?;
        let target = sink.local_addr()?;
        let any: IpAddr = if address.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
        let source = from.run(|| UdpSocket::bind((any, 0)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (sending, receiving) = (Arc::clone(&stop), Arc::clone(&stop));
        Ok(Stream {
            stop,
            sender: Some(std::thread::spawn(move || {
                send_until(&source, target, interval, &sending)
            })),
            receiver: Some(std::thread::spawn(move || receive_until(&sink, &receiving))),
        })
    }

    /// Ends both sides; returns when datagrams arrived, in order.
    pub fn finish(mut self) -> Result<Vec<Instant>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
        let receiver = self.receiver.take().context("finished once")?;
        receiver.join().map_err(|_| anyhow!("the receiver panicked"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn send_until(socket: &UdpSocket, target: SocketAddr, interval: Duration, stop: &AtomicBool) {
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let _ = socket.send_to(&number.to_be_bytes(), target);
        number += 1;
        std::thread::sleep(interval);
    }
}

fn receive_until(socket: &UdpSocket, stop: &AtomicBool) -> Vec<Instant> {
    let mut arrivals = Vec::new();
    let mut buffer = [0u8; 64];
    while !stop.load(Ordering::Relaxed) {
        if socket.recv_from(&mut buffer).is_ok() {
            arrivals.push(Instant::now());
        }
    }
    arrivals
}

/// The longest time without an arrival between `from` and `to`, both ends included.
pub fn longest_silence(arrivals: &[Instant], from: Instant, to: Instant) -> Duration {
    let within = arrivals.iter().copied().filter(|at| *at >= from && *at <= to);
    let mut longest = Duration::ZERO;
    let mut last = from;
    for at in within.chain(std::iter::once(to)) {
        longest = longest.max(at.saturating_duration_since(last));
        last = at;
    }
    longest
}
