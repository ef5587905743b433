//! Local clients whose answer is not there yet.

use std::time::Instant;

use super::event::RequestId;
use super::ping::Pings;

/// Requests under way.
#[derive(Debug, Default)]
pub struct Clients {
    /// Series of probes.
    pub pings: Pings,
    /// Who waits for this device to be admitted, and since when.
    pub joining: Vec<(RequestId, Instant)>,
    /// Who waits for a first invite, and until when for this device's addresses to stand in it.
    pub founding: Option<(RequestId, Instant)>,
}

impl Clients {
    /// When something is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let founding = self.founding.map(|(_, at)| (at, "a first invite is due"));
        self.pings.poll_timeout().into_iter().chain(founding).min()
    }
}
