//! Who belongs: signed acts, the logs they stand in, and the roster that follows from them.
//!
//! * [`genesis`]: what a network is, fixed for ever; its hash is the network's id.
//! * [`op`]: an act (`Grant`, `Revoke`, …) of an author, signed and chained to the one before.
//! * [`certificate`]: what a `Grant` says of a device.
//! * [`log`]: every valid op this device holds, by author, forks included.
//! * [`pen`]: what writes the next op of an author's log.
//! * [`roster`]: who belongs, as a pure function of that *set* of ops and the time.
//! * `rules`: that function, rule by rule (R1–R7, R9, R10).
//! * [`invite`]: the one-time token and the keys that follow from its seed.
//! * [`policy`]: names and other texts that are checked before they are signed.
//! * [`bounded`]: lists that carry their bound into the decoder.
//! * [`time`]: wall-clock time as it stands in signed things.
//!
//! Nobody is asked who belongs: every device holds the same logs and computes the same roster. What
//! an admin signs reaches the others in any order, twice, or late; the roster is the same once the
//! set is the same, and taking away always wins over giving.

mod body;
pub mod bounded;
pub mod certificate;
#[cfg(test)]
mod fixture;
pub mod genesis;
pub mod invite;
pub mod log;
pub mod op;
pub mod pen;
pub mod policy;
mod reign;
pub mod roster;
mod rules;
mod signed;
pub mod time;

pub use certificate::{Certificate, Flags};
pub use genesis::{Genesis, GenesisPool};
pub use invite::{Invite, InviteId, InviteKeys, InviteOpen};
pub use log::Logs;
pub use op::{Author, Op, OpBody, OpId, SignedOp, Unverified, Verified};
pub use policy::DeviceName;
pub use roster::{Member, Roster};
pub use time::UnixTime;
