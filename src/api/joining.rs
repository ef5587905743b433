//! How networks begin and grow: the answers to `create`, `invite` and `join`.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// `create --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Created {
    /// [`SCHEMA`](super::SCHEMA).
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
    /// [`SCHEMA`](super::SCHEMA).
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
    /// [`SCHEMA`](super::SCHEMA).
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
    /// [`SCHEMA`](super::SCHEMA).
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
