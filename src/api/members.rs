//! Who belongs, and why: the answers to `members`, `log` and `whois`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::Role;

/// `members --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Members {
    /// [`SCHEMA`](super::SCHEMA).
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
    /// [`SCHEMA`](super::SCHEMA).
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
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The network's name.
    pub network: String,
    /// The device.
    pub member: MemberEntry,
    /// What was asked for.
    pub address: Option<IpAddr>,
}
