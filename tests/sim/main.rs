//! The simulator: many devices in one process, under virtual time, from one seed.
//!
//! The meshes, the packet path, the signatures and the WireGuard sessions are the real ones; the
//! network, the DHT, the disks and the clocks are simulated. A scenario is a few lines: see
//! `scenarios.rs`.

mod budgets;
mod check;
mod clock;
mod crowd;
mod dht;
mod net;
mod node;
mod packets;
mod random;
mod scenarios;
mod tally;
mod world;
