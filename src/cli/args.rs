//! The command line, as a type.
//!
//! Everything that can be checked without the agent is checked here, so that a mistake is a usage
//! error (exit code 2) before anything happens. Names of networks and devices that exist already are
//! not: the agent knows them.

use std::ffi::OsString;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::{DEFAULT_SOCKET, DEFAULT_STATE_DIR, HostPort};
use crate::identity::Ipv4Pool;
use crate::membership::DeviceName;

/// The longest life of an invite. The agent holds it as well.
const MAX_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// The longest time-out: an hour more than the longest life of an invite, so that a `join` may
/// outwait it.
const MAX_TIMEOUT: Duration = Duration::from_secs((7 * 24 + 1) * 3600);

const EXAMPLES: &str = "\
Two commands make a private LAN:
  sudo ginnel create home        on one machine; prints an invite
  sudo ginnel join ginnel1…      on the other one

Exit codes: 0 done, 1 failed, 2 usage, 3 agent not running, 4 not permitted,
5 no such network or device, 6 timed out or unreachable, 7 degraded (status --check)";

/// A private LAN between your machines, with no server
#[derive(Debug, Parser)]
#[command(name = "ginnel", version, after_help = EXAMPLES)]
pub struct CommandLine {
    /// The agent's socket
    #[arg(long, global = true, env = "GINNEL_SOCKET", value_name = "PATH")]
    #[arg(default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// What to do; `status` where it is left out
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// The verbs of the interface.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the agent in the foreground (what the systemd unit runs)
    #[command(after_help = "Example: sudo ginnel agent --config /etc/ginnel/ginnel.toml")]
    Agent(AgentArgs),
    /// Make a network with this device as its first admin, and bring it up
    #[command(after_help = "Example: sudo ginnel create home --name laptop")]
    Create(CreateArgs),
    /// Print an invite that lets one device in
    #[command(after_help = "Example: sudo ginnel invite home --expires 1h --qr")]
    Invite(InviteArgs),
    /// Join a network with an invite
    #[command(after_help = "Examples:\n  sudo ginnel join ginnel1…\n  \
        sudo ginnel join @invite.txt --name nas\n  \
        ssh admin@there sudo ginnel invite | sudo ginnel join -")]
    Join(JoinArgs),
    /// Leave a network for good: sign out, remove interface and keys
    #[command(after_help = "Example: sudo ginnel leave home")]
    Leave(NetworkArgs),
    /// Switch a network's interface on
    #[command(after_help = "Example: sudo ginnel up home")]
    Up(NetworkArgs),
    /// Switch a network's interface off; membership is kept, also over a restart
    #[command(after_help = "Example: sudo ginnel down home")]
    Down(NetworkArgs),
    /// Show health, networks and devices
    #[command(after_help = "Example: ginnel status --check ready && rsync … nas:")]
    Status(StatusArgs),
    /// List the devices of a network and the paths to them
    #[command(after_help = "Example: ginnel peers home")]
    Peers(ListArgs),
    /// Probe a device through the tunnel; each reply names the path it took
    #[command(after_help = "Example: ginnel ping nas --until-direct --timeout 30s")]
    Ping(PingArgs),
    /// Show this side: public addresses, NAT, port mappings, DHT, STUN servers
    #[command(after_help = "Example: ginnel netcheck --json")]
    Netcheck(JsonArgs),
    /// List who belongs to a network
    #[command(after_help = "Example: ginnel members home")]
    Members(ListArgs),
    /// Remove a device for good
    #[command(after_help = "Example: sudo ginnel revoke old-phone --reason \"lost on a train\"")]
    Revoke(RevokeArgs),
    /// Show who admitted and removed whom, when
    #[command(after_help = "Example: ginnel log home --json")]
    Log(ListArgs),
    /// Show who has an address or a name
    #[command(after_help = "Example: ginnel whois 10.71.3.9")]
    Whois(WhoisArgs),
    /// Print the addresses of this or another device, one a line
    #[command(after_help = "Example: ssh $(ginnel ip nas | head -1)")]
    Ip(IpArgs),
    /// Run a stand-alone DHT node: the bootstrap of a closed network or of a lab
    #[command(after_help = "Example: ginnel dht --listen 192.0.2.1:6881")]
    Dht(DhtArgs),
    /// Print the completions of a shell
    #[command(after_help = "Example: ginnel completions bash > /etc/bash_completion.d/ginnel")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// `ginnel agent`
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The configuration; /etc/ginnel/ginnel.toml, if it exists, where left out
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where keys, logs and caches are kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// Use the plain TUN device, without segmentation offload
    #[arg(long, hide = true)]
    pub no_offload: bool,
}

