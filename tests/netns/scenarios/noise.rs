//! Strangers who send anything at all.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{CONNECT_LIMIT, Scenario};
use crate::lab::resources::{counters, resident};
use crate::lab::traffic::ping;
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] =
    &[("noise_of_100000_datagrams_gets_no_reply_and_leaves_no_trace", random_datagrams)];

/// So many that a table which grew with each would be seen.
const DATAGRAMS: u32 = 100_000;
/// Sent back to back before a pause, so that no queue on the way overflows.
const BURST: u32 = 200;
/// Allocator slack; a table that grew by one entry a datagram would be larger.
const GROWTH: u64 = 4 << 20;

/// ```text
/// a (public address) ── Internet with DHT and STUN ── b (public address)
///                           └─ stranger
/// ```
fn random_datagrams(world: &mut World) -> Result<()> {
    world.add_servers()?;
    let (mut a, address) = world.public_host("a")?;
    let (mut b, _) = world.public_host("b")?;
    a.start()?;
    b.start()?;
    b.join(&a.create("home")?.invite)?;
    let status = a.wait_connected(&["b"], CONNECT_LIMIT)?;
    let target = SocketAddr::from((address, status.listen_port()?));
    let stranger = world.public_namespace("stranger", world.fresh_address())?;
    let socket = stranger.run(|| UdpSocket::bind("0.0.0.0:0"))?;
    // A first tenth warms buffers up: what it costs is not growth.
    flood(&socket, target, DATAGRAMS / 10)?;
    let pid = a.pid()?;
    let before = (resident(pid)?, counters(&a.namespace, "wan")?);
    flood(&socket, target, DATAGRAMS)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    ensure!(socket.recv_from(&mut [0u8; 2048]).is_err(), "a stranger got a reply");
    ensure!(a.is_running(), "the agent died");
    let after = (resident(pid)?, counters(&a.namespace, "wan")?);
    let arrived = after.1.received - before.1.received;
    ensure!(arrived > u64::from(DATAGRAMS) * 9 / 10, "only {arrived} datagrams arrived");
    let growth = after.0.saturating_sub(before.0);
    ensure!(growth < GROWTH, "memory grew by {growth} bytes");
    ensure!(ping(&b.namespace, a.addresses()?[0], 5)? == 5, "the tunnel suffered");
    Ok(())
}

/// Random bytes, a part of them with beginnings and lengths that a parser takes seriously.
fn flood(socket: &UdpSocket, target: SocketAddr, count: u32) -> Result<()> {
    let mut state = 0x853c_49e6_748f_ea9bu64 ^ u64::from(count);
    let mut buffer = [0u8; 1472];
    for number in 0..count {
        for word in buffer.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let any = (state >> 20) as usize % (buffer.len() + 1);
        let length = match number % 8 {
            0 => start(&mut buffer, &[1, 0, 0, 0], 148),
            1 => start(&mut buffer, &[2, 0, 0, 0], 92),
            2 => start(&mut buffer, &[3, 0, 0, 0], 64),
            3 => start(&mut buffer, &[4, 0, 0, 0], any.max(32)),
            // A STUN Binding request without attributes, which any open STUN server answers.
            4 => start(&mut buffer, &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], 20),
            5 => start(&mut buffer, &[6, 0, 0, 0], any.max(32)),
            6 => start(&mut buffer, b"d1:ad2:id20:", any.max(12)),
            _ => any,
        };
        socket.send_to(&buffer[..length], target)?;
        if number % BURST == BURST - 1 {
            std::thread::sleep(Duration::from_millis(4));
        }
    }
    // What is under way arrives.
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

fn start(buffer: &mut [u8], bytes: &[u8], length: usize) -> usize {
    buffer[..bytes.len()].copy_from_slice(bytes);
    length
}
