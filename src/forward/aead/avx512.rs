//! ChaCha20-Poly1305 without additional data, for processors with AVX-512 IFMA.

use std::hint::black_box;

use zeroize::ZeroizeOnDrop;

use super::TAG;
use super::chacha::{Stream, Text};
use super::poly1305::Poly1305;
use super::register::{WIDTH, store};

/// Whether this processor, and the operating system on it, can do all that is used here.
pub fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512ifma")
}

/// A key; there is none where the processor cannot do it.
#[derive(ZeroizeOnDrop)]
pub struct Key([u32; 8]);

impl Key {
    pub fn new(key: &[u8; 32]) -> Option<Key> {
        let (words, _) = key.as_chunks();
        available().then(|| Key(std::array::from_fn(|at| u32::from_le_bytes(words[at]))))
    }

    /// Seals `plain` and zeroes after it into `out`, whose last 16 bytes are the tag.
    pub fn seal(&self, nonce: [u8; 12], plain: &[u8], out: &mut [u8]) {
        let (out, tag) = out.split_last_chunk_mut().expect("out has room for a tag");
        // SAFETY: `new` makes a key only where the processor has what these functions enable.
        *tag = unsafe { seal(self.stream(nonce), plain, out) };
    }

    /// Decrypts `text` into `out`; whether the tag is right.
    pub fn open(&self, nonce: [u8; 12], text: &[u8], tag: &[u8; TAG], out: &mut [u8]) -> bool {
        // SAFETY: as above.
        let right = unsafe { open(self.stream(nonce), text, out) };
        same(&right, tag)
    }

    fn stream(&self, nonce: [u8; 12]) -> Stream {
        let (words, _) = nonce.as_chunks();
        Stream::new(&self.0, [0, 1, 2].map(|at: usize| u32::from_le_bytes(words[at])))
    }
}

/// The tag of what `plain` becomes.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn seal(mut stream: Stream, plain: &[u8], out: &mut [u8]) -> [u8; TAG] {
    let mut text = Text { input: plain, out };
    let poly = authenticator(&mut stream, &mut text);
    stream.rest(&mut text);
    poly.tag(out, lengths(0, out))
}

/// The tag that `sealed` should have.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn open(mut stream: Stream, sealed: &[u8], out: &mut [u8]) -> [u8; TAG] {
    let mut text = Text { input: sealed, out };
    let poly = authenticator(&mut stream, &mut text);
    stream.rest(&mut text);
    poly.tag(sealed, lengths(0, sealed))
}

/// Begins with the text, and Poly1305 with the key that the stream's first block is: before the passes
/// that follow, so that the processor can work out powers of the key beside them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn authenticator(stream: &mut Stream, text: &mut Text<'_>) -> Poly1305 {
    let length = text.out.len();
    let mut block = [0; WIDTH];
    store(&mut block, stream.first_pass(text));
    Poly1305::new(block.first_chunk().expect("a block has more than 32 bytes"), length)
}

/// The last block of what is authenticated: bytes of additional data, and of the text.
fn lengths(additional: usize, text: &[u8]) -> u128 {
    additional as u128 | (text.len() as u128) << 64
}

/// Whether the two are equal, in the same time wherever they differ: the compiler cannot know what
/// comes out of the black box, so it has to put all the differences together before it asks.
fn same(a: &[u8; TAG], b: &[u8; TAG]) -> bool {
    let difference = u128::from_le_bytes(*a) ^ u128::from_le_bytes(*b);
    black_box(difference as u64 | (difference >> 64) as u64) == 0
}

/// With additional data, as the vectors of others have it; of the same parts.
#[cfg(test)]
impl Key {
    pub fn seal_with(&self, nonce: [u8; 12], additional: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut sealed = vec![0; plain.len()];
        // SAFETY: as above.
        let tag = unsafe { with(self.stream(nonce), additional, plain, &mut sealed, true) };
        [&sealed[..], &tag].concat()
    }

    pub fn open_with(&self, nonce: [u8; 12], additional: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (text, tag) = sealed.split_last_chunk()?;
        let mut plain = vec![0; text.len()];
        // SAFETY: as above.
        let right = unsafe { with(self.stream(nonce), additional, text, &mut plain, false) };
        same(&right, tag).then_some(plain)
    }
}

#[cfg(test)]
#[target_feature(enable = "avx512f,avx512bw,avx512ifma")]
fn with(
    mut stream: Stream,
    additional: &[u8],
    input: &[u8],
    out: &mut [u8],
    seals: bool,
) -> [u8; TAG] {
    let mut text = Text { input, out };
    let mut block = [0; WIDTH];
    store(&mut block, stream.first_pass(&mut text));
    stream.rest(&mut text);
    let sealed = if seals { out } else { input };
    let mut all = additional.to_vec();
    all.resize(additional.len().next_multiple_of(TAG), 0);
    all.extend(sealed);
    let poly = Poly1305::new(block.first_chunk().expect("64 bytes"), all.len());
    poly.tag(&all, lengths(additional.len(), sealed))
}
