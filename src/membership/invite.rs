//! Invites: a one-time token, and the keys that follow from its seed.
//!
//! An invite is a one-time guest WireGuard key. Its token is `ginnel1` and, in lower-case base32
//! (RFC 4648) without padding:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | 32 | network id |
//! | 16 | seed |
//! | 0 to 2 × (39 or 51) | hints: the sponsor's WireGuard key 32, family 4 or 6, address 4 or 16, port 2 (big-endian) |
//! | 4 | check: the first bytes of `H` over all before it |
//!
//! With two IPv6 hints it has 255 characters. It holds no network secret and no admin key: whoever
//! steals it can do what the invited device can, once. From the seed follow, with the network id as
//! context, `KDF(seed, "invite ik")` (the Ed25519 seed of the joiner's signature),
//! `KDF(seed, "invite gk")` (the X25519 guest key) and `KDF(seed, "invite rv")` (the rendezvous
//! secret). Admins announce the public halves in an [`InviteOpen`]; its id is `H(ik_pk)[..16]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::policy::DeviceName;
use super::time::UnixTime;
use crate::identity::{InviteKey, InviteSecret, NetworkId, WgPublicKey, WgSecret, hash, kdf};

/// What every token starts with.
pub const TOKEN_PREFIX: &str = "ginnel1";

/// The longest token that is looked at, in characters: the longest there is has 255.
pub const MAX_TOKEN_LEN: usize = 300;

/// The most hints of an invite: two keep the token short enough for one QR code and one chat line.
pub const MAX_HINTS: usize = 2;

/// How long an invite is good where nobody says otherwise, in seconds: a day, so that it can be
/// sent in the evening and used in the morning.
pub const DEFAULT_LIFETIME: u64 = 24 * 3600;

/// The longest an invite may be good, in seconds: a week. All members carry its guest key for so
/// long.
pub const MAX_LIFETIME: u64 = 7 * 24 * 3600;

/// The only version of the token.
const TOKEN_VERSION: u8 = 1;

/// Bytes of the check: a mistyped token passes once in 2^32.
const CHECK_LEN: usize = 4;

/// `H(ik_pk)[..16]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InviteId(pub [u8; 16]);

impl InviteId {
    /// The id of the invite with this key.
    pub fn of(ik: &InviteKey) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&hash(&ik.0)[..16]);
        Self(id)
    }
}

impl fmt::Display for InviteId {
    /// The first 8 characters, which is what people compare.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE32_NOPAD.encode(&self.0[..5]).to_ascii_lowercase())
    }
}

impl fmt::Debug for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InviteId({self}…)")
    }
}

/// An invite as it is handed over. [`Invite::token`] is its text; `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    /// The network it leads into.
    pub network: NetworkId,
    seed: Zeroizing<[u8; 16]>,
    /// Where to look first; at most [`MAX_HINTS`].
    pub hints: Vec<Hint>,
}

/// Where a sponsor may be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// Its WireGuard key.
    pub wg: WgPublicKey,
    /// Its address.
    pub address: SocketAddr,
}

/// What follows from the seed.
#[derive(Clone)]
pub struct InviteKeys {
    /// `H(ik_pk)[..16]`.
    pub id: InviteId,
    /// Signs the join request.
    pub ik: InviteSecret,
    /// The guest's WireGuard key.
    pub gk: WgSecret,
    /// The rendezvous secret.
    pub rv: Zeroizing<[u8; 32]>,
}

/// An invite, as its admin announces it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteOpen {
    /// `H(ik_pk)[..16]`.
    pub invite: InviteId,
    /// The key that signs the join request.
    pub ik: InviteKey,
    /// The guest's WireGuard key, a peer of every sponsor while the invite is open.
    pub gk: WgPublicKey,
    /// The rendezvous secret.
    pub rv: [u8; 32],
    /// Until when, exclusive; at most [`MAX_LIFETIME`] after the op.
    pub expires: UnixTime,
    /// The joining device becomes an admin.
    pub admin: bool,
    /// The name it gets.
    pub name: Option<DeviceName>,
}

