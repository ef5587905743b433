//! What comes of a message that was given to a tunnel.

use crate::wire::classify::COOKIE_REPLY_LEN;

/// What a handshake message led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// An answer was written; the session is usable once the peer's first data arrives.
    Responded,
    /// It came right after another, and is as if it never came.
    PassedOver,
    /// We initiated and a session stands.
    Established,
    /// A cookie was stored; the next initiation carries it.
    CookieStored,
}

/// What a transport datagram held.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// An inner IP packet, without its padding. At least a whole fixed IP header, and as long as
    /// that header says.
    Packet(&'a mut [u8]),
    /// Nothing: the peer only shows that it lives.
    Keepalive,
}

/// Why a datagram was not opened, or a packet not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// No session (or handshake) that this belongs to.
    #[error("no session")]
    NoSession,
    /// The sender does not hold the keys.
    #[error("not authentic")]
    NotAuthentic,
    /// It came before.
    #[error("replayed")]
    Replayed,
    /// It is not a message, or no IP packet was inside.
    #[error("malformed")]
    Malformed,
    /// Reject-After-Messages: the session may not be used any more.
    #[error("the counter is used up")]
    CounterLimit,
    /// The caller's buffer cannot hold the result.
    #[error("the buffer is too small")]
    BufferTooSmall,
}

/// What MAC1 and MAC2 say of a handshake message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MacVerdict {
    /// MAC1 is right, and under load MAC2 too.
    Pass,
    /// MAC1 is right, but we are under load and the sender has to show that it owns its address:
    /// this answers it.
    Cookie([u8; COOKIE_REPLY_LEN]),
    /// MAC1 is right, but we are under load, and it was not asked whether MAC2 is.
    Loaded,
    /// MAC1 is wrong, or it is no handshake message.
    Refuse,
}
