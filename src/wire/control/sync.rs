//! The messages that keep the logs of all devices equal: head vectors, fetches, ops.

use serde::{Deserialize, Serialize};

use super::MAX_MESSAGE;
use crate::membership::{Author, bounded::at_most};

/// The most entries of a head vector: the root's log and 32 admins'.
pub const MAX_HEADS: usize = 33;

/// The most ops of one message: a packet holds no more of the shortest ones.
pub const MAX_OPS: usize = 12;

/// The longest op in its wire form.
const MAX_OP: usize = crate::membership::op::MAX_WIRE_LEN;

// An op of the greatest length fits: kind, reply mark (1 + 8 + 1 + 1 + 10 + 1), count and length.
const _: () = assert!(MAX_OP + 1 + 22 + 1 + 2 <= MAX_MESSAGE);

/// The first 8 bytes of an author's key. Two authors of one tag would need a search of 2^64 keys
/// (2^32 for one admin with two keys, which the root would have to add); they are then served
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AuthorTag(pub [u8; 8]);

impl AuthorTag {
    /// The tag of an author.
    pub fn of(author: &Author) -> Self {
        let key = match author {
            Author::Root(root) => &root.0,
            Author::Admin(admin) => &admin.0,
        };
        Self(first_8(key))
    }
}

/// The first 8 bytes of a hash or key.
pub fn first_8(bytes: &[u8; 32]) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&bytes[..8]);
    prefix
}

/// Where the speaker's logs end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    /// `Logs::digest` of the speaker; equal digests mean equal sets of ops.
    pub digest: [u8; 8],
    /// Whether the listener shall answer with its own.
    pub ask: bool,
    /// One an author; empty where only the digest is compared.
    #[serde(deserialize_with = "at_most::<MAX_HEADS, _, _>")]
    pub entries: Vec<HeadEntry>,
}

/// Where one log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadEntry {
    /// Whose log.
    pub author: AuthorTag,
    /// The sequence number at the end of the longest chain.
    pub seq: u64,
    /// The first 8 bytes of the op id there.
    pub head: [u8; 8],
    /// A hash over the ops that are not on that chain, where there are any.
    pub aside: Option<[u8; 8]>,
}

/// Asks for the ops of one author, oldest first; the answer is at most 16 KiB of [`Ops`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Whose log.
    pub author: AuthorTag,
    /// The first sequence number that is wanted.
    pub from: u64,
}

/// Ops in their wire form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ops {
    /// Which [`Fetch`] it answers; absent where the speaker pushes new ops.
    pub reply: Option<Reply>,
    /// As many as fit, in the order of the log.
    #[serde(deserialize_with = "at_most::<MAX_OPS, _, _>")]
    pub ops: Vec<OpBytes>,
}

/// The place of an [`Ops`] message in the answer to a [`Fetch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whose log.
    pub author: AuthorTag,
    /// The place of this message in the answer, from 0.
    pub index: u8,
    /// How many messages of this answer follow.
    pub left: u8,
    /// The sequence number after the last op of this message.
    pub next: u64,
    /// Whether the speaker has nothing of this author after this answer.
    pub end: bool,
}

/// A signed op in its wire form, at most [`crate::membership::op::MAX_WIRE_LEN`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpBytes(#[serde(deserialize_with = "at_most::<MAX_OP, _, _>")] pub Vec<u8>);
