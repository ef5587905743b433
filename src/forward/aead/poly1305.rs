//! Poly1305 (RFC 8439, 2.5) with the 52-bit multiply-add of AVX-512 IFMA.
//!
//! Numbers modulo 2^130 - 5 are kept in limbs of 44, 44 and 42 bits. The text is eight interleaved
//! polynomials, one a lane (Goll and Gueron, "Vectorization of Poly1305 Message Authentication Code",
//! 2015): every lane is multiplied by r^8 for eight blocks, or for sixteen by r^16 and r^8 with one
//! reduction for both, and in the end lane `n` by the power of r that is still missing there. Those
//! powers, r^16 to r, stand in one row in memory, zeroes after them: how many blocks are left decides
//! where in it the last two multiplications begin.
//!
//! Short texts take less time block by block in 64-bit registers, without the powers.
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
/// From so many bytes on, computing the powers of r pays.
const LONG: usize = 2 * STEP;

const MASK_44: u64 = (1 << 44) - 1;
const MASK_42: u64 = (1 << 42) - 1;

/// A number in limbs of 44, 44 and 42 bits; where nothing else is said the limbs may be a few bits
/// longer.
type Number = [u64; 3];

/// Poly1305 with the key of one packet.
pub struct Poly1305 {
    r: Number,
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
        let r = limbs(half(0) & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff);
        let powers = (length >= LONG).then(|| Powers::of(&r));
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
            sum = self.next(&sum, u128::from_le_bytes(*block));
        }
        if !tail.is_empty() {
            let mut block = [0; BLOCK];
            block[..tail.len()].copy_from_slice(tail);
            sum = self.next(&sum, u128::from_le_bytes(block));
        }
        self.next(&sum, last)
    }

    fn next(&self, sum: &Number, block: u128) -> Number {
        let [a, b, c] = limbs(block);
        product(&[sum[0] + a, sum[1] + b, sum[2] + c + (1 << 40)], &self.r)
    }
}

fn limbs(number: u128) -> Number {
    [number as u64 & MASK_44, (number >> 44) as u64 & MASK_44, (number >> 88) as u64]
}

/// Limbs of `a` have up to 46 bits, of `b` hardly more than 44, 44 and 42; the product's as well.
#[inline]
fn product(a: &Number, b: &Number) -> Number {
    let [a0, a1, a2] = a.map(u128::from);
    let [b0, b1, b2] = b.map(u128::from);
    // 2^132 is 20 modulo 2^130 - 5.
    let [s1, s2] = [20 * b[1], 20 * b[2]].map(u128::from);
    let d0 = a0 * b0 + a1 * s2 + a2 * s1;
    let d1 = a0 * b1 + a1 * b0 + a2 * s2 + (d0 >> 44);
    let d2 = a0 * b2 + a1 * b1 + a2 * b0 + (d1 >> 44);
    let low = (d0 as u64 & MASK_44) + 5 * (d2 >> 42) as u64;
    [low & MASK_44, (d1 as u64 & MASK_44) + (low >> 44), d2 as u64 & MASK_42]
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

/// Powers of r, limb by limb: r^16 to r, then zeroes.
struct Powers([[u64; 3 * LANES]; 3]);

impl Powers {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    fn of(r: &Number) -> Powers {
        let r2 = product(r, r);
        let [r3, r4] = [product(&r2, r), product(&r2, &r2)];
        let [r5, r6, r7, r8] =
            [product(&r4, r), product(&r4, &r2), product(&r4, &r3), product(&r4, &r4)];
        let lower = [r8, r7, r6, r5, r4, r3, r2, *r];
        let mut powers = [[0; 3 * LANES]; 3];
        for (limb, row) in powers.iter_mut().enumerate() {
            for (power, number) in row[LANES..].iter_mut().zip(lower) {
                *power = number[limb];
            }
        }
        let mut powers = Powers(powers);
        let lower = powers.at(8);
        let mut products = Products::from(&Lanes([_mm512_setzero_si512(); 3]));
        products.add(&lower.lanes(), &lower.first());
        for (row, limb) in powers.0.iter_mut().zip(products.reduced().0) {
            let upper = row.first_chunk_mut().expect("a row has 24 words");
            store_words(upper, limb);
        }
        powers
    }

    /// In the first lane r^`highest`, in the next the power below it; 0 after r.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
    fn at(&self, highest: usize) -> Factor {
        let start = 2 * LANES - highest;
        let row = |limb: usize| {
            let words = &self.0[limb][start..];
            load_words(
                words.first_chunk().expect("from r^1 there are eight words to the end of the row"),
            )
        };
        Factor::new([row(0), row(1), row(2)])
    }
}

/// The sum of `text` and `last`, eight blocks at once.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn sum_of_lanes(powers: &Powers, text: &[u8], last: u128) -> Number {
    let (steps, tail) = text.as_chunks::<STEP>();
    let (first, steps) = steps.split_first().expect("a long text has more than one step");
    let (r16, r8) = (powers.at(16).first(), powers.at(8).first());
    let mut sum = Lanes::of(first);
    let (pairs, single) = steps.as_chunks::<2>();
    for [one, other] in pairs {
        let mut products = Products::from(&Lanes::of(other));
        products.add(&sum, &r16);
        products.add(&Lanes::of(one), &r8);
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
    products.add(&sum, &powers.at(LANES + left));
    products.add(&Lanes::of_last(tail, last), &powers.at(left));
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
    #[target_feature(enable = "avx512f")]
    fn new(limbs: [__m512i; 3]) -> Factor {
        let wrapped = [limbs[1], limbs[2]].map(|limb| {
            _mm512_add_epi64(_mm512_slli_epi64::<4>(limb), _mm512_slli_epi64::<2>(limb))
        });
        Factor { limbs, wrapped }
    }

    /// The first lane in all of them.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn first(&self) -> Factor {
        let all = |limb| _mm512_broadcastq_epi64(_mm512_castsi512_si128(limb));
        Factor { limbs: self.limbs.map(all), wrapped: self.wrapped.map(all) }
    }

    #[inline]
    fn lanes(&self) -> Lanes {
        Lanes(self.limbs)
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
