//! What a flood takes from those who are there already, and from those who want to come.
//!
//! The machine has two cores for all of it: the flood's own sender, the kernel that carries it, both
//! agents and both ends of the stream. So a stream beside the flood is compared with a stream
//! beside the same flood to a port where nobody listens: the difference is the agent's.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::sample::{Server, percentile};
use super::{Figure, Options, in_quiet_world, median, seconds};
use crate::lab::flood::{A_SECOND, Flood, Noise, Sent};
use crate::lab::resources::{processor_time, resident};
use crate::lab::world::World;
use crate::scenarios::flood::{Victim, comes_back};

/// One stream, whole seconds.
const STREAM: u64 = 2;
/// A flood has reached its rate when the stream begins.
const RISE: Duration = Duration::from_millis(200);
/// How often an honest device comes back in a flood: the second slowest is the 95th percentile.
const COMEBACKS: usize = 20;

/// What one kind of noise did.
struct Seen {
    noise: Noise,
    /// Gbit/s beside a flood to the agent, by round.
    open: Vec<f64>,
    /// Gbit/s beside one to a closed port.
    closed: Vec<f64>,
    sent: Vec<Sent>,
    /// Processor seconds of the flooded agent a second, in the flood, with the stream.
    core: Vec<f64>,
    /// Bytes.
    growth: u64,
    comebacks: Vec<Duration>,
}

/// Every kind of noise.
pub fn in_a_flood(options: &Options) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    in_quiet_world(|world| {
        let mut victim = Victim::new(world)?;
        for noise in victim.noises()? {
            eprintln!("a flood of {}", noise.name());
            let seen = watch(world, &mut victim, noise, options)?;
            figures.extend(seen.figures());
        }
        Ok(())
    })?;
    Ok(figures)
}

fn watch(world: &World, victim: &mut Victim, noise: Noise, options: &Options) -> Result<Seen> {
    let mut seen = Seen {
        noise,
        open: Vec::new(),
        closed: Vec::new(),
        sent: Vec::new(),
        core: Vec::new(),
        growth: 0,
        comebacks: Vec::new(),
    };
    let target = victim.target()?;
    let mut closed = target;
    closed.set_port(target.port() ^ 1);
    let (pid, to) = (victim.a.pid()?, victim.a.addresses()?[0]);
    let server = Server::start(world, &victim.a.namespace, to)?;
    let before = resident(pid)?;
    for _ in 0..options.rounds() {
        for (target, rates) in [(closed, &mut seen.closed), (target, &mut seen.open)] {
            let flood = Flood::start(&victim.stranger, target, noise, A_SECOND)?;
            std::thread::sleep(RISE);
            let spent = processor_time(pid)?;
            rates.push(server.stream(&victim.b.namespace, STREAM, &[])?.gigabits);
            let spent = processor_time(pid)? - spent;
            let sent = flood.finish(0)?;
            if target != closed {
                seen.core.push(spent.as_secs_f64() / STREAM as f64);
                seen.sent.push(sent);
            }
            seen.growth = seen.growth.max(resident(pid)?.saturating_sub(before));
        }
    }
    drop(server);
    let flood = Flood::start(&victim.stranger, target, noise, A_SECOND)?;
    for _ in 0..if options.quick { 3 } else { COMEBACKS } {
        seen.comebacks.push(comes_back(&mut victim.b, to)?);
    }
    seen.sent.push(flood.finish(0)?);
    seen.growth = seen.growth.max(resident(pid)?.saturating_sub(before));
    Ok(seen)
}

impl Seen {
    fn figures(&self) -> Vec<Figure> {
        let name = self.noise.name();
        let kept = median(&self.open) / median(&self.closed) * 100.0;
        let rate: Vec<f64> = self.sent.iter().map(Sent::rate).collect();
        let sender =
            self.sent.iter().map(|sent| sent.spent.as_secs_f64() / sent.took.as_secs_f64());
        let sender: Vec<f64> = sender.collect();
        let mut comebacks = seconds(&self.comebacks);
        comebacks.sort_by(f64::total_cmp);
        let raw = json!({
            "gigabits_open": self.open, "gigabits_closed": self.closed, "datagrams_a_second": rate,
            "sender_cores": sender, "agent_cores": self.core, "growth_bytes": self.growth,
            "comeback_seconds": comebacks,
        });
        let words = format!(
            "{:.0} a second from {:.2} of a core; the agent uses {:.2} of a core with the stream",
            median(&rate),
            median(&sender),
            median(&self.core)
        );
        let growth = self.growth as f64 / f64::from(1 << 20);
        vec![
            Figure::note(&format!("a flood of {name}"), words, raw),
            Figure::at_least("… throughput of an established tunnel kept", kept, 90.0, "%"),
            Figure::at_most("… memory added", growth, 8.0, "MiB", json!(growth)),
            Figure::at_most(
                "… an honest device starts and is answered, p95",
                percentile(&comebacks, 0.95),
                2.0,
                "s",
                json!(comebacks),
            ),
        ]
    }
}
