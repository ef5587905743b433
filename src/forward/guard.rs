//! Who may cost us a handshake: MAC1, cookies under load, and a bucket a source.
//!
//! A handshake message costs an X25519 or two, so before any: MAC1 must show that the sender knows our
//! public key, which only members and guests do (WireGuard paper, section 5.4.4); over 100 messages
//! a second a cookie must show that it owns its address (5.4.7), unless it is a peer's, whose path
//! was checked; and each source, an IPv4 address or an IPv6 /64, gets 20 a second with a burst of 5.
//! Ephemeral keys of low order are refused here too.
//!
//! Making and sending a cookie costs five times what refusing does, and whoever floods us with
//! spoofed sources wants nothing of them: so many a second and no more. Devices that check paths
//! before they shake hands, all of this network, do not depend on them.
//!
//! A device has its own static key, and while it joins also the invite's guest key: MAC1 is
//! computed over the receiver's key, so a message that fits either passes.
//!
//! The buckets are a fixed table of 4-way sets under a keyed hash: nothing is allocated, and no
//! sender can choose whose bucket it shares. A bucket is one number, the time at which it is full
//! again (the generic cell rate algorithm), so one that is full may be overwritten without loss.

use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::drops::DropReason;
use super::outcome::MacVerdict;
use super::tunnel::MacCheck;
use crate::identity::{WgSecret, kdf};
use crate::wire::classify::{COOKIE_REPLY_LEN, Class, classify, ephemeral_key};

/// Handshake messages a second to one key from which on cookies are asked for: at 100 µs each, 1 %
/// of a core.
const COOKIE_THRESHOLD: u64 = 100;

/// Cookies sent a second, to all sources together: at 5 µs each, half a percent of a core.
const COOKIES_A_SECOND: u32 = 1000;

/// Length of MAC2, the last bytes of a message of type 1 or 2.
const MAC2_LEN: usize = 16;

/// One handshake message a source in so many milliseconds: 20 a second.
const SOURCE_INTERVAL_MS: u64 = 50;

/// How far a source may be ahead of its rate: 5 messages at once.
const SOURCE_BURST_MS: u64 = 4 * SOURCE_INTERVAL_MS;

/// How often cookies stop being asked for, should the load be gone.
const RESET_INTERVAL: Duration = Duration::from_secs(1);

/// Sets of the table. A bucket that is not full lives 250 ms at most, so 1,024 buckets hold the
/// sources of 4,000 messages a second, far more than pass without a cookie.
const SETS: usize = 256;

/// Buckets of a set.
const WAYS: usize = 4;

/// What to do with a handshake message.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Handle it.
    Pass,
    /// Send this cookie to where it came from, and forget it.
    Reply([u8; COOKIE_REPLY_LEN]),
    /// Forget it.
    Drop(DropReason),
}

/// Guards the handshakes of one network; shared by its threads.
pub struct HandshakeGuard {
    checks: Vec<MacCheck>,
    hash_key: [u8; 32],
    born: Instant,
    buckets: Mutex<Buckets>,
}

impl std::fmt::Debug for HandshakeGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandshakeGuard").field("keys", &self.checks.len()).finish_non_exhaustive()
    }
}

struct Buckets {
    last_reset: Instant,
    /// Cookies sent since then.
    cookies: u32,
    sets: Box<[[Bucket; WAYS]; SETS]>,
}

/// One source: the hash of its address and when, in milliseconds since the guard's birth, its
/// allowance is whole again.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    source: u64,
    full_at: u64,
}

impl HandshakeGuard {
    /// A guard of a device with these static keys, the likeliest first.
    pub fn new(statics: &[&WgSecret], now: Instant) -> Self {
        let secrets: Vec<u8> = statics.iter().flat_map(|key| *key.as_bytes()).collect();
        let secrets = zeroize::Zeroizing::new(secrets);
        Self {
            checks: statics
                .iter()
                .map(|key| MacCheck::new(&key.public(), COOKIE_THRESHOLD))
                .collect(),
            hash_key: *kdf(&secrets, "handshake buckets", &[]),
            born: now,
            buckets: Mutex::new(Buckets {
                last_reset: now,
                cookies: 0,
                sets: Box::new([[Bucket::default(); WAYS]; SETS]),
            }),
        }
    }

