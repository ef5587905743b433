//! A plot of growth: both axes logarithmic, every line relative to where it begins.

use std::fmt::Write;

/// One line.
pub struct Line {
    /// What it shows.
    pub name: &'static str,
    /// By size.
    pub points: Vec<(f64, f64)>,
}

/// The picture and its frame, in pixels.
const SIZE: (f64, f64) = (720.0, 440.0);
const FRAME: (f64, f64, f64, f64) = (60.0, 40.0, 540.0, 400.0);

/// Told apart also by who sees few colours (Okabe and Ito's palette).
const COLOURS: [&str; 5] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00"];

/// The ends of the axes, as powers of ten.
const X: (f64, f64) = (1.0, 4.0);
const Y: (f64, f64) = (-1.0, 3.0);

/// Draws `lines` as SVG, with n and log n beside them to compare with.
pub fn plot(title: &str, lines: &[Line]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{}\" y=\"24\" font-size=\"14\">{title}</text>\n",
        SIZE.0, SIZE.1, FRAME.0
    );
    axes(&mut svg);
    let sizes = [10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0];
    let guide = |name, of: fn(f64) -> f64| Line { name, points: sizes.map(|n| (n, of(n))).into() };
    for (row, line) in [guide("n", |n| n), guide("log n", f64::ln)].iter().enumerate() {
        draw(&mut svg, line, row, "#999", "4 4");
    }
    for (row, (line, colour)) in lines.iter().zip(COLOURS).enumerate() {
        draw(&mut svg, line, row + 2, colour, "none");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Where a size and a ratio are in the picture.
fn place(size: f64, ratio: f64) -> (f64, f64) {
    let across = (size.log10() - X.0) / (X.1 - X.0);
    let up = (ratio.max(1e-3).log10() - Y.0) / (Y.1 - Y.0);
    let (left, top, right, bottom) = FRAME;
    (left + across * (right - left), bottom - up.clamp(0.0, 1.0) * (bottom - top))
}

fn axes(svg: &mut String) {
    let (left, top, right, bottom) = FRAME;
    for power in 1..=4 {
        let (x, _) = place(10_f64.powi(power), 1.0);
        let devices = 10_u32.pow(power as u32);
        let grid = format!("x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"");
        let label = format!("x=\"{x:.1}\" y=\"{:.1}\"", bottom + 18.0);
        write!(
            svg,
            "<line {grid} stroke=\"#ddd\"/>\n<text {label} text-anchor=\"middle\">{devices}</text>\n"
        )
        .expect("a string takes everything");
    }
    for power in -1..=3 {
        let (_, y) = place(10.0, 10_f64.powi(power));
        let ratio = 10_f64.powi(power);
        let grid = format!("x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"");
        let label = format!("x=\"{:.1}\" y=\"{:.1}\"", left - 6.0, y + 4.0);
        write!(
            svg,
            "<line {grid} stroke=\"#ddd\"/>\n<text {label} text-anchor=\"end\">× {ratio}</text>\n"
        )
        .expect("a string takes everything");
    }
    let label = format!("x=\"{:.1}\" y=\"{:.1}\"", (left + right) / 2.0, bottom + 36.0);
    writeln!(svg, "<text {label} text-anchor=\"middle\">devices</text>")
        .expect("a string takes everything");
}

fn draw(svg: &mut String, line: &Line, row: usize, colour: &str, dashes: &str) {
    let Some((_, first)) = line.points.first().copied().filter(|(_, first)| *first > 0.0) else {
        return;
    };
    let places = line.points.iter().map(|(size, value)| place(*size, value / first));
    let places: Vec<_> = places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let (x, y) = (FRAME.2 + 16.0, FRAME.1 + 20.0 * row as f64 + 10.0);
    let stroke = format!("stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"");
    write!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" {stroke}/>\n\
         <line x1=\"{x}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\" {stroke}/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
        places.join(" "),
        x + 24.0,
        x + 30.0,
        y + 4.0,
        line.name
    )
    .expect("a string takes everything");
}
