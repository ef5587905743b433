//! From logs to roster, rule by rule (PROTOCOL.md's R1–R7, R9 and R10).
//!
//! * **R1** Root's ops count up to its first fork; a fork is an alarm for ever.
//! * **R2** An admin's ops count up to its first fork; where root cut it, only the ancestors of the
//!   cut hash count, fork or not. Cut twice: what both cuts leave. While the op at the cut is
//!   missing here nothing it allowed counts.
//! * **R3** What allows counts only there. **R4** `Revoke` and `InviteClose` count wherever they
//!   were signed; of a cut admin only inside its cut chain.
//! * **R5** A device is live by an effective, begun, unexpired Grant and no effective Revoke. Of
//!   several Grants the last of each admin counts, and among admins the one of the latest time.
//! * **R6** Grants for two devices with one invite void one another.
//! * **R7** Two live devices with one tunnel key are both refused, and a tunnel key that a revoked
//!   device or an invite had is dead. The older device (`not_before`, then id) keeps a name or an
//!   IPv4 address.
//! * **R9** Ops of unknown kinds mean nothing here; a critical one stops this device's pen.
//! * **R10** Beyond a bound the newest is left out, and an alarm raised.
//!
//! Keys die for ever: an admin key that was cut is no admin again, and a revoked device stays out
//! whatever is granted later. So what is taken away only grows, and merge order cannot matter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::certificate::Certificate;
use super::invite::{InviteId, InviteOpen};
use super::log::Logs;
use super::op::{Author, Genesis, Op, OpBody, OpId};
use super::policy::DeviceName;
use super::reign::Reign;
use super::roster::{Alarm, InviteState, MAX_MEMBERS, MAX_OPEN_INVITES, Member, Roster, Standing};
use super::time::UnixTime;
use crate::identity::address::overlay_ipv6;
use crate::identity::{AdminId, DeviceId, Ipv4Pool, WgPublicKey};

/// How long before its `not_before` a Grant counts, in seconds: a day, so that a host whose clock
/// is some hours behind (local time in the hardware clock) still knows who was just admitted. The
/// promise of a certificate is its end, not its beginning.
const CLOCK_SLACK: u64 = 86_400;

/// The state that the set of ops means at `now`.
pub(super) fn derive(genesis: &Genesis, logs: &Logs, now: UnixTime) -> Roster {
    let reign = Reign::read(genesis.root, logs);
    let mut acts = Acts::collect(&reign, logs);
    let ineffective = std::mem::take(&mut acts.ineffective);
    let mut draft = Draft::new(&acts, now);
    draft.roster.must_upgrade = reign.must_upgrade(logs);
    draft.alarms.extend(reign.alarms);
    if logs.has_refused() {
        draft.alarms.insert(Alarm::Full);
    }
    let used = draft.settle_used_invites();
    draft.settle_open_invites(&used);
    let live = draft.choose_grants(&used);
    let live = draft.drop_shared_keys(live);
    draft.seat(live, genesis, &reign.admins);

    let mut roster = draft.roster;
    roster.admins = reign.admins;
    roster.ineffective = ineffective;
    roster.alarms = draft.alarms.into_iter().collect();
    roster
}

/// What the admins did, as far as it counts (R3, R4).
#[derive(Default)]
struct Acts<'a> {
    /// By device; in the order of authors and `seq`.
    grants: BTreeMap<DeviceId, Vec<Grant<'a>>>,
    /// The first Revoke of each device, by time.
    revokes: BTreeMap<DeviceId, (UnixTime, OpId, &'a Op)>,
    /// Invites with the admin that opened them first, in the order of authors and `seq`.
    opened: Vec<(AdminId, &'a InviteOpen)>,
    closed: BTreeSet<InviteId>,
    ineffective: BTreeSet<OpId>,
}

/// A Grant that counts.
#[derive(Clone, Copy)]
struct Grant<'a> {
    id: OpId,
    op: &'a Op,
    certificate: &'a Certificate,
}

impl<'a> Acts<'a> {
    fn collect(reign: &Reign, logs: &'a Logs) -> Self {
        let mut acts = Self { ineffective: reign.ineffective.clone(), ..Self::default() };
        let mut known = BTreeSet::new();
        for op in logs.iter() {
            let Author::Admin(admin) = op.op().author else { continue };
            let Some(chain) = reign.chains.get(&admin) else {
                acts.ineffective.insert(op.id());
                continue;
            };
            let denial = op.op().body.is_denial();
            if !(if denial { chain.denies(op) } else { chain.allows(op) }) {
                acts.ineffective.insert(op.id());
                continue;
            }
            match &op.op().body {
                OpBody::Grant(certificate) => {
                    let grant = Grant { id: op.id(), op: op.op(), certificate };
                    acts.grants.entry(certificate.id).or_default().push(grant);
                }
                OpBody::Revoke { device, .. } => {
                    let revoke = (op.op().time, op.id(), op.op());
                    let first = acts.revokes.entry(*device).or_insert(revoke);
                    if (revoke.0, revoke.1) < (first.0, first.1) {
                        *first = revoke;
                    }
                }
                OpBody::InviteOpen(invite) if known.insert(invite.invite) => {
                    acts.opened.push((admin, invite));
                }
                OpBody::InviteClose { invite } => {
                    acts.closed.insert(*invite);
                }
                _ => {}
            }
        }
        acts
    }
}

