//! The one's complement sum of the Internet checksum (RFC 1071), over whole packets.
//!
//! Each packet is summed once on its way out, where the kernel left the checksum to us, and once on
//! its way in, before it may join others; beside the cipher it is the only pass over every byte. The
//! sum of 16-bit words does not depend on how wide they are added up nor, but for a swap at the end,
//! on their byte order (sections 2(B) and 2(C)), so native words of 32 bits are added into lanes of
//! 64, which 2^32 of them cannot overflow.

/// From so many bytes on the wide loop pays for its beginning and end.
const WIDE: usize = 256;

/// The one's complement sum of `bytes` as big-endian 16-bit words, an odd last byte padded with
/// zero (RFC 1071); below 2^16.
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= WIDE && std::arch::is_x86_feature_detected!("avx2") {
        let (blocks, rest) = bytes.as_chunks::<{ avx2::BLOCK }>();
        // SAFETY: the processor was just asked for AVX2.
        let total = unsafe { avx2::sum(blocks) };
        return finish(total + words(rest));
    }
    finish(words(bytes))
}

/// Folds a sum into 16 bits without complementing it, as a partial checksum holds it.
pub fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn finish(total: u64) -> u32 {
    u32::from(u16::from_be(fold(total)))
}

/// The sum of native 32-bit words, the last filled up with zeros.
#[inline]
fn words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total + u64::from(u32::from_ne_bytes(last))
}

/// Twice as fast as what the compiler makes of [`words`] for every processor of the architecture.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_extract_epi64, _mm256_loadu_si256,
        _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_srli_epi64,
    };

    /// Two vectors.
    pub(super) const BLOCK: usize = 64;

    /// The sum of all native 32-bit words.
    #[target_feature(enable = "avx2")]
    pub(super) fn sum(blocks: &[[u8; BLOCK]]) -> u64 {
        let low = _mm256_set1_epi64x(0xffff_ffff);
        let mut lanes = [_mm256_setzero_si256(); 4];
        for block in blocks {
            let at: *const __m256i = block.as_ptr().cast();
            // SAFETY: the block is two vectors long, and the load wants no alignment.
            let (a, b) = unsafe { (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))) };
            lanes[0] = _mm256_add_epi64(lanes[0], _mm256_and_si256(a, low));
            lanes[1] = _mm256_add_epi64(lanes[1], _mm256_srli_epi64::<32>(a));
            lanes[2] = _mm256_add_epi64(lanes[2], _mm256_and_si256(b, low));
            lanes[3] = _mm256_add_epi64(lanes[3], _mm256_srli_epi64::<32>(b));
        }
        let pairs = [_mm256_add_epi64(lanes[0], lanes[1]), _mm256_add_epi64(lanes[2], lanes[3])];
        let all = _mm256_add_epi64(pairs[0], pairs[1]);
        [
            _mm256_extract_epi64::<0>(all),
            _mm256_extract_epi64::<1>(all),
            _mm256_extract_epi64::<2>(all),
            _mm256_extract_epi64::<3>(all),
        ]
        .into_iter()
        .fold(0, |total, lane| total + lane.cast_unsigned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Word by word, as the RFC says it.
    fn naive(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn sums_agree_with_a_word_by_word_reference_at_every_length_place_and_value() {
        let bytes: Vec<u8> = (0..70_000u32).map(|i| (i * 7_919 % 251) as u8).collect();
        for len in (0..700).chain([1279, 1280, 2999, 3000, 65_535]) {
            for from in [0, 1, 3, 31] {
                let part = &bytes[from..from + len];
                assert_eq!(fold(sum(part).into()), naive(part), "{len} bytes from {from}");
            }
        }
        for len in [1, 64, 255, 256, 65_534, 65_535] {
            let ones = vec![0xff; len];
            assert_eq!(fold(sum(&ones).into()), naive(&ones), "{len} bytes of ones");
        }
        assert_eq!(sum(&[0xff; 65_534]), 0xffff);
    }

    #[test]
    fn the_wide_sum_is_the_narrow_one() {
        let bytes: Vec<u8> = (0..9_000u32).map(|i| (i * 37 % 256) as u8).collect();
        for len in [WIDE, WIDE + 1, 1_260, 8_999] {
            assert_eq!(sum(&bytes[..len]), finish(words(&bytes[..len])));
        }
    }
}
