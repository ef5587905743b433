//! The peers in use, found by number, by key and by device.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::introductions::IntroductionBudget;
use super::key::PeerKey;
use super::peer::{Peer, Who};
use super::rate::{Inflow, Left};
use crate::forward::SlotIndex;
use crate::forward::tunnel::Stamps;
use crate::identity::DeviceId;

/// What a member may say before it proved itself, and the introductions that it may ask for or bring.
type Budgets = (Inflow, IntroductionBudget);

/// Slot numbers have 24 bits: they are the upper part of WireGuard's receiver indices.
const SLOT_NUMBERS: u32 = 1 << 24;

/// Peers in use at once. A device talks to few others at a time; the bound keeps a hostile member
/// from making this one hold a tunnel for every certificate of a large network.
pub const MAX_PEERS: usize = 1024;

/// The peers in use.
#[derive(Default)]
pub struct Peers {
    by_key: BTreeMap<PeerKey, Peer>,
    by_who: BTreeMap<Who, BTreeSet<PeerKey>>,
    /// What members may still say and have introduced that are out of use.
    left: Left<Budgets>,
    /// Which handshakes of members out of use are replays; of as many as there are members.
    stamps: BTreeMap<DeviceId, Stamps>,
    last_number: u32,
    /// Peers of which queued work has not been fetched yet.
    touched: BTreeSet<PeerKey>,
    /// Whether a slot came or went since the last forwarding table.
    slots_changed: bool,
    /// Path checks on their way, by STUN transaction, and the order in which they left.
    checks: BTreeMap<[u8; 12], PeerKey>,
    check_order: VecDeque<[u8; 12]>,
}

/// Path checks that are remembered: each peer has a handful under way, and one that was forgotten
/// is asked again.
pub const MAX_CHECKS: usize = 4 * MAX_PEERS;

impl Peers {
    /// Starts the slot numbers at `first`, which should be random: an answer to the agent before a
    /// restart then meets no slot.
    pub fn starting_at(first: u32) -> Self {
        // The workers have no table yet.
        Self { last_number: first % SLOT_NUMBERS, slots_changed: true, ..Self::default() }
    }

    /// A slot number that no peer has, or `None` where there are too many peers.
    pub fn free_number(&mut self) -> Option<SlotIndex> {
        if self.by_key.len() >= MAX_PEERS {
            return None;
        }
        loop {
            self.last_number = (self.last_number + 1) % SLOT_NUMBERS;
            if !self.by_key.contains_key(&PeerKey(self.last_number)) {
                return Some(SlotIndex(self.last_number));
            }
        }
    }

    /// A peer comes into use. What a member may cost goes on from where it was, and what it sent stays
    /// sent.
    pub fn insert(&mut self, mut peer: Peer) {
        if let Some(left) = peer.device().and_then(|device| self.left.take(&device)) {
            (peer.inflow, peer.introductions) = left;
        }
        if let Some(stamps) = peer.device().and_then(|device| self.stamps.get(&device)) {
            peer.slot.tunnel.lock().resume(*stamps);
        }
        self.by_who.entry(peer.who).or_default().insert(peer.key);
        self.touched.insert(peer.key);
        self.by_key.insert(peer.key, peer);
        self.slots_changed = true;
    }

    /// A peer goes out of use.
    pub fn remove(&mut self, key: PeerKey) -> Option<Peer> {
        let peer = self.by_key.remove(&key)?;
        if let Some(keys) = self.by_who.get_mut(&peer.who) {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_who.remove(&peer.who);
            }
        }
        self.touched.remove(&key);
        self.slots_changed = true;
        if let Some(device) = peer.device() {
            self.left.keep(device, (peer.inflow.clone(), peer.introductions));
            self.stamps.insert(device, peer.slot.tunnel.lock().stamps());
        }
        Some(peer)
    }

    /// The member is none any more.
    pub fn forget(&mut self, device: &DeviceId) {
        self.stamps.remove(device);
    }

    /// A path check of this peer leaves: a STUN message, with its transaction at bytes 8 to 20.
    pub fn note_check(&mut self, message: &[u8], key: PeerKey) {
        let Some(Ok(transaction)) = message.get(8..20).map(TryInto::try_into) else { return };
        if self.check_order.len() == MAX_CHECKS
            && let Some(oldest) = self.check_order.pop_front()
        {
            self.checks.remove(&oldest);
        }
        self.check_order.push_back(transaction);
        self.checks.insert(transaction, key);
    }

    /// How many path checks are remembered.
    pub fn checks_under_way(&self) -> usize {
        self.checks.len()
    }

    /// Whose path check this message answers.
    pub fn checked(&self, message: &[u8]) -> Option<PeerKey> {
        let transaction: [u8; 12] = message.get(8..20)?.try_into().ok()?;
        self.checks.get(&transaction).copied()
    }

    /// Whether a slot came or went since this was asked last.
    pub fn take_slots_changed(&mut self) -> bool {
        std::mem::take(&mut self.slots_changed)
    }

    /// A slot is another one, or shall be found otherwise.
    pub fn note_slots_changed(&mut self) {
        self.slots_changed = true;
    }

    /// The peer with this number.
    pub fn get(&self, key: PeerKey) -> Option<&Peer> {
        self.by_key.get(&key)
    }

    /// The peer with this number, to be changed: its queued work will be fetched.
    pub fn touch(&mut self, key: PeerKey) -> Option<&mut Peer> {
        let peer = self.by_key.get_mut(&key)?;
        self.touched.insert(key);
        Some(peer)
    }

    /// The peer with this number, to be changed without more.
    pub fn get_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.by_key.get_mut(&key)
    }

    /// Every peer, to be changed: all of their queued work will be fetched.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.touched.extend(self.by_key.keys());
        self.by_key.values_mut()
    }

    /// The next peer of which queued work must be fetched.
    pub fn next_touched(&mut self) -> Option<PeerKey> {
        self.touched.pop_first()
    }

    /// The peers that are `who`: one, except for sponsors.
    pub fn of(&self, who: &Who) -> impl Iterator<Item = &Peer> {
        let keys = self.by_who.get(who).into_iter().flatten();
        keys.filter_map(|key| self.by_key.get(key))
    }

    /// The number of the member's peer, where it is in use.
    pub fn member(&self, device: &DeviceId) -> Option<PeerKey> {
        self.of(&Who::Member(*device)).next().map(|peer| peer.key)
    }

    /// Every peer, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.by_key.values()
    }
}
