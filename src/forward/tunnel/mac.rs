//! What a handshake message tells before there is a session: who sent it, and whether its MACs hold.

use std::net::IpAddr;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, TunnResult};
use boringtun::x25519;

use super::SMALL_BUFFER;
use crate::forward::guard::handshake_class;
use crate::forward::outcome::MacVerdict;
use crate::identity::{WgPublicKey, WgSecret};
use crate::wire::classify::{COOKIE_REPLY_LEN, Class};

/// The static public key of the sender of a type 1 message, decrypted with `local` (checks MAC1
/// too). One X25519.
pub fn initiator_of(local: &WgSecret, datagram: &[u8]) -> Option<WgPublicKey> {
    if handshake_class(datagram) != Some(Class::Initiation) {
        return None;
    }
    let secret = x25519::StaticSecret::from(*local.as_bytes());
    let public = x25519::PublicKey::from(&secret);
    let mut unused = [0; SMALL_BUFFER];
    let limiter = RateLimiter::new(&public, u64::MAX);
    let Ok(Packet::HandshakeInit(initiation)) = limiter.verify_packet(None, datagram, &mut unused)
    else {
        return None;
    };
    let half = parse_handshake_anon(&secret, &public, &initiation).ok()?;
    Some(WgPublicKey(half.peer_static_public))
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
