//! The cipher of transport packets: ChaCha20-Poly1305 (RFC 8439) as WireGuard uses it (Donenfeld,
//! "WireGuard: Next Generation Kernel Network Tunnel", 5.4.6): the nonce is four zero bytes and the
//! packet's counter, there is no additional data, and the text is filled up with zeroes.
//!
//! Half of what a packet costs is spent here, so there are two of it, and [`TransportKey::new`] takes
//! the better one that the processor can do:
//!
//! * `avx512`: our own, in `chacha` and `poly1305`, for x86-64 with AVX-512 F, BW and IFMA (Intel from
//!   Ice Lake on, AMD from Zen 4 on). It reads the text once and writes it once.
//! * `portable`: ring, for every other processor. It works in place, on a copy of the text.
//!
//! Handshakes do not come here: few, and none of their messages is long.

use std::fmt;

use portable::PortableKey;

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod chacha;
#[cfg(target_arch = "x86_64")]
mod poly1305;
mod portable;
#[cfg(target_arch = "x86_64")]
mod register;
#[cfg(test)]
pub(crate) mod tests;

/// Bytes that sealing adds: the tag.
pub const TAG: usize = 16;

/// What was to be opened was not sealed with this key under this counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Forged;

/// A key of one direction of a session. Zeroized when dropped.
pub struct TransportKey(Cipher);

enum Cipher {
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Key),
    Portable(PortableKey),
}

impl TransportKey {
    /// The key for the best cipher that this processor has.
    pub fn new(key: &[u8; 32]) -> TransportKey {
        #[cfg(target_arch = "x86_64")]
        if let Some(key) = avx512::Key::new(key) {
            return TransportKey(Cipher::Avx512(key));
        }
        TransportKey::portable(key)
    }

    /// The key for the cipher that every processor has: to compare with.
    pub fn portable(key: &[u8; 32]) -> TransportKey {
        TransportKey(Cipher::Portable(PortableKey::new(key)))
    }

    /// Seals `plain`, and zeroes after it until `out` is full but for 16 bytes, which are the tag.
    ///
    /// No counter may seal two different texts.
    ///
    /// # Panics
    /// If `out` is shorter than `plain` and a tag.
    pub fn seal_into(&self, counter: u64, plain: &[u8], out: &mut [u8]) {
        assert!(out.len() >= plain.len() + TAG, "no room for {} bytes and a tag", plain.len());
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Cipher::Avx512(key) => key.seal(nonce(counter), plain, out),
            Cipher::Portable(key) => key.seal(nonce(counter), plain, out),
        }
    }

    /// Opens `sealed`, text and tag, into `out`, which is 16 bytes shorter.
    ///
    /// # Errors
    /// If it is not authentic; then nothing of the text is in `out`.
    ///
    /// # Panics
    /// If `out` has another length than the text.
    pub fn open_into(&self, counter: u64, sealed: &[u8], out: &mut [u8]) -> Result<(), Forged> {
        let (text, tag) = sealed.split_last_chunk::<TAG>().ok_or(Forged)?;
        assert_eq!(text.len(), out.len(), "the text and where it goes have one length");
        let authentic = match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Cipher::Avx512(key) => key.open(nonce(counter), text, tag, out),
            Cipher::Portable(key) => key.open(nonce(counter), text, tag, out),
        };
        if authentic {
            Ok(())
        } else {
            // Both decrypt before they know.
            out.fill(0);
            Err(Forged)
        }
    }
}

impl fmt::Debug for TransportKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransportKey([redacted])")
    }
}

/// Which cipher [`TransportKey::new`] takes here: `avx512` or `ring`.
pub fn backend() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if avx512::available() {
        return "avx512";
    }
    "ring"
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}
