//! What a device costs, and how that grows with the network.
//!
//! The figures of `README.md` and `budgets.svg` beside this file come from here; see there for the
//! command that makes them anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::crowd::Crowd;
use super::net::{NatKind, Weather};
use super::plot::{Line, plot};
use super::tally::{cpu_time, live_bytes};
use super::world::World;

/// The first minutes, in which everybody looks for everybody.
const COLD: Duration = Duration::from_secs(300);

/// Gossip, paths and caches are at their idle pace after this.
const SETTLING: Duration = Duration::from_secs(600);

/// How long an idle network is watched.
const IDLE: Duration = Duration::from_secs(600);

/// What one device costs in a minute, and holds at the end of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Cost([f64; COLUMNS.len()]);

/// The figures: short names in the data file, long ones in the table.
const COLUMNS: [(&str, &str); 12] = [
    ("datagrams", "datagrams sent"),
    ("bytes", "bytes sent"),
    ("checks", "path checks and STUN"),
    ("handshakes", "handshake messages"),
    ("messages", "control messages"),
    ("lookups", "DHT look-ups"),
    ("stores", "DHT stores"),
    ("cpu_ms", "CPU, ms"),
    ("tunnels", "tunnels"),
    ("memory_kib", "memory, KiB"),
    ("disk_kib", "disk, KiB"),
    ("ledger_kib", "logs and roster, KiB"),
];

impl Cost {
    fn get(&self, name: &str) -> f64 {
        let column = COLUMNS.iter().position(|(short, _)| *short == name);
        self.0[column.expect("a column")]
    }
}

/// What was done so far, by all devices together.
#[derive(Clone, Copy)]
struct Meter {
    at: Duration,
    counts: [f64; 8],
}

impl Meter {
    fn read(world: &World) -> Self {
        let (tally, operations) = (world.tally, world.dht.operations);
        let counts = [
            tally.datagrams as f64,
            tally.bytes as f64,
            (tally.checks + tally.stun) as f64,
            tally.handshakes as f64,
            tally.messages as f64,
            operations.lookups as f64,
            operations.publishes as f64,
            cpu_time().as_secs_f64() * 1000.0,
        ];
        Self { at: world.elapsed(), counts }
    }

    fn since(&self, before: &Self, world: &World, [memory, ledger]: [isize; 2]) -> Cost {
        let devices = world.nodes.len() as f64;
        let minutes = (self.at - before.at).as_secs_f64() / 60.0;
        let mut cost = Cost::default();
        for (column, (after, before)) in self.counts.iter().zip(before.counts).enumerate() {
            cost.0[column] = (after - before) / minutes / devices;
        }
        let disk: usize = world.nodes.iter().map(|node| node.disk.bytes()).sum();
        cost.0[8] = tunnels(world) / devices;
        cost.0[9] = memory as f64 / 1024.0 / devices;
        cost.0[10] = disk as f64 / 1024.0 / devices;
        cost.0[11] = ledger as f64 / 1024.0;
        cost
    }
}

/// Both ends of every connection.
fn tunnels(world: &World) -> f64 {
    world.nodes.iter().map(|node| node.mesh.connected().count()).sum::<usize>() as f64
}

/// Devices each behind a NAT of its own, which all start at once: their first minutes, and idle.
fn measure(devices: usize, settling: Duration, idle: Duration) -> [Cost; 2] {
    let mut world = World::new(1, Weather::FAIR);
    let crowd = Crowd::new(devices, 1);
    let ledger = crowd.ledger_bytes();
    let empty = live_bytes();
    let memory = || [live_bytes() - empty, ledger];
    let start = Meter::read(&world);
    crowd.start(&mut world, |world, _| Some(world.net.site(NatKind::PORT_RESTRICTED)));
    world.run_for(COLD);
    let cold = Meter::read(&world).since(&start, &world, memory());
    world.run_for(settling);
    let before = Meter::read(&world);
    world.run_for(idle);
    let idle = Meter::read(&world).since(&before, &world, memory());
    [cold, idle]
}

/// Idle, nothing grows faster than the logarithm of the network's size, and the DHT is left alone.
#[test]
fn what_an_idle_device_costs_hardly_grows_with_the_network() {
    let (settling, idle) = (Duration::from_secs(420), Duration::from_secs(300));
    // Ten have more neighbours to choose from than they keep.
    let [few, many] = [10, 40].map(|devices| measure(devices, settling, idle)[1]);
    // 1.6 is log 40 / log 10; the rest is for chance.
    let growth = 40_f64.ln() / 10_f64.ln() * 1.25;
    for column in ["datagrams", "bytes", "checks", "messages", "tunnels"] {
        let (few, many) = (few.get(column), many.get(column));
        assert!(many <= few * growth, "{column}: {few} a device among 10, {many} among 40");
    }
    for cost in [few, many] {
        assert!(cost.get("lookups") <= 0.1, "{cost:?}");
        assert!(cost.get("stores") <= 0.1, "{cost:?}");
    }
}

/// Everything that was measured, by size and phase.
type Figures = BTreeMap<(usize, String), Cost>;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sim")
}

