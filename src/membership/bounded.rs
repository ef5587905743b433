//! Lists that carry their bound into the decoder.
//!
//! Serde's own `Vec` reserves room for as many elements as a length field says, up to 1 MiB (and
//! postcard believes any number up to the bytes that are left); [`at_most`] grows only with elements
//! that are really there, and refuses the first one past the bound.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Decodes a list of at most `N` elements; for `#[serde(deserialize_with = "at_most::<N, _, _>")]`.
pub fn at_most<'de, const N: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_seq(AtMost::<N, T>(PhantomData))
}

struct AtMost<const N: usize, T>(PhantomData<T>);

impl<'de, const N: usize, T: Deserialize<'de>> Visitor<'de> for AtMost<N, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {N} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut out = Vec::new();
        while let Some(element) = seq.next_element()? {
            if out.len() == N {
                return Err(A::Error::custom("too many elements"));
            }
            out.push(element);
        }
        Ok(out)
    }
}
