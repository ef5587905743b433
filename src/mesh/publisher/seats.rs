//! The seats this device takes at the rendezvous of invites.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::post::Post;
use super::seqs::Seqs;
use crate::identity::WgPublicKey;
use crate::membership::UnixTime;
use crate::membership::invite::InviteId;
use crate::wire::record::{Meeting, Rendezvous, Seat, SignedItem};

/// How long a rendezvous counts as fresh: the time in which the other side polls eagerly.
const FRESH: Duration = Duration::from_secs(600);

/// The least time between two stores of a seat for a change, fresh and later.
const GAP: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// How often a joining device stores its seat again: nobody else would notice that nodes left.
const JOINER_REFRESH: Duration = Duration::from_secs(60);

/// How often a sponsor stores its seat again, in seconds: an invite is open for a day, and a
/// person waits at the other end.
const SPONSOR_REFRESH_SECS: std::ops::Range<u64> = 15 * 60..25 * 60;

/// One seat.
struct Offer {
    rv: Rendezvous,
    seat: Seat,
    wg: Option<WgPublicKey>,
    since: Instant,
    post: Post,
}

/// The seats, one an invite.
#[derive(Default)]
pub(super) struct Seats(BTreeMap<InviteId, Offer>);

impl Seats {
    /// Takes a seat; `wg` is a sponsor's key.
    pub(super) fn take(
        &mut self,
        invite: InviteId,
        rv: &Rendezvous,
        who: (Seat, Option<WgPublicKey>),
        now: Instant,
    ) {
        let (seat, wg) = who;
        let mut post = Post::default();
        post.want_by(now);
        self.0.insert(invite, Offer { rv: rv.clone(), seat, wg, since: now, post });
    }

    /// Leaves.
    pub(super) fn leave(&mut self, invite: &InviteId) {
        self.0.remove(invite);
    }

    /// The own addresses changed.
    pub(super) fn change(&mut self, rng: &mut StdRng, now: Instant) {
        for offer in self.0.values_mut() {
            let gap = if now < offer.since + FRESH { GAP.0 } else { GAP.1 };
            offer.post.change(gap, rng, now);
        }
    }

    /// When a store begins or is given up.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.0.values().filter_map(|offer| offer.post.timeout()).min()
    }

    /// Begins the stores that are due.
    pub(super) fn store(
        &mut self,
        told: &[SocketAddr],
        seqs: &mut Seqs,
        rng: &mut StdRng,
        time: (UnixTime, Instant),
    ) -> Vec<(InviteId, SignedItem)> {
        let (unix, now) = time;
        let mut items = Vec::new();
        for (invite, offer) in &mut self.0 {
            if offer.post.is_due(rng, now) {
                offer.post.begin(1, now);
                let seq = seqs.next(offer.rv.seat_key(offer.seat), unix);
                let content = (offer.wg, told);
                let item = Meeting::seal(&offer.rv, offer.seat, content, seq, rng.random());
                items.push((*invite, item));
            }
        }
        items
    }

    /// A store ended.
    pub(super) fn end(&mut self, invite: &InviteId, ok: bool, rng: &mut StdRng, now: Instant) {
        let Some(offer) = self.0.get_mut(invite) else { return };
        let next = match offer.seat {
            Seat::Sponsor(_) => Duration::from_secs(rng.random_range(SPONSOR_REFRESH_SECS)),
            Seat::Joiner => JOINER_REFRESH,
        };
        offer.post.end(ok, next, rng, now);
    }

    /// The schedules.
    pub(super) fn posts(&mut self) -> impl Iterator<Item = &mut Post> {
        self.0.values_mut().map(|offer| &mut offer.post)
    }
}
