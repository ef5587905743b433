//! From logs to roster, rule by rule (R1–R7, R9 and R10).
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

#[cfg(test)]
mod tests {
    use super::super::certificate::bind;
    use super::super::fixture::{
        Dice, NOW, SignedAct, World, admin, cut, cut_whole, device, id_secret, insert_all, revoke,
        wg_secret,
    };
    use super::super::op::{SignedOp, Verified};
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn a_grant_makes_a_member_with_the_addresses_that_are_its_own() {
        let mut world = World::new(1);
        let grant = world.grants(2);
        let roster = world.roster();
        assert_eq!(live(&roster), [1, 2]);
        let member = roster.get(&device(2)).unwrap();
        assert_eq!(member.ipv6, overlay_ipv6(&world.network, &device(2)));
        assert_eq!(member.ipv4, Some([10, 71, 0, 2].into()));
        assert_eq!((member.name.as_str(), member.admin), ("device-2", None));
        assert_eq!((member.grant, roster.is_effective(&grant.id())), (grant.id(), true));
        assert_eq!(roster.get(&device(1)).unwrap().admin, Some(admin(1).public()));
        assert_eq!(roster.standing(&device(3)), Standing::Unknown);
        assert_eq!(roster.alarms(), []);
        assert!(
            roster.ipv4_taken([10, 71, 0, 2].into()) && !roster.ipv4_taken([10, 71, 0, 3].into())
        );
    }

    #[test]
    fn r1_a_fork_of_root_freezes_who_is_admin_and_alarms_for_ever() {
        let mut world = World::new(1);
        let add = |n| OpBody::AdminAdd { admin: admin(n).public(), device: device(n) };
        let author = Author::Root(world.root.public());
        let second = world.logs.next_op(author, NOW, add(2)).unwrap();
        let other = Op { body: add(3), ..second.clone() };
        for op in [second, other] {
            let op = SignedOp::sign_root(&op, &world.root, &world.network).unwrap();
            world.logs.insert(op).unwrap();
        }
        let roster = world.roster();
        assert_eq!(roster.alarms(), [Alarm::RootFork]);
        let admins = [1, 2, 3].map(|n| roster.is_admin(&admin(n).public()));
        assert_eq!(admins, [true, false, false]);
        assert_eq!(live(&roster), [1]);
    }

    #[test]
    fn r2_r4_past_a_fork_nothing_is_allowed_and_everything_denied() {
        let mut world = World::new(1);
        let first = world.logs.after(author(1), 1).next().unwrap().clone();
        let lost = world.grants(2);
        world.grants(3);
        world.opens(1, 1);
        assert_eq!(live(&world.roster()), [1, 2, 3]);
        let branch = world.branches(1, &first, revoke(1));
        let certificate = world.certificate(4);
        let branch = world.branches(1, &branch, OpBody::Grant(Box::new(certificate)));
        world.branches(1, &branch, revoke(3));
        let roster = world.roster();
        assert_eq!(roster.alarms(), [Alarm::AdminFork(admin(1).public())]);
        assert!(live(&roster).is_empty());
        assert!(matches!(roster.standing(&device(1)), Standing::Revoked { .. }));
        assert!(matches!(roster.standing(&device(3)), Standing::Revoked { .. }));
        assert_eq!(roster.standing(&device(2)), Standing::Unknown);
        assert_eq!(roster.standing(&device(4)), Standing::Unknown);
        assert_eq!(roster.open_invites().count(), 0);
        assert!(!roster.is_effective(&lost.id()));
    }

    #[test]
    fn r2_a_cut_undoes_all_but_what_leads_up_to_it_back_dated_acts_included() {
        let mut world = World::new(2);
        let good = world.does(2, grant(world.certificate(3)));
        world.does_at(2, UnixTime(1), grant(world.certificate(4)));
        world.does_at(2, UnixTime(1), revoke(1));
        assert_eq!(live(&world.roster()), [2, 3, 4]);
        let bad = world.branches(2, &good, revoke(3));
        world.root_does(cut(2, &good));
        let roster = world.roster();
        assert_eq!(live(&roster), [1, 2, 3]);
        assert_eq!(roster.alarms(), [], "a cut settles the fork");
        assert!(!roster.is_admin(&admin(2).public()));
        assert_eq!(roster.get(&device(2)).unwrap().admin, None);
        assert!(roster.is_effective(&good.id()) && !roster.is_effective(&bad.id()));
    }

