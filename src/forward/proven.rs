//! Sources that have shown that they own their address: the endpoints of the peers in use.
//!
//! `mesh` sets an endpoint only once an authenticated check to it was answered from it, which is
//! what a cookie shows too. So a peer's handshake needs no cookie under load, and cookies, which
//! cost more than all else a stranger can make us do, may be few.
//!
//! The endpoints of a thousand slots are too many to walk for each datagram of a flood and change
//! without a new table, so each thread keeps a sorted copy for a little while.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::ForwardingTable;

/// How old the copy may be: less than a round trip through the Internet, so that a path is in it
/// when the handshake that follows its check arrives; and long enough that copying costs nothing.
const MAX_AGE: Duration = Duration::from_millis(10);

/// A sorted copy of the endpoints; belongs to one thread.
#[derive(Debug, Default)]
pub(super) struct ProvenSources {
    endpoints: Vec<SocketAddr>,
    as_of: Option<Instant>,
}

impl ProvenSources {
    /// Whether `source` was the endpoint of a slot of `table` a moment ago.
    pub(super) fn holds(
        &mut self,
        source: SocketAddr,
        table: &ForwardingTable,
        now: Instant,
    ) -> bool {
        let age = self.as_of.map(|as_of| now.saturating_duration_since(as_of));
        if age.is_none_or(|age| age >= MAX_AGE) {
            self.as_of = Some(now);
            self.endpoints.clear();
            self.endpoints.extend(table.endpoints());
            self.endpoints.sort_unstable();
        }
        self.endpoints.binary_search(&source).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;

    #[test]
    fn a_peers_endpoint_is_proven_until_shortly_after_it_changed() {
        let (a, _) = connected();
        let mut proven = ProvenSources::default();
        assert!(proven.holds(at(2), &a.table, a.now));
        assert!(!proven.holds(at(3), &a.table, a.now));
        a.slot().set_endpoint(Some(at(3)));
        let later = a.now + MAX_AGE;
        assert!(proven.holds(at(3), &a.table, later));
        assert!(!proven.holds(at(2), &a.table, later));
        a.slot().set_endpoint(None);
        assert!(!proven.holds(at(3), &a.table, later + MAX_AGE));
    }
}
