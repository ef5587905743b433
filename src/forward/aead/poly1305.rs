//! Poly1305 (RFC 8439, 2.5) with the 52-bit multiply-add of AVX-512 IFMA.
//!
//! Numbers modulo 2^130 - 5 are kept in limbs of 44, 44 and 42 bits. The text is eight interleaved
//! polynomials, one a lane (Goll and Gueron, "Vectorization of Poly1305 Message Authentication Code",
//! 2015): every lane is multiplied by r^8 for eight blocks, or for sixteen by r^16 and r^8 with one
//! reduction for both, and in the end lane `n` by the power of r that is still missing there. Those
//! powers, r^16 to r, stand in one row in memory, zeroes after them: how many blocks are left decides
//! where in it the last two multiplications begin.
//!
//! Short texts take less time block by block in words of 64 bits, without the powers (as Bernstein's
//! "The Poly1305-AES message-authentication code", 2005, has it: r's clear bits make its products
//! small).
//!
//! Nothing here branches on, or reads memory at, what depends on key or text.

use std::arch::x86_64::*;

use super::register::{WIDTH, load, load_partial, load_words, store_words};

/// Bytes in a block.
const BLOCK: usize = 16;
/// Blocks that are multiplied at once, one a lane.
const LANES: usize = 8;
/// Bytes in as many.
const STEP: usize = LANES * BLOCK;
/// From so many bytes on, the powers of r cost less than they spare.
const LONG: usize = STEP;

const MASK_44: u64 = (1 << 44) - 1;
const MASK_42: u64 = (1 << 42) - 1;

/// A number in limbs of 44, 44 and 42 bits; where nothing else is said the limbs may be a few bits
/// longer.
type Number = [u64; 3];

/// Poly1305 with the key of one packet.
pub struct Poly1305 {
    r: u128,
    /// Is added to the sum, modulo 2^128.
    s: u128,
    powers: Option<Powers>,
}

impl Poly1305 {
    /// `key` is r and s, 16 bytes each; `length` that of the text, in bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    pub fn new(key: &[u8; 32], length: usize) -> Poly1305 {
        let half = |at: usize| {
            u128::from_le_bytes(*key[at..].first_chunk().expect("half of the key has 16 bytes"))
        };
        let r = half(0) & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
        let powers = (length >= LONG).then(|| Powers::of(&limbs(r)));
        Poly1305 { r, s: half(16), powers }
    }

    /// The tag of `text`, zeroes up to a multiple of 16 bytes, and `last` (RFC 8439, 2.8: of a sealed
    /// text the last block is its lengths).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    pub fn tag(&self, text: &[u8], last: u128) -> [u8; BLOCK] {
        let sum = match &self.powers {
            Some(powers) => sum_of_lanes(powers, text, last),
            None => self.sum(text, last),
        };
        canonical(sum).wrapping_add(self.s).to_le_bytes()
    }

    /// Block by block.
    fn sum(&self, text: &[u8], last: u128) -> Number {
        let (blocks, tail) = text.as_chunks();
        let mut sum = [0; 3];
        for block in blocks {
            sum = self.next(sum, u128::from_le_bytes(*block));
        }
        if !tail.is_empty() {
            let mut block = [0; BLOCK];
            block[..tail.len()].copy_from_slice(tail);
            sum = self.next(sum, u128::from_le_bytes(block));
        }
        let [a, b, c] = self.next(sum, last);
        let [lower, middle, upper] = limbs(u128::from(b) << 64 | u128::from(a));
        [lower, middle, upper + (c << 40)]
    }

    /// The sum and the block, times r. Words of 64 bits here, of which the third has few bits.
    ///
    /// The lowest two bits of r's upper word are not set: that word times 2^128 is a quarter of it
    /// times 2^130, which is 5 quarters.
    #[inline]
    fn next(&self, [a, b, c]: [u64; 3], block: u128) -> [u64; 3] {
        let [r0, r1] = [self.r as u64, (self.r >> 64) as u64];
        let wrapped = r1 + (r1 >> 2);
        let (lower, carry) = (u128::from(b) << 64 | u128::from(a)).overflowing_add(block);
        let [a, b, c] = [lower as u64, (lower >> 64) as u64, c + 1 + u64::from(carry)];
        let times = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let d0 = times(a, r0) + times(b, wrapped);
        let d1 = times(a, r1) + times(b, r0) + u128::from(c * wrapped) + (d0 >> 64);
        let d2 = c * r0 + (d1 >> 64) as u64;
        let (lower, carry) =
            (d1 << 64 | u128::from(d0 as u64)).overflowing_add(u128::from((d2 >> 2) + (d2 & !3)));
        [lower as u64, (lower >> 64) as u64, (d2 & 3) + u64::from(carry)]
    }
}

fn limbs(number: u128) -> Number {
    [number as u64 & MASK_44, (number >> 44) as u64 & MASK_44, (number >> 88) as u64]
}

