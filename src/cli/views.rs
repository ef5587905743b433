//! The answers of the agent as text.
//!
//! Each function takes an answer and what the [`Screen`] can show, and returns whole lines.

use super::health;
use super::render::{self, Cell, Screen, Tint, clean, pairs, table, word};
use crate::api::{
    Created, DhtState, DhtStatus, Joined, Log, Members, Netcheck, NetcheckNetwork, NetworkStatus,
    PathKind, PeerState, PeerStatus, Status, Whois,
};

/// Health first in words, then the networks, then the devices of each.
pub fn status(status: &Status, screen: &Screen) -> String {
    let mut text = String::new();
    for network in &status.networks {
        let (tint, sentence) = health::sentence(network);
        text += &(screen.tint(tint, &sentence) + "\n");
    }
    if status.networks.is_empty() {
        text += "This device belongs to no network yet: sudo ginnel create NAME makes one, \
                 sudo ginnel join INVITE joins one.\n";
    }
    let (version, uptime) = (clean(&status.version), render::duration(status.uptime_s));
    text += &format!("Agent {version}, running for {uptime}.\n");
    if status.networks.is_empty() {
        return text;
    }
    let header =
        ["NETWORK", "STATE", "INTERFACE", "DEVICE", "ROLE", "ADDRESS", "PUBLIC", "NAT", "DHT"];
    let networks = status.networks.iter().map(network_row).collect();
    text += &format!("\n{}", table(&header, networks, screen));
    for network in status.networks.iter().filter(|network| !network.peers.is_empty()) {
        text += &format!("\nDevices of {}\n", clean(&network.name));
        text += &peers(&network.peers, screen);
    }
    text
}

/// The devices of a network.
pub fn peers(peers: &[PeerStatus], screen: &Screen) -> String {
    let header = ["NAME", "ADDRESS", "STATE", "PATH", "RTT", "RX", "TX", "SEEN"];
    let row = |peer: &PeerStatus| {
        let tint = match (peer.state, peer.path.as_ref().map(|path| path.kind)) {
            (PeerState::Connected, Some(PathKind::Relay | PathKind::Tcp)) => Tint::Warning,
            (PeerState::Connected, _) => Tint::Good,
            (PeerState::Connecting, _) => Tint::Warning,
            (PeerState::Idle | PeerState::Offline, _) => Tint::Plain,
        };
        vec![
            Cell::text(&peer.name),
            address(peer.ipv4, peer.ipv6),
            Cell::text(word(&peer.state)).tinted(tint),
            Cell::optional(peer.path.as_ref().map(render::path)),
            Cell::milliseconds(peer.rtt_ms),
            Cell::bytes(peer.rx_bytes),
            Cell::bytes(peer.tx_bytes),
            Cell::ago(peer.last_seen_s),
        ]
    };
    table(&header, peers.iter().map(row).collect(), screen)
}

/// A network was made: what it is, and what to type on the other machine.
pub fn created(created: &Created, device: &str) -> String {
    let name = clean(&created.network);
    let v4 = created.ipv4.map(|v4| format!("{v4}, ")).unwrap_or_default();
    let head = format!("{name} is up. This device is {device}, {v4}{}.\n", created.ipv6);
    match &created.invite {
        Some(invite) => format!(
            "{head}\nTo let another machine in, type this there within 24 hours:\n\n    \
             sudo ginnel join {}\n\nThe invite works once. For the next machine: \
             sudo ginnel invite {name}\n",
            clean(invite)
        ),
        None => format!("{head}To let another machine in: sudo ginnel invite {name}\n"),
    }
}

/// This device joined.
pub fn joined(joined: &Joined) -> String {
    let v4 = joined.ipv4.map(|v4| format!("{v4}, ")).unwrap_or_default();
    let (name, network) = (clean(&joined.name), clean(&joined.network));
    let seconds = joined.elapsed_ms as f64 / 1000.0;
    format!("Joined {network} as {name}, {v4}{}, in {seconds:.1} s.\n", joined.ipv6)
}

/// The roster; this device has a star.
pub fn members(members: &Members, screen: &Screen) -> String {
    let header = ["NAME", "ROLE", "ADDRESS", "IPV6", "EXPIRES", "KEY", "THIS"];
    let rows = members.members.iter().map(|member| {
        vec![
            Cell::text(&member.name),
            Cell::text(word(&member.role)),
            Cell::optional(member.ipv4),
            Cell::text(member.ipv6),
            Cell::text(&member.expires),
            Cell::text(&member.id),
            Cell::text(if member.this { "*" } else { "-" }),
        ]
    });
    table(&header, rows.collect(), screen)
}

