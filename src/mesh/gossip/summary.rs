//! Where this device's logs end, in the form that is compared with others.

use std::collections::BTreeMap;

use crate::identity::hash;
use crate::membership::log::Head;
use crate::membership::{Author, Logs};
use crate::wire::control::{AuthorTag, HeadEntry, Heads, MAX_HEADS, first_8};

/// The hashes of what stands beside each author's longest chain, computed when a log changed.
#[derive(Debug, Default)]
pub struct Summary {
    aside: BTreeMap<Author, Option<[u8; 8]>>,
}

impl Summary {
    /// The log of `author` changed.
    pub fn changed(&mut self, author: &Author) {
        self.aside.remove(author);
    }

    /// The head vector of `logs`.
    pub fn heads(&mut self, logs: &Logs, ask: bool) -> Heads {
        let entries = logs.heads().iter().take(MAX_HEADS).map(|h| self.entry(logs, h)).collect();
        Heads { digest: logs.digest(), ask, entries }
    }

    /// The same entries, to look up.
    pub fn by_tag(&mut self, logs: &Logs) -> BTreeMap<AuthorTag, (Author, HeadEntry)> {
        let heads = logs.heads();
        heads
            .iter()
            .map(|head| (AuthorTag::of(&head.author), (head.author, self.entry(logs, head))))
            .collect()
    }

    fn entry(&mut self, logs: &Logs, head: &Head) -> HeadEntry {
        let aside = *self.aside.entry(head.author).or_insert_with(|| aside(logs, head));
        HeadEntry {
            author: AuthorTag::of(&head.author),
            seq: head.seq,
            head: first_8(&head.id.0),
            aside,
        }
    }
}

/// A hash over the ids of all ops that share their sequence number with another, or stand past the
/// end of the chain. With the head, which fixes the chain, it fixes the whole set.
fn aside(logs: &Logs, head: &Head) -> Option<[u8; 8]> {
    let mut ids: Vec<[u8; 32]> = Vec::new();
    let mut before: Option<(u64, [u8; 32])> = None;
    for op in logs.after(head.author, 1) {
        let (seq, id) = (op.op().seq, op.id().0);
        if let Some((_, twin)) = before.filter(|(twin_seq, _)| *twin_seq == seq) {
            ids.extend([twin, id]);
        } else if seq > head.seq {
            ids.push(id);
        }
        before = Some((seq, id));
    }
    if ids.is_empty() {
        return None;
    }
    ids.sort_unstable();
    ids.dedup();
    Some(first_8(&hash(&ids.concat())))
}
