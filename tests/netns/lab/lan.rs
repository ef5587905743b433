//! A LAN (a bridge that hands out addresses) and the router that connects it to the Internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Result;

use super::internet::{Internet, LineId};
use super::namespace::{Namespace, unique};
use super::nat::Nat;

/// The first host of a LAN is `.2`: the router has `.1`, also where there is no router.
const FIRST_HOST: u8 = 2;

/// A bridge `lan` in a namespace of its own or in a router's.
pub struct Lan {
    namespace: Namespace,
    /// The first three bytes of its /24.
    subnet: [u8; 3],
    /// The first 64 bits of its IPv6 prefix, where it has one.
    prefix: Option<[u16; 4]>,
    has_router: bool,
    next: AtomicU8,
}

impl Lan {
    /// A switch and nothing else: no router, no name server, no way out.
    pub fn isolated(label: &str, subnet: [u8; 3]) -> Result<Self> {
        Lan::new(Namespace::new(label)?, subnet, None, false)
    }

    fn new(
        namespace: Namespace,
        subnet: [u8; 3],
        prefix: Option<[u16; 4]>,
        has_router: bool,
    ) -> Result<Self> {
        namespace.ip("link add name lan type bridge\nlink set lan up")?;
        if has_router {
            let [a, b, c] = subnet;
            namespace.ip(&format!("address add {a}.{b}.{c}.1/24 dev lan"))?;
        }
        if let (true, Some(prefix)) = (has_router, prefix) {
            namespace.ip(&format!("address add {}/64 dev lan nodad", in_prefix(prefix, 1)))?;
        }
        Ok(Lan { namespace, subnet, prefix, has_router, next: AtomicU8::new(FIRST_HOST) })
    }

    /// Plugs `interface` of `namespace` in and configures it as DHCP would; returns its address.
    pub fn connect(&self, namespace: &Namespace, interface: &str) -> Result<Ipv4Addr> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let [a, b, c] = self.subnet;
        let (port, other) = (format!("p{}", unique()), namespace.name());
        self.namespace.ip(&format!(
            "link add {port} type veth peer name {interface} netns {other}\n\
             link set {port} master lan up"
        ))?;
        namespace.ip(&format!(
            "address add {a}.{b}.{c}.{number}/24 brd + dev {interface}\nlink set {interface} up"
        ))?;
        if self.has_router {
            namespace.ip(&format!("route add default via {a}.{b}.{c}.1"))?;
        }
        if let Some(prefix) = self.prefix {
            let (host, router) = (in_prefix(prefix, number.into()), in_prefix(prefix, 1));
            namespace.ip(&format!(
                "address add {host}/64 dev {interface} nodad\nroute add ::/0 via {router}"
            ))?;
        }
        Ok(Ipv4Addr::new(a, b, c, number))
    }

    /// The namespace the bridge is in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The router's address as seen by hosts.
    pub fn gateway(&self) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 1)
    }
}

/// Two namespaces on one cable, `eth0` at both ends; returns their addresses.
pub fn cable(a: &Namespace, b: &Namespace) -> Result<[IpAddr; 2]> {
    a.ip(&format!("link add name eth0 type veth peer name eth0 netns {}", b.name()))?;
    for (side, number) in [(a, 1), (b, 2)] {
        side.ip(&format!("address add 192.168.9.{number}/24 brd + dev eth0\nlink set eth0 up"))?;
    }
    Ok([IpAddr::from([192, 168, 9, 1]), IpAddr::from([192, 168, 9, 2])])
}

/// A router: `lan` inside, `wan` outside, NAT between.
pub struct Router {
    /// Its inner side, where hosts are plugged in.
    pub lan: Lan,
    nat: Nat,
    wan: Ipv4Addr,
    line: Option<LineId>,
}

/// What a router is made of.
pub struct Plan<'a> {
    /// For names.
    pub label: &'a str,
    /// The kind of NAT.
    pub nat: Nat,
    /// The first three bytes of the LAN's /24.
    pub subnet: [u8; 3],
    /// A routed IPv6 /64 for the LAN.
    pub prefix: Option<[u16; 4]>,
}

impl Router {
    /// A router on the Internet with the public address `wan`.
    pub fn new(internet: &Internet, wan: Ipv4Addr, plan: &Plan<'_>) -> Result<Self> {
        let namespace = Namespace::new(plan.label)?;
        let line = internet.attach(&namespace)?;
        internet.route(wan.into(), line);
        if let Some(prefix) = plan.prefix {
            internet.route(IpAddr::V6(in_prefix(prefix, 0)), line);
        }
        namespace.ip(&format!("address add {wan}/32 dev wan"))?;
        Router::finish(namespace, plan, wan, Some(line))
    }

    /// A router whose WAN side is another router's LAN: carrier-grade NAT, or a router behind a
    /// router at home.
    pub fn behind(outer: &Lan, plan: &Plan<'_>) -> Result<Self> {
        let namespace = Namespace::new(plan.label)?;
        let wan = outer.connect(&namespace, "wan")?;
        Router::finish(namespace, plan, wan, None)
    }

    fn finish(
        namespace: Namespace,
        plan: &Plan<'_>,
        wan: Ipv4Addr,
        line: Option<LineId>,
    ) -> Result<Self> {
        namespace.sysctl("net/ipv4/ip_forward", "1")?;
        namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        namespace.nft(&plan.nat.rules(wan))?;
        let lan = Lan::new(namespace, plan.subnet, plan.prefix, true)?;
        Ok(Router { lan, nat: plan.nat, wan, line })
    }

    /// Its present WAN address.
    pub fn wan(&self) -> Ipv4Addr {
        self.wan
    }

    /// The provider gives it another address: the old one is dead, its NAT state forgotten.
    pub fn change_wan(&mut self, internet: &Internet, wan: Ipv4Addr) -> Result<()> {
        let namespace = &self.lan.namespace;
        internet.unroute(self.wan.into());
        namespace
            .ip(&format!("address add {wan}/32 dev wan\naddress del {}/32 dev wan", self.wan))?;
        namespace.nft(&self.nat.rules(wan))?;
        self.wan = wan;
        self.forget_mappings()?;
        if let Some(line) = self.line {
            internet.route(wan.into(), line);
        }
        Ok(())
    }

    /// All NAT state is gone, as after a reboot.
    pub fn forget_mappings(&self) -> Result<()> {
        self.lan.namespace.tool("conntrack", &["-F"]).map(drop)
    }
}

/// Host `number` of a /64.
pub fn in_prefix(prefix: [u16; 4], number: u16) -> Ipv6Addr {
    let [a, b, c, d] = prefix;
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, number)
}