    /// Judges a message of type 1, 2 or 3; of type 3, which has no MAC1, only the rate. `proven`
    /// tells whether the source has shown otherwise that it owns its address; it is asked under load.
    pub fn check(
        &self,
        from: SocketAddr,
        datagram: &[u8],
        mut proven: impl FnMut() -> bool,
        now: Instant,
    ) -> Verdict {
        let out_of_cookies = self.reset_counts(now);
        let brings = brings_cookie(datagram);
        if out_of_cookies && !brings && !proven() {
            // Whatever its MAC1 is: a flood costs no hash.
            return Verdict::Drop(DropReason::CookieBudget);
        }
        let Some(ephemeral) = ephemeral_key(datagram) else {
            return match classify(datagram) {
                Class::CookieReply => self.check_rate(from.ip(), false, now),
                _ => Verdict::Drop(DropReason::UnknownDatagram),
            };
        };
        if is_low_order(&ephemeral) {
            return Verdict::Drop(DropReason::LowOrderKey);
        }
        let cookie_of = brings.then_some(from.ip());
        for check in &self.checks {
            match check.check(cookie_of, datagram) {
                MacVerdict::Pass => return self.check_rate(from.ip(), brings, now),
                MacVerdict::Cookie(cookie) => return self.reply(|| Some(cookie)),
                MacVerdict::Loaded if proven() => {
                    return match self.check_rate(from.ip(), brings, now) {
                        Verdict::Pass => Verdict::Pass,
                        // Its address may be another's in this flood: a cookie tells them apart.
                        _ => self.reply(|| check.cookie(from.ip(), datagram)),
                    };
                }
                MacVerdict::Loaded => return self.reply(|| check.cookie(from.ip(), datagram)),
                MacVerdict::Refuse => {}
            }
        }
        Verdict::Drop(DropReason::WrongMac)
    }

    /// A cookie, while there are any to give in this second.
    fn reply(&self, cookie: impl FnOnce() -> Option<[u8; COOKIE_REPLY_LEN]>) -> Verdict {
        let mut buckets = self.buckets.lock();
        if buckets.cookies >= COOKIES_A_SECOND {
            return Verdict::Drop(DropReason::CookieBudget);
        }
        buckets.cookies += 1;
        drop(buckets);
        cookie().map_or(Verdict::Drop(DropReason::WrongMac), Verdict::Reply)
    }

    /// Begins another second where it is time; whether all cookies of this one were given out.
    fn reset_counts(&self, now: Instant) -> bool {
        let mut buckets = self.buckets.lock();
        if now.saturating_duration_since(buckets.last_reset) >= RESET_INTERVAL {
            buckets.last_reset = now;
            buckets.cookies = 0;
            self.checks.iter().for_each(MacCheck::reset);
        }
        buckets.cookies >= COOKIES_A_SECOND
    }

    /// Whoever brings a cookie, which is verified under load, has a bucket that nobody else can
    /// empty by using the address.
    fn check_rate(&self, from: IpAddr, brings_cookie: bool, now: Instant) -> Verdict {
        let source = self.hash(from, brings_cookie);
        let age = now.saturating_duration_since(self.born).as_millis();
        let age = u64::try_from(age).unwrap_or(u64::MAX / 2);
        let mut buckets = self.buckets.lock();
        let set = &mut buckets.sets[source as usize % SETS];
        let at = set.iter().position(|bucket| bucket.source == source).unwrap_or_else(|| {
            let emptiest = (0..WAYS).min_by_key(|at| set[*at].full_at).unwrap_or(0);
            set[emptiest] = Bucket { source, full_at: 0 };
            emptiest
        });
        let full_at = set[at].full_at.max(age);
        if full_at > age + SOURCE_BURST_MS {
            return Verdict::Drop(DropReason::SourceRate);
        }
        set[at].full_at = full_at + SOURCE_INTERVAL_MS;
        Verdict::Pass
    }

    /// A keyed hash of the IPv4 address or of the /64, which is one subscriber's.
    fn hash(&self, from: IpAddr, brings_cookie: bool) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.hash_key);
        hasher.write_u8(brings_cookie.into());
        match from {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()[..8]),
        }
        hasher.finish()
    }
}

/// Whether a message of type 1 or 2 has a MAC2: without a cookie it is zero (paper, 5.4.4).
fn brings_cookie(datagram: &[u8]) -> bool {
    datagram.last_chunk::<MAC2_LEN>().is_some_and(|mac2| *mac2 != [0; MAC2_LEN])
}

