//! What we read out of rtnetlink's messages, and the messages we write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

/// Bytes around the payload of a full inner packet in a sealed datagram: WireGuard's header and
/// tag, and padding to 16.
const SEAL_OVERHEAD: u32 = 16 + 16 + 15;

/// The longest UDP payload of one GSO send, as in [`crate::io::udp`].
const MAX_UDP_BATCH: u32 = 65_487;

/// The most segments of one GSO send.
const MAX_UDP_SEGMENTS: u32 = 64;

/// What we need of a link.
pub(super) struct Link {
    pub name: String,
    pub mtu: u32,
    pub up: bool,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        let mut link = Self { name: String::new(), mtu: 0, up };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                _ => {}
            }
        }
        link
    }
}

/// What we need of a route.
pub(super) struct Route {
    pub prefix: IpAddr,
    pub prefix_len: u8,
    pub metric: u32,
    pub protocol: RouteProtocol,
    /// Links and routers; more than one where the route is multipath.
    pub hops: Vec<(u32, Option<IpAddr>)>,
}

impl Route {
    /// `None` for routes of other tables and other kinds.
    pub fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let unspecified: IpAddr = match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let main = header.table == RouteHeader::RT_TABLE_MAIN;
        if !main || header.kind != RouteType::Unicast {
            return None;
        }
        let mut route = Self {
            prefix: unspecified,
            prefix_len: header.destination_prefix_length,
            metric: 0,
            protocol: header.protocol,
            hops: Vec::new(),
        };
        let (mut link, mut gateway) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => route.prefix = plain(address)?,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::Gateway(address) => gateway = plain(address),
                RouteAttribute::MultiPath(hops) => {
                    route.hops.extend(hops.iter().map(|hop| {
                        let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
                            RouteAttribute::Gateway(address) => plain(address),
                            _ => None,
                        });
                        (hop.interface_index, gateway)
                    }));
                }
                _ => {}
            }
        }
        route.hops.extend(link.map(|link| (link, gateway)));
        Some(route)
    }
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// Our own address: on a point-to-point link `Address` is the other end's.
pub(super) fn ip_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

pub(super) fn flags_of(message: &AddressMessage) -> AddressFlags {
    let short = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    message.attributes.iter().fold(short, |flags, attribute| match attribute {
        AddressAttribute::Flags(more) => flags | *more,
        _ => flags,
    })
}

pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

pub(super) fn same_prefix(a: IpAddr, b: IpAddr, len: u8) -> bool {
    a.is_ipv4() == b.is_ipv4() && mask(a, len) == mask(b, len)
}

/// The first address of the prefix; lengths beyond the family's count as the family's.
pub(super) fn mask(ip: IpAddr, len: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let bits = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & bits).into()
        }
        IpAddr::V6(ip) => {
            let bits = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & bits).into()
        }
    }
}

pub(super) fn route_message(index: u32, ip: IpAddr, len: u8) -> RouteMessage {
    match ip {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(ip, len)
            .output_interface(index)
            .scope(RouteScope::Link)
            .build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(ip, len)
            .output_interface(index)
            .build(),
    }
}

pub(super) fn without_link_local(index: u32) -> LinkMessage {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]))
        .build()
}

/// Limits a burst of the host's TCP to what fits one GSO send once it is sealed; otherwise each
/// burst would cost a second, nearly empty send.
pub(super) fn with_offload_limits(index: u32, mtu: u32) -> LinkMessage {
    let segments = (MAX_UDP_BATCH / (mtu + SEAL_OVERHEAD)).clamp(1, MAX_UDP_SEGMENTS);
    // The least a segment carries: the MTU less the longest usual IPv6 and TCP headers.
    let bytes = segments * mtu.saturating_sub(72);
    LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::GsoMaxSize(bytes))
        .append_extra_attribute(LinkAttribute::GsoMaxSegs(segments))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_are_compared_at_every_edge() {
        assert!(same_prefix(ip("10.71.0.1"), ip("10.71.255.255"), 16));
        assert!(!same_prefix(ip("10.71.0.1"), ip("10.72.0.1"), 16));
        assert!(same_prefix(ip("1.2.3.4"), ip("200.1.1.1"), 0));
        assert!(!same_prefix(ip("1.2.3.4"), ip("1.2.3.5"), 32));
        assert!(same_prefix(ip("1.2.3.4"), ip("1.2.3.4"), 255));
        assert!(same_prefix(ip("fd00::1"), ip("fd00::ffff"), 64));
        assert!(same_prefix(ip("fd00::1"), ip("::"), 0));
        assert!(!same_prefix(ip("::"), ip("0.0.0.0"), 0));
    }
}
