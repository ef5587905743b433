//! What one test owns: an Internet with its public servers, a folder, and all log files.
//!
//! Public addresses are taken from 11.0.0.0/16 and 2a11::/32. They only exist inside the
//! namespaces; they are not of the documentation ranges because miniupnpd refuses those, and a
//! product may rightly refuse them too.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::host::Host;
use super::internet::Internet;
use super::lan::{Lan, Plan, Router, in_prefix};
use super::namespace::{Namespace, name_prefix, unique};
use super::nat::Nat;
use super::process::Daemon;

/// The usual port of a BitTorrent DHT node.
const DHT_PORT: u16 = 6881;
/// The usual port of STUN.
const STUN_PORT: u16 = 3478;
/// A server that is not up after this is broken.
const SERVER_LIMIT: Duration = Duration::from_secs(15);
/// Lines of each log shown when a test fails.
const TAIL: usize = 60;

/// One test's world. Everything made from it ends with it.
pub struct World {
    /// The Internet, to change routes and loss.
    pub internet: Internet,
    /// The DHT's nodes, each in a namespace and with an address of its own.
    pub dht: Vec<DhtNode>,
    /// How much agents that are made from now on log; tests want to see why they fail.
    pub log_level: &'static str,
    /// How many workers agents that are made from now on have; tests want several, on any machine.
    pub workers: Option<u8>,
    stun: Vec<StunServer>,
    folder: TempDir,
    logs: Mutex<Vec<(String, PathBuf)>>,
    next_address: AtomicU8,
}

impl World {
    /// An Internet without any server.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}{}-", name_prefix(), unique()))
            .tempdir()
            .context("make the folder of a test")?;
        Ok(World {
            internet: Internet::start()?,
            dht: Vec::new(),
            log_level: "debug",
            workers: Some(2),
            stun: Vec::new(),
            folder,
            logs: Mutex::default(),
            next_address: AtomicU8::new(1),
        })
    }

    /// Eight DHT nodes and two STUN servers: what a device finds on the real Internet.
    pub fn add_servers(&mut self) -> Result<()> {
        self.add_stun()?;
        self.add_dht(8)
    }

    /// Adds DHT nodes; the first one of all is the bootstrap of the others.
    pub fn add_dht(&mut self, count: u8) -> Result<()> {
        for _ in 0..count {
            let number = u8::try_from(self.dht.len() + 1)?;
            let address = Ipv4Addr::new(11, 0, 0, number);
            let namespace = self.public_namespace(&format!("dht{number}"), address)?;
            let log = self.log(&format!("dht node {number}"), &format!("dht{number}.log"));
            let bootstrap = self.bootstrap();
            let mut node = DhtNode { namespace, address, bootstrap, log, daemon: None };
            node.start()?;
            self.dht.push(node);
        }
        Ok(())
    }

    /// Two coturn servers, one address each.
    pub fn add_stun(&mut self) -> Result<()> {
        for number in [1u8, 2] {
            let address = Ipv4Addr::new(11, 0, 1, number);
            let namespace = self.public_namespace(&format!("stun{number}"), address)?;
            // Not among the logs that a failure shows: a hundred lines that say nothing of us.
            let log = self.folder.path().join(format!("stun{number}.log"));
            let pid_file = self.folder.path().join(format!("stun{number}.pid"));
            let mut command = Command::new("turnserver");
            command
                .args(["-n", "--stun-only", "--no-auth", "--no-cli", "--no-tls", "--no-dtls"])
                .args(["--listening-ip", &address.to_string()])
                .args(["-p", &STUN_PORT.to_string(), "--log-file", "stdout", "--simple-log"])
                .arg("--pidfile")
                .arg(&pid_file);
            let daemon = Daemon::start(&namespace, &mut command, &log)?;
            self.stun.push(StunServer { address, namespace, _daemon: daemon });
        }
        self.stun.iter().try_for_each(StunServer::wait)
    }

    /// A router with a NAT of this kind, a public address of its own and the LAN 192.168.1.0/24,
    /// which is everybody's, and so collides as it does in life.
    pub fn router(&self, label: &str, nat: Nat) -> Result<Router> {
        let plan = Plan { label, nat, subnet: [192, 168, 1], prefix: None };
        Router::new(&self.internet, self.fresh_address(), &plan)
    }

    /// As [`World::router`], with the LAN of one's choice and an IPv6 /64 routed to it.
    pub fn router_with_ipv6(&self, label: &str, nat: Nat, subnet: [u8; 3]) -> Result<Router> {
        let number = self.next_address.fetch_add(1, Ordering::Relaxed);
        let prefix = Some([0x2a11, 0, 2, u16::from(number)]);
        let plan = Plan { label, nat, subnet, prefix };
        Router::new(&self.internet, Ipv4Addr::new(11, 0, 2, number), &plan)
    }

    /// A public IPv4 address nobody has.
    pub fn fresh_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(11, 0, 2, self.next_address.fetch_add(1, Ordering::Relaxed))
    }

    /// A host on a LAN, its agent not yet started.
    pub fn host(&self, name: &str, lan: &Lan) -> Result<Host> {
        let namespace = Namespace::new(name)?;
        lan.connect(&namespace, "eth0")?;
        self.host_in(name, namespace)
    }

    /// A host with a public address on its interface `wan`, its agent not yet started.
    pub fn public_host(&self, name: &str) -> Result<(Host, Ipv4Addr)> {
        let address = self.fresh_address();
        let namespace = self.public_namespace(name, address)?;
        Ok((self.host_in(name, namespace)?, address))
    }

    /// A host in a namespace that is already connected, its agent not yet started.
    pub fn host_in(&self, name: &str, namespace: Namespace) -> Result<Host> {
        let folder = self.folder.path().join(name);
        let log = self.log(&format!("agent of {name}"), &format!("{name}.log"));
        Host::new(name, namespace, folder, log, &self.configuration())
    }

    /// A namespace with `address` on its own line to the Internet.
    pub fn public_namespace(&self, label: &str, address: Ipv4Addr) -> Result<Namespace> {
        let namespace = Namespace::new(label)?;
        let line = self.internet.attach(&namespace)?;
        self.internet.route(address.into(), line);
        let [_, _, c, d] = address.octets();
        let ipv6 = in_prefix([0x2a11, 0, u16::from(c) + 0x100, u16::from(d)], 1);
        self.internet.route(IpAddr::V6(ipv6), line);
        namespace.ip(&format!("address add {address}/32 dev wan"))?;
        namespace.ip(&format!("address add {ipv6}/64 dev wan nodad"))?;
        Ok(namespace)
    }

    /// Where a log of this name goes; it is shown when the test fails.
    pub fn log(&self, title: &str, file: &str) -> PathBuf {
        let path = self.folder.path().join(file);
        self.logs
            .lock()
            .expect("no test panics while it names a log")
            .push((title.into(), path.clone()));
        path
    }

    /// The ends of all logs, for a failed test's message.
    pub fn log_tails(&self) -> String {
        let logs = self.logs.lock().expect("no test panics while it names a log");
        let tails = logs.iter().filter_map(|(title, path)| {
            let text = String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            (!tail.is_empty()).then(|| format!("---- {title} ----\n{tail}\n"))
        });
        tails.collect()
    }

    /// The folder of this test, on a real file system.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The addresses of the STUN servers.
    pub fn stun_addresses(&self) -> Vec<SocketAddrV4> {
        self.stun.iter().map(|server| SocketAddrV4::new(server.address, STUN_PORT)).collect()
    }

    fn bootstrap(&self) -> Vec<SocketAddrV4> {
        self.dht.iter().take(3).map(|node| SocketAddrV4::new(node.address, DHT_PORT)).collect()
    }

    /// `ginnel.toml` of every host: the lab's servers in place of the public ones.
    fn configuration(&self) -> String {
        let list = |addresses: Vec<SocketAddrV4>| {
            addresses.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ")
        };
        let workers = self.workers.map_or(String::new(), |count| format!("workers = {count}\n"));
        format!(
            "[agent]\n{workers}log = \"{}\"\n\n[dht]\nbootstrap = [{}]\n\n[stun]\nservers = [{}]\n",
            self.log_level,
            list(self.bootstrap()),
            list(self.stun_addresses())
        )
    }
}