impl Invite {
    /// Keeps at most [`MAX_HINTS`] hints.
    pub fn new(network: NetworkId, seed: [u8; 16], hints: Vec<Hint>) -> Self {
        let hints = hints.into_iter().take(MAX_HINTS).map(Hint::plain).collect();
        Self { network, seed: Zeroizing::new(seed), hints }
    }

    /// The keys that follow from the seed.
    pub fn keys(&self) -> InviteKeys {
        let derive = |label| kdf(self.seed.as_ref(), label, &self.network.0);
        let ik = InviteSecret::from_seed(*derive("invite ik"));
        InviteKeys {
            id: InviteId::of(&ik.public()),
            ik,
            gk: WgSecret::from_bytes(*derive("invite gk")),
            rv: derive("invite rv"),
        }
    }

    /// The text to hand over.
    pub fn token(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TOKEN_LEN));
        bytes.push(TOKEN_VERSION);
        bytes.extend_from_slice(&self.network.0);
        bytes.extend_from_slice(self.seed.as_ref());
        for hint in self.hints.iter().take(MAX_HINTS) {
            hint.encode(&mut bytes);
        }
        let check = hash(&bytes);
        bytes.extend_from_slice(&check[..CHECK_LEN]);

        let mut token = Zeroizing::new(String::with_capacity(MAX_TOKEN_LEN));
        token.push_str(TOKEN_PREFIX);
        BASE32_NOPAD.encode_append(&bytes, &mut token);
        token.make_ascii_lowercase();
        token
    }
}

impl InviteKeys {
    /// What an admin announces of the invite.
    pub fn open(&self, expires: UnixTime, admin: bool, name: Option<DeviceName>) -> InviteOpen {
        InviteOpen {
            invite: self.id,
            ik: self.ik.public(),
            gk: self.gk.public(),
            rv: *self.rv,
            expires,
            admin,
            name,
        }
    }
}

impl InviteOpen {
    /// Whether every field is within its bounds, in an op of that time.
    pub(super) fn is_well_formed(&self, time: UnixTime) -> bool {
        self.invite == InviteId::of(&self.ik)
            && self.gk.is_usable()
            && self.expires > time
            && self.expires <= time.plus(MAX_LIFETIME)
    }
}

impl Hint {
    /// An IPv4 address as one, without what only means something on the host it came from.
    fn plain(self) -> Self {
        Self {
            address: SocketAddr::new(self.address.ip().to_canonical(), self.address.port()),
            ..self
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.wg.0);
        match self.address.ip() {
            IpAddr::V4(v4) => {
                out.push(4);
                out.extend_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                out.push(6);
                out.extend_from_slice(&v6.octets());
            }
        }
        out.extend_from_slice(&self.address.port().to_be_bytes());
    }

    fn decode(rest: &mut &[u8]) -> Option<Self> {
        let wg = WgPublicKey(take(rest)?);
        let ip = match take(rest)? {
            [4] => IpAddr::V4(Ipv4Addr::from_octets(take(rest)?)),
            [6] => IpAddr::V6(Ipv6Addr::from_octets(take(rest)?)),
            _ => return None,
        };
        let port = u16::from_be_bytes(take(rest)?);
        Some(Self { wg, address: SocketAddr::new(ip, port) })
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Invite([redacted])")
    }
}

impl fmt::Debug for InviteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InviteKeys({:?}, [redacted])", self.id)
    }
}

