//! Who belongs, at one moment.
//!
//! A roster is a pure function of the genesis, the *set* of ops held and the time
//! ([`Roster::derive`]); the order in which they came is forgotten. It is computed whole each time,
//! O(n log n) in the ops, and checks no signature: only verified ops get into [`Logs`]. `rules` is
//! that function; here is what it leaves, indexed for whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::invite::{InviteId, InviteOpen};
use super::log::Logs;
use super::op::{Flags, Genesis, OpId};
use super::policy::DeviceName;
use super::rules;
use super::time::UnixTime;
use crate::identity::{AdminId, DeviceId, WgPublicKey};

/// The most members of a network (R10).
pub const MAX_MEMBERS: usize = 10_000;

/// The most admins of a network that are not cut (R10).
pub const MAX_ADMINS: usize = 32;

/// The most invites of one admin that are open at once (R10): every sponsor carries the guest key
/// of each as a peer.
pub const MAX_OPEN_INVITES: usize = 64;

/// The shortest prefix of a key that names a device, in characters: 40 bits of base32 or 48 of
/// base64, so that a short name is never taken for a key.
const MIN_KEY_PREFIX: usize = 8;

/// Who belongs, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    pub(super) members: BTreeMap<DeviceId, Member>,
    pub(super) by_wg: BTreeMap<WgPublicKey, DeviceId>,
    pub(super) by_address: BTreeMap<IpAddr, DeviceId>,
    pub(super) by_name: BTreeMap<DeviceName, DeviceId>,
    /// Devices that some effective op speaks of and that are not live.
    pub(super) gone: BTreeMap<DeviceId, Standing>,
    /// What devices were last called by an effective Grant, also those that are gone.
    pub(super) granted_names: BTreeMap<DeviceId, DeviceName>,
    pub(super) granted_ipv4: BTreeSet<Ipv4Addr>,
    pub(super) admins: BTreeMap<AdminId, DeviceId>,
    pub(super) invites: BTreeMap<InviteId, InviteState>,
    /// How many invites each admin has open, the refused ones included.
    pub(super) open_invites: BTreeMap<AdminId, usize>,
    /// The ops that do not count, which are few.
    pub(super) ineffective: BTreeSet<OpId>,
    pub(super) alarms: Vec<Alarm>,
    pub(super) next_change: Option<UnixTime>,
    pub(super) must_upgrade: bool,
}

/// A live member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its permanent key.
    pub id: DeviceId,
    /// The static key of its tunnels.
    pub wg: WgPublicKey,
    /// As shown: `name`, or `name-xxxx` where another holds the name (R7).
    pub name: DeviceName,
    /// Its address from the pool; none where an older member holds it (R7).
    pub ipv4: Option<Ipv4Addr>,
    /// The address that follows from its key.
    pub ipv6: Ipv6Addr,
    /// The prefixes it may route for.
    pub routes: Vec<(IpAddr, u8)>,
    /// What it may do beside being a member.
    pub flags: Flags,
    /// Its admin key, where an effective AdminAdd names this device.
    pub admin: Option<AdminId>,
    /// From when it belongs.
    pub not_before: UnixTime,
    /// Until when, exclusive.
    pub not_after: UnixTime,
    /// The op that says so.
    pub grant: OpId,
    /// The invite it came with.
    pub invite: Option<InviteId>,
}

/// Where a device stands that is not (or no longer) live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It belongs.
    Live,
    /// It is out for ever.
    Revoked {
        /// Who removed it.
        by: AdminId,
        /// When, by that admin's clock.
        at: UnixTime,
        /// Why, for people.
        reason: String,
    },
    /// Its certificate ran out.
    Expired {
        /// When.
        at: UnixTime,
    },
    /// A rule keeps it out; the sentence says which.
    Refused(String),
    /// No op that counts speaks of it.
    Unknown,
}

/// An event that people should see (fork, invite used twice, a bound reached…).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// Root signed two histories: nothing it signed after that counts, for ever.
    RootFork,
    /// An admin signed two histories: nothing it allowed after that counts until root cuts it.
    AdminFork(AdminId),
    /// Two devices or more came with one invite: none of them is let in by it.
    InviteReused(InviteId, Vec<DeviceId>),
    /// Two devices have the same tunnel key: both are refused.
    DuplicateWgKey(WgPublicKey),
    /// A bound was reached: the newest was refused.
    Full,
}

