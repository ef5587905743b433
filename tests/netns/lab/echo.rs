//! Echo requests of many sizes, faster than a process each.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::Namespace;

/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// One may be lost where the host learns the size of the path, one by other work on the machine.
const TRIES: u32 = 4;
/// Length of an ICMP header.
const HEADER: usize = 8;
/// The longest IP packet.
const LONGEST: usize = 65_535;

/// Sends an echo request with so many bytes of payload, for each size in turn, and wants each
/// answered, unchanged, after at most [`TRIES`] tries. Returns how many had to be tried again.
pub fn echo(from: &Namespace, to: IpAddr, sizes: impl IntoIterator<Item = usize>) -> Result<u32> {
    let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = from.run(|| Socket::new(domain, Type::RAW, Some(protocol)))?;
    socket.set_send_buffer_size(1 << 20)?;
    socket.set_recv_buffer_size(1 << 20)?;
    let (mut repeated, mut sequence) = (0, 0u16);
    for size in sizes {
        let mut answered = false;
        for attempt in 0..TRIES {
            sequence = sequence.wrapping_add(1);
            repeated += u32::from(attempt > 0);
            answered = exchange(&socket, to, size, sequence)?;
            if answered {
                break;
            }
        }
        if !answered {
            bail!("an echo request of {size} bytes to {to} was not answered");
        }
    }
    Ok(repeated)
}

fn exchange(socket: &Socket, to: IpAddr, size: usize, sequence: u16) -> Result<bool> {
    let v4 = to.is_ipv4();
    let (ask, answer) = if v4 { (8, 0) } else { (128, 129) };
    let mut packet = vec![ask, 0, 0, 0, 0x67, 0x6c];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend((0..size).map(|at| (at as u8).wrapping_mul(31) ^ sequence as u8));
    if v4 {
        // IPv6's the kernel computes, since it covers the addresses.
        let sum: u32 = packet
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
            .sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    match socket.send_to(&packet, &SocketAddr::new(to, 0).into()) {
        Ok(_) => {}
        // The socket heard of the size before: the next try knows it.
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("send {size} bytes")),
    }
    let until = Instant::now() + PATIENCE;
    let mut buffer = vec![MaybeUninit::uninit(); LONGEST];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        let len = match socket.recv(&mut buffer) {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(_) => continue,
        };
        // SAFETY: the kernel wrote the first `len` bytes.
        let bytes: &[u8] = unsafe { &*(&raw const buffer[..len] as *const [u8]) };
        let bytes =
            if v4 { bytes.get(usize::from(bytes[0] & 15) * 4..).unwrap_or(&[]) } else { bytes };
        let ours = bytes.len() >= HEADER && bytes[0] == answer && bytes[4..8] == packet[4..8];
        if ours {
            if bytes[HEADER..] != packet[HEADER..] {
                bail!("the answer to {size} bytes is another");
            }
            return Ok(true);
        }
    }
}
