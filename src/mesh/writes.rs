//! Acts that wait for the disk.
//!
//! What this device signs is written and synced before anyone sees it, so that a crash can never
//! make it sign two different ops under one number. The act waits here under a ticket; when the
//! write succeeded it takes effect, and when it failed only the client that asked hears of it.

use std::collections::BTreeMap;

use super::event::{RequestId, Ticket};
use super::key::PeerKey;
use crate::identity::DeviceId;
use crate::membership::{SignedOp, Verified};

/// What happens once a write is done.
#[derive(Debug)]
pub enum Then {
    /// The network exists: answer, with an invite where one was asked for.
    Founded {
        /// Who asked.
        request: RequestId,
        /// Whether a first invite shall follow.
        invite: bool,
    },
    /// An invite is open: answer with its token.
    Invited {
        /// Who asked.
        request: RequestId,
        /// The token.
        token: zeroize::Zeroizing<String>,
        /// Whether this answers a `create`.
        created: bool,
    },
    /// A device is removed.
    Revoked {
        /// Who asked.
        request: RequestId,
    },
    /// A device is admitted: tell it.
    Admitted {
        /// The device.
        device: DeviceId,
        /// The tunnel it waits behind.
        peer: PeerKey,
    },
    /// The keys of a device that wants to join are safe: it may begin.
    Prepared,
    /// A device that was admitted knows it for good: up.
    Joined,
    /// The interface's intent is safe: answer.
    Switched {
        /// Who asked.
        request: RequestId,
    },
}

/// One act: the ops that take effect, then the rest.
#[derive(Debug)]
pub struct Act {
    /// Ops this device signed.
    pub ops: Vec<Verified<SignedOp>>,
    /// What follows.
    pub then: Then,
}

/// The acts that wait.
#[derive(Debug, Default)]
pub struct Writes {
    waiting: BTreeMap<Ticket, Act>,
    last: u64,
}

impl Writes {
    /// Lets `act` wait; the ticket goes out with the write.
    pub fn wait(&mut self, act: Act) -> Ticket {
        self.last += 1;
        self.waiting.insert(Ticket(self.last), act);
        Ticket(self.last)
    }

    /// The act whose write ended.
    pub fn done(&mut self, ticket: Ticket) -> Option<Act> {
        self.waiting.remove(&ticket)
    }

    /// Whether an op of this device waits: another would get the same number.
    pub fn is_signing(&self) -> bool {
        self.waiting.values().any(|act| !act.ops.is_empty())
    }
}
