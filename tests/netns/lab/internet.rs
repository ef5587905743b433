//! The Internet: one thread that holds the far ends of all WAN interfaces.
//!
//! A WAN interface is a TUN device in the namespace of a router, a server or a public host. What
//! the kernel sends into it is read here, loses one hop of its TTL, waits twice [`HALF_WAY`] and
//! is written to the device that its destination is routed to. All packets wait the same time, but
//! for a share that [`Weather`] lets the others overtake. A destination nobody has, a TTL that ran
//! out and the share of packets that [`Weather`] loses vanish, as they would. No ICMP is ever made.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::namespace::Namespace;

/// One-way delay of one access line: two of them make the 25 ms between any two routers.
pub const HALF_WAY: Duration = Duration::from_micros(12_500);
/// How much later a packet comes that others overtake: tens of them at the rates of a test.
const OVERTAKEN: Duration = Duration::from_millis(1);
/// The WAN interface's MTU, as on Ethernet.
const MTU: u16 = 1500;
/// Read per device and round, so that one flood does not starve the other lines.
const BATCH: usize = 64;
/// Packets under way; beyond it the newest are lost, as in any router. Ten times what
/// 1 Gbit/s · 25 ms needs.
const QUEUE: usize = 20_000;
/// Queue length of the kernel's side, packets: a TCP window of 100 ms fits.
const TX_QUEUE: &str = "5000";

/// Names one line for [`Internet::route`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineId(usize);

/// The running Internet; the thread ends on drop.
pub struct Internet {
    topology: Arc<Mutex<Topology>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Topology {
    lines: BTreeMap<LineId, Arc<SyncDevice>>,
    routes: BTreeMap<Prefix, LineId>,
    next: usize,
    half_way: Option<Duration>,
    weather: Weather,
    closing: bool,
}

/// What happens to packets under way, of a hundred.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Lost.
    pub loss: u8,
    /// Late by [`OVERTAKEN`].
    pub reorder: u8,
}

/// What a route matches: an IPv4 address, or the first 64 bits of an IPv6 one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix([u8; 8]);

impl Internet {
    /// Starts with no lines.
    pub fn start() -> Result<Self> {
        let topology = Arc::new(Mutex::new(Topology::default()));
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let (shared, woken) = (Arc::clone(&topology), Arc::clone(&wake));
        let thread = std::thread::Builder::new()
            .name("internet".into())
            .spawn(move || carry(&shared, &woken))
            .context("start the Internet's thread")?;
        Ok(Internet { topology, wake, thread: Some(thread) })
    }

    /// Makes the TUN device `wan` in `namespace`, up and with a default route for IPv4 and IPv6.
    ///
    /// Addresses are the caller's to set, and routes to them with [`Internet::route`].
    pub fn attach(&self, namespace: &Namespace) -> Result<LineId> {
        let build = || DeviceBuilder::new().name("wan").mtu(MTU).enable(false).build_sync();
        let device = namespace.run(build).context("make a WAN device")?;
        device.set_nonblocking(true)?;
        let queue = format!("link set wan txqueuelen {TX_QUEUE} up");
        namespace.ip(&format!("{queue}\nroute add default dev wan\nroute add ::/0 dev wan"))?;
        let id = {
            let mut topology = self.lock();
            let id = LineId(topology.next);
            topology.next += 1;
            topology.lines.insert(id, Arc::new(device));
            id
        };
        self.wake();
        Ok(id)
    }

    /// Sends what is for `address` (for IPv6: for its /64) down `line` from now on.
    pub fn route(&self, address: IpAddr, line: LineId) {
        self.lock().routes.insert(Prefix::of(address), line);
    }

    /// Sends what is for `address` nowhere.
    pub fn unroute(&self, address: IpAddr) {
        self.lock().routes.remove(&Prefix::of(address));
    }

    /// Loses this share of all packets from now on, percent.
    pub fn lose(&self, percent: u8) {
        self.lock().weather.loss = percent;
    }

    /// Packets fare so from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// A packet waits this long on the way in and on the way out, in place of [`HALF_WAY`].
    pub fn set_half_way(&self, half_way: Duration) {
        self.lock().half_way = Some(half_way);
    }

