//! The configuration: `RawConfig` is the file as written, [`Config`] is what the rest may rely on.
//!
//! This is the only reader of the configuration file and of `GINNEL_LOG`. Every value is parsed
//! once, here, into the type that its user needs, so that a mistake is found before the agent
//! touches anything. An error names the file, the line and the key.
//!
//! The file is TOML and wholly optional. A missing file is an error only where it was named on the
//! command line; an unknown key is always an error, since a misspelt one would silently do nothing.

mod workers;

use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

pub use workers::{WorkerCount, WorkerCountError};

/// The file that is read where none is named.
pub const DEFAULT_CONFIG: &str = "/etc/ginnel/ginnel.toml";

/// The folder of keys, logs and caches where none is named.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/ginnel";

/// The agent's socket where none is named.
pub const DEFAULT_SOCKET: &str = "/run/ginnel/ginnel.sock";

/// The environment variable that replaces `agent.log`.
pub const LOG_VARIABLE: &str = "GINNEL_LOG";

/// Reflectors that have answered anybody for years, each of another operator: two must agree
/// before an address is believed, and a third covers for one that is down.
const STUN_SERVERS: [(&str, u16); 4] = [
    ("stun.cloudflare.com", 3478),
    ("stun.l.google.com", 19302),
    ("stun.nextcloud.com", 3478),
    ("stun.sipgate.net", 3478),
];

/// The longest interface prefix: the kernel allows 15 bytes (`IFNAMSIZ` with its NUL), and four of
/// them are left for the number.
const MAX_PREFIX_LEN: usize = 11;

/// A file of 1 MiB holds far more than every key there is; a larger one is a mistake.
const MAX_FILE_LEN: u64 = 1 << 20;

/// What the agent runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// UDP port of the tunnels; 0 = pick one once and keep it.
    pub port: u16,
    /// What the names of interfaces start with; a number follows.
    pub interface_prefix: InterfacePrefix,
    /// How many workers carry a network's packets.
    pub workers: WorkerCount,
    /// What is logged.
    pub log: LogFilter,
    /// The DHT.
    pub dht: DhtConfig,
    /// The STUN servers to ask; empty = none.
    pub stun_servers: Vec<HostPort>,
    /// Whether to ask routers for port mappings.
    pub port_mapping: bool,
    /// Whether to look for members on the local network.
    pub lan_discovery: bool,
    /// Whether to relay for other members when this device is reachable.
    pub relay_offer: bool,
}

/// How the DHT is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhtConfig {
    /// Whether it is used at all.
    pub enabled: bool,
    /// Replaces the public Mainline bootstrap nodes.
    pub bootstrap: Option<Vec<HostPort>>,
    /// Its UDP port; 0 = any.
    pub port: u16,
}

impl Config {
    /// Reads the file, or [`DEFAULT_CONFIG`] if there is one, and then [`LOG_VARIABLE`].
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_CONFIG));
        let mut config = match read(path) {
            Ok(text) => Self::parse(&text, path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {
                Self::default()
            }
            Err(reason) => return Err(ConfigError::Read { path: path.into(), reason }),
        };
        if let Some(filter) = LogFilter::from_env()? {
            config.log = filter;
        }
        Ok(config)
    }

    /// Parses the text of `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: RawConfig = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.into(),
            place: Place::of(text, error.span().map_or(text.len(), |span| span.start)),
            message: error.message().trim_end().replace('\n', " "),
        })?;
        Ok(raw.into())
    }
}

impl Default for Config {
    fn default() -> Self {
        RawConfig::default().into()
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// The file says something that cannot be.
    #[error("{}, {place}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// What is wrong.
        message: String,
    },
    /// The environment variable is no filter.
    #[error("{LOG_VARIABLE}: {0}")]
    Environment(LogFilterError),
}

/// A place in the file: a line, and the key that it belongs to where one is in sight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    line: usize,
    key: Option<String>,
}

impl Place {
    fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let (mut section, mut key) = (None, None);
        for candidate in text.lines().take(line).map(str::trim) {
            if let Some(name) = candidate.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                (section, key) = (Some(name.0.trim()), None);
            } else if let Some((name, _)) = candidate.split_once('=')
                && is_bare_key(name.trim())
            {
                key = Some(name.trim());
            }
        }
        let key = match (section, key) {
            (Some(section), Some(key)) => Some(format!("{section}.{key}")),
            (Some(name), None) | (None, Some(name)) => Some(name.to_owned()),
            (None, None) => None,
        };
        Self { line, key }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        self.key.iter().try_for_each(|key| write!(f, ", {key}"))
    }
}

