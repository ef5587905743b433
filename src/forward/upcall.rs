//! What the packet path cannot answer by itself, on its way to `mesh`.
//!
//! A worker collects [`Upcall`]s while it handles a batch and passes them on when the batch ends. Both
//! the batch and the queue to `mesh` are bounded, and each [`Kind`] has a share of them that no other
//! kind can fill: packets without a session, which any local program can cause, never keep out the
//! path checks, without which every path would die. What does not fit is dropped and counted by kind,
//! so that a flood costs a counter and no memory. Everything that goes up is sent again by its sender
//! if it mattered.

use super::Upcall;
use super::drops::{DropCounters, DropReason};

/// The upcalls of one batch: more than a batch of receives can bring of other kinds than floods.
const CAPACITY: usize = 384;

/// What shares a part of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// STUN, which anybody can send.
    Datagram,
    /// Messages of type 1, 2 and 3 that passed the guard.
    Handshake,
    /// What came through a tunnel.
    Control,
    /// Packets that wait.
    NoSession,
    /// What a peer's tunnel or address wants looked at.
    Hint,
}

impl Kind {
    /// How many there are.
    pub const COUNT: usize = 5;

    /// How many upcalls of this kind a queue of `capacity` holds; all shares together are no more
    /// than that, from 12 on.
    pub fn share(self, capacity: usize) -> usize {
        let twelfths = match self {
            Self::Datagram | Self::Control => 4,
            Self::Handshake => 2,
            Self::NoSession | Self::Hint => 1,
        };
        (capacity * twelfths / 12).max(1)
    }
}

impl Upcall {
    /// Whose share it takes.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Datagram { .. } => Kind::Datagram,
            Self::Handshake { .. } => Kind::Handshake,
            Self::Control { .. } => Kind::Control,
            Self::NoSession { .. } => Kind::NoSession,
            Self::Roamed { .. } | Self::Awake { .. } => Kind::Hint,
        }
    }

    /// What is counted where this has no room.
    pub fn overflow(&self) -> DropReason {
        match self {
            Self::Datagram { .. } => DropReason::DatagramUpcall,
            Self::Handshake { .. } => DropReason::HandshakeUpcall,
            Self::Control { .. } => DropReason::ControlUpcall,
            Self::NoSession { .. } => DropReason::NoSessionUpcall,
            Self::Roamed { .. } => DropReason::RoamedUpcall,
            Self::Awake { .. } => DropReason::AwakeUpcall,
        }
    }
}

/// The upcalls of one batch, oldest first.
#[derive(Debug, Default)]
pub struct Upcalls {
    waiting: Vec<Upcall>,
    counts: [usize; Kind::COUNT],
}

impl Upcalls {
    /// Adds one, or counts it as dropped.
    pub fn push(&mut self, upcall: Upcall, drops: &DropCounters) {
        let count = &mut self.counts[upcall.kind() as usize];
        if *count < upcall.kind().share(CAPACITY) {
            *count += 1;
            self.waiting.push(upcall);
        } else {
            drops.count(upcall.overflow());
        }
    }

    /// Takes all.
    pub fn drain(&mut self) -> impl Iterator<Item = Upcall> + '_ {
        self.counts = Default::default();
        self.waiting.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SlotIndex;
    use super::*;

    #[test]
    fn a_flood_of_one_kind_leaves_the_others_their_room() {
        let from = "192.0.2.1:9".parse().expect("an address");
        let (slot, bytes) = (SlotIndex(1), Vec::new());
        let kinds = [
            Upcall::Datagram { from, bytes: bytes.clone() },
            Upcall::Handshake { from, bytes: bytes.clone() },
            Upcall::Control { slot, bytes: bytes.clone() },
            Upcall::NoSession { destination: from.ip(), packet: bytes },
            Upcall::Awake { slot },
        ];
        for flood in &kinds {
            let (mut upcalls, drops) = (Upcalls::default(), DropCounters::default());
            for _ in 0..1000 {
                upcalls.push(flood.clone(), &drops);
            }
            for other in kinds.iter().filter(|other| *other != flood) {
                upcalls.push(other.clone(), &drops);
                assert_eq!(drops.get(other.overflow()), 0, "{flood:?} kept out {other:?}");
            }
            assert!(drops.get(flood.overflow()) > 800);
            assert!(upcalls.drain().count() <= CAPACITY);
        }
    }

    #[test]
    fn the_shares_fit_the_queue() {
        let kinds = [Kind::Datagram, Kind::Handshake, Kind::Control, Kind::NoSession, Kind::Hint];
        for capacity in [12, 100, 384, 1536] {
            let all: usize = kinds.iter().map(|kind| kind.share(capacity)).sum();
            assert!(all <= capacity, "{all} in {capacity}");
        }
    }
}
