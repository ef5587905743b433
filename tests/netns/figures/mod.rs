//! Measurements with the real binary: what the project promises in numbers, and what it reached.
//!
//! `scripts/bench.sh` runs this with a release build. Every figure is measured in a world of its
//! own, one after another; times include the processes a person would start (`ginnel join`,
//! `ping`). Output: a Markdown table as figures come in, and all raw values as JSON.

mod idle;
mod joining;
mod throughput;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::in_world;
use crate::lab::world::World;

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

/// Measures everything, or the parts with `part` in their name; a figure that could not be taken is
/// a row that says why.
pub fn run(file: Option<&Path>, part: &str) -> Result<()> {
    type Measure = fn() -> Result<Vec<Figure>>;
    let parts: [(&str, Measure); 5] = [
        ("joining across two NATs", joining::across_nats),
        ("joining on one LAN", joining::on_a_lan),
        ("coming back after kill -9", joining::after_a_kill),
        ("one TCP stream", throughput::one_stream),
        ("idling with ten peers", idle::ten_peers),
    ];
    println!("| figure | measured | promised | holds |\n|---|---|---|---|");
    let mut all = Vec::new();
    for (name, measure) in parts.into_iter().filter(|(name, _)| name.contains(part)) {
        let figures = measure().unwrap_or_else(|error| vec![Figure::failed(name, &error)]);
        for figure in figures {
            println!("{}", figure.row());
            all.push(figure);
        }
    }
    let Some(file) = file else { return Ok(()) };
    let rows: Vec<Value> = all.iter().map(Figure::json).collect();
    let text = serde_json::to_string_pretty(&json!({ "schema": 1, "figures": rows }))?;
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