/// A host name or address, and a port: `host:port`, `1.2.3.4:port` or `[::1]:port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is no [`HostPort`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host and a port, like \"stun.example.org:3478\" or \"[2001:db8::1]:3478\"")]
pub struct HostPortError(String);

impl HostPort {
    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let malformed = || HostPortError(text.chars().take(80).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(malformed)?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(v6)) if v6.parse::<Ipv6Addr>().is_ok() => v6,
            None if is_host(host) => host,
            Some(_) | None => return Err(malformed()),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl TryFrom<String> for HostPort {
    type Error = HostPortError;

    fn try_from(text: String) -> Result<Self, HostPortError> {
        text.parse()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// What an interface's name starts with: 1 to 11 of `a-z A-Z 0-9 - _`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct InterfacePrefix(String);

/// Why a text is no [`InterfacePrefix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an interface prefix has 1 to 11 letters, digits, hyphens and underscores")]
pub struct InterfacePrefixError;

impl InterfacePrefix {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for InterfacePrefix {
    type Error = InterfacePrefixError;

    fn try_from(text: String) -> Result<Self, InterfacePrefixError> {
        let fits = (1..=MAX_PREFIX_LEN).contains(&text.len()) && is_bare_key(&text);
        if fits { Ok(Self(text)) } else { Err(InterfacePrefixError) }
    }
}

/// A filter in the syntax of `tracing-subscriber`, known to parse. Values of fields are text: as
/// regular expressions a line of them would take longer to read than the whole start.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LogFilter(String);

/// Why a text is no [`LogFilter`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a log filter like \"info\" or \"info,ginnel::mesh=debug\": {0}")]
pub struct LogFilterError(String);

impl LogFilter {
    /// The filter in [`LOG_VARIABLE`], if it is set and not empty.
    pub fn from_env() -> Result<Option<Self>, ConfigError> {
        match std::env::var(LOG_VARIABLE) {
            Ok(text) if !text.is_empty() => {
                Self::try_from(text).map(Some).map_err(ConfigError::Environment)
            }
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl TryFrom<String> for LogFilter {
    type Error = LogFilterError;

    fn try_from(text: String) -> Result<Self, LogFilterError> {
        // The parser of tracing-subscriber 0.3 takes places in the trimmed directive for places in
        // the whole one: with a space in front it reads another target, or panics.
        let text = text.split(',').map(str::trim).collect::<Vec<_>>().join(",");
        match EnvFilter::builder().with_regex(false).parse(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(LogFilterError(error.to_string())),
        }
    }
}

/// The file as written; what is absent has the default that [`Config::from`] gives it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawConfig {
    agent: RawAgent,
    dht: RawDht,
    stun: RawStun,
    port_mapping: RawSwitch,
    lan_discovery: RawSwitch,
    relay: RawRelay,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawAgent {
    port: u16,
    interface_prefix: Option<InterfacePrefix>,
    workers: WorkerCount,
    log: LogFilter,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawDht {
    enabled: Option<bool>,
    bootstrap: Option<Vec<HostPort>>,
    port: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawStun {
    servers: Option<Vec<HostPort>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawSwitch {
    enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawRelay {
    offer: Option<bool>,
}

impl From<RawConfig> for Config {
    fn from(raw: RawConfig) -> Self {
        let RawDht { enabled, bootstrap, port } = raw.dht;
        let prefix = || InterfacePrefix("ginnel".to_owned());
        let built_in =
            || STUN_SERVERS.map(|(host, port)| HostPort { host: host.into(), port }).into();
        Self {
            port: raw.agent.port,
            interface_prefix: raw.agent.interface_prefix.unwrap_or_else(prefix),
            workers: raw.agent.workers,
            log: raw.agent.log,
            dht: DhtConfig { enabled: enabled.unwrap_or(true), bootstrap, port },
            stun_servers: raw.stun.servers.unwrap_or_else(built_in),
            port_mapping: raw.port_mapping.enabled.unwrap_or(true),
            lan_discovery: raw.lan_discovery.enabled.unwrap_or(true),
            relay_offer: raw.relay.offer.unwrap_or(true),
        }
    }
}

/// Reads at most [`MAX_FILE_LEN`] bytes of UTF-8.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let read = io::Read::read_to_string(&mut io::Read::take(file, MAX_FILE_LEN + 1), &mut text)?;
    if read as u64 > MAX_FILE_LEN {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(text)
}

fn is_bare_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A host name or an IPv4 address: what a resolver may be asked for.
fn is_host(text: &str) -> bool {
    let label = |label: &str| (1..=63).contains(&label.len()) && is_bare_key(label);
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("ginnel.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_gives_the_defaults_of_the_interface() {
        let config = parse("").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!((config.port, config.dht.port, config.dht.bootstrap), (0, 0, None));
        assert_eq!(config.interface_prefix.as_str(), "ginnel");
        assert_eq!(config.log.as_str(), "info");
        assert!((1..=4).contains(&config.workers.get()));
        assert!(config.dht.enabled && config.port_mapping);
        assert!(config.lan_discovery && config.relay_offer);
        assert!(config.stun_servers.len() >= 3);
    }

    #[test]
    fn every_key_of_the_interface_is_read() {
        let config = parse(
            "[agent]\nport = 41641\ninterface_prefix = \"gn\"\nworkers = 3\nlog = \"debug,ginnel::mesh=trace\"\n\
             [dht]\nenabled = false\nbootstrap = [\"a.example:6881\", \"[::1]:1\"]\nport = 7\n\
             [stun]\nservers = []\n[port_mapping]\nenabled = false\n\
             [lan_discovery]\nenabled = false\n[relay]\noffer = false\n",
        )
        .unwrap();
        assert_eq!((config.port, config.dht.port), (41641, 7));
        assert_eq!((config.interface_prefix.as_str(), config.workers.get()), ("gn", 3));
        assert_eq!(config.log.as_str(), "debug,ginnel::mesh=trace");
        let bootstrap = config.dht.bootstrap.unwrap();
        assert_eq!(bootstrap[0].to_string(), "a.example:6881");
        assert_eq!((bootstrap[1].host(), bootstrap[1].to_string().as_str()), ("::1", "[::1]:1"));
        assert_eq!(config.stun_servers, []);
        assert!(!config.dht.enabled && !config.port_mapping);
        assert!(!config.lan_discovery && !config.relay_offer);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it_and_its_line() {
        let error = parse("[agent]\n\nprot = 5\n").unwrap_err();
        assert!(
            error.starts_with("ginnel.toml, line 3, agent.prot: unknown field `prot`"),
            "{error}"
        );
        let error = parse("[agents]\nport = 5\n").unwrap_err();
        assert!(error.starts_with("ginnel.toml, line 1, agents: unknown field"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_an_error_that_names_its_key_and_line() {
        for (text, expected) in [
            ("[agent]\nport = \"x\"\n", "line 2, agent.port: invalid type"),
            ("[agent]\nport = 70000\n", "line 2, agent.port: invalid value"),
            (
                "[stun]\nservers = [\n  \"a:1\",\n  \"b\",\n]\n",
                "line 2, stun.servers: \"b\" is not a host",
            ),
            ("[dht]\nbootstrap = [\"a:0\"]\n", "line 2, dht.bootstrap: \"a:0\" is not a host"),
            (
                "[agent]\ninterface_prefix = \"much-too-long\"\n",
                "line 2, agent.interface_prefix: an int",
            ),
            ("[agent]\nworkers = 0\n", "line 2, agent.workers: the number of workers is 1 to 16"),
            ("[agent]\nworkers = 17\n", "line 2, agent.workers: the number of workers is 1 to 16"),
            ("[agent]\nworkers = -1\n", "line 2, agent.workers: invalid value"),
            ("[agent]\nlog = \"ginnel=loud\"\n", "line 2, agent.log: not a log filter"),
            ("[agent\n", "line 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn spaces_in_a_log_filter_change_nothing_and_other_scripts_are_no_panic() {
        let filter = |text: &str| LogFilter::try_from(text.to_owned()).map(|filter| filter.0);
        assert_eq!(filter(" info , ginnel::mesh=debug\n"), Ok("info,ginnel::mesh=debug".into()));
        assert!(filter(" a[b\u{fffd}{x").is_err());
    }

    #[test]
    fn a_missing_file_is_an_error_only_where_it_was_named() {
        let missing = Path::new("/nonexistent/ginnel.toml");
        let error = Config::load(Some(missing)).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ginnel.toml"), "{error}");
    }

    #[test]
    fn hosts_and_ports_that_no_resolver_could_use_are_refused() {
        for text in
            ["", ":", "a", "a:", ":1", "a:b", "a:65536", "::1:5", "[::1:5", "[x]:5", "a b:5"]
        {
            assert!(text.parse::<HostPort>().is_err(), "{text:?}");
        }
    }
}
