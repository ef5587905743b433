//! SKELETON (helper `membership` owns and completes this file).
use std::net::SocketAddr;
use serde::{Deserialize, Serialize};
use crate::identity::{InviteSecret, NetworkId, WgPublicKey, WgSecret};

/// `H(ik_pk)[..16]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InviteId(pub [u8; 16]);

/// An invite: `ginnel1` + base32(version ‖ network_id ‖ seed[16] ‖ hints ‖ check[4]). Display prints the token; Debug redacts.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite { pub network: NetworkId, seed: zeroize::Zeroizing<[u8; 16]>, pub hints: Vec<Hint> }

/// Where a sponsor may be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint { pub wg: WgPublicKey, pub address: SocketAddr }

/// What follows from the seed.
#[derive(Clone, Debug)]
pub struct InviteKeys { pub id: InviteId, pub ik: InviteSecret, pub gk: WgSecret, pub rv: zeroize::Zeroizing<[u8; 32]> }

impl Invite {
    /// Keeps at most 2 hints.
    pub fn new(_network: NetworkId, _seed: [u8; 16], _hints: Vec<Hint>) -> Self { todo!() }
    pub fn keys(&self) -> InviteKeys { todo!() }
    pub fn token(&self) -> zeroize::Zeroizing<String> { todo!() }
}
impl std::fmt::Debug for Invite { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("Invite([redacted])") } }
impl std::str::FromStr for Invite { type Err = InviteError; fn from_str(_s: &str) -> Result<Self, InviteError> { todo!() } }

/// Why a text is no invite (each variant is one clear sentence for the user).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    #[error("that is not an invite: one starts with \"ginnel1\"")]
    Prefix,
    #[error("the invite was cut short or mistyped; copy it again, whole")]
    Damaged,
    #[error("the invite is of a newer version of ginnel; upgrade this device")]
    Version,
    #[error("an invite has fewer than 300 characters; this text is longer")]
    TooLong,
}
