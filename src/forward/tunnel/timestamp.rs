//! TAI64N: when an initiation was made, so that it can be told from a replay (paper, section 5.1).
//!
//! Only the order matters. So a clock that is set back does no harm while the agent runs: each stamp is
//! later than the one before, also those of the next tunnel with the same device ([`Stamps`]).

use std::time::{Duration, SystemTime};

/// 2^62, and the ten seconds that TAI was ahead in 1970.
const TAI64_EPOCH: u64 = (1 << 62) + 10;

/// Nanoseconds a second.
const NANOS: u32 = 1_000_000_000;

/// Seconds and nanoseconds of TAI; the default is before all others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timestamp {
    seconds: u64,
    nanos: u32,
}

impl Timestamp {
    /// What the wall clock shows, or the least that is later than `last`.
    ///
    /// The one clock that our code reads in the pure layers (boringtun's rate limiter reads one too): a
    /// second's fraction counts, as an agent that was killed is back within the second, and no event
    /// brings that.
    #[expect(clippy::disallowed_methods, reason = "the wall clock decides nothing here but order")]
    pub(super) fn after(last: Self) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self::of_unix(since.unwrap_or(Duration::ZERO)).max(last.next())
    }

    pub(super) fn from_bytes(bytes: [u8; 12]) -> Self {
        let [seconds @ .., a, b, c, d] = bytes;
        Self { seconds: u64::from_be_bytes(seconds), nanos: u32::from_be_bytes([a, b, c, d]) }
    }

    pub(super) fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&self.nanos.to_be_bytes());
        bytes
    }

    fn of_unix(since: Duration) -> Self {
        Self { seconds: TAI64_EPOCH.saturating_add(since.as_secs()), nanos: since.subsec_nanos() }
    }

    fn next(self) -> Self {
        if self.nanos < NANOS - 1 {
            Self { nanos: self.nanos + 1, ..self }
        } else {
            Self { seconds: self.seconds.saturating_add(1), nanos: 0 }
        }
    }
}

/// What has to outlive a [`Tunnel`](super::Tunnel) for the next one with the same device: the timestamps
/// of our last initiation and of the latest of the peer's. Without them a recorded initiation could be
/// sent again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stamps {
    pub(super) sent: Timestamp,
    pub(super) received: Timestamp,
}

impl Stamps {
    /// The later of both, each way.
    pub(super) fn max(self, other: Self) -> Self {
        let (sent, received) = (self.sent.max(other.sent), self.received.max(other.received));
        Self { sent, received }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unix_epoch_is_written_as_tai64n_does() {
        let text = Timestamp::of_unix(Duration::new(1, 2)).to_bytes();
        assert_eq!(text, [0x40, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 2]);
        assert_eq!(Timestamp::from_bytes(text).to_bytes(), text);
    }

    #[test]
    fn each_stamp_is_later_than_the_last_even_if_the_clock_went_back() {
        let ahead = Timestamp::of_unix(Duration::new(1 << 40, NANOS - 1));
        let next = Timestamp::after(ahead);
        assert!(next > ahead && next.nanos == 0);
        assert!(Timestamp::after(next) > next);
        assert!(Timestamp::after(Timestamp::default()) < ahead);
    }
}