/// What became of an invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InviteState {
    /// No op that counts speaks of it.
    Unknown,
    /// It may still admit a device.
    Open(Box<InviteOpen>),
    /// A device came with it.
    Used(DeviceId),
    /// An admin closed it, or had too many open.
    Closed,
    /// It ran out.
    Expired,
    /// Several devices came with it, and none is let in by it (R6).
    Reused(Vec<DeviceId>),
}

/// Why a text names no one device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Nothing fits.
    #[error("no device of this network has the name, address or key {0:?}")]
    Unknown(String),
    /// Several keys begin so.
    #[error("{0:?} begins the keys of several devices ({1}): write more of it")]
    Ambiguous(String, String),
}

impl Roster {
    /// The state that the set of ops means at `now` (R1–R7, R9–R10). Same set in any order, same
    /// roster.
    pub fn derive(genesis: &Genesis, logs: &Logs, now: UnixTime) -> Self {
        rules::derive(genesis, logs, now)
    }

    /// Every live member, by device id.
    pub fn members(&self) -> impl Iterator<Item = &Member> + Clone {
        self.members.values()
    }

    /// How many members are live.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The live member with this id.
    pub fn get(&self, id: &DeviceId) -> Option<&Member> {
        self.members.get(id)
    }

    /// The live member with this tunnel key.
    pub fn by_wg(&self, wg: &WgPublicKey) -> Option<&Member> {
        self.get(self.by_wg.get(wg)?)
    }

    /// Overlay address → member (exact addresses only).
    pub fn by_address(&self, address: IpAddr) -> Option<&Member> {
        self.get(self.by_address.get(&address)?)
    }

