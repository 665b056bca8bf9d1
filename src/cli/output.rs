//! What people see: aligned, coloured on a terminal, times relative. Machines get `--json` instead.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::pager::Paged;
use super::progress;
use crate::clock;
use crate::query::time;
use crate::types::Time;

/// How a word is set off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Red => "31",
            Style::Green => "32",
            Style::Yellow => "33",
            Style::Cyan => "36",
        }
    }
}

/// Standard output.
pub struct Output {
    writer: Writer,
    color: bool,
    /// Columns of the terminal; `None` when it is none.
    pub width: Option<usize>,
}

/// Where it goes.
enum Writer {
    Direct(io::BufWriter<io::Stdout>),
    Paged(Paged),
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Writer::Direct(out) => out.write(bytes),
            Writer::Paged(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Writer::Direct(out) => out.flush(),
            Writer::Paged(out) => out.flush(),
        }
    }
}

impl Output {
    /// For what may be longer than the screen. [`Output::flush`] is the end of it then, and a pager has ended when this is dropped.
    pub fn paged() -> Output {
        let plain = Output::new();
        match Paged::new() {
            Some(paged) => Output { writer: Writer::Paged(paged), ..plain },
            None => plain,
        }
    }

    pub fn new() -> Output {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let width = terminal
            .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
            .flatten()
            .map(|size| usize::from(size.ws_col))
            .filter(|&columns| columns > 0);
        Output {
            color: terminal && !set("NO_COLOR") && !dumb,
            width,
            writer: Writer::Direct(io::BufWriter::with_capacity(64 << 10, stdout)),
        }
    }

    /// The text in a style, where there is colour.
    pub fn style(&self, style: Style, text: &str) -> String {
        if !self.color || style == Style::Plain || text.is_empty() {
            return text.to_owned();
        }
        format!("\x1b[{}m{text}\x1b[0m", style.code())
    }

    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes())?;
        self.writer.write_all(b"\n")
    }

    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    /// Whether [`Output::style`] does anything.
    pub fn has_color(&self) -> bool {
        self.color
    }

    /// One object on a line.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.writer, value)?;
        self.writer.write_all(b"\n")
    }

    pub fn flush(&mut self) -> io::Result<()> {
        if matches!(self.writer, Writer::Direct(_)) {
            progress::clear();
        }
        self.writer.flush()
    }
}

impl Default for Output {
    fn default() -> Output {
        Output::new()
    }
}

