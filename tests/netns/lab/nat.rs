//! Kinds of routers, as nft rules.
//!
//! Linux' own NAT keeps the source port where it is free and reuses the mapping of a source, so
//! its mapping is endpoint-independent and its filtering address- and port-dependent (RFC 4787).
//! The cones come from a map that is filled by what goes out and asked for what comes in. Rules
//! *drop* unsolicited packets rather than refuse them: a packet that is dropped is never confirmed
//! in conntrack, and so cannot take the port that a host behind the router is about to use.

use std::net::Ipv4Addr;

/// What stands between a LAN and the Internet. WAN interface `wan`, LAN bridge `lan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Routes without translation and lets everything in.
    None,
    /// A Linux home router: endpoint-independent mapping, port-restricted filtering.
    PortRestricted,
    /// Another random port for every destination.
    Symmetric,
    /// One mapping a port, open to anybody.
    FullCone,
    /// One mapping a port, open to addresses that were sent to.
    AddressRestricted,
    /// Lets nothing out but TCP to port 443.
    UdpBlocked,
}

impl Nat {
    /// The whole rule set of a router whose WAN address is `wan`. Replaces what was loaded.
    pub fn rules(self, wan: Ipv4Addr) -> String {
        let body = match self {
            Nat::None => String::new(),
            Nat::PortRestricted => masquerade("") + &filter(STATEFUL),
            Nat::Symmetric => masquerade("random") + &filter(STATEFUL),
            Nat::FullCone => cone(wan, "") + &filter(IPV6_STATEFUL),
            Nat::AddressRestricted => cone(wan, SEEN) + &filter(IPV6_STATEFUL),
            Nat::UdpBlocked => masquerade("") + &filter(TCP_443_ONLY),
        };
        format!("flush ruleset\n{body}")
    }
}

/// Established flows and what a port mapper opened; nothing else comes in.
const STATEFUL: &str = r#"
    ct state established,related accept
    ct status dnat accept
    iifname "wan" drop
"#;

/// As [`STATEFUL`], and almost nothing goes out.
const TCP_443_ONLY: &str = r#"
    ct state established,related accept
    oifname "wan" meta l4proto udp drop
    oifname "wan" tcp dport != 443 drop
    iifname "wan" drop
"#;

/// A set of who was sent to, by inside port, filled after translation (priority 200).
const SEEN: &str = r#"
  set seen { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }
  chain remember {
    type filter hook postrouting priority 200
    oifname "wan" meta l4proto udp update @seen { ip daddr . udp sport }
  }
  chain restrict {
    type filter hook forward priority -10
    ct state established,related accept
    iifname "wan" meta l4proto udp ip saddr . udp dport @seen accept
    iifname "wan" drop
  }
"#;

/// For the cones, whose IPv4 filtering is elsewhere: IPv6 has no translation to open it.
const IPV6_STATEFUL: &str = r#"
    ct state established,related accept
    iifname "wan" meta nfproto ipv6 drop
"#;

fn masquerade(flags: &str) -> String {
    format!(
        r#"table ip nat {{
  chain postrouting {{
    type nat hook postrouting priority 100
    oifname "wan" masquerade {flags}
  }}
}}
"#
    )
}

fn cone(wan: Ipv4Addr, more: &str) -> String {
    format!(
        r#"table ip nat {{
  map eim {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }}
  chain prerouting {{
    type nat hook prerouting priority -100
    iifname "wan" meta l4proto udp dnat to udp dport map @eim
  }}
  chain postrouting {{
    type nat hook postrouting priority 100
    oifname "wan" meta l4proto udp update @eim {{ udp sport : ip saddr . udp sport }}
    oifname "wan" snat to {wan}
  }}
{more}
}}
"#
    )
}

fn filter(forward: &str) -> String {
    format!(
        r#"table inet filter {{
  chain input {{
    type filter hook input priority 0
    iifname "wan" ct state new meta l4proto udp drop
  }}
  chain forward {{
    type filter hook forward priority 0
    {forward}
  }}
}}
"#
    )
}
