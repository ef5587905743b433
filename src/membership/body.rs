//! What an op does, and the bytes that say so.
//!
//! Bodies are postcard of the fields in the order of the table; only the shortest encoding is read.
//! All kinds below are critical, and each may be written by the one sort of author only.
//!
//! | kind | author | op | body |
//! |---|---|---|---|
//! | 1 | root | `AdminAdd` | admin key 32, device id 32 |
//! | 2 | root | `AdminCut` | admin key 32, seq, op id 32 |
//! | 16 | admin | `Grant` | [`Certificate`] |
//! | 17 | admin | `Revoke` | device id 32, reason ≤ 200 B, K_net generation, H(K_net) 32 |
//! | 18 | admin | `InviteOpen` | [`InviteOpen`] |
//! | 19 | admin | `InviteClose` | invite id 16 |
//!
//! Every other kind is [`OpBody::Unknown`]: kept and passed on byte for byte (R9).

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::certificate::Certificate;
use super::invite::{InviteId, InviteOpen};
use super::op::{OpError, OpId};
use crate::identity::{AdminId, DeviceId};

const KIND_ADMIN_ADD: u8 = 1;
const KIND_ADMIN_CUT: u8 = 2;
const KIND_GRANT: u8 = 16;
const KIND_REVOKE: u8 = 17;
const KIND_INVITE_OPEN: u8 = 18;
const KIND_INVITE_CLOSE: u8 = 19;

/// What an op does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpBody {
    /// Root: the holder of `admin`, on `device`, may admit and remove.
    AdminAdd {
        /// The key of the admin's log.
        admin: AdminId,
        /// The device that holds it.
        device: DeviceId,
    },
    /// Root: nothing of this admin counts but what leads up to the op `hash` at `seq`.
    AdminCut {
        /// The key of the admin's log.
        admin: AdminId,
        /// The sequence number of the last op that counts; 0 for none.
        seq: u64,
        /// Its id.
        hash: OpId,
    },
    /// Admin: this device belongs.
    Grant(Box<Certificate>),
    /// Admin: this device is out for ever.
    Revoke {
        /// Which.
        device: DeviceId,
        /// Why, for people; see [`clean_reason`](super::policy::clean_reason).
        reason: String,
        /// The generation of K_net from here on.
        knet_generation: u32,
        /// Its hash.
        knet_hash: [u8; 32],
    },
    /// Admin: whoever holds this invite may join, once.
    InviteOpen(InviteOpen),
    /// Admin: it may not any more.
    InviteClose {
        /// Which.
        invite: InviteId,
    },
    /// A kind of a later version, kept byte for byte (R9).
    Unknown {
        /// Its number.
        kind: u8,
        /// Whether a device that does not know it must stop writing ops.
        critical: bool,
        /// Its body.
        bytes: Vec<u8>,
    },
}

impl OpBody {
    /// The kind, as a word for people and for `--json`.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::AdminAdd { .. } => "admin-add",
            Self::AdminCut { .. } => "admin-cut",
            Self::Grant(_) => "grant",
            Self::Revoke { .. } => "revoke",
            Self::InviteOpen(_) => "invite-open",
            Self::InviteClose { .. } => "invite-close",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// What it did, in words that follow the author's name; `names` says what a device is called.
    pub fn summary(&self, names: &dyn Fn(&DeviceId) -> String) -> String {
        match self {
            Self::AdminAdd { device, .. } => format!("made {} an admin", names(device)),
            Self::AdminCut { admin, seq, .. } => {
                format!("cut the admin {} after its act {seq}", short(&admin.to_string()))
            }
            Self::Grant(certificate) => {
                let address = certificate.ipv4.map(|ip| format!(" ({ip})")).unwrap_or_default();
                format!("admitted {}{address} until {}", certificate.name, certificate.not_after)
            }
            Self::Revoke { device, reason, .. } if reason.is_empty() => {
                format!("removed {}", names(device))
            }
            Self::Revoke { device, reason, .. } => format!("removed {}: {reason}", names(device)),
            Self::InviteOpen(invite) => {
                let role = if invite.admin { "an admin invite" } else { "an invite" };
                let name = invite.name.as_ref().map(|n| format!(" for {n}")).unwrap_or_default();
                format!("opened {role}{name} ({}) until {}", invite.invite, invite.expires)
            }
            Self::InviteClose { invite } => format!("closed the invite {invite}"),
            Self::Unknown { kind, .. } => {
                format!("did something that this version does not know (kind {kind})")
            }
        }
    }

    /// Whether it only takes away, and so counts even past a fork (R4).
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Revoke { .. } | Self::InviteClose { .. })
    }

    /// Whether a device that does not know this kind must stop writing ops (R9).
    pub fn is_critical(&self) -> bool {
        match self {
            Self::Unknown { critical, .. } => *critical,
            _ => true,
        }
    }

    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::AdminAdd { .. } => KIND_ADMIN_ADD,
            Self::AdminCut { .. } => KIND_ADMIN_CUT,
            Self::Grant(_) => KIND_GRANT,
            Self::Revoke { .. } => KIND_REVOKE,
            Self::InviteOpen(_) => KIND_INVITE_OPEN,
            Self::InviteClose { .. } => KIND_INVITE_CLOSE,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::AdminAdd { admin, device } => to_postcard(&(admin, device)),
            Self::AdminCut { admin, seq, hash } => to_postcard(&(admin, seq, hash)),
            Self::Grant(certificate) => to_postcard(certificate),
            Self::Revoke { device, reason, knet_generation, knet_hash } => {
                to_postcard(&(device, reason, knet_generation, knet_hash))
            }
            Self::InviteOpen(invite) => to_postcard(invite),
            Self::InviteClose { invite } => to_postcard(invite),
            Self::Unknown { bytes, .. } => bytes.clone(),
        }
    }

    pub(super) fn decode(kind: u8, critical: bool, bytes: &[u8]) -> Result<Self, OpError> {
        let body = match kind {
            KIND_ADMIN_ADD => {
                let (admin, device) = from_postcard(bytes)?;
                Self::AdminAdd { admin, device }
            }
            KIND_ADMIN_CUT => {
                let (admin, seq, hash) = from_postcard(bytes)?;
                Self::AdminCut { admin, seq, hash }
            }
            KIND_GRANT => Self::Grant(Box::new(from_postcard(bytes)?)),
            KIND_REVOKE => {
                let (device, reason, knet_generation, knet_hash) = from_postcard(bytes)?;
                Self::Revoke { device, reason, knet_generation, knet_hash }
            }
            KIND_INVITE_OPEN => Self::InviteOpen(from_postcard(bytes)?),
            KIND_INVITE_CLOSE => Self::InviteClose { invite: from_postcard(bytes)? },
            _ => return Ok(Self::Unknown { kind, critical, bytes: bytes.to_vec() }),
        };
        // The one encoding only: what is read is what would be written.
        if critical && body.encode() == bytes { Ok(body) } else { Err(OpError::Malformed) }
    }
}

fn to_postcard<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("no body has anything that postcard cannot write")
}

fn from_postcard<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, OpError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(OpError::Malformed),
    }
}

/// The first characters of a key, enough to tell a few apart.
fn short(key: &str) -> &str {
    key.get(..8).unwrap_or(key)
}