/// Which side of its column a cell clings to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Rows of cells in columns as wide as their widest cell; the last column is cut at the terminal's edge.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<(String, Style)>>,
}

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<(String, Style)>) {
        self.rows.push(cells.into_iter().map(|(text, style)| (printable(&text), style)).collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A line of its own between rows.
    pub fn heading(&mut self, text: &str, style: Style) {
        self.rows.push(vec![(printable(text), style)]);
    }

    pub fn print(&self, out: &mut Output) -> io::Result<()> {
        let is_heading = |row: &&Vec<(String, Style)>| row.len() == 1 && self.columns.len() > 1;
        let cells = |at: usize| self.rows.iter().filter(move |row| !is_heading(row)).filter_map(move |row| row.get(at));
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                cells(at).map(|(text, _)| text.chars().count()).chain([self.columns[at].0.len()]).max().unwrap_or(0)
            })
            .collect();
        let head = self.columns.iter().map(|(name, _)| ((*name).to_owned(), Style::Dim)).collect();
        for row in [&head].into_iter().chain(&self.rows) {
            if let ([(text, style)], true) = (row.as_slice(), is_heading(&row)) {
                let text = out.width.map_or_else(|| text.clone(), |columns| cut(text, columns));
                out.line(&out.style(*style, &text))?;
                continue;
            }
            let mut line = String::new();
            let mut used = 0;
            for (at, ((text, style), (width, (_, align)))) in
                row.iter().zip(widths.iter().zip(&self.columns)).enumerate()
            {
                let last = at + 1 == self.columns.len();
                let text = match out.width {
                    Some(columns) if last => cut(text, columns.saturating_sub(used)),
                    _ => text.clone(),
                };
                let pad = " ".repeat(width.saturating_sub(text.chars().count()));
                let styled = out.style(*style, &text);
                match align {
                    Align::Right => line.extend([pad.as_str(), &styled]),
                    Align::Left if last => line.push_str(&styled),
                    Align::Left => line.extend([styled.as_str(), &pad]),
                }
                if !last {
                    line.push_str("  ");
                }
                used += width + 2;
            }
            out.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// The first characters of a text, marked where it was cut. A column too narrow for anything is not cut at all.
fn cut(text: &str, width: usize) -> String {
    if width < 10 || text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// Without control characters, which would act on the terminal.
pub fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// A number of nanoseconds in the unit that suits it.
pub fn duration(nanos: i64) -> String {
    let nanos = nanos.max(0);
    let (secs, millis) = (nanos / 1_000_000_000, nanos / 1_000_000);
    match secs {
        0 if millis == 0 => format!("{} us", nanos / 1000),
        0 => format!("{millis} ms"),
        1..60 => format!("{secs}.{} s", millis % 1000 / 100),
        60..3600 => format!("{} min {} s", secs / 60, secs % 60),
        3600..86_400 => format!("{} h {} min", secs / 3600, secs / 60 % 60),
        _ => format!("{} d {} h", secs / 86_400, secs / 3600 % 24),
    }
}

/// How long ago a time of a row was.
pub fn ago(text: &str) -> String {
    let Some(then) = time::parse_rfc3339(text) else { return text.to_owned() };
    let secs = clock::now().as_nanos().saturating_sub(then.as_nanos()) / 1_000_000_000;
    match secs {
        ..1 => "now".to_owned(),
        1..60 => format!("{secs} s ago"),
        60..3600 => format!("{} min ago", secs / 60),
        3600..86_400 => format!("{} h ago", secs / 3600),
        _ => format!("{} d ago", secs / 86_400),
    }
}

/// The nanoseconds between two times of a row.
pub fn between(from: &str, to: &str) -> Option<i64> {
    let nanos = |text: &str| time::parse_rfc3339(text).map(Time::as_nanos);
    Some(nanos(to)?.saturating_sub(nanos(from)?))
}

/// The time of day in UTC, to the millisecond.
pub fn time_of_day(text: &str) -> &str {
    text.get(11..23).unwrap_or(text)
}

/// Bytes in the unit that suits them.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 file`, `2 files`.
pub fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Byte ranges, the first few of them.
pub fn ranges(list: &[(u64, u64)]) -> String {
    const SHOWN: usize = 4;
    let open = |len: &u64| *len >= crate::query::UNKNOWN_END / 2;
    let mut parts: Vec<String> = list
        .iter()
        .take(SHOWN)
        .map(
            |(offset, len)| {
                if open(len) { format!("{offset}..") } else { format!("{offset}..{}", offset.saturating_add(*len)) }
            },
        )
        .collect();
    if list.len() > SHOWN {
        parts.push(format!("and {} more", list.len() - SHOWN));
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (nanos, text) in [
            (0, "0 us"),
            (1_500_000, "1 ms"),
            (12_345_000_000, "12.3 s"),
            (61_000_000_000, "1 min 1 s"),
            (3_700_000_000_000, "1 h 1 min"),
            (90_000_000_000_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(nanos), text);
        }
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (10 << 20, "10.0 MiB"), (u64::MAX, "16384.0 PiB")]
        {
            assert_eq!(size(bytes), text);
        }
        assert_eq!((count(1, "file"), count(0, "file")), ("1 file".to_owned(), "0 files".to_owned()));
    }

    #[test]
    fn texts() {
        assert_eq!(ranges(&[(0, 5), (10, 1)]), "0..5 10..11");
        assert_eq!(ranges(&[(7, crate::query::UNKNOWN_END - 7)]), "7..");
        assert_eq!(ranges(&[(0, 1); 6]), "0..1 0..1 0..1 0..1 and 2 more");
        assert_eq!(printable("a\x1b[31m\n"), "a\\u{1b}[31m\\n");
        assert_eq!(cut("0123456789abcdef", 12), "0123456789a…");
        assert_eq!(time_of_day("2023-11-14T22:13:20.123456789Z"), "22:13:20.123");
        assert_eq!(between("1970-01-01T00:00:00Z", "1970-01-01T00:00:01.5Z"), Some(1_500_000_000));
    }
}
