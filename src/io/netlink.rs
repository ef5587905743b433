//! Links, addresses and routes, by rtnetlink (RFC 3549, rtnetlink(7)); nothing spawns `ip`.
//!
//! * [`Netlink::configure`] makes one of our links look as wanted and is idempotent: what is there
//!   stays, what is missing comes, what is stale goes. It never touches another link, and never
//!   takes a route that another link has. The connected routes of a network (its /48 and its pool)
//!   arise from the prefix lengths of the addresses; other prefixes are routes of their own.
//! * [`Netlink::snapshot`] is all that the rest of the agent knows of the host's network.
//! * [`Netlink::watch`] says *that* something changed, never what: whoever hears it takes a new
//!   snapshot, so that lost messages (`ENOBUFS`) lose nothing.
//!
//! IPv6 addresses come without duplicate address detection (RFC 4862, 5.4: nobody else can have an
//! address that is computed from a key) and links without a generated link-local address, so that
//! the overlay address is usable at once and is the only one.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_sys::Socket;
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long the network must be quiet before a change is told: an interface that comes up makes a
/// dozen messages within some ten milliseconds.
const QUIET: Duration = Duration::from_millis(60);

/// The longest a change is held back while more keep coming, as on a router whose routing daemon
/// never rests.
const MAX_DELAY: Duration = Duration::from_millis(500);

/// Bytes around the payload of a full inner packet in a sealed datagram: WireGuard's header and
/// tag, and padding to 16.
const SEAL_OVERHEAD: u32 = 16 + 16 + 15;

/// The longest UDP payload of one GSO send, as in [`super::udp`].
const MAX_UDP_BATCH: u32 = 65_487;

/// The most segments of one GSO send.
const MAX_UDP_SEGMENTS: u32 = 64;

/// What went wrong with the kernel's network configuration.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The link does not exist (any more).
    #[error("the interface {0} does not exist")]
    NoSuchLink(String),
    /// Not root and no `CAP_NET_ADMIN`.
    #[error("not permitted to {0}: the agent needs CAP_NET_ADMIN")]
    NotPermitted(String),
    /// Another link has that very route; everything else was done.
    #[error("the route {0}/{1} belongs to another interface and was left alone")]
    RouteTaken(IpAddr, u8),
    /// Anything else the kernel says.
    #[error("cannot {0}: {1}")]
    Kernel(String, #[source] io::Error),
}

/// How one of our links shall look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceSettings {
    /// The IPv6 address and the length of its on-link prefix.
    pub ipv6: (Ipv6Addr, u8),
    /// The IPv4 address and the length of its on-link prefix.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// The MTU, in bytes.
    pub mtu: u16,
    /// More prefixes that go into the link.
    pub routes: Vec<(IpAddr, u8)>,
}

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
    pub fn gateways(&self) -> Vec<super::portmap::Gateway> {
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
            let gateway =
                local.map(|local| super::portmap::Gateway { link: route.link, local, router });
            gateways.extend(gateway.filter(|gateway| !gateways.contains(gateway)));
        }
        gateways
    }
}

