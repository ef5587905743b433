//! ginnel beside other programs on two namespaces and one cable.
//!
//! Rounds are interleaved, so that a busy machine hits all alike; medians count. Each program runs
//! with its defaults. On two cores that also carry both ends of the traffic, Gbit/s says how much
//! work a byte is; the processor time of both daemons says it more steadily.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

use super::rivals::{Carrier, Stage, all};
use super::sample::{Metric, Sample, take};
use super::{Options, in_quiet_world, median};
use crate::lab::resources::machine_time;

/// What a first search for a UDP rate begins with, Gbit/s, and its step.
const FIRST_GUESS: (f64, f64) = (0.5, 1.6);
/// The step of a search that begins with the round before.
const NEXT_STEP: f64 = 1.2;
/// How long the machine is watched before each sample.
const LOOK: Duration = Duration::from_millis(300);

/// All carriers' samples.
pub struct Comparison {
    rows: Vec<Row>,
    /// Busy part of the machine right before each sample, when nothing of ours ran.
    busy: Vec<f64>,
    took: Duration,
}

/// One carrier.
pub struct Row {
    /// Its name.
    pub name: String,
    /// Why there is no sample, or which round failed.
    remarks: Vec<String>,
    samples: Vec<Sample>,
}

impl Comparison {
    /// Measures every carrier that is there and wanted, round by round.
    pub fn run(options: &Options) -> Result<Self> {
        let started = Instant::now();
        let (carriers, others): (Vec<_>, Vec<_>) =
            all(options).into_iter().partition(|carrier| options.wants_carrier(&carrier.name()));
        ensure!(
            !carriers.is_empty(),
            "no carrier has such a name; there are {}",
            others.iter().map(|carrier| carrier.name()).collect::<Vec<_>>().join(", ")
        );
        let rows = carriers.iter().map(|carrier| Row {
            name: carrier.name(),
            remarks: carrier.missing().into_iter().collect(),
            samples: Vec::new(),
        });
        let mut comparison =
            Comparison { rows: rows.collect(), busy: Vec::new(), took: Duration::ZERO };
        for round in 1..=options.rounds() {
            for (at, carrier) in carriers.iter().enumerate() {
                if carrier.missing().is_none() {
                    comparison.sample(at, carrier.as_ref(), round, options);
                }
            }
        }
        comparison.took = started.elapsed();
        Ok(comparison)
    }

    fn sample(&mut self, at: usize, carrier: &dyn Carrier, round: usize, options: &Options) {
        let started = Instant::now();
        let row = &mut self.rows[at];
        let before = row.samples.last().and_then(|sample| sample.get(&Metric::Udp)).copied();
        let guess = before.filter(|rate| *rate > 0.0).map_or(FIRST_GUESS, |rate| (rate, NEXT_STEP));
        self.busy.extend(busy_part());
        let mut taken = None;
        let done = in_quiet_world(|world| {
            let tunnel = carrier.start(Stage::new(world)?)?;
            taken = Some(take(world, tunnel.as_ref(), options.times(), guess)?);
            Ok(())
        });
        let of = options.rounds();
        let took = started.elapsed().as_secs_f64();
        match (done, taken) {
            (Ok(()), Some(sample)) => {
                let words =
                    [Metric::TcpForward, Metric::DaemonCost, Metric::Udp, Metric::PingIdle50]
                        .into_iter()
                        .filter_map(|metric| {
                            Some(format!(
                                "{} {}",
                                metric.words().0,
                                shown(metric, *sample.get(&metric)?)
                            ))
                        })
                        .collect::<Vec<_>>();
                eprintln!(
                    "round {round}/{of}  {:<34} {}  ({took:.0} s)",
                    row.name,
                    words.join("  ")
                );
                row.samples.push(sample);
            }
            (done, _) => {
                let error = done.err().map(|error| format!("{error:#}")).unwrap_or_default();
                // Behind the reason stand the ends of all logs.
                let reason = error.split("\n\n").next().unwrap_or_default();
                eprintln!("round {round}/{of}  {:<34} failed: {reason}", row.name);
                row.remarks.push(format!("round {round} failed: {reason}"));
            }
        }
    }

    /// The median of a carrier's samples.
    pub fn median(&self, name: &str, metric: Metric) -> Option<f64> {
        self.rows.iter().find(|row| row.name == name)?.median(metric)
    }

    /// Carriers that were measured.
    pub fn measured(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.samples.is_empty())
    }

    /// Markdown.
    pub fn table(&self) -> String {
        let columns = Metric::ALL.map(|metric| metric.words().0).join(" | ");
        let mut text = format!("| carrier | {columns} | rounds |\n| --- |");
        text += &" ---: |".repeat(Metric::ALL.len() + 1);
        text.push('\n');
        for row in self.measured() {
            let cells = Metric::ALL.map(|metric| {
                row.median(metric).map_or("–".into(), |value| shown(metric, value))
            });
            let count = row.samples.len();
            text += &format!("| {} | {} | {count} |\n", row.name, cells.join(" | "));
        }
        for row in &self.rows {
            for remark in &row.remarks {
                text += &format!("\nNot measured: {}: {remark}.", row.name);
            }
        }
        let busy = median(&self.busy) * 100.0;
        let cores = cores();
        let minutes = self.took.as_secs_f64() / 60.0;
        text += &format!(
            "\nMedians, {minutes:.0} minutes on {cores} cores, of which other programs used {busy:.0} % \
             (median of a look before each sample).\n"
        );
        text
    }

    /// Every sample.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let metrics = Metric::ALL.map(|metric| {
                let raw: Vec<f64> =
                    row.samples.iter().filter_map(|sample| sample.get(&metric).copied()).collect();
                (
                    metric.words().1.to_owned(),
                    json!({ "median": row.median(metric), "rounds": raw }),
                )
            });
            let metrics: Map<String, Value> = metrics.into_iter().collect();
            json!({ "carrier": row.name, "remarks": row.remarks, "metrics": metrics })
        });
        json!({
            "carriers": rows.collect::<Vec<_>>(), "busy_before": self.busy,
            "cores": cores(), "seconds": self.took.as_secs_f64(),
        })
    }
}

impl Row {
    /// The median of the samples.
    pub fn median(&self, metric: Metric) -> Option<f64> {
        let values: Vec<f64> =
            self.samples.iter().filter_map(|sample| sample.get(&metric).copied()).collect();
        (!values.is_empty()).then(|| median(&values))
    }
}

/// As the table shows it.
pub fn shown(metric: Metric, value: f64) -> String {
    format!("{value:.*}", metric.words().2)
}

fn busy_part() -> Option<f64> {
    let before = machine_time().ok()?;
    let started = Instant::now();
    std::thread::sleep(LOOK);
    let spent = machine_time().ok()?.saturating_sub(before).as_secs_f64();
    Some(spent / (started.elapsed().as_secs_f64() * cores() as f64))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
