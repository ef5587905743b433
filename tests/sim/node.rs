//! One simulated device: a real mesh and the real packet path, with a simulated socket and disk.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ginnel::api::{NetworkStatus, Request, Response};
use ginnel::forward::coalesce::Merge;
use ginnel::forward::egress::Egress;
use ginnel::forward::ingress::{Ingress, Run};
use ginnel::forward::{DropCounters, ForwardingTable, HandshakeGuard, Shared, Upcalls};
use ginnel::identity::{Identity, RootSecret};
use ginnel::membership::{Genesis, Logs, SignedOp};
use ginnel::mesh::event::{Input, InterfaceConfig, Output, Persist, RequestId, Ticket};
use ginnel::mesh::ledger::gather;
use ginnel::mesh::{Mesh, Saved, Settings};
use ginnel::wire::classify::classify;
use ginnel::wire::record::NetworkSecret;
use ginnel::wire::saved::Intent;

use crate::net::HostId;

/// The UDP port of every simulated device.
pub const PORT: u16 = 41641;

/// A device.
pub struct Node {
    /// Where it is.
    pub host: HostId,
    /// Its network.
    pub mesh: Mesh,
    /// What the disk holds.
    pub disk: Disk,
    /// The interface, where it is on.
    pub interface: Option<InterfaceConfig>,
    /// What the clients of this device were answered.
    pub answers: Vec<(RequestId, Response)>,
    /// Packets that came out of the interface.
    pub received: Vec<Vec<u8>>,
    /// How many of them were looked at by `take_arrived`.
    looked_at: usize,
    table: Arc<ForwardingTable>,
    guard: HandshakeGuard,
    drops: DropCounters,
    upcalls: Upcalls,
    ingress: Ingress,
    egress: Egress,
    requests: u64,
}

/// What survives a crash.
#[derive(Debug, Default, Clone)]
pub struct Disk {
    /// The files, by kind; ops are appended.
    pub files: Vec<Arc<Persist>>,
    /// Whether writes fail.
    pub full: bool,
}

impl Disk {
    /// What a restart reads: the newest of each file, and all ops.
    pub fn saved(&self) -> Saved {
        let genesis = self.newest(|file| match file {
            Persist::Genesis(bytes) => Some(bytes),
            _ => None,
        });
        let genesis = genesis.map(|bytes| Genesis::decode(bytes).expect("a true genesis"));
        self.saved_with(genesis.map(|genesis| (self.logs(&genesis), genesis)).map(|(l, g)| (g, l)))
    }

    /// The same, where the logs were read already.
    pub fn saved_with(&self, genesis: Option<(Genesis, Logs)>) -> Saved {
        let identity = self.newest(|file| match file {
            Persist::Identity(bytes) => Some(bytes),
            _ => None,
        });
        let root = self.newest(|file| match file {
            Persist::Root(bytes) => Some(bytes),
            _ => None,
        });
        let secret = self.newest(|file| match file {
            Persist::Secrets(bytes) => Some(bytes),
            _ => None,
        });
        let cache = self.newest(|file| match file {
            Persist::Cache(bytes) => Some(bytes),
            _ => None,
        });
        let intent = self.newest(|file| match file {
            Persist::Intent(bytes) => Some(bytes),
            _ => None,
        });
        Saved {
            identity: Identity::decode(identity.expect("an identity is written first"))
                .expect("a true identity"),
            root: root.map(|seed| RootSecret::from_seed(seed.try_into().expect("32 bytes"))),
            genesis,
            secret: secret.and_then(NetworkSecret::decode),
            cache: cache.map(<[u8]>::to_vec).unwrap_or_default(),
            intent: Intent::decode(intent.expect("an intent is written")).expect("a true intent"),
        }
    }

    fn newest(&self, wanted: fn(&Persist) -> Option<&[u8]>) -> Option<&[u8]> {
        self.files.iter().rev().find_map(|file| wanted(file))
    }

    fn logs(&self, genesis: &Genesis) -> Logs {
        let mut verified = Vec::new();
        for file in &self.files {
            let Persist::Ops(ops) = &**file else { continue };
            for op in ops {
                let op = SignedOp::decode(op).and_then(|op| op.verify(&genesis.network_id()));
                verified.push(op.expect("only true ops are written"));
            }
        }
        let (logs, left) = gather(genesis.root, verified);
        assert_eq!(left, 0, "every op on disk has a place");
        logs
    }

    /// Writes files; but for ops, which are appended, the newest takes the place of the one before.
    fn write(&mut self, files: Vec<Persist>) {
        for file in files {
            let kind = std::mem::discriminant(&file);
            if !matches!(file, Persist::Ops(_)) {
                self.files.retain(|old| std::mem::discriminant(&**old) != kind);
            }
            self.files.push(Arc::new(file));
        }
    }
}

/// What a device wants of the world.
pub enum Effect {
    /// Send a datagram.
    Send(SocketAddr, Vec<u8>),
    /// Send a beacon.
    Beacon(Vec<u8>),
    /// Store in the DHT.
    Publish(ginnel::wire::record::SignedItem),
    /// Find in the DHT.
    Lookup(ginnel::wire::record::DhtKey),
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Send(to, bytes) => write!(f, "-> {to} {:?} {} B", classify(bytes), bytes.len()),
            Self::Beacon(_) => f.write_str("beacon"),
            Self::Publish(item) => write!(f, "publish {:?}", item.key),
            Self::Lookup(key) => write!(f, "lookup {key:?}"),
        }
    }
}