/// A connection to the kernel's network configuration, in the network namespace of the thread that
/// made it. Needs a tokio runtime.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Connects.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Makes the link `name` look like `wanted`, and brings it up.
    pub async fn configure(
        &self,
        name: &str,
        wanted: &InterfaceSettings,
    ) -> Result<(), NetlinkError> {
        let index = self.link_index(name).await?;
        prepare_ipv6(name);
        let mtu = u32::from(wanted.mtu);
        let change = |message| self.handle.link().change(message).execute();
        change(LinkUnspec::new_with_index(index).mtu(mtu).build())
            .await
            .map_err(|error| refine(name, format!("set the MTU of {name} to {mtu}"), error))?;
        // Both only make things better; a host without IPv6 refuses the one, an old kernel the other.
        for message in [without_link_local(index), with_offload_limits(index, mtu)] {
            if let Err(error) = change(message).await {
                tracing::debug!(%name, %error, "the kernel does not take a setting of the link");
            }
        }
        change(LinkUnspec::new_with_index(index).up().build())
            .await
            .map_err(|error| refine(name, format!("bring {name} up"), error))?;
        self.set_addresses(name, index, wanted).await?;
        self.set_routes(name, index, wanted).await
    }

    /// Removes the link `name`; that it does not exist is fine.
    pub async fn remove_link(&self, name: &str) -> Result<(), NetlinkError> {
        let index = match self.link_index(name).await {
            Ok(index) => index,
            Err(NetlinkError::NoSuchLink(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.handle.link().del(index).execute().await {
            Err(error) if errno(&error) == Some(Errno::NODEV) => Ok(()),
            other => other.map_err(|error| refine(name, format!("remove {name}"), error)),
        }
    }

    /// The network of this host, without loopback and without the links named in `own`.
    pub async fn snapshot(&self, own: &[String]) -> Result<Snapshot, NetlinkError> {
        let links = self.foreign_links(own).await?;
        let mut snapshot = Snapshot::default();
        for message in self.addresses().await? {
            let Some(link) = links.get(&message.header.index) else { continue };
            let unusable =
                AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
            if flags_of(&message).intersects(unusable) {
                continue;
            }
            let Some(ip) = ip_of(&message) else { continue };
            snapshot.addresses.push(Address {
                link: message.header.index,
                link_name: link.name.clone(),
                ip,
                prefix_len: message.header.prefix_len,
                mtu: link.mtu,
                up: link.up,
            });
        }
        snapshot.addresses.sort();
        for route in self.routes().await? {
            let hops = route.hops.iter().filter(|(link, _)| links.contains_key(link));
            snapshot.default_routes.extend(hops.filter(|_| route.prefix_len == 0).map(
                |(link, gateway)| DefaultRoute {
                    metric: route.metric,
                    link: *link,
                    ipv6: route.prefix.is_ipv6(),
                    gateway: *gateway,
                },
            ));
        }
        snapshot.default_routes.sort();
        Ok(snapshot)
    }

    /// What of this host overlaps the IPv4 prefix `base/prefix_len`, in words; `None` is well.
    /// Default routes, whole or in two halves, overlap nothing.
    pub async fn overlap(
        &self,
        base: Ipv4Addr,
        prefix_len: u8,
        own: &[String],
    ) -> Result<Option<String>, NetlinkError> {
        let links = self.foreign_links(own).await?;
        let meets = |ip: IpAddr, len: u8| same_prefix(ip, base.into(), len.min(prefix_len));
        for message in self.addresses().await? {
            let Some(link) = links.get(&message.header.index) else { continue };
            let len = message.header.prefix_len;
            if let Some(ip) = ip_of(&message).filter(|ip| meets(*ip, len)) {
                return Ok(Some(format!("{ip}/{len} on {}", link.name)));
            }
        }
        for route in self.routes().await? {
            let link = route.hops.iter().find_map(|(link, _)| links.get(link));
            let Some(link) = link.filter(|_| route.prefix_len > 1) else { continue };
            if meets(route.prefix, route.prefix_len) {
                let (prefix, len) = (route.prefix, route.prefix_len);
                return Ok(Some(format!("the route {prefix}/{len} by {}", link.name)));
            }
        }
        Ok(None)
    }

    /// Starts to listen for changes.
    pub fn watch() -> io::Result<Changes> {
        Changes::listen()
    }

    async fn link_index(&self, name: &str) -> Result<u32, NetlinkError> {
        let get = self.handle.link().get().match_name(name.to_owned()).execute();
        let links: Result<Vec<_>, _> = get.try_collect().await;
        match links {
            Ok(links) => links
                .first()
                .map(|link| link.header.index)
                .ok_or_else(|| NetlinkError::NoSuchLink(name.to_owned())),
            Err(error) => Err(refine(name, format!("look at {name}"), error)),
        }
    }

    /// Every link but loopback and our own.
    async fn foreign_links(&self, own: &[String]) -> Result<BTreeMap<u32, Link>, NetlinkError> {
        let messages = all("list the links", self.handle.link().get().execute()).await?;
        Ok(messages
            .into_iter()
            .filter(|message| !message.header.flags.contains(LinkFlags::Loopback))
            .map(|message| (message.header.index, Link::from(message)))
            .filter(|(_, link)| !own.contains(&link.name))
            .collect())
    }

    async fn addresses(&self) -> Result<Vec<AddressMessage>, NetlinkError> {
        all("list the addresses", self.handle.address().get().execute()).await
    }

    /// The unicast routes of the main table; a family that the host lacks has none.
    async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let messages = all("list the routes", self.handle.route().get(query).execute()).await?;
            routes.extend(messages.iter().filter_map(Route::read));
        }
        Ok(routes)
    }

    async fn set_addresses(
        &self,
        name: &str,
        index: u32,
        wanted: &InterfaceSettings,
    ) -> Result<(), NetlinkError> {
        let ipv4 = wanted.ipv4.map(|(ip, len)| (IpAddr::from(ip), len));
        let mut missing: Vec<_> = [(IpAddr::from(wanted.ipv6.0), wanted.ipv6.1)].into();
        missing.extend(ipv4);
        for message in self.addresses().await? {
            let Some(ip) = ip_of(&message).filter(|_| message.header.index == index) else {
                continue;
            };
            let present = (ip, message.header.prefix_len);
            if missing.contains(&present) && !flags_of(&message).contains(AddressFlags::Tentative) {
                missing.retain(|address| *address != present);
            } else if !is_link_local(ip) {
                match self.handle.address().del(message).execute().await {
                    // Removed by another hand meanwhile.
                    Err(error) if errno(&error) == Some(Errno::ADDRNOTAVAIL) => {}
                    other => other.map_err(|error| {
                        refine(name, format!("take the address {ip} off {name}"), error)
                    })?,
                }
            }
        }
        for (ip, len) in missing {
            let mut request = self.handle.address().add(index, ip, len).replace();
            if ip.is_ipv6() {
                request.message_mut().header.flags = AddressHeaderFlags::Nodad;
            }
            request.execute().await.map_err(|error| {
                refine(name, format!("give {name} the address {ip}/{len}"), error)
            })?;
        }
        Ok(())
    }

    async fn set_routes(
        &self,
        name: &str,
        index: u32,
        wanted: &InterfaceSettings,
    ) -> Result<(), NetlinkError> {
        let mut missing: Vec<_> =
            wanted.routes.iter().map(|(ip, len)| (mask(*ip, *len), *len)).collect();
        for route in self.routes().await? {
            if route.hops != [(index, None)] || route.protocol != RouteProtocol::Static {
                continue;
            }
            let present = (route.prefix, route.prefix_len);
            if missing.contains(&present) {
                missing.retain(|prefix| *prefix != present);
            } else {
                let message = route_message(index, route.prefix, route.prefix_len);
                match self.handle.route().del(message).execute().await {
                    Err(error) if errno(&error) == Some(Errno::SRCH) => {}
                    other => other.map_err(|error| {
                        refine(name, format!("remove the route {} of {name}", route.prefix), error)
                    })?,
                }
            }
        }
        let mut taken = None;
        for (ip, len) in missing {
            match self.handle.route().add(route_message(index, ip, len)).execute().await {
                Ok(()) => {}
                Err(error) if errno(&error) == Some(Errno::EXIST) => {
                    taken = Some(NetlinkError::RouteTaken(ip, len));
                }
                Err(error) => {
                    return Err(refine(name, format!("route {ip}/{len} into {name}"), error));
                }
            }
        }
        taken.map_or(Ok(()), Err)
    }
}

