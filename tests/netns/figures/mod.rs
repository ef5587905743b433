//! Measurements with the real binary: what the project promises in numbers, and what it reached.
//!
//! `scripts/bench.sh` runs this with a release build. Every figure is measured in a world of its
//! own, one after another; times include the processes a person would start (`ginnel join`,
//! `ping`). Output: Markdown tables on stdout, progress on stderr, all raw values as JSON, and a
//! chart of the comparison as SVG.

mod chart;
mod comparison;
mod flood;
mod goals;
mod idle;
mod joining;
mod rivals;
mod sample;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::{Value, json};

use self::comparison::Comparison;
use self::sample::Times;
use crate::in_world;
use crate::lab::world::World;

/// Repetitions where nobody says otherwise; the promises speak of medians of five.
const ROUNDS: usize = 5;

/// What `--only` knows; each is in the names of the figures that it stands for.
const PARTS: [&str; 5] = ["joining", "recovery", "throughput", "flood", "idle"];

/// What to measure, and where to write it.
#[derive(Parser)]
#[command(no_binary_name = true, name = "--figures")]
pub struct Options {
    /// All raw values go here, as JSON
    file: Option<PathBuf>,
    /// As --only
    #[arg(value_parser = PARTS)]
    part: Option<String>,
    /// Parts of the figures
    #[arg(long, value_delimiter = ',', value_parser = PARTS)]
    only: Vec<String>,
    /// Of the carriers of throughput those with one of these words in their name
    #[arg(long, value_delimiter = ',')]
    carriers: Vec<String>,
    /// Interleaved repetitions [default: 5, quick: 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// One short round, without the device that idles: does everything work?
    #[arg(long)]
    quick: bool,
    /// A chart of the comparison goes here, as SVG
    #[arg(long)]
    chart: Option<PathBuf>,
    /// Another wireguard-go to compare with
    #[arg(long, value_name = "PROGRAM")]
    wireguard_go: Vec<PathBuf>,
    /// gotatun to compare with
    #[arg(long, value_name = "PROGRAM")]
    gotatun: Option<PathBuf>,
}

impl Options {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { ROUNDS })
    }

    fn times(&self) -> Times {
        if self.quick { Times::QUICK } else { Times::FULL }
    }

    fn wants_part(&self, name: &str) -> bool {
        let mut named = self.only.iter().chain(&self.part).peekable();
        named.peek().is_none() || named.any(|part| name.contains(part.as_str()))
    }

    fn wants_carrier(&self, name: &str) -> bool {
        self.carriers.is_empty() || self.carriers.iter().any(|part| name.contains(part.as_str()))
    }
}

/// One measured figure.
pub struct Figure {
    /// What was measured.
    name: String,
    /// In words, with its unit.
    value: String,
    /// What was promised; empty where nothing was.
    target: String,
    /// Whether the promise holds; `None` where there is none.
    holds: Option<bool>,
    /// Everything that was read off.
    raw: Value,
}

/// Measures everything, or what `words` ask for; a figure that could not be taken is a row that
/// says why.
pub fn run(words: &[String]) -> Result<()> {
    let options = Options::try_parse_from(words).unwrap_or_else(|error| error.exit());
    type Measure = fn(&Options) -> Result<Vec<Figure>>;
    let parts: [(&str, Measure); 5] = [
        ("joining across two NATs", joining::across_nats),
        ("joining on one LAN", joining::on_a_lan),
        ("recovery after kill -9", joining::after_a_kill),
        ("flood of datagrams", flood::in_a_flood),
        ("idle with ten peers", idle::ten_peers),
    ];
    let comparison = options.wants_part("throughput").then(|| compare(&options)).transpose()?;
    let mut figures = Vec::new();
    for (name, measure) in parts.into_iter().filter(|(name, _)| options.wants_part(name)) {
        eprintln!("measuring {name}");
        if figures.is_empty() {
            println!("| figure | measured | promised | holds |\n|---|---|---|---|");
        }
        let measured = measure(&options);
        for figure in measured.unwrap_or_else(|error| vec![Figure::failed(name, &error)]) {
            println!("{}", figure.row());
            figures.push(figure);
        }
    }
    let Some(file) = &options.file else { return Ok(()) };
    let rows: Vec<Value> = figures.iter().map(Figure::json).collect();
    let all = json!({ "schema": 2, "figures": rows, "comparison": comparison });
    write(file, &serde_json::to_string_pretty(&all)?)
}

/// Measures and shows the comparison; returns it as JSON.
fn compare(options: &Options) -> Result<Value> {
    let comparison = Comparison::run(options)?;
    let judged = goals::judge(&comparison);
    println!("{}\n{}", comparison.table(), goals::table(&judged));
    if let Some(chart) = &options.chart {
        write(chart, &chart::svg(&comparison))?;
    }
    let mut all = comparison.json();
    all["goals"] = goals::json(&judged);
    Ok(all)
}

fn write(file: &PathBuf, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

impl Figure {
    /// A figure that has to be at most `limit`.
    fn at_most(name: &str, value: f64, limit: f64, unit: &str, raw: Value) -> Self {
        Figure {
            name: name.into(),
            value: format!("{value:.2} {unit}"),
            target: format!("≤ {limit} {unit}"),
            holds: Some(value <= limit),
            raw,
        }
    }

    /// A figure that has to be at least `limit`.
    fn at_least(name: &str, value: f64, limit: f64, unit: &str) -> Self {
        Figure {
            name: name.into(),
            value: format!("{value:.2} {unit}"),
            target: format!("≥ {limit} {unit}"),
            holds: Some(value >= limit),
            raw: json!(value),
        }
    }

    /// A figure that nothing was promised about.
    fn note(name: &str, value: String, raw: Value) -> Self {
        Figure { name: name.into(), value, target: String::new(), holds: None, raw }
    }

    fn failed(name: &str, error: &anyhow::Error) -> Self {
        eprintln!("{name}: {error:#}");
        let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
        let raw = json!({ "error": format!("{error:#}") });
        Figure { name: name.into(), value: reason, target: String::new(), holds: Some(false), raw }
    }

    fn row(&self) -> String {
        let holds = self.holds.map_or("", |holds| if holds { "yes" } else { "**no**" });
        format!("| {} | {} | {} | {holds} |", self.name, self.value, self.target)
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "value": self.value, "promised": self.target,
            "holds": self.holds, "raw": self.raw,
        })
    }
}

/// A world whose agents log as much as they do where nobody said otherwise.
fn in_quiet_world(measure: impl FnOnce(&mut World) -> Result<()>) -> Result<()> {
    in_world(|world| {
        world.log_level = "info";
        world.workers = None;
        measure(world)
    })
}

/// The middle one; the mean of the middle two of an even number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

fn seconds(times: &[Duration]) -> Vec<f64> {
    times.iter().map(Duration::as_secs_f64).collect()
}
