//! One TCP stream through ginnel and through other userspace WireGuards, in the same run.
//!
//! ```text
//! a ──── veth, MTU 1500 ──── b        two namespaces, nothing between them
//! ```
//! Rounds are interleaved, so that a busy machine hits all alike; medians count. Each program runs
//! with its defaults. On two cores that also carry both iperf3 ends, Gbit/s says how much work a
//! byte is; the processor time of both daemons says it more steadily.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Figure, in_quiet_world, median};
use crate::lab::host::Host;
use crate::lab::lan::cable;
use crate::lab::namespace::Namespace;
use crate::lab::process::{Daemon, run};
use crate::lab::resources::processor_time;
use crate::lab::traffic::first_ping;
use crate::lab::world::World;

/// Interleaved repetitions.
const ROUNDS: usize = 5;
/// Seconds a stream flows; noise is between runs, not within.
const FLOWS: &str = "4";
/// A daemon is ready within this.
const READY: Duration = Duration::from_secs(30);

/// Something that carries the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Cable,
    Ginnel,
    Boringtun,
    WireguardGo,
}

const CARRIERS: [Carrier; 4] =
    [Carrier::Cable, Carrier::Ginnel, Carrier::Boringtun, Carrier::WireguardGo];

impl Carrier {
    fn name(self) -> &'static str {
        match self {
            Carrier::Cable => "no VPN",
            Carrier::Ginnel => "ginnel",
            Carrier::Boringtun => "boringtun-cli",
            Carrier::WireguardGo => "wireguard-go",
        }
    }
}

/// One round of one carrier.
struct Sample {
    carrier: Carrier,
    gigabits: f64,
    /// Processor seconds of both daemons for 10^9 bytes.
    cost: f64,
}

/// Measures all carriers that are installed.
pub fn one_stream() -> Result<Vec<Figure>> {
    let mut samples = Vec::new();
    for round in 1..=ROUNDS {
        for carrier in CARRIERS {
            let measured = in_quiet_world(|world| {
                samples.push(measure(world, carrier)?);
                Ok(())
            });
            measured.with_context(|| format!("round {round} of {}", carrier.name()))?;
        }
    }
    let rate = |carrier| of(&samples, carrier, |sample| sample.gigabits);
    let cost = |carrier| of(&samples, carrier, |sample| sample.cost);
    let mut figures: Vec<Figure> = CARRIERS
        .iter()
        .map(|carrier| {
            let value = format!(
                "{:.2} Gbit/s, {:.2} daemon CPU-s/GB",
                median(&rate(*carrier)),
                median(&cost(*carrier))
            );
            let raw = json!({ "gigabits": rate(*carrier), "daemon_cpu_s_per_gb": cost(*carrier) });
            Figure::note(&format!("one TCP stream, {}", carrier.name()), value, raw)
        })
        .collect();
    let ratio = median(&rate(Carrier::Ginnel)) / median(&rate(Carrier::Boringtun));
    figures.push(Figure {
        name: "… ginnel against boringtun-cli".into(),
        value: format!("{ratio:.2} times"),
        target: "≥ 1 times".into(),
        holds: Some(ratio >= 1.0),
        raw: json!(ratio),
    });
    Ok(figures)
}

fn of(samples: &[Sample], carrier: Carrier, read: impl Fn(&Sample) -> f64) -> Vec<f64> {
    samples.iter().filter(|sample| sample.carrier == carrier).map(read).collect()
}

fn measure(world: &mut World, carrier: Carrier) -> Result<Sample> {
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    let outer = cable(&a, &b)?;
    match carrier {
        Carrier::Cable => stream(world, carrier, &a, &b, outer[1], &[]),
        Carrier::Ginnel => {
            let (mut a, mut b) = (world.host_in("a", a)?, world.host_in("b", b)?);
            a.start()?;
            b.start()?;
            b.join(&a.create("home")?.invite)?;
            let to = b.addresses()?[0];
            let daemons = [a.pid()?, b.pid()?];
            let (a, b): (&Host, &Host) = (&a, &b);
            stream(world, carrier, &a.namespace, &b.namespace, to, &daemons)
        }
        Carrier::Boringtun | Carrier::WireguardGo => {
            let daemons = wireguard(world, carrier, [&a, &b], outer)?;
            let pids = [daemons[0].pid(), daemons[1].pid()];
            stream(world, carrier, &a, &b, IpAddr::from([10, 9, 0, 2]), &pids)
        }
    }
}

