//! One device with which this one exchanges datagrams now.
//!
//! A [`Peer`] exists only while it is in use: while user data flows, while it is one of the
//! neighbours that keep the roster in sync, while somebody waits for it, or while it wants this device,
//! as guests do that join. It owns the slot that
//! the packet path shares, the agent that finds a way to it, and the packets that wait for a
//! session.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::greeting::Greeting;
use super::introductions::{Asking, IntroductionBudget};
use super::key::PeerKey;
use super::path::PathAgent;
use super::rate::Inflow;
use crate::forward::PeerSlot;
use crate::identity::{DeviceId, WgPublicKey};
use crate::membership::Member;
use crate::membership::invite::InviteId;

/// Packets kept for a device to which a session is being made: the first few of a connection, so
/// that a SYN or the first pings survive the handshake.
const WAITING_PACKETS: usize = 8;

/// A packet that waited longer is of no use to its sender, who has sent it again by then.
const WAITING_TIME: Duration = Duration::from_secs(5);

/// After this long without user data a peer that is no neighbour is let go.
const IDLE_AFTER: Duration = Duration::from_secs(300);

/// A path that was checked within this may be wanted by the peer: two of the periods in which one
/// side checks where the other does not, and a retry.
const CHECKED_WITHIN: Duration = Duration::from_secs(75);

/// User data within this time makes a peer active, which has its path watched closely.
const ACTIVE_WITHIN: Duration = Duration::from_secs(15);

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A live member.
    Member(DeviceId),
    /// Whoever holds an invite, as this device sees it, which may sponsor it.
    Guest(InviteId),
    /// A guest under its new key, not admitted yet.
    Applicant,
    /// A sponsor, as this device sees it, which wants to join: under the guest key.
    Sponsor,
    /// A sponsor, under the new key of this device.
    Admitter,
    /// A device that was removed and may not know it.
    Removed(DeviceId),
}

/// One device in use.
pub struct Peer {
    /// Its number, the one of its slot.
    pub key: PeerKey,
    /// Who it is.
    pub who: Who,
    /// Its WireGuard key.
    pub remote: WgPublicKey,
    /// What the packet path shares.
    pub slot: Arc<PeerSlot>,
    /// Finds and keeps a way to it.
    pub path: PathAgent,
    /// The greeting inside the tunnel.
    pub greeting: Greeting,
    /// What it may say while it has not proved itself.
    pub inflow: Inflow,
    /// The introductions it may still ask for or bring.
    pub introductions: IntroductionBudget,
    /// Whether this side starts the handshake when both could.
    pub leads: bool,
    /// Whether the roster's sync keeps it connected.
    pub neighbour: bool,
    /// What it is in use for.
    pub purpose: Purpose,
    /// Until when somebody waits for it.
    pub wanted_until: Instant,
    /// When to start a handshake if there is no session by then.
    pub handshake_at: Option<Instant>,
    /// How long the answer to the next handshake is waited for.
    patience: Duration,
    /// When members are asked to introduce it.
    pub asking: Asking,
    /// When it came into use.
    pub born: Instant,
    waiting: VecDeque<(Instant, Vec<u8>)>,
}

/// A handshake that was not answered on a path that was is tried again after this long, and then each
/// time after twice as long. WireGuard's own 5 s would be most of the time a user waits for a join; and
/// an answer has to come before the second initiation after the one that it answers.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest wait: below WireGuard's 5 s, so that the tunnel does not repeat as well.
const LAST_RETRY: Duration = Duration::from_secs(4);

/// What a peer is in use for; what counts for more comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// It looks for this device, or for any [company](super::company): finding a path is its business.
    Company,
    /// The roster shall spread over it.
    Roster,
    /// A user of this device waits for it.
    User,
}

/// How much a peer is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Not at all: it may go.
    None,
    /// Its path is kept open.
    Warm,
    /// User data flows, or somebody waits to be let in.
    Active,
}

impl Peer {
    /// A peer that just came into use.
    pub fn new(slot: Arc<PeerSlot>, who: Who, remote: WgPublicKey, path: PathAgent) -> Self {
        let born = slot.born();
        Self {
            key: PeerKey(slot.index.0),
            who,
            remote,
            slot,
            path,
            greeting: Greeting::default(),
            inflow: Inflow::default(),
            introductions: IntroductionBudget::default(),
            leads: false,
            neighbour: false,
            purpose: Purpose::Company,
            wanted_until: born,
            handshake_at: None,
            patience: FIRST_RETRY,
            asking: Asking::start(born),
            born,
            waiting: VecDeque::new(),
        }
    }

    /// A handshake is to be started at `at`.
    pub fn call_at(&mut self, at: Instant) {
        self.handshake_at = Some(at);
        self.patience = FIRST_RETRY;
    }

    /// A handshake was started; the next is due if this one is not answered.
    pub fn note_called(&mut self, now: Instant) {
        self.handshake_at = Some(now + self.patience);
        self.patience = LAST_RETRY.min(2 * self.patience);
    }