/// A handshake message's class; `None` for anything else, and where the ephemeral key is of low
/// order: its sender wants a secret that everybody knows.
pub(super) fn handshake_class(datagram: &[u8]) -> Option<Class> {
    let class = classify(datagram);
    let known = matches!(class, Class::Initiation | Class::Response | Class::CookieReply);
    let low_order = ephemeral_key(datagram).is_some_and(|key| is_low_order(&key));
    (known && !low_order).then_some(class)
}

/// Whether the product of `point` with every clamped scalar is zero: the points of small
/// order on Curve25519 and its twist, in every encoding (RFC 7748, section 6.1; the encodings
/// from 2^255 on differ from these in the top bit, which X25519 ignores).
fn is_low_order(point: &[u8; 32]) -> bool {
    let mut masked = *point;
    masked[31] &= 0x7f;
    LOW_ORDER.contains(&masked)
}

/// 0, 1, the two points of order 8, and p − 1, p, p + 1.
const LOW_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    near_p(0xec),
    near_p(0xed),
    near_p(0xee),
];

/// 2^255 − 256 + `first`.
const fn near_p(first: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    bytes[0] = first;
    bytes[31] = 0x7f;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::SlotIndex;
    use crate::forward::tunnel::tests::{pair, secret};
    use crate::forward::tunnel::{HandshakeOutcome, Tunnel};
    use crate::identity::WgPublicKey;

    const SOURCE: &str = "192.0.2.1:5000";

    fn unproven() -> bool {
        false
    }

    fn source(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_message_to_one_of_our_keys_passes_and_to_another_key_does_not() {
        let now = Instant::now();
        let mut to_us = pair().0;
        let (own, guest) = (secret(9), secret(2));
        let initiation = to_us.initiate(now);
        let member = HandshakeGuard::new(&[&guest], now);
        let joiner = HandshakeGuard::new(&[&own, &guest], now);
        let other = HandshakeGuard::new(&[&own], now);
        assert_eq!(member.check(source(SOURCE), &initiation, unproven, now), Verdict::Pass);
        assert_eq!(joiner.check(source(SOURCE), &initiation, unproven, now), Verdict::Pass);
        let refused = other.check(source(SOURCE), &initiation, unproven, now);
        assert_eq!(refused, Verdict::Drop(DropReason::WrongMac));
        let mut forged = initiation;
        forged[60] ^= 1;
        let refused = member.check(source(SOURCE), &forged, unproven, now);
        assert_eq!(refused, Verdict::Drop(DropReason::WrongMac));
    }

    #[test]
    fn a_source_gets_five_at_once_and_twenty_a_second() {
        let now = Instant::now();
        let guard = HandshakeGuard::new(&[&secret(2)], now);
        let initiation = pair().0.initiate(now);
        let pass = |from: &str, ms: u64| {
            let at = now + Duration::from_millis(ms);
            guard.check(source(from), &initiation, unproven, at) == Verdict::Pass
        };
        let passed = (0..10).filter(|_| pass(SOURCE, 0)).count();
        assert_eq!(passed, 5);
        assert!(pass("192.0.2.2:5000", 0), "another source");
        assert!(!pass("192.0.2.1:6000", 0), "another port is no other source");
        assert!(pass(SOURCE, 50) && !pass(SOURCE, 51));
        let passed = (1000..3000)
            .map(|ms| guard.check_rate(source(SOURCE).ip(), false, now + Duration::from_millis(ms)))
            .filter(|verdict| *verdict == Verdict::Pass)
            .count();
        assert!((40..=45).contains(&passed), "{passed} in two seconds");
    }

    #[test]
    fn addresses_of_one_ipv6_subscriber_share_a_bucket() {
        let now = Instant::now();
        let guard = HandshakeGuard::new(&[&secret(2)], now);
        let initiation = pair().0.initiate(now);
        let passed = (0..50)
            .filter(|i| {
                let from = source(&format!("[2001:db8:1:2::{i:x}]:1"));
                guard.check(from, &initiation, unproven, now) == Verdict::Pass
            })
            .count();
        assert_eq!(passed, 5);
    }

    #[test]
    fn under_load_a_cookie_is_asked_for_and_honoured() {
        let now = Instant::now();
        let guard = HandshakeGuard::new(&[&secret(2)], now);
        let (mut a, _) = pair();
        let initiation = a.initiate(now);
        let mut replies = 0;
        for i in 0..=100u8 {
            let from = SocketAddr::from(([198, 51, 100, i], 1));
            match guard.check(from, &initiation, unproven, now) {
                Verdict::Pass => assert!(i < 100),
                Verdict::Reply(cookie) => {
                    replies += 1;
                    let stored = a.handle_handshake(&cookie, &mut Vec::new(), now);
                    assert_eq!(stored, Ok(HandshakeOutcome::CookieStored));
                }
                Verdict::Drop(reason) => panic!("{reason:?}"),
            }
        }
        assert_eq!(replies, 1);
        let with_cookie = a.initiate(now);
        let own_address = SocketAddr::from(([198, 51, 100, 100], 1));
        let spoofed = SocketAddr::from(([203, 0, 113, 5], 1));
        assert_eq!(guard.check(own_address, &with_cookie, unproven, now), Verdict::Pass);
        assert!(matches!(guard.check(spoofed, &with_cookie, unproven, now), Verdict::Reply(_)));
    }

    #[test]
    fn in_a_flood_cookies_run_out_until_the_next_second_and_proven_sources_need_none() {
        let now = Instant::now();
        let guard = HandshakeGuard::new(&[&secret(2)], now);
        let (mut a, _) = pair();
        let initiation = a.initiate(now);
        let flood = |number: u32, now| {
            let from = SocketAddr::from(((0x0b00_0000 + number).to_be_bytes(), 1));
            guard.check(from, &initiation, unproven, now)
        };
        let verdicts: Vec<_> = (0..5000).map(|number| flood(number, now)).collect();
        let replies = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Reply(_)));
        assert_eq!(replies.count(), COOKIES_A_SECOND as usize);
        assert_eq!(flood(9999, now), Verdict::Drop(DropReason::CookieBudget));
        let from_peer = |proven: bool| guard.check(source(SOURCE), &initiation, || proven, now);
        assert_eq!(from_peer(false), Verdict::Drop(DropReason::CookieBudget));
        assert_eq!(from_peer(true), Verdict::Pass);
        let passed = (0..10).filter(|_| from_peer(true) == Verdict::Pass).count();
        assert_eq!(passed, 4, "a proven source has the rate of any other");
        let next = now + RESET_INTERVAL;
        // boringtun counts by the real second, in which this may still be.
        let replied = |number| matches!(flood(number, next), Verdict::Reply(_));
        assert!((0..=COOKIE_THRESHOLD as u32).any(replied));
    }

    #[test]
    fn ten_thousand_sources_need_no_more_room_than_one() {
        let now = Instant::now();
        let guard = HandshakeGuard::new(&[&secret(2)], now);
        for i in 0..10_000u32 {
            let from = IpAddr::from((0x0b00_0000 + i).to_be_bytes());
            guard.check_rate(from, false, now);
        }
        let busiest = IpAddr::from([192, 0, 2, 1]);
        let passed =
            (0..10).filter(|_| guard.check_rate(busiest, false, now) == Verdict::Pass).count();
        assert_eq!(passed, 5);
    }

    #[test]
    fn low_order_ephemeral_keys_are_refused_and_the_list_agrees_with_the_arithmetic() {
        let now = Instant::now();
        let guard = HandshakeGuard::new(&[&secret(2)], now);
        for point in LOW_ORDER {
            let mut initiation = pair().0.initiate(now);
            initiation[8..40].copy_from_slice(&point);
            let refused = guard.check(source(SOURCE), &initiation, unproven, now);
            assert_eq!(refused, Verdict::Drop(DropReason::LowOrderKey));
            let mut high = point;
            high[31] |= 0x80;
            for encoding in [point, high] {
                assert!(is_low_order(&encoding));
                assert!(secret(7).agree(&WgPublicKey(encoding)).is_none());
                let refused = Tunnel::new(&secret(1), &WgPublicKey(encoding), SlotIndex(1));
                assert!(refused.is_none());
            }
        }
        assert!(!is_low_order(&secret(1).public().0));
    }

    #[test]
    fn what_is_no_handshake_message_is_dropped() {
        let now = Instant::now();
        let guard = HandshakeGuard::new(&[&secret(2)], now);
        for datagram in [vec![], vec![1], vec![1; 148], vec![4, 0, 0, 0], vec![0; 65_507]] {
            let refused = guard.check(source(SOURCE), &datagram, unproven, now);
            assert_eq!(refused, Verdict::Drop(DropReason::UnknownDatagram));
        }
    }
}
