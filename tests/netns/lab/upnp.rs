//! miniupnpd on a router: UPnP IGD, NAT-PMP and PCP.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::lan::Router;
use super::process::Daemon;
use super::world::World;

/// The chains miniupnpd fills, under the names it uses when told nothing else. Debian's script
/// that makes them lacks a file it reads, so the lab makes them. The forward chain of the lab
/// accepts what was translated here (`ct status dnat`).
const CHAINS: &str = r"
table inet filter {
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
  chain upnp_prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
  chain upnp_postrouting { type nat hook postrouting priority 90; jump postrouting_miniupnpd; }
}
";
/// It opens its ports within this.
const START_LIMIT: Duration = Duration::from_secs(5);

/// A running port mapper.
pub struct PortMapper {
    _daemon: Daemon,
}

impl PortMapper {
    /// Starts it on a router with a public address (it refuses to serve private ones).
    pub fn start(world: &World, router: &Router) -> Result<Self> {
        let namespace = router.lan.namespace();
        namespace.nft(CHAINS)?;
        let [a, b, c, _] = router.lan.gateway().octets();
        let mut text = String::new();
        writeln!(text, "ext_ifname=wan\next_ip={}\nlistening_ip=lan", router.wan())?;
        writeln!(text, "enable_upnp=yes\nenable_natpmp=yes\nsecure_mode=yes")?;
        writeln!(text, "upnp_table_name=filter\nupnp_nat_table_name=filter")?;
        writeln!(
            text,
            "uuid=8f2a5a52-5d2c-4f0e-9a53-6c1f43f0a0{d:02x}",
            d = router.wan().octets()[3]
        )?;
        writeln!(text, "allow 1024-65535 {a}.{b}.{c}.0/24 1024-65535")?;
        writeln!(text, "deny 0-65535 0.0.0.0/0 0-65535")?;
        let name = namespace.name();
        let configuration = world.folder().join(format!("{name}.miniupnpd.conf"));
        std::fs::write(&configuration, text)?;
        let log = world.log(&format!("miniupnpd of {name}"), &format!("{name}.miniupnpd.log"));
        let mut command = Command::new("miniupnpd");
        command.arg("-d").arg("-f").arg(&configuration);
        command.arg("-P").arg(world.folder().join(format!("{name}.miniupnpd.pid")));
        let mut daemon = Daemon::start(namespace, &mut command, &log)?;
        let until = Instant::now() + START_LIMIT;
        // The NAT-PMP port is opened last.
        while !namespace.tool("ss", &["-Huln", "sport", "=", ":5351"])?.contains(":5351") {
            if !daemon.is_running() || Instant::now() > until {
                bail!("miniupnpd did not start");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(PortMapper { _daemon: daemon })
    }

    /// The mappings it has made: lines of nft rules that translate to a host of the LAN.
    pub fn mappings(router: &Router) -> Result<Vec<String>> {
        let listing = ["list", "chain", "inet", "filter", "prerouting_miniupnpd"];
        let rules = router.lan.namespace().tool("nft", &listing)?;
        Ok(rules
            .lines()
            .filter(|line| line.contains("dnat"))
            .map(|line| line.trim().into())
            .collect())
    }
}
