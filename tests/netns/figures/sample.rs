//! What is read off one carrier in one round.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::rivals::Tunnel;
use crate::lab::datagrams::{Lane, Trial};
use crate::lab::namespace::Namespace;
use crate::lab::process::{Daemon, run};
use crate::lab::resources::{machine_time, peak_resident, processor_time};
use crate::lab::world::World;

/// The first packet has passed within this, or the carrier has failed.
const FIRST: Duration = Duration::from_secs(30);
/// More than any one program here takes beyond the time it was told.
const SLACK: Duration = Duration::from_secs(20);
/// Between two pings; a round trip through any carrier takes less.
const PING_EVERY: Duration = Duration::from_millis(10);
/// A stream has left slow start after this.
const SLOW_START: Duration = Duration::from_millis(500);
/// UDP payload that fits the smallest MTU a carrier may have, 1,280 bytes.
const PAYLOAD: usize = 1200;
/// The loss that a rate may have.
const LOSS: f64 = 0.001;
/// Two rates this near are the same.
const NEAR: f64 = 1.05;
/// Trials after which the search ends in any case.
const MAX_TRIALS: usize = 14;

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Gbit/s of one TCP stream, near to far.
    TcpForward,
    /// The same, far to near.
    TcpReverse,
    /// Gbit/s of four TCP streams together, near to far.
    TcpFour,
    /// Gbit/s of UDP payload at the highest even rate with at most 0.1 % lost.
    Udp,
    /// Processor seconds of both daemons for 10^9 bytes of one TCP stream, near to far.
    DaemonCost,
    /// The same for the whole machine: kernel, iperf3 and whatever else ran.
    MachineCost,
    /// Median round trip, µs, with nothing else going on.
    PingIdle50,
    /// 99th percentile of the same.
    PingIdle99,
    /// Median round trip, µs, beside one TCP stream near to far.
    PingLoad50,
    /// 99th percentile of the same.
    PingLoad99,
    /// Segments of the one TCP stream sent again.
    Retransmits,
    /// The most memory either daemon ever had resident, MiB.
    PeakMemory,
    /// Seconds from the start of the daemons to the first answered ping.
    FirstPing,
    /// The tunnel's MTU, bytes.
    Mtu,
}

impl Metric {
    /// Every column, in the table's order.
    pub const ALL: [Metric; 14] = [
        Metric::TcpForward,
        Metric::TcpReverse,
        Metric::TcpFour,
        Metric::Udp,
        Metric::DaemonCost,
        Metric::MachineCost,
        Metric::PingIdle50,
        Metric::PingIdle99,
        Metric::PingLoad50,
        Metric::PingLoad99,
        Metric::Retransmits,
        Metric::PeakMemory,
        Metric::FirstPing,
        Metric::Mtu,
    ];

    /// The table's heading with the unit, the name in JSON, and how many decimals mean anything.
    pub fn words(self) -> (&'static str, &'static str, usize) {
        match self {
            Metric::TcpForward => ("TCP Gbit/s", "tcp_forward_gbit_s", 2),
            Metric::TcpReverse => ("TCP back", "tcp_reverse_gbit_s", 2),
            Metric::TcpFour => ("TCP × 4", "tcp_four_gbit_s", 2),
            Metric::Udp => ("UDP ≤ 0.1 % loss", "udp_gbit_s", 2),
            Metric::DaemonCost => ("daemons CPU-s/GB", "daemon_cpu_s_per_gb", 2),
            Metric::MachineCost => ("machine CPU-s/GB", "machine_cpu_s_per_gb", 2),
            Metric::PingIdle50 => ("ping p50 µs", "ping_idle_p50_us", 0),
            Metric::PingIdle99 => ("ping p99", "ping_idle_p99_us", 0),
            Metric::PingLoad50 => ("p50 under TCP", "ping_load_p50_us", 0),
            Metric::PingLoad99 => ("p99 under TCP", "ping_load_p99_us", 0),
            Metric::Retransmits => ("retransmits", "tcp_retransmits", 0),
            Metric::PeakMemory => ("peak RSS MiB", "peak_rss_mib", 1),
            Metric::FirstPing => ("first ping s", "first_ping_s", 2),
            Metric::Mtu => ("MTU", "mtu", 0),
        }
    }
}

/// One round of one carrier.
pub type Sample = BTreeMap<Metric, f64>;

/// How long things are watched.
#[derive(Clone, Copy)]
pub struct Times {
    /// One TCP run, whole seconds.
    pub stream: u64,
    /// One try of a UDP rate.
    pub trial: Duration,
    /// Pings of one reading.
    pub pings: u32,
}

