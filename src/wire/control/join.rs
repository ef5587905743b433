//! The messages of joining: between a guest, who holds an invite, and a sponsor, who may admit.
//!
//! ```text
//! guest                                           sponsor
//!   │ ── guest key ── JoinHello {nonce} ───────────▶ │
//!   │ ◀────────────── JoinOffer × parts ──────────── │  genesis, root log, its own Grant
//!   │    checks: H(genesis) is the invite's network, the root's signature makes an admin, that
//!   │    admin's Grant names the WireGuard key at the other end of this tunnel
//!   │ ── guest key ── JoinRequest ─────────────────▶ │  signed by the invite and the new device
//!   │ ◀────────────── JoinAccepted ───────────────── │  the new WireGuard key is now answered
//!   │ ══ handshake with the new WireGuard key ═════▶ │
//!   │ ── new key ──── JoinProve ───────────────────▶ │  appends the Grant, on disk, then
//!   │ ◀────────────── JoinGranted, Ops, Secret ───── │  JoinProve again asks for more ops
//! ```
//!
//! Each request may be repeated until its answer comes; each has the same answer again. Instead of
//! any answer there may come [`JoinRefused`].

use serde::{Deserialize, Serialize};

use super::{Nonce, OpBytes};
use crate::identity::{
    AdminId, DeviceId, IdSecret, InviteKey, InviteSecret, NetworkId, Signature, WgPublicKey,
};
use crate::membership::invite::InviteId;
use crate::membership::{DeviceName, OpId, bounded::at_most};

/// The longest genesis in its wire form.
pub const MAX_GENESIS: usize = 256;

/// The most parts of an offer: 35 KiB hold a root log of 32 admins added and cut, three times over.
pub const MAX_PARTS: u8 = 32;

/// The most ops of one part of an offer.
const MAX_OFFERED: usize = super::MAX_OPS;

/// The type under which the invite's key signs a request.
const IK: &str = "join-ik";

/// The type under which the new device's key signs a request.
const ID: &str = "join-id";

/// A guest asks a sponsor who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinHello {
    /// Which invite the guest holds.
    pub invite: InviteId,
    /// Of this guest, on this tunnel.
    pub nonce: Nonce,
}

/// The sponsor shows its network and why it may speak for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinOffer {
    /// The guest's nonce.
    pub guest_nonce: Nonce,
    /// The sponsor's, on this tunnel.
    pub nonce: Nonce,
    /// The place of this part, from 0.
    pub part: u8,
    /// How many parts the offer has.
    pub parts: u8,
    /// The genesis in its wire form; in part 0, empty in the others.
    #[serde(deserialize_with = "at_most::<MAX_GENESIS, _, _>")]
    pub genesis: Vec<u8>,
    /// The root's log from its start, and the Grant of the sponsor.
    #[serde(deserialize_with = "at_most::<MAX_OFFERED, _, _>")]
    pub ops: Vec<OpBytes>,
}

/// The guest asks to be let in as a device with these keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// What it asks.
    pub claim: JoinClaim,
    /// The nonce of the guest's `JoinHello`; the sponsor's answer to it is under both signatures.
    pub guest_nonce: Nonce,
    /// By the invite's key over `JoinClaim::text`.
    pub by_invite: Signature,
    /// By the new device's key over the same text.
    pub by_device: Signature,
}

/// What both signatures of a [`JoinRequest`] cover, with the sponsor's key and the nonces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinClaim {
    /// The invite.
    pub invite: InviteId,
    /// The new device.
    pub id: DeviceId,
    /// Its WireGuard key.
    pub wg: WgPublicKey,
    /// The key of its admin log, where the invite is for an admin.
    pub admin: Option<AdminId>,
    /// The name it would like.
    pub name: DeviceName,
    /// Its consent to this pair of keys (`membership::op::bind`).
    pub bind_sig: Signature,
}

/// What makes a request good on one tunnel only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinScene {
    /// The sponsor's WireGuard key.
    pub sponsor: WgPublicKey,
    /// The guest's nonce.
    pub guest_nonce: Nonce,
    /// The sponsor's nonce.
    pub sponsor_nonce: Nonce,
}

