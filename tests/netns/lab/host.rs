//! A machine: a namespace, a configuration, a state folder and an agent; and the verbs a person
//! types there.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::lan::Lan;
use super::namespace::Namespace;
use super::process::{Daemon, Outcome};
use super::status::Status;

/// A verb that is not `join` or `ping` answers within seconds.
const VERB_LIMIT: Duration = Duration::from_secs(30);
/// `join` may wait for its own time-out of 120 s.
const JOIN_LIMIT: Duration = Duration::from_secs(130);
/// The agent answers its socket this soon after its start.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How often a state is asked for while waiting. Every question is a process.
const POLL: Duration = Duration::from_millis(100);

/// The program under test: Cargo's, or `GINNEL_BIN` (a release build under a debug harness).
pub fn binary() -> PathBuf {
    std::env::var_os("GINNEL_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ginnel")), PathBuf::from)
}

/// A host; its agent dies with it.
pub struct Host {
    /// Its name, also its device name.
    pub name: String,
    /// Where it lives.
    pub namespace: Namespace,
    folder: PathBuf,
    log: PathBuf,
    agent: Option<Daemon>,
}

/// What `create` answered.
pub struct Created {
    /// A first invite.
    pub invite: String,
    /// This device's overlay address.
    pub ipv4: Option<IpAddr>,
    /// This device's overlay address.
    pub ipv6: IpAddr,
}

impl Host {
    /// Writes the configuration; starts nothing.
    pub fn new(
        name: &str,
        namespace: Namespace,
        folder: PathBuf,
        log: PathBuf,
        configuration: &str,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder.join("state"))?;
        std::fs::write(folder.join("ginnel.toml"), configuration)?;
        Ok(Host { name: name.into(), namespace, folder, log, agent: None })
    }

    /// The state folder.
    pub fn state_folder(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Replaces the configuration; the next start reads it.
    pub fn configure(&self, text: &str) -> Result<()> {
        Ok(std::fs::write(self.folder.join("ginnel.toml"), text)?)
    }

    /// The command line of the agent.
    pub fn agent_command(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("agent");
        command.arg("--config").arg(self.folder.join("ginnel.toml"));
        command.arg("--state-dir").arg(self.state_folder());
        command.arg("--socket").arg(self.socket());
        command
    }

    /// Starts the agent and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&mut self.agent_command())
    }

    /// As [`Host::start`], with another command line.
    pub fn start_with(&mut self, command: &mut Command) -> Result<()> {
        let mut agent = Daemon::start(&self.namespace, command, &self.log)?;
        let until = Instant::now() + START_LIMIT;
        while self.ginnel(&["status", "--json"])?.code != Some(0) {
            if !agent.is_running() {
                bail!("the agent of {} ended at once", self.name);
            }
            if Instant::now() > until {
                bail!("the agent of {} does not answer after {START_LIMIT:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.agent = Some(agent);
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.agent.take().context("the agent was not started")?.stop()
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.agent = None;
    }

    /// The agent's process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.agent.as_ref().context("the agent was not started")?.pid())
    }

    /// Whether the agent is alive.
    pub fn is_running(&mut self) -> bool {
        self.agent.as_mut().is_some_and(Daemon::is_running)
    }

    /// Runs `ginnel …` here against this host's agent.
    pub fn ginnel(&self, args: &[&str]) -> Result<Outcome> {
        let limit = if args.first() == Some(&"join") { JOIN_LIMIT } else { VERB_LIMIT };
        self.namespace.command(self.verb().args(args), limit)
    }

    /// As [`Host::ginnel`], with a terminal for its output: what a person sees.
    pub fn ginnel_on_a_terminal(&self, args: &[&str]) -> Result<String> {
        let line = format!("'{}' {} 2>&1", binary().display(), args.join(" "));
        let mut command = Command::new("script");
        command.args(["--quiet", "--command", &line, "/dev/null"]);
        command.env("GINNEL_SOCKET", self.socket()).env("NO_COLOR", "1");
        Ok(self.namespace.command(&mut command, VERB_LIMIT)?.stdout.replace('\r', ""))
    }

    /// `ginnel --socket …`, to be given a verb.
    pub fn verb(&self) -> Command {
        let mut command = Command::new(binary());
        command.env("GINNEL_SOCKET", self.socket()).env("NO_COLOR", "1");
        command
    }

    /// `ginnel create NETWORK --name <this host's name>`.
    pub fn create(&self, network: &str) -> Result<Created> {
        let answer = self.json(&["create", network, "--name", &self.name, "--json"])?;
        Ok(Created {
            invite: text(&answer, "invite")?,
            ipv4: answer["ipv4"].as_str().map(str::parse).transpose()?,
            ipv6: text(&answer, "ipv6")?.parse()?,
        })
    }

    /// `ginnel invite`, with more options.
    pub fn invite(&self, options: &[&str]) -> Result<String> {
        let args = [&["invite", "--json"], options].concat();
        text(&self.json(&args)?, "invite")
    }

    /// `ginnel join`; returns the time it took as a person sees it.
    pub fn join(&self, invite: &str) -> Result<Duration> {
        let outcome = self.ginnel(&["join", invite, "--name", &self.name, "--json"])?;
        let took = outcome.took;
        outcome.success().with_context(|| format!("{} joins", self.name))?;
        Ok(took)
    }

    /// `ginnel status --json`.
    pub fn status(&self) -> Result<Status> {
        Ok(Status(self.json(&["status", "--json"])?))
    }

    /// Asks until `holds` is true; the error says what was waited for and what was there instead.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let until = Instant::now() + limit;
        loop {
            let status = self.status()?;
            if holds(&status) {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("{}: waited {limit:?} for {what}; it is {:#}", self.name, status.0);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until every one of `peers` is connected.
    pub fn wait_connected(&self, peers: &[&str], limit: Duration) -> Result<Status> {
        let all = |status: &Status| peers.iter().all(|peer| status.is_connected(peer));
        self.wait_for(&format!("a connection to {peers:?}"), limit, all)
    }

    /// This device's overlay addresses, IPv4 first.
    pub fn addresses(&self) -> Result<[IpAddr; 2]> {
        let status = self.status()?;
        Ok([status.ipv4()?, status.ipv6()?])
    }

    /// Pulls the cable and plugs it into another LAN; returns the new address.
    pub fn move_to(&self, lan: &Lan) -> Result<Ipv4Addr> {
        self.namespace.ip("link del eth0")?;
        lan.connect(&self.namespace, "eth0")
    }

    /// Runs a verb that must succeed and parses the last line it printed as JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let stdout = self.ginnel(args)?.success()?;
        serde_json::from_str(&stdout)
            .or_else(|_| serde_json::from_str(stdout.trim().lines().last().unwrap_or_default()))
            .map_err(|error| {
                anyhow!("`ginnel {}` printed no JSON ({error}): {stdout}", args.join(" "))
            })
    }

    /// What the agent wrote to stderr so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The socket of the agent.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("sock")
    }

    /// The folder that holds state, configuration and socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn text(value: &Value, key: &str) -> Result<String> {
    let found = value[key].as_str().map(str::to_owned);
    found.with_context(|| format!("the answer has no text {key:?}: {value}"))
}
