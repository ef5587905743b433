//! How many packet workers a network gets.

use std::thread::available_parallelism;

use serde::Deserialize;

/// The most that may be asked for: each holds about 1 MiB of buffers and two threads, and more
/// than there are busy peers idle.
const MOST: usize = 16;

/// The most that nobody asked for: work is divided by peers, and few devices have more than a few
/// peers that send at once.
const MOST_BY_DEFAULT: usize = 4;

/// 1 to 16 workers; by default as many as this process may use cores, at most 4, and one where there are
/// two: its pair of threads already keeps them busy, and a second one only takes turns with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "usize")]
pub struct WorkerCount(usize);

/// Why a number is no [`WorkerCount`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the number of workers is 1 to {MOST}")]
pub struct WorkerCountError;

impl WorkerCount {
    /// The number.
    pub fn get(self) -> usize {
        self.0
    }
}

impl Default for WorkerCount {
    fn default() -> Self {
        match available_parallelism().map_or(1, usize::from) {
            0..=2 => Self(1),
            cores => Self(cores.min(MOST_BY_DEFAULT)),
        }
    }
}

impl TryFrom<usize> for WorkerCount {
    type Error = WorkerCountError;

    fn try_from(count: usize) -> Result<Self, WorkerCountError> {
        if (1..=MOST).contains(&count) { Ok(Self(count)) } else { Err(WorkerCountError) }
    }
}
