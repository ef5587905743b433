//! A stock WireGuard with a member's keys talks to an agent.
//!
//! What the agent says inside the tunnel goes unanswered: user data flows all the same, since the
//! member's certificate is what admits its WireGuard key. Handshakes are answered where they came
//! from; data goes only where a path check was answered, so somebody at the stock peer's address
//! has to answer those.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{CONNECT_LIMIT, Scenario, connect};
use crate::lab::host::Host;
use crate::lab::lan::cable;
use crate::lab::namespace::Namespace;
use crate::lab::process::run;
use crate::lab::stock::{Checks, Stock};
use crate::lab::traffic::{first_ping, ping, transfer};
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] =
    &[("stock_wireguard_with_a_members_keys_exchanges_data_with_an_agent", exchanges)];

/// What these need beyond the lab's own tools.
pub const TOOLS: &[&str] = &["wg", "wireguard-go"];

/// WireGuard's initiator makes new keys with the first packet after this (paper, section 6.1).
const REKEY_AFTER: u64 = 120;
/// MiB of each transfer.
const MEBIBYTES: usize = 16;

/// ```text
/// a ── cable ── b       an agent at first, then wireguard-go under the same keys
/// ```
struct Pair {
    a: Host,
    b: Host,
    stock: Stock,
}

impl Pair {
    fn start(world: &World) -> Result<Self> {
        let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
        let [outer, _] = cable(&a, &b)?;
        let (mut a, mut b) = connect(world.host_in("a", a)?, world.host_in("b", b)?)?;
        let member = b.status()?;
        b.kill9();
        // Our timestamps count from another second of TAI than most, and so are 27 s ahead: to an
        // agent that remembers them the stock peer's would be replays.
        a.kill9();
        a.start()?;
        let stock = Stock::start(world, &b, &member, &a.status()?, outer)?;
        Ok(Pair { a, b, stock })
    }

    fn answer_checks(&self) -> Result<Checks> {
        Checks::answer(&self.b, &self.a.status()?.public_key()?, self.stock.port())
    }

    fn last_handshake(&self) -> Result<u64> {
        self.stock.last_handshake(&self.b)
    }

    /// Pings and TCP both ways, over IPv4 and IPv6.
    fn exchange(&self) -> Result<()> {
        let (a, b) = (self.a.addresses()?, self.stock.addresses());
        for (from, to, addresses) in [(&self.b, &self.a, a), (&self.a, &self.b, b)] {
            for address in addresses {
                ensure!(ping(&from.namespace, address, 5)? == 5, "{} to {address}", from.name);
                transfer(&from.namespace, &to.namespace, address, MEBIBYTES)?;
            }
        }
        Ok(())
    }
}

/// See [`Pair`]. Handshakes begun by either side, new ones while the sessions before still hold.
fn exchanges(world: &mut World) -> Result<()> {
    let pair = Pair::start(world)?;
    let to_a = pair.a.addresses()?[0];
    ensure!(ping(&pair.b.namespace, to_a, 5)? == 0, "data went to an address that proved nothing");
    ensure!(pair.last_handshake()? > 0, "the agent did not answer the handshake");
    let _checks = pair.answer_checks()?;
    first_ping(&pair.b.namespace, to_a, CONNECT_LIMIT)?;
    pair.exchange().context("under the first keys")?;
    // As after two minutes, but at once: the agent still holds a session, the stock peer none.
    pair.stock.begin_anew(&pair.b)?;
    first_ping(&pair.b.namespace, to_a, CONNECT_LIMIT)?;
    ensure!(pair.last_handshake()? > 0, "no second handshake");
    pair.exchange().context("under the stock peer's new keys")?;
    // The stock peer lost them, as by a restart, and has nothing to say. The agent begins when its
    // data has gone unanswered for 15 s (paper, section 6.2).
    pair.stock.begin_anew(&pair.b)?;
    first_ping(&pair.a.namespace, pair.stock.addresses()[0], CONNECT_LIMIT)?;
    ensure!(pair.last_handshake()? > 0, "no third handshake");
    pair.exchange().context("under the agent's new keys")
}

/// See [`Pair`]. The stock peer makes new keys by itself, and no packet is lost meanwhile.
pub fn rekeys(world: &mut World) -> Result<()> {
    let pair = Pair::start(world)?;
    let to_a = pair.a.addresses()?[0];
    let _checks = pair.answer_checks()?;
    first_ping(&pair.b.namespace, to_a, CONNECT_LIMIT)?;
    let first = pair.last_handshake()?;
    let seconds = REKEY_AFTER as u32 + 20;
    let mut command = Command::new("ping");
    command.args(["-n", "-i", "1", "-W", "1", "-c", &seconds.to_string(), &to_a.to_string()]);
    let limit = Duration::from_secs(u64::from(seconds) + 30);
    let said = pair.b.namespace.run(|| run(&mut command, limit))?.success()?;
    ensure!(said.contains(&format!(" {seconds} received")), "{said}");
    let last = pair.last_handshake()?;
    ensure!(last >= first + REKEY_AFTER, "no new keys in {seconds} s: {first}, {last}");
    pair.exchange()?;
    println!("stock wireguard-go: {seconds} of {seconds} pings, new keys after {} s", last - first);
    Ok(())
}
