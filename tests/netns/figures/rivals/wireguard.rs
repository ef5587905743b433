//! User-space WireGuards, which `wg` configures through their socket.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Carrier, MTU, Rival, Stage, Tunnel, absent, wait_until};
use crate::lab::namespace::unique;
use crate::lab::process::{Daemon, run};
use crate::lab::world::World;

/// `wg` answers at once.
const TOOL: Duration = Duration::from_secs(10);

/// Debian's wireguard-go, those that were given, boringtun-cli, and gotatun where given.
pub fn all(newer: &[PathBuf], gotatun: Option<&Path>) -> Vec<Box<dyn Carrier>> {
    let newer = newer.iter().map(|path| WireGuard::go(path.clone(), "given"));
    let gotatun = gotatun.map(|path| WireGuard {
        name: "gotatun".into(),
        program: path.into(),
        options: &["--foreground", "--disable-drop-privileges"],
    });
    let boringtun = WireGuard {
        name: "boringtun-cli".into(),
        program: "boringtun-cli".into(),
        options: &["--foreground", "--disable-drop-privileges"],
    };
    let all = newer.chain([WireGuard::go("wireguard-go".into(), "packaged"), boringtun]);
    all.chain(gotatun).map(|carrier| Box::new(carrier) as Box<dyn Carrier>).collect()
}

struct WireGuard {
    name: String,
    program: PathBuf,
    /// Before the interface's name: stay in the foreground, stay root.
    options: &'static [&'static str],
}

impl WireGuard {
    /// Releases share names, so the name has where it came from and what it says of itself.
    fn go(program: PathBuf, origin: &str) -> Self {
        let said = Command::new(&program).arg("--version").output().map(|output| output.stdout);
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
        let version = said.split_whitespace().find(|word| word.starts_with('v')).unwrap_or("v?");
        let name = format!("wireguard-go {} ({origin})", &version[1..]);
        WireGuard { name, program, options: &["-f"] }
    }
}

impl Carrier for WireGuard {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn missing(&self) -> Option<String> {
        absent(&self.program).or_else(|| absent(Path::new("wg")))
    }

    fn start(&self, stage: Stage<'_>) -> Result<Box<dyn Tunnel>> {
        let keys = [key_pair(stage.world, "a")?, key_pair(stage.world, "b")?];
        let started = Instant::now();
        let daemons = (0..2).map(|side| self.start_side(&stage, side, &keys));
        let daemons = daemons.collect::<Result<Vec<Daemon>>>()?;
        Ok(Box::new(Rival { daemons, sides: stage.sides, started }))
    }
}

impl WireGuard {
    fn start_side(&self, stage: &Stage<'_>, side: usize, keys: &[Keys; 2]) -> Result<Daemon> {
        // Control sockets lie in one folder for all namespaces: names have to differ.
        let interface = format!("gl{}x{}", std::process::id() % 1_000_000, unique());
        let socket = Path::new("/var/run/wireguard").join(format!("{interface}.sock"));
        let log = stage.world.log(&self.name, &format!("{interface}.log"));
        let mut command = Command::new(&self.program);
        command.args(self.options).arg(&interface);
        let namespace = &stage.sides[side];
        let mut daemon = Daemon::start(namespace, &mut command, &log)?;
        wait_until(&mut daemon, || socket.exists())?;
        let endpoint = format!("{}:51820", stage.outer[1 - side]);
        let private = keys[side].private.display().to_string();
        let own = ["set", &interface, "listen-port", "51820", "private-key", &private];
        let peer = ["peer", &keys[1 - side].public, "endpoint", &endpoint];
        let all = [&own[..], &peer, &["allowed-ips", "10.9.0.0/24"]].concat();
        namespace.tool("wg", &all)?;
        namespace.ip(&format!(
            "address add 10.9.0.{}/24 dev {interface}\nlink set {interface} mtu {MTU} up",
            side + 1
        ))?;
        Ok(daemon)
    }
}

struct Keys {
    /// The private key's file.
    private: PathBuf,
    public: String,
}

fn key_pair(world: &World, name: &str) -> Result<Keys> {
    let key = run(Command::new("wg").arg("genkey"), TOOL)?.success()?;
    let private = world.folder().join(format!("{name}.key"));
    std::fs::write(&private, key)?;
    let input = std::fs::File::open(&private)?;
    let output = Command::new("wg").arg("pubkey").stdin(input).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "wg pubkey");
    let public = String::from_utf8(output.stdout).context("a key in ASCII")?.trim().to_owned();
    Ok(Keys { private, public })
}