    #[test]
    fn r2_a_cut_may_choose_either_branch_of_a_fork() {
        let mut world = World::new(2);
        let stem = world.does(2, grant(world.certificate(3)));
        world.does(2, grant(world.certificate(4)));
        let branch = world.branches(2, &stem, grant(world.certificate(5)));
        assert_eq!(live(&world.roster()), [1, 2, 3]);
        world.root_does(cut(2, &branch));
        assert_eq!(live(&world.roster()), [1, 2, 3, 5]);
        world.root_does(cut(2, &stem));
        assert_eq!(live(&world.roster()), [1, 2, 3], "what both cuts leave");
        world.root_does(cut_whole(2));
        assert_eq!(live(&world.roster()), [1, 2]);
    }

    #[test]
    fn r2_while_the_op_at_a_cut_is_missing_its_admin_allows_nothing() {
        let mut world = World::new(2);
        world.does(2, grant(world.certificate(3)));
        world.does(2, revoke(4));
        let last = world.does(2, grant(world.certificate(5)));
        let after = world.does(2, revoke(1));
        world.root_does(cut(2, &last));
        let ops: Vec<_> = all(&world).into_iter().filter(|op| op.id() != last.id()).collect();
        let mut logs = Logs::new(world.root.public());
        insert_all(&mut logs, &ops);
        let roster = Roster::derive(&world.genesis, &logs, NOW);
        assert_eq!(live(&roster), [1, 2]);
        assert!(matches!(roster.standing(&device(4)), Standing::Revoked { .. }));
        assert!(!roster.is_effective(&after.id()));
        logs.insert(last).unwrap();
        assert_eq!(live(&Roster::derive(&world.genesis, &logs, NOW)), [1, 2, 3, 5]);
    }

    #[test]
    fn a_cut_key_is_no_admin_again() {
        let mut world = World::new(1);
        let add = |n| OpBody::AdminAdd { admin: admin(n).public(), device: device(n) };
        world.root_does(cut_whole(2));
        world.root_does(add(2));
        world.root_does(add(3));
        world.root_does(cut_whole(3));
        world.root_does(add(3));
        world.root_does(OpBody::AdminAdd { admin: admin(1).public(), device: device(9) });
        world.does(2, grant(world.certificate(4)));
        let roster = world.roster();
        assert!(!roster.is_admin(&admin(2).public()) && !roster.is_admin(&admin(3).public()));
        assert_eq!(roster.admin_device(&admin(1).public()), Some(&device(1)));
        assert_eq!(live(&roster), [1]);
    }

    #[test]
    fn r5_a_revoke_is_for_ever_whatever_is_granted_before_or_after() {
        let mut world = World::new(2);
        world.does(2, revoke(3));
        world.grants(3);
        world.does_at(1, NOW.plus(DAY), grant(world.certificate(3)));
        let roster = world.roster();
        let (by, reason) = (admin(2).public(), "stolen".to_owned());
        assert_eq!(roster.standing(&device(3)), Standing::Revoked { by, at: NOW, reason });
        assert!(!roster.ipv4_taken([10, 71, 0, 3].into()));
        world.does_at(1, NOW.minus(DAY), revoke(3));
        let standing = world.roster().standing(&device(3));
        assert!(matches!(standing, Standing::Revoked { at, .. } if at == NOW.minus(DAY)));
    }

    #[test]
    fn r5_the_last_grant_of_an_admin_counts_whatever_its_clock_said() {
        let mut world = World::new(1);
        let renamed = Certificate { name: "nas".parse().unwrap(), ..world.certificate(2) };
        world.does_at(1, NOW.plus(100 * DAY), grant(world.certificate(2)));
        world.does_at(1, NOW, grant(renamed));
        assert_eq!(world.roster().get(&device(2)).unwrap().name.as_str(), "nas");
    }

