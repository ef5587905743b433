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

mod changes;
mod message;
mod snapshot;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::{Stream, TryStreamExt};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::route::{RouteMessage, RouteProtocol};
use rtnetlink::{Handle, LinkUnspec};
use rustix::io::Errno;
use tokio::task::JoinHandle;

pub use changes::Changes;
use message::{
    Link, Route, flags_of, ip_of, is_link_local, mask, route_message, same_prefix,
    with_offload_limits, without_link_local,
};
pub use snapshot::{Address, DefaultRoute, Snapshot};

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
