//! One simulated device: a real mesh and the real packet path, with a simulated socket and disk.

use std::io::IoSlice;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ginnel::api::{NetworkStatus, Request, Response};
use ginnel::forward::coalesce::Merge;
use ginnel::forward::ecn::Ecn;
use ginnel::forward::egress::Egress;
use ginnel::forward::ingress::{Ingress, Run};
use ginnel::forward::{DropCounters, ForwardingTable, HandshakeGuard, PeerSlot, Shared, Upcalls};
use ginnel::mesh::event::{Input, InterfaceConfig, Output, Persist, RequestId, Ticket};
use ginnel::mesh::{Mesh, Settings};
use ginnel::wire::classify::classify;

use super::disk::Disk;
use super::net::HostId;

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
    /// By how many seconds its wall clock is wrong.
    pub clock: i64,
    /// Whether the network was left, or its join given up.
    pub gone: bool,
    /// How many times it started.
    pub life: u32,
    /// What is left of its power, and how much of the last write is done then.
    power: Option<(u8, u8)>,
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
    /// Ops that came to the disk since they were looked at.
    pub written: Vec<Vec<u8>>,
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
            clock: 0,
            gone: false,
            life: 0,
            power: None,
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
            written: Vec::new(),
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
        let run = Run { from, ecn: Ecn::NotEct, bytes, stride: bytes.len().max(1) };
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
        self.egress.room()[..packet.len()].copy_from_slice(packet);
        self.egress.handle_frame(packet.len(), &mut shared, &mut send, now);
        self.egress.flush(&mut send);
        self.go_up(now);
        effects
    }

    /// The slot of the member with this address.
    pub fn slot_of(&self, address: Ipv6Addr) -> Option<Arc<PeerSlot>> {
        self.table.route(address.into()).cloned()
    }

    /// Seals a packet for the member with this address, past everything that would refuse it.
    pub fn seal(&self, to: Ipv6Addr, packet: &[u8], now: Instant) -> Option<Effect> {
        let slot = self.table.route(to.into())?;
        let sealed = slot.tunnel.lock().seal_to_vec(packet, now).ok()?;
        Some(Effect::Send(slot.endpoint()?, sealed))
    }

    fn go_up(&mut self, now: Instant) {
        let upcalls: Vec<_> = self.upcalls.drain().collect();
        for upcall in upcalls {
            self.input(Input::Upcall(upcall), now);
        }
    }

    /// The power fails after so many more things that the mesh wants done; if the next one is a
    /// write, so much of it, of 256, is done.
    pub fn fail_after(&mut self, outputs: u8, written: u8) {
        self.power = Some((outputs.saturating_add(1), written));
    }

    /// The power lasts.
    pub fn stay_on(&mut self) {
        self.power = None;
    }

    /// Whether the power failed.
    pub fn is_dead(&self) -> bool {
        self.power.is_some_and(|(outputs, _)| outputs == 0)
    }

    /// Does what the mesh wants done on this device, for as long as there is power; the rest is for
    /// the world.
    pub fn drain(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        while !self.is_dead() && !self.gone {
            let due = self.mesh.poll_timeout();
            let Some(output) = self.mesh.poll_output() else { break };
            assert!(due.is_some_and(|(at, _)| at <= now), "output waits and is not due: {due:?}");
            if let Some((left, written)) = &mut self.power {
                *left -= 1;
                if *left == 0 {
                    if let Output::Persist(files, _) = output {
                        self.disk.tear(files, *written);
                    }
                    break;
                }
            }
            match output {
                Output::Transmit(transmit) => {
                    effects.push(Effect::Send(transmit.to, transmit.payload));
                }
                Output::Beacon(beacon) => effects.push(Effect::Beacon(beacon)),
                Output::Publish(item) => effects.push(Effect::Publish(item)),
                Output::Lookup(key) => effects.push(Effect::Lookup(key)),
                Output::MapPort | Output::UnmapPort => {}
                Output::Forget => self.gone = true,
                Output::Table(table) => self.table = table,
                Output::Configure(interface) => self.interface = interface,
                Output::Persist(files, ticket) => self.persist(files, ticket, now),
                Output::Reply(id, response) => self.answers.push((id, response)),
            }
        }
        effects
    }

    fn persist(&mut self, files: Vec<Persist>, ticket: Option<Ticket>, now: Instant) {
        let ops = files.iter().filter_map(|file| match file {
            Persist::Ops(ops) => Some(ops.clone()),
            _ => None,
        });
        let ops: Vec<_> = ops.flatten().collect();
        let result = self.disk.write(files);
        if result.is_ok() {
            self.written.extend(ops);
        }
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
