//! Decides: who is let in, who is looked for, which way a datagram goes.
//!
//! [`Mesh`] is one network as this device sees it. It does no I/O and reads no clock: what happens
//! comes in through [`Mesh::handle_input`] and [`Mesh::handle_timeout`], what shall be done goes
//! out through [`Mesh::poll_output`], and [`Mesh::poll_timeout`] says when to call again and why.
//! The same code runs under the agent and in a simulator.
//!
//! # The parts
//!
//! | part | decides |
//! |---|---|
//! | [`ledger`] | which ops count, who is a member |
//! | [`gossip`] | which ops a peer lacks, and which we lack |
//! | [`join`] | whom to admit, and how to be admitted |
//! | [`directory`] | where other devices are, by the DHT, the LAN and one another |
//! | [`publisher`] | what the DHT is told about us |
//! | [`beacons`](lan) | what the local network is told |
//! | [`reach`] | which addresses we have ourselves, and what kind of NAT |
//! | [`path`] | which of a peer's addresses to use |
//! | [`peers`] | who is in use now |
//! | [`rings`] | who stands beside whom, and how far apart |
//! | [`tags`] | whose path check it is |
//! | [`deadlines`] | who is due next |
//!
//! The parts do not know one another. A handler changes one part; [`Mesh::settle`] then fetches
//! what the parts queued and carries it on, until nothing is queued. Peers are visited only where
//! something touched them, so that an event costs the same in a network of ten and of a thousand.
//!
//! # What happens
//!
//! The rest of this folder is `impl Mesh`, one file for each kind of thing that happens: a network
//! is [founded, taken up or restored](founding); a local client [asks](requests) or
//! [probes](ping); a peer's [session](sessions) comes and goes, and what it [says](control) is
//! heard; somebody is [admitted](admission), or this device [joins](joining); a device is
//! [removed](removal) or [introduced](introductions); the [members] change, and some of them are
//! kept as [neighbours], or called as they look for [company]; after a start user data
//! [waits](freshness); time passes and the host changes ([`upkeep`]); and [`settle`] carries everything on.
//!
//! # Who may change what
//!
//! Only `mesh` writes a slot's endpoint and the forwarding table. An act that others will see is
//! on disk first: it waits in [`writes`] until its ticket is answered.

pub mod cadence;
pub mod candidate;
pub mod deadlines;
pub mod directory;
pub mod event;
pub mod gossip;
pub mod greeting;
pub mod join;
pub mod key;
pub mod lan;
pub mod ledger;
pub mod path;
pub mod peer;
pub mod peers;
pub mod publisher;
pub mod rate;
pub mod reach;
pub mod rings;
pub mod tags;
pub mod wall;
pub mod writes;

mod admission;
mod clients;
mod company;
mod control;
mod founding;
mod freshness;
mod gauges;
mod introductions;
mod joining;
mod members;
mod neighbours;
mod ping;
mod removal;
mod requests;
mod sessions;
mod settle;
mod status;
mod stun;
mod upkeep;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod stage;

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::api;
use crate::forward::Upcall;
use crate::identity::{DeviceId, Identity, NetworkId, RootSecret, WgSecret};
use crate::membership::invite::InviteId;
use crate::membership::{DeviceName, Member, UnixTime};
use crate::wire::record::NetworkSecret;
use crate::wire::saved::Cache;
use clients::Clients;
use company::Company;
use deadlines::Deadlines;
use directory::Directory;
use event::{Input, InterfaceConfig, InterfaceSnapshot, Output};
use gossip::Gossip;
use introductions::Meetings;
use join::{Joiner, Sponsor};
use key::PeerKey;
use lan::Beacons;
use ledger::Ledger;
use neighbours::Choice;
use peers::Peers;
use publisher::Publisher;
use reach::Reachability;
use tags::Tags;
use wall::Wall;
use writes::Writes;

pub use founding::{Found, FoundError, Saved};
pub use gauges::Gauge;

/// One network, as this device sees it.
pub struct Mesh {
    settings: Settings,
    wall: Wall,
    rng: StdRng,
    me: Me,
    ledger: Ledger,
    peers: Peers,
    tags: Tags,
    reach: Reachability,
    directory: Directory,
    publisher: Publisher,
    beacons: Beacons,
    gossip: Gossip,
    joins: Joins,
    /// How its neighbours are chosen.
    choice: Choice,
    /// When the roster was last derived.
    derived: Instant,
    /// The invites at whose rendezvous this device waits.
    meeting: BTreeSet<InviteId>,
    /// The removed devices that were told so since the start.
    told_removed: BTreeSet<DeviceId>,
    clients: Clients,
    /// Whom of those that look for company to call, and how many.
    company: Company,
    meetings: Meetings,
    writes: Writes,
    deadlines: Deadlines<Timer>,
    outputs: VecDeque<Output>,
    last_now: Instant,
}

/// The MTU of the interface, in bytes: an Ethernet's 1,500 less 48 of IPv6 and UDP and 32 of
/// WireGuard, as its other implementations have it. Not every path carries that: see
/// [`path::size`].
pub const MTU: u16 = 1420;