    #[test]
    fn r5_of_two_admins_grants_the_later_counts() {
        let mut world = World::new(2);
        let named = |n: u8| Certificate {
            name: format!("name-{n}").parse().unwrap(),
            ..World::new(0).certificate(3)
        };
        world.does_at(2, NOW.plus(60), grant(named(2)));
        world.does_at(1, NOW, grant(named(1)));
        assert_eq!(world.roster().get(&device(3)).unwrap().name.as_str(), "name-2");
        world.does_at(1, NOW.plus(61), grant(named(3)));
        assert_eq!(world.roster().get(&device(3)).unwrap().name.as_str(), "name-3");
    }

    #[test]
    fn r5_certificates_end_to_the_second_and_begin_with_slack() {
        let mut world = World::new(1);
        let (begins, ends) = (NOW.plus(10 * DAY), NOW.plus(20 * DAY));
        let later = Certificate { not_before: begins, not_after: ends, ..world.certificate(2) };
        world.does(1, grant(later));
        let roster = world.roster();
        assert!(matches!(roster.standing(&device(2)), Standing::Refused(_)));
        assert_eq!(roster.next_change(), Some(NOW.plus(9 * DAY)));
        let roster = world.roster_at(NOW.plus(9 * DAY));
        assert_eq!((live(&roster), roster.next_change()), (vec![1, 2], Some(ends)));
        assert_eq!(live(&world.roster_at(ends.minus(1))), [1, 2]);
        let roster = world.roster_at(ends);
        assert_eq!((live(&roster), roster.next_change()), (vec![1], Some(NOW.plus(365 * DAY))));
        assert_eq!(roster.standing(&device(2)), Standing::Expired { at: ends });
    }

    #[test]
    fn a_renewal_that_has_not_begun_does_not_put_its_device_out() {
        let mut world = World::new(1);
        world.grants(2);
        let not_before = NOW.plus(100 * DAY);
        world.does(
            1,
            grant(Certificate {
                not_before,
                not_after: NOW.plus(600 * DAY),
                ..world.certificate(2)
            }),
        );
        for (days, ends) in [(0, 365), (99, 600), (400, 600)] {
            let roster = world.roster_at(NOW.plus(days * DAY));
            let member = roster.get(&device(2)).expect("it is live all the time");
            assert_eq!(member.not_after, NOW.plus(ends * DAY), "{days}");
        }
    }

    #[test]
    fn a_clock_at_1970_or_2099_lets_nobody_in() {
        let mut world = World::new(1);
        world.grants(2);
        world.opens(1, 1);
        for now in [UnixTime(0), UnixTime(4_070_908_800), UnixTime(u64::MAX)] {
            assert!(live(&world.roster_at(now)).is_empty());
        }
        assert_eq!(world.roster_at(UnixTime(0)).next_change(), Some(NOW.minus(DAY)));
        assert_eq!(world.roster_at(UnixTime(u64::MAX)).next_change(), None);
        assert_eq!(world.roster_at(UnixTime(u64::MAX)).open_invites().count(), 0);
    }

    #[test]
    fn r6_an_invite_used_by_two_devices_lets_neither_in_and_names_both() {
        let mut world = World::new(2);
        world.opens(1, 1);
        let invite = world.invite(1).id;
        let with = |n| grant(Certificate { invite: Some(invite), ..World::new(0).certificate(n) });
        world.does(1, with(3));
        let roster = world.roster();
        assert_eq!(live(&roster), [1, 2, 3]);
        assert_eq!(roster.invite(&invite), InviteState::Used(device(3)));
        assert_eq!(roster.open_invites().count(), 0);
        world.does(1, with(3));
        assert_eq!(live(&world.roster()), [1, 2, 3], "a renewal is the same device");

        world.does_at(2, NOW.plus(365 * DAY), with(4));
        let roster = world.roster();
        assert_eq!(live(&roster), [1, 2]);
        let mut both = vec![device(3), device(4)];
        both.sort();
        assert_eq!(roster.alarms(), [Alarm::InviteReused(invite, both.clone())]);
        assert_eq!(roster.invite(&invite), InviteState::Reused(both));
        assert!(matches!(roster.standing(&device(3)), Standing::Refused(_)));

        world.does(1, grant(world.certificate(3)));
        assert_eq!(live(&world.roster()), [1, 2, 3], "granted anew without the invite");
    }