/// A `ginnel dht` process.
pub struct DhtNode {
    namespace: Namespace,
    address: Ipv4Addr,
    bootstrap: Vec<SocketAddrV4>,
    log: PathBuf,
    daemon: Option<Daemon>,
}

impl DhtNode {
    /// Starts it and waits for its line on stdout that says that it listens.
    pub fn start(&mut self) -> Result<()> {
        let mut command = Command::new(super::host::binary());
        command.args(["dht", "--listen", &SocketAddrV4::new(self.address, DHT_PORT).to_string()]);
        for node in &self.bootstrap {
            command.args(["--bootstrap", &node.to_string()]);
        }
        let _ = std::fs::remove_file(&self.log);
        let mut daemon = Daemon::start(&self.namespace, &mut command, &self.log)?;
        let until = Instant::now() + SERVER_LIMIT;
        let ready = || std::fs::metadata(&self.log).is_ok_and(|data| data.len() > 0);
        while !ready() {
            if !daemon.is_running() {
                bail!("the DHT node at {} ended at once", self.address);
            }
            if Instant::now() > until {
                bail!("the DHT node at {} said nothing within {SERVER_LIMIT:?}", self.address);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.daemon = None;
    }
}

struct StunServer {
    address: Ipv4Addr,
    namespace: Namespace,
    _daemon: Daemon,
}

impl StunServer {
    /// Until it answers a request.
    fn wait(&self) -> Result<()> {
        // RFC 8489: a Binding request without attributes, the magic cookie, a transaction id.
        let request = [&[0u8, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
        let client = self.namespace.run(|| UdpSocket::bind("0.0.0.0:0"))?;
        client.set_read_timeout(Some(Duration::from_millis(50)))?;
        let until = Instant::now() + SERVER_LIMIT;
        while Instant::now() < until {
            // Refused while the port is closed; the answer that counts is the one that comes.
            let _ = client.send_to(&request, (self.address, STUN_PORT));
            if client.recv(&mut [0u8; 512]).is_ok() {
                return Ok(());
            }
        }
        bail!("coturn at {} does not answer", self.address)
    }
}