impl fmt::Debug for InviteOpen {
    /// Without the rendezvous secret, which strangers must not find in a log file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InviteOpen")
            .field("invite", &self.invite)
            .field("expires", &self.expires)
            .field("admin", &self.admin)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    /// Reads a token in any case, with white space around it.
    fn from_str(text: &str) -> Result<Self, InviteError> {
        let text = text.trim();
        if text.len() > MAX_TOKEN_LEN {
            return Err(InviteError::TooLong);
        }
        let upper = Zeroizing::new(text.to_ascii_uppercase());
        let prefix = TOKEN_PREFIX.to_ascii_uppercase();
        let body = upper.strip_prefix(&prefix).ok_or(InviteError::Prefix)?;
        let bytes = BASE32_NOPAD.decode(body.as_bytes()).map_err(|_| InviteError::Damaged)?;
        let bytes = Zeroizing::new(bytes);

        let at = bytes.len().checked_sub(CHECK_LEN).ok_or(InviteError::Damaged)?;
        let (mut rest, check) = bytes.split_at(at);
        if hash(rest)[..CHECK_LEN] != *check {
            return Err(InviteError::Damaged);
        }
        let [version] = take(&mut rest).ok_or(InviteError::Damaged)?;
        if version != TOKEN_VERSION {
            return Err(InviteError::Version);
        }
        let network = NetworkId(take(&mut rest).ok_or(InviteError::Damaged)?);
        let seed = Zeroizing::new(take(&mut rest).ok_or(InviteError::Damaged)?);
        let mut hints = Vec::with_capacity(MAX_HINTS);
        while !rest.is_empty() {
            let hint = Hint::decode(&mut rest).filter(|_| hints.len() < MAX_HINTS);
            hints.push(hint.ok_or(InviteError::Damaged)?);
        }
        Ok(Self { network, seed, hints })
    }
}

/// Why a text is no invite (each variant is one clear sentence for the user).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// It does not start like one.
    #[error("that is not an invite: one starts with \"ginnel1\"")]
    Prefix,
    /// It starts like one, and the check does not match, or the fields do not fit.
    #[error("the invite was cut short or mistyped; copy it again, whole")]
    Damaged,
    /// The check matches, the version is another.
    #[error("the invite is of a newer version of ginnel; upgrade this device")]
    Version,
    /// More than [`MAX_TOKEN_LEN`] characters.
    #[error("an invite has fewer than 300 characters; this text is longer")]
    TooLong,
}

