//! Whoever rings the doorbell, or beacons, looks for company: whom to call of those that one hears.
//!
//! Two lonely devices must find one another, so one that has hardly any tunnel calls whomever it hears
//! of. But after a power cut, or on a Monday morning in an office, all ring at once, and would
//! everybody call everybody, what a start costs a device would grow with the network. So not many are
//! called at once; a device that has [`ENOUGH`] tunnels calls one only now and then, and gives it up
//! soon: many hear each ring, so that whoever rings late is called soon. Nobody is asked to introduce
//! them.

use std::time::{Duration, Instant};

use super::peer::Who;
use super::rate::Bucket;
use super::tags::Caller;
use super::*;
use crate::identity::DeviceId;

/// Tunnels to members with which a device looks for no company: they introduce it to the others.
const ENOUGH: usize = 2;

/// How often a device with fewer calls one more, and how many at once: as many as a ring of the
/// doorbell shows.
const CALL_EVERY: Duration = Duration::from_secs(1);
const CALLS_AT_ONCE: u32 = 8;

/// How often a device that has enough calls one.
const ANSWER_EVERY: Duration = Duration::from_secs(15);

/// How long whoever is called may take to call too, as its NAT may demand: it reads the doorbell every
/// five seconds at first, but ever more seldom. Who has enough company does not wait for those.
const COMPANY_FOR: Duration = Duration::from_secs(60);
const ANSWER_FOR: Duration = Duration::from_secs(15);

/// How many that look for company may be called.
pub(super) struct Company {
    calls: Bucket,
    answers: Bucket,
}

impl Default for Company {
    fn default() -> Self {
        Self {
            calls: Bucket::new(1, CALL_EVERY, CALLS_AT_ONCE),
            answers: Bucket::new(1, ANSWER_EVERY, 1),
        }
    }
}

impl Mesh {
    /// The peer of a member that looks for company, taken into use where it is not and shall be.
    pub(super) fn keep_company(&mut self, device: &DeviceId, now: Instant) -> Option<PeerKey> {
        if let Some(known) = self.peers.member(device) {
            return Some(known);
        }
        let enough =
            self.peers.iter().filter(|peer| peer.is_company()).take(ENOUGH).count() == ENOUGH;
        let remote = self.ledger.roster().get(device)?.wg;
        let (allowance, time) = match enough {
            true => (&mut self.company.answers, ANSWER_FOR),
            false => (&mut self.company.calls, COMPANY_FOR),
        };
        if !allowance.take(1, now) {
            return None;
        }
        // Where it is, it says itself: the DHT need not be asked.
        let key = self.bring(Caller { who: Who::Member(*device), remote }, now)?;
        let peer = self.peers.touch(key)?;
        peer.wanted_until = now + time;
        Some(key)
    }
}
