//! Wires: the one control loop between `mesh`, which decides, and `io`, which touches.
//!
//! ```text
//!  clients ──▶ server ─┐                       ┌─▶ mesh of each network ─▶ outputs ─┐
//!  packet threads ─────┤                       │                                    │
//!  dht · port maps ────┼──▶ Event ──▶ the loop ┤   one event, then every output,    │
//!  lan · netlink ──────┤                       │   then the next event              │
//!  clock · signals ────┘                       └────────────────────────────────────┘
//! ```
//!
//! Everything runs on one thread, except packets ([`workers`]) and what crates run by themselves.
//! No lock is held and nothing is shared but the forwarding table and the slots, which only `mesh`
//! writes; what threads cannot answer comes up by [`upcalls`]. [`network`] is one network with its
//! sockets and files, [`outputs`] does what a mesh wants done, [`services`] are what all networks
//! share, [`server`] is the local API.

mod network;
mod outputs;
mod requests;
mod restore;
pub mod server;
mod services;
mod upcalls;
mod workers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::thread::CapabilitySet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::api;
use crate::config::{Config, HostPort};
use crate::forward::{Upcall, aead};
use crate::identity::NetworkId;
use crate::io::clock::{self, ClockWatch, Discontinuity};
use crate::io::store::Store;
use crate::membership::UnixTime;
use crate::mesh::event::Input;
use network::Network;
use server::{Access, ClientEvent, Replies, Server};
use services::{ServiceEvent, Services};
use upcalls::{UpcallReceiver, UpcallSender, upcall_queue};

/// Upcalls that wait for the control loop; more are dropped and counted by the workers. Enough for
/// a burst of a thousand peers that all start at once.
const UPCALL_QUEUE: usize = 1536;

/// Upcalls handled before the loop looks at clients and timers again.
const UPCALL_BURST: usize = 64;

/// How often the clocks are compared, to notice sleep and set clocks.
const CLOCK_EVERY: Duration = Duration::from_secs(10);

/// How often the nodes of the DHT are written; they change slowly.
const SAVE_EVERY: Duration = Duration::from_secs(600);

/// The agent stops within this time, whatever routers and clients do.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// How the agent is started.
#[derive(Debug)]
pub struct AgentOptions {
    /// The configuration.
    pub config: Config,
    /// Keys, logs, caches.
    pub state_dir: PathBuf,
    /// The local API.
    pub socket: PathBuf,
    /// Whether TUN offload may be used.
    pub offload: bool,
}

/// Runs the agent until it is told to stop.
pub fn run(options: AgentOptions) -> anyhow::Result<()> {
    check_privilege()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control loop")?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut agent = Agent::start(options).await?;
        agent.run().await;
        Ok(())
    })
}

/// Refuses to start without the one privilege that interfaces need, rather than fail at the first
/// `create`.
fn check_privilege() -> Result<(), api::Error> {
    let held = rustix::thread::capabilities(None).map(|sets| sets.effective);
    if held.is_ok_and(|held| held.contains(CapabilitySet::NET_ADMIN)) {
        return Ok(());
    }
    let message = "the agent may not make network interfaces: run it as root, as the systemd \
                   service, or give it CAP_NET_ADMIN";
    Err(api::Error { kind: api::ErrorKind::NotPermitted, message: message.to_owned() })
}

/// Runs a stand-alone DHT node until SIGTERM or SIGINT.
pub fn run_dht_node(listen: SocketAddr, bootstrap: Vec<HostPort>) -> anyhow::Result<()> {
    let SocketAddr::V4(listen) = listen else {
        anyhow::bail!("the DHT speaks IPv4 only: {listen} is not an address it can listen on");
    };
    let bootstrap = bootstrap.iter().map(HostPort::to_string).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let node = crate::io::dht::node::run_node(listen, bootstrap);
    runtime.block_on(node).with_context(|| format!("cannot run a DHT node on {listen}"))
}

/// The process.
struct Agent {
    options: AgentOptions,
    started: Instant,
    store: Store,
    services: Services,
    clients: mpsc::Receiver<ClientEvent>,
    replies: Replies,
    networks: BTreeMap<NetworkId, Network>,
    upcalls: UpcallReceiver,
    upcall_sender: UpcallSender,
    clocks: ClockWatch,
    /// When the services' memory was last written.
    saved: Instant,
}

/// What wakes the loop.
enum Event {
    Upcall(NetworkId, Upcall),
    Client(ClientEvent),
    Service(ServiceEvent),
    Due,
    Clocks,
    Stop,
}

impl Agent {
    async fn start(options: AgentOptions) -> anyhow::Result<Self> {
        let store = Store::open(&options.state_dir)?;
        let server = Server::bind(&options.socket, Access::of_this_host())?;
        let services = Services::start(&options.config, &store).await?;
        let (clients, replies) = server.start();
        let (upcall_sender, upcalls) = upcall_queue(UPCALL_QUEUE);
        let mut agent = Self {
            started: clock::now(),
            store,
            services,
            clients,
            replies,
            networks: BTreeMap::new(),
            upcalls,
            upcall_sender,
            clocks: ClockWatch::new(),
            saved: clock::now(),
            options,
        };
        agent.restore_networks().await?;
        Ok(agent)
    }