    /// Whether this side ever starts a handshake: a guest's key only ever knocks.
    pub fn initiates(&self) -> bool {
        !matches!(self.who, Who::Guest(_) | Who::Applicant | Who::Removed(_))
    }

    /// Has the tunnel's own timers start a handshake only where this side ever does.
    pub fn bind_tunnel(&self) {
        self.slot.tunnel.lock().set_only_answers(!self.initiates());
    }

    /// The member it is, where it is one.
    pub fn device(&self) -> Option<DeviceId> {
        match self.who {
            Who::Member(device) => Some(device),
            Who::Guest(_) | Who::Applicant | Who::Sponsor | Who::Admitter | Who::Removed(_) => None,
        }
    }

    /// Keeps a packet until there is a session; the oldest makes room.
    pub fn hold(&mut self, packet: Vec<u8>, now: Instant) {
        if self.waiting.len() == WAITING_PACKETS {
            self.waiting.pop_front();
        }
        self.waiting.push_back((now, packet));
    }

    /// The packets that still are of use.
    pub fn take_waiting(&mut self, now: Instant) -> impl Iterator<Item = Vec<u8>> {
        std::mem::take(&mut self.waiting)
            .into_iter()
            .filter(move |(since, _)| now.duration_since(*since) <= WAITING_TIME)
            .map(|(_, packet)| packet)
    }

    /// Whether it is needed and reached, and has no session all the same.
    pub fn lacks_session(&self, now: Instant) -> bool {
        self.need(now) > Need::None && self.could_have_session()
    }

    /// Whether it is reached without a session, and no handshake is to come.
    pub fn may_call(&self) -> bool {
        self.handshake_at.is_none() && self.could_have_session()
    }

    fn could_have_session(&self) -> bool {
        self.initiates() && self.path.primary().is_some() && !self.slot.tunnel.lock().has_session()
    }

    /// Whether a session and a path stand.
    pub fn is_connected(&self) -> bool {
        self.path.primary().is_some() && self.slot.tunnel.lock().has_session()
    }

    /// Whether it is connected, and of use: guests and removed devices that call introduce nobody.
    pub fn is_company(&self) -> bool {
        self.initiates() && self.is_connected()
    }

    /// Whether a user waits for it.
    pub fn is_waited_for(&self, now: Instant) -> bool {
        self.purpose == Purpose::User && now < self.wanted_until
    }

    /// How much it is needed at `now`.
    pub fn need(&self, now: Instant) -> Need {
        let data = self.last_user_data();
        // A person waits for a join: no pause of the search may be longer than a hole stays open.
        let joining = matches!(self.who, Who::Sponsor | Who::Admitter);
        if joining || data.is_some_and(|at| now.duration_since(at) < ACTIVE_WITHIN) {
            Need::Active
        } else if self.neighbour
            || now < self.wanted_until
            || data.is_some_and(|at| now.duration_since(at) < IDLE_AFTER)
        {
            Need::Warm
        } else {
            Need::None
        }
    }

    /// Whether the peer may be keeping the path open. Our own checks count too: while we ask, the
    /// peer has no cause to.
    pub fn may_be_wanted_by_it(&self, now: Instant) -> bool {
        self.path.last_checked().is_some_and(|at| now.duration_since(at) < CHECKED_WITHIN)
    }

    /// When user data last went either way.
    pub fn last_user_data(&self) -> Option<Instant> {
        let stats = &self.slot.stats;
        self.at(stats.last_data_sent_ms.load(Ordering::Relaxed))
            .max(self.at(stats.last_data_received_ms.load(Ordering::Relaxed)))
    }

    /// When user data last went out.
    pub fn last_sent(&self) -> Option<Instant> {
        self.at(self.slot.stats.last_data_sent_ms.load(Ordering::Relaxed))
    }

    /// When a packet that not every path carries last went out.
    pub fn last_large(&self) -> Option<Instant> {
        self.at(self.slot.stats.last_large_sent_ms.load(Ordering::Relaxed))
    }

    /// When anything authentic last came in.
    pub fn last_seen(&self) -> Option<Instant> {
        self.at(self.slot.stats.last_authentic_ms.load(Ordering::Relaxed))
    }

    /// The instant of a statistic in milliseconds since the slot was made; zero is never.
    fn at(&self, ms: u64) -> Option<Instant> {
        self.slot.instant_of(ms)
    }
}

/// The inner sources of a member: its own addresses, and what its certificate routes to it.
pub fn allowed_sources(member: &Member) -> Vec<(IpAddr, u8)> {
    let ipv4 = member.ipv4.map(|address| (IpAddr::V4(address), 32));
    let ipv6 = (IpAddr::V6(member.ipv6), 128);
    std::iter::once(ipv6).chain(ipv4).chain(member.routes.iter().copied()).collect()
}