    #[test]
    fn an_invite_is_open_until_it_is_used_closed_or_expired() {
        let mut world = World::new(2);
        for n in 1..=3 {
            world.opens(1, n);
        }
        let ids = [1, 2, 3, 4].map(|n| world.invite(n).id);
        world.does(1, grant(Certificate { invite: Some(ids[0]), ..world.certificate(3) }));
        world.does(2, OpBody::InviteClose { invite: ids[1] });
        let roster = world.roster();
        assert_eq!(roster.invite(&ids[0]), InviteState::Used(device(3)));
        assert_eq!(roster.invite(&ids[1]), InviteState::Closed);
        assert!(matches!(roster.invite(&ids[2]), InviteState::Open(open) if open.invite == ids[2]));
        assert_eq!(roster.invite(&ids[3]), InviteState::Unknown);
        assert_eq!(roster.open_invites().map(|open| open.invite).collect::<Vec<_>>(), [ids[2]]);
        assert_eq!(roster.next_change(), Some(NOW.plus(DAY)));
        let later = world.roster_at(NOW.plus(DAY));
        assert_eq!(later.invite(&ids[2]), InviteState::Expired);
        assert_eq!(world.roster_at(NOW.plus(360 * DAY)).open_invites().count(), 0);
        world.does(1, revoke(3));
        assert_eq!(world.roster().invite(&ids[0]), InviteState::Used(device(3)));
    }

    #[test]
    fn r7_two_devices_with_one_tunnel_key_are_both_refused() {
        let mut world = World::new(1);
        world.grants(2);
        world.does(1, grant(with_wg(&world, 3, wg_secret(2).public())));
        let roster = world.roster();
        assert_eq!(live(&roster), [1]);
        assert_eq!(roster.alarms(), [Alarm::DuplicateWgKey(wg_secret(2).public())]);
        assert_eq!(roster.by_wg(&wg_secret(2).public()), None);
        world.does(1, grant(with_wg(&world, 3, wg_secret(33).public())));
        assert_eq!(live(&world.roster()), [1, 2, 3], "a key of its own settles it");
    }

    #[test]
    fn r7_the_tunnel_key_of_a_removed_device_or_of_an_invite_is_dead() {
        let mut world = World::new(1);
        world.grants(2);
        world.opens(1, 1);
        world.does(1, revoke(2));
        world.does(1, grant(with_wg(&world, 3, wg_secret(2).public())));
        world.does(1, grant(with_wg(&world, 4, world.invite(1).gk.public())));
        let roster = world.roster();
        assert_eq!(live(&roster), [1]);
        for n in [3, 4] {
            assert!(matches!(roster.standing(&device(n)), Standing::Refused(_)));
        }
    }

    #[test]
    fn r7_the_older_device_keeps_name_and_address() {
        let mut world = World::new(1);
        let like_2 = |n, not_before| Certificate {
            name: "device-2".parse().unwrap(),
            ipv4: Some([10, 71, 0, 2].into()),
            not_before,
            ..World::new(0).certificate(n)
        };
        world.does(1, grant(like_2(3, NOW.plus(1))));
        world.does(1, grant(like_2(2, NOW)));
        let roster = world.roster();
        let (older, younger) = (roster.get(&device(2)).unwrap(), roster.get(&device(3)).unwrap());
        assert_eq!((older.name.as_str(), older.ipv4), ("device-2", Some([10, 71, 0, 2].into())));
        let shown = format!("device-2-{}", &device(3).to_string()[..4]);
        assert_eq!((younger.name.as_str(), younger.ipv4), (shown.as_str(), None));
        assert_eq!(roster.by_name(&shown), Some(younger));
        assert_eq!(roster.by_name("device-2"), Some(older));
        assert_eq!(roster.by_address([10, 71, 0, 2].into()), Some(older));

        // Of the same second the lower id.
        let mut world = World::new(0);
        let add = OpBody::AdminAdd { admin: admin(1).public(), device: device(1) };
        world.root_does(add);
        for n in [3, 2] {
            world.does(1, grant(like_2(n, NOW)));
        }
        let first = device(2).min(device(3));
        assert_eq!(world.roster().by_name("device-2").unwrap().id, first);
    }

