//! The command line: reads the arguments, asks the agent, shows the answer.
//!
//! * [`args`]: the command line as a type; what can be wrong with it is found there.
//! * [`client`]: one request over the agent's socket, and its answers.
//! * `invite_text`: an invite from an argument, a file or stdin, and as a QR code.
//! * `join`, `ping`: the two verbs whose answers come one by one.
//! * `health`: what is wrong, in words; what `status --check` decides by.
//! * `views`: answers as text; `render`: tables, colours and units beneath them.
//!
//! Results go to stdout and everything else to stderr. On a terminal people get tables, elsewhere
//! programs get tab-separated values, and with `--json` exactly the objects of [`crate::api`]. All
//! text that came from another device passes `render::clean`, so that no member can send escape
//! sequences to an admin's terminal.

pub mod args;
pub mod client;
mod health;
mod invite_text;
mod join;
mod ping;
mod render;
mod views;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use serde::Serialize;

use self::args::{
    CommandLine, CreateArgs, InviteArgs, IpArgs, ListArgs, RevokeArgs, StatusArgs, Verb,
};
use self::client::ask_once;
use self::render::Screen;
use crate::api::{self, Request, Response, SCHEMA, Status};
use crate::membership::DeviceName;

/// How a command ends; the numbers are the interface's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The agent is not running.
    NoAgent = 3,
    /// Not permitted.
    NotPermitted = 4,
    /// No such network or device.
    NotFound = 5,
    /// Timed out or unreachable.
    Unreachable = 6,
    /// `status --check` found what was asked for missing.
    Degraded = 7,
}

/// Why a command did not do what it was asked: one sentence, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// A failure with its one sentence.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl From<api::Error> for Failure {
    fn from(error: api::Error) -> Self {
        let exit = match error.kind {
            api::ErrorKind::Failed => Exit::Failed,
            api::ErrorKind::Usage => Exit::Usage,
            api::ErrorKind::NotPermitted => Exit::NotPermitted,
            api::ErrorKind::NotFound => Exit::NotFound,
            api::ErrorKind::Unreachable => Exit::Unreachable,
        };
        Self::new(exit, render::clean(&error.message))
    }
}

/// An [`api::Error`] anywhere in the chain gives its exit code; any other error is
/// [`Exit::Failed`].
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let known = error.chain().find_map(|cause| cause.downcast_ref::<api::Error>());
        let exit = known.map_or(Exit::Failed, |error| Self::from(error.clone()).exit);
        Self::new(exit, render::clean(&format!("{error:#}")))
    }
}

/// A reader that went away (`ginnel status | head -1`) has what it wanted.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::new(Exit::Failed, format!("cannot write the result: {error}")),
        }
    }
}

/// Ends the process: says on stderr what went wrong, if anything did.
pub fn report(outcome: Result<Exit, Failure>) -> ExitCode {
    let exit = outcome.unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            // Where stderr is closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "ginnel: {}", failure.message);
        }
        failure.exit
    });
    ExitCode::from(exit as u8)
}

/// Does what a verb says, except `agent` and `dht`, which are not the command line's.
pub fn run(verb: Verb, socket: &Path) -> Result<Exit, Failure> {
    let out = &mut io::stdout().lock();
    match verb {
        Verb::Agent(_) | Verb::Dht(_) => {
            return Err(Failure::new(Exit::Usage, "the process itself runs agent and dht"));
        }
        Verb::Create(args) => create(args, socket, out)?,
        Verb::Invite(args) => invite(args, socket, out)?,
        Verb::Join(args) => join::run(args, socket, out)?,
        Verb::Leave(args) => {
            change(&Request::Leave { network: args.network }, socket)?;
            print("Left; its interface and keys are gone from this device.\n", out)?;
        }
        Verb::Up(args) => {
            change(&Request::Up { network: args.network }, socket)?;
            print("The interface is on.\n", out)?;
        }
        Verb::Down(args) => {
            change(&Request::Down { network: args.network }, socket)?;
            print("The interface is off; membership is kept.\n", out)?;
        }
        Verb::Revoke(args) => {
            let done = format!("{} is removed for good.\n", render::clean(&args.device));
            let RevokeArgs { device, reason, offline } = args;
            change(&Request::Revoke { device, reason, offline }, socket)?;
            print(&done, out)?;
        }
        Verb::Status(args) => return status(&args, socket, out),
        Verb::Ping(args) => return ping::run(args, socket, out),
        Verb::Peers(args) => peers(args, socket, out)?,
        Verb::Ip(args) => ip(args, socket, out)?,
        Verb::Netcheck(args) => show(&Request::Netcheck, args.json, socket, out)?,
        Verb::Members(ListArgs { network, json }) => {
            show(&Request::Members { network }, json, socket, out)?;
        }
        Verb::Log(ListArgs { network, json }) => {
            show(&Request::Log { network }, json, socket, out)?;
        }
        Verb::Whois(args) => {
            show(&Request::Whois { device: args.device }, args.json, socket, out)?;
        }
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "ginnel", &mut script);
            out.write_all(&script)?;
        }
    }
    Ok(Exit::Done)
}

