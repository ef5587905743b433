//! Telling a device that it was removed.
//!
//! While it is connected it is told before its tunnel ends. Whoever was away when it happened comes
//! back as a stranger; but its key is one we know, so it is let in once, to nothing but its own
//! `Revoke`, and then the tunnel ends. The op is signed, so that the device need not believe us.

use std::time::Instant;

use super::peer::Who;
use super::tags::Caller;
use super::*;
use crate::identity::DeviceId;
use crate::membership::roster::Standing;
use crate::membership::{OpBody, SignedOp, Unverified, Verified};
use crate::wire::control::{Control, OpBytes, Ops};

/// How many removed devices are told, the latest first: a check key is kept for each.
const TOLD: usize = 64;

impl Mesh {
    /// Which removed devices may call to hear that they are.
    pub(super) fn expect_removed(&mut self, now: Instant) {
        let mut removed: Vec<_> = self.ledger.roster().gone().filter_map(removal).collect();
        removed.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        removed.truncate(TOLD);
        let mut callers = Vec::new();
        for (_, device) in removed {
            if !self.told_removed.contains(&device)
                && let Some(remote) = self.last_key(&device)
                && self.ledger.roster().by_wg(&remote).is_none()
            {
                callers.push(Caller { who: Who::Removed(device), remote });
            }
        }
        let stale: Vec<_> = self
            .tags
            .callers()
            .filter(|caller| matches!(caller.who, Who::Removed(_)) && !callers.contains(caller))
            .copied()
            .collect();
        stale.iter().for_each(|caller| self.forbid(caller, now));
        callers.into_iter().for_each(|caller| self.allow(caller));
    }

    /// The peer of a removed device that was not told yet and rings.
    pub(super) fn bring_removed(&mut self, device: &DeviceId, now: Instant) -> Option<PeerKey> {
        let who = Who::Removed(*device);
        let caller = self.tags.callers().find(|caller| caller.who == who).copied()?;
        self.bring(caller, now)
    }

    /// A removed device said something: it hears why nobody answers, and no more.
    pub(super) fn dismiss(&mut self, key: PeerKey, device: DeviceId, now: Instant) {
        self.tell_removal(key, &device, now);
        if let Some(peer) = self.peers.get(key) {
            let caller = Caller { who: peer.who, remote: peer.remote };
            self.told_removed.insert(device);
            self.forbid(&caller, now);
        }
    }

    /// Sends the ops that removed a device to it.
    pub(super) fn tell_removal(&mut self, key: PeerKey, device: &DeviceId, now: Instant) {
        let denials: Vec<_> = self
            .ledger
            .logs()
            .iter()
            .filter(|op| is_removal(op, device))
            .map(|op| op.signed().encode())
            .collect();
        for op in denials {
            let ops = Ops { reply: None, ops: vec![OpBytes(op)] };
            self.tell(key, &Control::Ops(ops), now);
        }
    }

    /// Ops from a peer that has not proved itself: only the removal of this very device counts,
    /// which proves itself.
    pub(super) fn hear_removal(&mut self, ops: &Ops, now: Instant) {
        let this = self.me.identity.id.public();
        let network = *self.ledger.network();
        let mine = ops.ops.iter().filter_map(|wire| SignedOp::decode(&wire.0).ok());
        let mine: Vec<Unverified<SignedOp>> = mine
            .filter(|op| op.clone().verify(&network).is_ok_and(|op| is_removal(&op, &this)))
            .collect();
        if !mine.is_empty() {
            self.take_ops(mine, None, now);
        }
    }

    /// The WireGuard key of the last certificate of a device.
    fn last_key(&self, device: &DeviceId) -> Option<crate::identity::WgPublicKey> {
        let grants = self.ledger.logs().iter().filter_map(|op| match &op.op().body {
            OpBody::Grant(certificate)
                if certificate.id == *device && self.ledger.roster().is_effective(&op.id()) =>
            {
                Some((certificate.not_after, certificate.wg))
            }
            _ => None,
        });
        grants.max().map(|(_, wg)| wg)
    }
}

fn removal((device, standing): (&DeviceId, &Standing)) -> Option<(UnixTime, DeviceId)> {
    match standing {
        Standing::Revoked { at, .. } => Some((*at, *device)),
        Standing::Live | Standing::Expired { .. } | Standing::Refused(_) | Standing::Unknown => {
            None
        }
    }
}

fn is_removal(op: &Verified<SignedOp>, device: &DeviceId) -> bool {
    matches!(&op.op().body, OpBody::Revoke { device: removed, .. } if removed == device)
}
