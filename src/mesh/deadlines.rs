//! When something is next due, among many: a queue of deadlines in which each key has at most one.
//!
//! Setting, clearing and taking a deadline cost O(log n), asking for the first one too, so that a
//! thousand peers of which none is due cost nothing on a tick. Each deadline carries the reason for it,
//! which a busy loop's trace then shows.
//!
//! Deadlines of the same instant come out in the order of their keys: the same run twice gives the
//! same order.

use std::collections::BTreeMap;
use std::time::Instant;

/// At most one deadline a key.
#[derive(Debug, Clone)]
pub struct Deadlines<K> {
    by_key: BTreeMap<K, (Instant, &'static str)>,
    queue: BTreeMap<(Instant, K), &'static str>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), queue: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Deadlines<K> {
    /// Puts `deadline` in the place of the one that `key` had, or clears it.
    pub fn set(&mut self, key: K, deadline: Option<(Instant, &'static str)>) {
        let before = match deadline {
            Some(deadline) => self.by_key.insert(key, deadline),
            None => self.by_key.remove(&key),
        };
        if before == deadline {
            return;
        }
        if let Some((at, _)) = before {
            self.queue.remove(&(at, key));
        }
        if let Some((at, reason)) = deadline {
            self.queue.insert((at, key), reason);
        }
    }

    /// Gives `key` this deadline where it has none.
    pub fn set_if_none(&mut self, key: K, deadline: (Instant, &'static str)) {
        if !self.by_key.contains_key(&key) {
            self.set(key, Some(deadline));
        }
    }

    /// The deadline of `key`.
    pub fn get(&self, key: &K) -> Option<Instant> {
        self.by_key.get(key).map(|(at, _)| *at)
    }

    /// The first deadline and its reason.
    pub fn poll(&self) -> Option<(Instant, &'static str)> {
        let ((at, _), reason) = self.queue.first_key_value()?;
        Some((*at, *reason))
    }

    /// Takes the key whose deadline is the first and at or before `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        let first = self.queue.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let ((_, key), _) = first.remove_entry();
        self.by_key.remove(&key);
        Some(key)
    }

    /// How many keys have a deadline.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether no key has a deadline.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn start() -> Instant {
        crate::mesh::rate::tests::start()
    }

    #[test]
    fn the_earliest_deadline_comes_first_and_names_its_reason() {
        let t = start();
        let mut deadlines = Deadlines::default();
        deadlines.set(1, Some((t + Duration::from_secs(3), "late")));
        deadlines.set(2, Some((t + Duration::from_secs(1), "early")));
        assert_eq!(deadlines.poll(), Some((t + Duration::from_secs(1), "early")));
        assert_eq!(deadlines.pop_due(t), None);
        assert_eq!(deadlines.pop_due(t + Duration::from_secs(2)), Some(2));
        assert_eq!(deadlines.pop_due(t + Duration::from_secs(2)), None);
        assert_eq!(deadlines.pop_due(t + Duration::from_secs(9)), Some(1));
        assert!(deadlines.is_empty());
    }

    #[test]
    fn a_key_has_only_its_latest_deadline() {
        let t = start();
        let mut deadlines = Deadlines::default();
        deadlines.set('a', Some((t, "one")));
        deadlines.set('a', Some((t, "same time, another reason")));
        assert_eq!(deadlines.poll(), Some((t, "same time, another reason")));
        deadlines.set('a', Some((t + Duration::from_secs(5), "two")));
        assert_eq!(deadlines.pop_due(t), None);
        assert_eq!(deadlines.len(), 1);
        deadlines.set('a', None);
        assert_eq!(deadlines.poll(), None);
        assert_eq!(deadlines.pop_due(t + Duration::from_secs(9)), None);
    }

    #[test]
    fn ties_come_out_in_the_order_of_their_keys() {
        let t = start();
        let mut deadlines = Deadlines::default();
        for key in [3, 1, 2] {
            deadlines.set(key, Some((t, "tie")));
        }
        let order: Vec<_> = std::iter::from_fn(|| deadlines.pop_due(t)).collect();
        assert_eq!(order, [1, 2, 3]);
    }
}
