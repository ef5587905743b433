//! Telling a device that it was removed.
//!
//! While it is connected it is told before its tunnel ends. Whoever was away when it happened comes
//! back as a stranger; but its key is one we know, so it is let in once, to nothing but its own
//! `Revoke`, and then the tunnel ends. The op is signed, so that the device need not believe us.

use std::collections::BTreeMap;
use std::time::Instant;

use super::peer::Who;
use super::tags::Caller;
use super::*;
use crate::identity::{DeviceId, WgPublicKey};
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
        let removed = removed.into_iter().map(|(_, device)| device);
        let untold = removed.filter(|device| !self.told_removed.contains(device)).collect();
        let mut callers = Vec::new();
        for (device, remote) in self.last_keys(&untold) {
            if self.ledger.roster().by_wg(&remote).is_none() {
                callers.push(Caller { who: Who::Removed(device), remote });
            }
        }
        let stale: Vec<_> = self
            .tags
            .guests()
            .filter(|caller| matches!(caller.who, Who::Removed(_)) && !callers.contains(caller))
            .copied()
            .collect();
        stale.iter().for_each(|caller| self.forbid(caller, now));
        callers.into_iter().for_each(|caller| self.allow(caller));
    }

    /// The peer of a removed device that was not told yet and rings.
    pub(super) fn bring_removed(&mut self, device: &DeviceId, now: Instant) -> Option<PeerKey> {
        let who = Who::Removed(*device);
        let caller = self.tags.guests().find(|caller| caller.who == who).copied()?;
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

    /// The WireGuard keys of the last certificates of these devices.
    fn last_keys(&self, devices: &BTreeSet<DeviceId>) -> BTreeMap<DeviceId, WgPublicKey> {
        let mut last: BTreeMap<DeviceId, (UnixTime, WgPublicKey)> = BTreeMap::new();
        if devices.is_empty() {
            return BTreeMap::new();
        }
        for op in self.ledger.logs().iter() {
            let OpBody::Grant(certificate) = &op.op().body else { continue };
            let key = (certificate.not_after, certificate.wg);
            if devices.contains(&certificate.id)
                && self.ledger.roster().is_effective(&op.id())
                && last.get(&certificate.id).is_none_or(|known| *known < key)
            {
                last.insert(certificate.id, key);
            }
        }
        last.into_iter().map(|(device, (_, wg))| (device, wg)).collect()
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
