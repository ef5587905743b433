//! Where this device's logs end, to tell others and to compare with what they tell.

use std::collections::BTreeMap;

use crate::identity::hash;
use crate::membership::log::Head;
use crate::membership::{Author, Logs};
use crate::wire::control::{AuthorTag, HeadEntry, Heads, MAX_HEADS, first_8};

/// The head vector of `logs`; `ask` wants the listener's.
pub fn heads(logs: &Logs, ask: bool) -> Heads {
    let entries = logs.heads().iter().take(MAX_HEADS).map(|head| entry(logs, head)).collect();
    Heads { digest: logs.digest(), ask, entries }
}

/// The digest alone.
pub fn digest(logs: &Logs, ask: bool) -> Heads {
    Heads { digest: logs.digest(), ask, entries: Vec::new() }
}

/// This device's own logs, to compare with.
pub struct View<'a> {
    logs: &'a Logs,
    heads: BTreeMap<AuthorTag, (Author, HeadEntry)>,
}

/// What a peer's head entry says about our log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The peer's chain is longer.
    Ahead,
    /// The peer holds ops of a fork, or past a hole, that we may not hold.
    Fork,
}

impl<'a> View<'a> {
    /// The view of `logs`: O(authors + ops off their trunks).
    pub fn of(logs: &'a Logs) -> Self {
        let heads = logs.heads();
        let tagged = |head: &Head| (AuthorTag::of(&head.author), (head.author, entry(logs, head)));
        Self { logs, heads: heads.iter().map(tagged).collect() }
    }

    /// What, if anything, the device that told `entry` has and we lack.
    pub fn need(&self, entry: &HeadEntry) -> Option<Need> {
        let Some((author, mine)) = self.heads.get(&entry.author) else {
            return (entry.seq > 0 || entry.aside.is_some()).then_some(Need::Ahead);
        };
        if entry.seq > mine.seq {
            return Some(Need::Ahead);
        }
        let held = entry.seq == 0
            || (entry.seq == mine.seq && entry.head == mine.head)
            || self
                .logs
                .after(*author, entry.seq)
                .take_while(|op| op.op().seq == entry.seq)
                .any(|op| first_8(&op.id().0) == entry.head);
        // What a peer that is behind us has past a hole in its log is mostly ours; it says what is
        // not when it has caught up.
        let aside = entry.seq >= mine.seq && entry.aside.is_some() && entry.aside != mine.aside;
        (!held || aside).then_some(Need::Fork)
    }

    /// Where our chain of that author ends; 0 where there is none.
    pub fn seq(&self, tag: &AuthorTag) -> u64 {
        self.heads.get(tag).map_or(0, |(_, mine)| mine.seq)
    }

    /// Whether we hold anything of that author.
    pub fn knows(&self, tag: &AuthorTag) -> bool {
        self.heads.contains_key(tag)
    }
}

fn entry(logs: &Logs, head: &Head) -> HeadEntry {
    HeadEntry {
        author: AuthorTag::of(&head.author),
        seq: head.seq,
        head: first_8(&head.id.0),
        aside: aside(logs, head.author),
    }
}

/// A hash over the ids of all ops past the trunk, which is where forks and holes are. With the head,
/// which fixes the trunk, it fixes the whole set.
fn aside(logs: &Logs, author: Author) -> Option<[u8; 8]> {
    let past = logs.trunk(author).len() as u64 + 1;
    let ids: Vec<[u8; 32]> = logs.after(author, past).map(|op| op.id().0).collect();
    (!ids.is_empty()).then(|| first_8(&hash(&ids.concat())))
}
