//! Why packets were dropped, counted by reason.
//!
//! One bad packet never ends a batch and is never logged: it adds one to a counter, which
//! `status --json` shows by name.

use std::sync::atomic::{AtomicU64, Ordering};

/// Defines the reasons with their names in the API.
macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal,)*) => {
        /// Why a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum DropReason {
            $($(#[$doc])* $reason,)*
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$reason,)*];

            /// The reason's name in the API.
            pub fn name(self) -> &'static str {
                match self { $(Self::$reason => $name,)* }
            }
        }
    };
}

reasons! {
    /// A datagram of no known class.
    UnknownDatagram = "unknown-datagram",
    /// A path check of nobody who is known.
    StrangersCheck = "strangers-check",
    /// A STUN answer to a question that was not asked.
    UnaskedAnswer = "unasked-answer",
    /// A relay frame: no relay session is known.
    Relay = "relay",
    /// A handshake message whose MAC1 is wrong: its sender does not know our key.
    WrongMac = "wrong-mac",
    /// A handshake message with an ephemeral key of low order.
    LowOrderKey = "low-order-key",
    /// A handshake message from a source that sends too many.
    SourceRate = "source-rate",
    /// A handshake message under load, answered with a cookie.
    CookieSent = "cookie-sent",
    /// A handshake message under load, when enough cookies went out in this second.
    CookieBudget = "cookie-budget",
    /// A cookie that answers no initiation of ours.
    UnaskedCookie = "unasked-cookie",
    /// A transport datagram for a slot or session that is not there.
    UnknownIndex = "unknown-index",
    /// A transport datagram that the peer did not seal.
    NotAuthentic = "not-authentic",
    /// A transport datagram that came before.
    Replayed = "replayed",
    /// A counter past the limit of a session.
    CounterLimit = "counter-limit",
    /// Bytes that are no IP packet, or one whose lengths contradict one another.
    MalformedPacket = "malformed-packet",
    /// An inner packet whose source does not belong to the peer.
    ForeignSource = "foreign-source",
    /// An inner packet for a destination that is not ours.
    ForeignDestination = "foreign-destination",
    /// An inner packet with a multicast, link-local, loopback or unspecified address.
    SpecialAddress = "special-address",
    /// An inner packet that a router on the way marked for congestion, although its sender does not
    /// understand marks (RFC 6040).
    CongestionMark = "congestion-mark",
    /// User data from a peer that may send control only.
    ControlOnly = "control-only",
    /// A packet from our own interface whose source is not ours.
    NotOurSource = "not-our-source",
    /// A packet from our own interface for an address that no device of the network can have.
    NoRoute = "no-route",
    /// A frame from our own interface with an offload header that contradicts it.
    BadOffload = "bad-offload",
    /// A packet from our own interface that the path does not carry and that is not fragmented; its
    /// source was told.
    TooBig = "too-big",
    /// The interface did not take the packet.
    InterfaceWrite = "interface-write",
    /// The socket had no room for the datagram.
    SocketFull = "socket-full",
    /// The socket did not take the datagram.
    SocketSend = "socket-send",
    /// The control loop was behind: a STUN message.
    DatagramUpcall = "datagram-upcall",
    /// The control loop was behind: a handshake message.
    HandshakeUpcall = "handshake-upcall",
    /// The control loop was behind: a control message.
    ControlUpcall = "control-upcall",
    /// The control loop was behind: a packet that waits for a session.
    NoSessionUpcall = "no-session-upcall",
    /// The control loop was behind: a peer's new address.
    RoamedUpcall = "roamed-upcall",
    /// The control loop was behind: a tunnel whose timers have to run.
    AwakeUpcall = "awake-upcall",
}

/// One counter a reason; shared by the workers of a network, relaxed.
#[derive(Debug)]
pub struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// Counts one packet.
    pub fn count(&self, reason: DropReason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts some packets.
    pub fn count_many(&self, reason: DropReason, packets: u64) {
        self.0[reason as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// How many packets were dropped for this reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// The reasons that occurred, by name, with their counts.
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        let counts = DropReason::ALL.iter().map(|reason| (reason.name(), self.get(*reason)));
        counts.filter(|(_, count)| *count != 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_names_what_occurred_and_only_that() {
        let counters = DropCounters::default();
        counters.count(DropReason::Replayed);
        counters.count(DropReason::Replayed);
        counters.count(DropReason::AwakeUpcall);
        assert_eq!(counters.snapshot(), [("replayed", 2), ("awake-upcall", 1)]);
    }
}