/// The devices that came with each invite.
type UsedInvites = BTreeMap<InviteId, BTreeSet<DeviceId>>;

/// A roster in the making.
struct Draft<'a> {
    acts: &'a Acts<'a>,
    now: UnixTime,
    roster: Roster,
    alarms: BTreeSet<Alarm>,
}

impl<'a> Draft<'a> {
    fn new(acts: &'a Acts<'a>, now: UnixTime) -> Self {
        Self { acts, now, roster: Roster::default(), alarms: BTreeSet::new() }
    }

    /// R6: which devices came with which invite; more than one void one another.
    fn settle_used_invites(&mut self) -> UsedInvites {
        let mut used = UsedInvites::new();
        for grant in self.acts.grants.values().flatten() {
            if let Some(invite) = grant.certificate.invite {
                used.entry(invite).or_default().insert(grant.certificate.id);
            }
        }
        for (invite, devices) in &used {
            let devices: Vec<_> = devices.iter().copied().collect();
            let state = match devices.as_slice() {
                [only] => InviteState::Used(*only),
                _ => {
                    self.alarms.insert(Alarm::InviteReused(*invite, devices.clone()));
                    InviteState::Reused(devices)
                }
            };
            self.roster.invites.insert(*invite, state);
        }
        used
    }

    /// What became of the invites that nobody came with.
    fn settle_open_invites(&mut self, used: &UsedInvites) {
        for (admin, invite) in &self.acts.opened {
            if used.contains_key(&invite.invite) {
                continue;
            }
            let state = if self.acts.closed.contains(&invite.invite) {
                InviteState::Closed
            } else if invite.expires <= self.now {
                InviteState::Expired
            } else {
                self.changes_at(invite.expires);
                let open = self.roster.open_invites.entry(*admin).or_default();
                *open += 1;
                if *open > MAX_OPEN_INVITES {
                    self.alarms.insert(Alarm::Full);
                    InviteState::Closed
                } else {
                    InviteState::Open(Box::new((*invite).clone()))
                }
            };
            self.roster.invites.insert(invite.invite, state);
        }
    }