/// The number modulo 2^130 - 5, and of that the lower 128 bits. Limbs may have up to 63 bits.
fn canonical(number: Number) -> u128 {
    let [mut a, mut b, mut c] = number;
    // The second time what the first carried into the lowest limb goes on.
    for _ in 0..2 {
        b += a >> 44;
        c += b >> 44;
        a = (a & MASK_44) + 5 * (c >> 42);
        (b, c) = (b & MASK_44, c & MASK_42);
    }
    b += a >> 44;
    a &= MASK_44;
    let number = u128::from(a) + (u128::from(b) << 44) + (u128::from(c) << 88);
    let top = (c + (b >> 44)) >> 40;
    // The number is less than 2^130: subtracting 2^130 - 5 is adding 5 and dropping that bit.
    let (lower, carry) = number.overflowing_add(5);
    let reduced = (top + u64::from(carry)) >> 2;
    let mask = 0u128.wrapping_sub(u128::from(reduced & 1));
    (number & !mask) | (lower & mask)
}

/// Powers of r, limb by limb: r^16 to r, then zeroes. Each multiplication doubles their number.
struct Powers([[u64; 3 * LANES]; 3]);

impl Powers {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    fn of(r: &Number) -> Powers {
        let one = Lanes(r.map(|limb| _mm512_set1_epi64(limb as i64)));
        let square = one.times(&Factor::new(&one));
        let two = one.replaced(0b0101_0101, &square);
        let four = two.replaced(0b0011_0011, &two.times(&Factor::new(&square)));
        let eight = four.replaced(0b0000_1111, &four.times(&Factor::new(&four.first())));
        let sixteen = eight.times(&Factor::new(&eight.first()));
        let mut powers = Powers([[0; 3 * LANES]; 3]);
        for (limb, row) in powers.0.iter_mut().enumerate() {
            let (upper, lower) = row.split_first_chunk_mut().expect("a row has 24 words");
            store_words(upper, sixteen.0[limb]);
            store_words(lower.first_chunk_mut().expect("it goes on"), eight.0[limb]);
        }
        powers
    }

    /// In the first lane r^`highest`, in the next the power below it; 0 after r.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    fn at(&self, highest: usize) -> Lanes {
        let start = 2 * LANES - highest;
        let row = |limb: usize| {
            let words = &self.0[limb][start..];
            load_words(
                words.first_chunk().expect("from r^1 there are eight words to the end of the row"),
            )
        };
        Lanes([row(0), row(1), row(2)])
    }
}

/// The sum of `text` and `last`, eight blocks at once.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn sum_of_lanes(powers: &Powers, text: &[u8], last: u128) -> Number {
    let (steps, tail) = text.as_chunks::<STEP>();
    let (first, steps) = steps.split_first().expect("a long text has a step");
    let (r16, r8) = (Factor::new(&powers.at(16).first()), Factor::new(&powers.at(8).first()));
    let mut sum = Lanes::of(first);
    let (pairs, single) = steps.as_chunks::<2>();
    for [one, other] in pairs {
        let mut products = Products::from(&Lanes::of(other));
        products.add(&Lanes::of(one), &r8);
        products.add(&sum, &r16);
        sum = products.reduced();
    }
    for step in single {
        let mut products = Products::from(&Lanes::of(step));
        products.add(&sum, &r8);
        sum = products.reduced();
    }
    // `last` shall fit beside what is left.
    let tail = if tail.len() > STEP - BLOCK {
        let mut products = Products::from(&Lanes::of_partial(tail));
        products.add(&sum, &r8);
        sum = products.reduced();
        &[]
    } else {
        tail
    };
    let left = tail.len().div_ceil(BLOCK) + 1;
    let mut products = Products::from(&Lanes([_mm512_setzero_si512(); 3]));
    products.add(&Lanes::of_last(tail, last), &Factor::new(&powers.at(left)));
    products.add(&sum, &Factor::new(&powers.at(LANES + left)));
    products.reduced().0.map(|limb| _mm512_reduce_add_epi64(limb) as u64)
}

/// Eight numbers: one register a limb.
struct Lanes([__m512i; 3]);

impl Lanes {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn of(step: &[u8; STEP]) -> Lanes {
        let (halves, _) = step.as_chunks::<WIDTH>();
        Lanes::split(load(&halves[0]), load(&halves[1]))
    }

