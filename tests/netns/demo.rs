//! A private LAN forms, told in plain words: what `scripts/demo.sh` shows.
//!
//! The same lab and the same binary as the tests. Every step prints what a person would type, what
//! came back and how long it took; a table of the times closes it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::host::Host;
use crate::lab::nat::Nat;
use crate::lab::traffic::{Stream, first_ping, longest_silence, ping, round_trip, transfer};
use crate::lab::world::{DhtNode, World};

/// No step waits longer.
const LIMIT: Duration = Duration::from_secs(60);
/// How much is sent between two machines.
const MEBIBYTES: usize = 50;

const PICTURE: &str = r"
      anna ── home router ─┐                  ┌─ office router ── ben
             (NAT)         │                  │        (NAT)
                           ├── “the Internet” ┤
      8 strangers' DHT ────┤   25 ms one way  ├─ café router ─── carla
      nodes, 2 STUN servers┘                  └        (NAT)
";

/// Tells the whole story.
pub fn run(world: &mut World) -> Result<()> {
    let mut story = Story { steps: Vec::new(), started: Instant::now() };
    println!("A small Internet is made inside this machine, out of network namespaces:\n{PICTURE}");
    println!("None of the three machines can be reached from outside: each router is a NAT that");
    println!("drops whatever was not asked for. There is no server of ginnel's anywhere.");

    let routers = story.step("Set up the Internet, its DHT and three routers", || {
        world.add_servers()?;
        Ok([
            world.router("home", Nat::PortRestricted)?,
            world.router("office", Nat::PortRestricted)?,
            world.router("cafe", Nat::PortRestricted)?,
        ])
    })?;
    let mut anna = world.host("anna", &routers[0].lan)?;
    let mut ben = world.host("ben", &routers[1].lan)?;
    let mut carla = world.host("carla", &routers[2].lan)?;
    story.step("Start the agent on each machine (what the systemd unit does)", || {
        [&mut anna, &mut ben, &mut carla].into_iter().try_for_each(Host::start)
    })?;
    two_join(&mut story, &anna, &ben)?;
    traffic(&mut story, &anna, &ben)?;
    third_joins(&mut story, [&anna, &ben, &carla])?;
    dht_dies(&mut story, world, &anna, &ben)?;
    carla_is_revoked(&mut story, [&anna, &ben, &carla])?;
    story.step("Stop all agents; they take their interfaces and routes with them", || {
        for host in [&mut anna, &mut ben, &mut carla] {
            ensure!(host.stop()?.success(), "the agent of {} did not end well", host.name);
            let links = host.namespace.tool("ip", &["-br", "link"])?;
            ensure!(!links.contains("ginnel"), "an interface is left on {}", host.name);
        }
        Ok(())
    })?;
    story.close();
    Ok(())
}

fn two_join(story: &mut Story, anna: &Host, ben: &Host) -> Result<()> {
    let created = story.step("Anna makes a network", || {
        typed(anna, "ginnel create home");
        anna.create("home")
    })?;
    let ipv4 = created.ipv4.map(|address| address.to_string()).unwrap_or_default();
    println!("   Anna's machine is {ipv4} and {} now. It printed an invite:", created.ipv6);
    println!("   {}… (one use, one day)", created.invite.chars().take(40).collect::<String>());
    story.step("Ben joins with the invite; the two machines find each other in the DHT", || {
        typed(ben, "ginnel join ginnel1…");
        ben.join(&created.invite)
    })?;
    let [address, _] = anna.addresses()?;
    story.step("The first ping from Ben to Anna", || {
        typed(ben, &format!("ping {address}"));
        first_ping(&ben.namespace, address, LIMIT)
    })?;
    let status =
        story.step("The path is direct: both NATs have a hole for the other one", || {
            ben.wait_for("a direct path", LIMIT, |status| {
                status.path_kind("anna") == Some("direct")
            })
        })?;
    let endpoint = status.path_endpoint("anna").unwrap_or_default();
    let mean = round_trip(&ben.namespace, address, 5)?;
    println!("   Ben sends to {endpoint}, the outside of Anna's router; a round trip takes");
    println!("   {:.1} ms, of which the Internet alone takes 50.", mean.as_secs_f64() * 1000.0);
    Ok(())
}

fn traffic(story: &mut Story, anna: &Host, ben: &Host) -> Result<()> {
    for (address, version) in anna.addresses()?.into_iter().zip(["IPv4", "IPv6"]) {
        let name = format!("Ben sends {MEBIBYTES} MiB to Anna over TCP and {version}");
        let took =
            story.step(&name, || transfer(&ben.namespace, &anna.namespace, address, MEBIBYTES))?;
        let rate = MEBIBYTES as f64 * 8.388_608 / took.as_secs_f64();
        println!("   SHA-256 is the same at both ends; {rate:.0} Mbit/s.");
    }
    show(anna, &["status"])
}