/// News that the network changed.
#[derive(Debug)]
pub struct Changes {
    socket: AsyncFd<Socket>,
    /// When the first and the last untold message came.
    untold: Option<(Instant, Instant)>,
}

impl Changes {
    fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ] {
            socket.add_membership(group as u32)?;
        }
        Ok(Self { socket: AsyncFd::new(socket)?, untold: None })
    }

    /// Waits until something changed and the network came to rest. Cancel safe: what was heard
    /// before is told by the next call.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let Some((first, last)) = self.untold else {
                self.hear().await?;
                continue;
            };
            let due = (last + QUIET).min(first + MAX_DELAY);
            match tokio::time::timeout_at(due, self.hear()).await {
                Ok(heard) => heard?,
                Err(_) => {
                    self.untold = None;
                    return Ok(());
                }
            }
        }
    }

    /// Waits for a message and takes all that are there.
    async fn hear(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            match drain(ready.get_inner()) {
                Ok(0) => ready.clear_ready(),
                Ok(_) => break,
                Err(error) => return Err(error),
            }
        }
        let now = Instant::now();
        self.untold = Some((self.untold.map_or(now, |(first, _)| first), now));
        Ok(())
    }
}

/// Throws away all messages that wait, and says how many there were.
fn drain(socket: &Socket) -> io::Result<usize> {
    // A message is cut to the buffer, which is all the same for one that is not looked at.
    let mut buffer = [0; 64];
    let mut heard = 0;
    loop {
        match socket.recv(&mut &mut buffer[..], 0) {
            Ok(_) => heard += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The queue overflowed: messages are lost, and that is news, too.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => heard += 1,
            Err(error) => return Err(error),
        }
    }
}

