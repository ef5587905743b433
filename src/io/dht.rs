//! The BitTorrent Mainline DHT, through `n0-mainline`: the only file that knows that crate, with
//! [`node`] beside it.
//!
//! One [`Dht`] serves all networks of an agent. It takes items to store and keys to look up, and
//! reports [`DhtInput`]s on one bounded channel; each names its key, and the agent hands it to every
//! network.
//!
//! * **Read-only**: this node asks and stores, but answers nobody, and says so (BEP 43), so that it
//!   lands in no routing table. A node behind a NAT that served would only slow everyone down.
//! * **A look-up** reports the first valid value at once, then every different one (at most
//!   eight), then [`DhtInput::LookupDone`]. Signatures are checked here, strictly.
//! * **Starting**: the names of the bootstrap nodes are resolved without blocking. Until an address
//!   is known there is no node, and everything fails at once with the state `Unreachable`; the
//!   resolver tries again after 5 s, doubling to a minute, and when the network changes.
//! * **Healing**: with an empty table the crate asks the bootstrap nodes every second or two; if
//!   that gives nothing for [`EMPTY_PATIENCE`] the names are resolved anew. When a store finds no
//!   node although the table is not empty, the state is `Unreachable` until anything answers.
//! * **Bounds**: [`MAX_WORK`] operations under way, [`MAX_WAITING`] waiting; past that they are
//!   dropped, and whoever waits for the answer gives up by itself.
//!
//! IPv4 only, as the crate is. It binds `0.0.0.0:port`.

#![allow(clippy::disallowed_methods, reason = "io may spawn tasks")]

pub mod node;
mod work;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use work::resolve;
use work::{Ended, look_up, probe, publish};

use crate::api::DhtState;
use crate::mesh::event::DhtInput;
use crate::wire::record::{DhtKey, SignedItem};

/// The bootstrap nodes of the public Mainline DHT.
pub const PUBLIC_BOOTSTRAP: [&str; 4] = [
    "router.bittorrent.com:6881",
    "dht.transmissionbt.com:6881",
    "dht.libtorrent.org:25401",
    "relay.pkarr.org:6881",
];

/// The most operations under way.
const MAX_WORK: usize = 32;

/// The most operations waiting.
const MAX_WAITING: usize = 256;

/// Room in the channel of events; a slow agent slows the look-ups down, nothing is lost.
const EVENT_ROOM: usize = 1024;

/// How often the table is looked at while it is not usable, and while it is.
const WATCH: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How long an empty table is called "bootstrapping"; then it is "unreachable".
const BOOTSTRAP_PATIENCE: Duration = Duration::from_secs(10);

/// How long a table stays empty before the bootstrap names are resolved anew.
const EMPTY_PATIENCE: Duration = Duration::from_secs(30);

/// How often an unreachable DHT with nodes in its table is probed.
const PROBE_GAP: Duration = Duration::from_secs(60);

/// How long remembered nodes may take before the bootstrap names are resolved after all.
const CACHED_PATIENCE: Duration = Duration::from_secs(3);

/// The first and the longest wait before names are resolved again.
const RESOLVE_GAP: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// The most remembered nodes that help to start. The crate asks all of its bootstrap nodes in every
/// look-up for which its table offers fewer, so that they are kept few.
const MAX_CACHED: usize = 12;

/// How the DHT is reached.
#[derive(Debug, Clone, Default)]
pub struct DhtConfig {
    /// Bootstrap nodes, `host:port`; see [`PUBLIC_BOOTSTRAP`].
    pub bootstrap: Vec<String>,
    /// The UDP port; 0 for any.
    pub port: u16,
    /// Nodes of an earlier run ([`Dht::nodes`]).
    pub cached: Vec<SocketAddrV4>,
}

/// A handle; the node stops when it is dropped.
#[derive(Debug)]
pub struct Dht {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Work(Work),
    NetworkChanged,
    Nodes(oneshot::Sender<Vec<SocketAddrV4>>),
    PublicAddress(oneshot::Sender<Option<SocketAddrV4>>),
}

/// An operation.
#[derive(Debug)]
enum Work {
    Publish(SignedItem),
    Lookup(DhtKey),
}

impl Dht {
    /// Starts, inside a tokio runtime. The first event is the state `Bootstrapping`. Never fails:
    /// what stands in the way (a taken port, an unknown name) is tried again, with a warning.
    pub fn start(config: DhtConfig) -> (Self, mpsc::Receiver<DhtInput>) {
        let (commands, inbox) = mpsc::channel(MAX_WAITING);
        let (events, outbox) = mpsc::channel(EVENT_ROOM);
        tokio::spawn(Driver::new(config, events).run(inbox));
        (Self { commands }, outbox)
    }