fn third_joins(story: &mut Story, [anna, ben, carla]: [&Host; 3]) -> Result<()> {
    story.step("Anna invites Carla, who joins from the café", || {
        typed(anna, "ginnel invite");
        let invite = anna.invite(&[])?;
        typed(carla, "ginnel join ginnel1…");
        carla.join(&invite)
    })?;
    story.step("Ben, whom nobody told, can reach Carla as well", || {
        ben.wait_for("Carla in the roster", LIMIT, |status| status.peer("carla").is_some())?;
        first_ping(&ben.namespace, carla.addresses()?[0], LIMIT)
    })?;
    show(ben, &["peers"])
}

fn dht_dies(story: &mut Story, world: &mut World, anna: &Host, ben: &Host) -> Result<()> {
    let [address, _] = anna.addresses()?;
    let silence = story.step("All DHT nodes are killed while Ben sends to Anna", || {
        let every = Duration::from_millis(20);
        let stream = Stream::start(&ben.namespace, &anna.namespace, address, every)?;
        std::thread::sleep(Duration::from_millis(500));
        let started = Instant::now();
        world.dht.iter_mut().for_each(DhtNode::kill);
        std::thread::sleep(Duration::from_secs(3));
        Ok(longest_silence(&stream.finish()?, started, Instant::now()))
    })?;
    println!(
        "   Nobody noticed: the longest gap between two datagrams was {} ms.",
        silence.as_millis()
    );
    for node in &mut world.dht {
        node.start()?;
    }
    Ok(())
}

fn carla_is_revoked(story: &mut Story, [anna, ben, carla]: [&Host; 3]) -> Result<()> {
    let [address, _] = ben.addresses()?;
    let every = Duration::from_millis(5);
    let stream = Stream::start(&carla.namespace, &ben.namespace, address, every)?;
    std::thread::sleep(Duration::from_secs(1));
    let ordered =
        story.step("Carla's laptop is stolen: Anna removes it while it sends to Ben", || {
            typed(anna, "ginnel revoke carla");
            anna.ginnel(&["revoke", "carla", "--reason", "stolen"])?.success()?;
            let ordered = Instant::now();
            let told = |status: &crate::lab::status::Status| status.state() == "revoked";
            carla.wait_for("its own revocation", LIMIT, told)?;
            ben.wait_for("Carla gone", LIMIT, |status| status.peer("carla").is_none())?;
            Ok(ordered)
        })?;
    std::thread::sleep(Duration::from_secs(1));
    let arrivals = stream.finish()?;
    let last = arrivals.last().context("nothing of Carla's arrived before")?;
    let after = last.saturating_duration_since(ordered).as_millis();
    println!(
        "   The last of her {} datagrams reached Ben {after} ms after the order.",
        arrivals.len()
    );
    let answered = ping(&carla.namespace, anna.addresses()?[0], 5)?;
    println!("   Carla's machine now gets {answered} of 5 pings answered, and says so itself:");
    show(carla, &["status"])?;
    let answered = ping(&ben.namespace, anna.addresses()?[0], 5)?;
    println!("   Anna and Ben go on: {answered} of 5 pings answered.");
    Ok(())
}

/// Prints what a verb prints.
fn show(host: &Host, args: &[&str]) -> Result<()> {
    typed(host, &format!("ginnel {}", args.join(" ")));
    for line in host.ginnel_on_a_terminal(args)?.lines() {
        println!("   {}", line.trim_end());
    }
    Ok(())
}

fn typed(host: &Host, line: &str) {
    println!("   {}$ {line}", host.name);
}

/// The steps so far and their times.
struct Story {
    steps: Vec<(String, Duration)>,
    started: Instant,
}

impl Story {
    fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n{}. {name}", self.steps.len() + 1);
        let started = Instant::now();
        let result = work().with_context(|| format!("step {}: {name}", self.steps.len() + 1))?;
        let took = started.elapsed();
        println!("   done in {:.2} s", took.as_secs_f64());
        self.steps.push((name.into(), took));
        Ok(result)
    }

    fn close(&self) {
        println!("\nHow long each step took:");
        for (number, (name, took)) in self.steps.iter().enumerate() {
            println!("{:>8.2} s  {}. {name}", took.as_secs_f64(), number + 1);
        }
        println!("{:>8.2} s  altogether", self.started.elapsed().as_secs_f64());
    }
}