    /// The live member that is shown under this name, in any case.
    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.get(self.by_name.get(&name.parse().ok()?)?)
    }

    /// The live member that a user means: by name, overlay address, or at least 8 characters of
    /// its key (base32 of its id, or base64 of its tunnel key).
    ///
    /// # Errors
    /// [`LookupError`], a sentence for the user.
    pub fn by_prefix(&self, text: &str) -> Result<&Member, LookupError> {
        let address = || self.by_address(text.parse().ok()?);
        if let Some(member) = self.by_name(text).or_else(address) {
            return Ok(member);
        }
        let lower = text.to_ascii_lowercase();
        let means = |member: &&Member| {
            member.id.to_string().starts_with(&lower) || member.wg.to_string().starts_with(text)
        };
        let enough = text.len() >= MIN_KEY_PREFIX;
        let found: Vec<_> = self.members().filter(|_| enough).filter(means).take(4).collect();
        match found.as_slice() {
            [] => Err(LookupError::Unknown(text.to_owned())),
            [only] => Ok(only),
            several => {
                let names: Vec<_> = several.iter().map(|member| member.name.as_str()).collect();
                Err(LookupError::Ambiguous(text.to_owned(), names.join(", ")))
            }
        }
    }

    /// What to call a device, live or gone: its name, or the beginning of its key.
    pub fn name_of(&self, id: &DeviceId) -> String {
        let shown = self.get(id).map(|member| &member.name);
        match shown.or_else(|| self.granted_names.get(id)) {
            Some(name) => name.to_string(),
            None => id.to_string().chars().take(MIN_KEY_PREFIX).collect(),
        }
    }

    /// Where a device stands.
    pub fn standing(&self, id: &DeviceId) -> Standing {
        if self.members.contains_key(id) {
            return Standing::Live;
        }
        self.gone.get(id).cloned().unwrap_or(Standing::Unknown)
    }

    /// Every device that some effective op speaks of and that is not live.
    pub fn gone(&self) -> impl Iterator<Item = (&DeviceId, &Standing)> {
        self.gone.iter()
    }

    /// Whether root named this admin and did not cut it.
    pub fn is_admin(&self, admin: &AdminId) -> bool {
        self.admins.contains_key(admin)
    }

    /// The device that root named with this admin key.
    pub fn admin_device(&self, admin: &AdminId) -> Option<&DeviceId> {
        self.admins.get(admin)
    }

    /// Invites that may still admit a device: open, unexpired, not closed, not used.
    pub fn open_invites(&self) -> impl Iterator<Item = &InviteOpen> {
        self.invites.values().filter_map(|state| match state {
            InviteState::Open(invite) => Some(invite.as_ref()),
            _ => None,
        })
    }

    /// What became of an invite.
    pub fn invite(&self, id: &InviteId) -> InviteState {
        self.invites.get(id).cloned().unwrap_or(InviteState::Unknown)
    }

    /// Whether this admin may open one more invite now (R10).
    pub fn may_open_invite(&self, admin: &AdminId) -> bool {
        self.is_admin(admin) && self.open_invites.get(admin).is_none_or(|n| *n < MAX_OPEN_INVITES)
    }

    /// Whether one more device may be admitted (R10).
    pub fn has_room(&self) -> bool {
        self.members.len() < MAX_MEMBERS
    }

    /// Whether a device that is not revoked has this address in its newest Grant.
    pub fn ipv4_taken(&self, address: Ipv4Addr) -> bool {
        self.granted_ipv4.contains(&address)
    }

    /// What people should see, sorted, each once.
    pub fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    /// When the roster next changes by time alone (a certificate or an invite runs out or begins).
    pub fn next_change(&self) -> Option<UnixTime> {
        self.next_change
    }

    /// Whether an op that is held counts (R2–R4), for `ginnel log`.
    pub fn is_effective(&self, op: &OpId) -> bool {
        !self.ineffective.contains(op)
    }

    /// Whether a critical act of a later version counts here: this device must not write ops until
    /// it is upgraded (R9).
    pub fn must_upgrade(&self) -> bool {
        self.must_upgrade
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{NOW, World, admin, device, revoke, wg_secret};
    use super::super::op::OpBody;
    use super::*;

    #[test]
    fn a_member_is_found_by_all_it_is_known_by() {
        let mut world = World::new(1);
        world.grants(2);
        let roster = world.roster();
        let member = roster.get(&device(2)).unwrap();
        assert_eq!(roster.by_wg(&wg_secret(2).public()), Some(member));
        assert_eq!(roster.by_address(member.ipv6.into()), Some(member));
        assert_eq!(roster.by_address(member.ipv4.unwrap().into()), Some(member));
        assert_eq!(roster.by_name("Device-2"), Some(member));
        assert_eq!(roster.len(), roster.members().count());
        for text in [
            "device-2".to_owned(),
            "DEVICE-2".to_owned(),
            "10.71.0.2".to_owned(),
            member.ipv6.to_string(),
            member.id.to_string(),
            member.id.to_string()[..8].to_ascii_uppercase(),
            member.wg.to_string(),
            member.wg.to_string()[..8].to_owned(),
        ] {
            assert_eq!(roster.by_prefix(&text), Ok(member), "{text}");
        }
    }

    #[test]
    fn a_text_that_names_no_one_device_is_told_why() {
        let mut world = World::new(1);
        world.grants(2);
        let mut roster = world.roster();
        let key = device(2).to_string();
        for text in
            ["", "devic", "10.71.0.3", "fd00::1", &key[..7], "\u{1b}[2J", &"a".repeat(10_000)]
        {
            assert_eq!(roster.by_prefix(text), Err(LookupError::Unknown(text.to_owned())));
        }
        let sentence = roster.by_prefix("\u{1b}[2J").unwrap_err().to_string();
        assert!(!sentence.contains('\u{1b}'), "{sentence}");

        let mut twin = roster.get(&device(2)).unwrap().clone();
        twin.id.0[31] ^= 1;
        roster.members.insert(twin.id, twin);
        let error = roster.by_prefix(&key[..8]).unwrap_err();
        assert!(matches!(error, LookupError::Ambiguous(..)), "{error}");
    }

    #[test]
    fn a_device_that_is_gone_keeps_its_name_in_the_log() {
        let mut world = World::new(1);
        world.grants(2);
        world.does(1, revoke(2));
        let roster = world.roster();
        assert_eq!(roster.name_of(&device(2)), "device-2");
        assert_eq!(roster.name_of(&device(3)), device(3).to_string()[..8]);
        assert_eq!(roster.gone().count(), 1);
    }

    #[test]
    fn an_admin_may_have_sixty_four_invites_open() {
        let mut world = World::new(1);
        for n in 1..=64 {
            assert!(world.roster().may_open_invite(&admin(1).public()));
            world.opens(1, n);
        }
        let roster = world.roster();
        assert!(!roster.may_open_invite(&admin(1).public()));
        assert_eq!((roster.open_invites().count(), roster.alarms()), (64, &[][..]));
        world.opens(1, 65);
        let roster = world.roster();
        assert_eq!((roster.open_invites().count(), roster.alarms()), (64, &[Alarm::Full][..]));
        assert_eq!(roster.invite(&world.invite(65).id), InviteState::Closed);
        world.does(1, OpBody::InviteClose { invite: world.invite(1).id });
        assert_eq!(world.roster().open_invites().count(), 64);
        assert!(matches!(world.roster().invite(&world.invite(65).id), InviteState::Open(_)));
        assert_eq!(world.roster().next_change(), Some(NOW.plus(86_400)));
    }
}
