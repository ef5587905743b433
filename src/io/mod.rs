//! Touches the kernel and the network; the only layer (with `agent`) that may read a clock, spawn
//! and block.
//!
//! Nothing here decides: each file turns one piece of the outside world into plain types and calls.
//! The control loop uses them from one thread; [`tun`] and [`udp`] are also used by the data
//! threads, through `&self`.
//!
//! | file | touches |
//! |---|---|
//! | [`tun`] | the TUN device: whole vnet frames where the kernel offloads, packets where not |
//! | [`udp`] | the sockets of a network: GSO, GRO, ECN, `recvmmsg`, and programs in the kernel that choose the socket and drop floods |
//! | [`netlink`] | links, addresses, routes, and the news about them |
//! | [`portmap`] | UPnP IGD, PCP and NAT-PMP |
//! | [`dht`] | the BitTorrent Mainline DHT |
//! | [`lan`] | multicast on the local networks |
//! | [`clock`] | every clock and the seed of every generator |
//! | [`store`] | the state folder |

#![allow(clippy::disallowed_methods, reason = "bans on clocks and spawning are for pure layers")]

pub mod clock;
pub mod dht;
pub mod lan;
pub mod netlink;
pub mod portmap;
pub mod store;
pub mod tun;
pub mod udp;
