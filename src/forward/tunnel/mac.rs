//! MAC1, MAC2 and cookies (paper, sections 5.4.4 and 5.4.7): what shows before any key agreement that
//! the sender knows whom it writes to, and under load that it owns its address.
//!
//! [`MacWriter`] is one tunnel's side, [`MacCheck`] the device's, which decides by boringtun's rate
//! limiter who needs a cookie.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, TunnResult};
use boringtun::x25519;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::noise::hash;
use crate::forward::outcome::{MacVerdict, TunnelError};
use crate::identity::WgPublicKey;
use crate::wire::classify::{COOKIE_REPLY_LEN, receiver_index, sender_index};

/// Length of MAC1, of MAC2, and of a cookie.
const MAC_LEN: usize = 16;

/// How long a cookie is used: the peer takes it for 120 s (Cookie-Refresh-Time), less what a message
/// may be under way.
const COOKIE_TIME: Duration = Duration::from_secs(115);

/// The MACs of the messages to one peer.
pub(super) struct MacWriter {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    cookie: Option<(Zeroizing<[u8; MAC_LEN]>, Instant)>,
    /// The index and MAC1 of the last message: one cookie answers that.
    last: Option<(u32, [u8; MAC_LEN])>,
}

impl MacWriter {
    pub(super) fn new(remote: &WgPublicKey) -> Self {
        Self {
            mac1_key: mac1_key(remote),
            cookie_key: hash(&[b"cookie--", &remote.0]),
            cookie: None,
            last: None,
        }
    }

    /// Writes MAC1, and MAC2 where there is a cookie, at the end of a type 1 or 2 message.
    pub(super) fn write(&mut self, message: &mut [u8], now: Instant) {
        self.cookie.take_if(|(_, at)| now.saturating_duration_since(*at) >= COOKIE_TIME);
        let at = message.len() - 2 * MAC_LEN;
        let mac1 = mac(&self.mac1_key, &message[..at]);
        message[at..at + MAC_LEN].copy_from_slice(&mac1);
        if let Some((cookie, _)) = &self.cookie {
            let mac2 = mac(&**cookie, &message[..at + MAC_LEN]);
            message[at + MAC_LEN..].copy_from_slice(&mac2);
        }
        self.last = sender_index(message).map(|index| (index, mac1));
    }

    /// Keeps the cookie in a type 3 message, if that answers the last message.
    pub(super) fn store(&mut self, reply: &[u8], now: Instant) -> Result<(), TunnelError> {
        let (index, mac1) = self.last.ok_or(TunnelError::NoSession)?;
        if receiver_index(reply) != Some(index) {
            return Err(TunnelError::NoSession);
        }
        let (nonce, sealed) = reply[8..].split_first_chunk::<24>().ok_or(TunnelError::Malformed)?;
        let cipher = XChaCha20Poly1305::new(&Key::from(self.cookie_key));
        let cookie = cipher
            .decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: &mac1 })
            .map(Zeroizing::new)
            .map_err(|_| TunnelError::NotAuthentic)?;
        self.last = None;
        let cookie = cookie.as_slice().try_into().map_err(|_| TunnelError::Malformed)?;
        self.cookie = Some((Zeroizing::new(cookie), now));
        Ok(())
    }
}

/// The key of MAC1 in messages to whoever has this static key.
pub(super) fn mac1_key(receiver: &WgPublicKey) -> [u8; 32] {
    hash(&[b"mac1----", &receiver.0])
}

/// Whether MAC1 of a type 1 or 2 message is right under `key`.
pub(super) fn has_mac1(key: &[u8; 32], message: &[u8]) -> bool {
    let Some(at) = message.len().checked_sub(2 * MAC_LEN) else { return false };
    keyed(key, &message[..at]).verify_slice(&message[at..at + MAC_LEN]).is_ok()
}

fn mac(key: &[u8], said: &[u8]) -> [u8; MAC_LEN] {
    keyed(key, said).finalize().into_bytes().into()
}

fn keyed(key: &[u8], said: &[u8]) -> Blake2sMac<U16> {
    let mac = Blake2sMac::<U16>::new_from_slice(key).expect("BLAKE2s takes keys of up to 32 bytes");
    mac.chain_update(said)
}

/// MAC1 and cookies (paper, sections 5.4.4 and 5.4.7) of messages to one static key of ours.
pub(in crate::forward) struct MacCheck(RateLimiter);

impl MacCheck {
    /// Asks for cookies from the message after `limit` on, until the next [`reset`](Self::reset).
    pub(in crate::forward) fn new(local: &WgPublicKey, limit: u64) -> Self {
        Self(RateLimiter::new(&x25519::PublicKey::from(local.0), limit))
    }

    /// Checks a type 1 or 2 message; under load also its cookie, or makes one, where `from` says
    /// for which address.
    pub(in crate::forward) fn check(&self, from: Option<IpAddr>, datagram: &[u8]) -> MacVerdict {
        let mut cookie = [0; COOKIE_REPLY_LEN];
        match self.0.verify_packet(from, datagram, &mut cookie) {
            Ok(Packet::HandshakeInit(_) | Packet::HandshakeResponse(_)) => MacVerdict::Pass,
            Err(TunnResult::WriteToNetwork(_)) => MacVerdict::Cookie(cookie),
            Err(TunnResult::Err(WireGuardError::UnderLoad)) => MacVerdict::Loaded,
            _ => MacVerdict::Refuse,
        }
    }

    /// The answer to a message whose MAC1 is right and that has no valid MAC2.
    pub(in crate::forward) fn cookie(
        &self,
        from: IpAddr,
        datagram: &[u8],
    ) -> Option<[u8; COOKIE_REPLY_LEN]> {
        match self.check(Some(from), datagram) {
            MacVerdict::Cookie(cookie) => Some(cookie),
            _ => None,
        }
    }

    /// Starts counting anew; to be called each second.
    pub(in crate::forward) fn reset(&self) {
        self.0.reset_count();
    }
}
