//! SKELETON (helper `membership` owns and completes this file).
use super::invite::InviteId;
use super::log::Logs;
use super::op::{Flags, Genesis, InviteOpen, OpId, UnixTime};
use super::policy::DeviceName;
use crate::identity::{AdminId, DeviceId, WgPublicKey};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who belongs, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Roster {}

/// A live member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: DeviceId,
    pub wg: WgPublicKey,
    /// As shown: `name`, or `name-xxxx` where another holds the name (R7).
    pub name: DeviceName,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Ipv6Addr,
    pub routes: Vec<(IpAddr, u8)>,
    pub flags: Flags,
    /// Its admin key, where an effective AdminAdd names this device.
    pub admin: Option<AdminId>,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    pub grant: OpId,
    pub invite: Option<InviteId>,
}

/// Where a device stands that is not (or no longer) live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Live,
    Revoked { by: AdminId, at: UnixTime, reason: String },
    Expired { at: UnixTime },
    Refused(String),
    Unknown,
}

/// An event that people should see (fork, invite used twice, a bound reached…).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    RootFork,
    AdminFork(AdminId),
    InviteReused(InviteId, Vec<DeviceId>),
    DuplicateWgKey(WgPublicKey),
    Full,
}

impl Roster {
    /// The state that the set of ops means at `now` (R1–R7, R9–R10). Same set in any order, same roster.
    pub fn derive(_genesis: &Genesis, _logs: &Logs, _now: UnixTime) -> Self {
        todo!()
    }
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::empty()
    }
    pub fn len(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn get(&self, _id: &DeviceId) -> Option<&Member> {
        todo!()
    }
    pub fn by_wg(&self, _wg: &WgPublicKey) -> Option<&Member> {
        todo!()
    }
    /// Overlay address → member (exact addresses only).
    pub fn by_address(&self, _address: IpAddr) -> Option<&Member> {
        todo!()
    }
    pub fn by_name(&self, _name: &str) -> Option<&Member> {
        todo!()
    }
    pub fn standing(&self, _id: &DeviceId) -> Standing {
        todo!()
    }
    pub fn is_admin(&self, _admin: &AdminId) -> bool {
        todo!()
    }
    /// Invites that may still admit a device: open, unexpired, not closed, not used.
    pub fn open_invites(&self) -> impl Iterator<Item = &InviteOpen> {
        std::iter::empty()
    }
    pub fn invite(&self, _id: &InviteId) -> InviteState {
        todo!()
    }
    pub fn ipv4_taken(&self, _address: Ipv4Addr) -> bool {
        todo!()
    }
    pub fn alarms(&self) -> &[Alarm] {
        todo!()
    }
    /// When the roster next changes by time alone (a certificate or an invite runs out or begins).
    pub fn next_change(&self) -> Option<UnixTime> {
        todo!()
    }
    /// Whether an op counts (R2–R4), for `ginnel log`.
    pub fn is_effective(&self, _op: &OpId) -> bool {
        todo!()
    }
}

/// What became of an invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InviteState {
    Unknown,
    Open(Box<InviteOpen>),
    Used(DeviceId),
    Closed,
    Expired,
    Reused(Vec<DeviceId>),
}
