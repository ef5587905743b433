//! Which pairs of devices must connect: a closed form over what stands between them.
//!
//! A NAT matters by two things: whether others can know the port that it will use towards them, and
//! whom it lets in (RFC 5128, section 3.3). A chain of NATs is as bad as its worst.

use super::nat::{Filtering, Mapping, NatKind};
use super::net::SiteId;

/// What stands between a device and the Internet: its site, and the NATs from the inside out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Situation {
    /// The local network, where it is not the Internet itself.
    pub site: Option<SiteId>,
    /// The carrier's network around it.
    pub carrier: Option<SiteId>,
    /// The NATs.
    pub nats: Vec<NatKind>,
}

impl Situation {
    /// Whether others know from which port it will send to them.
    fn is_foreseeable(&self) -> bool {
        self.nats.iter().all(|nat| nat.mapping == Mapping::EndpointIndependent)
    }

    /// Whether only the very address and port that it sent to can answer.
    fn is_strict(&self) -> bool {
        self.nats.iter().any(|nat| nat.filtering == Filtering::AddressAndPortDependent)
    }

    /// Whether a packet that came too early moves its port. One that lets everybody in does so too: it
    /// lets nobody in before it has a mapping, as after a restart.
    fn is_poisoned(&self) -> bool {
        self.nats.iter().any(|nat| nat.poisons)
    }

    /// Whether it is known where to send, and what comes from there is let in.
    fn is_reached_by(&self, other: &Self) -> bool {
        self.is_foreseeable() && (!self.is_strict() || other.is_foreseeable())
    }
}

/// Whether these two must find a path on a fair network. Where it says no they may.
pub fn must_connect(a: &Situation, b: &Situation) -> bool {
    if a.site.is_some() && a.site == b.site {
        return true;
    }
    let inside = a.carrier.is_some() && a.carrier == b.carrier;
    let hairpins = |situation: &Situation| situation.nats.last().is_some_and(|nat| nat.hairpin);
    let spoilt = a.is_poisoned() && b.is_strict() || b.is_poisoned() && a.is_strict();
    (a.is_reached_by(b) || b.is_reached_by(a)) && !spoilt && (!inside || hairpins(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(nats: &[NatKind]) -> Situation {
        Situation { site: None, carrier: None, nats: nats.to_vec() }
    }

    /// The table of the laboratory: who connects with whom by punching holes.
    #[test]
    fn the_oracle_says_what_was_measured() {
        let cone = [NatKind::FULL_CONE];
        let restricted = [NatKind::ADDRESS_RESTRICTED];
        let (home, symmetric) = ([NatKind::PORT_RESTRICTED], [NatKind::SYMMETRIC]);
        let double = [NatKind::PORT_RESTRICTED, NatKind::SYMMETRIC];
        let poisoned = [NatKind { poisons: true, ..NatKind::PORT_RESTRICTED }];
        for (a, b, connect) in [
            (&[][..], &symmetric[..], true),
            (&cone, &symmetric, true),
            (&restricted, &symmetric, true),
            (&home, &home, true),
            (&home, &symmetric, false),
            (&symmetric, &symmetric, false),
            (&home, &double, false),
            (&cone, &double, true),
            (&home, &poisoned, false),
            (&cone, &poisoned, true),
        ] {
            let (a, b) = (behind(a), behind(b));
            assert_eq!(must_connect(&a, &b), connect, "{a:?} {b:?}");
            assert_eq!(must_connect(&b, &a), connect, "{b:?} {a:?}");
        }
    }
}
