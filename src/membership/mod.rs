//! Who belongs: signed acts, the logs they stand in, and the roster that follows from them.
//!
//! * [`op`]: an act (`Grant`, `Revoke`, …) of an author, signed and chained to the one before.
//! * [`log`]: every valid op this device holds, by author, forks included.
//! * [`roster`]: who belongs, as a pure function of that *set* of ops and the time (rules R1–R11).
//! * [`invite`]: the one-time token and the keys that follow from its seed.
//! * [`policy`]: names and other texts that are checked before they are signed.

pub mod invite;
pub mod log;
pub mod op;
pub mod policy;
pub mod roster;

pub use invite::{Invite, InviteKeys};
pub use log::Logs;
pub use op::{Author, Genesis, Op, OpBody, OpId, SignedOp, UnixTime, Unverified, Verified};
pub use policy::DeviceName;
pub use roster::{Member, Roster};
