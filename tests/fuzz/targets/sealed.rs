//! The cipher of transport packets, which is our own where the processor has AVX-512, against ring's.

use ginnel::forward::aead::{Forged, TAG, TransportKey};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::Source;

/// Key, counter, bytes of padding, a bit to change; the rest is the text, and once more what somebody
/// without the key sends.
pub fn aead(data: &[u8]) {
    let mut source = Source(data);
    let bytes: [u8; 32] = source.array();
    let counter = u64::from_be_bytes(source.array());
    let padding = usize::from(source.byte());
    let bit = usize::from(u16::from_be_bytes(source.array()));
    let text = source.rest();
    let key = TransportKey::new(&bytes);
    let reference =
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("32 bytes"));

    let mut plain = text.to_vec();
    plain.resize(text.len() + padding, 0);
    let mut wanted = plain.clone();
    let sealing = reference.seal_in_place_append_tag(nonce(counter), Aad::empty(), &mut wanted);
    sealing.expect("it is short");
    let mut sealed = vec![0xaa; plain.len() + TAG];
    key.seal_into(counter, text, &mut sealed);
    assert_eq!(sealed, wanted);

    let mut opened = vec![0xaa; plain.len()];
    assert_eq!(key.open_into(counter, &sealed, &mut opened), Ok(()));
    assert_eq!(opened, plain);

    let at = bit / 8 % sealed.len();
    sealed[at] ^= 1 << (bit % 8);
    assert_eq!(key.open_into(counter, &sealed, &mut opened), Err(Forged));
    assert!(opened.iter().all(|byte| *byte == 0), "nothing of the text is left");

    let mut stranger = text.to_vec();
    let wanted = reference.open_in_place(nonce(counter), Aad::empty(), &mut stranger);
    let mut opened = vec![0xaa; text.len().saturating_sub(TAG)];
    let made = key.open_into(counter, text, &mut opened);
    assert_eq!(made.is_ok(), wanted.is_ok());
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Texts on both sides of where the cipher goes another way.
pub fn seeds() -> Vec<Vec<u8>> {
    let seed = |length: usize, padding: u8| {
        let key = (1..=32).collect::<Vec<u8>>();
        let rest = [0, 0, 0, 0, 0, 0, 0, length as u8, padding, 0, length as u8];
        let text = (0..length).map(|at| at as u8);
        key.into_iter().chain(rest).chain(text).collect()
    };
    let lengths = [0, 16, 64, 127, 192, 255, 256, 368, 448, 960, 1024, 1420, 1984];
    lengths
        .into_iter()
        .map(|length| seed(length, (length.next_multiple_of(16) - length) as u8))
        .collect()
}