impl Times {
    /// Noise is between runs, not within.
    pub const FULL: Times = Times { stream: 3, trial: Duration::from_millis(500), pings: 100 };
    /// Enough to see that everything works.
    pub const QUICK: Times = Times { stream: 2, trial: Duration::from_millis(200), pings: 50 };
}

/// Reads everything off a carrier that was just started. `udp` is a guess of its UDP rate in
/// Gbit/s, and how far it may be wrong.
pub fn take(world: &World, tunnel: &dyn Tunnel, times: Times, udp: (f64, f64)) -> Result<Sample> {
    let [near, far] = tunnel.sides();
    let to = tunnel.far_end();
    let mut sample = Sample::new();
    first_answer(near, to)?;
    if !tunnel.daemons().is_empty() {
        sample.insert(Metric::FirstPing, tunnel.started().elapsed().as_secs_f64());
    }
    sample.insert(Metric::Mtu, mtu(near, to)?);
    let idle = pings(near, to, times.pings)?;
    sample.insert(Metric::PingIdle50, percentile(&idle, 0.5));
    sample.insert(Metric::PingIdle99, percentile(&idle, 0.99));
    let server = Server::start(world, far, to)?;
    streams(tunnel, &server, times, &mut sample)?;
    beside_a_stream(tunnel, &server, times, &mut sample)?;
    drop(server);
    let (guess, step) = udp;
    sample.insert(Metric::Udp, highest_rate(near, far, to, guess, step, times.trial)?);
    let peaks = tunnel.daemons().into_iter().map(peak_resident).collect::<Result<Vec<u64>>>()?;
    if let Some(peak) = peaks.into_iter().max() {
        sample.insert(Metric::PeakMemory, peak as f64 / f64::from(1 << 20));
    }
    Ok(sample)
}

fn streams(tunnel: &dyn Tunnel, server: &Server, times: Times, sample: &mut Sample) -> Result<()> {
    let near = tunnel.sides()[0];
    let spent = || -> Result<[Duration; 2]> {
        let daemons = tunnel.daemons();
        let daemons = daemons.iter().map(|pid| processor_time(*pid)).sum::<Result<Duration>>()?;
        Ok([daemons, machine_time()?])
    };
    let before = spent()?;
    let one = server.stream(near, times.stream, &[])?;
    let after = spent()?;
    let cost = |at: usize| (after[at] - before[at]).as_secs_f64() / (one.bytes / 1e9);
    sample.insert(Metric::TcpForward, one.gigabits);
    if let Some(retransmits) = one.retransmits {
        sample.insert(Metric::Retransmits, retransmits);
    }
    sample.insert(Metric::MachineCost, cost(1));
    if !tunnel.daemons().is_empty() {
        sample.insert(Metric::DaemonCost, cost(0));
    }
    let back = server.stream(near, times.stream, &["-R"])?;
    sample.insert(Metric::TcpReverse, back.gigabits);
    let four = server.stream(near, times.stream, &["-P", "4"])?;
    sample.insert(Metric::TcpFour, four.gigabits);
    Ok(())
}

/// Pings while a stream flows the same way.
fn beside_a_stream(
    tunnel: &dyn Tunnel,
    server: &Server,
    times: Times,
    sample: &mut Sample,
) -> Result<()> {
    let near = tunnel.sides()[0];
    let loaded = std::thread::scope(|scope| {
        let stream = scope.spawn(|| server.stream(near, times.stream, &[]));
        std::thread::sleep(SLOW_START);
        let room = Duration::from_secs(times.stream) - 2 * SLOW_START;
        let fit = room.as_millis() / PING_EVERY.as_millis();
        let loaded = pings(near, tunnel.far_end(), u32::try_from(fit)?);
        stream.join().expect("iperf3's thread does not panic")?;
        loaded
    })?;
    sample.insert(Metric::PingLoad50, percentile(&loaded, 0.5));
    sample.insert(Metric::PingLoad99, percentile(&loaded, 0.99));
    Ok(())
}

