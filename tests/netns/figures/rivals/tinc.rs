//! tinc 1.0, in router mode.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Carrier, MTU, Rival, Stage, Tunnel, absent, has_interface, wait_until};
use crate::lab::process::{Daemon, run};

/// An RSA key of 2,048 bits takes up to some seconds.
const KEY: Duration = Duration::from_secs(60);

/// Debian's tinc.
pub struct Tinc;

impl Carrier for Tinc {
    fn name(&self) -> String {
        "tinc".into()
    }

    fn missing(&self) -> Option<String> {
        absent(Path::new("tincd"))
    }

    fn start(&self, stage: Stage<'_>) -> Result<Box<dyn Tunnel>> {
        let folders = configure(&stage)?;
        let started = Instant::now();
        let mut daemons = Vec::new();
        for (side, folder) in folders.iter().enumerate() {
            let mut command = Command::new("tincd");
            command.arg("-c").arg(folder).args(["-D", "--pidfile"]).arg(folder.join("pid"));
            let log = stage.world.log("tinc", &format!("tinc{side}.log"));
            let namespace = &stage.sides[side];
            let mut daemon = Daemon::start(namespace, &mut command, &log)?;
            wait_until(&mut daemon, || has_interface(namespace, "tinc0"))?;
            namespace.ip(&format!(
                "address add 10.9.0.{}/24 dev tinc0\nlink set tinc0 mtu {MTU} up",
                side + 1
            ))?;
            daemons.push(daemon);
        }
        Ok(Box::new(Rival { daemons, sides: stage.sides, started }))
    }
}

/// Configuration and keys of both ends; each knows the other's host file.
fn configure(stage: &Stage<'_>) -> Result<[PathBuf; 2]> {
    let folders = ["a", "b"].map(|name| stage.world.folder().join(format!("tinc-{name}")));
    for (side, (name, other)) in [("a", "b"), ("b", "a")].into_iter().enumerate() {
        let folder = &folders[side];
        std::fs::create_dir_all(folder.join("hosts"))?;
        let text = format!("Name = {name}\nInterface = tinc0\nConnectTo = {other}\n");
        std::fs::write(folder.join("tinc.conf"), text)?;
        let text = format!("Address = {}\nSubnet = 10.9.0.{}/32\n", stage.outer[side], side + 1);
        std::fs::write(folder.join("hosts").join(name), text)?;
        let mut command = Command::new("tincd");
        run(command.arg("-c").arg(folder).arg("-K2048"), KEY)?.success()?;
    }
    for (side, name) in ["a", "b"].into_iter().enumerate() {
        let host = Path::new("hosts").join(name);
        std::fs::copy(folders[side].join(&host), folders[1 - side].join(&host))?;
    }
    Ok(folders)
}
