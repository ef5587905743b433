//! The two ciphers against RFC 8439, slow arithmetic, and each other. Where the processor has no
//! AVX-512, tests of that cipher say so and hold; what goes through [`TransportKey`] tests ring then.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;

/// Longest text that every length up to it is tried of; above, some.
const EVERY_LENGTH: usize = 4096;
const SOME_LENGTHS: [usize; 7] = [5000, 8191, 8192, 9001, 16_384, 40_007, 65_535];

#[test]
fn both_ciphers_seal_alike_and_open_what_the_other_sealed() {
    let mut rng = StdRng::seed_from_u64(1);
    for length in (0..=EVERY_LENGTH).chain(SOME_LENGTHS) {
        let bytes: [u8; 32] = rng.random();
        let (key, portable) = (TransportKey::new(&bytes), TransportKey::portable(&bytes));
        let counter = rng.random();
        let plain = random(&mut rng, length);
        let mut sealed = vec![0xaa; length + TAG];
        key.seal_into(counter, &plain, &mut sealed);
        let mut other = vec![0x55; length + TAG];
        portable.seal_into(counter, &plain, &mut other);
        assert_eq!(sealed, other, "{length}");
        for key in [&key, &portable] {
            let mut opened = vec![0xaa; length];
            assert_eq!(key.open_into(counter, &sealed, &mut opened), Ok(()), "{length}");
            assert_eq!(opened, plain, "{length}");
            sealed[length / 2] ^= 1;
            assert_eq!(key.open_into(counter, &sealed, &mut opened), Err(Forged), "{length}");
            assert!(opened.iter().all(|byte| *byte == 0), "{length}");
            sealed[length / 2] ^= 1;
        }
    }
}

#[test]
fn zeroes_follow_a_text_shorter_than_its_room() {
    let mut rng = StdRng::seed_from_u64(2);
    for length in (0..300).chain([900, 959, 960, 961, 1420, 1471, 1473, 3000]) {
        for padding in [1, 12, 15, 16, 63, 64, 65, 200, 1100] {
            let bytes: [u8; 32] = rng.random();
            let mut plain = random(&mut rng, length);
            let mut sealed = vec![0xaa; length + padding + TAG];
            TransportKey::new(&bytes).seal_into(7, &plain, &mut sealed);
            plain.resize(length + padding, 0);
            let mut opened = vec![0xaa; plain.len()];
            let key = TransportKey::portable(&bytes);
            assert_eq!(key.open_into(7, &sealed, &mut opened), Ok(()), "{length} {padding}");
            assert_eq!(opened, plain, "{length} {padding}");
            let mut other = vec![0xaa; sealed.len()];
            key.seal_into(7, &plain[..length], &mut other);
            assert_eq!(other, sealed, "{length} {padding}");
        }
    }
}

#[test]
fn any_changed_bit_is_refused_and_leaves_nothing_of_the_text() {
    let key = [0x42; 32];
    for key in [TransportKey::new(&key), TransportKey::portable(&key)] {
        for length in [0, 1, 16, 47, 64, 130, 260, 1424] {
            let mut sealed = vec![0; length + TAG];
            key.seal_into(3, &vec![0x77; length], &mut sealed);
            let mut out = vec![0; length];
            for bit in 0..8 * sealed.len() {
                sealed[bit / 8] ^= 1 << (bit % 8);
                out.fill(0xaa);
                assert_eq!(key.open_into(3, &sealed, &mut out), Err(Forged), "{length} {bit}");
                assert!(out.iter().all(|byte| *byte == 0), "{length} {bit}");
                sealed[bit / 8] ^= 1 << (bit % 8);
            }
            assert_eq!(key.open_into(3, &sealed, &mut out), Ok(()));
        }
    }
}

#[test]
fn another_key_another_counter_and_another_length_are_refused() {
    let key = TransportKey::new(&[1; 32]);
    let mut sealed = [0; 64 + TAG];
    key.seal_into(1 << 40, &[5; 64], &mut sealed);
    let out = &mut [0; 64];
    assert_eq!(key.open_into(1 << 40, &sealed, out), Ok(()));
    for counter in [0, 1, (1 << 40) + 1, 1 << 41, 1 << 8] {
        assert_eq!(key.open_into(counter, &sealed, out), Err(Forged), "{counter}");
    }
    assert_eq!(TransportKey::new(&[2; 32]).open_into(1 << 40, &sealed, out), Err(Forged));
    assert_eq!(key.open_into(1 << 40, &sealed[..79], &mut out[..63]), Err(Forged));
    assert_eq!(key.open_into(1 << 40, &sealed[1..], &mut out[..63]), Err(Forged));
    for short in 0..TAG {
        assert_eq!(key.open_into(1 << 40, &sealed[..short], out), Err(Forged), "{short}");
    }
}