    fn lock(&self) -> MutexGuard<'_, Topology> {
        self.topology.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        self.lock().closing = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet under way.
struct Flight {
    device: Arc<SyncDevice>,
    packet: Vec<u8>,
}

/// The packets under way, by when they arrive and when they left.
type Flights = BTreeMap<(Instant, u64), Flight>;

/// The thread: waits for packets and for the time of the oldest one under way.
fn carry(topology: &Mutex<Topology>, wake: &OwnedFd) {
    let mut under_way = Flights::new();
    let mut buffer = vec![0u8; usize::from(MTU) + 64];
    let mut dice = Dice { state: 0x9e37_79b9_7f4a_7c15, drawn: 0 };
    loop {
        let lines: Vec<(LineId, Arc<SyncDevice>)> = {
            let topology = topology.lock().unwrap_or_else(PoisonError::into_inner);
            if topology.closing {
                return;
            }
            topology.lines.iter().map(|(id, device)| (*id, Arc::clone(device))).collect()
        };
        let gone = read_lines(topology, wake, &lines, &mut under_way, &mut buffer, &mut dice);
        let now = Instant::now();
        while let Some(flight) = under_way.first_entry().filter(|flight| flight.key().0 <= now) {
            let flight = flight.remove();
            // A full or vanished device drops the packet, as a line does.
            let _ = flight.device.send(&flight.packet);
        }
        if !gone.is_empty() {
            let mut topology = topology.lock().unwrap_or_else(PoisonError::into_inner);
            topology.lines.retain(|id, _| !gone.contains(id));
            topology.routes.retain(|_, id| !gone.contains(id));
        }
    }
}

/// Waits until something is to do, takes in what arrived, and returns lines that are gone.
fn read_lines(
    topology: &Mutex<Topology>,
    wake: &OwnedFd,
    lines: &[(LineId, Arc<SyncDevice>)],
    under_way: &mut Flights,
    buffer: &mut [u8],
    dice: &mut Dice,
) -> Vec<LineId> {
    let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
    fds.extend(
        lines.iter().map(|(_, device)| PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN)),
    );
    let timeout = under_way.first_key_value().map(|((due, _), _)| {
        let left = due.saturating_duration_since(Instant::now());
        Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() }
    });
    if poll(&mut fds, timeout.as_ref()).is_err() {
        return Vec::new();
    }
    if !fds[0].revents().is_empty() {
        let _ = rustix::io::read(wake, &mut [0u8; 8]);
    }
    let ready: Vec<bool> = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
    let mut gone = Vec::new();
    for ((id, device), _) in lines.iter().zip(ready).filter(|(_, ready)| *ready) {
        for _ in 0..BATCH {
            let length = match device.recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    gone.push(*id);
                    break;
                }
            };
            let mut packet = buffer[..length].to_vec();
            if under_way.len() < QUEUE
                && let Some((device, wait)) = next_hop(topology, &mut packet, dice)
            {
                dice.drawn += 1;
                let key = (Instant::now() + wait, dice.drawn);
                under_way.insert(key, Flight { device, packet });
            }
        }
    }
    gone
}

/// The device a packet leaves by, its TTL lowered, and after how long; `None` where it ends here.
fn next_hop(
    topology: &Mutex<Topology>,
    packet: &mut [u8],
    dice: &mut Dice,
) -> Option<(Arc<SyncDevice>, Duration)> {
    let to = destination(packet)?;
    lower_ttl(packet)?;
    let topology = topology.lock().unwrap_or_else(PoisonError::into_inner);
    let Weather { loss, reorder } = topology.weather;
    if dice.percent() < loss {
        return None;
    }
    let late = if dice.percent() < reorder { OVERTAKEN } else { Duration::ZERO };
    let line = topology.routes.get(&Prefix::of(to))?;
    let wait = 2 * topology.half_way.unwrap_or(HALF_WAY) + late;
    Some((topology.lines.get(line).map(Arc::clone)?, wait))
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => <[u8; 4]>::try_from(packet.get(16..20)?).ok().map(IpAddr::from),
        6 => <[u8; 16]>::try_from(packet.get(24..40)?).ok().map(IpAddr::from),
        _ => None,
    }
}

/// One hop less; the IPv4 header checksum follows by RFC 1624's incremental rule: taking 1 from
/// the TTL (the high byte of its word) adds 0x0100 to the one's complement sum's complement.
fn lower_ttl(packet: &mut [u8]) -> Option<()> {
    let at = if packet[0] >> 4 == 4 { 8 } else { 7 };
    if packet[at] <= 1 {
        return None;
    }
    packet[at] -= 1;
    if at == 8 {
        let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x0100;
        let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(0);
        packet[10..12].copy_from_slice(&folded.to_be_bytes());
    }
    Some(())
}

impl Prefix {
    fn of(address: IpAddr) -> Self {
        let mut bytes = [0u8; 8];
        match address {
            IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes.copy_from_slice(&address.octets()[..8]),
        }
        Prefix(bytes)
    }
}

/// A xorshift generator with a fixed seed: the same packets are lost in every run.
struct Dice {
    state: u64,
    /// Numbers the packets.
    drawn: u64,
}

impl Dice {
    fn percent(&mut self) -> u8 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        u8::try_from(self.state % 100).unwrap_or(0)
    }
}