    /// Up to eight blocks of text, the last filled up with zeroes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn of_partial(tail: &[u8]) -> Lanes {
        let (half, rest) = tail.split_at(tail.len().min(WIDTH));
        Lanes::split(load_partial(half), load_partial(rest))
    }

    /// Less than eight blocks of text, the last filled up with zeroes, and `last`. What follows are
    /// empty blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn of_last(tail: &[u8], last: u128) -> Lanes {
        let (half, rest) = tail.split_at(tail.len().min(WIDTH));
        let last = _mm512_broadcast_i32x4(_mm_set_epi64x((last >> 64) as i64, last as i64));
        let words = 0b11u16 << (2 * tail.len().div_ceil(BLOCK));
        Lanes::split(
            _mm512_mask_blend_epi64(words as u8, load_partial(half), last),
            _mm512_mask_blend_epi64((words >> 8) as u8, load_partial(rest), last),
        )
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn times(&self, factor: &Factor) -> Lanes {
        let mut products = Products::from(&Lanes([_mm512_setzero_si512(); 3]));
        products.add(self, factor);
        products.reduced()
    }

    /// The first lane in all of them.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn first(&self) -> Lanes {
        Lanes(self.0.map(|limb| _mm512_broadcastq_epi64(_mm512_castsi512_si128(limb))))
    }

    /// The lanes that the mask names are those of `other`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn replaced(&self, mask: u8, other: &Lanes) -> Lanes {
        Lanes([0, 1, 2].map(|at: usize| _mm512_mask_blend_epi64(mask, self.0[at], other.0[at])))
    }

    /// Block `n` of the two registers goes to lane `n`; each has the bit above its 16 bytes set.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn split(half: __m512i, other: __m512i) -> Lanes {
        let evens = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
        let odds = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
        let lower = _mm512_permutex2var_epi64(half, evens, other);
        let upper = _mm512_permutex2var_epi64(half, odds, other);
        let mask = _mm512_set1_epi64(MASK_44 as i64);
        let middle =
            _mm512_or_si512(_mm512_srli_epi64::<44>(lower), _mm512_slli_epi64::<20>(upper));
        Lanes([
            _mm512_and_si512(lower, mask),
            _mm512_and_si512(middle, mask),
            _mm512_or_si512(_mm512_srli_epi64::<24>(upper), _mm512_set1_epi64(1 << 40)),
        ])
    }
}

/// What lanes are multiplied by.
struct Factor {
    limbs: [__m512i; 3],
    /// The two upper limbs times 20: what of the product lies from 2^132 on.
    wrapped: [__m512i; 2],
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn new(lanes: &Lanes) -> Factor {
        let limbs = lanes.0;
        let twenty = _mm512_set1_epi64(20);
        let wrapped = [limbs[1], limbs[2]]
            .map(|limb| _mm512_madd52lo_epu64(_mm512_setzero_si512(), limb, twenty));
        Factor { limbs, wrapped }
    }
}

/// A sum of products before its reduction, limb by limb: what lies below 2^52 of each product of two
/// limbs, and what lies above.
struct Products {
    low: [__m512i; 3],
    high: [__m512i; 3],
}

impl Products {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn from(summand: &Lanes) -> Products {
        Products { low: summand.0, high: [_mm512_setzero_si512(); 3] }
    }

    /// At most two products fit.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add(&mut self, lanes: &Lanes, factor: &Factor) {
        let [r0, r1, r2] = factor.limbs;
        let [s1, s2] = factor.wrapped;
        let rows =
            [(lanes.0[0], [r0, r1, r2]), (lanes.0[1], [s2, r0, r1]), (lanes.0[2], [s1, s2, r0])];
        for (limb, factors) in rows {
            for (at, factor) in factors.into_iter().enumerate() {
                self.low[at] = _mm512_madd52lo_epu64(self.low[at], limb, factor);
                self.high[at] = _mm512_madd52hi_epu64(self.high[at], limb, factor);
            }
        }
    }

    /// Carries, so that the limbs are 44 bits, 44 and hardly more, 42 and hardly more.
    ///
    /// An upper part counts 2^52, that is 2^8 of the next limb, and the last one's 2^10 times 2^130,
    /// which is 5 times 2^10. With two products it has less than 38 bits: times 5 2^10 it is still
    /// less than 2^52, which one more multiply-add can hold.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn reduced(&self) -> Lanes {
        let mask_44 = _mm512_set1_epi64(MASK_44 as i64);
        let mask_42 = _mm512_set1_epi64(MASK_42 as i64);
        let d0 = self.low[0];
        let d1 = _mm512_add_epi64(self.low[1], _mm512_slli_epi64::<8>(self.high[0]));
        let d2 = _mm512_add_epi64(self.low[2], _mm512_slli_epi64::<8>(self.high[1]));
        let wrapped = _mm512_madd52lo_epu64(
            _mm512_and_si512(d0, mask_44),
            self.high[2],
            _mm512_set1_epi64(5 << 10),
        );
        let low = _mm512_madd52lo_epu64(wrapped, _mm512_srli_epi64::<42>(d2), _mm512_set1_epi64(5));
        let middle = _mm512_add_epi64(_mm512_and_si512(d1, mask_44), _mm512_srli_epi64::<44>(d0));
        let upper = _mm512_add_epi64(_mm512_and_si512(d2, mask_42), _mm512_srli_epi64::<44>(d1));
        Lanes([
            _mm512_and_si512(low, mask_44),
            _mm512_add_epi64(middle, _mm512_srli_epi64::<44>(low)),
            upper,
        ])
    }
}
