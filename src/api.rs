//! What the command line and the agent say to each other: plain serde types, one JSON object a line
//! over the agent's Unix socket.
//!
//! A client sends one [`Request`] and reads [`Response`]s until one of them is
//! [final](Response::is_final). Everything here is part of the stable interface: fields are added,
//! never renamed or removed. Times are whole milliseconds unless the name says otherwise, sizes are
//! bytes, and what is absent is `null`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::identity::Ipv4Pool;

/// The version of every JSON object that a verb prints.
pub const SCHEMA: u32 = 1;

/// What a client asks of the agent. `network: None` means the only one there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Make a network with this device as its first admin, and bring it up.
    Create {
        /// The name of the network, a DNS label.
        network: String,
        /// The name of this device, a DNS label.
        device: String,
        /// The pool of IPv4 addresses; the default where absent.
        ipv4_pool: Option<Ipv4Pool>,
        /// No IPv4 in this network.
        no_ipv4: bool,
        /// Open a first invite as well.
        invite: bool,
    },
    /// Open a single-use invite.
    Invite {
        /// The network.
        network: Option<String>,
        /// The name that the joining device gets.
        name: Option<String>,
        /// How long it is valid, in seconds.
        expires_s: u64,
        /// The joining device becomes an admin.
        admin: bool,
    },
    /// Join the network of an invite.
    Join {
        /// The invite's text.
        invite: String,
        /// The name of this device, a DNS label.
        device: String,
        /// When to give up, in milliseconds.
        timeout_ms: u64,
    },
    /// Leave for good: sign out, remove interface and keys.
    Leave {
        /// The network.
        network: Option<String>,
    },
    /// Interface on.
    Up {
        /// The network.
        network: Option<String>,
    },
    /// Interface off, membership kept.
    Down {
        /// The network.
        network: Option<String>,
    },
    /// The state of everything.
    Status,
    /// Probe a device through the tunnel.
    Ping {
        /// A name, an overlay address or a key prefix.
        device: String,
        /// How many probes; for ever where absent.
        count: Option<u32>,
        /// Stop at the first probe that took a direct path.
        until_direct: bool,
        /// When to give up on the whole, in milliseconds.
        timeout_ms: u64,
    },
    /// What this side of the network looks like.
    Netcheck,
    /// The roster.
    Members {
        /// The network.
        network: Option<String>,
    },
    /// Remove a device for good.
    Revoke {
        /// A name, an overlay address or a key prefix.
        device: String,
        /// Why, for the log.
        reason: Option<String>,
    },
    /// The signed membership history.
    Log {
        /// The network.
        network: Option<String>,
    },
    /// Who has this address or name.
    Whois {
        /// A name, an overlay address or a key prefix.
        device: String,
    },
}

impl Request {
    /// What is asked, for the log: without arguments, some of which are secret.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Invite { .. } => "invite",
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
            Self::Up { .. } => "up",
            Self::Down { .. } => "down",
            Self::Status => "status",
            Self::Ping { .. } => "ping",
            Self::Netcheck => "netcheck",
            Self::Members { .. } => "members",
            Self::Revoke { .. } => "revoke",
            Self::Log { .. } => "log",
            Self::Whois { .. } => "whois",
        }
    }

    /// Whether a user who may only read may ask this.
    pub fn is_read_only(&self) -> bool {
        matches!(
            self,
            Self::Status
                | Self::Netcheck
                | Self::Members { .. }
                | Self::Log { .. }
                | Self::Whois { .. }
                | Self::Ping { .. }
        )
    }
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "kebab-case")]
pub enum Response {
    /// A network was made.
    Created(Created),
    /// An invite was opened.
    Invited(Invited),
    /// A stage of joining was reached; more follows.
    JoinStage(JoinStage),
    /// Joined, and the interface is up.
    Joined(Joined),
    /// Done, with nothing more to say.
    Done,
    /// The state of everything.
    Status(Status),
    /// One probe came back, or did not; more follows.
    Pong(Pong),
    /// The end of a series of probes.
    PingSummary(PingSummary),
    /// What this side of the network looks like.
    Netcheck(Netcheck),
    /// The roster.
    Members(Members),
    /// The signed membership history.
    Log(Log),
    /// Who has an address or name.
    Whois(Whois),
    /// It did not work.
    Error(Error),
}