/// Asks for something that is done or not, with nothing to show.
fn change(request: &Request, socket: &Path) -> Result<(), Failure> {
    match ask_once(socket, request)? {
        Response::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// Asks one question and shows the answer as it is.
fn show(request: &Request, json: bool, socket: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let screen = Screen::of_stdout();
    match ask_once(socket, request)? {
        Response::Netcheck(answer) if json => print_json(&answer, out),
        Response::Netcheck(answer) => print(&views::netcheck(&answer, &screen), out),
        Response::Members(answer) if json => print_json(&answer, out),
        Response::Members(answer) => print(&views::members(&answer, &screen), out),
        Response::Log(answer) if json => print_json(&answer, out),
        Response::Log(answer) => print(&views::log(&answer, &screen), out),
        Response::Whois(answer) if json => print_json(&answer, out),
        Response::Whois(answer) => print(&views::whois(&answer, &screen), out),
        other => Err(unexpected(&other)),
    }
}

fn create(args: CreateArgs, socket: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let device = device_name(args.name)?;
    let request = Request::Create {
        network: args.network.to_string(),
        device: device.to_string(),
        ipv4_pool: args.ipv4_pool,
        no_ipv4: args.no_ipv4,
        invite: !args.no_invite,
    };
    match ask_once(socket, &request)? {
        Response::Created(created) if args.json => print_json(&created, out),
        Response::Created(created) => print(&views::created(&created, device.as_str()), out),
        other => Err(unexpected(&other)),
    }
}

fn invite(args: InviteArgs, socket: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let request = Request::Invite {
        network: args.network,
        name: args.name.map(|name| name.to_string()),
        expires_s: args.expires.as_secs(),
        admin: args.admin,
        offline: args.offline,
    };
    let Response::Invited(invited) = ask_once(socket, &request)? else {
        return Err(Failure::new(Exit::Failed, OTHER_VERSION));
    };
    if args.json {
        print_json(&invited, out)?;
    } else {
        print(&format!("{}\n", render::clean(&invited.invite)), out)?;
    }
    if args.qr {
        let _ = write!(io::stderr(), "{}", invite_text::qr(&invited.invite)?);
    }
    Ok(())
}

fn status(args: &StatusArgs, socket: &Path, out: &mut impl Write) -> Result<Exit, Failure> {
    let status = ask_status(socket)?;
    if args.json {
        print_json(&status, out)?;
    } else if args.check.is_none() {
        print(&views::status(&status, &Screen::of_stdout()), out)?;
    }
    match args.check.map(|check| health::check(&status, check)) {
        Some(problems) if !problems.is_empty() => {
            Err(Failure::new(Exit::Degraded, problems.join("; ")))
        }
        Some(_) | None => Ok(Exit::Done),
    }
}

/// `peers --json`.
#[derive(Debug, Serialize)]
struct Peers<'a> {
    schema: u32,
    network: &'a str,
    peers: &'a [api::PeerStatus],
}

fn peers(args: ListArgs, socket: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let status = ask_status(socket)?;
    let network = one_network(&status, args.network.as_deref())?;
    if args.json {
        let peers = Peers { schema: SCHEMA, network: &network.name, peers: &network.peers };
        return print_json(&peers, out);
    }
    print(&views::peers(&network.peers, &Screen::of_stdout()), out)
}

fn one_network<'a>(
    status: &'a Status,
    name: Option<&str>,
) -> Result<&'a api::NetworkStatus, Failure> {
    let missing = |message: String| Err(Failure::new(Exit::NotFound, message));
    match (name, &status.networks[..]) {
        (_, []) => missing(NO_NETWORK.into()),
        (None, [only]) => Ok(only),
        (None, several) => {
            let message = format!("say which network: {}", names_of(several));
            Err(Failure::new(Exit::Usage, message))
        }
        (Some(name), networks) => match networks.iter().find(|network| network.name == name) {
            Some(network) => Ok(network),
            None => {
                let others = names_of(networks);
                missing(format!("this device is in no network {name:?}; it is in: {others}"))
            }
        },
    }
}

