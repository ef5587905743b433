//! The replay window (paper, section 5.4.6) as the ring of RFC 6479: blocks of bits that are cleared
//! when the newest counter comes to them, so nothing is ever shifted.

/// Bits a block.
const BLOCK: u64 = u64::BITS as u64;

/// Blocks of the ring, a power of two. With several receive queues and batches of 64, datagrams
/// arrive hundreds out of order; Linux' WireGuard has the same 8,192 bits.
const BLOCKS: u64 = 128;

/// A counter further behind the newest than this is refused: one block is always being filled.
pub(super) const WINDOW: u64 = (BLOCKS - 1) * BLOCK;

/// Which counters of one session were received.
#[derive(Debug)]
pub(super) struct ReplayWindow {
    /// One past the newest.
    next: u64,
    ring: [u64; BLOCKS as usize],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, ring: [0; BLOCKS as usize] }
    }
}

impl ReplayWindow {
    /// Whether `counter` is new. To be asked before the datagram is opened, as it costs nothing.
    pub(super) fn is_new(&self, counter: u64) -> bool {
        counter >= self.next
            || (self.next - counter <= WINDOW && self.block(counter) & bit(counter) == 0)
    }

    /// Notes `counter`, which [`is_new`](Self::is_new) and below 2^64 − 1, of a datagram that was authentic.
    pub(super) fn note(&mut self, counter: u64) {
        if counter >= self.next {
            let (last, block) = (self.next.saturating_sub(1) / BLOCK, counter / BLOCK);
            for stale in 1..=(block - last).min(BLOCKS) {
                self.ring[((last + stale) % BLOCKS) as usize] = 0;
            }
            self.next = counter + 1;
        }
        self.ring[(counter / BLOCK % BLOCKS) as usize] |= bit(counter);
    }

    fn block(&self, counter: u64) -> u64 {
        self.ring[(counter / BLOCK % BLOCKS) as usize]
    }
}

fn bit(counter: u64) -> u64 {
    1 << (counter % BLOCK)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn it_agrees_with_a_set_of_all_counters_on_random_walks() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut window, mut seen, mut newest) = (ReplayWindow::default(), HashSet::new(), 0);
            let mut base: u64 = rng.random_range(0..3) * (u64::MAX / 3);
            for _ in 0..4000 {
                base += if rng.random_ratio(1, 100) { rng.random_range(0..20_000) } else { 1 };
                let counter = base.saturating_sub(rng.random_range(0..WINDOW + 200));
                let late = newest - newest.min(counter) >= WINDOW;
                let expected = !seen.contains(&counter) && !late;
                assert_eq!(window.is_new(counter), expected, "seed {seed}: {counter}, {newest}");
                if expected {
                    window.note(counter);
                    seen.insert(counter);
                    newest = newest.max(counter);
                }
            }
        }
    }

    #[test]
    fn the_first_counter_counts_once() {
        let mut window = ReplayWindow::default();
        assert!(window.is_new(0));
        window.note(0);
        assert!(!window.is_new(0) && window.is_new(1));
    }

    #[test]
    fn the_oldest_counter_in_the_window_is_taken_and_the_one_before_is_not() {
        let mut window = ReplayWindow::default();
        window.note(1_000_000);
        assert!(window.is_new(1_000_001 - WINDOW));
        assert!(!window.is_new(1_000_000 - WINDOW));
    }
}