/// Takes the first `N` bytes off `rest`.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_what_it_wrote() {
        for hints in [vec![], vec![v4()], vec![v6()], vec![v4(), v6()], vec![v6(), v6()]] {
            let invite = Invite::new(NETWORK, [7; 16], hints);
            let token = invite.token();
            assert!(token.len() <= 255 && token.starts_with("ginnel1"), "{}", token.len());
            assert!(token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
            assert_eq!(token.parse().as_ref(), Ok(&invite));
        }
    }

    #[test]
    fn the_token_and_its_keys_are_the_known_ones() {
        let invite = Invite::new(NETWORK, [7; 16], vec![v4()]);
        let keys = invite.keys();
        assert_eq!(*invite.token(), KNOWN_TOKEN);
        assert_eq!(keys.ik.public().to_string(), KNOWN_IK);
        assert_eq!(keys.gk.public().to_string(), KNOWN_GK);
        assert_eq!(data_encoding::HEXLOWER.encode(keys.rv.as_ref()), KNOWN_RV);
        assert_eq!(keys.id.0, hash(&keys.ik.public().0)[..16]);
        assert_ne!(keys.rv, Invite::new(NetworkId([2; 32]), [7; 16], vec![]).keys().rv);
    }

    #[test]
    fn a_token_is_read_in_any_case_and_with_space_around_it() {
        let invite = Invite::new(NETWORK, [7; 16], vec![v4()]);
        let token = invite.token();
        assert_eq!(token.to_ascii_uppercase().parse().as_ref(), Ok(&invite));
        assert_eq!(format!("  \t{}\r\n", *token).parse().as_ref(), Ok(&invite));
    }

    #[test]
    fn every_truncation_and_typing_error_is_told() {
        let token = Invite::new(NETWORK, [7; 16], vec![v4(), v6()]).token();
        for len in 0..token.len() {
            let error = token[..len].parse::<Invite>().unwrap_err();
            let expected = if len < 7 { InviteError::Prefix } else { InviteError::Damaged };
            assert_eq!(error, expected, "{len}");
        }
        for at in 0..token.len() {
            let other = if token.as_bytes()[at] == b'b' { "c" } else { "b" };
            let typo = [&token[..at], other, &token[at + 1..]].concat();
            assert!(typo.parse::<Invite>().is_err(), "{at}");
        }
    }

    #[test]
    fn garbage_and_giants_are_told() {
        for (text, error) in [
            (String::new(), InviteError::Prefix),
            ("hello".to_owned(), InviteError::Prefix),
            ("ginnel2aaaa".to_owned(), InviteError::Prefix),
            ("ginnel1".to_owned(), InviteError::Damaged),
            ("ginnel1aa".to_owned(), InviteError::Damaged),
            ("ginnel1ß".to_owned(), InviteError::Damaged),
            ("ginnel1 aaaaaaaa".to_owned(), InviteError::Damaged),
            (format!("ginnel1{}", "a".repeat(293)), InviteError::Damaged),
            (format!("ginnel1{}", "a".repeat(294)), InviteError::TooLong),
            ("a".repeat(10 * 1024), InviteError::TooLong),
            ("\u{1f511}".repeat(100), InviteError::TooLong),
        ] {
            assert_eq!(text.parse::<Invite>(), Err(error), "{text:.20}");
        }
    }

    #[test]
    fn a_later_version_is_told_apart_from_damage() {
        assert_eq!(with_check(&[2; 80]).parse::<Invite>(), Err(InviteError::Version));
        assert_eq!(with_check(&[1; 20]).parse::<Invite>(), Err(InviteError::Damaged));
    }

    #[test]
    fn malformed_hints_under_a_right_check_are_refused() {
        let head = [&[1][..], &NETWORK.0, &[7; 16]].concat();
        let hint = |family: u8, len: usize| [&[9; 32][..], &[family], &vec![1; len]].concat();
        let good = [&head[..], &hint(4, 6)].concat();
        assert!(with_check(&good).parse::<Invite>().is_ok());
        for bad in [hint(4, 5), hint(4, 7), hint(6, 17), hint(5, 6), hint(4, 6).repeat(3)] {
            let token = with_check(&[&head[..], &bad].concat());
            assert_eq!(token.parse::<Invite>(), Err(InviteError::Damaged));
        }
    }

    #[test]
    fn hints_beyond_two_and_what_only_means_something_here_are_dropped() {
        let mapped = Hint { address: "[::ffff:203.0.113.7]:41641".parse().unwrap(), ..v4() };
        let scoped = Hint { address: "[fe80::1%3]:1".parse().unwrap(), ..v4() };
        let invite = Invite::new(NETWORK, [7; 16], vec![mapped, scoped, v4()]);
        assert_eq!(invite.hints[0], v4());
        assert_eq!(invite.hints.len(), MAX_HINTS);
        assert_eq!(invite.token().parse().as_ref(), Ok(&invite));
    }

    #[test]
    fn an_invite_does_not_print() {
        let invite = Invite::new(NETWORK, [7; 16], vec![v4()]);
        assert_eq!(format!("{invite:?}"), "Invite([redacted])");
        let keys = format!("{:?}", invite.keys());
        assert!(keys.ends_with("[redacted])") && !keys.contains("rv"), "{keys}");
        let open = format!("{:?}", invite.keys().open(UnixTime(1), false, None));
        assert!(!open.contains("rv"), "{open}");
    }

    const NETWORK: NetworkId = NetworkId([1; 32]);
    // A change of these breaks every invite that is under way.
    const KNOWN_TOKEN: &str = "ginnel1aeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcbyha4dqobyha4dqobyha4dqobyjbeeqscijbeeqscijbeeqscijbeeqscijbeeqscijbeeqscijbecmwadra6rksffl4fsq";
    const KNOWN_IK: &str = "l5qzwryahjkru32qmixmf5yhhfbynq2devs3fuf4gq2civup55ya";
    const KNOWN_GK: &str = "HbIOMAn7y+ImX7/g4syGTsHnRmecsu8vkOIEUeG9zSA=";
    const KNOWN_RV: &str = "86aa115ab36e71486dd6badc3ef25626f241fa94b55dc83b6f2d7f59d59ed2e7";

    fn v4() -> Hint {
        Hint { wg: WgPublicKey([9; 32]), address: "203.0.113.7:41641".parse().unwrap() }
    }

    fn v6() -> Hint {
        Hint { wg: WgPublicKey([8; 32]), address: "[2001:db8::7]:41641".parse().unwrap() }
    }

    fn with_check(bytes: &[u8]) -> String {
        let check = &hash(bytes)[..CHECK_LEN];
        format!("ginnel1{}", BASE32_NOPAD.encode(&[bytes, check].concat()).to_ascii_lowercase())
    }
}
