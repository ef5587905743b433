//! The simulated DHT: BEP 44 items that every device can store and find, with latency, loss and a
//! memory of two hours.

use std::collections::BTreeMap;
use std::time::Duration;

use ginnel::mesh::event::{DhtInput, PublishError};
use ginnel::wire::record::{DhtKey, SignedItem};
use rand::RngExt;
use rand::rngs::StdRng;

use super::net::HostId;

/// How the DHT behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Manners {
    /// The first value of a lookup comes after this.
    pub first: Duration,
    /// A lookup or a store ends after this.
    pub complete: Duration,
    /// Of a thousand operations, how many fail.
    pub failing: u16,
    /// Of a thousand look-ups, how many meet nodes that answer first, or only, with an older item.
    pub stale: u16,
    /// Of a thousand look-ups, how many meet nodes that say that there is nothing.
    pub withheld: u16,
    /// Nothing works.
    pub dead: bool,
}

impl Manners {
    /// What the lab's nodes do at 25 ms one way: three rounds to the first value.
    pub const FAIR: Self = Self {
        first: Duration::from_millis(150),
        complete: Duration::from_millis(400),
        failing: 0,
        stale: 0,
        withheld: 0,
        dead: false,
    };
}

/// How long nodes keep an item.
const MEMORY: Duration = Duration::from_secs(2 * 3600);

/// How long an operation on a dead DHT takes to fail.
const TIME_OUT: Duration = Duration::from_secs(2);

/// Operations of every device so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Operations {
    /// Stores.
    pub publishes: u64,
    /// Lookups.
    pub lookups: u64,
}

/// The stored items.
#[derive(Debug)]
pub struct Dht {
    /// The newest of each key, and when it was stored.
    items: BTreeMap<DhtKey, (Duration, SignedItem)>,
    /// The one before, which nodes that nobody reached with the newest still have.
    older: BTreeMap<DhtKey, SignedItem>,
    /// How it behaves.
    pub manners: Manners,
    /// What was asked of it.
    pub operations: Operations,
    /// The host that meets none but hostile nodes, and whether they answer with garbage.
    eclipsed: Option<(HostId, bool)>,
}

impl Dht {
    /// An empty one.
    pub fn new(manners: Manners) -> Self {
        Self {
            items: BTreeMap::new(),
            older: BTreeMap::new(),
            manners,
            operations: Operations::default(),
            eclipsed: None,
        }
    }

    /// Stores an item: what the device hears, and when. Nobody hears a device that is cut off.
    pub fn publish(
        &mut self,
        item: SignedItem,
        cut: bool,
        now: Duration,
        rng: &mut StdRng,
    ) -> Vec<(Duration, DhtInput)> {
        self.operations.publishes += 1;
        let key = item.key;
        if cut || self.fails(rng) {
            return vec![(TIME_OUT, DhtInput::Published(key, Err(PublishError::NoNodes)))];
        }
        let result = self.store(item, now);
        vec![(self.manners.complete, DhtInput::Published(key, result))]
    }

    fn store(&mut self, item: SignedItem, now: Duration) -> Result<u32, PublishError> {
        assert!(item.verify(), "a node of the DHT would refuse the signature");
        assert!(item.value.len() <= 1000, "a node of the DHT would refuse the length");
        let kept = |(stored, _): &&(Duration, _)| now.saturating_sub(*stored) < MEMORY;
        if let Some((_, stored)) = self.items.get(&item.key).filter(kept) {
            if item.cas.is_some_and(|cas| cas != stored.seq) {
                return Err(PublishError::CasFailed);
            }
            if item.seq < stored.seq {
                return Err(PublishError::NotMostRecent);
            }
        }
        let key = item.key;
        if let Some((_, before)) = self.items.insert(key, (now, item)) {
            self.older.insert(key, before);
        }
        Ok(20)
    }

    /// Finds an item: what the device hears, and when. Nobody hears a device that is cut off.
    pub fn lookup(
        &mut self,
        key: DhtKey,
        cut: bool,
        now: Duration,
        rng: &mut StdRng,
    ) -> Vec<(Duration, DhtInput)> {
        self.operations.lookups += 1;
        if cut || self.fails(rng) {
            return vec![(TIME_OUT, DhtInput::LookupDone(key))];
        }
        let kept = |(stored, _): &&(Duration, _)| now.saturating_sub(*stored) < MEMORY;
        let found = self.items.get(&key).filter(kept).map(|(_, item)| item.clone());
        let Manners { first, complete, stale, withheld, .. } = self.manners;
        let mut values = Vec::new();
        if !chance(withheld, rng) {
            if chance(stale, rng) {
                values.extend(self.older.get(&key).cloned());
                values.extend(found.filter(|_| chance(500, rng)));
            } else {
                values.extend(found);
            }
        }
        let values = values.into_iter().map(|item| (first, DhtInput::Value(item)));
        values.chain([(complete, DhtInput::LookupDone(key))]).collect()
    }

    /// From now on all nodes that this host meets are hostile: they keep to themselves what it
    /// stores, and answer with nothing, or with `garbage`.
    pub fn eclipse(&mut self, host: HostId, garbage: bool) {
        self.eclipsed = Some((host, garbage));
    }

    /// Whether all nodes that the host meets are hostile.
    pub fn is_eclipsed(&self, host: HostId) -> bool {
        self.eclipsed.is_some_and(|(eclipsed, _)| eclipsed == host)
    }

    /// A hostile node says that it stored an item.
    pub fn swallow(&mut self, item: &SignedItem) -> Vec<(Duration, DhtInput)> {
        self.operations.publishes += 1;
        vec![(self.manners.complete, DhtInput::Published(item.key, Ok(20)))]
    }

    /// What a host hears of a look-up, where all nodes are hostile that it meets.
    pub fn darken(
        &self,
        host: HostId,
        heard: Vec<(Duration, DhtInput)>,
    ) -> Vec<(Duration, DhtInput)> {
        if !self.is_eclipsed(host) {
            return heard;
        }
        let garbage = self.eclipsed.is_some_and(|(_, garbage)| garbage);
        let spoil = |(after, input)| match input {
            DhtInput::Value(_) if !garbage => None,
            DhtInput::Value(mut item) => {
                item.value.iter_mut().for_each(|byte| *byte ^= 0x55);
                item.seq += 1;
                Some((after, DhtInput::Value(item)))
            }
            other => Some((after, other)),
        };
        heard.into_iter().filter_map(spoil).collect()
    }

    fn fails(&self, rng: &mut StdRng) -> bool {
        self.manners.dead || chance(self.manners.failing, rng)
    }
}

/// Whether something happens that happens so many times in a thousand.
fn chance(thousandths: u16, rng: &mut StdRng) -> bool {
    rng.random_range(0..1000) < thousandths
}