/// `ginnel create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The network's name: letters, digits and hyphens
    pub network: DeviceName,
    /// This device's name in it; its host name where left out
    #[arg(long, value_name = "DEVICE")]
    pub name: Option<DeviceName>,
    /// Take IPv4 addresses from this prefix
    #[arg(long, value_name = "CIDR", conflicts_with = "no_ipv4")]
    pub ipv4_pool: Option<Ipv4Pool>,
    /// Use IPv6 only
    #[arg(long)]
    pub no_ipv4: bool,
    /// Do not open a first invite
    #[arg(long)]
    pub no_invite: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `ginnel invite`
#[derive(Debug, Args)]
pub struct InviteArgs {
    /// The network; may be left out where there is one
    pub network: Option<String>,
    /// The name that the joining device gets
    #[arg(long, value_name = "DEVICE")]
    pub name: Option<DeviceName>,
    /// How long it is valid, at most 7d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_expiry)]
    pub expires: Duration,
    /// The joining device becomes an admin; the agent of this version refuses
    #[arg(long, hide = true)]
    pub admin: bool,
    /// Sign before another device confirmed this one's log; wrong after a restore from a backup
    #[arg(long)]
    pub offline: bool,
    /// Draw it as a QR code as well, on stderr
    #[arg(long)]
    pub qr: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `ginnel join`
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The invite, @FILE that holds it, or - for stdin; asked for where left out
    pub invite: Option<OsString>,
    /// This device's name in the network; its host name where left out
    #[arg(long, value_name = "DEVICE")]
    pub name: Option<DeviceName>,
    /// When to give up
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// Print one JSON object a line for each stage
    #[arg(long)]
    pub json: bool,
}

/// `ginnel leave`, `up` and `down`
#[derive(Debug, Args)]
pub struct NetworkArgs {
    /// The network; may be left out where there is one
    pub network: Option<String>,
}

/// `ginnel peers`, `members` and `log`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The network; may be left out where there is one
    pub network: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `ginnel status`
#[derive(Debug, Default, Args)]
pub struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Exit with 7 where this does not hold
    #[arg(long, value_enum, value_name = "WHAT")]
    pub check: Option<Check>,
}

/// What `status --check` can ask for; each includes the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Check {
    /// The agent answers
    Live,
    /// Every network is up and can find its devices
    Ready,
    /// And every connected device is reached directly
    Direct,
}

/// `ginnel ping`
#[derive(Debug, Args)]
pub struct PingArgs {
    /// A name, an overlay address or a key prefix
    pub device: String,
    /// How many probes; until interrupted where left out
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub count: Option<u32>,
    /// Stop at the first reply that came directly
    #[arg(long)]
    pub until_direct: bool,
    /// When to give up on the whole [default: none; with -c, one second a probe and 30s; with
    /// --until-direct, 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
    /// Print one JSON object a line for each reply, then a summary
    #[arg(long)]
    pub json: bool,
}

/// `ginnel netcheck`
#[derive(Debug, Args)]
pub struct JsonArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `ginnel revoke`
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// A name, an overlay address or a key prefix
    pub device: String,
    /// Why, for the log that every member can read
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Sign before another device confirmed this one's log; wrong after a restore from a backup
    #[arg(long)]
    pub offline: bool,
}

