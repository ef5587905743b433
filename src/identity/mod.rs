//! Who I am: the keys of a device and the addresses that follow from them.
//!
//! [`keys`] holds every key of the protocol as a type of its own, so that a WireGuard key can never
//! be passed where a signing key belongs; [`address`] computes the overlay addresses that nobody
//! can choose and everybody can check.

pub mod address;
pub mod blind;
pub mod keys;

pub use address::{Ipv4Pool, NetworkAddresses};
pub use keys::{
    AdminId, AdminSecret, DeviceId, IdSecret, Identity, IdentityError, InviteKey, InviteSecret,
    NetworkId, RootId, RootSecret, Signature, WgPublicKey, WgSecret, hash, kdf,
};

#[cfg(test)]
mod tests;