/// The history, oldest first.
pub fn log(log: &Log, screen: &Screen) -> String {
    let header = ["TIME", "AUTHOR", "SEQ", "KIND", "COUNTS", "WHAT"];
    let rows = log.entries.iter().map(|entry| {
        let (counts, tint) =
            if entry.effective { ("yes", Tint::Plain) } else { ("no", Tint::Warning) };
        vec![
            Cell::text(&entry.time),
            Cell::text(&entry.author),
            Cell::text(entry.seq),
            Cell::text(&entry.kind),
            Cell::text(counts).tinted(tint),
            Cell::text(&entry.summary),
        ]
    });
    table(&header, rows.collect(), screen)
}

/// Who has an address or a name.
pub fn whois(whois: &Whois, screen: &Screen) -> String {
    let member = &whois.member;
    let mut lines = vec![
        ("name", Cell::text(&member.name)),
        ("network", Cell::text(&whois.network)),
        ("role", Cell::text(word(&member.role))),
    ];
    lines.extend(member.ipv4.map(|v4| ("ipv4", Cell::text(v4))));
    lines.extend([
        ("ipv6", Cell::text(member.ipv6)),
        ("id", Cell::text(&member.id)),
        ("public-key", Cell::text(&member.public_key)),
        ("expires", Cell::text(&member.expires)),
    ]);
    pairs(lines, screen)
}

/// What this side of the network looks like.
pub fn netcheck(netcheck: &Netcheck, screen: &Screen) -> String {
    let clock = match netcheck.clock_offset_s {
        None => Cell::text("nothing to compare with yet"),
        Some(seconds) => Cell::text(format!("{seconds:+} s from an admin's")),
    };
    let mut text = pairs(vec![("dht", dht(&netcheck.dht)), ("clock", clock)], screen);
    if netcheck.networks.is_empty() {
        text += "Ports and NATs are checked for networks; this device belongs to none yet.\n";
    }
    for network in &netcheck.networks {
        text += &format!("\nNetwork {}\n{}", clean(&network.network), netcheck_of(network, screen));
    }
    text
}

fn netcheck_of(network: &NetcheckNetwork, screen: &Screen) -> String {
    let hairpin = match network.hairpin {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not known",
    };
    let mut text = pairs(
        vec![
            ("port", Cell::text(network.listen_port)),
            ("nat-mapping", Cell::text(word(&network.nat.mapping))),
            ("port-mapping", Cell::text(word(&network.nat.port_mapping))),
            ("hairpin", Cell::text(hairpin)),
            ("mtu", Cell::text(network.mtu)),
        ],
        screen,
    );
    let addresses = network.addresses.iter().map(|address| {
        let told = if address.advertised { "yes" } else { "no" };
        vec![Cell::text(address.address), Cell::text(&address.source), Cell::text(told)]
    });
    text += &format!("\n{}", table(&["ADDRESS", "SOURCE", "TOLD"], addresses.collect(), screen));
    let servers = network.stun.iter().map(|stun| {
        let mapped = match stun.mapped {
            Some(mapped) => Cell::text(mapped),
            None => Cell::text("no answer").tinted(Tint::Bad),
        };
        vec![Cell::text(stun.server), mapped, Cell::milliseconds(stun.rtt_ms)]
    });
    if network.stun.is_empty() {
        return text;
    }
    text + "\n" + &table(&["STUN-SERVER", "SEES", "RTT"], servers.collect(), screen)
}

fn network_row(network: &NetworkStatus) -> Vec<Cell> {
    let (tint, _) = health::sentence(network);
    let public: Vec<_> = network.public_endpoints.iter().map(ToString::to_string).collect();
    vec![
        Cell::text(&network.name),
        Cell::text(word(&network.state)).tinted(tint),
        Cell::text(&network.interface),
        Cell::text(&network.this.name),
        Cell::text(word(&network.this.role)),
        address(network.this.ipv4, network.this.ipv6),
        Cell::optional((!public.is_empty()).then(|| public.join(","))),
        Cell::text(word(&network.nat.mapping)),
        dht(&network.dht),
    ]
}

fn dht(dht: &DhtStatus) -> Cell {
    let state = word(&dht.state);
    match dht.state {
        DhtState::Ready => Cell::text(format!("{state} ({} nodes)", dht.nodes)).tinted(Tint::Good),
        DhtState::Bootstrapping => Cell::text(state).tinted(Tint::Warning),
        DhtState::Unreachable => Cell::text(state).tinted(Tint::Bad),
        DhtState::Off => Cell::text(state),
    }
}

/// The address that people type: IPv4 where there is one.
fn address(v4: Option<std::net::Ipv4Addr>, v6: std::net::Ipv6Addr) -> Cell {
    v4.map_or_else(|| Cell::text(v6), Cell::text)
}

#[cfg(test)]
pub(super) mod tests;
