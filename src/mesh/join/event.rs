//! What the two machines and their owner tell one another.

use super::offer::Shown;
use crate::api::{self, Stage};
use crate::identity::{AdminId, DeviceId, IdSecret, NetworkId, Signature, WgPublicKey};
use crate::membership::{DeviceName, InviteId, SignedOp, UnixTime, Unverified};
use crate::mesh::key::PeerKey;
use crate::wire::record::NetworkSecret;

/// Who this device is, as a sponsor.
#[derive(Debug, Clone)]
pub struct SponsorIdentity {
    /// The network.
    pub network: NetworkId,
    /// Its genesis in its wire form.
    pub genesis: Vec<u8>,
    /// This device.
    pub device: DeviceId,
    /// Its WireGuard key.
    pub wg: WgPublicKey,
    /// The key of its log, where it is an admin.
    pub admin: Option<AdminId>,
}

/// Under which key a message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The guest key of that invite.
    Guest(InviteId),
    /// A device's own WireGuard key, a candidate's or a member's.
    Device(WgPublicKey),
}

/// A guest key that this device answers, for control messages only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The invite.
    pub invite: InviteId,
    /// Its guest key.
    pub gk: WgPublicKey,
    /// Its rendezvous secret.
    pub rv: [u8; 32],
    /// Whether it may still admit a device, so that the rendezvous shall be kept.
    pub open: bool,
    /// When it ends.
    pub expires: UnixTime,
}

/// What the owner shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SponsorEvent {
    /// Answer handshakes of this WireGuard key, for control messages only; the device is where the
    /// guest is.
    Candidate {
        /// The guest that asked.
        guest: PeerKey,
        /// The new WireGuard key.
        wg: WgPublicKey,
    },
    /// Answer that key no more, unless it has become a member's.
    Forget(WgPublicKey),
    /// Write a `Grant`, on disk, then call [`Sponsor::granted`](super::Sponsor::granted) or [`Sponsor::failed`](super::Sponsor::failed).
    Admit(Box<Admission>),
}

/// A device that proved everything there is to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The tunnel of its own key.
    pub peer: PeerKey,
    /// By which invite.
    pub invite: InviteId,
    /// The device.
    pub id: DeviceId,
    /// Its WireGuard key.
    pub wg: WgPublicKey,
    /// The key of its log, where the invite is for an admin.
    pub admin: Option<AdminId>,
    /// A name that nobody has; the owner calls [`unique_name`](super::unique_name) again if other Grants came between.
    pub name: DeviceName,
    /// For the certificate.
    pub bind_sig: Signature,
}

/// The keys of the device that joins; kept by the owner, so that a later try is the same device.
#[derive(Debug, Clone)]
pub struct JoinerKeys {
    /// The permanent key.
    pub id: IdSecret,
    /// The public half of its WireGuard key.
    pub wg: WgPublicKey,
    /// The key of its log, where the invite is for an admin.
    pub admin: Option<AdminId>,
}

/// What the owner shall do or tell.
#[derive(Debug)]
pub enum JoinerEvent {
    /// A stage was reached, with a sentence for people; each stage once, in order.
    Stage(Stage, String),
    /// The sponsor proved the network: keep the genesis, insert the ops.
    Verified(Box<Shown>),
    /// Start a tunnel with the new WireGuard key to the device at the other end of `guest`, where
    /// that one is reached; once it stands, call [`Joiner::switched`](super::Joiner::switched).
    Switch {
        /// The tunnel under the guest key; it is needed until then, and if this fails.
        guest: PeerKey,
        /// The sponsor's WireGuard key.
        sponsor: WgPublicKey,
    },
    /// The sponsor says that the Grant is written. The tunnel of the new key may now be used like a
    /// member's; the guest's is of no more use.
    Granted {
        /// The tunnel under the guest key.
        guest: PeerKey,
        /// The tunnel of the new key.
        peer: PeerKey,
        /// The sponsor.
        sponsor: DeviceId,
    },
    /// Ops of the sponsor, to verify and insert; then call [`Joiner::roster_changed`](super::Joiner::roster_changed).
    Ops(Vec<Unverified<SignedOp>>),
    /// The network's secret.
    Secret(NetworkSecret),
    /// This guest tunnel, and the new key's at the same sponsor, are of no more use.
    Abandon(PeerKey),
    /// It did not work. Nothing follows.
    Failed(api::Error),
}
