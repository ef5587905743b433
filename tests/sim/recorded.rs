//! What an adversary on the path saw, to be sent again.

use std::collections::VecDeque;
use std::net::SocketAddr;

use rand::RngExt;
use rand::rngs::StdRng;

use super::net::HostId;

/// A datagram on its way.
#[derive(Debug, Clone)]
pub struct Datagram {
    /// Where it arrives.
    pub host: HostId,
    /// Whose it seems to be.
    pub from: SocketAddr,
    /// Which port it is for.
    pub to: SocketAddr,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// Datagrams that are remembered: some seconds of a small network.
const MOST: usize = 256;

/// The last datagrams.
#[derive(Debug, Default)]
pub struct Recorded(VecDeque<Datagram>);

impl Recorded {
    /// Remembers one, for the oldest.
    pub fn keep(&mut self, datagram: &Datagram) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(datagram.clone());
    }

    /// Any one.
    pub fn pick(&self, rng: &mut StdRng) -> Option<Datagram> {
        (!self.0.is_empty()).then(|| self.0[rng.random_range(0..self.0.len())].clone())
    }
}
