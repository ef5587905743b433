//! What the packet path cannot answer by itself, on its way to `mesh`.
//!
//! A worker collects [`Upcall`]s while it handles a batch and passes them on when the batch ends. The
//! queue is bounded: what does not fit is dropped and counted by kind, so that a flood costs a
//! counter and no memory. Everything that goes up is sent again by its sender if it mattered.

use std::collections::VecDeque;

use super::Upcall;
use super::drops::{DropCounters, DropReason};

/// The most upcalls of one batch: more than a batch of receives can bring of other kinds than
/// floods.
const CAPACITY: usize = 256;

impl Upcall {
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
pub struct Upcalls(VecDeque<Upcall>);

impl Upcalls {
    /// Adds one, or counts it as dropped.
    pub fn push(&mut self, upcall: Upcall, drops: &DropCounters) {
        // What anybody can send leaves half of the room to the others.
        let anybodys = matches!(upcall, Upcall::Datagram { .. });
        let room = if anybodys { CAPACITY / 2 } else { CAPACITY };
        if self.0.len() < room {
            self.0.push_back(upcall);
        } else {
            drops.count(upcall.overflow());
        }
    }

    /// Takes all.
    pub fn drain(&mut self) -> impl Iterator<Item = Upcall> + '_ {
        self.0.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SlotIndex;
    use super::*;

    #[test]
    fn a_flood_that_anybody_can_send_leaves_room_for_what_came_through_a_tunnel() {
        let (mut upcalls, drops) = (Upcalls::default(), DropCounters::default());
        for _ in 0..1000 {
            let from = "192.0.2.1:9".parse().expect("an address");
            upcalls.push(Upcall::Datagram { from, bytes: Vec::new() }, &drops);
        }
        upcalls.push(Upcall::Control { slot: SlotIndex(1), bytes: Vec::new() }, &drops);
        assert_eq!(drops.get(DropReason::ControlUpcall), 0);
        assert!(upcalls.drain().any(|upcall| matches!(upcall, Upcall::Control { .. })));
    }
}
