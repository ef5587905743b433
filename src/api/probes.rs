//! What was measured: the answers to `ping` and `netcheck`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{DhtStatus, NatStatus, PathStatus};

/// One line of `ping --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// Counts from 1.
    pub seq: u32,
    /// The round trip; `null` where no answer came in time.
    pub rtt_ms: Option<f64>,
    /// The way it took.
    pub path: Option<PathStatus>,
}

/// The last line of `ping --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingSummary {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The device's name.
    pub device: String,
    /// Probes sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
    /// The shortest round trip.
    pub min_ms: Option<f64>,
    /// The mean round trip.
    pub avg_ms: Option<f64>,
    /// The longest round trip.
    pub max_ms: Option<f64>,
    /// The way the last answer took.
    pub path: Option<PathStatus>,
}

/// `netcheck --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Netcheck {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// One entry a network, since each has a port of its own.
    pub networks: Vec<NetcheckNetwork>,
    /// The DHT.
    pub dht: DhtStatus,
    /// How far this clock is from the newest signed time of an admin, in seconds.
    pub clock_offset_s: Option<i64>,
}

/// One network's port, as seen from outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetcheckNetwork {
    /// The network's name.
    pub network: String,
    /// The UDP port.
    pub listen_port: u16,
    /// Every address of this device, and where it was learnt.
    pub addresses: Vec<NetcheckAddress>,
    /// The NAT.
    pub nat: NatStatus,
    /// Whether the NAT turns packets for its own public address round; `null` = not known.
    pub hairpin: Option<bool>,
    /// The STUN servers asked, and whether each answered.
    pub stun: Vec<NetcheckStun>,
    /// The MTU of the interface.
    pub mtu: u16,
}

/// An address of this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetcheckAddress {
    /// The address and port.
    pub address: SocketAddr,
    /// `interface`, `stun`, `upnp`, `pcp`, `nat-pmp` or `peer`.
    pub source: String,
    /// Whether others are told.
    pub advertised: bool,
}

/// A STUN server that was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetcheckStun {
    /// The server.
    pub server: SocketAddr,
    /// What it saw; `null` where it did not answer.
    pub mapped: Option<SocketAddr>,
    /// The round trip.
    pub rtt_ms: Option<f64>,
}
