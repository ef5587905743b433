//! Tables, colours and units: how answers look.
//!
//! A [`Cell`] has two faces: one for people ("1.5 MiB", "2m 3s ago") and one for programs (bytes,
//! seconds, milliseconds as plain numbers). [`table`] shows the first on a terminal, aligned, and
//! the second elsewhere, tab-separated with the header as its first line.

use std::env;
use std::io::{self, IsTerminal};
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{Color, Row, Table};
use serde::Serialize;

use crate::api::PathStatus;

/// What stands where a value is absent, so that columns keep their number.
const ABSENT: &str = "-";

/// Where text goes, and what that can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// People read it.
    pub terminal: bool,
    /// It shows colours, and the user wants them.
    pub color: bool,
}

impl Screen {
    /// What stdout is. Colours are off where `NO_COLOR` is set to anything.
    pub fn of_stdout() -> Self {
        let terminal = io::stdout().is_terminal();
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { terminal, color: terminal && !set("NO_COLOR") && !dumb }
    }

    /// The text in a colour, where there are colours.
    pub fn tint(self, tint: Tint, text: &str) -> String {
        let code = match tint {
            Tint::Good => 32,
            Tint::Warning => 33,
            Tint::Bad => 31,
            Tint::Plain => return text.to_owned(),
        };
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tint {
    /// Nothing in particular.
    Plain,
    /// As it should be.
    Good,
    /// Works, but not as well as it could.
    Warning,
    /// Does not work.
    Bad,
}

/// One value of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    people: String,
    programs: String,
    tint: Tint,
}

impl Cell {
    /// The same for people and programs.
    pub fn text(text: impl ToString) -> Self {
        let text = clean(&text.to_string());
        Self { people: text.clone(), programs: text, tint: Tint::Plain }
    }

    /// The same, or [`ABSENT`].
    pub fn optional(value: Option<impl ToString>) -> Self {
        value.map_or_else(|| Self::text(ABSENT), Self::text)
    }

    /// An amount of data.
    pub fn bytes(count: u64) -> Self {
        Self { people: bytes(count), programs: count.to_string(), tint: Tint::Plain }
    }

    /// A round trip in milliseconds.
    pub fn milliseconds(value: Option<f64>) -> Self {
        let Some(value) = value else { return Self::text(ABSENT) };
        Self { people: milliseconds(value), programs: format!("{value:.3}"), tint: Tint::Plain }
    }

    /// How long ago, in seconds.
    pub fn ago(seconds: Option<u64>) -> Self {
        let Some(seconds) = seconds else { return Self::text(ABSENT) };
        let people = format!("{} ago", duration(seconds));
        Self { people, programs: seconds.to_string(), tint: Tint::Plain }
    }

    /// In a colour.
    pub fn tinted(mut self, tint: Tint) -> Self {
        self.tint = tint;
        self
    }
}

/// A table, each line ended.
pub fn table(header: &[&str], rows: Vec<Vec<Cell>>, screen: &Screen) -> String {
    if !screen.terminal {
        let header = (!header.is_empty()).then(|| header.join("\t"));
        let rows = rows.iter().map(|row| {
            row.iter().map(|cell| cell.programs.as_str()).collect::<Vec<_>>().join("\t")
        });
        return header.into_iter().chain(rows).map(|line| line + "\n").collect();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).force_no_tty();
    if screen.color {
        table.enforce_styling();
    }
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table.add_rows(rows.iter().map(|row| Row::from(row.iter().map(styled))));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// Names and values, a line each.
pub fn pairs(pairs: Vec<(&str, Cell)>, screen: &Screen) -> String {
    let rows = pairs.into_iter().map(|(name, cell)| vec![Cell::text(name), cell]).collect();
    table(&[], rows, screen)
}

fn styled(cell: &Cell) -> comfy_table::Cell {
    let styled = comfy_table::Cell::new(&cell.people);
    match cell.tint {
        Tint::Plain => styled,
        Tint::Good => styled.fg(Color::DarkGreen),
        Tint::Warning => styled.fg(Color::DarkYellow),
        Tint::Bad => styled.fg(Color::DarkRed),
    }
}

/// The text without control characters, line ends among them, and without marks that reorder what
/// is shown: text that other devices chose must not steer this terminal or break a table.
pub fn clean(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// The name that a value has in JSON.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => "?".to_owned(),
    }
}

/// A way to a device in a few words.
pub fn path(path: &PathStatus) -> String {
    match &path.via {
        Some(via) => clean(&format!("{} via {via}", word(&path.kind))),
        None => format!("{} {}", word(&path.kind), path.endpoint),
    }
}

/// A duration in its two largest units.
pub fn duration(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Milliseconds to three digits, as `ping` shows them.
pub fn milliseconds(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2} ms"),
        value if value < 100.0 => format!("{value:.1} ms"),
        value => format!("{value:.0} ms"),
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let power = (count.ilog2() / 10).min(UNITS.len() as u32);
    let value = count as f64 / 1024_f64.powi(power as i32);
    format!("{value:.1} {}", UNITS[power as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPE: Screen = Screen { terminal: false, color: false };
    const TERMINAL: Screen = Screen { terminal: true, color: false };
    const COLOURS: Screen = Screen { terminal: true, color: true };

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![
                Cell::text("nas"),
                Cell::bytes(1_572_864),
                Cell::milliseconds(Some(1.4)),
                Cell::ago(Some(61)),
            ],
            vec![Cell::text("tv"), Cell::bytes(0), Cell::milliseconds(None), Cell::ago(None)],
        ]
    }

    #[test]
    fn a_pipe_gets_tabs_and_plain_numbers() {
        let text = table(&["NAME", "RX", "RTT", "SEEN"], rows(), &PIPE);
        assert_eq!(text, "NAME\tRX\tRTT\tSEEN\nnas\t1572864\t1.400\t61\ntv\t0\t-\t-\n");
    }

    #[test]
    fn a_terminal_gets_aligned_columns_and_units() {
        let text = table(&["NAME", "RX", "RTT", "SEEN"], rows(), &TERMINAL);
        let expected = "NAME  RX       RTT      SEEN\n\
                        nas   1.5 MiB  1.40 ms  1m 1s ago\n\
                        tv    0 B      -        -\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn colour_stands_only_where_it_is_wanted() {
        assert_eq!(TERMINAL.tint(Tint::Bad, "x"), "x");
        assert_eq!(COLOURS.tint(Tint::Bad, "x"), "\x1b[31mx\x1b[0m");
        let row = || vec![vec![Cell::text("up").tinted(Tint::Good)]];
        assert!(!table(&["STATE"], row(), &TERMINAL).contains('\x1b'));
    }

    #[test]
    fn text_of_others_can_neither_steer_the_terminal_nor_break_a_line() {
        let hostile = "a\x1b]0;owned\x07b\tc\nd\u{202e}e\u{9b}";
        let cleaned = clean(hostile);
        assert_eq!(cleaned, "a\u{fffd}]0;owned\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}");
        assert_eq!(table(&[], vec![vec![Cell::text(hostile)]], &PIPE), cleaned + "\n");
    }

    #[test]
    fn units_cover_the_whole_range() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(duration(0), "0s");
        assert_eq!(duration(3 * 86_400 + 7_261), "3days 2h");
        assert_eq!(
            [milliseconds(0.123), milliseconds(25.26), milliseconds(250.9)],
            ["0.12 ms", "25.3 ms", "251 ms"]
        );
    }
}
