//! Who asks to be let in, and the words it says at each step.

use super::attempt::{Attempt, Step};
use super::event::JoinerKeys;
use crate::membership::op::bind;
use crate::membership::{DeviceName, Invite, InviteKeys};
use crate::mesh::key::PeerKey;
use crate::wire::control::join::{JoinClaim, JoinHello, JoinProve, JoinRequest, JoinScene};
use crate::wire::control::{Control, Nonce};

/// The device of one join, the same towards every sponsor.
pub(super) struct Claimant {
    /// The invite it holds.
    pub(super) invite: Invite,
    /// What follows from the invite.
    pub(super) derived: InviteKeys,
    /// Its own keys.
    pub(super) keys: JoinerKeys,
    /// The name it asks for.
    pub(super) name: DeviceName,
    /// Tells this join from others.
    pub(super) nonce: Nonce,
}

impl Claimant {
    /// The message of the attempt's step, and the tunnel it goes through; `None` where the step
    /// waits for something else than an answer.
    pub(super) fn message(&self, guest: PeerKey, attempt: &Attempt) -> Option<(PeerKey, Control)> {
        let invite = self.derived.id;
        match attempt.step {
            Step::Hello => {
                Some((guest, Control::JoinHello(JoinHello { invite, nonce: self.nonce })))
            }
            Step::Request { nonce, .. } => {
                let scene = JoinScene {
                    sponsor: attempt.sponsor,
                    guest_nonce: self.nonce,
                    sponsor_nonce: nonce,
                };
                Some((guest, Control::JoinRequest(Box::new(self.request(&scene)))))
            }
            Step::Prove { peer, .. } | Step::Granted { peer } => {
                let (id, have) = (self.keys.id.public(), attempt.have);
                Some((peer, Control::JoinProve(JoinProve { invite, id, have })))
            }
            Step::Queued | Step::Switch { .. } => None,
        }
    }

    fn request(&self, scene: &JoinScene) -> JoinRequest {
        let network = &self.invite.network;
        let claim = JoinClaim {
            invite: self.derived.id,
            id: self.keys.id.public(),
            wg: self.keys.wg,
            admin: self.keys.admin,
            name: self.name.clone(),
            bind_sig: bind(&self.keys.id, &self.keys.wg, network),
        };
        JoinRequest::sign(claim, scene, network, &self.derived.ik, &self.keys.id)
    }
}
