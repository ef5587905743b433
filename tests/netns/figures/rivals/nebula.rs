//! nebula, with certificates of its own and the other end's address written down.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Carrier, MTU, Rival, Stage, Tunnel, absent};
use crate::lab::process::{Daemon, run};

/// Making a certificate takes milliseconds.
const TOOL: Duration = Duration::from_secs(10);

/// Debian's nebula.
pub struct Nebula;

impl Carrier for Nebula {
    fn name(&self) -> String {
        "nebula".into()
    }

    fn missing(&self) -> Option<String> {
        absent(Path::new("nebula")).or_else(|| absent(Path::new("nebula-cert")))
    }

    fn start(&self, stage: Stage<'_>) -> Result<Box<dyn Tunnel>> {
        let folder = stage.world.folder().join("nebula");
        std::fs::create_dir_all(&folder)?;
        certificate(&folder, &["ca", "-name", "bench"])?;
        for (side, name) in ["a", "b"].into_iter().enumerate() {
            let address = format!("10.9.0.{}/24", side + 1);
            certificate(&folder, &["sign", "-name", name, "-ip", &address])?;
            let other = format!("\"10.9.0.{}\": [\"{}:4242\"]", 2 - side, stage.outer[1 - side]);
            let text = configuration(&folder, name, &other);
            std::fs::write(folder.join(format!("{name}.yml")), text)?;
        }
        let started = Instant::now();
        let daemons = ["a", "b"].iter().zip(&stage.sides).map(|(name, namespace)| {
            let mut command = Command::new("nebula");
            command.arg("-config").arg(folder.join(format!("{name}.yml")));
            let log = stage.world.log("nebula", &format!("nebula-{name}.log"));
            Daemon::start(namespace, &mut command, &log)
        });
        let daemons = daemons.collect::<Result<Vec<Daemon>>>()?;
        Ok(Box::new(Rival { daemons, sides: stage.sides, started }))
    }
}

fn certificate(folder: &Path, args: &[&str]) -> Result<()> {
    let mut command = Command::new("nebula-cert");
    run(command.args(args).current_dir(folder), TOOL)?.success().map(drop)
}

fn configuration(folder: &Path, name: &str, other: &str) -> String {
    let folder = folder.display();
    format!(
        "pki: {{ca: {folder}/ca.crt, cert: {folder}/{name}.crt, key: {folder}/{name}.key}}
static_host_map: {{{other}}}
lighthouse: {{am_lighthouse: false}}
listen: {{host: 0.0.0.0, port: 4242}}
tun: {{dev: neb0, mtu: {MTU}}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"
    )
}
