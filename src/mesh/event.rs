//! What goes into [`Mesh`](super::Mesh) and what comes out.
//!
//! Everything `mesh` knows of the world arrives as an [`Input`], everything it wants done leaves as
//! an [`Output`], in order. Acts that must be on disk before anyone sees them are held inside until
//! [`Input::Persisted`] answers their [`Output::Persist`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::api;
use crate::forward::{ForwardingTable, Upcall};
use crate::membership::UnixTime;
use crate::wire::record::{DhtKey, SignedItem};

/// Numbers the requests of local clients; answers carry it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Numbers the writes that something waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// The packet path could not answer by itself.
    Upcall(Upcall),
    /// A local client asks.
    Request(RequestId, api::Request),
    /// A local client went away; what it asked for need not be answered.
    Cancel(RequestId),
    /// The DHT says.
    Dht(DhtInput),
    /// The port mapper says.
    PortMap(PortMapInput),
    /// The links and addresses of this host, whole, at the start and after each change.
    Interfaces(InterfaceSnapshot),
    /// A beacon arrived on the local network.
    Lan {
        /// Who sent it.
        from: SocketAddr,
        /// What it says, at most [`crate::wire::beacon::MAX_LEN`] bytes.
        datagram: Vec<u8>,
    },
    /// The addresses behind the configured names of STUN servers.
    StunServers(Vec<SocketAddr>),
    /// A write ended.
    Persisted(Ticket, Result<(), String>),
    /// What the wall clock shows; at the start, each minute, and after a jump.
    WallClock(UnixTime),
    /// The host slept for so long that sessions and mappings may be gone.
    Suspended,
}

/// What the DHT says.
#[derive(Debug, Clone, PartialEq)]
pub enum DhtInput {
    /// An item that a lookup found; several may come, the newest last or not.
    Value(SignedItem),
    /// A lookup ended; every value it found was handed in before.
    LookupDone(DhtKey),
    /// A store ended: on how many nodes, or why not.
    Published(DhtKey, Result<u32, PublishError>),
    /// The state of the routing table changed.
    State(api::DhtState, u32),
}

/// Why an item was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The nodes hold another version than the `cas` named (BEP 44 error 301).
    #[error("another version is stored")]
    CasFailed,
    /// The nodes hold a newer version (BEP 44 error 302).
    #[error("a newer version is stored")]
    NotMostRecent,
    /// No node took it.
    #[error("no node of the DHT answered")]
    NoNodes,
}

/// What the port mapper says about this network's UDP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortMapInput {
    /// A mapping is in force.
    Mapped {
        /// The protocol that made it.
        kind: api::PortMappingKind,
        /// The public address and port.
        external: SocketAddr,
    },
    /// No mapping of that kind is in force any more.
    Lost(api::PortMappingKind),
}

/// The links and addresses of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceSnapshot {
    /// Every address of a link that is up, without loopback and without this agent's own TUNs.
    pub addresses: Vec<InterfaceAddress>,
    /// Whether there is a default route, v4 and v6.
    pub default_route: (bool, bool),
}

/// One address of a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The kernel's index of the link.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// The length of the on-link prefix.
    pub prefix_len: u8,
    /// The link's MTU.
    pub mtu: u32,
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Send one datagram from this network's socket.
    Transmit(Transmit),
    /// Send a beacon to the local networks.
    Beacon(Vec<u8>),
    /// Store an item in the DHT.
    Publish(SignedItem),
    /// Find an item in the DHT.
    Lookup(DhtKey),
    /// Keep a port mapping for this network's UDP port.
    MapPort,
    /// Give the port mapping back.
    UnmapPort,
    /// The packet path shall use this table.
    Table(Arc<ForwardingTable>),
    /// The interface shall look like this; `None` removes it.
    Configure(Option<InterfaceConfig>),
    /// Write to disk, in order, up to the first failure; with a ticket, [`Input::Persisted`]
    /// answers for all.
    Persist(Vec<Persist>, Option<Ticket>),
    /// Answer a local client.
    Reply(RequestId, api::Response),
    /// The network is gone from this device: remove its folder once the outputs before are done.
    Forget,
}

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether it must arrive whole or not at all.
    pub whole: bool,
}

impl Transmit {
    /// An ordinary datagram.
    pub fn new(to: SocketAddr, payload: Vec<u8>) -> Self {
        Self { to, payload, whole: false }
    }

    /// A probe of what the path carries, which no router may fragment.
    pub fn probe(to: SocketAddr, payload: Vec<u8>) -> Self {
        Self { to, payload, whole: true }
    }
}

/// How the interface shall look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// The IPv6 address and the network's prefix length.
    pub ipv6: (Ipv6Addr, u8),
    /// The IPv4 address and the pool's prefix length.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// The MTU.
    pub mtu: u16,
    /// More prefixes that go into the tunnel.
    pub routes: Vec<(IpAddr, u8)>,
}

/// What goes to disk, each in a file of its own that is replaced as a whole, except ops.
#[derive(Clone)]
pub enum Persist {
    /// Append these signed ops, each in its wire form.
    Ops(Vec<Vec<u8>>),
    /// The secrets of this device in this network ([`crate::identity::Identity::encode`]).
    Identity(zeroize::Zeroizing<Vec<u8>>),
    /// The network's root key, in a file of its own so that it can be moved offline.
    Root(zeroize::Zeroizing<Vec<u8>>),
    /// The network's genesis, in its wire form.
    Genesis(Vec<u8>),
    /// K_net, its generations, and what else only members know.
    Secrets(zeroize::Zeroizing<Vec<u8>>),
    /// Endpoints, sequence numbers: what makes a restart quick and may be lost.
    Cache(Vec<u8>),
    /// Whether the interface shall be on, and the invite of a join under way.
    Intent(zeroize::Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for Persist {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ops(_) => "Ops",
            Self::Identity(_) => "Identity([redacted])",
            Self::Root(_) => "Root([redacted])",
            Self::Genesis(_) => "Genesis",
            Self::Secrets(_) => "Secrets([redacted])",
            Self::Cache(_) => "Cache",
            Self::Intent(_) => "Intent([redacted])",
        })
    }
}