    /// The loop. Returns when the agent shall stop, with everything tidied up.
    async fn run(&mut self) {
        notify_ready();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), cipher = aead::backend(), "ready");
        let mut watchdog = watchdog();
        let mut clocks = tokio::time::interval(CLOCK_EVERY);
        let (mut terminate, mut interrupt) =
            match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
                (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
                (Err(error), _) | (_, Err(error)) => {
                    return tracing::error!(%error, "cannot listen for signals");
                }
            };
        loop {
            let due = self.next_due();
            let event = tokio::select! {
                biased;
                _ = terminate.recv() => Event::Stop,
                _ = interrupt.recv() => Event::Stop,
                () = sleep_until(due) => Event::Due,
                // Before what others can send without a pause.
                () = watchdog.tick() => continue,
                _ = clocks.tick() => Event::Clocks,
                Some(event) = self.clients.recv() => Event::Client(event),
                Some(event) = self.services.next() => Event::Service(event),
                Some((network, upcall)) = self.upcalls.recv() => Event::Upcall(network, upcall),
            };
            if let Event::Stop = event {
                break;
            }
            self.handle(event).await;
        }
        self.stop().await;
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Upcall(network, upcall) => {
                self.handle_upcall(network, upcall);
                for _ in 1..UPCALL_BURST {
                    let Some((network, upcall)) = self.upcalls.try_recv() else { break };
                    self.handle_upcall(network, upcall);
                }
            }
            Event::Client(event) => self.handle_client(event).await,
            Event::Service(event) => self.handle_service(event).await,
            Event::Due => self.handle_due(),
            Event::Clocks => {
                self.handle_clocks();
                self.save_services().await;
            }
            Event::Stop => {}
        }
        self.do_outputs().await;
    }

    fn handle_upcall(&mut self, network: NetworkId, upcall: Upcall) {
        if let Some(network) = self.networks.get_mut(&network) {
            network.input(Input::Upcall(upcall), clock::now());
        }
    }

    async fn handle_service(&mut self, event: ServiceEvent) {
        let now = clock::now();
        match event {
            ServiceEvent::Dht(event) => self.input_all(|| Input::Dht(event.clone()), now),
            ServiceEvent::Lan { from, datagram } => {
                self.input_all(|| Input::Lan { from, datagram: datagram.clone() }, now);
            }
            ServiceEvent::StunServers(servers) => {
                self.input_all(|| Input::StunServers(servers.clone()), now);
            }
            ServiceEvent::Interfaces(snapshot) => {
                self.input_all(|| Input::Interfaces(snapshot.clone()), now);
            }
            ServiceEvent::PortMap { port, event } => {
                let owner = self.networks.values_mut().find(|network| network.port() == port);
                if let Some(network) = owner {
                    network.input(Input::PortMap(event), now);
                }
            }
        }
    }

    fn input_all(&mut self, input: impl Fn() -> Input, now: Instant) {
        for network in self.networks.values_mut() {
            network.input(input(), now);
        }
    }

    fn handle_due(&mut self) {
        let now = clock::now();
        for network in self.networks.values_mut() {
            network.handle_due(now);
        }
    }

    fn handle_clocks(&mut self) {
        let now = clock::now();
        for jump in self.clocks.look() {
            tracing::info!(?jump, "the clocks jumped");
            if let Discontinuity::Suspended(_) = jump {
                self.services.suspended();
                self.input_all(|| Input::Suspended, now);
            }
        }
        let unix = UnixTime(clock::unix_now());
        self.input_all(|| Input::WallClock(unix), now);
    }

    /// Keeps the nodes of the DHT now and then, so that a start after a crash is quick too.
    async fn save_services(&mut self) {
        let now = clock::now();
        if now.duration_since(self.saved) >= SAVE_EVERY {
            self.saved = now;
            self.services.save(&self.store).await;
        }
    }

    /// When the first mesh wants to be called.
    fn next_due(&self) -> Option<Instant> {
        self.networks.values().filter_map(Network::due).min()
    }

    /// Gives back what was taken: interfaces, routes, port maps, the socket.
    async fn stop(&mut self) {
        tracing::info!("stopping");
        notify_stopping();
        for network in self.networks.values_mut() {
            network.close();
        }
        let stopping = async {
            self.services.save(&self.store).await;
            self.services.stop().await;
        };
        let stopped = tokio::time::timeout(STOP_WITHIN, stopping).await;
        if stopped.is_err() {
            tracing::warn!("a router did not answer; its port mappings run out by themselves");
        }
        self.clients.close();
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Tells systemd that the agent is ready; nothing where it does not run under systemd.
fn notify_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

fn notify_stopping() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Stopping]) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// Shows systemd that the loop turns, twice in each watchdog period.
struct Watchdog(Option<tokio::time::Interval>);

fn watchdog() -> Watchdog {
    Watchdog(sd_notify::watchdog_enabled().map(|period| tokio::time::interval(period / 2)))
}

impl Watchdog {
    async fn tick(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }
}
