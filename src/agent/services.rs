//! What all networks of the agent share: the DHT, the port mapper, beacons on the local network,
//! the kernel's links and addresses, and the addresses behind the names of STUN servers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;

use crate::api;
use crate::config::{Config, HostPort};
use crate::io::clock;
use crate::io::dht::{Dht, DhtConfig, PUBLIC_BOOTSTRAP};
use crate::io::lan::{Lan, Received};
use crate::io::netlink::{Changes, Netlink, Snapshot};
use crate::io::portmap::{Kind, PortMapEvent, PortMapper};
use crate::io::store::{AgentFile, Store};
use crate::mesh::event::{DhtInput, Input, InterfaceAddress, InterfaceSnapshot, PortMapInput};
use crate::wire::record::{DhtKey, SignedItem};

/// How long a name server has before the names of STUN servers are asked for again.
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

/// The services.
pub struct Services {
    /// The kernel's links, addresses and routes.
    pub netlink: Netlink,
    changes: Changes,
    prefix: String,
    dht: Option<Dht>,
    dht_events: mpsc::Receiver<DhtInput>,
    dht_state: (api::DhtState, u32),
    lan: Option<Lan>,
    lan_events: mpsc::Receiver<Received>,
    mapper: Option<PortMapper>,
    mapper_events: mpsc::Receiver<PortMapEvent>,
    stun_events: mpsc::Receiver<Vec<SocketAddr>>,
    snapshot: InterfaceSnapshot,
    stun_servers: Vec<SocketAddr>,
}

impl Services {
    /// Starts what the configuration allows. With no network none of it talks to anybody: the DHT
    /// and the rest start with the first network.
    pub async fn start(config: &Config, store: &Store) -> anyhow::Result<Self> {
        let netlink = Netlink::new().context("cannot talk to the kernel about interfaces")?;
        let changes = Netlink::watch().context("cannot watch the interfaces")?;
        let (mapper, mapper_events) = PortMapper::start(mapper_secret(store)?);
        let mapper = config.port_mapping.then_some(mapper);
        let mut services = Self {
            netlink,
            changes,
            prefix: config.interface_prefix.as_str().to_owned(),
            dht: None,
            dht_events: mpsc::channel(1).1,
            dht_state: (api::DhtState::Off, 0),
            lan: None,
            lan_events: mpsc::channel(1).1,
            mapper,
            mapper_events,
            stun_events: mpsc::channel(1).1,
            snapshot: InterfaceSnapshot::default(),
            stun_servers: Vec::new(),
        };
        services.look().await;
        Ok(services)
    }

    /// A network needs them: starts what talks to others, where it does not run yet.
    pub fn wake(&mut self, config: &Config, store: &Store) {
        if config.dht.enabled && self.dht.is_none() {
            let cached = store.read(AgentFile::DhtNodes).ok().flatten().unwrap_or_default();
            let cached = String::from_utf8(cached).unwrap_or_default();
            let dht = DhtConfig {
                bootstrap: bootstrap(config),
                port: config.dht.port,
                cached: cached.lines().filter_map(|line| line.parse().ok()).collect(),
            };
            let (dht, events) = Dht::start(dht);
            (self.dht, self.dht_events) = (Some(dht), events);
        }
        if config.lan_discovery && self.lan.is_none() {
            let (mut lan, events) = Lan::start();
            lan.set_interfaces(&self.snapshot);
            (self.lan, self.lan_events) = (Some(lan), events);
        }
        if !config.stun_servers.is_empty() && self.stun_events.is_closed() {
            self.stun_events = resolve(config.stun_servers.clone());
        }
    }

    /// The next thing that one of them says.
    pub async fn next(&mut self) -> Option<ServiceEvent> {
        loop {
            tokio::select! {
                Some(event) = self.dht_events.recv() => {
                    if let DhtInput::State(state, nodes) = event {
                        self.dht_state = (state, nodes);
                    }
                    return Some(ServiceEvent::Dht(event));
                }
                Some(Received { from, datagram }) = self.lan_events.recv() => {
                    return Some(ServiceEvent::Lan { from, datagram });
                }
                Some(event) = self.mapper_events.recv() => return Some(port_map(event)),
                Some(servers) = self.stun_events.recv() => {
                    self.stun_servers.clone_from(&servers);
                    return Some(ServiceEvent::StunServers(servers));
                }
                Ok(()) = self.changes.changed() => {
                    if self.look().await {
                        return Some(ServiceEvent::Interfaces(self.snapshot.clone()));
                    }
                }
                else => return std::future::pending().await,
            }
        }
    }

    /// What a network that starts now has missed.
    pub fn present(&self) -> Vec<Input> {
        let (state, nodes) = self.dht_state;
        let mut inputs = vec![
            Input::Interfaces(self.snapshot.clone()),
            Input::Dht(DhtInput::State(state, nodes)),
        ];
        if !self.stun_servers.is_empty() {
            inputs.push(Input::StunServers(self.stun_servers.clone()));
        }
        inputs
    }

    /// The state of the DHT.
    pub fn dht_state(&self) -> (api::DhtState, u32) {
        self.dht_state
    }

    /// Stores an item.
    pub fn publish(&self, item: SignedItem) {
        if let Some(dht) = &self.dht {
            dht.publish(item);
        }
    }

