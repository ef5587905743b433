//! After a start, user data waits until this device has heard whom it must no longer talk to, and
//! an admin signs nothing until another device has shown what it knows.
//!
//! A device that was off may hold a roster from before a removal. So it first compares heads with
//! an admin, or with two members (or with all there are); until then its tunnels carry control
//! only. When nobody answers within five seconds it goes on with what it knows: a network must not
//! stand still because the admin sleeps.
//!
//! An admin that was restored from a backup may hold a shorter log of its own than others do. An op
//! signed on it would fork the log, which ends the admin's word for good. So it signs only after its
//! log was compared with one member, however long that takes, or when the human vouches for it
//! (`--offline`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::peer::Peer;
use super::*;
use crate::api::Response;
use crate::forward::{Carries, PeerSlot};

/// How long user data waits at most.
const HOLD: Duration = Duration::from_secs(5);

/// How many members must agree where no admin is there.
const WITNESSES: usize = 2;

impl Mesh {
    /// A start from disk: user data waits, where there is anybody to ask.
    pub(super) fn hold_user_data(&mut self, now: Instant) {
        if self.others().next().is_some() {
            self.me.holding = true;
            self.me.may_be_stale = true;
            self.deadlines.set(Timer::Hold, Some((now + HOLD, "user data waits long enough")));
        }
    }

    /// Does what an admin asks; where the human vouches for the log and the act is signed, for it and
    /// for what follows from it, as an invite's admission does.
    pub(super) fn vouched(
        &mut self,
        vouches: bool,
        act: impl FnOnce(&mut Self) -> Option<Response>,
    ) -> Option<Response> {
        let stale = self.me.may_be_stale;
        self.me.may_be_stale &= !vouches;
        let refused = act(self);
        self.me.may_be_stale |= stale && refused.is_some();
        refused
    }

    /// Lets user data go once enough members were asked.
    pub(super) fn check_fresh(&mut self, now: Instant) {
        if !self.me.holding && !self.me.may_be_stale {
            return;
        }
        let roster = self.ledger.roster();
        let proven = self.peers.iter().filter(|peer| peer.greeting.is_proven());
        let compared = proven.filter_map(Peer::device).filter(|d| self.gossip.is_compared(d));
        let compared: Vec<_> = compared.filter_map(|device| roster.get(&device)).collect();
        let enough = WITNESSES.min(roster.len().saturating_sub(1));
        self.me.may_be_stale &= compared.is_empty();
        let vouched = compared.iter().any(|member| member.admin.is_some());
        if self.me.holding && (compared.len() >= enough || vouched) {
            self.release_user_data(now);
        }
    }

    /// From here on tunnels carry user data.
    pub(super) fn release_user_data(&mut self, now: Instant) {
        self.me.holding = false;
        self.deadlines.set(Timer::Hold, None);
        let members: Vec<_> = self.peers.iter().filter(|p| p.device().is_some()).collect();
        let keys: Vec<_> = members.iter().map(|peer| peer.key).collect();
        for key in keys {
            let Some(peer) = self.peers.touch(key) else { continue };
            let allowed = peer.slot.allowed.clone();
            let slot = PeerSlot::succeeding(&peer.slot, allowed, Carries::Everything);
            peer.slot = Arc::new(slot);
            self.peers.note_slots_changed();
            self.send_waiting(key, now);
        }
    }
}
