//! A path through two routers whose middle link has the MTU of one's choice.
//!
//! ```text
//! host ── 1500 ── left ── MTU ── right ── 1500 ── host
//! ```
//!
//! Routed, without NAT, in one family: so the hosts' tunnel takes it. Kernel routers fragment IPv4
//! and send ICMP as routers do, unless they are told not to.

use anyhow::Result;

use super::namespace::Namespace;

/// What the routers do with what is too large.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Routers {
    /// As the RFCs say: fragment where they may, else say so by ICMP.
    Honest,
    /// They swallow it: no ICMP at all, and no fragment gets through.
    BlackHole,
}

/// The two routers.
pub struct Narrow {
    left: Namespace,
    right: Namespace,
}

/// Drops every ICMP error, and fragments of both families.
const SWALLOW: &str = "
table inet swallow {
    chain errors {
        type filter hook output priority 0
        icmp type { destination-unreachable, time-exceeded } drop
        icmpv6 type { destination-unreachable, packet-too-big, time-exceeded } drop
    }
    chain pass {
        type filter hook forward priority 0
        icmp type { destination-unreachable, time-exceeded } drop
        icmpv6 type { destination-unreachable, packet-too-big, time-exceeded } drop
    }
    chain fragments {
        type filter hook prerouting priority -450
        ip frag-off & 0x3fff != 0 drop
        exthdr frag exists drop
    }
}";

impl Narrow {
    /// Connects two hosts' namespaces, which get `eth0` with a default route; `v4` chooses the
    /// family.
    pub fn between(hosts: [&Namespace; 2], mtu: u16, v4: bool, routers: Routers) -> Result<Self> {
        let (left, right) = (Namespace::new("left")?, Namespace::new("right")?);
        left.ip(&format!("link add middle type veth peer name middle netns {}", right.name()))?;
        for (number, (router, host)) in [(&left, hosts[0]), (&right, hosts[1])].iter().enumerate() {
            router.sysctl("net/ipv4/ip_forward", "1")?;
            router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
            // An IPv6 link below 1,280 bytes is none.
            let (own, other) = (number + 1, 2 - number);
            let net = |number: usize| match v4 {
                true => (format!("11.0.{}", 10 + number), "24"),
                false => (format!("2a11:0:{}:", 10 + number), "64"),
            };
            let dot = if v4 { "." } else { ":" };
            let at = |number: usize, host: usize| format!("{}{dot}{host}", net(number).0);
            let len = net(0).1;
            router.ip(&format!(
                "link add host type veth peer name eth0 netns {}\n\
                 link set host up\nlink set middle mtu {mtu} up\n\
                 address add {}/{len} dev host\naddress add {}/{len} dev middle\n\
                 route add {}/{len} via {}",
                host.name(),
                at(own, 1),
                at(0, own),
                at(other, 0),
                at(0, other),
            ))?;
            host.ip(&format!(
                "address add {}/{len} dev eth0\nlink set eth0 up\nroute add {} via {}",
                at(own, 2),
                if v4 { "default" } else { "::/0" },
                at(own, 1),
            ))?;
            if routers == Routers::BlackHole {
                router.nft(SWALLOW)?;
            }
        }
        Ok(Narrow { left, right })
    }

    /// The middle link has this MTU from now on.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        for router in [&self.left, &self.right] {
            router.ip(&format!("link set middle mtu {mtu}"))?;
        }
        Ok(())
    }
}
