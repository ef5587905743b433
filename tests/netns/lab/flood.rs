//! A flood: many datagrams a second to one port, each from a source that does not exist.
//!
//! Whole IP packets go out of a raw socket, made beforehand and sent in batches: only the source
//! changes from one to the next, so that one core makes far more than a victim could wish for.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ginnel::forward::{SlotIndex, Tunnel};
use ginnel::identity::{WgPublicKey, WgSecret};
use ginnel::wire::stun::{CheckKey, CheckRequest, CheckResponse, TransactionId};
use socket2::{Domain, Protocol, Socket, Type};

use super::datagrams::{Pacer, send_batch};
use super::namespace::Namespace;

/// Datagrams a second: a fifth of a gigabit line in the smallest messages, which one core can send.
pub const A_SECOND: u32 = 100_000;
/// Spoofed sources are of this prefix, which nothing else of the lab uses; answers need a route.
pub const SOURCES: &str = "12.0.0.0/8";
/// Datagrams made beforehand. The victim keeps nothing of one, so repeating them is no help to it.
const PREPARED: usize = 1024;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// `IPPROTO_RAW`: the packets bring their own IP header.
const RAW: i32 = 255;
/// Where the source address stands in an IP header.
const SOURCE: std::ops::Range<usize> = 12..16;

/// What the datagrams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// WireGuard initiations to this key, complete and with a valid MAC1, from keys nobody knows.
    Initiations(WgPublicKey),
    /// Bytes and lengths that mean nothing, a part with a beginning that a parser takes seriously.
    Garbage,
    /// Path checks of pairs that nobody knows, complete.
    Checks,
    /// Answers to path checks that nobody sent, complete.
    Answers,
}

impl Noise {
    /// All kinds, of which one is made for the device with this key.
    pub fn all(key: WgPublicKey) -> [Noise; 4] {
        [Noise::Initiations(key), Noise::Garbage, Noise::Checks, Noise::Answers]
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Noise::Initiations(_) => "initiations",
            Noise::Garbage => "garbage",
            Noise::Checks => "path checks",
            Noise::Answers => "STUN answers",
        }
    }
}

/// A flood that goes on until it is finished or dropped.
pub struct Flood {
    /// How many datagrams it sends in all.
    end: Arc<AtomicU64>,
    sender: Option<JoinHandle<Sent>>,
}

/// What a flood was.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// For how long.
    pub took: Duration,
    /// Processor time of the sender.
    pub spent: Duration,
}

impl Sent {
    /// Datagrams a second.
    pub fn rate(&self) -> f64 {
        self.datagrams as f64 / self.took.as_secs_f64()
    }
}

impl Flood {
    /// Starts to send `a_second` datagrams from `from` to `to`.
    pub fn start(from: &Namespace, to: SocketAddrV4, noise: Noise, a_second: u32) -> Result<Self> {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let packets: Vec<_> =
            (0..PREPARED).map(|number| packet(to, &payload(noise, number, &mut random))).collect();
        let socket = from.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW))));
        let socket = socket.context("a raw socket")?;
        socket.connect(&SocketAddrV4::new(*to.ip(), 0).into())?;
        let end = Arc::new(AtomicU64::new(u64::MAX));
        let ends = Arc::clone(&end);
        let sender = std::thread::spawn(move || send(&socket, packets, a_second, random, &ends));
        Ok(Flood { end, sender: Some(sender) })
    }

    /// Ends it, once `least` datagrams went out.
    pub fn finish(mut self, least: u64) -> Result<Sent> {
        self.end.store(least, Ordering::Relaxed);
        let sender = self.sender.take().context("finished once")?;
        sender.join().map_err(|_| anyhow!("the sender of a flood panicked"))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end.store(0, Ordering::Relaxed);
    }
}

fn send(
    socket: &Socket,
    mut packets: Vec<Vec<u8>>,
    a_second: u32,
    mut random: Random,
    end: &AtomicU64,
) -> Sent {
    let started = Instant::now();
    let mut pacer = Pacer::new(f64::from(a_second));
    let (mut datagrams, mut at) = (0, 0);
    while datagrams < end.load(Ordering::Relaxed) {
        let due = pacer.due();
        if at + due > packets.len() {
            at = 0;
        }
        let batch = &mut packets[at..at + due];
        for packet in batch.iter_mut() {
            packet[SOURCE].copy_from_slice(&source(&mut random));
        }
        datagrams += send_batch(socket, batch) as u64;
        at += due;
    }
    Sent { datagrams, took: started.elapsed(), spent: own_time() }
}

/// Any address of [`SOURCES`].
fn source(random: &mut Random) -> [u8; 4] {
    let mut bytes = (random.next() as u32).to_be_bytes();
    bytes[0] = 12;
    bytes
}

fn payload(noise: Noise, number: usize, random: &mut Random) -> Vec<u8> {
    match noise {
        Noise::Initiations(to) => {
            let secret = WgSecret::from_bytes(std::array::from_fn(|_| random.next() as u8));
            let index = SlotIndex(number as u32 + 1);
            let tunnel = Tunnel::new(&secret, &to, index);
            tunnel.expect("a device's key is of high order").initiate(Instant::now())
        }
        Noise::Garbage => {
            let mut bytes: Vec<u8> = (0..1400).map(|_| random.next() as u8).collect();
            let (start, length): (&[u8], usize) = match number % 8 {
                0 => (&[1, 0, 0, 0], 148),
                1 => (&[2, 0, 0, 0], 92),
                2 => (&[3, 0, 0, 0], 64),
                3 => (&[4, 0, 0, 0], 200),
                4 => (&[6, 0, 0, 0], 200),
                5 => (b"d1:ad2:id20:", 120),
                _ => (&[], random.next() as usize % 1400),
            };
            bytes[..start.len()].copy_from_slice(start);
            bytes.truncate(length);
            bytes
        }
        Noise::Checks | Noise::Answers => {
            let [own, peer] = [(); 2]
                .map(|()| WgSecret::from_bytes(std::array::from_fn(|_| random.next() as u8)));
            let key = CheckKey::derive(&own, &peer.public()).expect("two devices");
            let transaction = TransactionId::new(std::array::from_fn(|_| random.next() as u8));
            let mapped = (Ipv4Addr::LOCALHOST, 7).into();
            match noise {
                Noise::Checks => CheckRequest { transaction, tag: key.tag(0) }.encode(&key),
                _ => CheckResponse { transaction, mapped }.encode(&key),
            }
        }
    }
}

/// An IPv4 packet with a UDP datagram in it; the kernel completes the header's checksum, and UDP
/// over IPv4 may go without one (RFC 768).
fn packet(to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let length = IP_HEADER + UDP_HEADER + payload.len();
    let mut packet = vec![0x45, 0];
    packet.extend((length as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(Ipv4Addr::UNSPECIFIED.octets());
    packet.extend(to.ip().octets());
    packet.extend(40_000u16.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(((UDP_HEADER + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// The processor time of this thread.
fn own_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let spent = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(spent.unwrap_or_default())
}

/// xorshift64: plenty for addresses and noise.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }
}
