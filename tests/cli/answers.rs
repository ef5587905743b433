//! What the agent of the tests says.

use ginnel::api::{
    Invited, JoinStage, Joined, PathKind, PathStatus, PingSummary, Pong, Response, SCHEMA, Stage,
    Status,
};
use serde_json::{Value, json};

/// The invite in its answers.
pub const TOKEN: &str = "ginnel1abcdefgh";

/// An invite was opened.
pub fn invited() -> Response {
    Response::Invited(Invited {
        schema: SCHEMA,
        invite: TOKEN.into(),
        network: "home".into(),
        expires: "2026-01-02T00:00:00Z".into(),
    })
}

/// A whole join.
pub fn join_answers() -> Vec<Response> {
    let stage = JoinStage {
        schema: SCHEMA,
        stage: Stage::Searching,
        detail: "looking for home".into(),
        elapsed_ms: 300,
    };
    let joined = Joined {
        schema: SCHEMA,
        stage: Stage::Up,
        network: "home".into(),
        name: "nas".into(),
        ipv4: None,
        ipv6: "fd00::2".parse().unwrap(),
        elapsed_ms: 1_200,
    };
    vec![Response::JoinStage(stage), Response::Joined(joined)]
}

/// A probe came back, or did not.
pub fn pong(seq: u32, rtt_ms: Option<f64>) -> Response {
    Response::Pong(Pong { seq, rtt_ms, path: rtt_ms.map(|_| lan()) })
}

/// The end of a series of probes.
pub fn summary(sent: u32, received: u32) -> Response {
    Response::PingSummary(PingSummary {
        schema: SCHEMA,
        device: "nas".into(),
        sent,
        received,
        min_ms: None,
        avg_ms: None,
        max_ms: None,
        path: (received > 0).then(lan),
    })
}

/// A way through the local network.
fn lan() -> PathStatus {
    let endpoint = "192.0.2.7:41641".parse().unwrap();
    PathStatus { kind: PathKind::Lan, endpoint, via: None }
}

/// One network without other devices, and this state of its DHT.
pub fn status(dht: &Value) -> Status {
    serde_json::from_value(json!({
        "schema": 1, "version": "0.1.0", "uptime_s": 12,
        "networks": [{
            "name": "home", "id": "abc", "interface": "ginnel0", "state": "up", "detail": null,
            "mtu": 1280,
            "self": {
                "name": "laptop", "role": "admin", "ipv4": "10.71.3.9", "ipv6": "fd00::9",
                "public_key": "KEY=", "expires": null
            },
            "listen_port": 41641, "public_endpoints": [],
            "nat": { "mapping": "unknown", "port_mapping": "none" },
            "dht": { "state": dht, "nodes": 0, "published_s_ago": null },
            "peers": [], "drops": {}
        }]
    }))
    .unwrap()
}
