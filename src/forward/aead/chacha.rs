//! ChaCha20 (RFC 8439, 2.3 and 2.4) in registers of 512 bits.
//!
//! The key stream is made in passes of 16, 8 or 4 blocks, whichever leaves least unused:
//!
//! * 16 blocks: one register a word of the state, one lane a block. Every operation of the rounds is
//!   used to the full; in the end the words of each block have to be brought together.
//! * 4 blocks: one register a row of the state, 128 bits a block. Each half of a double round needs
//!   three shuffles to turn diagonals into columns, and a step waits for the one before it; so
//!   8 blocks are two of these side by side, which takes hardly longer than one.
//!
//! Nothing here branches on, or reads memory at, what depends on key or text.

use std::arch::x86_64::*;

use super::register::{WIDTH, load, load_partial, store, store_partial};

/// "expand 32-byte k", the first row of the state.
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Two rounds, first on columns and then on diagonals; there are ten times two.
const DOUBLE_ROUNDS: usize = 10;

/// Text yet to be encrypted or decrypted, and where it goes.
pub struct Text<'a> {
    /// May be shorter than `out`: zeroes follow.
    pub input: &'a [u8],
    /// As long as what comes of it.
    pub out: &'a mut [u8],
}

/// The key stream of one packet, from its first block on.
pub struct Stream {
    key: [u32; 8],
    nonce: [u32; 3],
    /// Number of the next block.
    next: u32,
}

impl Stream {
    pub fn new(key: &[u32; 8], nonce: [u32; 3]) -> Stream {
        Stream { key: *key, nonce, next: 0 }
    }

    /// Makes the first pass of the stream: its first block is the key of Poly1305 and is returned, the
    /// others go over the text (RFC 8439, 2.6 and 2.8).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn first_pass(&mut self, text: &mut Text<'_>) -> __m512i {
        let blocks = 1 + text.out.len().div_ceil(WIDTH);
        if blocks > 8 {
            let pass = self.sixteen();
            apply(&pass[1..], text);
            pass[0]
        } else if blocks > 4 {
            let pass = self.eight();
            apply(&pass[1..], text);
            pass[0]
        } else {
            let pass = self.four();
            apply(&pass[1..], text);
            pass[0]
        }
    }

    /// Goes over what is left of the text.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn rest(&mut self, text: &mut Text<'_>) {
        while !text.out.is_empty() {
            if text.out.len() > 8 * WIDTH {
                apply(&self.sixteen(), text);
            } else if text.out.len() > 4 * WIDTH {
                apply(&self.eight(), text);
            } else {
                apply(&self.four(), text);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn sixteen(&mut self) -> [__m512i; 16] {
        let counter = _mm512_add_epi32(
            _mm512_set1_epi32(self.next as i32),
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        );
        self.next += 16;
        let all = |word: u32| _mm512_set1_epi32(word as i32);
        let [k0, k1, k2, k3, k4, k5, k6, k7] = self.key.map(all);
        let [c0, c1, c2, c3] = CONSTANTS.map(all);
        let [n0, n1, n2] = self.nonce.map(all);
        let start = [[c0, k0, k4, counter], [c1, k1, k5, n0], [c2, k2, k6, n1], [c3, k3, k7, n2]];
        let mut x = start;
        for _ in 0..DOUBLE_ROUNDS {
            quarter_rounds(&mut x);
            let [[a0, b0, c0, d0], [a1, b1, c1, d1], [a2, b2, c2, d2], [a3, b3, c3, d3]] = x;
            x = [[a0, b1, c2, d3], [a1, b2, c3, d0], [a2, b3, c0, d1], [a3, b0, c1, d2]];
            quarter_rounds(&mut x);
            let [[a0, b1, c2, d3], [a1, b2, c3, d0], [a2, b3, c0, d1], [a3, b0, c1, d2]] = x;
            x = [[a0, b0, c0, d0], [a1, b1, c1, d1], [a2, b2, c2, d2], [a3, b3, c3, d3]];
        }
        for (column, start) in x.iter_mut().zip(&start) {
            for (word, start) in column.iter_mut().zip(start) {
                *word = _mm512_add_epi32(*word, *start);
            }
        }
        transpose(&x)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn eight(&mut self) -> [__m512i; 8] {
        let starts = [self.rows(), self.rows()];
        let mut states = starts;
        for _ in 0..DOUBLE_ROUNDS {
            double_round(&mut states);
        }
        let [a, b, c, d] = blocks_of(&states[0], &starts[0]);
        let [e, f, g, h] = blocks_of(&states[1], &starts[1]);
        [a, b, c, d, e, f, g, h]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn four(&mut self) -> [__m512i; 4] {
        let start = self.rows();
        let mut states = [start];
        for _ in 0..DOUBLE_ROUNDS {
            double_round(&mut states);
        }
        blocks_of(&states[0], &start)
    }

    /// The four rows of the state of the next four blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn rows(&mut self) -> [__m512i; 4] {
        let row = |words: [u32; 4]| {
            let [a, b, c, d] = words.map(|word| word as i32);
            _mm512_broadcast_i32x4(_mm_setr_epi32(a, b, c, d))
        };
        let [a, b, c, d, e, f, g, h] = self.key;
        let [n, o, p] = self.nonce;
        let blocks = _mm512_setr_epi32(0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0);
        let last = _mm512_add_epi32(row([self.next, n, o, p]), blocks);
        self.next += 4;
        [row(CONSTANTS), row([a, b, c, d]), row([e, f, g, h]), last]
    }
}

/// Puts text and key stream together, block by block, until one of them ends.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn apply(blocks: &[__m512i], text: &mut Text<'_>) {
    let length = text.out.len().min(blocks.len() * WIDTH);
    let (out, out_rest) = std::mem::take(&mut text.out).split_at_mut(length);
    let (input, input_rest) = text.input.split_at(length.min(text.input.len()));
    (text.input, text.out) = (input_rest, out_rest);
    if input.len() == blocks.len() * WIDTH {
        let (input, out) = (input.as_chunks().0, out.as_chunks_mut().0);
        for ((block, input), out) in blocks.iter().zip(input).zip(out) {
            store(out, _mm512_xor_si512(*block, load(input)));
        }
        return;
    }
    let mut input = input;
    for (block, out) in blocks.iter().zip(out.chunks_mut(WIDTH)) {
        let (head, tail) = input.split_at(input.len().min(WIDTH));
        store_partial(out, _mm512_xor_si512(*block, load_partial(head)));
        input = tail;
    }
}

/// A double round of states kept as rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn double_round<const N: usize>(states: &mut [[__m512i; 4]; N]) {
    quarter_rounds(states);
    for x in states.iter_mut() {
        x[1] = _mm512_shuffle_epi32::<0b00_11_10_01>(x[1]);
        x[2] = _mm512_shuffle_epi32::<0b01_00_11_10>(x[2]);
        x[3] = _mm512_shuffle_epi32::<0b10_01_00_11>(x[3]);
    }
    quarter_rounds(states);
    for x in states.iter_mut() {
        x[1] = _mm512_shuffle_epi32::<0b10_01_00_11>(x[1]);
        x[2] = _mm512_shuffle_epi32::<0b01_00_11_10>(x[2]);
        x[3] = _mm512_shuffle_epi32::<0b00_11_10_01>(x[3]);
    }
}