/// Runs iperf3 from `from` to `address` in `to`.
fn stream(
    world: &World,
    carrier: Carrier,
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
    daemons: &[u32],
) -> Result<Sample> {
    first_ping(from, address, READY)?;
    let log = world.log("iperf3 server", "iperf3.log");
    let bind = address.to_string();
    let mut command = Command::new("iperf3");
    let server = Daemon::start(to, command.args(["-s", "-1", "-B", &bind]), &log)?;
    let until = Instant::now() + READY;
    while !to.tool("ss", &["-Htln", "sport", "=", ":5201"])?.contains("5201") {
        ensure!(Instant::now() < until, "iperf3 does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    let spent = || daemons.iter().map(|pid| processor_time(*pid)).sum::<Result<Duration>>();
    let before = spent()?;
    let mut command = Command::new("iperf3");
    command.args(["-c", &bind, "-t", FLOWS, "-J"]);
    let answer = from.run(|| run(&mut command, READY))?.success()?;
    let spent = (spent()? - before).as_secs_f64();
    drop(server);
    let answer: Value = serde_json::from_str(&answer)?;
    let received = &answer["end"]["sum_received"];
    let bits = received["bits_per_second"].as_f64().context("iperf3 reports no rate")?;
    let bytes = received["bytes"].as_f64().context("iperf3 reports no bytes")?;
    Ok(Sample { carrier, gigabits: bits / 1e9, cost: spent / (bytes / 1e9) })
}

/// Two userspace WireGuards with fresh keys on 10.9.0.0/24.
fn wireguard(
    world: &World,
    carrier: Carrier,
    sides: [&Namespace; 2],
    outer: [IpAddr; 2],
) -> Result<[Daemon; 2]> {
    let keys = [key_pair(world, "a")?, key_pair(world, "b")?];
    let start = |side: usize| -> Result<Daemon> {
        // Control sockets lie in one folder for all namespaces: names have to differ.
        let interface = format!("gl{}{side}", std::process::id() % 1_000_000);
        let log = world.log(carrier.name(), &format!("{interface}.log"));
        let _ = std::fs::remove_file(socket_of(&interface));
        let mut command = match carrier {
            Carrier::Boringtun => {
                let mut command = Command::new("boringtun-cli");
                command.args(["--foreground", "--disable-drop-privileges", &interface]);
                command
            }
            _ => {
                let mut command = Command::new("wireguard-go");
                command.args(["-f", &interface]);
                command
            }
        };
        let daemon = Daemon::start(sides[side], &mut command, &log)?;
        let until = Instant::now() + READY;
        while !socket_of(&interface).exists() {
            if Instant::now() > until {
                bail!("{} does not start", carrier.name());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let (peer, endpoint) = (&keys[1 - side].1, format!("{}:51820", outer[1 - side]));
        let key_file = keys[side].0.display().to_string();
        sides[side].tool(
            "wg",
            &[
                &["set", &interface, "listen-port", "51820", "private-key", &key_file][..],
                &["peer", peer, "endpoint", &endpoint, "allowed-ips", "10.9.0.0/24"][..],
            ]
            .concat(),
        )?;
        sides[side].ip(&format!(
            "address add 10.9.0.{}/24 dev {interface}\nlink set {interface} mtu 1420 up",
            side + 1
        ))?;
        Ok(daemon)
    };
    Ok([start(0)?, start(1)?])
}

fn socket_of(interface: &str) -> PathBuf {
    Path::new("/var/run/wireguard").join(format!("{interface}.sock"))
}

/// A private key's file, and the public key.
fn key_pair(world: &World, name: &str) -> Result<(PathBuf, String)> {
    let private = run(Command::new("wg").arg("genkey"), READY)?.success()?;
    let file = world.folder().join(format!("{name}.key"));
    std::fs::write(&file, &private)?;
    let input = std::fs::File::open(&file)?;
    let output = Command::new("wg").arg("pubkey").stdin(input).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "wg pubkey");
    Ok((file, String::from_utf8(output.stdout)?.trim().to_owned()))
}
