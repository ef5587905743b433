//! Joining, from both ends: the [`Sponsor`] lets devices in, the [`Joiner`] is let in.
//!
//! The messages and their order stand in [`crate::wire::control::join`]. Both machines know nothing
//! of tunnels: their owner gives each tunnel a [`PeerKey`](super::key::PeerKey), says under which key
//! a message came in, and does what the events say. Every request comes from the joiner, who repeats
//! it until it is answered; the sponsor keeps no state for a guest until its request was verified.
//!
//! **What the joiner believes.** Only what follows from the network id in its invite: the genesis by
//! its hash, the admins by the root's signatures, the sponsor by an admin's `Grant` for the
//! WireGuard key at the other end of the tunnel. Who stole the token can answer, and can show
//! nothing of this.
//!
//! **What the sponsor believes.** A request signed by the invite's key and by the new device's, over
//! the sponsor's own WireGuard key and a nonce that the sponsor made for this tunnel: what was
//! recorded elsewhere is worth nothing here. The new WireGuard key proves itself by a handshake.
//! Only then does the sponsor's owner append the `Grant`, one invite one device; the second device
//! of an invite is told that it is used.
//!
//! **Refusals** come after the offer, so that the joiner can tell a sponsor's word from a thief's.

mod attempt;
mod claimant;
pub mod event;
pub mod joiner;
mod name;
pub mod offer;
pub mod sponsor;
mod words;

pub use event::{
    Admission, Channel, Guest, JoinerEvent, JoinerKeys, SponsorEvent, SponsorIdentity,
};
pub use joiner::Joiner;
pub use name::unique_name;
pub use offer::Shown;
pub use sponsor::Sponsor;

#[cfg(test)]
mod tests;