    /// R5, R6: the one Grant by which each device is live, if any.
    fn choose_grants(&mut self, used: &UsedInvites) -> Vec<Grant<'a>> {
        let acts = self.acts;
        for (device, (at, _, op)) in &acts.revokes {
            if let (Author::Admin(by), OpBody::Revoke { reason, .. }) = (op.author, &op.body) {
                let reason = reason.clone();
                self.leave_out(*device, Standing::Revoked { by, at: *at, reason });
            }
        }
        let mut live = Vec::new();
        for (device, grants) in &acts.grants {
            if let Some(newest) = newest(grants.iter().copied()) {
                self.roster.granted_names.insert(*device, newest.certificate.name.clone());
            }
            if acts.revokes.contains_key(device) {
                continue;
            }
            match self.choose_grant(grants, used) {
                Ok(grant) => live.push(grant),
                Err(standing) => self.leave_out(*device, standing),
            }
        }
        live
    }

    fn choose_grant(
        &mut self,
        grants: &[Grant<'a>],
        used: &UsedInvites,
    ) -> Result<Grant<'a>, Standing> {
        let now = self.now;
        let reused = |invite| used.get(&invite).is_some_and(|devices| devices.len() > 1);
        let valid = || grants.iter().filter(|g| !g.certificate.invite.is_some_and(reused)).copied();
        let begins = |grant: &Grant<'_>| grant.certificate.not_before.minus(CLOCK_SLACK);
        let Some(next) = newest(valid()) else {
            return Err(Standing::Refused("its invite was used by two devices".to_owned()));
        };
        self.roster.granted_ipv4.extend(next.certificate.ipv4);
        if let Some(next) = valid().map(|grant| begins(&grant)).filter(|at| *at > now).min() {
            self.changes_at(next);
        }
        let Some(grant) = newest(valid().filter(|grant| begins(grant) <= now)) else {
            let begins = next.certificate.not_before;
            return Err(Standing::Refused(format!("its certificate begins at {begins}")));
        };
        let ends = grant.certificate.not_after;
        if ends <= self.now {
            return Err(Standing::Expired { at: ends });
        }
        self.changes_at(ends);
        Ok(grant)
    }

    /// R7: leaves out devices with a tunnel key that another live one has, or that is dead.
    fn drop_shared_keys(&mut self, live: Vec<Grant<'a>>) -> Vec<Grant<'a>> {
        let mut holders: BTreeMap<WgPublicKey, u32> = BTreeMap::new();
        for grant in &live {
            *holders.entry(grant.certificate.wg).or_default() += 1;
        }
        let revoked = self.acts.revokes.keys().filter_map(|id| self.acts.grants.get(id)).flatten();
        let guests = self.acts.opened.iter().map(|(_, invite)| invite.gk);
        let dead: BTreeSet<_> = revoked.map(|grant| grant.certificate.wg).chain(guests).collect();

        let mut kept = Vec::with_capacity(live.len());
        for grant in live {
            let Certificate { id, wg, .. } = grant.certificate;
            let reason = if holders.get(wg).is_some_and(|holders| *holders > 1) {
                self.alarms.insert(Alarm::DuplicateWgKey(*wg));
                "another device has the same WireGuard key"
            } else if dead.contains(wg) {
                "its WireGuard key belonged to a removed device or to an invite"
            } else {
                kept.push(grant);
                continue;
            };
            self.leave_out(*id, Standing::Refused(reason.to_owned()));
        }
        kept
    }

    /// R7, R10: gives every live device its name and address, the oldest first.
    fn seat(
        &mut self,
        mut live: Vec<Grant<'a>>,
        genesis: &Genesis,
        admins: &BTreeMap<AdminId, DeviceId>,
    ) {
        let (network, pool) = (genesis.network_id(), genesis.pool());
        let admins: BTreeMap<_, _> = admins.iter().map(|(admin, device)| (device, admin)).collect();
        live.sort_by_key(|grant| (grant.certificate.not_before, grant.certificate.id));
        for late in live.split_off(live.len().min(MAX_MEMBERS)) {
            self.alarms.insert(Alarm::Full);
            let why = format!("the network has {MAX_MEMBERS} older members");
            self.leave_out(late.certificate.id, Standing::Refused(why));
        }
        let names = shown_names(&live);
        for (grant, name) in live.into_iter().zip(names) {
            let certificate = grant.certificate;
            let id = certificate.id;
            let ipv6 = overlay_ipv6(&network, &id);
            let ipv4 = certificate.ipv4.filter(|ip| is_host(pool, *ip) && self.claim(*ip, id));
            self.roster.by_address.entry(ipv6.into()).or_insert(id);
            self.roster.by_wg.insert(certificate.wg, id);
            self.roster.by_name.entry(name.clone()).or_insert(id);
            let member = Member {
                id,
                wg: certificate.wg,
                name,
                ipv4,
                ipv6,
                routes: certificate.routes.clone(),
                flags: certificate.flags,
                admin: admins.get(&id).map(|admin| **admin),
                not_before: certificate.not_before,
                not_after: certificate.not_after,
                grant: grant.id,
                invite: certificate.invite,
            };
            self.roster.members.insert(id, member);
        }
    }

    /// Whether `id` is the first to have the address.
    fn claim(&mut self, ipv4: Ipv4Addr, id: DeviceId) -> bool {
        *self.roster.by_address.entry(IpAddr::V4(ipv4)).or_insert(id) == id
    }

    fn leave_out(&mut self, device: DeviceId, standing: Standing) {
        self.roster.gone.insert(device, standing);
    }

    /// Notes that time alone changes the roster at `at`.
    fn changes_at(&mut self, at: UnixTime) {
        let next = self.roster.next_change.get_or_insert(at);
        *next = at.min(*next);
    }
}

/// Of Grants in the order of authors and `seq` the last of each author, and of these the one of the
/// latest time. A later act of the same admin wins whatever its clock said.
fn newest<'a>(grants: impl Iterator<Item = Grant<'a>>) -> Option<Grant<'a>> {
    let last: BTreeMap<Author, Grant<'a>> = grants.map(|grant| (grant.op.author, grant)).collect();
    last.into_values().max_by_key(|grant| (grant.op.time, grant.id))
}

/// What live devices are called, in their order: the first keeps its name, and every later one of
/// the same name gets as much of its key as makes it the only one.
fn shown_names(live: &[Grant<'_>]) -> Vec<DeviceName> {
    let mut taken: BTreeSet<DeviceName> = BTreeSet::new();
    let firsts: Vec<bool> =
        live.iter().map(|grant| taken.insert(grant.certificate.name.clone())).collect();
    let shown = live.iter().zip(firsts).map(|(grant, first)| {
        let (name, key) = (&grant.certificate.name, grant.certificate.id.to_string());
        if first {
            return name.clone();
        }
        let longer = (4..=key.len()).step_by(4).filter_map(|len| name.with_suffix(&key[..len]));
        let mut last = name.clone();
        for candidate in longer {
            last = candidate;
            if taken.insert(last.clone()) {
                break;
            }
        }
        last
    });
    shown.collect()
}

/// Whether `ipv4` is an address of the pool that a device may have.
fn is_host(pool: Option<Ipv4Pool>, ipv4: Ipv4Addr) -> bool {
    pool.is_some_and(|pool| pool.holds_host(ipv4))
}