/// What the agent decided for this network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The UDP port of the tunnels.
    pub listen_port: u16,
    /// The interface's name.
    pub interface: String,
    /// The interface's MTU, in bytes.
    pub mtu: u16,
    /// Whether the DHT may be used.
    pub dht: bool,
    /// Whether beacons may be sent.
    pub lan: bool,
    /// Whether ports may be mapped.
    pub port_mapping: bool,
}

/// This device in this network.
#[derive(Debug)]
pub struct Me {
    /// Its keys.
    pub identity: Identity,
    /// The network's root key, where it still lies on this device.
    pub root: Option<RootSecret>,
    /// K_net, once known.
    pub secret: Option<NetworkSecret>,
    /// The name it asked for; the roster may show another.
    pub name: DeviceName,
    /// The links and addresses of the host.
    pub interfaces: InterfaceSnapshot,
    /// The state of the DHT.
    pub dht: (api::DhtState, u32),
    /// Where this device stands.
    pub state: api::NetworkState,
    /// Whether the interface shall be on.
    pub up: bool,
    /// Whether user data waits until heads were compared.
    pub holding: bool,
    /// Whether others may know a longer log of this admin: then it signs nothing.
    pub may_be_stale: bool,
    /// How the interface looks now; `None` is off.
    pub interface: Option<InterfaceConfig>,
    /// What the cache on disk holds.
    pub cached: Cache,
}

/// The side of joining that this device is on.
#[expect(clippy::large_enum_variant, reason = "there is one, as long-lived as the mesh")]
enum Joins {
    /// A member: admits others, where it is an admin.
    Sponsor(Sponsor),
    /// Not yet a member.
    Joiner(Box<Joiner>),
}

/// What is due at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Path(PeerKey),
    Tunnel(PeerKey),
    Peer(PeerKey),
    Reach,
    Directory,
    Publisher,
    Beacons,
    Gossip,
    Joins,
    Clients,
    Roster,
    Tags,
    Cache,
    Neighbours,
    Company,
    Hold,
}

/// Why an input was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Bytes that are not what they should be.
    #[error("malformed")]
    Malformed,
    /// Nobody we know sent this.
    #[error("from a stranger")]
    Stranger,
    /// It did not verify.
    #[error("not authentic")]
    NotAuthentic,
    /// More than we take from one source, or at once.
    #[error("too many")]
    TooMany,
}

impl Mesh {
    /// Something happened at `now`. An error says why it was ignored; nothing is broken by it.
    pub fn handle_input(&mut self, input: Input, now: Instant) -> Result<(), InputError> {
        self.last_now = now;
        if let Input::Upcall(Upcall::Datagram { bytes, .. }) = &input {
            // A flood of strangers' messages costs this and no more: nothing changed, so nothing
            // has to be settled.
            self.expects_stun(bytes)?;
        }
        let result = self.dispatch(input, now);
        self.settle(now);
        result
    }

    fn dispatch(&mut self, input: Input, now: Instant) -> Result<(), InputError> {
        match input {
            Input::Upcall(upcall) => return self.handle_upcall(upcall, now),
            Input::Request(id, request) => self.handle_request(id, request, now),
            Input::Cancel(id) => self.cancel(id),
            Input::Dht(event) => self.handle_dht(event, now),
            Input::PortMap(event) => self.reach.handle_port_map(event, now),
            Input::Interfaces(snapshot) => self.handle_interfaces(snapshot, now),
            Input::Lan { from, datagram } => self.beacons.handle_datagram(from, &datagram, now),
            Input::StunServers(servers) => self.reach.set_servers(servers, now),
            Input::Persisted(ticket, result) => self.handle_persisted(ticket, result, now),
            Input::WallClock(unix) => self.handle_wall_clock(unix, now),
            Input::Suspended => self.handle_suspended(now),
        }
        Ok(())
    }

    /// Time passed: whatever is due at `now` is done.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.last_now = now;
        while let Some(timer) = self.deadlines.pop_due(now) {
            self.handle_timer(timer, now);
        }
        self.settle(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and what is due then. In the past
    /// while an output waits.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if !self.outputs.is_empty() {
            return Some((self.last_now, "outputs are queued"));
        }
        self.deadlines.poll()
    }

    /// The network's name, once known.
    pub fn name(&self) -> Option<&str> {
        self.ledger.genesis().map(|genesis| genesis.name.as_str())
    }

    /// The network's id.
    pub fn network(&self) -> NetworkId {
        *self.ledger.network()
    }

    /// Names the set of ops that this device has: equal digests, equal sets, equal rosters.
    pub fn digest(&self) -> [u8; 8] {
        self.ledger.logs().digest()
    }

    /// The static secrets under which handshakes reach this device.
    pub fn statics(&self) -> Vec<WgSecret> {
        let own = self.me.identity.wg.clone();
        match &self.joins {
            Joins::Joiner(joiner) => vec![own, joiner.guest_secret().clone()],
            Joins::Sponsor(_) => vec![own],
        }
    }

    /// Whether a live member is called so.
    pub fn knows(&self, device: &str) -> bool {
        self.find(device).is_ok()
    }

    /// The generator of this network, from the seed the agent was given.
    fn generator(seed: [u8; 32]) -> StdRng {
        StdRng::from_seed(seed)
    }

    /// The wall-clock time at `now`.
    fn unix(&self, now: Instant) -> UnixTime {
        self.wall.at(now)
    }
}