/// What we need of a link.
struct Link {
    name: String,
    mtu: u32,
    up: bool,
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
struct Route {
    prefix: IpAddr,
    prefix_len: u8,
    metric: u32,
    protocol: RouteProtocol,
    /// Links and routers; more than one where the route is multipath.
    hops: Vec<(u32, Option<IpAddr>)>,
}

impl Route {
    /// `None` for routes of other tables and other kinds.
    fn read(message: &RouteMessage) -> Option<Self> {
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
fn ip_of(message: &AddressMessage) -> Option<IpAddr> {
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

fn flags_of(message: &AddressMessage) -> AddressFlags {
    let short = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    message.attributes.iter().fold(short, |flags, attribute| match attribute {
        AddressAttribute::Flags(more) => flags | *more,
        _ => flags,
    })
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn same_prefix(a: IpAddr, b: IpAddr, len: u8) -> bool {
    a.is_ipv4() == b.is_ipv4() && mask(a, len) == mask(b, len)
}

/// The first address of the prefix; lengths beyond the family's count as the family's.
fn mask(ip: IpAddr, len: u8) -> IpAddr {
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

fn route_message(index: u32, ip: IpAddr, len: u8) -> RouteMessage {
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

fn without_link_local(index: u32) -> LinkMessage {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]))
        .build()
}

/// Limits a burst of the host's TCP to what fits one GSO send once it is sealed; otherwise each
/// burst would cost a second, nearly empty send.
fn with_offload_limits(index: u32, mtu: u32) -> LinkMessage {
    let segments = (MAX_UDP_BATCH / (mtu + SEAL_OVERHEAD)).clamp(1, MAX_UDP_SEGMENTS);
    // The least a segment carries: the MTU less the longest usual IPv6 and TCP headers.
    let bytes = segments * mtu.saturating_sub(72);
    LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::GsoMaxSize(bytes))
        .append_extra_attribute(LinkAttribute::GsoMaxSegs(segments))
        .build()
}

/// Allows IPv6 on the link, and router advertisements not to configure it. Best effort: a service
/// with a read-only /proc/sys has the host's defaults, and these suit us but on hosts with IPv6
/// switched off, where giving the address then fails and says so.
fn prepare_ipv6(name: &str) {
    for (knob, value) in [("disable_ipv6", "0"), ("accept_ra", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/{knob}");
        if let Err(error) = std::fs::write(&path, value) {
            tracing::debug!(%path, %error, "cannot set");
        }
    }
}

async fn all<T>(
    what: &str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetlinkError> {
    match stream.try_collect().await {
        Ok(items) => Ok(items),
        // The host lacks the family that was asked for.
        Err(error) if matches!(errno(&error), Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP)) => {
            Ok(Vec::new())
        }
        Err(error) => Err(refine("", what.to_owned(), error)),
    }
}

fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Errno::from_io_error(&message.to_io()),
        _ => None,
    }
}

fn refine(name: &str, what: String, error: rtnetlink::Error) -> NetlinkError {
    match errno(&error) {
        Some(Errno::NODEV) => NetlinkError::NoSuchLink(name.to_owned()),
        Some(Errno::PERM | Errno::ACCESS) => NetlinkError::NotPermitted(what),
        Some(errno) => NetlinkError::Kernel(what, errno.into()),
        None => NetlinkError::Kernel(what, io::Error::other(error)),
    }
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
