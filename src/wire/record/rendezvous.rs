//! The rendezvous of an invite: where a joining device and its sponsors find each other.
//!
//! From the invite's secret `rv`, which the token and every member hold, come the keys of five
//! items: four seats for sponsors (Ed25519 seed `KDF(rv, "sponsor", [seat])`) and one for the
//! joining device (`KDF(rv, "joiner", "")`). They are sealed under `rv` as records are under
//! `K_net`. A sponsor tells its WireGuard key and endpoints; the joining device only endpoints,
//! nothing that names it.
//!
//! Age is not judged: a joining device may not know the time yet, an invite lives for days at
//! most, and a stale address costs one unanswered check. The newest `seq` wins.
//!
//! Plaintext: `version 1 ‖ has key 1 ‖ WireGuard key 32 or zeros ‖ endpoints`.

use std::fmt;
use std::net::SocketAddr;

use zeroize::Zeroizing;

use super::{
    DhtKey, ItemKey, NONCE_LEN, Reader, RecordError, SignedItem, endpoints, open_item, seal_item,
};
use crate::identity::blind::DhtSecret;
use crate::identity::{WgPublicKey, kdf};

/// How many sponsors publish: enough that one is reachable, few enough to poll.
pub const MAX_SPONSORS: u8 = 4;

/// The version of the plaintext.
const VERSION: u8 = 1;

/// The rendezvous secret of an invite (`rv`).
#[derive(Clone, PartialEq, Eq)]
pub struct Rendezvous(Zeroizing<[u8; 32]>);

/// Whose item it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seat {
    /// One of [`MAX_SPONSORS`] sponsors.
    Sponsor(u8),
    /// The joining device.
    Joiner,
}

impl Seat {
    /// Reads the plaintext of this seat: a sponsor's WireGuard key, and endpoints. That it comes
    /// from somebody who holds the invite, only [`Meeting::open`] says.
    pub fn decode(
        self,
        plain: &[u8],
    ) -> Result<(Option<WgPublicKey>, Vec<SocketAddr>), RecordError> {
        let mut input = Reader(plain);
        if input.byte()? != VERSION {
            return Err(RecordError::Malformed);
        }
        let (has_key, key) = (input.byte()?, input.array()?);
        let wg = match (has_key, self) {
            (1, Seat::Sponsor(_)) => Some(WgPublicKey(key)),
            (0, Seat::Joiner) if key == [0; 32] => None,
            _ => return Err(RecordError::Malformed),
        };
        let endpoints = endpoints::take_list(&mut input)?;
        input.finish()?;
        Ok((wg, endpoints))
    }
}

/// An item of the rendezvous that was opened and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    seq: i64,
    wg: Option<WgPublicKey>,
    endpoints: Vec<SocketAddr>,
}

impl Rendezvous {
    /// The secret with these bytes.
    pub fn new(rv: [u8; 32]) -> Self {
        Self(Zeroizing::new(rv))
    }

    /// The secret bytes.
    pub fn key(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key under which `seat` publishes.
    pub fn seat_key(&self, seat: Seat) -> DhtKey {
        DhtKey(self.writer(seat).public())
    }

    fn writer(&self, seat: Seat) -> DhtSecret {
        let seed = match seat {
            Seat::Sponsor(number) => kdf(&*self.0, "sponsor", &[number]),
            Seat::Joiner => kdf(&*self.0, "joiner", &[]),
        };
        DhtSecret::from_seed(&seed)
    }
}

impl fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rendezvous([redacted])")
    }
}

impl Meeting {
    /// Seals what `seat` tells: a sponsor its WireGuard key, a joining device none.
    pub fn seal(
        rv: &Rendezvous,
        seat: Seat,
        content: (Option<WgPublicKey>, &[SocketAddr]),
        seq: i64,
        nonce: [u8; NONCE_LEN],
    ) -> SignedItem {
        let (wg, told) = content;
        let mut plain = vec![VERSION, u8::from(wg.is_some())];
        plain.extend_from_slice(&wg.map_or([0; 32], |key| key.0));
        endpoints::put_list(&mut plain, told);
        seal_item(&rv.writer(seat), rv.key(), plain, seq, nonce)
    }

    /// Checks and opens what `seat` tells.
    pub fn open(item: &SignedItem, rv: &Rendezvous, seat: Seat) -> Result<Self, RecordError> {
        let plain = open_item(item, &ItemKey::new(rv.seat_key(seat), rv.key()))?;
        let (wg, endpoints) = seat.decode(&plain)?;
        Ok(Self { seq: item.seq, wg, endpoints })
    }

    /// The sequence number; the newest wins.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// The sponsor's WireGuard key.
    pub fn wg(&self) -> Option<WgPublicKey> {
        self.wg
    }

    /// Where it may be reached; usable or private, never worse.
    pub fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> Vec<SocketAddr> {
        vec!["203.0.113.4:9".parse().unwrap(), "192.168.0.4:9".parse().unwrap()]
    }

    #[test]
    fn each_side_opens_what_the_other_tells() {
        let rv = Rendezvous::new([5; 32]);
        let wg = WgPublicKey([8; 32]);
        let content = (Some(wg), &endpoints()[..]);
        let item = Meeting::seal(&rv, Seat::Sponsor(2), content, 7, [1; NONCE_LEN]);
        let sponsor = Meeting::open(&item, &rv, Seat::Sponsor(2)).unwrap();
        assert_eq!((sponsor.wg(), sponsor.seq()), (Some(wg), 7));
        assert_eq!(sponsor.endpoints(), endpoints());
        let item = Meeting::seal(&rv, Seat::Joiner, (None, &endpoints()), 8, [1; NONCE_LEN]);
        let joiner = Meeting::open(&item, &rv, Seat::Joiner).unwrap();
        assert_eq!((joiner.wg(), joiner.seq()), (None, 8));
    }

    #[test]
    fn the_five_seats_have_five_keys_of_each_invite() {
        let seats = [0, 1, 2, 3].map(Seat::Sponsor).into_iter().chain([Seat::Joiner]);
        let keys: std::collections::BTreeSet<_> = seats
            .flat_map(|seat| [[1; 32], [2; 32]].map(|rv| Rendezvous::new(rv).seat_key(seat)))
            .collect();
        assert_eq!(keys.len(), 10);
    }

    #[test]
    fn other_invites_seats_and_forms_are_refused() {
        let rv = Rendezvous::new([5; 32]);
        let item = Meeting::seal(&rv, Seat::Joiner, (None, &endpoints()), 8, [1; NONCE_LEN]);
        let other = Rendezvous::new([6; 32]);
        assert_eq!(Meeting::open(&item, &other, Seat::Joiner), Err(RecordError::Key));
        assert_eq!(Meeting::open(&item, &rv, Seat::Sponsor(0)), Err(RecordError::Key));
        let wg = Some(WgPublicKey([8; 32]));
        let keyed = Meeting::seal(&rv, Seat::Joiner, (wg, &[]), 8, [1; NONCE_LEN]);
        assert_eq!(Meeting::open(&keyed, &rv, Seat::Joiner), Err(RecordError::Malformed));
        let keyless = Meeting::seal(&rv, Seat::Sponsor(0), (None, &[]), 8, [1; NONCE_LEN]);
        let opened = Meeting::open(&keyless, &rv, Seat::Sponsor(0));
        assert_eq!(opened, Err(RecordError::Malformed));
    }
}