    /// Stores an item; [`DhtInput::Published`] answers.
    pub fn publish(&self, item: SignedItem) {
        self.send(Command::Work(Work::Publish(item)));
    }

    /// Looks a key up; [`DhtInput::LookupDone`] ends it. A second look-up of a key under way joins
    /// the first.
    pub fn lookup(&self, key: DhtKey) {
        self.send(Command::Work(Work::Lookup(key)));
    }

    /// Links or addresses of this host changed: what failed before may work now.
    pub fn network_changed(&self) {
        self.send(Command::NetworkChanged);
    }

    /// The nodes in the routing table, to be remembered for the next start.
    pub async fn nodes(&self) -> Vec<SocketAddrV4> {
        let (answer, nodes) = oneshot::channel();
        self.send(Command::Nodes(answer));
        nodes.await.unwrap_or_default()
    }

    /// The address that most nodes see this one under (BEP 42). It is the DHT's port, not the
    /// tunnels'.
    pub async fn public_address(&self) -> Option<SocketAddrV4> {
        let (answer, address) = oneshot::channel();
        self.send(Command::PublicAddress(answer));
        address.await.ok().flatten()
    }

    fn send(&self, command: Command) {
        if let Err(error) = self.commands.try_send(command) {
            tracing::debug!(%error, "the DHT has too much to do");
        }
    }
}

/// Owns the node.
struct Driver {
    config: DhtConfig,
    events: mpsc::Sender<DhtInput>,
    node: Option<n0_mainline::Dht>,
    /// The addresses the node started from.
    seeds: Vec<SocketAddrV4>,
    work: JoinSet<Option<Ended>>,
    looking: BTreeSet<DhtKey>,
    waiting: VecDeque<Work>,
    health: Health,
    resolve_at: Option<Instant>,
    resolve_gap: Duration,
}

/// Whether the DHT is usable.
struct Health {
    /// What was reported last.
    told: (DhtState, u32),
    /// Since when the table is empty.
    empty_since: Option<Instant>,
    /// Whether the last store or probe found a node.
    answered: bool,
    probe_at: Instant,
}

