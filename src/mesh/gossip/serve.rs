//! Ops into messages: the answer to a fetch, and the push of new ops.

use crate::membership::{Author, Logs, OpBody, SignedOp, Verified};
use crate::wire::control::{AuthorTag, Fetch, MAX_MESSAGE, MAX_OPS, OpBytes, Ops, Reply};

/// The most bytes of ops in one answer: what a path of 50 ms carries at 256 KiB/s, and little enough
/// that user data waits behind it for no more than a few milliseconds.
pub const ANSWER_BYTES: usize = 16 * 1024;

/// The most bytes of fields before the ops: kind 1, reply mark 1 + 8 + 1 + 1 + 10 + 1, count 1.
const OVERHEAD: usize = 24;

/// The answer to `fetch`: at least one message, so that the asker learns that there is no more.
pub fn answer(fetch: &Fetch, logs: &Logs) -> Vec<Ops> {
    let mut packer = Packer::default();
    let (mut bytes, mut next, mut end) = (0, fetch.from, true);
    let authors = logs.heads().into_iter().map(|head| head.author);
    for author in authors.filter(|author| AuthorTag::of(author) == fetch.author) {
        for op in logs.after(author, fetch.from) {
            let wire = op.signed().encode();
            // Ops of one sequence number (a fork) go together, so that `next` skips none of them.
            if bytes + wire.len() > ANSWER_BYTES && op.op().seq >= next {
                end = false;
                break;
            }
            bytes += wire.len();
            next = next.max(op.op().seq.saturating_add(1));
            packer.add(wire, next);
        }
    }
    let mut parts = packer.finish();
    if parts.is_empty() {
        parts.push((Vec::new(), next));
    }
    marked(fetch.author, parts, end)
}

/// Numbers the messages of an answer.
fn marked(author: AuthorTag, parts: Vec<(Vec<OpBytes>, u64)>, end: bool) -> Vec<Ops> {
    let count = parts.len();
    let message = |(i, (ops, next)): (usize, (Vec<OpBytes>, u64))| {
        let left = u8::try_from(count - 1 - i).unwrap_or(u8::MAX);
        let index = u8::try_from(i).unwrap_or(u8::MAX);
        Ops { reply: Some(Reply { author, index, left, next, end }), ops }
    };
    parts.into_iter().enumerate().map(message).collect()
}

/// New ops into as few messages as hold them, in the order given.
pub fn push<'a>(ops: impl IntoIterator<Item = &'a Verified<SignedOp>>) -> Vec<Ops> {
    let mut packer = Packer::default();
    for op in ops {
        packer.add(op.signed().encode(), 0);
    }
    packer.finish().into_iter().map(|(ops, _)| Ops { reply: None, ops }).collect()
}

/// As many of `ops` as one answer holds, without the first `have`, for a device that is being let in:
/// `next` of each message counts from the first op of all.
pub fn excerpt<'a>(ops: impl Iterator<Item = &'a Verified<SignedOp>>, have: u64) -> Vec<Ops> {
    let mut packer = Packer::default();
    let (mut bytes, mut end) = (0, true);
    let skip = usize::try_from(have).unwrap_or(usize::MAX);
    for (op, next) in ops.skip(skip).zip(have.saturating_add(1)..) {
        let wire = op.signed().encode();
        if bytes + wire.len() > ANSWER_BYTES {
            end = false;
            break;
        }
        bytes += wire.len();
        packer.add(wire, next);
    }
    marked(AuthorTag([0; 8]), packer.finish(), end)
}

/// Whether an op takes something away: such ops go first, and to everybody.
pub fn is_denial(op: &Verified<SignedOp>) -> bool {
    op.op().body.is_denial() || matches!(op.op().body, OpBody::AdminCut { .. })
}

/// Whose log an op stands in, and where.
pub fn place(op: &Verified<SignedOp>) -> (Author, u64) {
    (op.op().author, op.op().seq)
}

/// Fills messages one after the other; each remembers the sequence number after its last op.
#[derive(Default)]
struct Packer {
    done: Vec<(Vec<OpBytes>, u64)>,
    open: Vec<OpBytes>,
    used: usize,
    next: u64,
}

impl Packer {
    fn add(&mut self, wire: Vec<u8>, next: u64) {
        let cost = wire.len() + 2;
        if OVERHEAD + self.used + cost > MAX_MESSAGE || self.open.len() == MAX_OPS {
            self.close();
        }
        self.used += cost;
        self.next = next;
        self.open.push(OpBytes(wire));
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push((std::mem::take(&mut self.open), self.next));
        }
        self.used = 0;
    }

    fn finish(mut self) -> Vec<(Vec<OpBytes>, u64)> {
        self.close();
        self.done
    }
}