/// Until a ping is answered. Before the interface is up, `ping` ends with an error at once.
fn first_answer(from: &Namespace, to: IpAddr) -> Result<()> {
    let until = Instant::now() + FIRST;
    let to = to.to_string();
    loop {
        let mut command = Command::new("ping");
        command.args(["-n", "-i", "0.02", "-w", "2", "-c", "1", &to]);
        if from.command(&mut command, SLACK)?.code == Some(0) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "no answer from {to} within {FIRST:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Round trips in µs, sorted; a ping that is not answered within a second counts as that second.
fn pings(from: &Namespace, to: IpAddr, count: u32) -> Result<Vec<f64>> {
    let mut command = Command::new("ping");
    let every = PING_EVERY.as_secs_f64().to_string();
    command.args(["-n", "-i", &every, "-W", "1", "-c", &count.to_string(), &to.to_string()]);
    let output = from.command(&mut command, PING_EVERY * count + SLACK)?.stdout;
    let times = output.lines().filter_map(|line| line.split_once("time="));
    let times = times.filter_map(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok());
    let mut times: Vec<f64> = times.map(|milliseconds| milliseconds * 1e3).collect();
    ensure!(!times.is_empty(), "ping {to} got no answer: {output}");
    times.resize(times.len().max(count as usize), 1e6);
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The value below or at which this part of them is.
pub fn percentile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The MTU of the interface that leads to `to`.
fn mtu(from: &Namespace, to: IpAddr) -> Result<f64> {
    let route = from.tool("ip", &["-j", "route", "get", &to.to_string()])?;
    let route: Value = serde_json::from_str(&route)?;
    let device = route[0]["dev"].as_str().context("no route to the far end")?.to_owned();
    let link = from.tool("ip", &["-j", "link", "show", "dev", &device])?;
    let link: Value = serde_json::from_str(&link)?;
    link[0]["mtu"].as_f64().context("an interface without MTU")
}

/// An iperf3 server at the far end.
pub struct Server {
    _daemon: Daemon,
    address: String,
}

/// What one run of iperf3 says.
pub struct Streamed {
    /// Received.
    pub gigabits: f64,
    bytes: f64,
    /// Of a sender here; the other end's are not told.
    retransmits: Option<f64>,
}

impl Server {
    /// Starts it, bound to this address of its namespace.
    pub fn start(world: &World, far: &Namespace, address: IpAddr) -> Result<Self> {
        let address = address.to_string();
        let log = world.log("iperf3 server", "iperf3.log");
        let mut command = Command::new("iperf3");
        let daemon = Daemon::start(far, command.args(["-s", "-B", &address]), &log)?;
        let until = Instant::now() + SLACK;
        while !far.tool("ss", &["-Htln", "sport", "=", ":5201"])?.contains("5201") {
            ensure!(Instant::now() < until, "iperf3 does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Server { _daemon: daemon, address })
    }

    /// Runs a client from `near`.
    pub fn stream(&self, near: &Namespace, seconds: u64, options: &[&str]) -> Result<Streamed> {
        let mut command = Command::new("iperf3");
        command.args(["-c", &self.address, "-t", &seconds.to_string(), "-J"]).args(options);
        let limit = Duration::from_secs(seconds) + SLACK;
        let answer = near.run(|| run(&mut command, limit))?.success()?;
        let answer: Value = serde_json::from_str(&answer)?;
        let (received, sent) = (&answer["end"]["sum_received"], &answer["end"]["sum_sent"]);
        let number = |value: &Value| {
            value.as_f64().with_context(|| format!("iperf3 says {}", answer["error"]))
        };
        Ok(Streamed {
            gigabits: number(&received["bits_per_second"])? / 1e9,
            bytes: number(&received["bytes"])?,
            retransmits: sent["retransmits"].as_f64(),
        })
    }
}

/// The highest even rate in Gbit/s at which no more than [`LOSS`] is lost: from `guess` in steps of
/// a factor until one rate holds and one does not, then by bisection on a logarithmic scale.
fn highest_rate(
    near: &Namespace,
    far: &Namespace,
    to: IpAddr,
    guess: f64,
    step: f64,
    time: Duration,
) -> Result<f64> {
    let mut lane = Lane::new(near, far, to, PAYLOAD)?;
    let (mut rate, mut best) = (guess, 0.0f64);
    let (mut holds, mut fails) = (None, None);
    for _ in 0..MAX_TRIALS {
        match held(&mut lane, rate, time)? {
            Some(trial) => {
                let got = trial.bits / 1e9;
                if got * NEAR < rate && got < best * NEAR {
                    // The sender itself cannot: more was asked of it and no more came.
                    break;
                }
                best = best.max(got);
                holds = Some(rate);
            }
            None => fails = Some(rate),
        }
        rate = match (holds, fails) {
            (Some(holds), Some(fails)) if fails / holds < NEAR => break,
            (Some(holds), Some(fails)) => f64::sqrt(holds * fails),
            (Some(holds), None) => holds * step,
            (None, Some(fails)) => fails / step,
            (None, None) => rate,
        };
    }
    Ok(best)
}

/// A rate that fails gets a second chance: another program's time slice is not the carrier's loss.
fn held(lane: &mut Lane, gigabits: f64, time: Duration) -> Result<Option<Trial>> {
    for _ in 0..2 {
        let trial = lane.trial(gigabits * 1e9, time)?;
        let lost = trial.sent.saturating_sub(trial.received);
        if lost as f64 <= LOSS * trial.sent as f64 {
            return Ok(Some(trial));
        }
    }
    Ok(None)
}
