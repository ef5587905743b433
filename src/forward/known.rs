//! Whose path checks `mesh` wants to see.
//!
//! A check names its pair of devices by a tag, which anybody can make up. `mesh` knows all tags that mean
//! somebody, and leaves them here, so that the checks of strangers cost a look-up where they arrive
//! and wake nobody.

use std::collections::HashSet;

use parking_lot::RwLock;

use crate::wire::stun::{CheckTag, Envelope};

/// The tags of those who may send checks; written by `mesh`, read by the workers.
#[derive(Debug, Default)]
pub struct KnownTags(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    tags: HashSet<CheckTag>,
    complete: bool,
}

impl KnownTags {
    /// These mean somebody too.
    pub fn extend(&self, tags: impl IntoIterator<Item = CheckTag>) {
        self.0.write().tags.extend(tags);
    }

    /// This one means nobody any more.
    pub fn remove(&self, tag: &CheckTag) {
        self.0.write().tags.remove(tag);
    }

    /// Forgets all: another hour began.
    pub fn clear(&self) {
        *self.0.write() = Known::default();
    }

    /// Whether there are no others than these.
    pub fn set_complete(&self, complete: bool) {
        if self.0.read().complete != complete {
            self.0.write().complete = complete;
        }
    }

    /// Whether a STUN message is a check of nobody that `mesh` could know.
    pub fn is_strangers(&self, message: &[u8]) -> bool {
        let Ok(Envelope::Request(tag)) = Envelope::peek(message) else { return false };
        let known = self.0.read();
        known.complete && !known.tags.contains(&tag)
    }
}
