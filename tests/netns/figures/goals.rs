//! What ginnel shall reach beside the others, and whether it did.

use serde_json::{Value, json};

use super::comparison::{Comparison, Row, shown};
use super::sample::Metric;

/// The carrier that the goals are about: with everything on, as it comes.
const OURS: &str = "ginnel";
/// Every build of it has a name that begins so.
const WIREGUARD_GO: &str = "wireguard-go";
const BORINGTUN: &str = "boringtun-cli";

/// ginnel's median divided by the rival's.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Bound::AtLeast(limit) => ratio >= limit,
            Bound::AtMost(limit) => ratio <= limit,
        }
    }

    fn words(self) -> String {
        match self {
            Bound::AtLeast(limit) => format!("≥ {limit} ×"),
            Bound::AtMost(limit) => format!("≤ {limit} ×"),
        }
    }
}

const GOALS: [(&str, Metric, Bound); 8] = [
    (WIREGUARD_GO, Metric::TcpForward, Bound::AtLeast(2.0)),
    (WIREGUARD_GO, Metric::TcpFour, Bound::AtLeast(2.0)),
    (WIREGUARD_GO, Metric::Udp, Bound::AtLeast(1.5)),
    (WIREGUARD_GO, Metric::DaemonCost, Bound::AtMost(0.5)),
    (WIREGUARD_GO, Metric::PingIdle50, Bound::AtMost(1.0)),
    (WIREGUARD_GO, Metric::PingLoad99, Bound::AtMost(1.0)),
    (WIREGUARD_GO, Metric::PeakMemory, Bound::AtMost(0.2)),
    (BORINGTUN, Metric::TcpForward, Bound::AtLeast(6.0)),
];

/// One goal against one rival.
pub struct Judged {
    metric: Metric,
    rival: String,
    ours: f64,
    theirs: f64,
    bound: Bound,
}

/// Every goal against every build of its rival that was measured.
pub fn judge(comparison: &Comparison) -> Vec<Judged> {
    let judge = |(rival, metric, bound): &(&str, Metric, Bound), row: &Row| {
        row.name.starts_with(rival).then_some(())?;
        Some(Judged {
            metric: *metric,
            rival: row.name.clone(),
            ours: comparison.median(OURS, *metric)?,
            theirs: row.median(*metric)?,
            bound: *bound,
        })
    };
    let rows: Vec<&Row> = comparison.measured().collect();
    rows.iter().flat_map(|row| GOALS.iter().filter_map(|goal| judge(goal, row))).collect()
}

/// Markdown; empty where nothing could be judged.
pub fn table(judged: &[Judged]) -> String {
    if judged.is_empty() {
        return String::new();
    }
    let mut text = String::from("| goal | against | ginnel | the other | ratio | aim | |\n");
    text += "| --- | --- | ---: | ---: | ---: | ---: | --- |\n";
    for Judged { metric, rival, ours, theirs, bound } in judged {
        let ratio = ours / theirs;
        let reached = if bound.holds(ratio) { "reached" } else { "**missed**" };
        text += &format!(
            "| {} | {rival} | {} | {} | {ratio:.2} × | {} | {reached} |\n",
            metric.words().0,
            shown(*metric, *ours),
            shown(*metric, *theirs),
            bound.words()
        );
    }
    text
}

/// The same as JSON.
pub fn json(judged: &[Judged]) -> Value {
    let rows = judged.iter().map(|goal| {
        let ratio = goal.ours / goal.theirs;
        json!({
            "metric": goal.metric.words().1, "against": goal.rival, "ratio": ratio,
            "aim": goal.bound.words(), "reached": goal.bound.holds(ratio),
        })
    });
    rows.collect()
}
