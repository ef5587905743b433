//! What the values say that the DHT gave: whether they are what was looked for, and news.

use std::time::Instant;

use super::search::Target;
use super::{Directory, Found, Source};
use crate::identity::DeviceId;
use crate::membership::UnixTime;
use crate::membership::invite::InviteId;
use crate::wire::record::{Bell, Epoch, Meeting, Record, Seat, SignedItem, is_future};

impl Directory {
    /// A value came: what it says is told, where it is one that was looked for and is news.
    pub(super) fn take_value(&mut self, item: &SignedItem, now: Instant) {
        let (target, epoch, first) = match self.search.flight(&item.key) {
            Some(flight) => (flight.target, flight.epoch, !flight.hit),
            // The publisher reads the doorbell too.
            None => match self.keys.key(&Target::Bell, false, now) {
                Some((key, epoch)) if key == item.key => (Target::Bell, epoch, false),
                _ => return,
            },
        };
        let valid = match target {
            Target::Device(device) => self.take_record(item, device, (epoch, first), now),
            Target::Bell => self.take_bell(item, (epoch, first), now),
            Target::Seat(invite, seat) => self.take_seat(item, invite, (seat, first), now),
        };
        if valid.is_none() {
            tracing::debug!(seq = item.seq, "an item of the DHT was refused");
        } else if let Some(flight) = self.search.flight(&item.key) {
            flight.hit = true;
        }
    }

    fn take_record(
        &mut self,
        item: &SignedItem,
        device: DeviceId,
        flight: (Epoch, bool),
        now: Instant,
    ) -> Option<()> {
        let (epoch, first) = flight;
        let unix = self.keys.wall?.at(now);
        let record = Record::open(item, self.keys.record(&device, epoch)?, unix).ok()?;
        let at = UnixTime(u64::try_from(record.seq()).ok()?);
        let endpoints = &record.body().endpoints;
        if self.book.accept(device, Source::Record, endpoints, at) || first {
            self.tell(device, endpoints, Source::Record);
        }
        Some(())
    }

    fn take_bell(&mut self, item: &SignedItem, flight: (Epoch, bool), now: Instant) -> Option<()> {
        let (epoch, first) = flight;
        let unix = self.keys.wall?.at(now);
        let bell = Bell::open(item, self.keys.bell(epoch)?, unix).ok()?;
        for ring in bell.rings() {
            if Some(ring.device) == self.own {
                continue;
            }
            let news = self.book.accept(ring.device, Source::Bell, &ring.endpoints, ring.at);
            if news || (first && self.is_wanted(&ring.device)) {
                self.tell(ring.device, &ring.endpoints, Source::Bell);
            }
        }
        Some(())
    }

    fn take_seat(
        &mut self,
        item: &SignedItem,
        invite: InviteId,
        flight: (Seat, bool),
        now: Instant,
    ) -> Option<()> {
        let (seat, first) = flight;
        let meeting = Meeting::open(item, self.keys.invites.get(&invite)?, seat).ok()?;
        let endpoints = self.book.triable(meeting.endpoints());
        let chase = self.search.chases.get_mut(&Target::Seat(invite, seat))?;
        let newer = meeting.seq() > chase.seat_seq;
        if endpoints.is_empty() || !(newer || (first && meeting.seq() == chase.seat_seq)) {
            return Some(());
        }
        // Everybody who holds the invite can write here. Nobody's word closes the ears for ever.
        if !self.keys.wall.is_some_and(|wall| is_future(meeting.seq(), wall.at(now))) {
            chase.seat_seq = meeting.seq();
        }
        self.events.push_back(match meeting.wg() {
            Some(wg) => Found::Sponsor { invite, wg, endpoints },
            None => Found::Joiner { invite, endpoints },
        });
        Some(())
    }
}
