//! ChaCha20-Poly1305 of ring, for every processor.

use std::mem::{MaybeUninit, needs_drop};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use zeroize::Zeroize;

use super::TAG;

/// A key as ring keeps it. ring does not zeroize: in its box the key stays where it is, and there it
/// is overwritten in the end.
pub struct PortableKey(Box<MaybeUninit<LessSafeKey>>);

impl PortableKey {
    pub fn new(key: &[u8; 32]) -> PortableKey {
        const { assert!(!needs_drop::<LessSafeKey>(), "a key is bytes and no more") };
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key has 32 bytes");
        PortableKey(Box::new(MaybeUninit::new(LessSafeKey::new(key))))
    }

    /// Seals `plain` and zeroes after it into `out`, whose last 16 bytes are the tag.
    pub fn seal(&self, nonce: [u8; 12], plain: &[u8], out: &mut [u8]) {
        let (text, tag) = out.split_last_chunk_mut::<TAG>().expect("out has room for a tag");
        let (head, padding) = text.split_at_mut(plain.len());
        head.copy_from_slice(plain);
        padding.fill(0);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let made = self.key().seal_in_place_separate_tag(nonce, Aad::empty(), text);
        tag.copy_from_slice(made.expect("a packet is shorter than 256 GiB").as_ref());
    }

    /// Decrypts `text` into `out`; whether the tag is right.
    pub fn open(&self, nonce: [u8; 12], text: &[u8], tag: &[u8; TAG], out: &mut [u8]) -> bool {
        out.copy_from_slice(text);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = Tag::from(*tag);
        self.key().open_in_place_separate_tag(nonce, Aad::empty(), tag, out, 0..).is_ok()
    }

    fn key(&self) -> &LessSafeKey {
        // SAFETY: `new` puts a key there, and only `drop` takes it away.
        unsafe { self.0.assume_init_ref() }
    }
}

impl Drop for PortableKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
