//! What people and local programs write: the configuration, requests to the agent, names and keys.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use ginnel::agent::server::request_in;
use ginnel::api::{ErrorKind, Request, Response};
use ginnel::config::{Config, HostPort};
use ginnel::identity::{DeviceId, Ipv4Pool, NetworkId, WgPublicKey, WgSecret};
use ginnel::membership::policy::{MAX_REASON_LEN, clean_reason};
use ginnel::membership::{DeviceName, UnixTime};

use super::Source;

pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Config::parse(&text, Path::new("ginnel.toml")) {
        Ok(config) => {
            let length = config.interface_prefix.as_str().len();
            assert!((1..=11).contains(&length));
            let bootstrap = config.dht.bootstrap.iter().flatten();
            for server in config.stun_servers.iter().chain(bootstrap) {
                assert_eq!(server.to_string().parse().as_ref(), Ok(server));
            }
        }
        Err(error) => assert!(error.to_string().starts_with("ginnel.toml, line ")),
    }
}

pub fn config_seeds() -> Vec<Vec<u8>> {
    let whole = "# everything\n[agent]\nport = 41641\ninterface_prefix = \"gn\"\n\
        log = \"debug,ginnel::mesh=trace\"\n[dht]\nenabled = false\n\
        bootstrap = [\"a.example:6881\", \"[::1]:1\"]\nport = 7\n[stun]\nservers = []\n\
        [port_mapping]\nenabled = false\n[lan_discovery]\nenabled = false\n[relay]\noffer = false\n";
    let nested = ["[", "{a="].map(|open| format!("x = {}", open.repeat(300)));
    let others = [
        "",
        "[agents]\n",
        "[agent]\nport = 99999\n",
        "agent.log = \"a[b{c=\\\"d\\\"}]=info\"",
        "[stun]\nservers = [\"1.2.3.4:3478\", \"x:0\"]",
        "agent = { port = 0x10 }",
        "[agent]\nlog = '''\n'''",
    ];
    let texts = others.map(String::from).into_iter().chain(nested).chain([whole.to_owned()]);
    texts.map(String::into_bytes).collect()
}

/// What a client sent so far, and what the agent answered.
pub fn api(data: &[u8]) {
    if let Ok(Some(request)) = request_in(data) {
        let line = serde_json::to_vec(&request).expect("a request is plain data");
        let again = request_in(&[&line[..], b"\n"].concat());
        assert_eq!(again.ok().flatten().as_ref(), Some(&request));
        let _ = (request.name(), request.is_read_only());
    }
    if let Ok(response) = serde_json::from_slice::<Response>(data) {
        let line = serde_json::to_vec(&response).expect("a response is plain data");
        let again: Response = serde_json::from_slice(&line).expect("ours is valid");
        assert_eq!(again.is_final(), response.is_final());
    }
}

pub fn api_seeds() -> Vec<Vec<u8>> {
    let network = || Some("home".to_owned());
    let requests = [
        Request::Create {
            network: "home".into(),
            device: "laptop".into(),
            ipv4_pool: "10.71.0.0/16".parse().ok(),
            no_ipv4: false,
            invite: true,
        },
        Request::Invite {
            network: network(),
            name: None,
            expires_s: 86_400,
            admin: true,
            offline: false,
        },
        Request::Join { invite: "ginnel1abc".into(), device: "x".into(), timeout_ms: 30_000 },
        Request::Leave { network: None },
        Request::Up { network: network() },
        Request::Down { network: network() },
        Request::Status,
        Request::Ping { device: "a".into(), count: Some(3), until_direct: true, timeout_ms: 9 },
        Request::Netcheck,
        Request::Members { network: None },
        Request::Revoke { device: "a".into(), reason: Some("lost".into()), offline: true },
        Request::Log { network: None },
        Request::Whois { device: "10.0.0.1".into() },
    ];
    let lines = requests.map(|request| {
        let mut line = serde_json::to_vec(&request).expect("a request is plain data");
        line.push(b'\n');
        line
    });
    let responses = [Response::Done, Response::error(ErrorKind::Usage, "no such thing")]
        .map(|response| serde_json::to_vec(&response).expect("a response is plain data"));
    let deep = [b'[', b'{'].map(|open| [vec![open; 400], vec![b'\n']].concat());
    let mut seeds: Vec<Vec<u8>> = lines.into_iter().chain(responses).chain(deep).collect();
    seeds.push(b"{\"request\":\"status\"}\n{\"request\":\"status\"}\n".to_vec());
    seeds.push(b"{\"request\":\"status\"}".to_vec());
    seeds
}

/// A text that is to be one of the small things people type, and what names and reasons are made
/// of.
pub fn text(data: &[u8]) {
    let mut source = Source(data);
    let kind = source.byte();
    let bytes = source.rest();
    let text = String::from_utf8_lossy(bytes);
    match kind % 8 {
        0 => comes_back::<NetworkId>(&text),
        1 => comes_back::<DeviceId>(&text),
        2 => comes_back::<WgPublicKey>(&text),
        3 => comes_back::<Ipv4Pool>(&text),
        4 => comes_back::<HostPort>(&text),
        5 => {
            comes_back::<DeviceName>(&text);
            if let Some(name) = DeviceName::from_host_name(&text) {
                assert_eq!(name.as_str().parse(), Ok(name));
            }
        }
        6 => {
            let reason = clean_reason(&text);
            assert!(reason.len() <= MAX_REASON_LEN && !reason.chars().any(char::is_control));
            assert_eq!(clean_reason(reason.trim()), reason.trim());
        }
        _ => {
            let time = Source(bytes).array();
            let shown = UnixTime(u64::from_be_bytes(time)).to_string();
            assert!(shown.ends_with('Z') && shown.len() >= 20);
        }
    }
}

/// What was read prints as something that reads the same.
fn comes_back<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert!(value.to_string().parse::<T>().is_ok_and(|again| again == value));
    }
}

pub fn text_seeds() -> Vec<Vec<u8>> {
    let wg = WgSecret::from_bytes([4; 32]).public().to_string();
    let texts = [
        NetworkId([8; 32]).to_string(),
        DeviceId([9; 32]).to_string().to_uppercase(),
        wg,
        "10.71.0.0/16".into(),
        "[2001:db8::1]:3478".into(),
        "My Laptop.example".into(),
        "lost \u{202e} in a\ttrain".into(),
        "\0\0\0\0\x65\x53\x11\0".into(),
        "stun.example.org:3478".into(),
    ];
    let kinds = [0, 1, 2, 3, 4, 5, 6, 7, 4];
    let pairs = kinds.iter().zip(texts);
    pairs.map(|(kind, text)| [&[*kind][..], text.as_bytes()].concat()).collect()
}