#[test]
#[should_panic(expected = "no room")]
fn sealing_without_room_for_the_tag_is_the_callers_mistake() {
    TransportKey::new(&[1; 32]).seal_into(0, &[0; 20], &mut [0; 35]);
}

#[test]
#[should_panic(expected = "one length")]
fn opening_into_another_length_is_the_callers_mistake() {
    let _ = TransportKey::new(&[1; 32]).open_into(0, &[0; 36], &mut [0; 21]);
}

#[test]
fn a_key_crosses_threads_and_prints_nothing() {
    fn crosses<T: Send + Sync>(_: &T) {}
    let key = TransportKey::new(&[0x41; 32]);
    crosses(&key);
    assert_eq!(format!("{key:?}"), "TransportKey([redacted])");
}

/// RFC 8439, 2.8.2.
#[test]
fn the_sunscreen_of_the_rfc_is_sealed_as_there() {
    let key: [u8; 32] = std::array::from_fn(|at| 0x80 + at as u8);
    let nonce = bytes("070000004041424344454647").try_into().unwrap();
    let additional = bytes("50515253c0c1c2c3c4c5c6c7");
    let sealed = bytes(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
         1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
         3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691",
    );
    let Some(made) = seal(&key, nonce, &additional, SUNSCREEN) else { return };
    assert_eq!(made, sealed);
    assert_eq!(open(&key, nonce, &additional, &sealed).unwrap().unwrap(), SUNSCREEN);
}

/// RFC 8439, 2.4.2: without the tag, and from block 1 on, which is where a text begins.
#[test]
fn the_sunscreen_of_the_rfc_is_encrypted_as_there() {
    let key: [u8; 32] = std::array::from_fn(|at| at as u8);
    let nonce = bytes("000000000000004a00000000").try_into().unwrap();
    let encrypted = bytes(
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b357\
         1639d624e65152ab8f530c359f0861d807ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736\
         5af90bbf74a35be6b40b8eedf2785e42874d",
    );
    let Some(made) = seal(&key, nonce, &[], SUNSCREEN) else { return };
    assert_eq!(made[..SUNSCREEN.len()], encrypted);
}

const SUNSCREEN: &[u8] =
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one \
                           tip for the future, sunscreen would be it.";

/// What the cipher of this processor seals; with no additional data by the very function that
/// [`TransportKey`] calls. `None`, and a word, where it is ring's.
pub(crate) fn seal(
    key: &[u8; 32],
    nonce: [u8; 12],
    additional: &[u8],
    plain: &[u8],
) -> Option<Vec<u8>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(key) = avx512::Key::new(key) {
        if !additional.is_empty() {
            return Some(key.seal_with(nonce, additional, plain));
        }
        let mut sealed = vec![0; plain.len() + TAG];
        key.seal(nonce, plain, &mut sealed);
        return Some(sealed);
    }
    let _ = (key, nonce, additional, plain);
    println!("skipped: this processor has no AVX-512, packets go through ring");
    None
}

/// What it opens: `Some(None)` if it is not authentic.
pub(crate) fn open(
    key: &[u8; 32],
    nonce: [u8; 12],
    additional: &[u8],
    sealed: &[u8],
) -> Option<Option<Vec<u8>>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(key) = avx512::Key::new(key) {
        if !additional.is_empty() {
            return Some(key.open_with(nonce, additional, sealed));
        }
        let (text, tag) = sealed.split_last_chunk().expect("vectors have a tag");
        let mut plain = vec![0; text.len()];
        return Some(key.open(nonce, text, tag, &mut plain).then_some(plain));
    }
    let _ = (key, nonce, additional, sealed);
    None
}

