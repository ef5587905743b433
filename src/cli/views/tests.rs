//! Golden texts, and the golden JSON of the interface.

use serde_json::json;

use super::*;
use crate::api::{
    Invited, JoinStage, LogEntry, MemberEntry, NatMapping, NatStatus, NetcheckAddress,
    NetcheckStun, NetworkState, PathStatus, PingSummary, Pong, PortMappingKind, Role, SCHEMA,
    SelfStatus, Stage,
};

const PIPE: Screen = Screen { terminal: false, color: false };
const TERMINAL: Screen = Screen { terminal: true, color: false };

/// An admin's laptop with one connected and one idle device.
pub(in crate::cli) fn status() -> Status {
    let mut nas = peer("nas", PeerState::Connected);
    with_path(&mut nas, PathKind::Direct, None);
    nas.rtt_ms = Some(1.4);
    (nas.rx_bytes, nas.tx_bytes, nas.last_seen_s) = (2_048, 1_048_576, Some(1));
    nas.last_handshake_s = Some(12);
    let network = NetworkStatus {
        name: "home".into(),
        id: "abc234".into(),
        interface: "ginnel0".into(),
        state: NetworkState::Up,
        detail: None,
        mtu: 1420,
        this: SelfStatus {
            name: "laptop".into(),
            role: Role::Admin,
            ipv4: Some([10, 71, 3, 9].into()),
            ipv6: "fd00::9".parse().unwrap(),
            public_key: "KEY=".into(),
            expires: Some("2027-01-01T00:00:00Z".into()),
        },
        listen_port: 41641,
        public_endpoints: vec!["203.0.113.11:41641".parse().unwrap()],
        nat: NatStatus {
            mapping: NatMapping::EndpointIndependent,
            port_mapping: PortMappingKind::Upnp,
        },
        dht: DhtStatus { state: DhtState::Ready, nodes: 23, published_s_ago: Some(40) },
        peers: vec![nas, peer("tv", PeerState::Idle)],
        drops: [("not-authentic".to_owned(), 3)].into(),
    };
    Status { schema: SCHEMA, version: "0.1.0".into(), uptime_s: 7_384, networks: vec![network] }
}

pub(in crate::cli) fn with_path(peer: &mut PeerStatus, kind: PathKind, via: Option<&str>) {
    let endpoint = "198.51.100.7:50001".parse().unwrap();
    peer.path = Some(PathStatus { kind, endpoint, via: via.map(Into::into) });
}

fn peer(name: &str, state: PeerState) -> PeerStatus {
    PeerStatus {
        name: name.into(),
        ipv4: Some([10, 71, 0, name.len() as u8].into()),
        ipv6: "fd00::7".parse().unwrap(),
        public_key: "KEY=".into(),
        role: Role::Member,
        state,
        path: None,
        mtu: None,
        rtt_ms: None,
        last_handshake_s: None,
        rx_bytes: 0,
        tx_bytes: 0,
        last_seen_s: None,
    }
}

fn member(name: &str, this: bool) -> MemberEntry {
    MemberEntry {
        name: name.into(),
        role: Role::Admin,
        ipv4: Some([10, 71, 3, 9].into()),
        ipv6: "fd00::9".parse().unwrap(),
        expires: "2027-01-01T00:00:00Z".into(),
        id: "abcdefgh".into(),
        public_key: "KEY=".into(),
        this,
    }
}

#[test]
fn status_on_a_terminal_starts_with_health_in_words() {
    let expected = "\
home is up: 1 of 2 other devices connected.
Agent 0.1.0, running for 2h 3m.

NETWORK  STATE  INTERFACE  DEVICE  ROLE   ADDRESS    PUBLIC              NAT                   DHT
home     up     ginnel0    laptop  admin  10.71.3.9  203.0.113.11:41641  endpoint-independent  ready (23 nodes)

Devices of home
NAME  ADDRESS    STATE      PATH                       RTT      RX       TX       SEEN
nas   10.71.0.3  connected  direct 198.51.100.7:50001  1.40 ms  2.0 KiB  1.0 MiB  1s ago
tv    10.71.0.2  idle       -                          -        0 B      0 B      -
";
    assert_eq!(super::status(&status(), &TERMINAL), expected);
}

