//! Local clients' requests: those of one network go to its mesh, the rest are answered here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::network::Network;
use super::server::ClientEvent;
use super::{Agent, workers::Workers};
use crate::api::{self, ErrorKind, Request, Response, SCHEMA};
use crate::forward::HandshakeGuard;
use crate::io::clock;
use crate::io::tun::{TunDevice, TunOptions};
use crate::io::udp::{UdpOptions, UdpPort};
use crate::membership::op::GenesisPool;
use crate::membership::{DeviceName, Invite, UnixTime};
use crate::mesh::event::{Input, RequestId};
use crate::mesh::wall::Wall;
use crate::mesh::{Found, MTU, Mesh, Settings};

/// Networks of one agent: each has sockets, threads and an interface.
pub(super) const MAX_NETWORKS: usize = 16;

impl Agent {
    pub(super) async fn handle_client(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Gone { id } => {
                let now = clock::now();
                self.input_all(|| Input::Cancel(id), now);
            }
            ClientEvent::Request { id, request, peer } => {
                tracing::debug!(uid = peer.uid, request = request.name(), "a client asks");
                if let Err(refusal) = self.handle_request(id, request).await {
                    self.replies.reply(id, refusal);
                }
            }
        }
    }

    async fn handle_request(&mut self, id: RequestId, request: Request) -> Result<(), Response> {
        let now = clock::now();
        match &request {
            Request::Status => self.replies.reply(id, Response::Status(self.status(now))),
            Request::Netcheck => self.replies.reply(id, Response::Netcheck(self.netcheck(now))),
            Request::Create { .. } => return self.create(id, request, now).await,
            Request::Join { .. } => return self.join(id, request, now).await,
            Request::Invite { network, .. }
            | Request::Leave { network }
            | Request::Up { network }
            | Request::Down { network }
            | Request::Members { network }
            | Request::Log { network } => {
                let network = self.pick(network.as_deref())?;
                network.input(Input::Request(id, request), now);
            }
            Request::Ping { device, .. }
            | Request::Revoke { device, .. }
            | Request::Whois { device } => {
                let network = self.pick_with(device)?;
                network.input(Input::Request(id, request), now);
            }
        }
        Ok(())
    }

    /// The network of this name or id, or the only one.
    fn pick(&mut self, name: Option<&str>) -> Result<&mut Network, Response> {
        let refuse = |text: String| Response::error(ErrorKind::NotFound, text);
        let count = self.networks.len();
        match name {
            None if count == 0 => Err(refuse(NO_NETWORK.to_owned())),
            None if count > 1 => {
                let names: Vec<_> = self.networks.values().map(Network::title).collect();
                let text = format!("there are several networks, name one: {}", names.join(", "));
                Err(Response::error(ErrorKind::Usage, text))
            }
            None => self.networks.values_mut().next().ok_or_else(|| refuse(NO_NETWORK.to_owned())),
            Some(name) => self
                .networks
                .values_mut()
                .find(|network| network.title() == name || network.id.to_string() == name)
                .ok_or_else(|| refuse(format!("no network is called {name:?}"))),
        }
    }

    /// The network that has this device: the first that knows it, or the only one, whose own
    /// answer says best what is wrong.
    fn pick_with(&mut self, device: &str) -> Result<&mut Network, Response> {
        let ids: Vec<_> = self.networks.keys().copied().collect();
        let knowing = ids
            .iter()
            .find(|id| self.networks.get(id).is_some_and(|network| network.mesh.knows(device)));
        let id = knowing.or(ids.first()).copied();
        id.and_then(|id| self.networks.get_mut(&id))
            .ok_or_else(|| Response::error(ErrorKind::NotFound, NO_NETWORK))
    }

    fn status(&self, now: Instant) -> api::Status {
        let mut networks: Vec<_> =
            self.networks.values().map(|network| network.status(now)).collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        api::Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.duration_since(self.started).as_secs(),
            networks,
        }
    }

    fn netcheck(&self, now: Instant) -> api::Netcheck {
        let dht = self.networks.values().next().map(|network| network.mesh.dht_status(now));
        let (state, nodes) = self.services.dht_state();
        let alone = api::DhtStatus { state, nodes, published_s_ago: None };
        api::Netcheck {
            schema: SCHEMA,
            networks: self.networks.values().map(|network| network.mesh.netcheck()).collect(),
            dht: dht.unwrap_or(alone),
            clock_offset_s: None,
        }
    }

    async fn create(
        &mut self,
        id: RequestId,
        request: Request,
        now: Instant,
    ) -> Result<(), Response> {
        let Request::Create { network, device, ipv4_pool, no_ipv4, invite } = request else {
            return Ok(());
        };
        let usage = |error: crate::membership::policy::NameError| {
            Response::error(ErrorKind::Usage, error.to_string())
        };
        let found = Found {
            network: network.parse().map_err(usage)?,
            device: device.parse().map_err(usage)?,
            pool: match (no_ipv4, ipv4_pool) {
                (true, _) => GenesisPool::None,
                (false, Some(pool)) => GenesisPool::Named(pool),
                (false, None) => GenesisPool::Default,
            },
            invite,
            request: id,
        };
        if self.networks.values().any(|other| other.title() == network) {
            let text = format!("this device is in a network called {network:?} already");
            return Err(Response::error(ErrorKind::Failed, text));
        }
        let place = self.place().map_err(failed)?;
        let unix = Wall::new(UnixTime(clock::unix_now()), now);
        let mesh = Mesh::found(found, place.settings.clone(), clock::os_seed(), unix, now)
            .context("cannot sign the first ops")
            .map_err(failed)?;
        self.adopt(mesh, place, now).await.map_err(failed)
    }

    async fn join(
        &mut self,
        id: RequestId,
        request: Request,
        now: Instant,
    ) -> Result<(), Response> {
        let Request::Join { invite, device, timeout_ms } = &request else { return Ok(()) };
        let timeout = Duration::from_millis(*timeout_ms);
        let usage = |text: String| Response::error(ErrorKind::Usage, text);
        let invite = invite.parse::<Invite>().map_err(|error| usage(error.to_string()))?;
        let device = device.parse::<DeviceName>().map_err(|error| usage(error.to_string()))?;
        if let Some(network) = self.networks.get_mut(&invite.network) {
            network.input(Input::Request(id, request), now);
            return Ok(());
        }
        let place = self.place().map_err(failed)?;
        let unix = Wall::new(UnixTime(clock::unix_now()), now);
        let seed = clock::os_seed();
        let join = (invite, device, timeout);
        let mesh = Mesh::take_up(join, place.settings.clone(), seed, unix, now);
        let network = mesh.network();
        self.adopt(mesh, place, now).await.map_err(failed)?;
        if let Some(network) = self.networks.get_mut(&network) {
            network.input(Input::Request(id, request), now);
        }
        Ok(())
    }

    /// A port and an interface name for a new network, after a look whether the host has what a
    /// network needs: better no network than one without an interface.
    fn place(&mut self) -> anyhow::Result<Place> {
        if self.networks.len() >= MAX_NETWORKS {
            anyhow::bail!("an agent has at most {MAX_NETWORKS} networks");
        }
        let interface = self.free_interface();
        let queues = self.options.config.workers.get();
        let options = TunOptions { mtu: MTU, offload: self.options.offload, queues };
        drop(TunDevice::open(&interface, options)?);
        self.place_at(interface, self.wanted_port())
    }

    /// A place with this interface and port.
    pub(super) fn place_at(&self, interface: String, port: u16) -> anyhow::Result<Place> {
        let config = &self.options.config;
        let udp = UdpPort::bind(UdpOptions {
            port,
            mark: None,
            queues: config.workers.get(),
            gate: true,
        })
        .context("cannot open the tunnels' UDP port")?;
        let settings = Settings {
            listen_port: udp.port(),
            interface,
            mtu: MTU,
            dht: config.dht.enabled,
            lan: config.lan_discovery,
            port_mapping: config.port_mapping,
        };
        Ok(Place { udp, settings })
    }

    /// The configured port, which the first network gets; the others any.
    fn wanted_port(&self) -> u16 {
        let wanted = self.options.config.port;
        if self.networks.values().any(|network| network.port() == wanted) { 0 } else { wanted }
    }

    fn free_interface(&self) -> String {
        let prefix = self.options.config.interface_prefix.as_str();
        let taken = |name: &String| {
            self.networks.values().any(|network| network.interface == *name)
                || crate::io::tun::link_exists(name)
        };
        let names = (0..).map(|number| format!("{prefix}{number}"));
        names.into_iter().find(|name| !taken(name)).expect("there are more names than links")
    }

    /// Takes a network in: from now on its outputs are done.
    pub(super) async fn adopt(
        &mut self,
        mesh: Mesh,
        place: Place,
        now: Instant,
    ) -> anyhow::Result<()> {
        let id = mesh.network();
        self.services.wake(&self.options.config, &self.store);
        let (store, _) = self.store.network(&id).inspect_err(|_| {
            if matches!(self.store.is_unfinished(&id), Ok(true)) {
                // What could not even be begun leaves nothing behind.
                let _ = self.store.forget(&id);
            }
        })?;
        let udp = Arc::new(place.udp);
        let statics = mesh.statics();
        let statics: Vec<_> = statics.iter().collect();
        let guard = Arc::new(HandshakeGuard::new(&statics, now));
        let workers = Workers::start(id, udp.clone(), guard, self.upcall_sender.clone())
            .context("cannot start the packet threads")?;
        let mut network = Network {
            id,
            mesh,
            udp,
            workers,
            interface: place.settings.interface,
            store,
            fault: None,
            forgotten: false,
        };
        for input in self.services.present() {
            network.input(input, now);
        }
        self.networks.insert(id, network);
        Ok(())
    }
}

/// What a network takes of the host.
pub struct Place {
    pub udp: UdpPort,
    pub settings: Settings,
}

const NO_NETWORK: &str =
    "this device is in no network: `ginnel create NAME` makes one, `ginnel join INVITE` joins one";

fn failed(error: anyhow::Error) -> Response {
    Response::error(ErrorKind::Failed, format!("{error:#}"))
}
