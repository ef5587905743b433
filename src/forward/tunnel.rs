//! SKELETON (helper `forward` owns). The only file that knows boringtun.
use std::time::{Duration, Instant};
use super::SlotIndex;
use crate::identity::{WgPublicKey, WgSecret};

/// One peer's WireGuard sessions.
pub struct Tunnel { }

/// What a handshake message led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeOutcome { /// An answer was written; the session is usable once the peer's first data arrives.
    Responded, /// We initiated and a session stands.
    Established, /// A cookie was stored; the next initiation carries it.
    CookieStored }

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError { #[error("no session")] NoSession, #[error("not authentic")] NotAuthentic, #[error("replayed")] Replayed, #[error("malformed")] Malformed, #[error("the counter is used up")] CounterLimit }

impl Tunnel {
    /// `None` where the public key is a low-order point.
    pub fn new(_local: &WgSecret, _remote: &WgPublicKey, _index: SlotIndex) -> Option<Self> { todo!() }
    /// Starts (or restarts at once) a handshake: one datagram to send.
    pub fn initiate(&mut self, _now: Instant) -> Vec<u8> { todo!() }
    /// Handles a type 1, 2 or 3 message; `out` gets the datagrams to send back (also keepalives that confirm a session).
    pub fn handle_handshake(&mut self, _datagram: &[u8], _out: &mut Vec<Vec<u8>>, _now: Instant) -> Result<HandshakeOutcome, TunnelError> { todo!() }
    /// Timers (rekey, retransmission, passive keepalive, expiry); `out` gets datagrams to send.
    pub fn handle_timeout(&mut self, _out: &mut Vec<Vec<u8>>, _now: Instant) { todo!() }
    /// When `handle_timeout` is next due: soon while a handshake or data is under way, seldom when idle, `None` without session and handshake.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> { todo!() }
    /// Whether a session can seal now.
    pub fn has_session(&self) -> bool { todo!() }
    pub fn is_handshaking(&self) -> bool { todo!() }
    /// Time since the session in use was established.
    pub fn session_age(&self, _now: Instant) -> Option<Duration> { todo!() }
    /// Seals one inner packet (convenience for control; pads to 16).
    pub fn seal_to_vec(&mut self, _inner: &[u8], _now: Instant) -> Result<Vec<u8>, TunnelError> { todo!() }
}

/// The static public key of the sender of a type 1 message, decrypted with `local` (checks MAC1 too). One X25519.
pub fn initiator_of(_local: &WgSecret, _datagram: &[u8]) -> Option<WgPublicKey> { todo!() }
