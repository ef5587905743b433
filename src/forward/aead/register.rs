//! 64 bytes between memory and one register, and what is less than 64: the only places where the
//! cipher touches memory by address.

use std::arch::x86_64::*;

/// Bytes in a register, and in a block of ChaCha20.
pub const WIDTH: usize = 64;

#[inline]
#[target_feature(enable = "avx512f")]
pub fn load(bytes: &[u8; WIDTH]) -> __m512i {
    // SAFETY: 64 bytes may be read, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn load_words(words: &[u64; 8]) -> __m512i {
    // SAFETY: 64 bytes may be read, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// What `bytes` has (at most 64), then zeroes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn load_partial(bytes: &[u8]) -> __m512i {
    // SAFETY: bytes that the mask leaves out are not touched, so only those of the slice are.
    unsafe { _mm512_maskz_loadu_epi8(mask(bytes.len()), bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn store(bytes: &mut [u8; WIDTH], register: __m512i) {
    // SAFETY: 64 bytes may be written, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), register) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub fn store_words(words: &mut [u64; 8], register: __m512i) {
    // SAFETY: 64 bytes may be written, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), register) }
}

/// The first bytes of the register, as many as `bytes` has (at most 64).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn store_partial(bytes: &mut [u8], register: __m512i) {
    // SAFETY: bytes that the mask leaves out are not touched, so only those of the slice are.
    unsafe { _mm512_mask_storeu_epi8(bytes.as_mut_ptr().cast(), mask(bytes.len()), register) }
}

/// The lowest `count` of 64 bits.
#[inline]
fn mask(count: usize) -> u64 {
    if count >= WIDTH { u64::MAX } else { (1 << count) - 1 }
}