fn random(rng: &mut StdRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn bytes(hex: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(hex.as_bytes()).expect("a test's own digits")
}

/// Poly1305 alone, against the RFC and against arithmetic bit by bit.
#[cfg(target_arch = "x86_64")]
mod authenticator {
    use super::super::avx512::available;
    use super::super::poly1305::Poly1305;
    use super::*;

    /// r with every bit that it may have.
    const WIDEST: u128 = 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;

    /// RFC 8439, A.3, vectors 7 to 11, which go wrong where a carry or the last subtraction does.
    #[test]
    fn the_carries_of_the_rfc_are_carried() {
        let ones = u128::MAX;
        check(2, 0, &[ones], Some(3));
        check(2, ones, &[2], Some(3));
        check(1, 0, &[ones, u128::MAX << 8 | 0xf0, 0x11], Some(5));
        let opposite = u128::from_le_bytes([
            0xfb, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe,
            0xfe, 0xfe,
        ]);
        check(1, 0, &[ones, opposite, u128::from_le_bytes([1; 16])], Some(0));
        check(2, 0, &[ones - 2], Some(ones - 5));
    }

    #[test]
    fn extreme_keys_and_texts_give_what_slow_arithmetic_gives() {
        let mut rng = StdRng::seed_from_u64(3);
        for r in [0, 1, 2, 4, WIDEST, WIDEST - 3, 1 << 123, WIDEST & !0xffff_ffff, rng.random()] {
            for block in [0, 1, u128::MAX, u128::MAX - 4, 1 << 127, rng.random()] {
                for count in (1..50).chain([63, 64, 65, 90, 91, 128, 200]) {
                    check(r, u128::MAX, &vec![block; count], None);
                }
            }
        }
    }

    #[test]
    fn random_keys_and_texts_give_what_slow_arithmetic_gives() {
        let mut rng = StdRng::seed_from_u64(4);
        for _ in 0..300 {
            let count = rng.random_range(1..100);
            let blocks: Vec<u128> = (0..count).map(|_| rng.random()).collect();
            check(rng.random(), rng.random(), &blocks, None);
        }
    }

    /// With r = 1 the sum is that of the blocks and 2^128 for each: four of those are 5.
    #[test]
    fn sums_on_both_sides_of_the_modulus_are_reduced() {
        for count in [4, 8, 20, 24, 40, 44, 92] {
            let fives = u128::from(count as u64 / 4) * 5;
            for less in 0..fives + 12 {
                let mut blocks = vec![0; count];
                blocks[count - 3..].fill(u128::MAX);
                blocks[count - 4] = u128::MAX - less;
                let expected = fives.wrapping_sub(4).wrapping_sub(less);
                // From 2^130 - 5 on, that is for `less` up to `fives` + 1, it is 5 more.
                let expected = if less <= fives + 1 { expected.wrapping_add(5) } else { expected };
                check(1, 0, &blocks, Some(expected));
            }
        }
    }

    #[test]
    fn a_last_block_that_is_not_full_counts_as_filled_up_with_zeroes() {
        if !available() {
            return skipped();
        }
        let mut rng = StdRng::seed_from_u64(5);
        for length in 0..700 {
            let key: [u8; 32] = rng.random();
            let last = rng.random();
            let mut text = random(&mut rng, length);
            let made = tag(&key, &text, last);
            text.resize(length.next_multiple_of(16), 0);
            let blocks = text.as_chunks().0.iter().map(|block| u128::from_le_bytes(*block));
            assert_eq!(made, slow(&key, blocks.chain([last])), "{length}");
        }
    }

    /// The tag of the blocks is what slow arithmetic says, and what is expected.
    fn check(r: u128, s: u128, blocks: &[u128], expected: Option<u128>) {
        if !available() {
            return skipped();
        }
        let key = [r.to_le_bytes(), s.to_le_bytes()].concat().try_into().unwrap();
        let (last, text) = blocks.split_last().unwrap();
        let text: Vec<u8> = text.iter().flat_map(|block| block.to_le_bytes()).collect();
        let made = tag(&key, &text, *last);
        assert_eq!(made, slow(&key, blocks.iter().copied()), "{r:x} {s:x} {blocks:x?}");
        if let Some(expected) = expected {
            assert_eq!(made, expected, "{r:x} {s:x} {blocks:x?}");
        }
    }

    fn skipped() {
        println!("skipped: this processor has no AVX-512");
    }

    fn tag(key: &[u8; 32], text: &[u8], last: u128) -> u128 {
        // SAFETY: whoever calls this has asked whether it is available.
        u128::from_le_bytes(unsafe { Poly1305::new(key, text.len()).tag(text, last) })
    }

    /// RFC 8439, 2.5.1, with multiplication as a sum of doubles.
    fn slow(key: &[u8; 32], blocks: impl Iterator<Item = u128>) -> u128 {
        let half = |at: usize| u128::from_le_bytes(*key[at..].first_chunk().unwrap());
        let (r, s) = (half(0) & WIDEST, half(16));
        let mut sum = (0, 0);
        for block in blocks {
            let number = plus(sum, (1, block));
            sum = (0, 0);
            for bit in (0..124).rev() {
                sum = plus(sum, sum);
                if r >> bit & 1 == 1 {
                    sum = plus(sum, number);
                }
            }
        }
        sum.1.wrapping_add(s)
    }

    /// The sum of two numbers below 2^130 - 5, modulo that; each is its two upper bits and the rest.
    fn plus(a: (u8, u128), b: (u8, u128)) -> (u8, u128) {
        let (lower, carry) = a.1.overflowing_add(b.1);
        let upper = a.0 + b.0 + u8::from(carry);
        let (over, borrow) = lower.overflowing_sub(u128::MAX - 4);
        match (upper, borrow) {
            (0..=2, _) | (3, true) => (upper, lower),
            _ => (upper - 3 - u8::from(borrow), over),
        }
    }
}
