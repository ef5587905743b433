//! The beacon: how devices find one another on a local network, with no DHT and no Internet.
//!
//! A beacon is a multicast datagram of [`LEN`] bytes that are all random to whoever lacks the key:
//! no magic, no name, no network id, one length for every kind. So it tells a stranger only that
//! somebody here uses such datagrams.
//!
//! `beacon = nonce 24 ‖ XChaCha20-Poly1305(key, nonce, AAD empty)` of 64 bytes:
//! `kind 1 ‖ flags 1 ‖ port be16 ‖ unix be64 ‖ key 32 ‖ zeros 20`.
//!
//! | kind | sent by | under the key | key field |
//! |---|---|---|---|
//! | 1 | a member | `KDF(K_net, "beacon", "")` | its device id |
//! | 2 | a sponsor of an invite | `KDF(rv, "beacon", "invite")` | its WireGuard key |
//! | 3 | a joining device | `KDF(rv, "beacon", "invite")` | zeros |
//!
//! The sender's address is the one the datagram came from, with the port from inside. It is only a
//! hint: a path is used after an authenticated check. Flag 1 asks for an answer, which is a beacon
//! without the flag.
//!
//! A receiver refuses beacons that are more than [`MAX_SKEW_SECS`] off its clock, so that a
//! recording is not an oracle for "is a member here" for ever. Hosts without Internet may have bad
//! clocks, hence the generous bound.

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::record::{NONCE_LEN, NetworkSecret, Rendezvous};
use crate::identity::{DeviceId, WgPublicKey, kdf};
use crate::membership::UnixTime;

/// The longest beacon that is looked at, in bytes: room for later kinds.
pub const MAX_LEN: usize = 256;

/// The length of a beacon, in bytes.
pub const LEN: usize = NONCE_LEN + PLAIN_LEN + 16;

/// How far a beacon may be off the receiver's clock, in seconds.
pub const MAX_SKEW_SECS: u64 = 3600;

/// Length of what is sealed, in bytes.
const PLAIN_LEN: usize = 64;

/// The flag that asks for an answer.
const ANSWER_ME: u8 = 1;

/// Who sends a beacon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sender {
    /// A member of the network.
    Member(DeviceId),
    /// A sponsor of an invite, with the key its handshake is answered under.
    Sponsor(WgPublicKey),
    /// A device that joins with an invite.
    Guest,
}

/// What a beacon says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beacon {
    /// Who sent it.
    pub sender: Sender,
    /// The UDP port of its tunnels, not 0.
    pub port: u16,
    /// When, by its clock.
    pub time: UnixTime,
    /// Whether it asks for an answer.
    pub answer_me: bool,
}

/// A key that seals and opens beacons.
#[derive(Clone)]
pub struct BeaconKey {
    key: Zeroizing<[u8; 32]>,
    of_invite: bool,
}

/// Why bytes are not a beacon for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// Not of the one length.
    #[error("a beacon has {LEN} bytes, not {0}")]
    Length(usize),
    /// Sealed under another key, or damaged.
    #[error("the beacon does not open")]
    Seal,
    /// The plaintext is not of the expected form, or of a kind that does not go with the key.
    #[error("the beacon is malformed")]
    Malformed,
    /// Too far off this device's clock.
    #[error("the beacon is too old or from the future")]
    Time,
}

impl BeaconKey {
    /// The key of a network's members.
    pub fn of_network(secret: &NetworkSecret) -> Self {
        Self { key: kdf(secret.key(), "beacon", &[]), of_invite: false }
    }

    /// The key of an invite.
    pub fn of_invite(rv: &Rendezvous) -> Self {
        Self { key: kdf(rv.key(), "beacon", b"invite"), of_invite: true }
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(*self.key))
    }
}

impl fmt::Debug for BeaconKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeaconKey([redacted])")
    }
}

impl Beacon {
    /// Seals; `nonce` is random and used once.
    pub fn seal(&self, key: &BeaconKey, nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        let (kind, public) = match self.sender {
            Sender::Member(device) => (1, device.0),
            Sender::Sponsor(wg) => (2, wg.0),
            Sender::Guest => (3, [0; 32]),
        };
        let mut plain = [0; PLAIN_LEN];
        plain[0] = kind;
        plain[1] = if self.answer_me { ANSWER_ME } else { 0 };
        plain[2..4].copy_from_slice(&self.port.to_be_bytes());
        plain[4..12].copy_from_slice(&self.time.0.to_be_bytes());
        plain[12..44].copy_from_slice(&public);
        let sealed = key
            .cipher()
            .encrypt(&XNonce::from(nonce), plain.as_slice())
            .expect("64 bytes are no more than the cipher takes");
        [nonce.as_slice(), &sealed].concat()
    }

    /// Opens and checks.
    pub fn open(datagram: &[u8], key: &BeaconKey, now: UnixTime) -> Result<Self, BeaconError> {
        if datagram.len() != LEN {
            return Err(BeaconError::Length(datagram.len()));
        }
        let (nonce, sealed) = datagram.split_at(NONCE_LEN);
        let nonce = XNonce::try_from(nonce).map_err(|_| BeaconError::Malformed)?;
        let plain = key.cipher().decrypt(&nonce, sealed).map_err(|_| BeaconError::Seal)?;
        let beacon = Self::decode(&plain)?;
        if matches!(beacon.sender, Sender::Member(_)) == key.of_invite {
            return Err(BeaconError::Malformed);
        }
        if beacon.time.0.abs_diff(now.0) > MAX_SKEW_SECS {
            return Err(BeaconError::Time);
        }
        Ok(beacon)
    }