#[test]
fn status_without_a_network_says_what_to_do() {
    let text = super::status(&Status { networks: Vec::new(), ..status() }, &PIPE);
    assert!(text.contains("ginnel create NAME") && text.contains("ginnel join INVITE"), "{text}");
}

#[test]
fn peers_in_a_pipe_are_tab_separated_with_plain_numbers() {
    let expected = "NAME\tADDRESS\tSTATE\tPATH\tRTT\tRX\tTX\tSEEN\n\
                    nas\t10.71.0.3\tconnected\trelay via rpi\t1.400\t2048\t1048576\t1\n\
                    tv\t10.71.0.2\tidle\t-\t-\t0\t0\t-\n";
    let mut status = status();
    with_path(&mut status.networks[0].peers[0], PathKind::Relay, Some("rpi"));
    assert_eq!(peers(&status.networks[0].peers, &PIPE), expected);
}

#[test]
fn create_prints_the_command_for_the_other_machine() {
    let mut answer = Created {
        schema: SCHEMA,
        network: "home".into(),
        id: "abc234".into(),
        ipv4: Some([10, 71, 3, 9].into()),
        ipv6: "fd00::9".parse().unwrap(),
        invite: Some("ginnel1abc".into()),
    };
    let text = created(&answer, "laptop");
    assert!(text.starts_with("home is up. This device is laptop, 10.71.3.9, fd00::9.\n"), "{text}");
    assert!(text.contains("\n    sudo ginnel join ginnel1abc\n"), "{text}");
    (answer.invite, answer.ipv4) = (None, None);
    let text = created(&answer, "laptop");
    assert!(text.contains("laptop, fd00::9.") && !text.contains("ginnel join"), "{text}");
}

#[test]
fn the_roster_marks_this_device_and_the_log_what_does_not_count() {
    let members = Members {
        schema: SCHEMA,
        network: "home".into(),
        members: vec![member("laptop", true), member("nas", false)],
    };
    let text = super::members(&members, &PIPE);
    assert!(
        text.contains("laptop\tadmin\t10.71.3.9\tfd00::9\t2027-01-01T00:00:00Z\tabcdefgh\t*\n")
    );
    assert_eq!(text.lines().count(), 3);
    let entry = LogEntry {
        time: "2026-01-01T00:00:00Z".into(),
        author: "laptop".into(),
        author_key: "k".into(),
        seq: 4,
        kind: "revoke".into(),
        summary: "removed nas: \x1b[31mlost\ttwice".into(),
        effective: false,
        id: "i".into(),
    };
    let log = Log { schema: SCHEMA, network: "home".into(), entries: vec![entry] };
    let line =
        "2026-01-01T00:00:00Z\tlaptop\t4\trevoke\tno\tremoved nas: \u{fffd}[31mlost\u{fffd}twice\n";
    assert!(
        super::log(&log, &PIPE).ends_with(line),
        "control characters of others are shown as such"
    );
}