    #[test]
    fn r7_a_name_that_only_looks_like_a_second_one_takes_nothing() {
        let mut world = World::new(1);
        let clash = format!("device-2-{}", &device(3).to_string()[..4]);
        let named = |n, name: &str, not_before| Certificate {
            name: name.parse().unwrap(),
            not_before,
            ..World::new(0).certificate(n)
        };
        world.does(1, grant(named(2, "device-2", NOW)));
        world.does(1, grant(named(3, "device-2", NOW.plus(1))));
        world.does(1, grant(named(4, &clash, NOW.plus(2))));
        let roster = world.roster();
        let names: BTreeSet<_> = roster.members().map(|member| member.name.clone()).collect();
        assert_eq!(names.len(), roster.len());
        assert_eq!(roster.by_name(&clash).unwrap().id, device(4));
        let longer = format!("device-2-{}", &device(3).to_string()[..8]);
        assert_eq!(roster.by_name(&longer).unwrap().id, device(3));
    }

    #[test]
    fn an_address_outside_the_pool_is_no_address() {
        let mut world = World::new(1);
        for (n, ip) in [(2, [10, 72, 0, 2]), (3, [10, 71, 0, 0]), (4, [10, 71, 255, 255])] {
            world.does(1, grant(Certificate { ipv4: Some(ip.into()), ..world.certificate(n) }));
        }
        let roster = world.roster();
        assert_eq!(live(&roster), [1, 2, 3, 4]);
        for n in [2, 3, 4] {
            assert_eq!(roster.get(&device(n)).unwrap().ipv4, None);
        }
    }

    #[test]
    fn r10_the_thirty_third_admin_waits_for_a_place() {
        let mut world = World::new(32);
        let add = |n| OpBody::AdminAdd { admin: admin(n).public(), device: device(n) };
        let refused = world.root_does(add(33));
        let roster = world.roster();
        assert_eq!(roster.alarms(), [Alarm::Full]);
        assert!(!roster.is_admin(&admin(33).public()) && !roster.is_effective(&refused.id()));
        world.root_does(cut_whole(2));
        world.root_does(add(34));
        assert!(world.roster().is_admin(&admin(34).public()));
    }

    #[test]
    fn r10_ten_thousand_members_belong_and_the_next_does_not() {
        let mut world = World::new(1);
        let mut before = world.logs.head(author(1)).unwrap();
        let usual = world.certificate(2);
        for n in 0..10_000_u32 {
            let mut certificate = usual.clone();
            certificate.id.0[..4].copy_from_slice(&n.to_be_bytes());
            certificate.wg.0[..4].copy_from_slice(&n.to_be_bytes());
            certificate.not_before = NOW.plus(u64::from(n) % 7 + 1);
            certificate.ipv4 = None;
            let (author, seq) = (before.author, before.seq + 1);
            let op = Op { author, seq, prev: before.id, time: NOW, body: grant(certificate) };
            let op = Verified::unsigned(op);
            (before.seq, before.id) = (seq, op.id());
            world.logs.insert(op).unwrap();
        }
        let roster = world.roster();
        assert_eq!((roster.len(), roster.alarms()), (MAX_MEMBERS, &[Alarm::Full][..]));
        assert!(!roster.has_room());
        let names: BTreeSet<_> = roster.members().map(|member| &member.name).collect();
        assert_eq!(names.len(), MAX_MEMBERS);
        let (last, standing) = roster.gone().next().unwrap();
        assert!(matches!(standing, Standing::Refused(_)) && roster.gone().count() == 1);
        assert_eq!(last.0[..4], 9_995_u32.to_be_bytes(), "the newest, then the highest id");
        assert!(roster.get(&device(1)).is_some());
    }

    #[test]
    fn the_same_set_in_any_order_is_the_same_roster() {
        let mut dice = Dice(0x5eed);
        for round in 0..40 {
            let world = tangle(&mut dice);
            let mut ops = all(&world);
            let rosters = [0, 30 * DAY, 400 * DAY].map(|later| world.roster_at(NOW.plus(later)));
            for _ in 0..5 {
                dice.shuffle(&mut ops);
                let doubled: Vec<_> = ops.iter().chain(&ops[..ops.len() / 2]).cloned().collect();
                let mut logs = Logs::new(world.root.public());
                insert_all(&mut logs, &doubled);
                for (later, roster) in [0, 30 * DAY, 400 * DAY].into_iter().zip(&rosters) {
                    let again = Roster::derive(&world.genesis, &logs, NOW.plus(later));
                    assert_eq!(&again, roster, "round {round}");
                }
            }
        }
    }

