//! A stock WireGuard (Debian's wireguard-go) in the place of an agent, under the agent's own keys.
//!
//! It knows nothing of path checks, and without an answered one nobody sends it data: received data
//! never moves a send path. [`Checks`] answers them in its place, behind the same UDP port: stateless
//! rules take what is STUN off to a socket of ours, and give its answers the port's number.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64;
use ginnel::identity::{Identity, WgPublicKey, WgSecret};
use ginnel::wire::stun::{CheckKey, CheckRequest, CheckResponse};

use super::host::Host;
use super::namespace::unique;
use super::process::Daemon;
use super::status::Status;
use super::world::World;

/// A daemon that is not up after this is broken.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Where checks are answered.
const CHECKS_PORT: u16 = 3479;
/// How often a thread looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);

/// A running wireguard-go.
pub struct Stock {
    interface: String,
    port: u16,
    /// Overlay addresses, IPv4 first.
    addresses: [IpAddr; 2],
    peer: Vec<String>,
    _daemon: Daemon,
}

impl Stock {
    /// Starts one on `host` in the place of its agent, which has ended and said `own` before; it
    /// knows the agent at `outer` that says `other`.
    pub fn start(
        world: &World,
        host: &Host,
        own: &Status,
        other: &Status,
        outer: IpAddr,
    ) -> Result<Self> {
        // Control sockets lie in one folder for all namespaces: names have to differ.
        let interface = format!("gls{}x{}", std::process::id() % 1_000_000, unique());
        let socket = Path::new("/var/run/wireguard").join(format!("{interface}.sock"));
        let log = world.log("wireguard-go", "wireguard-go.log");
        let mut command = Command::new("wireguard-go");
        command.args(["-f", &interface]);
        let daemon = Daemon::start(&host.namespace, &mut command, &log)?;
        let until = Instant::now() + START_LIMIT;
        while !socket.exists() {
            ensure!(Instant::now() < until, "wireguard-go does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        let endpoint = SocketAddr::new(outer, other.listen_port()?).to_string();
        let key = other.public_key()?.to_string();
        let allowed = format!("{},{}", other.ipv4()?, other.ipv6()?);
        let peer = ["peer", &key, "endpoint", &endpoint, "allowed-ips", &allowed];
        let stock = Stock {
            interface,
            port: own.listen_port()?,
            addresses: [own.ipv4()?, own.ipv6()?],
            peer: peer.map(str::to_owned).to_vec(),
            _daemon: daemon,
        };
        stock.configure(world, host)?;
        for address in [other.ipv4()?, other.ipv6()?] {
            host.namespace.ip(&format!("route add {address} dev {}", stock.interface))?;
        }
        Ok(stock)
    }

    fn configure(&self, world: &World, host: &Host) -> Result<()> {
        let key_file = world.folder().join("stock.key");
        std::fs::write(&key_file, BASE64.encode(secret_of(host)?.as_bytes()))?;
        let (port, key_file) = (self.port.to_string(), key_file.display().to_string());
        self.wg(host, &["listen-port", &port, "private-key", &key_file])?;
        self.add_peer(host)?;
        let ([ipv4, ipv6], name) = (self.addresses, &self.interface);
        host.namespace.ip(&format!(
            "address add {ipv4} dev {name}\naddress add {ipv6} dev {name}\n\
             link set {name} mtu 1420 up"
        ))
    }

    /// Its UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its overlay addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }

    /// Forgets the agent and its sessions, and knows it anew: the next packet begins a handshake.
    pub fn begin_anew(&self, host: &Host) -> Result<()> {
        self.wg(host, &["peer", &self.peer[1], "remove"])?;
        self.add_peer(host)
    }

    /// When the last handshake ended, in seconds since 1970; 0 = never.
    pub fn last_handshake(&self, host: &Host) -> Result<u64> {
        let text = host.namespace.tool("wg", &["show", &self.interface, "latest-handshakes"])?;
        let word = text.split_whitespace().nth(1).context("wg shows no peer")?;
        Ok(word.parse()?)
    }

    fn add_peer(&self, host: &Host) -> Result<()> {
        self.wg(host, &self.peer.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn wg(&self, host: &Host, words: &[&str]) -> Result<()> {
        host.namespace.tool("wg", &[&["set", &self.interface][..], words].concat()).map(drop)
    }
}

/// Answers path checks at a port that wireguard-go holds.
pub struct Checks {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checks {
    /// Answers those of `peer`, as `host`, at `port`.
    pub fn answer(host: &Host, peer: &WgPublicKey, port: u16) -> Result<Self> {
        host.namespace.nft(&format!(
            "table inet checks {{
                chain incoming {{
                    type filter hook prerouting priority -300
                    udp dport {port} @th,96,32 0x2112a442 udp dport set {CHECKS_PORT}
                }}
                chain outgoing {{
                    type filter hook output priority -300
                    udp sport {CHECKS_PORT} udp sport set {port}
                }}
            }}"
        ))?;
        let key = CheckKey::derive(&secret_of(host)?, peer).context("a key of low order")?;
        let socket = host.namespace.run(|| UdpSocket::bind(("0.0.0.0", CHECKS_PORT)))?;
        socket.set_read_timeout(Some(TICK))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopping.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                if let Ok(request) = CheckRequest::decode(&buffer[..len], &key) {
                    let response = CheckResponse { transaction: request.transaction, mapped: from };
                    // Lost like any datagram: the agent asks again.
                    let _ = socket.send_to(&response.encode(&key), from);
                }
            }
        });
        Ok(Checks { stop, thread: Some(thread) })
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The WireGuard key of the only network of a host.
fn secret_of(host: &Host) -> Result<WgSecret> {
    let file = find(&host.state_folder(), "identity").context("no identity in the state folder")?;
    Ok(Identity::decode(&std::fs::read(&file)?)?.wg)
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) }
    })
}
