//! The comparison as a picture: bars of throughput and of what a byte costs, the fastest on top.

use super::comparison::{Comparison, Row, shown};
use super::sample::Metric;

const WIDTH: f64 = 960.0;
const ROW: f64 = 26.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 34.0;
/// Where the bars of the two panels begin, and how long the longest is: names stand on the left,
/// and behind each bar there is room for its figure.
const PANELS: [(f64, f64); 2] = [(280.0, 240.0), (640.0, 240.0)];
const BAR: f64 = 16.0;
const OURS: &str = "#c2410c";
const OTHERS: &str = "#94a3b8";
const INK: &str = "#1e293b";
const PALE: &str = "#64748b";

/// SVG; the bare cable is in the caption, where it does not shrink the others.
pub fn svg(comparison: &Comparison) -> String {
    let panels = [
        (Metric::TcpForward, "One TCP stream, Gbit/s (more is better)"),
        (Metric::DaemonCost, "CPU seconds a GB (less is better)"),
    ];
    let mut rows: Vec<&Row> =
        comparison.measured().filter(|row| row.median(Metric::DaemonCost).is_some()).collect();
    let rate = |row: &Row| row.median(Metric::TcpForward).unwrap_or_default();
    rows.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then_with(|| a.name.cmp(&b.name)));
    let height = TOP + ROW * rows.len() as f64 + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\">\n\
         <title>Throughput and processor cost of ginnel and other VPNs</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (at, row) in rows.iter().enumerate() {
        let middle = TOP + ROW * (at as f64 + 0.5);
        let weight = if is_ours(row) { " font-weight=\"600\"" } else { "" };
        svg += &text(PANELS[0].0 - 10.0, middle, "end", INK, weight, &row.name);
    }
    for ((metric, heading), (left, length)) in panels.into_iter().zip(PANELS) {
        svg += &text(left, TOP - 22.0, "start", INK, " font-weight=\"600\"", heading);
        let largest = rows.iter().filter_map(|row| row.median(metric)).fold(0.0, f64::max);
        for (at, row) in rows.iter().enumerate() {
            let Some(value) = row.median(metric) else { continue };
            let middle = TOP + ROW * (at as f64 + 0.5);
            svg += &bar(left, middle, value / largest * length, is_ours(row));
            let end = left + value / largest * length + 6.0;
            svg += &text(end, middle, "start", INK, "", &shown(metric, value));
        }
    }
    let caption = comparison
        .median("no VPN", Metric::TcpForward)
        .map_or("One machine. ".to_owned(), |bare| {
            format!("One machine, {} Gbit/s without a VPN. ", shown(Metric::TcpForward, bare))
        });
    let caption =
        format!("{caption}Both daemons and both ends of the stream share its cores; medians.");
    svg += &text(PANELS[0].0, height - 14.0, "start", PALE, " font-size=\"12\"", &caption);
    svg + "</svg>\n"
}

fn is_ours(row: &Row) -> bool {
    row.name.starts_with("ginnel")
}

fn bar(left: f64, middle: f64, length: f64, ours: bool) -> String {
    let (top, colour) = (middle - BAR / 2.0, if ours { OURS } else { OTHERS });
    format!(
        "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" \
         fill=\"{colour}\"/>\n"
    )
}

fn text(x: f64, middle: f64, anchor: &str, colour: &str, more: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let base = middle + 4.5;
    format!(
        "<text x=\"{x:.1}\" y=\"{base:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\"{more}>\
         {words}</text>\n"
    )
}
