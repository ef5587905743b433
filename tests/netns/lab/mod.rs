//! The lab: a small Internet made of network namespaces, in which the real binary runs.
//!
//! ```text
//!            ┌──────────────── Internet (a thread of this process) ────────────────┐
//!            │ routes by destination, takes one off the TTL, holds every packet for │
//!            │ 12.5 ms on the way in and on the way out, can lose some              │
//!            └─┬───────────┬───────────┬─────────────┬─────────────┬────────────────┘
//!         TUN "wan"     TUN "wan"   TUN "wan"     TUN "wan"     TUN "wan"
//!          DHT nodes     coturn     public host    Router         Router
//!         (1 namespace each)                       nft NAT        nft NAT
//!                                                  bridge "lan"   bridge "lan"
//!                                                  Host  Host     Host
//! ```
//!
//! The kernels this runs on have no netem, so delay comes from the TUN devices: each WAN
//! interface is one, and the other ends are all held by [`internet::Internet`]. Two routers are
//! therefore 25 ms apart one way. Everything else is the kernel's:
//! veth, bridges and nft NAT rules, one [`nat::Nat`] a kind of home router.
//!
//! | module | holds |
//! |---|---|
//! | [`namespace`] | one network namespace and how to run things in it |
//! | [`process`] | commands with a time limit, daemons that die with their owner |
//! | [`internet`] | the routing, delaying thread |
//! | [`nat`] | the rule sets |
//! | [`lan`] | a bridge with addresses to hand out, and [`lan::Router`] |
//! | [`world`] | what one test owns: Internet, servers, folder, logs |
//! | [`host`] | a machine with an agent, and the verbs spoken to it |
//! | [`status`] | reading `status --json`, waiting for a state |
//! | [`datagrams`] | datagrams in number: paced, in batches, counted |
//! | [`flood`] | 100,000 datagrams a second from nowhere |
//! | [`narrow`] | two routers with a narrow link between them |
//! | [`echo`], [`pump`] | echo requests of every size; a stream that flows until it is stopped |
//! | [`stock`] | wireguard-go under an agent's keys |
//! | [`numbered`] | UDP in which nothing may change or come twice |
//! | [`traffic`] | ping, TCP with hashes, UDP streams and floods |
//! | [`upnp`] | miniupnpd on a router |
//! | [`resources`] | memory, processor time and interface counters of a host |
//!
//! Everything is undone on drop. A run that was killed leaves namespaces named after its process
//! id; the next run removes those whose process is gone ([`namespace::remove_leftovers`]).

pub mod datagrams;
pub mod echo;
pub mod flood;
pub mod host;
pub mod internet;
pub mod lan;
pub mod namespace;
pub mod narrow;
pub mod nat;
pub mod numbered;
pub mod process;
pub mod pump;
pub mod resources;
pub mod status;
pub mod stock;
pub mod traffic;
pub mod upnp;
pub mod world;