impl JoinRequest {
    /// Signs `claim` for one sponsor and one tunnel.
    pub fn sign(
        claim: JoinClaim,
        scene: &JoinScene,
        network: &NetworkId,
        ik: &InviteSecret,
        id: &IdSecret,
    ) -> Self {
        let text = claim.text(scene);
        Self {
            by_invite: ik.sign(IK, network, &text),
            by_device: id.sign(ID, network, &text),
            guest_nonce: scene.guest_nonce,
            claim,
        }
    }

    /// Whether both keys signed it for this sponsor and this tunnel.
    pub fn verify(&self, scene: &JoinScene, network: &NetworkId, ik: &InviteKey) -> bool {
        let text = self.claim.text(scene);
        ik.verify(IK, network, &text, &self.by_invite)
            && self.claim.id.verify(ID, network, &text, &self.by_device)
    }
}

impl JoinClaim {
    /// The signed text: fields of fixed length, the name last.
    fn text(&self, scene: &JoinScene) -> Vec<u8> {
        let mut text = Vec::with_capacity(400);
        text.extend_from_slice(&self.invite.0);
        text.extend_from_slice(&scene.sponsor.0);
        text.extend_from_slice(&scene.guest_nonce);
        text.extend_from_slice(&scene.sponsor_nonce);
        text.extend_from_slice(&self.id.0);
        text.extend_from_slice(&self.wg.0);
        text.push(u8::from(self.admin.is_some()));
        text.extend_from_slice(&self.admin.map_or([0; 32], |admin| admin.0));
        text.extend_from_slice(&self.bind_sig.0);
        text.extend_from_slice(self.name.as_str().as_bytes());
        text
    }
}

/// The sponsor checked the request and answers a handshake with the new WireGuard key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAccepted {
    /// The new device.
    pub id: DeviceId,
}

/// Over the tunnel of the new WireGuard key: that tunnel is the proof. Repeated until the device sees
/// itself in the roster, each time asking for more of the ops that say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinProve {
    /// The invite.
    pub invite: InviteId,
    /// The new device.
    pub id: DeviceId,
    /// How many ops it has of those that follow [`JoinGranted`], from the first.
    pub have: u64,
}

/// The Grant is written. Up to 16 KiB of ops follow: the root's, then those of the log that holds the
/// Grant, then the others'. In their [`Reply`](super::Reply) marks `next` counts all ops from the
/// first, and the author means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinGranted {
    /// The new device.
    pub id: DeviceId,
    /// Its Grant.
    pub grant: OpId,
}

/// The sponsor will not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRefused {
    /// Why.
    pub reason: Refusal,
}

/// Why a sponsor refuses. On the wire one byte; one of a later version reads as `Other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Refusal {
    /// Another device used the invite.
    Used,
    /// Its time is over.
    Expired,
    /// An admin closed it.
    Closed,
    /// No admin of this network opened it, or this sponsor has not heard of it.
    Unknown,
    /// This sponsor may not admit.
    CannotAdmit,
    /// Another device is being admitted with it at this moment.
    Busy,
    /// A signature or a key of the request is wrong.
    BadRequest,
    /// A key of the request belongs to a device that is, or was, in the network.
    KeyInUse,
    /// The network has no place, or the sponsor could not write its log.
    Failed,
    /// A reason of a later version.
    Other,
}

impl From<u8> for Refusal {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Used,
            1 => Self::Expired,
            2 => Self::Closed,
            3 => Self::Unknown,
            4 => Self::CannotAdmit,
            5 => Self::Busy,
            6 => Self::BadRequest,
            7 => Self::KeyInUse,
            8 => Self::Failed,
            _ => Self::Other,
        }
    }
}

impl From<Refusal> for u8 {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Used => 0,
            Refusal::Expired => 1,
            Refusal::Closed => 2,
            Refusal::Unknown => 3,
            Refusal::CannotAdmit => 4,
            Refusal::Busy => 5,
            Refusal::BadRequest => 6,
            Refusal::KeyInUse => 7,
            Refusal::Failed => 8,
            Refusal::Other => 255,
        }
    }
}