fn read_figures() -> Figures {
    let text = std::fs::read_to_string(folder().join("budgets.tsv")).unwrap_or_default();
    let line = |line: &str| {
        let mut fields = line.split('\t');
        let key = (fields.next()?.parse().ok()?, fields.next()?.to_owned());
        let mut cost = Cost::default();
        for (value, field) in cost.0.iter_mut().zip(fields) {
            *value = field.parse().ok()?;
        }
        Some((key, cost))
    };
    text.lines().filter_map(line).collect()
}

fn write_figures(figures: &Figures) {
    let names: Vec<_> = COLUMNS.iter().map(|(short, _)| *short).collect();
    let mut text = format!("devices\tphase\t{}\n", names.join("\t"));
    for ((devices, phase), cost) in figures {
        let values: Vec<_> = cost.0.iter().map(|value| format!("{value:.4}")).collect();
        writeln!(text, "{devices}\t{phase}\t{}", values.join("\t")).expect("a string");
    }
    std::fs::write(folder().join("budgets.tsv"), text).expect("the source folder");
}

/// The table of one phase: a line a figure, a column a size.
fn table(figures: &Figures, phase: &str) -> String {
    let of_phase = || figures.iter().filter(|((_, of), _)| of == phase);
    let sizes: Vec<_> = of_phase().map(|((devices, _), _)| format!("{devices}")).collect();
    let mut text = format!("| {phase} | {} |\n", sizes.join(" | "));
    text.push_str(&format!("|---|{}\n", "---:|".repeat(sizes.len())));
    for (short, long) in COLUMNS {
        let values: Vec<_> = of_phase().map(|(_, cost)| short_number(cost.get(short))).collect();
        writeln!(text, "| {long} | {} |", values.join(" | ")).expect("a string");
    }
    text
}

/// Three digits.
fn short_number(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn draw(figures: &Figures) -> String {
    let line = |(name, column): (&'static str, &str)| {
        let idle = figures.iter().filter(|((_, phase), _)| phase == "idle");
        let points = idle.map(|((devices, _), cost)| (*devices as f64, cost.get(column)));
        Line { name, points: points.collect() }
    };
    let lines = [
        ("datagrams", "datagrams"),
        ("control messages", "messages"),
        ("tunnels", "tunnels"),
        ("CPU", "cpu_ms"),
        ("memory, no roster", "memory_kib"),
    ];
    plot("An idle device, against one in the smallest network", &lines.map(line))
}

/// Measures `SIM_DEVICES` (several, with commas), and writes table and plot of all that was ever
/// measured.
#[test]
#[ignore = "writes the figures; see README.md"]
fn budgets_are_measured() {
    let sizes = std::env::var("SIM_DEVICES").unwrap_or_default();
    let mut figures = read_figures();
    for devices in sizes.split(',').filter(|size| !size.is_empty()) {
        let devices = devices.parse().expect("a number");
        let [cold, idle] = measure(devices, SETTLING, IDLE);
        figures.insert((devices, "start".to_owned()), cold);
        figures.insert((devices, "idle".to_owned()), idle);
        write_figures(&figures);
    }
    let readme = folder().join("README.md");
    let text = std::fs::read_to_string(&readme).expect("it is beside this file");
    let (before, rest) = text.split_once(BEGIN).expect("a place for the table");
    let (_, after) = rest.split_once(END).expect("its end");
    let tables = format!("{}\n{}", table(&figures, "idle"), table(&figures, "start"));
    let text = format!("{before}{BEGIN}\n{tables}{END}{after}");
    std::fs::write(readme, text).expect("the source folder");
    std::fs::write(folder().join("budgets.svg"), draw(&figures)).expect("the source folder");
}

/// Ten minutes from a cold start, and what each of them costs this machine: all `SIM_DEVICES` of them.
#[test]
#[ignore = "a measurement; see README.md"]
fn ten_minutes_from_a_cold_start_are_timed() {
    let devices = std::env::var("SIM_DEVICES").map_or(100, |size| size.parse().expect("a number"));
    let begin = cpu_time();
    let mut world = World::new(1, Weather::FAIR);
    let crowd = Crowd::new(devices, 1);
    println!("written after {:.1} CPU-s", (cpu_time() - begin).as_secs_f64());
    crowd.start(&mut world, |world, _| Some(world.net.site(NatKind::PORT_RESTRICTED)));
    println!("started after {:.1} CPU-s", (cpu_time() - begin).as_secs_f64());
    for minute in 1..=10 {
        let (before, asked) = (world.tally, world.dht.operations.lookups);
        world.run_for(Duration::from_secs(60));
        let (sent, asked) = (world.tally - before, world.dht.operations.lookups - asked);
        let (took, held) = ((cpu_time() - begin).as_secs_f64(), live_bytes() >> 20);
        println!("minute {minute}: {took:.1} CPU-s, {held} MiB, {asked} look-ups, {sent:?}");
    }
    println!("{:.1} tunnels a device", tunnels(&world) / devices as f64);
}

const BEGIN: &str = "<!-- figures -->";
const END: &str = "<!-- end of figures -->";
