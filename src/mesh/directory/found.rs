//! What comes of looking.

use std::net::SocketAddr;

use super::book::Source;
use crate::identity::{DeviceId, WgPublicKey};
use crate::membership::invite::InviteId;

/// Something was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Where a device may be. It may be one that nobody wants, or no member: the doorbell names
    /// whoever rings.
    Device {
        /// The device.
        device: DeviceId,
        /// Where it may be tried from here.
        endpoints: Vec<SocketAddr>,
        /// Who said so.
        source: Source,
    },
    /// Where a sponsor of an invite may be.
    Sponsor {
        /// The invite.
        invite: InviteId,
        /// Its WireGuard key.
        wg: WgPublicKey,
        /// Where it may be tried from here.
        endpoints: Vec<SocketAddr>,
    },
    /// Where the device that joins with an invite may be.
    Joiner {
        /// The invite.
        invite: InviteId,
        /// Where it may be tried from here.
        endpoints: Vec<SocketAddr>,
    },
}
