//! The host's network at one moment.

use std::net::IpAddr;

use super::message::same_prefix;
use crate::io::portmap::Gateway;

/// The network of this host at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The usable addresses of all links but loopback and our own, in the order of the links.
    pub addresses: Vec<Address>,
    /// The default routes of those links, the preferred first.
    pub default_routes: Vec<DefaultRoute>,
}

/// One address of a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The kernel's index of the link.
    pub link: u32,
    /// The name of the link.
    pub link_name: String,
    /// The address.
    pub ip: IpAddr,
    /// The length of the on-link prefix.
    pub prefix_len: u8,
    /// The link's MTU.
    pub mtu: u32,
    /// Whether the link is up and has a carrier.
    pub up: bool,
}

/// One default route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DefaultRoute {
    /// The smaller, the more preferred.
    pub metric: u32,
    /// The link it leads to.
    pub link: u32,
    /// Whether it is the IPv6 one.
    pub ipv6: bool,
    /// The router, where there is one (not on a point-to-point link).
    pub gateway: Option<IpAddr>,
}

impl Snapshot {
    /// Whether there is a default route by a link that is up: v4 and v6.
    pub fn has_default_route(&self) -> (bool, bool) {
        let up = |route: &&DefaultRoute| {
            self.addresses.iter().any(|address| address.link == route.link && address.up)
        };
        let of = |ipv6| self.default_routes.iter().filter(up).any(|route| route.ipv6 == ipv6);
        (of(false), of(true))
    }

    /// Each IPv4 router that is a default gateway, with our address on its link.
    pub fn gateways(&self) -> Vec<Gateway> {
        let mut gateways = Vec::new();
        for route in &self.default_routes {
            let Some(IpAddr::V4(router)) = route.gateway else { continue };
            let local = self.addresses.iter().filter(|a| a.link == route.link && a.up).find_map(
                |a| match a.ip {
                    IpAddr::V4(ip) if same_prefix(ip.into(), router.into(), a.prefix_len) => {
                        Some(ip)
                    }
                    _ => None,
                },
            );
            let gateway = local.map(|local| Gateway { link: route.link, local, router });
            gateways.extend(gateway.filter(|gateway| !gateways.contains(gateway)));
        }
        gateways
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_gateway_comes_with_our_address_on_its_prefix() {
        let address = |link, text: &str, up| Address {
            link,
            link_name: format!("eth{link}"),
            ip: ip(text),
            prefix_len: 24,
            mtu: 1_500,
            up,
        };
        let route = |link, gateway: Option<&str>| DefaultRoute {
            metric: 0,
            link,
            ipv6: false,
            gateway: gateway.map(ip),
        };
        let snapshot = Snapshot {
            addresses: vec![
                address(2, "10.9.9.9", true),
                address(2, "192.168.1.7", true),
                address(3, "192.168.2.7", false),
            ],
            default_routes: vec![
                route(2, Some("192.168.1.1")),
                route(2, Some("192.168.1.1")),
                route(3, Some("192.168.2.1")),
                route(4, None),
            ],
        };
        let gateways = snapshot.gateways();
        assert_eq!(gateways.len(), 1);
        assert_eq!(gateways[0].local.to_string(), "192.168.1.7");
        assert_eq!(snapshot.has_default_route(), (true, false));
    }
}