/// `ginnel whois`
#[derive(Debug, Args)]
pub struct WhoisArgs {
    /// An overlay address, a name or a key prefix
    #[arg(value_name = "ADDRESS|NAME")]
    pub device: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `ginnel ip`
#[derive(Debug, Args)]
pub struct IpArgs {
    /// A name, an overlay address or a key prefix; this device where left out
    pub device: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `ginnel dht`
#[derive(Debug, Args)]
pub struct DhtArgs {
    /// The UDP address and port to answer at; the DHT speaks IPv4
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:6881")]
    #[arg(value_parser = parse_listen)]
    pub listen: SocketAddrV4,
    /// A node to start from; without one this node is the first of its network
    #[arg(long, value_name = "HOST:PORT", num_args = 1..)]
    pub bootstrap: Vec<HostPort>,
}

fn parse_listen(text: &str) -> Result<SocketAddrV4, String> {
    text.parse().map_err(|_| "an address looks like 0.0.0.0:6881".into())
}

fn parse_expiry(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        duration if duration < Duration::from_secs(1) => Err("an invite lasts at least 1s".into()),
        duration if duration > MAX_EXPIRY => Err("an invite lasts at most 7d".into()),
        duration => Ok(duration),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        duration if duration < Duration::from_millis(1) => Err("a timeout is at least 1ms".into()),
        duration if duration > MAX_TIMEOUT => Err("a timeout is at most 7d 1h".into()),
        duration => Ok(duration),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "a duration looks like 90s, 10m or 24h".into())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_verb_has_a_help_text_and_an_example() {
        for verb in CommandLine::command().get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
            let example = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                example.contains("Example") && example.contains("ginnel "),
                "{}",
                verb.get_name()
            );
        }
    }

    #[test]
    fn the_socket_may_stand_before_or_after_the_verb() {
        for line in ["ginnel --socket /x status", "ginnel status --socket /x", "ginnel --socket /x"]
        {
            assert_eq!(parse(line).unwrap().socket, PathBuf::from("/x"), "{line}");
        }
        assert_eq!(parse("ginnel up").unwrap().socket, PathBuf::from(DEFAULT_SOCKET));
    }

    #[test]
    fn without_a_verb_there_is_none_and_status_is_shown() {
        assert!(parse("ginnel").unwrap().verb.is_none());
    }

    #[test]
    fn an_invite_lasts_between_a_second_and_a_week() {
        let expires = |line: &str| match parse(line).map(|parsed| parsed.verb) {
            Ok(Some(Verb::Invite(invite))) => Ok(invite.expires.as_secs()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.kind()),
        };
        assert_eq!(expires("ginnel invite"), Ok(24 * 3600));
        assert_eq!(expires("ginnel invite home --expires 7d"), Ok(7 * 24 * 3600));
        for bad in ["8d", "0s", "900ms", "-1h", "1", "soon", "99999999999999999999y"] {
            let line = format!("ginnel invite --expires={bad}");
            assert_eq!(expires(&line), Err(ErrorKind::ValueValidation), "{bad}");
        }
    }

    #[test]
    fn a_pool_and_no_ipv4_exclude_one_another() {
        for line in
            ["ginnel ping", "ginnel ping nas -c 0", "ginnel status --check well", "ginnel frob"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
        let error = parse("ginnel create home --no-ipv4 --ipv4-pool 10.0.0.0/16").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn a_dht_node_takes_several_bootstrap_nodes() {
        let parsed = parse("ginnel dht --listen 127.0.0.1:7 --bootstrap a:1 b:2 --bootstrap c:3");
        let Some(Verb::Dht(dht)) = parsed.unwrap().verb else { panic!("not dht") };
        assert_eq!(dht.bootstrap.iter().map(HostPort::port).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
