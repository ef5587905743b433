//! One network with what it holds of the host: its socket pair, its interface, its packet threads
//! and its folder.

use std::sync::Arc;
use std::time::Instant;

use super::workers::Workers;
use crate::api;
use crate::identity::NetworkId;
use crate::io::store::NetworkStore;
use crate::io::udp::UdpPort;
use crate::mesh::Mesh;
use crate::mesh::event::Input;

/// One network of this agent.
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Decides.
    pub mesh: Mesh,
    /// The tunnels' sockets, shared with the packet threads.
    pub udp: Arc<UdpPort>,
    /// The packet threads.
    pub workers: Workers,
    /// The name of the interface, on or off.
    pub interface: String,
    /// The folder.
    pub store: NetworkStore,
    /// Why the interface could not be made as wanted, for `status`.
    pub fault: Option<String>,
    /// Whether it is to be removed once its outputs are done.
    pub forgotten: bool,
}

impl Network {
    /// Hands an input to the mesh. What it refuses is somebody else's fault, and no news.
    pub fn input(&mut self, input: Input, now: Instant) {
        if let Err(reason) = self.mesh.handle_input(input, now) {
            tracing::trace!(network = ?self.id, %reason, "an input was ignored");
        }
    }

    /// Lets the mesh do what is due.
    pub fn handle_due(&mut self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.mesh.handle_timeout(now);
        }
    }

    /// When the mesh wants to be called.
    pub fn due(&self) -> Option<Instant> {
        self.mesh.poll_timeout().map(|(due, _)| due)
    }

    /// The UDP port of the tunnels.
    pub fn port(&self) -> u16 {
        self.udp.port()
    }

    /// Its name, or the start of its id while it is being joined.
    pub fn title(&self) -> String {
        let id = || self.id.to_string().chars().take(8).collect();
        self.mesh.name().map_or_else(id, str::to_owned)
    }

    /// Its state, with what the mesh cannot know.
    pub fn status(&self, now: Instant) -> api::NetworkStatus {
        let mut status = self.mesh.status(now);
        status.name = self.title();
        status.detail = status.detail.or_else(|| self.fault.clone());
        status.drops = {
            let drops = self.workers.drops().snapshot().into_iter();
            drops.map(|(reason, count)| (reason.to_owned(), count)).collect()
        };
        status
    }

    /// Stops the packet threads; the interface vanishes with its last descriptor.
    pub fn close(&mut self) {
        self.workers.stop();
    }
}
