//! The state of everything: the answer to `status`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// `status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The version of the agent.
    pub version: String,
    /// Since the agent started, in seconds.
    pub uptime_s: u64,
    /// The networks this device belongs to, by name.
    pub networks: Vec<NetworkStatus>,
}

/// The state of one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The network's name.
    pub name: String,
    /// The network's id in base32.
    pub id: String,
    /// The interface's name.
    pub interface: String,
    /// What it is doing.
    pub state: NetworkState,
    /// One sentence where `state` needs explaining.
    pub detail: Option<String>,
    /// The MTU of the interface.
    pub mtu: u16,
    /// This device.
    #[serde(rename = "self")]
    pub this: SelfStatus,
    /// The UDP port of the tunnels.
    pub listen_port: u16,
    /// The public addresses of that port, as others see them.
    pub public_endpoints: Vec<SocketAddr>,
    /// The NAT in front of this device.
    pub nat: NatStatus,
    /// The DHT.
    pub dht: DhtStatus,
    /// The other devices, by name.
    pub peers: Vec<PeerStatus>,
    /// Datagrams and packets that were dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// What a network is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkState {
    /// The interface is on.
    Up,
    /// The interface is off.
    Down,
    /// Not yet admitted.
    Joining,
    /// This device was removed.
    Revoked,
    /// This device's certificate ran out.
    Expired,
}

/// A device's place in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// May admit and remove.
    Admin,
    /// May not.
    Member,
}

/// This device in a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SelfStatus {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Its WireGuard key in base64.
    pub public_key: String,
    /// When its certificate ends, RFC 3339.
    pub expires: Option<String>,
}

/// The NAT in front of this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatStatus {
    /// Its mapping behaviour (RFC 4787, section 4.1).
    pub mapping: NatMapping,
    /// The protocol of the port mapping in force.
    pub port_mapping: PortMappingKind,
}

/// Mapping behaviour of a NAT (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatMapping {
    /// The same public port towards everybody.
    EndpointIndependent,
    /// A public port an address.
    AddressDependent,
    /// A public port an address and port.
    EndpointDependent,
    /// No translation.
    None,
    /// Not known (yet).
    Unknown,
}

/// The protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortMappingKind {
    /// Port Control Protocol (RFC 6887).
    Pcp,
    /// NAT-PMP (RFC 6886).
    NatPmp,
    /// UPnP Internet Gateway Device.
    Upnp,
    /// None is in force.
    None,
}

/// The DHT as this agent sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhtStatus {
    /// Whether it can be used.
    pub state: DhtState,
    /// Nodes in the routing table.
    pub nodes: u32,
    /// Since the last record was stored, in seconds.
    pub published_s_ago: Option<u64>,
}

/// Whether the DHT can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DhtState {
    /// Asking the bootstrap nodes.
    Bootstrapping,
    /// Usable.
    Ready,
    /// No node answers.
    Unreachable,
    /// Switched off by configuration.
    Off,
}

/// Another device of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Its WireGuard key in base64.
    pub public_key: String,
    /// Its role.
    pub role: Role,
    /// Whether it can be reached.
    pub state: PeerState,
    /// The way to it.
    pub path: Option<PathStatus>,
    /// The longest inner packet that the way carries whole, as far as is known, in bytes; longer
    /// ones are cut, fragmented, or answered with "packet too big".
    #[serde(default)]
    pub mtu: Option<u16>,
    /// The round trip of the last probe, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Since the last WireGuard handshake, in seconds.
    pub last_handshake_s: Option<u64>,
    /// Received from it, in bytes of inner packets.
    pub rx_bytes: u64,
    /// Sent to it, in bytes of inner packets.
    pub tx_bytes: u64,
    /// Since anything authentic came from it, in seconds.
    pub last_seen_s: Option<u64>,
}

/// Whether a device can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// A session and a path stand.
    Connected,
    /// A way is being looked for.
    Connecting,
    /// Nobody needs it now.
    Idle,
    /// It could not be found.
    Offline,
}

/// One way to reach a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStatus {
    /// What kind of way.
    pub kind: PathKind,
    /// Where datagrams go.
    pub endpoint: SocketAddr,
    /// The device that relays.
    pub via: Option<String>,
}

/// The kinds of ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// An address of the same local network.
    Lan,
    /// A public address, through whatever NATs.
    Direct,
    /// Another device.
    Relay,
    /// A TCP connection.
    Tcp,
}
