//! ginnel: a private LAN between your machines in two commands, with no server.
//!
//! `ginnel create home` on one machine prints an invite; `ginnel join INVITE` on another takes it
//! up; from then on the two reach one another by name and address, from behind whatever NATs they
//! have. Devices find each other through the BitTorrent Mainline DHT and on the local network, get
//! through NATs with STUN, port mappings and hole punching, and carry IP packets in WireGuard
//! sessions. Who belongs is written in signed logs that every device checks for itself.
//!
//! This page is the architecture document. Read it, then [`mesh`], then whatever you want to change.
//!
//! # The picture
//!
//! ```text
//!        user                     other programs                        other devices
//!          │ commands                   │ IP packets                          │ datagrams
//!     ┌────▼────┐                 ┌─────▼──────┐                       ┌──────▼──────┐
//!     │   cli   │                 │ TUN device │ io::tun               │ UDP sockets │ io::udp
//!     └────┬────┘                 └─────┬──────┘                       └──────┬──────┘
//!   api    │ one JSON object a line     │        agent::workers (threads)     │
//!     ┌────▼─────────┐            ┌─────▼─────────────────────────────────────▼─────┐
//!     │ agent        │  table,    │ forward   egress: split, route, seal ─────────▶ │
//!     │  one loop    │  endpoint  │           ◀──── ingress: open, check, coalesce   │
//!     │              ├───────────▶│                                                 │
//!     │              │◀───────────┤ what it cannot answer: an upcall                │
//!     │   ┌──────┐   │            └─────────────────────────────────────────────────┘
//!     │   │ mesh │   │◀──────────▶ io: dht, lan, portmap, netlink, store, clock
//!     │   └──────┘   │
//!     └──────────────┘            membership, identity, wire: what mesh decides with
//! ```
//!
//! > **[`mesh`] decides, [`forward`] moves packets, [`io`] touches the kernel and the network,
//! > [`agent`] wires them, [`cli`] speaks to the agent.**
//!
//! # The layers
//!
//! A module imports only what stands above it in this table, and of that only what its row names;
//! `tests/layering.rs` holds that, and the lint configuration keeps clocks, thread generators and spawning out of the pure layers. So
//! everything from `identity` to `mesh` runs the same under virtual time as on a host.
//!
//! | module | is | may import |
//! |---|---|---|
//! | [`identity`] | who I am: keys, addresses | – |
//! | [`membership`] | who belongs: signed ops, the roster, invites | identity |
//! | [`wire`] | what is said: codecs of everything that comes from outside | identity, membership |
//! | [`forward`] | moves packets: routing, WireGuard sessions and their cipher, segmentation | identity, wire |
//! | [`api`], [`config`] | what the user and the agent say to each other | identity |
//! | [`mesh`] | decides | all above but config; of forward the table, its slots and tunnels |
//! | [`io`] | touches kernel, network, disk, clock | identity, wire, api, mesh::event, forward's buffers and what it expects |
//! | [`agent`] | wires | all but cli |
//! | [`cli`] | speaks | api, config, identity, membership::policy |
//!
//! # The ways through the house
//!
//! * **A packet out**: `agent::workers` reads a frame of the TUN, [`forward::egress`] splits, routes
//!   and seals it into one buffer, the thread sends the buffer. No session: an
//!   [upcall](forward::Upcall), and `mesh` keeps the packet while it makes one.
//! * **A datagram in**: `agent::workers` receives a batch, [`wire::classify`] tells what each is,
//!   [`forward::ingress`] opens it, checks that the inner source belongs to the sender, joins the
//!   packets of a flow and hands them to the TUN.
//! * **A command**: [`cli`] → the socket → [`agent::server`] → [`mesh::Mesh::handle_input`] → a
//!   [reply](mesh::event::Output::Reply).
//! * **A join**: the invite is a one-time guest key. [`mesh::join`] tells the whole way.
//! * **A removal**: an admin signs a `Revoke`; [`mesh::gossip`] carries it; every device derives
//!   the [roster](membership::roster) anew and ends the tunnel, in memory first.
//! * **My address changed**: [`mesh::reach`] notices → connected peers are told in their tunnels,
//!   the others by the [record](wire::record) in the DHT → their [`mesh::path`] checks the new
//!   address. Only an answered check moves where datagrams go; received data never does.
//!
//! # What is shared
//!
//! The control loop is one thread; packets run on threads of their own. What they share is the
//! [`forward::ForwardingTable`], an immutable snapshot, and in it each [`forward::PeerSlot`]: only
//! `mesh` writes its endpoint and size limit; its tunnel and the order of sending are behind locks that
//! are held for a frame; counters go up from both sides. What a flood may cost is counted in one guard
//! for all threads. Everything else is owned by one place.
//!
//! # Logs
//!
//! ERROR: broken, act now. WARN: would you wake somebody? INFO: what a user would notice. DEBUG: a
//! change of state. TRACE: single packets. Addresses of others never stand above DEBUG, secrets
//! nowhere.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests make up their instants from the real clock")
)]

// What tests outside share with those inside names the crate.
#[cfg(test)]
extern crate self as ginnel;

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod forward;
pub mod identity;
pub mod io;
pub mod membership;
pub mod mesh;
pub mod wire;
