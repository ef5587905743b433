//! What an admin says of one device: the body of a `Grant`.
//!
//! The body of a `Grant` is postcard of the fields of [`Certificate`] in their order. With 16 groups
//! and 8 routes of ordinary length it stays under the 900 bytes of an op body.
//!
//! # Consent
//! `bind_sig` is the device's own consent to its pair of keys: the signature of `id` over the 32
//! bytes of `wg_pk`, of type `bind`, in the network. An admin cannot give a device a tunnel key it
//! did not choose, nor a tunnel key to a device of which it does not hold the consent. That the
//! device holds the `wg` secret is proved by the handshake that comes before a Grant.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::bounded::at_most;
use super::invite::InviteId;
use super::policy::DeviceName;
use super::time::UnixTime;
use crate::identity::{DeviceId, IdSecret, NetworkId, Signature, WgPublicKey};

/// The most groups of a certificate: they and the routes must fit 900 bytes.
pub const MAX_GROUPS: usize = 16;

/// The most routes of a certificate.
pub const MAX_ROUTES: usize = 8;

/// How long a certificate is made out for, in seconds: 365 days. Admin devices renew from half of
/// it, so a network whose admin is away for half a year loses nobody.
pub const CERTIFICATE_LIFETIME: u64 = 365 * 86_400;

/// The type of a `bind_sig` in the signed text.
const BIND: &str = "bind";

/// A device's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The device.
    pub id: DeviceId,
    /// The static key of its tunnels.
    pub wg: WgPublicKey,
    /// Its name, as granted; [`Member::name`](super::Member::name) is the name as shown.
    pub name: DeviceName,
    /// Its address from the network's pool.
    pub ipv4: Option<Ipv4Addr>,
    /// The groups it belongs to, for policies; at most [`MAX_GROUPS`].
    #[serde(deserialize_with = "at_most::<MAX_GROUPS, _, _>")]
    pub groups: Vec<DeviceName>,
    /// The prefixes it may route for; at most [`MAX_ROUTES`].
    #[serde(deserialize_with = "at_most::<MAX_ROUTES, _, _>")]
    pub routes: Vec<(IpAddr, u8)>,
    /// What it may do beside being a member.
    pub flags: Flags,
    /// From when. A renewal keeps it: the older of two devices keeps a name (R7).
    pub not_before: UnixTime,
    /// Until when, exclusive.
    pub not_after: UnixTime,
    /// The invite it came with.
    pub invite: Option<InviteId>,
    /// The device's own consent to this pair of keys ([`bind`]).
    pub bind_sig: Signature,
}

/// What a device may do beside being a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Flags {
    /// Relay for other members.
    pub relay: bool,
    /// Be a way out to the Internet.
    pub exit: bool,
    /// Let invited devices in.
    pub sponsor: bool,
}

impl Certificate {
    /// Whether every field is within its bounds. Says nothing of signatures.
    pub(super) fn is_well_formed(&self) -> bool {
        self.groups.len() <= MAX_GROUPS
            && self.routes.len() <= MAX_ROUTES
            && self.routes.iter().all(|(base, len)| is_prefix(*base, *len))
            && self.not_before < self.not_after
            && self.wg.is_usable()
    }

    /// Whether the device consented to this pair of keys in `network`.
    pub fn is_bound(&self, network: &NetworkId) -> bool {
        self.id.verify(BIND, network, &self.wg.0, &self.bind_sig)
    }
}

/// Makes `bind_sig` of a certificate: `id` signs the bytes of `wg`, type `bind`, in `network`.
pub fn bind(id: &IdSecret, wg: &WgPublicKey, network: &NetworkId) -> Signature {
    id.sign(BIND, network, &wg.0)
}

/// Whether `base/len` is a prefix: a length the family has, and no bits set after it.
fn is_prefix(base: IpAddr, len: u8) -> bool {
    match base {
        IpAddr::V4(v4) => {
            len <= 32 && v4.to_bits() & u32::MAX.checked_shr(u32::from(len)).unwrap_or(0) == 0
        }
        IpAddr::V6(v6) => {
            len <= 128 && v6.to_bits() & u128::MAX.checked_shr(u32::from(len)).unwrap_or(0) == 0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_have_no_bits_after_them() {
        for (base, len, good) in [
            ("10.0.0.0", 8, true),
            ("0.0.0.0", 0, true),
            ("::", 0, true),
            ("10.0.0.1", 32, true),
            ("10.0.0.1", 31, false),
            ("10.0.0.0", 33, false),
            ("fd00::", 8, true),
            ("fd00::1", 127, false),
            ("fd00::1", 128, true),
            ("fd00::1", 129, false),
        ] {
            assert_eq!(is_prefix(base.parse().unwrap(), len), good, "{base}/{len}");
        }
    }

    #[test]
    fn consent_holds_for_one_pair_in_one_network() {
        let (network, other) = (NetworkId([1; 32]), NetworkId([2; 32]));
        let (id, wg) = (IdSecret::from_seed([3; 32]), WgPublicKey([9; 32]));
        let signature = bind(&id, &wg, &network);
        assert!(id.public().verify("bind", &network, &wg.0, &signature));
        assert!(!id.public().verify("op", &network, &wg.0, &signature));
        assert!(!id.public().verify("bind", &other, &wg.0, &signature));
        assert!(!id.public().verify("bind", &network, &[8; 32], &signature));
    }
}