    /// Finds an item.
    pub fn lookup(&self, key: DhtKey) {
        if let Some(dht) = &self.dht {
            dht.lookup(key);
        }
    }

    /// Sends a beacon to every local network.
    pub fn send_beacon(&mut self, datagram: &[u8]) {
        if let Some(lan) = &mut self.lan {
            lan.send(datagram);
        }
    }

    /// Keeps a mapping of this port, or gives it back.
    pub fn map_port(&mut self, port: u16, wanted: bool) {
        if let Some(mapper) = &mut self.mapper {
            mapper.set(port, wanted);
        }
    }

    /// The host slept: mappings may be gone.
    pub fn suspended(&mut self) {
        if let Some(mapper) = &mut self.mapper {
            mapper.refresh();
        }
    }

    /// Keeps what makes the next start quick.
    pub async fn save(&self, store: &Store) {
        let Some(dht) = &self.dht else { return };
        let nodes = dht.nodes().await;
        if nodes.is_empty() {
            return;
        }
        let lines: Vec<_> = nodes.iter().map(ToString::to_string).collect();
        if let Err(error) = store.write(AgentFile::DhtNodes, lines.join("\n").as_bytes()) {
            tracing::warn!(%error, "the nodes of the DHT were not saved");
        }
    }

    /// Gives port mappings back.
    pub async fn stop(&mut self) {
        if let Some(mapper) = self.mapper.take() {
            mapper.shutdown().await;
        }
    }

    /// Looks at the links and addresses. True where they changed.
    async fn look(&mut self) -> bool {
        let own = self.own_links();
        let snapshot = match self.netlink.snapshot(&own).await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::warn!(%error, "the links and addresses could not be read");
                return false;
            }
        };
        if let Some(mapper) = &mut self.mapper {
            mapper.network_changed(snapshot.gateways());
        }
        let snapshot = for_mesh(&snapshot);
        if let Some(lan) = &mut self.lan {
            lan.set_interfaces(&snapshot);
        }
        let changed = snapshot != self.snapshot;
        if changed && let Some(dht) = &self.dht {
            dht.network_changed();
        }
        self.snapshot = snapshot;
        changed
    }

    /// The names our interfaces can have: what runs through the tunnel is no way for the tunnel.
    fn own_links(&self) -> Vec<String> {
        (0..super::requests::MAX_NETWORKS * 2).map(|n| format!("{}{n}", self.prefix)).collect()
    }
}

fn for_mesh(snapshot: &Snapshot) -> InterfaceSnapshot {
    let up = snapshot.addresses.iter().filter(|address| address.up);
    let addresses = up.map(|address| InterfaceAddress {
        link: address.link,
        address: address.ip,
        prefix_len: address.prefix_len,
        mtu: address.mtu,
    });
    InterfaceSnapshot {
        addresses: addresses.collect(),
        default_route: snapshot.has_default_route(),
    }
}

/// The configured bootstrap nodes, or the public ones.
fn bootstrap(config: &Config) -> Vec<String> {
    match &config.dht.bootstrap {
        Some(nodes) => nodes.iter().map(HostPort::to_string).collect(),
        None => PUBLIC_BOOTSTRAP.iter().map(ToString::to_string).collect(),
    }
}

fn port_map(event: PortMapEvent) -> ServiceEvent {
    let kind = |kind| match kind {
        Kind::Pcp => api::PortMappingKind::Pcp,
        Kind::NatPmp => api::PortMappingKind::NatPmp,
        Kind::Upnp => api::PortMappingKind::Upnp,
    };
    match event {
        PortMapEvent::Mapped { port, kind: by, external } => {
            ServiceEvent::PortMap { port, event: PortMapInput::Mapped { kind: kind(by), external } }
        }
        PortMapEvent::Lost { port, kind: by } => {
            ServiceEvent::PortMap { port, event: PortMapInput::Lost(kind(by)) }
        }
    }
}

/// By this secret a router knows the agent again after it was killed.
fn mapper_secret(store: &Store) -> anyhow::Result<[u8; 32]> {
    let saved = store.read(AgentFile::Cache)?.unwrap_or_default();
    if let Ok(secret) = saved.as_slice().try_into() {
        return Ok(secret);
    }
    let secret = clock::os_seed();
    if let Err(error) = store.write(AgentFile::Cache, &secret) {
        tracing::warn!(%error, "port mappings will not be known again after a restart");
    }
    Ok(secret)
}

/// Resolves the names of STUN servers, again and again until each answered.
#[expect(clippy::disallowed_methods, reason = "the one task that waits for name servers")]
fn resolve(names: Vec<HostPort>) -> mpsc::Receiver<Vec<SocketAddr>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let (mut found, mut missing) = (Vec::new(), 0);
            for name in &names {
                match tokio::net::lookup_host((name.host(), name.port())).await {
                    Ok(addresses) => found.extend(addresses),
                    Err(_) => missing += 1,
                }
            }
            if !found.is_empty() && sender.send(found).await.is_err() {
                return;
            }
            if missing == 0 {
                // Nothing more to say; the channel stays open so that nobody resolves anew.
                return sender.closed().await;
            }
            tokio::time::sleep(RESOLVE_AGAIN).await;
        }
    });
    receiver
}