/// Quarter rounds (RFC 8439, 2.1) of columns, step by step side by side.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarter_rounds<const N: usize>(columns: &mut [[__m512i; 4]; N]) {
    for [a, b, _, d] in columns.iter_mut() {
        *a = _mm512_add_epi32(*a, *b);
        *d = _mm512_rol_epi32::<16>(_mm512_xor_si512(*d, *a));
    }
    for [_, b, c, d] in columns.iter_mut() {
        *c = _mm512_add_epi32(*c, *d);
        *b = _mm512_rol_epi32::<12>(_mm512_xor_si512(*b, *c));
    }
    for [a, b, _, d] in columns.iter_mut() {
        *a = _mm512_add_epi32(*a, *b);
        *d = _mm512_rol_epi32::<8>(_mm512_xor_si512(*d, *a));
    }
    for [_, b, c, d] in columns.iter_mut() {
        *c = _mm512_add_epi32(*c, *d);
        *b = _mm512_rol_epi32::<7>(_mm512_xor_si512(*b, *c));
    }
}

/// Four blocks of the key stream out of the rows after the rounds and before them.
#[inline]
#[target_feature(enable = "avx512f")]
fn blocks_of(rows: &[__m512i; 4], start: &[__m512i; 4]) -> [__m512i; 4] {
    let mut sums = *rows;
    for (sum, start) in sums.iter_mut().zip(start) {
        *sum = _mm512_add_epi32(*sum, *start);
    }
    transpose_quarters(sums)
}

/// Brings the 16 words of each block together: lane `n` of word `w` becomes word `w` of block `n`.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(columns: &[[__m512i; 4]; 4]) -> [__m512i; 16] {
    let mut quarters = [columns[0][0]; 16];
    for group in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|column: usize| columns[column][group]);
        let [ab, cd] = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
        quarters[group] = _mm512_unpacklo_epi64(ab, cd);
        quarters[4 + group] = _mm512_unpackhi_epi64(ab, cd);
        let [ab, cd] = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
        quarters[8 + group] = _mm512_unpacklo_epi64(ab, cd);
        quarters[12 + group] = _mm512_unpackhi_epi64(ab, cd);
    }
    // Now quarter `q` of `quarters[4 * column + group]` is that group of words of block `4 q + column`.
    let mut blocks = quarters;
    for column in 0..4 {
        let four = [0, 1, 2, 3].map(|group| quarters[4 * column + group]);
        for (quarter, block) in transpose_quarters(four).into_iter().enumerate() {
            blocks[4 * quarter + column] = block;
        }
    }
    blocks
}

/// Quarter `q` of register `n` becomes quarter `n` of register `q`.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let ab_low = _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b);
    let ab_high = _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b);
    let cd_low = _mm512_shuffle_i32x4::<0b01_00_01_00>(c, d);
    let cd_high = _mm512_shuffle_i32x4::<0b11_10_11_10>(c, d);
    [
        _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_high, cd_high),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_high, cd_high),
    ]
}
