//! The keys under which things are looked up, computed once.

use std::collections::BTreeMap;
use std::time::Instant;

use super::search::Target;
use crate::identity::DeviceId;
use crate::membership::UnixTime;
use crate::membership::invite::InviteId;
use crate::mesh::wall::Wall;
use crate::wire::record::{
    BellKey, DhtKey, Epoch, EpochTime, NetworkSecret, RecordKey, Rendezvous, bell_epoch,
    device_epoch,
};

/// The most records' keys that are kept, 200 bytes each: of the devices that are looked for at one
/// time there are hardly ever more.
const MAX_KEPT: usize = 256;

/// What keys are computed from, and those that were.
#[derive(Default)]
pub(super) struct Keys {
    secret: Option<NetworkSecret>,
    pub(super) wall: Option<Wall>,
    pub(super) invites: BTreeMap<InviteId, Rendezvous>,
    records: BTreeMap<(DeviceId, Epoch), RecordKey>,
    bell: Option<BellKey>,
}

impl Keys {
    /// The network's secret, which may replace an older one.
    pub(super) fn set_secret(&mut self, secret: NetworkSecret) {
        self.secret = Some(secret);
        self.records.clear();
        self.bell = None;
    }

    /// Whether the network is known.
    pub(super) fn has_secret(&self) -> bool {
        self.secret.is_some()
    }

    /// What the wall clock shows; 1970 where nobody said.
    pub(super) fn unix(&self, now: Instant) -> UnixTime {
        self.wall.map_or(UnixTime::default(), |wall| wall.at(now))
    }

    /// Whether there is a key to look up; of members' items only once the time is known.
    pub(super) fn has_key(&self, target: &Target) -> bool {
        matches!(target, Target::Seat(..)) || (self.secret.is_some() && self.wall.is_some())
    }

    /// The target's epoch; `None` for a seat, or where the network or the time is unknown.
    pub(super) fn epoch(&self, target: &Target, now: Instant) -> Option<EpochTime> {
        let (secret, unix) = (self.secret.as_ref()?, self.wall?.at(now));
        match target {
            Target::Device(device) => Some(device_epoch(device, secret, unix)),
            Target::Bell => Some(bell_epoch(secret, unix)),
            Target::Seat(..) => None,
        }
    }

    /// What to look up for the target, in this epoch or in the likelier neighbouring one.
    pub(super) fn key(
        &mut self,
        target: &Target,
        neighbour: bool,
        now: Instant,
    ) -> Option<(DhtKey, Epoch)> {
        if let Target::Seat(invite, seat) = target {
            return Some((self.invites.get(invite)?.seat_key(*seat), Epoch(0)));
        }
        let time = self.epoch(target, now)?;
        let epoch = if neighbour { time.neighbour() } else { time.epoch };
        let key = match target {
            Target::Device(device) => self.record(device, epoch)?.dht(),
            _ => self.bell(epoch)?.dht(),
        };
        Some((key, epoch))
    }

    /// The key of a device's record.
    pub(super) fn record(&mut self, device: &DeviceId, epoch: Epoch) -> Option<&RecordKey> {
        let secret = self.secret.as_ref()?;
        let at = (*device, epoch);
        if !self.records.contains_key(&at) {
            let key = RecordKey::new(device, secret, epoch)?;
            if self.records.len() >= MAX_KEPT {
                self.records.clear();
            }
            self.records.insert(at, key);
        }
        self.records.get(&at)
    }

    /// The doorbell's key.
    pub(super) fn bell(&mut self, epoch: Epoch) -> Option<&BellKey> {
        let secret = self.secret.as_ref()?;
        if self.bell.as_ref().is_none_or(|bell| bell.epoch() != epoch) {
            self.bell = Some(BellKey::new(secret, epoch));
        }
        self.bell.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::IdSecret;
    use crate::wire::record::EPOCH_SECS;

    fn device(number: u16) -> DeviceId {
        let mut seed = [3; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        IdSecret::from_seed(seed).public()
    }

    #[test]
    fn a_key_is_of_its_network_device_and_epoch_and_no_more_are_kept_than_fit() {
        let now = Instant::now();
        let mut keys =
            Keys { wall: Some(Wall::new(UnixTime(1_800_000_000), now)), ..Keys::default() };
        let mut seen = std::collections::BTreeSet::new();
        for network in [1, 2] {
            keys.set_secret(NetworkSecret::new(1, [network; 32]));
            for number in 0..200 {
                let target = Target::Device(device(number));
                let later = now + Duration::from_secs(EPOCH_SECS);
                for (at, neighbour) in [(now, false), (later, false), (now, false)] {
                    let (key, epoch) = keys.key(&target, neighbour, at).unwrap();
                    let secret = NetworkSecret::new(1, [network; 32]);
                    assert_eq!(key, RecordKey::new(&device(number), &secret, epoch).unwrap().dht());
                    seen.insert(key);
                }
                assert!(keys.records.len() <= MAX_KEPT);
            }
            seen.extend(
                [now, now + Duration::from_secs(EPOCH_SECS)]
                    .map(|at| keys.key(&Target::Bell, false, at).unwrap().0),
            );
        }
        assert_eq!(seen.len(), 2 * (2 * 200 + 2));
    }
}
