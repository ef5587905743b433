//! Where a history's choices come from: bytes, drawn from a seed's generator, given by a fuzzer, or
//! left over by the [shrinker](super::shrink).
//!
//! A history is a string of records of [`RECORD`] bytes, one for each thing that happens, so that a
//! record can be cut out without changing what the others mean. Zeros are the plainest choice.

/// The bytes of one record.
pub const RECORD: usize = 8;

/// What is left of one record.
#[derive(Debug, Clone)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// The choices of a record; behind its end all are zero.
    pub fn of(record: &'a [u8]) -> Self {
        Self(record)
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// A number below `end`, which is at most 256.
    pub fn below(&mut self, end: u32) -> u32 {
        (u32::from(self.byte()) * end) >> 8
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u32) as usize]
    }
}
