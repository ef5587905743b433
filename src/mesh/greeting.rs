//! The greeting at the start of every tunnel between members: `Hello`, then `Proof`.
//!
//! WireGuard has proved the peer's X25519 key, and the roster binds that key to a device. The
//! proof shows in addition that the peer holds the device's *signing* key now. Only a proven peer
//! is told ops and secrets.
//!
//! Either side may say `Hello` first. Whoever hears a `Hello` with a new nonce answers with its own
//! and a `Proof`; both messages are idempotent, so a lost one is made good by saying `Hello` again,
//! which an unproven side does with growing pauses.

use std::time::{Duration, Instant};

use crate::identity::{DeviceId, IdSecret, NetworkId, WgPublicKey};
use crate::wire::control::{Nonce, Proof, ProofEnd};

/// How long the answer to the first `Hello` may take; doubled with each try.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// After this many doublings the pause stays: 32 s.
const MAX_DOUBLINGS: u32 = 6;

/// How far the greeting of one peer is.
#[derive(Debug, Default)]
pub struct Greeting {
    mine: Option<Nonce>,
    theirs: Option<Nonce>,
    proven: bool,
    tries: u32,
    again: Option<Instant>,
}

/// The two ends of a tunnel, as a proof names them.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The network.
    pub network: NetworkId,
    /// The WireGuard key of this device.
    pub mine: WgPublicKey,
    /// The WireGuard key of the peer.
    pub theirs: WgPublicKey,
}

impl Greeting {
    /// Whether the peer's proof verified on this tunnel.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// The nonce to say at `now`: `fresh` the first time, the same again later.
    pub fn speak(&mut self, fresh: Nonce, now: Instant) -> Nonce {
        self.tries += 1;
        let pause = ANSWER_TIME * 2u32.pow(self.tries.min(MAX_DOUBLINGS));
        self.again = (!self.proven).then(|| now + pause);
        *self.mine.get_or_insert(fresh)
    }

    /// When to say `Hello` again, where the peer has not proved itself.
    pub fn again_at(&self) -> Option<Instant> {
        self.again
    }

    /// The peer said `Hello`. True where the nonce is new, so that it must be answered.
    pub fn hear(&mut self, nonce: Nonce) -> bool {
        let new = self.theirs != Some(nonce);
        if new {
            self.theirs = Some(nonce);
            self.proven = false;
            self.tries = 0;
        }
        new
    }

    /// Our proof, once both nonces were said.
    pub fn prove(&self, ends: &Ends, id: &IdSecret) -> Option<Proof> {
        let (mine, theirs) = self.ends(ends)?;
        Some(Proof::sign(id, &ends.network, &mine, &theirs))
    }

    /// Checks the peer's proof. True where it verifies.
    pub fn check(&mut self, ends: &Ends, device: &DeviceId, proof: &Proof) -> bool {
        let Some((mine, theirs)) = self.ends(ends) else { return false };
        let holds = proof.verify(device, &ends.network, &theirs, &mine);
        if holds {
            self.proven = true;
            self.again = None;
        }
        holds
    }

    fn ends(&self, ends: &Ends) -> Option<(ProofEnd, ProofEnd)> {
        let mine = ProofEnd { nonce: self.mine?, wg: ends.mine };
        let theirs = ProofEnd { nonce: self.theirs?, wg: ends.theirs };
        Some((mine, theirs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::WgSecret;

    #[test]
    fn a_proof_convinces_only_the_other_end_of_the_same_tunnel() {
        let now = Instant::now();
        let (a, b) = (IdSecret::from_seed([1; 32]), IdSecret::from_seed([2; 32]));
        let wg = |n| WgSecret::from_bytes([n; 32]).public();
        let network = NetworkId([9; 32]);
        let ends_a = Ends { network, mine: wg(1), theirs: wg(2) };
        let ends_b = Ends { network, mine: wg(2), theirs: wg(1) };
        let (mut at_a, mut at_b) = (Greeting::default(), Greeting::default());
        at_b.hear(at_a.speak([3; 16], now));
        at_a.hear(at_b.speak([4; 16], now));
        let proof = at_a.prove(&ends_a, &a).expect("both nonces were said");
        assert!(!at_b.check(&ends_b, &b.public(), &proof));
        assert!(!at_b.check(&Ends { theirs: wg(3), ..ends_b }, &a.public(), &proof));
        assert!(!at_b.is_proven() && at_b.again_at().is_some());
        assert!(at_b.check(&ends_b, &a.public(), &proof));
        assert!(at_b.is_proven() && at_b.again_at().is_none());
        assert!(at_b.hear([5; 16]), "a restarted peer must prove itself again");
        assert!(!at_b.is_proven());
    }
}