impl Driver {
    fn new(config: DhtConfig, events: mpsc::Sender<DhtInput>) -> Self {
        let now = Instant::now();
        Self {
            config,
            events,
            node: None,
            seeds: Vec::new(),
            work: JoinSet::new(),
            looking: BTreeSet::new(),
            waiting: VecDeque::new(),
            health: Health {
                told: (DhtState::Bootstrapping, 0),
                empty_since: Some(now),
                answered: true,
                probe_at: now,
            },
            resolve_at: Some(now),
            resolve_gap: RESOLVE_GAP.0,
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        if !self.tell(DhtState::Bootstrapping, 0).await {
            return;
        }
        if !self.config.cached.is_empty() {
            self.start_node(Vec::new());
            self.resolve_at = Some(Instant::now() + CACHED_PATIENCE);
        }
        loop {
            let watch = if self.health.told.0 == DhtState::Ready { WATCH.1 } else { WATCH.0 };
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.take(command).await,
                    None => return,
                },
                Some(ended) = self.work.join_next() => self.end(ended.ok().flatten()),
                () = tokio::time::sleep(watch) => {}
            }
            if self.resolve_at.is_some_and(|at| at <= Instant::now()) {
                self.resolve_at = None;
                let names = self.config.bootstrap.clone();
                self.work.spawn(async move { Some(Ended::Resolved(resolve(&names).await)) });
            }
            self.start_waiting();
            if !self.watch().await {
                return;
            }
        }
    }

    async fn take(&mut self, command: Command) {
        match command {
            Command::Work(work) if self.waiting.len() < MAX_WAITING => {
                self.waiting.push_back(work);
            }
            Command::Work(_) => tracing::debug!("the DHT has too much to do"),
            Command::NetworkChanged => {
                self.health.probe_at = Instant::now();
                self.resolve_gap = RESOLVE_GAP.0;
                if self.health.told.1 == 0 {
                    self.resolve_at = Some(Instant::now());
                }
            }
            Command::Nodes(answer) => {
                let _ = answer.send(self.table().await);
            }
            Command::PublicAddress(answer) => {
                let info = match &self.node {
                    Some(node) => node.info().await.ok(),
                    None => None,
                };
                let _ = answer.send(info.and_then(|info| info.public_address()));
            }
        }
    }

    /// The nodes of the table; where there is none yet, those remembered.
    async fn table(&self) -> Vec<SocketAddrV4> {
        let nodes = match &self.node {
            Some(node) => node.to_bootstrap().await.unwrap_or_default(),
            None => Vec::new(),
        };
        let nodes: Vec<_> = nodes.iter().filter_map(|text| text.parse().ok()).collect();
        if nodes.is_empty() { self.config.cached.clone() } else { nodes }
    }

    /// Begins what waits, as far as the bound allows; while there is no node it fails at once,
    /// except in the first moments.
    fn start_waiting(&mut self) {
        while self.work.len() < MAX_WORK {
            let is_starting = self.health.told.0 == DhtState::Bootstrapping;
            if self.node.is_none() && is_starting {
                return;
            }
            let Some(work) = self.waiting.pop_front() else { return };
            let (node, events) = (self.node.clone(), self.events.clone());
            match work {
                Work::Lookup(key) => {
                    if self.looking.insert(key) {
                        self.work.spawn(look_up(node, key, events));
                    }
                }
                Work::Publish(item) => {
                    self.work.spawn(publish(node, item, events));
                }
            }
        }
    }

    fn end(&mut self, ended: Option<Ended>) {
        match ended {
            Some(Ended::Lookup(key, hit)) => {
                self.looking.remove(&key);
                self.health.answered |= hit;
            }
            Some(Ended::Publish(answered)) => self.health.answered = answered,
            Some(Ended::Probe(answered)) => self.health.answered = answered,
            Some(Ended::Resolved(addresses)) => self.start_node(addresses),
            None => {}
        }
    }

    /// Starts the node from these addresses and the remembered ones, or starts it anew where they
    /// offer something new.
    fn start_node(&mut self, addresses: Vec<SocketAddrV4>) {
        let mut seeds = addresses;
        let cached = self.config.cached.iter().take(MAX_CACHED);
        seeds.extend(cached.filter(|address| !address.ip().is_unspecified()));
        seeds.sort();
        seeds.dedup();
        let news = seeds.iter().any(|address| !self.seeds.contains(address));
        if news {
            self.node = None;
            match build(&seeds, self.config.port) {
                Ok(node) => {
                    self.node = Some(node);
                    self.seeds = seeds;
                    self.resolve_gap = RESOLVE_GAP.0;
                    return;
                }
                Err(error) => {
                    self.seeds.clear();
                    let port = self.config.port;
                    tracing::warn!(port, %error, "the DHT cannot open its UDP port");
                }
            }
        }
        self.resolve_at = Some(Instant::now() + self.resolve_gap);
        self.resolve_gap = (self.resolve_gap * 2).min(RESOLVE_GAP.1);
    }

    /// Looks at the table and reports what changed; false where nobody listens any more.
    async fn watch(&mut self) -> bool {
        let now = Instant::now();
        let info = match &self.node {
            Some(node) => node.info().await.ok(),
            None => None,
        };
        let nodes = info.map_or(0, |info| info.routing_table_size());
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        let health = &mut self.health;
        if nodes > 0 {
            health.empty_since = None;
            self.resolve_at = None;
        } else {
            let since = *health.empty_since.get_or_insert(now);
            let idle = self.resolve_at.is_none() && self.work.is_empty();
            if idle && now >= since + EMPTY_PATIENCE {
                self.resolve_at = Some(now + self.resolve_gap);
            }
        }
        if nodes > 0 && (!health.answered) && now >= health.probe_at {
            health.probe_at = now + PROBE_GAP;
            self.work.spawn(probe(self.node.clone()));
        }
        let state = match health.empty_since {
            None if health.answered => DhtState::Ready,
            None => DhtState::Unreachable,
            Some(since) => {
                let fresh = now < since + BOOTSTRAP_PATIENCE;
                // A table that ran empty is no fresh start.
                let was = health.told.0;
                if fresh && was != DhtState::Unreachable {
                    DhtState::Bootstrapping
                } else {
                    DhtState::Unreachable
                }
            }
        };
        (state, nodes) == self.health.told || self.tell(state, nodes).await
    }

    async fn tell(&mut self, state: DhtState, nodes: u32) -> bool {
        self.health.told = (state, nodes);
        self.events.send(DhtInput::State(state, nodes)).await.is_ok()
    }
}

fn build(seeds: &[SocketAddrV4], port: u16) -> io::Result<n0_mainline::Dht> {
    if seeds.is_empty() {
        return Err(io::Error::other("no bootstrap node is known"));
    }
    n0_mainline::Dht::builder().bootstrap(seeds).port(port).build()
}

#[cfg(test)]
mod tests;
