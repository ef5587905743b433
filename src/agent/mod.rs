//! SKELETON: the seam that `main` codes against; the lead writes this file.
pub mod server;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::{Config, HostPort};

/// What `ginnel agent` runs with.
#[derive(Debug)]
pub struct AgentOptions {
    /// The configuration.
    pub config: Config,
    /// Where keys, logs and caches are kept.
    pub state_dir: PathBuf,
    /// The socket of the local API.
    pub socket: PathBuf,
    /// Whether TUN offload may be used.
    pub offload: bool,
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// An [`crate::api::Error`] in the chain of the error decides the exit code.
pub fn run(_options: AgentOptions) -> anyhow::Result<()> {
    anyhow::bail!("the agent is not part of this build")
}

/// Runs a stand-alone DHT node until SIGTERM or SIGINT.
pub fn run_dht_node(_listen: SocketAddr, _bootstrap: Vec<HostPort>) -> anyhow::Result<()> {
    anyhow::bail!("the DHT node is not part of this build")
}