impl Response {
    /// Whether nothing follows this response.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::JoinStage(_) | Self::Pong(_))
    }

    /// An error response.
    pub fn error(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Error(Error { kind, message: message.into() })
    }
}

/// Why something did not work: one sentence, and the kind that decides the exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Decides the exit code.
    pub kind: ErrorKind,
    /// What happened, to what, and what to do.
    pub message: String,
}

/// The kinds of failure a script can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// Exit code 1.
    Failed,
    /// Exit code 2.
    Usage,
    /// Exit code 4.
    NotPermitted,
    /// Exit code 5.
    NotFound,
    /// Exit code 6.
    Unreachable,
}

impl ErrorKind {
    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotPermitted => 4,
            Self::NotFound => 5,
            Self::Unreachable => 6,
        }
    }
}

/// `create --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Created {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The network's name.
    pub network: String,
    /// The network's id in base32.
    pub id: String,
    /// This device's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// This device's IPv6 address.
    pub ipv6: Ipv6Addr,
    /// The first invite.
    pub invite: Option<String>,
}

/// `invite --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invited {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The token.
    pub invite: String,
    /// The network's name.
    pub network: String,
    /// When it ends, RFC 3339.
    pub expires: String,
}

/// One stage of `join --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinStage {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Which stage was reached.
    pub stage: Stage,
    /// A sentence for people.
    pub detail: String,
    /// Since the request, in milliseconds.
    pub elapsed_ms: u64,
}

/// The stages of joining, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Looking for a sponsor: hints, LAN and DHT.
    Searching,
    /// A sponsor's addresses are known; holes are being punched.
    Reaching,
    /// A path to the sponsor answered; WireGuard handshake with the guest key.
    Connected,
    /// The sponsor proved the network; the request to join was sent.
    Requested,
    /// The roster has this device.
    Admitted,
    /// The interface is up.
    Up,
}

/// The last line of `join --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Always [`Stage::Up`].
    pub stage: Stage,
    /// The network's name.
    pub network: String,
    /// This device's name in it.
    pub name: String,
    /// This device's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// This device's IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Since the request, in milliseconds.
    pub elapsed_ms: u64,
}

/// `status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
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
    pub drops: std::collections::BTreeMap<String, u64>,
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
    /// [`SCHEMA`].
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
    /// [`SCHEMA`].
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

/// `members --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Members {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The network's name.
    pub network: String,
    /// By name.
    pub members: Vec<MemberEntry>,
}

/// One line of the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEntry {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// When its certificate ends, RFC 3339.
    pub expires: String,
    /// Its identity key in base32.
    pub id: String,
    /// Its WireGuard key in base64.
    pub public_key: String,
    /// Whether it is this device.
    pub this: bool,
}

/// `log --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The network's name.
    pub network: String,
    /// Oldest first.
    pub entries: Vec<LogEntry>,
}

/// One act of an author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When, RFC 3339, by the author's clock.
    pub time: String,
    /// Who: a device's name, or `root`.
    pub author: String,
    /// The author's key in base32.
    pub author_key: String,
    /// Its place in the author's log.
    pub seq: u64,
    /// `grant`, `revoke`, `invite-open`, `invite-close`, `admin-add`, …
    pub kind: String,
    /// A sentence for people.
    pub summary: String,
    /// Whether it counts (rules R2 to R4 of the roster).
    pub effective: bool,
    /// The op's id in base32.
    pub id: String,
}

/// `whois` and `ip`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Whois {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The network's name.
    pub network: String,
    /// The device.
    pub member: MemberEntry,
    /// What was asked for.
    pub address: Option<IpAddr>,
}
