//! What all networks of the agent share: the DHT, the port mapper, beacons on the local network,
//! the kernel's links and addresses, and the addresses behind the names of STUN servers.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::api;
use crate::config::{Config, HostPort};
use crate::io::dht::{Dht, DhtConfig};
use crate::io::lan::Lan;
use crate::io::netlink::Netlink;
use crate::io::portmap::{PortMapper, PortMapperEvent};
use crate::io::store::Store;
use crate::mesh::event::{DhtInput, InterfaceAddress, InterfaceSnapshot, PortMapInput};
use crate::wire::record::{DhtKey, SignedItem};

/// Events that wait for the control loop, of all services together.
const QUEUE: usize = 256;

/// How long a name server has to answer before the names of STUN servers are asked for again.
const RESOLVE_AGAIN: Duration = Duration::from_secs(30);

/// What a service says.
pub enum ServiceEvent {
    /// The DHT says.
    Dht(DhtInput),
    /// A beacon arrived.
    Lan { from: SocketAddr, datagram: Vec<u8> },
    /// Names were resolved.
    StunServers(Vec<SocketAddr>),
    /// Links or addresses changed.
    Interfaces(InterfaceSnapshot),
    /// A port mapping came or went.
    PortMap { port: u16, event: PortMapInput },
}
