//! What a path agent says of the way to its peer.

use std::net::SocketAddr;
use std::time::Duration;

use super::size::PathSize;
use crate::api::PathKind;

/// A way to the peer that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Where datagrams go.
    pub endpoint: SocketAddr,
    /// On a link of ours, or through whatever routers.
    pub kind: PathKind,
    /// The smoothed round trip.
    pub rtt: Duration,
}

/// What happened to the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathEvent {
    /// There was none, now there is.
    Validated(Path),
    /// Another one is used from now on, or the same is of another kind now.
    PrimaryChanged(Path),
    /// There is none any more. The search goes on while the peer is wanted.
    Lost,
    /// The peer sees our address as this.
    Observed(SocketAddr),
    /// So large may datagrams on the path in use be; before any that tells of another path.
    Sized(PathSize),
}