const NO_NETWORK: &str = "this device belongs to no network yet: `sudo ginnel create NAME` makes \
                          one, `sudo ginnel join INVITE` joins one";

fn names_of(networks: &[api::NetworkStatus]) -> String {
    let names: Vec<_> = networks.iter().map(|network| network.name.as_str()).collect();
    render::clean(&names.join(", "))
}

/// `ip --json`.
#[derive(Debug, Serialize)]
struct Addresses {
    schema: u32,
    addresses: Vec<DeviceAddresses>,
}

/// A device's addresses in one network.
#[derive(Debug, Serialize)]
struct DeviceAddresses {
    network: String,
    name: String,
    ipv4: Option<std::net::Ipv4Addr>,
    ipv6: std::net::Ipv6Addr,
}

fn ip(args: IpArgs, socket: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let addresses = match args.device {
        Some(device) => match ask_once(socket, &Request::Whois { device })? {
            Response::Whois(api::Whois { network, member, .. }) => {
                let api::MemberEntry { name, ipv4, ipv6, .. } = member;
                vec![DeviceAddresses { network, name, ipv4, ipv6 }]
            }
            other => return Err(unexpected(&other)),
        },
        None => {
            let networks = ask_status(socket)?.networks.into_iter();
            let own = networks.map(|network| DeviceAddresses {
                network: network.name,
                name: network.this.name,
                ipv4: network.this.ipv4,
                ipv6: network.this.ipv6,
            });
            own.collect()
        }
    };
    if addresses.is_empty() {
        return Err(Failure::new(Exit::NotFound, NO_NETWORK));
    }
    if args.json {
        return print_json(&Addresses { schema: SCHEMA, addresses }, out);
    }
    let lines = addresses.iter().flat_map(|device| {
        device.ipv4.map(|v4| format!("{v4}\n")).into_iter().chain([format!("{}\n", device.ipv6)])
    });
    print(&lines.collect::<String>(), out)
}

fn ask_status(socket: &Path) -> Result<Status, Failure> {
    match ask_once(socket, &Request::Status)? {
        Response::Status(status) => Ok(status),
        other => Err(unexpected(&other)),
    }
}

/// The name that was given, or else the host's, made a DNS label.
fn device_name(given: Option<DeviceName>) -> Result<DeviceName, Failure> {
    let host = || {
        let host = rustix::system::uname();
        DeviceName::from_host_name(&host.nodename().to_string_lossy())
    };
    given.or_else(host).ok_or_else(|| {
        Failure::new(Exit::Usage, "this host's name makes no device name; give one with --name")
    })
}

const OTHER_VERSION: &str =
    "the agent answered something else than was asked; restart it if ginnel was upgraded";

fn unexpected(response: &Response) -> Failure {
    tracing::debug!(?response, "unexpected answer");
    Failure::new(Exit::Failed, OTHER_VERSION)
}

fn print(text: &str, out: &mut impl Write) -> Result<(), Failure> {
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn print_json(object: &impl Serialize, out: &mut impl Write) -> Result<(), Failure> {
    let line = serde_json::to_string(object).expect("the API has only string keys");
    print(&(line + "\n"), out)
}
