//! A set that forgets what is old, in constant time and bounded memory.

use std::collections::HashSet;
use std::hash::Hash;

/// The last `N` values, and up to as many from before them.
#[derive(Debug)]
pub(super) struct Recent<T, const N: usize> {
    last: HashSet<T>,
    before: HashSet<T>,
}

impl<T, const N: usize> Default for Recent<T, N> {
    fn default() -> Self {
        Self { last: HashSet::new(), before: HashSet::new() }
    }
}

impl<T: Eq + Hash, const N: usize> Recent<T, N> {
    /// Whether it was not there before.
    pub(super) fn insert(&mut self, value: T) -> bool {
        if self.last.contains(&value) {
            return false;
        }
        let new = !self.before.contains(&value);
        if self.last.len() >= N {
            self.before = std::mem::take(&mut self.last);
        }
        self.last.insert(value);
        new
    }

    pub(super) fn contains(&self, value: &T) -> bool {
        self.last.contains(value) || self.before.contains(value)
    }

    /// Each once.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.last.union(&self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_values_are_there_and_no_more_than_twice_as_many() {
        let mut recent = Recent::<usize, 10>::default();
        for value in 0..100 {
            assert!(recent.insert(value));
            assert!(!recent.insert(value));
            let kept: Vec<_> = recent.iter().copied().collect();
            assert!(kept.len() <= 20);
            assert!((value.saturating_sub(9)..=value).all(|value| kept.contains(&value)));
            assert!((0..100).all(|value| recent.contains(&value) == kept.contains(&value)));
        }
        // One that is seen again and again stays.
        let mut recent = Recent::<usize, 10>::default();
        assert!((1..100).filter(|value| recent.insert(0) | !recent.insert(*value)).eq([1]));
    }
}
