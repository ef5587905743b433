//! The simulator: many devices in one process, under virtual time, from one seed.
//!
//! The meshes, the packet path, the signatures and the WireGuard sessions are the real ones; the
//! network, the DHT, the disks and the clocks are simulated. A scenario is a few lines: see
//! `scenarios.rs`.
//!
//! | to add | read | and write |
//! |---|---|---|
//! | a scenario | any in `scenarios.rs` | a test beside it |
//! | an invariant | `Checks::drained`; `bounded` is looked at each minute, `counted` keeps a state | a method there, its call in `World::settle`, and a test beside it that it can fail |
//! | something that goes wrong | `Act::Cut` in `plan.rs` and `history.rs` | a variant of `Act` and `Kind`, its place in `KINDS` (after which seeds are other histories), how it is read, what it does |
//! | something hostile | `Attack::Flood` in `byzantine.rs` | a variant, its place in `ALL`, what it does |
//! | a kind of NAT | `NatKind::SYMMETRIC` in `nat.rs` | a constant, and its place in `plan.rs`; `oracle.rs` follows from its fields |
//!
//! `random.rs` lives histories by seed and makes small what fails. Modules name each other by
//! `super`, and only tests need the test harness, so that another package can take this file in as
//! a module and live the histories of its own bytes (`history::live`).

mod acts;
mod budgets;
mod byzantine;
mod check;
mod choices;
mod clock;
mod crowd;
mod dht;
mod disk;
pub mod history;
mod many;
mod nat;
mod net;
mod node;
mod oracle;
mod packets;
mod plan;
mod plot;
mod random;
mod recorded;
mod scenarios;
mod shrink;
mod survey;
mod tally;
mod treason;
mod world;
