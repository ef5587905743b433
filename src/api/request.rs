//! What a client asks: one variant a verb, its name for the log, and whether a reader may ask it.

use serde::{Deserialize, Serialize};

use crate::identity::Ipv4Pool;

/// What a client asks of the agent. `network: None` means the only one there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Make a network with this device as its first admin, and bring it up.
    Create {
        /// The name of the network, a DNS label.
        network: String,
        /// The name of this device, a DNS label.
        device: String,
        /// The pool of IPv4 addresses; the default where absent.
        ipv4_pool: Option<Ipv4Pool>,
        /// No IPv4 in this network.
        no_ipv4: bool,
        /// Open a first invite as well.
        invite: bool,
    },
    /// Open a single-use invite.
    Invite {
        /// The network.
        network: Option<String>,
        /// The name that the joining device gets.
        name: Option<String>,
        /// How long it is valid, in seconds.
        expires_s: u64,
        /// The joining device becomes an admin.
        admin: bool,
        /// The human vouches that nobody has a longer log of this admin.
        #[serde(default)]
        offline: bool,
    },
    /// Join the network of an invite.
    Join {
        /// The invite's text.
        invite: String,
        /// The name of this device, a DNS label.
        device: String,
        /// When to give up, in milliseconds.
        timeout_ms: u64,
    },
    /// Leave for good: sign out, remove interface and keys.
    Leave {
        /// The network.
        network: Option<String>,
    },
    /// Interface on.
    Up {
        /// The network.
        network: Option<String>,
    },
    /// Interface off, membership kept.
    Down {
        /// The network.
        network: Option<String>,
    },
    /// The state of everything.
    Status,
    /// Probe a device through the tunnel.
    Ping {
        /// A name, an overlay address or a key prefix.
        device: String,
        /// How many probes; for ever where absent.
        count: Option<u32>,
        /// Stop at the first probe that took a direct path.
        until_direct: bool,
        /// When to give up on the whole, in milliseconds.
        timeout_ms: u64,
    },
    /// What this side of the network looks like.
    Netcheck,
    /// The roster.
    Members {
        /// The network.
        network: Option<String>,
    },
    /// Remove a device for good.
    Revoke {
        /// A name, an overlay address or a key prefix.
        device: String,
        /// Why, for the log.
        reason: Option<String>,
        /// The human vouches that nobody has a longer log of this admin.
        #[serde(default)]
        offline: bool,
    },
    /// The signed membership history.
    Log {
        /// The network.
        network: Option<String>,
    },
    /// Who has this address or name.
    Whois {
        /// A name, an overlay address or a key prefix.
        device: String,
    },
}

impl Request {
    /// What is asked, for the log: without arguments, some of which are secret.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Invite { .. } => "invite",
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
            Self::Up { .. } => "up",
            Self::Down { .. } => "down",
            Self::Status => "status",
            Self::Ping { .. } => "ping",
            Self::Netcheck => "netcheck",
            Self::Members { .. } => "members",
            Self::Revoke { .. } => "revoke",
            Self::Log { .. } => "log",
            Self::Whois { .. } => "whois",
        }
    }

    /// Whether a user who may only read may ask this.
    pub fn is_read_only(&self) -> bool {
        matches!(
            self,
            Self::Status
                | Self::Netcheck
                | Self::Members { .. }
                | Self::Log { .. }
                | Self::Whois { .. }
                | Self::Ping { .. }
        )
    }
}