    fn decode(plain: &[u8]) -> Result<Self, BeaconError> {
        let (kind, rest) = plain.split_first().ok_or(BeaconError::Malformed)?;
        let (flags, rest) = rest.split_first().ok_or(BeaconError::Malformed)?;
        let (port, rest) = rest.split_first_chunk().ok_or(BeaconError::Malformed)?;
        let (time, rest) = rest.split_first_chunk().ok_or(BeaconError::Malformed)?;
        let (public, padding) = rest.split_first_chunk::<32>().ok_or(BeaconError::Malformed)?;
        let sender = match kind {
            1 => Sender::Member(DeviceId(*public)),
            2 => Sender::Sponsor(WgPublicKey(*public)),
            3 if *public == [0; 32] => Sender::Guest,
            _ => return Err(BeaconError::Malformed),
        };
        let port = u16::from_be_bytes(*port);
        if port == 0 || flags & !ANSWER_ME != 0 || padding.iter().any(|byte| *byte != 0) {
            return Err(BeaconError::Malformed);
        }
        let time = UnixTime(u64::from_be_bytes(*time));
        Ok(Self { sender, port, time, answer_me: *flags == ANSWER_ME })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn network() -> BeaconKey {
        BeaconKey::of_network(&NetworkSecret::new(1, [0x42; 32]))
    }

    fn invite() -> BeaconKey {
        BeaconKey::of_invite(&Rendezvous::new([0x42; 32]))
    }

    fn beacon(sender: Sender) -> Beacon {
        Beacon { sender, port: 41641, time: NOW, answer_me: true }
    }

    fn raw(key: &BeaconKey, plain: [u8; PLAIN_LEN]) -> Vec<u8> {
        let nonce = [1; NONCE_LEN];
        let sealed = key.cipher().encrypt(&XNonce::from(nonce), plain.as_slice()).unwrap();
        [nonce.as_slice(), &sealed].concat()
    }

    #[test]
    fn each_kind_opens_under_its_key_and_has_the_one_length() {
        let cases = [
            (Sender::Member(DeviceId([1; 32])), network()),
            (Sender::Sponsor(WgPublicKey([2; 32])), invite()),
            (Sender::Guest, invite()),
        ];
        for (sender, key) in cases {
            let bytes = beacon(sender).seal(&key, [9; NONCE_LEN]);
            assert_eq!(bytes.len(), LEN);
            assert_eq!(Beacon::open(&bytes, &key, NOW), Ok(beacon(sender)));
        }
        const { assert!(LEN <= MAX_LEN) };
    }

    #[test]
    fn two_beacons_share_no_bytes_a_stranger_could_match() {
        let sender = Sender::Member(DeviceId([1; 32]));
        let one = beacon(sender).seal(&network(), [1; NONCE_LEN]);
        let two = beacon(sender).seal(&network(), [2; NONCE_LEN]);
        let same = one.iter().zip(&two).filter(|(a, b)| a == b).count();
        assert!(same < LEN / 8, "{same} equal bytes");
    }

    #[test]
    fn hostile_datagrams_are_refused() {
        for len in [0, 1, 3, 31, 103, 105, 256, 65_507] {
            let opened = Beacon::open(&vec![0; len], &network(), NOW);
            assert_eq!(opened, Err(BeaconError::Length(len)));
        }
        assert_eq!(Beacon::open(&[7; LEN], &network(), NOW), Err(BeaconError::Seal));
        let mut bytes = beacon(Sender::Guest).seal(&invite(), [9; NONCE_LEN]);
        assert_eq!(Beacon::open(&bytes, &network(), NOW), Err(BeaconError::Seal));
        bytes[60] ^= 1;
        assert_eq!(Beacon::open(&bytes, &invite(), NOW), Err(BeaconError::Seal));
        assert_eq!(Beacon::open(&raw(&network(), [0; 64]), &network(), NOW), malformed());
        assert_eq!(Beacon::open(&raw(&network(), [1; 64]), &network(), NOW), malformed());
    }

    #[test]
    fn a_guest_cannot_pass_for_a_member_nor_use_port_0() {
        let member = beacon(Sender::Member(DeviceId([1; 32])));
        let forged = member.seal(&invite(), [9; NONCE_LEN]);
        assert_eq!(Beacon::open(&forged, &invite(), NOW), malformed());
        let sponsor = beacon(Sender::Sponsor(WgPublicKey([1; 32]))).seal(&network(), [9; 24]);
        assert_eq!(Beacon::open(&sponsor, &network(), NOW), malformed());
        let portless = Beacon { port: 0, ..member }.seal(&network(), [9; NONCE_LEN]);
        assert_eq!(Beacon::open(&portless, &network(), NOW), malformed());
    }

    #[test]
    fn a_recording_is_worthless_after_an_hour() {
        let bytes = beacon(Sender::Guest).seal(&invite(), [9; NONCE_LEN]);
        let open = |now| Beacon::open(&bytes, &invite(), UnixTime(now));
        assert!(open(NOW.0 + MAX_SKEW_SECS).is_ok());
        assert_eq!(open(NOW.0 + MAX_SKEW_SECS + 1), Err(BeaconError::Time));
        assert_eq!(open(0), Err(BeaconError::Time));
        assert_eq!(open(u64::MAX), Err(BeaconError::Time));
    }

    fn malformed() -> Result<Beacon, BeaconError> {
        Err(BeaconError::Malformed)
    }
}
