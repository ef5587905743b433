//! Who belongs changed: what follows from it here.
//!
//! A roster is derived whole, O(n log n) in the ops. Whatever takes something away is enforced with
//! the op that says so. What only lets somebody in may wait for a moment, so that a device which
//! catches up with a long log, a few ops at a time, does not derive ten thousand members three
//! thousand times.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::peer::{Who, allowed_sources};
use super::tags::Caller;
use super::*;
use crate::forward::PeerSlot;
use crate::identity::{DeviceId, WgPublicKey};
use crate::membership::{OpId, SignedOp, Verified};
use crate::wire::stun::CheckKey;

/// How long the next derivation of a roster that only grew waits, for each member: ten times what it
/// takes, so that catching up is mostly something else.
const PAUSE_EACH: Duration = Duration::from_micros(10);

impl Mesh {
    /// These ops are new in the logs.
    pub(super) fn ops_came(&mut self, new: &[OpId], now: Instant) {
        let logs = self.ledger.logs();
        let takes = |op: &Verified<SignedOp>| gossip::serve::is_denial(op);
        let denied = new.iter().filter_map(|id| logs.get(*id)).any(takes);
        let members = u32::try_from(self.ledger.roster().len()).unwrap_or(u32::MAX);
        let from = self.derived + PAUSE_EACH * members;
        if denied || from <= now {
            return self.roster_changed(now);
        }
        let due = self.deadlines.get(&Timer::Roster).map_or(from, |at| at.min(from));
        self.deadlines.set(Timer::Roster, Some((due, "members came")));
    }

    /// The set of ops or the time changed: who belongs follows, and is enforced at once.
    pub(super) fn roster_changed(&mut self, now: Instant) {
        self.derived = now;
        let unix = self.unix(now);
        let changes = self.ledger.derive(unix);
        for member in &changes.removed {
            self.send_last_word(&member.id, now);
            self.forbid(&caller(member), now);
            self.directory.forget(&member.id, now);
            self.reach.forget_observer(&member.id, now);
            self.peers.forget(&member.id);
        }
        for member in &changes.altered {
            self.member_altered(member, now);
        }
        if !changes.added.is_empty() {
            self.tags.note_member();
        }
        self.expect_removed(now);
        self.sync_invites(now);
        self.refresh_state(now);
        if !changes.added.is_empty() || !changes.removed.is_empty() {
            self.choose_neighbours(now);
        }
        let next = self.ledger.roster().next_change();
        let due = next.map(|at| (self.wall.instant(at, now), "a certificate or invite changes"));
        self.deadlines.set(Timer::Roster, due);
    }

    /// A member is not as it was `before`. Only another tunnel key ends its tunnels: a certificate that
    /// was renewed, or another address, is no reason to make them anew on every device at once.
    fn member_altered(&mut self, before: &Member, now: Instant) {
        if before.id == self.me.identity.id.public() {
            return;
        }
        let Some(member) = self.ledger.roster().get(&before.id) else { return };
        if member.wg != before.wg {
            self.forbid(&caller(before), now);
            return self.tags.note_member();
        }
        let allowed = allowed_sources(member);
        let keys: Vec<_> = self.peers.of(&Who::Member(before.id)).map(|peer| peer.key).collect();
        for key in keys {
            let Some(peer) = self.peers.touch(key) else { continue };
            if peer.slot.allowed != allowed {
                let carries = peer.slot.carries;
                peer.slot = Arc::new(PeerSlot::succeeding(&peer.slot, allowed.clone(), carries));
                self.peers.note_slots_changed();
            }
        }
    }

    /// Who may send handshakes under this WireGuard key.
    pub(super) fn caller(&self, remote: &WgPublicKey) -> Option<Caller> {
        let member = self.ledger.roster().by_wg(remote).map(caller);
        member.filter(|caller| self.may_call(caller)).or_else(|| self.tags.guest(remote))
    }

    /// Whether `caller` may send checks and handshakes: a member, or whoever was allowed beside them.
    pub(super) fn may_call(&self, caller: &Caller) -> bool {
        let Who::Member(device) = caller.who else { return self.tags.has_guest(caller) };
        let member = self.ledger.roster().get(&device).filter(|_| is_in(&self.joins));
        device != self.me.identity.id.public()
            && member.is_some_and(|member| member.wg == caller.remote)
    }

    /// `caller`, who is no member, may send checks and handshakes from now on.
    pub(super) fn allow(&mut self, caller: Caller) {
        if self.tags.has_guest(&caller) {
            return;
        }
        match (caller.who, &self.joins) {
            (Who::Sponsor, Joins::Joiner(joiner)) => {
                if let Some(key) = CheckKey::derive(joiner.guest_secret(), &caller.remote) {
                    self.tags.insert_sponsor(caller, key);
                }
            }
            (Who::Sponsor, Joins::Sponsor(_)) => {}
            _ => self.tags.insert(caller),
        }
    }

    /// `caller` is nobody any more: its tunnel ends at once.
    pub(super) fn forbid(&mut self, caller: &Caller, now: Instant) {
        self.tags.remove(caller);
        let keys: Vec<_> = self
            .peers
            .of(&caller.who)
            .filter(|peer| peer.remote == caller.remote)
            .map(|peer| peer.key)
            .collect();
        keys.into_iter().for_each(|key| self.drop_peer(key, now));
    }

    /// A device that was removed is told so, if there is a tunnel, before the tunnel ends.
    fn send_last_word(&mut self, device: &DeviceId, now: Instant) {
        if let Some(key) = self.peers.member(device) {
            self.tell_removal(key, device, now);
        }
    }
}

/// The members that may send checks to this device.
pub(super) fn members_but<'a>(
    me: &Me,
    ledger: &'a Ledger,
    joins: &Joins,
) -> impl Iterator<Item = Caller> + use<'a> {
    let (is_in, this) = (is_in(joins), me.identity.id.public());
    let members = ledger.roster().members();
    members.filter(move |member| is_in && member.id != this).map(caller)
}

/// Until it is in, a device talks to who lets it in, and to nobody under two names. Once it is, all
/// members are allowed.
fn is_in(joins: &Joins) -> bool {
    matches!(joins, Joins::Sponsor(_))
}

fn caller(member: &Member) -> Caller {
    Caller { who: Who::Member(member.id), remote: member.wg }
}