    #[test]
    fn until_the_next_change_time_changes_nothing() {
        let mut dice = Dice(0xc10c);
        for _ in 0..20 {
            let world = tangle(&mut dice);
            let mut now = NOW;
            while let Some(next) = world.roster_at(now).next_change() {
                assert!(next > now);
                assert_eq!(world.roster_at(next.minus(1)), world.roster_at(now));
                assert_ne!(world.roster_at(next), world.roster_at(now));
                now = next;
            }
        }
    }

    #[test]
    fn more_denials_never_let_anyone_in() {
        let mut dice = Dice(0xdeed);
        for _ in 0..40 {
            let mut world = tangle(&mut dice);
            let before: BTreeSet<_> = live(&world.roster()).into_iter().collect();
            let n = 1 + dice.below(20) as u8;
            world.does(1, revoke(n));
            // A revoked holder of a shared key lets nobody else have it, and frees only its name.
            let after: BTreeSet<_> = live(&world.roster()).into_iter().collect();
            assert!(after.is_subset(&before) && !after.contains(&n));
        }
    }

    /// A history with a bit of everything: forks, cuts, clashes, reuse, wrong clocks.
    fn tangle(dice: &mut Dice) -> World {
        let mut world = World::new(4);
        for n in 1..=4 {
            world.opens(n, n);
        }
        for _ in 0..60 {
            let (n, who) = (5 + dice.below(12) as u8, 1 + dice.below(4) as u8);
            let time = NOW.plus(dice.below(1_000) as u64);
            let mut certificate = world.certificate(n);
            certificate.not_before = NOW.plus(dice.below(40) as u64 * DAY);
            certificate.not_after = NOW.plus((50 + dice.below(400) as u64) * DAY);
            if dice.below(4) == 0 {
                certificate.name = "same".parse().unwrap();
                certificate.ipv4 = Some([10, 71, 9, 9].into());
            }
            if dice.below(6) == 0 {
                certificate.invite = Some(world.invite(1 + dice.below(4) as u8).id);
            }
            let body = match dice.below(12) {
                0 => revoke(n),
                1 => OpBody::InviteClose { invite: world.invite(who).id },
                2 => grant(with_wg(&world, n, wg_secret(5 + dice.below(12) as u8).public())),
                3 => OpBody::Unknown { kind: 99, critical: false, bytes: vec![n] },
                _ => grant(certificate),
            };
            let log: Vec<_> = world.logs.after(author(who), 1).cloned().collect();
            if dice.below(30) == 0 && who != 1 {
                let before = &log[dice.below(log.len())];
                let seq = before.op().seq + 1;
                let op = Op { author: author(who), seq, prev: before.id(), time, body };
                let op = world.sign(who, &op);
                let _ = world.logs.insert(op);
            } else if world.logs.next_op(author(who), time, body.clone()).is_ok() {
                world.does_at(who, time, body);
            }
            if dice.below(60) == 0 {
                let last = &log[dice.below(log.len())];
                world.root_does(cut(if who == 1 { 2 } else { who }, last));
            }
        }
        world
    }

    fn with_wg(world: &World, n: u8, wg: WgPublicKey) -> Certificate {
        let bind_sig = bind(&id_secret(n), &wg, &world.network);
        Certificate { wg, bind_sig, ..world.certificate(n) }
    }

    fn grant(certificate: Certificate) -> OpBody {
        OpBody::Grant(Box::new(certificate))
    }

    /// The numbers of the live devices.
    fn live(roster: &Roster) -> Vec<u8> {
        (0..=64).filter(|n| roster.get(&device(*n)).is_some()).collect()
    }

    fn all(world: &World) -> Vec<SignedAct> {
        world.logs.iter().cloned().collect()
    }

    fn author(n: u8) -> Author {
        Author::Admin(admin(n).public())
    }
}
