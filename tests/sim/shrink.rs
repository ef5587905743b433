//! Makes a failing history small: fewer things happen, and plainer ones.

use super::choices::RECORD;

/// The most runs that are spent on one history.
const MOST_RUNS: u32 = 400;

/// Smaller bytes for which `fails` still holds, as it does for `bytes`: records are cut out, many at
/// a time first, then bytes become zero or half of what they were, until nothing helps any more.
pub fn shrink(bytes: &[u8], fails: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut shrinker = Shrinker { best: bytes.to_vec(), runs: 0, fails };
    loop {
        let before = shrinker.best.clone();
        shrinker.cut();
        shrinker.simplify();
        if shrinker.best == before || shrinker.runs >= MOST_RUNS {
            return shrinker.best;
        }
    }
}

struct Shrinker<F> {
    best: Vec<u8>,
    runs: u32,
    fails: F,
}

impl<F: FnMut(&[u8]) -> bool> Shrinker<F> {
    /// Cuts out runs of steps; the world and the founder stay.
    fn cut(&mut self) {
        let mut count = self.best.len().div_ceil(RECORD) / 2;
        while count > 0 {
            let mut at = 2 * RECORD;
            while at < self.best.len() {
                let end = (at + count * RECORD).min(self.best.len());
                let mut less = self.best.clone();
                less.drain(at..end);
                if !self.accept(less) {
                    at += count * RECORD;
                }
            }
            count /= 2;
        }
    }

    fn simplify(&mut self) {
        for at in 0..self.best.len() {
            let (kind, old) = (at % RECORD == 0, self.best[at]);
            for new in [0, old / 2] {
                if new < self.best[at] && !(kind && new != 0) {
                    let mut plainer = self.best.clone();
                    plainer[at] = new;
                    self.accept(plainer);
                }
            }
        }
    }

    fn accept(&mut self, candidate: Vec<u8>) -> bool {
        if self.runs >= MOST_RUNS {
            return false;
        }
        self.runs += 1;
        let accepted = (self.fails)(&candidate);
        if accepted {
            self.best = candidate;
        }
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_for_a_failure_is_gone() {
        let steps = (0..20).flat_map(|step| [step, 200, 7, 7, 7, 7, 7, 255]);
        let bytes: Vec<u8> = [9; 2 * RECORD].into_iter().chain(steps).collect();
        let fails = |bytes: &[u8]| {
            let steps = || bytes.chunks(RECORD).skip(2);
            let eleven = steps().any(|step| step[0] == 11 && step[1] >= 50);
            eleven && steps().any(|step| step[0] == 17)
        };
        let small = shrink(&bytes, fails);
        let mut expected = vec![0; 2 * RECORD];
        expected.extend([11, 50, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(small, expected);
    }
}