/// The settings of every simulated device.
pub fn settings() -> Settings {
    Settings {
        listen_port: PORT,
        interface: "ginnel0".to_owned(),
        mtu: ginnel::mesh::MTU,
        dht: true,
        lan: true,
        port_mapping: false,
    }
}

impl Node {
    /// Puts a mesh on a host.
    pub fn new(host: HostId, mesh: Mesh, now: Instant) -> Self {
        let statics = mesh.statics();
        let statics: Vec<_> = statics.iter().collect();
        Self {
            host,
            disk: Disk::default(),
            interface: None,
            answers: Vec::new(),
            received: Vec::new(),
            looked_at: 0,
            table: Arc::default(),
            guard: HandshakeGuard::new(&statics, now),
            drops: DropCounters::default(),
            upcalls: Upcalls::default(),
            ingress: Ingress::new(Merge::Plain),
            egress: Egress::new(false),
            requests: 0,
            mesh,
        }
    }

    /// A client asks.
    pub fn ask(&mut self, request: Request, now: Instant) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.input(Input::Request(id, request), now);
        id
    }

    /// The final answer to a request.
    pub fn answer(&self, id: RequestId) -> Option<&Response> {
        let mine = self.answers.iter().filter(|(request, _)| *request == id);
        mine.map(|(_, response)| response).find(|response| response.is_final())
    }

    /// Something happened. What the mesh refuses is the sender's fault.
    pub fn input(&mut self, input: Input, now: Instant) {
        if let Err(reason) = self.mesh.handle_input(input, now)
            && std::env::var_os("SIM_TRACE").is_some()
        {
            println!("{:?} refuses an input: {reason}", self.host);
        }
    }

    /// A datagram arrives.
    pub fn receive(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) -> Vec<Effect> {
        let mut shared = Shared {
            table: &self.table,
            guard: &self.guard,
            drops: &self.drops,
            upcalls: &mut self.upcalls,
        };
        let (on, received) = (self.interface.is_some(), &mut self.received);
        let mut write = |frame: &[IoSlice<'_>]| {
            // Without an interface there is nowhere to write to.
            on.then(|| {
                received.push(frame.iter().flat_map(|piece| piece.iter().copied()).collect())
            });
        };
        let run = Run { from, bytes, stride: bytes.len().max(1) };
        self.ingress.handle_run(run, &mut shared, &mut write, now);
        self.ingress.flush(&mut write);
        let replies =
            self.ingress.drain_replies().map(|(to, reply)| Effect::Send(to, reply.to_vec()));
        let effects = replies.collect();
        self.go_up(now);
        effects
    }

    /// The packets that came out of the interface since this was asked last.
    pub fn take_arrived(&mut self) -> Vec<Vec<u8>> {
        let new = self.received[self.looked_at..].to_vec();
        self.looked_at = self.received.len();
        new
    }

    /// An application sends a packet.
    pub fn send(&mut self, packet: &[u8], now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut shared = Shared {
            table: &self.table,
            guard: &self.guard,
            drops: &self.drops,
            upcalls: &mut self.upcalls,
        };
        let mut send = |batch: ginnel::forward::buffer::Batch<'_>| {
            for datagram in batch.bytes.chunks(batch.segment_size) {
                effects.push(Effect::Send(batch.to, datagram.to_vec()));
            }
        };
        self.egress.handle_frame(packet, &mut shared, &mut send, now);
        self.egress.flush(&mut send);
        self.go_up(now);
        effects
    }

    fn go_up(&mut self, now: Instant) {
        let upcalls: Vec<_> = self.upcalls.drain().collect();
        for upcall in upcalls {
            self.input(Input::Upcall(upcall), now);
        }
    }

    /// Does what the mesh wants done on this device; the rest is for the world.
    pub fn drain(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some(output) = self.mesh.poll_output() {
            match output {
                Output::Transmit(transmit) => {
                    effects.push(Effect::Send(transmit.to, transmit.payload));
                }
                Output::Beacon(beacon) => effects.push(Effect::Beacon(beacon)),
                Output::Publish(item) => effects.push(Effect::Publish(item)),
                Output::Lookup(key) => effects.push(Effect::Lookup(key)),
                Output::MapPort | Output::UnmapPort | Output::Forget => {}
                Output::Table(table) => self.table = table,
                Output::Configure(interface) => self.interface = interface,
                Output::Persist(files, ticket) => self.persist(files, ticket, now),
                Output::Reply(id, response) => self.answers.push((id, response)),
            }
        }
        effects
    }

    fn persist(&mut self, files: Vec<Persist>, ticket: Option<Ticket>, now: Instant) {
        let result = if self.disk.full {
            Err("the disk is full".to_owned())
        } else {
            self.disk.write(files);
            Ok(())
        };
        if let Some(ticket) = ticket {
            self.input(Input::Persisted(ticket, result), now);
        }
    }

    /// What `status` says.
    pub fn status(&self, now: Instant) -> NetworkStatus {
        self.mesh.status(now)
    }

    /// What was dropped, and why.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        self.drops.snapshot().into_iter().filter(|(_, count)| *count > 0).collect()
    }
}
