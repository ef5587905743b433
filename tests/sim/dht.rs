//! The simulated DHT: BEP 44 items that every device can store and find, with latency, loss and a
//! memory of two hours.

use std::collections::BTreeMap;
use std::time::Duration;

use ginnel::mesh::event::{DhtInput, PublishError};
use ginnel::wire::record::{DhtKey, SignedItem};
use rand::RngExt;
use rand::rngs::StdRng;

/// How the DHT behaves.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// The first value of a lookup comes after this.
    pub first: Duration,
    /// A lookup or a store ends after this.
    pub complete: Duration,
    /// Of a thousand operations, how many fail.
    pub failing: u16,
    /// Nothing works.
    pub dead: bool,
}

impl Manners {
    /// What the lab's nodes do at 25 ms one way: three rounds to the first value.
    pub const FAIR: Self = Self {
        first: Duration::from_millis(150),
        complete: Duration::from_millis(400),
        failing: 0,
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
    items: BTreeMap<DhtKey, (Duration, SignedItem)>,
    /// How it behaves.
    pub manners: Manners,
    /// What was asked of it.
    pub operations: Operations,
}

impl Dht {
    /// An empty one.
    pub fn new(manners: Manners) -> Self {
        Self { items: BTreeMap::new(), manners, operations: Operations::default() }
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
        self.items.insert(item.key, (now, item));
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
        let value = found.map(|item| (self.manners.first, DhtInput::Value(item)));
        let done = (self.manners.complete, DhtInput::LookupDone(key));
        value.into_iter().chain([done]).collect()
    }

    fn fails(&self, rng: &mut StdRng) -> bool {
        self.manners.dead || rng.random_range(0..1000) < self.manners.failing
    }
}