#[test]
fn whois_and_netcheck_name_every_value() {
    let whois = Whois {
        schema: SCHEMA,
        network: "home".into(),
        member: member("nas", false),
        address: None,
    };
    let text = super::whois(&whois, &PIPE);
    assert!(text.starts_with("name\tnas\nnetwork\thome\nrole\tadmin\nipv4\t10.71.3.9\n"), "{text}");
    let netcheck = Netcheck {
        schema: SCHEMA,
        networks: vec![NetcheckNetwork {
            network: "home".into(),
            listen_port: 41641,
            addresses: vec![NetcheckAddress {
                address: "192.0.2.1:41641".parse().unwrap(),
                source: "interface".into(),
                advertised: true,
            }],
            nat: NatStatus { mapping: NatMapping::None, port_mapping: PortMappingKind::None },
            hairpin: None,
            stun: vec![NetcheckStun {
                server: "192.0.2.9:3478".parse().unwrap(),
                mapped: None,
                rtt_ms: None,
            }],
            mtu: 1420,
        }],
        dht: DhtStatus { state: DhtState::Unreachable, nodes: 0, published_s_ago: None },
        clock_offset_s: Some(-2),
    };
    let text = super::netcheck(&netcheck, &PIPE);
    for expected in
        ["dht\tunreachable\n", "clock\t-2 s", "nat-mapping\tnone\n", "hairpin\tnot known\n"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(text.contains("192.0.2.1:41641\tinterface\tyes\n"), "{text}");
    assert!(text.contains("192.0.2.9:3478\tno answer\t-\n"), "{text}");
}

#[test]
fn status_json_is_exactly_the_interfaces() {
    let expected = json!({
        "schema": 1, "version": "0.1.0", "uptime_s": 7384,
        "networks": [{
            "name": "home", "id": "abc234", "interface": "ginnel0", "state": "up", "detail": null,
            "mtu": 1420,
            "self": {
                "name": "laptop", "role": "admin", "ipv4": "10.71.3.9", "ipv6": "fd00::9",
                "public_key": "KEY=", "expires": "2027-01-01T00:00:00Z"
            },
            "listen_port": 41641, "public_endpoints": ["203.0.113.11:41641"],
            "nat": { "mapping": "endpoint-independent", "port_mapping": "upnp" },
            "dht": { "state": "ready", "nodes": 23, "published_s_ago": 40 },
            "peers": [
                {
                    "name": "nas", "ipv4": "10.71.0.3", "ipv6": "fd00::7", "public_key": "KEY=",
                    "role": "member", "state": "connected",
                    "path": { "kind": "direct", "endpoint": "198.51.100.7:50001", "via": null },
                    "mtu": null, "rtt_ms": 1.4, "last_handshake_s": 12, "rx_bytes": 2048,
                    "tx_bytes": 1_048_576, "last_seen_s": 1
                },
                {
                    "name": "tv", "ipv4": "10.71.0.2", "ipv6": "fd00::7", "public_key": "KEY=",
                    "role": "member", "state": "idle", "path": null, "mtu": null, "rtt_ms": null,
                    "last_handshake_s": null, "rx_bytes": 0, "tx_bytes": 0, "last_seen_s": null
                }
            ],
            "drops": { "not-authentic": 3 }
        }]
    });
    assert_eq!(serde_json::to_value(status()).unwrap(), expected);
}

#[test]
fn the_other_objects_have_the_interfaces_keys() {
    let v6 = "fd00::9".parse().unwrap();
    let created = Created {
        schema: SCHEMA,
        network: "home".into(),
        id: "i".into(),
        ipv4: None,
        ipv6: v6,
        invite: None,
    };
    let expected = json!({ "schema": 1, "network": "home", "id": "i", "ipv4": null, "ipv6": "fd00::9", "invite": null });
    assert_eq!(serde_json::to_value(created).unwrap(), expected);

    let invited = Invited {
        schema: SCHEMA,
        invite: "ginnel1x".into(),
        network: "home".into(),
        expires: "2026-01-01T00:00:00Z".into(),
    };
    let expected = json!({ "schema": 1, "invite": "ginnel1x", "network": "home", "expires": "2026-01-01T00:00:00Z" });
    assert_eq!(serde_json::to_value(invited).unwrap(), expected);

    let stage = JoinStage {
        schema: SCHEMA,
        stage: Stage::Searching,
        detail: "looking".into(),
        elapsed_ms: 3,
    };
    let expected =
        json!({ "schema": 1, "stage": "searching", "detail": "looking", "elapsed_ms": 3 });
    assert_eq!(serde_json::to_value(stage).unwrap(), expected);

    let joined = Joined {
        schema: SCHEMA,
        stage: Stage::Up,
        network: "home".into(),
        name: "nas".into(),
        ipv4: None,
        ipv6: v6,
        elapsed_ms: 2_100,
    };
    assert_eq!(super::joined(&joined), "Joined home as nas, fd00::9, in 2.1 s.\n");
    let expected = json!({ "schema": 1, "stage": "up", "network": "home", "name": "nas", "ipv4": null, "ipv6": "fd00::9", "elapsed_ms": 2100 });
    assert_eq!(serde_json::to_value(joined).unwrap(), expected);

    let pong = Pong { seq: 1, rtt_ms: None, path: None };
    assert_eq!(
        serde_json::to_value(pong).unwrap(),
        json!({ "seq": 1, "rtt_ms": null, "path": null })
    );

    let summary = PingSummary {
        schema: SCHEMA,
        device: "nas".into(),
        sent: 1,
        received: 0,
        min_ms: None,
        avg_ms: None,
        max_ms: None,
        path: None,
    };
    let expected = json!({ "schema": 1, "device": "nas", "sent": 1, "received": 0, "min_ms": null, "avg_ms": null, "max_ms": null, "path": null });
    assert_eq!(serde_json::to_value(summary).unwrap(), expected);
}
