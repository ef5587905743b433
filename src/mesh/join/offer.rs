//! The proof that a sponsor speaks for a network: made by the sponsor, checked by the joiner.
//!
//! It holds the genesis, the root's log from its first op, and the sponsor's own `Grant`. The joiner
//! checks, in this order:
//! 1. `H(genesis)` is the network id of the invite;
//! 2. every op verifies under that network;
//! 3. the ops of the genesis's root are one chain from the first;
//! 4. one op is a `Grant` by an admin whom that chain added (and did not cut before the `Grant`), for
//!    the WireGuard key at the other end of the tunnel.
//!
//! A revocation of the sponsor cannot be seen here. A revoked sponsor can only waste the joiner's
//! time: what it grants counts nowhere.

use std::collections::BTreeMap;

use crate::identity::{AdminId, DeviceId, NetworkId, WgPublicKey, hash};
use crate::membership::{Author, Genesis, Logs, OpBody, OpId, Roster, SignedOp, Verified};
use crate::wire::control::join::{JoinOffer, MAX_PARTS};
use crate::wire::control::{MAX_MESSAGE, MAX_OPS, Nonce, OpBytes};

/// The most bytes of fields before the ops: kind 1, nonces 32, parts 2, genesis length 2, count 1.
const OVERHEAD: usize = 38;

/// What a joiner learnt from an offer that holds.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The network.
    pub genesis: Genesis,
    /// The same in its wire form.
    pub genesis_bytes: Vec<u8>,
    /// The sponsor.
    pub sponsor: DeviceId,
    /// The ops that were shown.
    pub ops: Vec<Verified<SignedOp>>,
}

/// Why an offer does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// The genesis has another hash.
    #[error("it shows another network than the invite's")]
    Network,
    /// An op is malformed or its signature does not verify.
    #[error("what it shows is not signed by the invite's network")]
    Signature,
    /// The root's ops are not one chain from the first.
    #[error("it shows a broken root log")]
    Chain,
    /// No admin's Grant names the key of the tunnel.
    #[error("no admin of the network certified it")]
    Uncertified,
}

/// The parts of an offer; `None` where this device has no `Grant`, or the root's log is too long.
pub fn make(
    genesis: &[u8],
    device: &DeviceId,
    roster: &Roster,
    logs: &Logs,
) -> Option<Vec<JoinOffer>> {
    let root = Author::Root(Genesis::decode(genesis).ok()?.root);
    let grant = logs.get(roster.get(device)?.grant)?;
    let mut parts: Vec<Vec<OpBytes>> = vec![Vec::new()];
    let mut room = MAX_MESSAGE - OVERHEAD - genesis.len();
    for op in logs.after(root, 1).chain(std::iter::once(grant)) {
        let wire = op.signed().encode();
        let full = parts.last().is_none_or(|part| part.len() == MAX_OPS);
        if wire.len() + 2 > room || full {
            parts.push(Vec::new());
            room = MAX_MESSAGE - OVERHEAD;
        }
        room -= wire.len() + 2;
        parts.last_mut()?.push(OpBytes(wire));
    }
    let count = u8::try_from(parts.len()).ok().filter(|count| *count <= MAX_PARTS)?;
    let part = |(part, ops)| JoinOffer {
        guest_nonce: Nonce::default(),
        nonce: Nonce::default(),
        part,
        parts: count,
        genesis: if part == 0 { genesis.to_vec() } else { Vec::new() },
        ops,
    };
    Some((0..count).zip(parts).map(part).collect())
}

/// The parts of an offer as they come in, for one guest nonce.
#[derive(Debug, Default)]
pub struct Parts {
    nonce: Option<Nonce>,
    parts: BTreeMap<u8, JoinOffer>,
}

impl Parts {
    /// Takes a part; returns the sponsor's nonce once every part is here. A part with another nonce
    /// or number of parts starts anew: the sponsor did too.
    pub fn add(&mut self, part: &JoinOffer) -> Option<Nonce> {
        if part.parts == 0 || part.parts > MAX_PARTS || part.part >= part.parts {
            return None;
        }
        let count = self.parts.values().next().map_or(part.parts, |first| first.parts);
        if self.nonce != Some(part.nonce) || count != part.parts {
            self.parts.clear();
            self.nonce = Some(part.nonce);
        }
        self.parts.insert(part.part, part.clone());
        (self.parts.len() == usize::from(part.parts)).then_some(part.nonce)
    }

    /// Checks the whole, for the tunnel to `sponsor`.
    pub fn verify(&self, network: &NetworkId, sponsor: &WgPublicKey) -> Result<Shown, OfferError> {
        let genesis = self.parts.get(&0).map_or(&[][..], |part| &part.genesis);
        let ops = self.parts.values().flat_map(|part| &part.ops);
        verify(genesis, ops, network, sponsor)
    }
}

fn verify<'a>(
    genesis_bytes: &[u8],
    ops: impl Iterator<Item = &'a OpBytes>,
    network: &NetworkId,
    sponsor: &WgPublicKey,
) -> Result<Shown, OfferError> {
    if hash(genesis_bytes) != network.0 {
        return Err(OfferError::Network);
    }
    let genesis = Genesis::decode(genesis_bytes).map_err(|_| OfferError::Network)?;
    let ops: Vec<Verified<SignedOp>> = ops
        .map(|wire| SignedOp::decode(&wire.0).and_then(|op| op.verify(network)))
        .collect::<Result<_, _>>()
        .map_err(|_| OfferError::Signature)?;
    let admins = admins(&genesis, &ops)?;
    let certified = ops.iter().find_map(|op| {
        let (OpBody::Grant(cert), Author::Admin(author)) = (&op.op().body, op.op().author) else {
            return None;
        };
        let counts = admins.get(&author).is_some_and(|last| op.op().seq <= *last);
        (counts && cert.wg == *sponsor).then_some(cert.id)
    });
    match certified {
        Some(sponsor) => Ok(Shown { genesis, genesis_bytes: genesis_bytes.to_vec(), sponsor, ops }),
        None => Err(OfferError::Uncertified),
    }
}

/// The admins that the root's chain made, each with the last sequence number that counts.
fn admins(
    genesis: &Genesis,
    ops: &[Verified<SignedOp>],
) -> Result<BTreeMap<AdminId, u64>, OfferError> {
    let mut chain: Vec<_> =
        ops.iter().filter(|op| op.op().author == Author::Root(genesis.root)).collect();
    chain.sort_by_key(|op| op.op().seq);
    let mut admins = BTreeMap::new();
    let mut prev = OpId::NONE;
    for (op, seq) in chain.into_iter().zip(1..) {
        if op.op().seq != seq || op.op().prev != prev {
            return Err(OfferError::Chain);
        }
        prev = op.id();
        match &op.op().body {
            OpBody::AdminAdd { admin, .. } => {
                admins.entry(*admin).or_insert(u64::MAX);
            }
            OpBody::AdminCut { admin, seq, .. } => {
                admins.insert(*admin, *seq);
            }
            OpBody::Grant(_)
            | OpBody::Revoke { .. }
            | OpBody::InviteOpen(_)
            | OpBody::InviteClose { .. }
            | OpBody::Unknown { .. } => {}
        }
    }
    Ok(admins)
}
