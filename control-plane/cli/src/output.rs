//! Printing: tables, colours, and nothing that a terminal could be tricked by.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;
use weir_api::Key;

/// Where results go.
pub(crate) struct Out {
    to: Box<dyn Write>,
    colours: Colours,
}

/// Whether colours are used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colours {
    On,
    Off,
}

/// What a text stands for.
#[derive(Clone, Copy)]
pub(crate) enum Tone {
    /// As it is.
    Plain,
    /// A heading.
    Head,
    /// All is well.
    Good,
    /// Not yet.
    Waiting,
    /// Something is wrong.
    Bad,
}

impl Out {
    /// Standard output; coloured on a terminal, if `NO_COLOR` is unset or empty (<https://no-color.org>).
    pub(crate) fn stdout() -> Out {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let stdout = io::stdout();
        let colours = if wanted && stdout.is_terminal() {
            Colours::On
        } else {
            Colours::Off
        };
        Out {
            to: Box::new(stdout),
            colours,
        }
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.to, "{line}")
    }

    /// Prints JSON over several lines.
    pub(crate) fn json(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.to, "{}", json_text(format!("{value:#}")))
    }

    /// Prints JSON in one line.
    pub(crate) fn json_line(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.to, "{}", json_text(value.to_string()))
    }

    /// Prints a text that ends its lines itself.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        self.to.write_all(text.as_bytes())?;
        self.to.flush()
    }

    /// A text in its colour.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match (self.colours, tone) {
            (Colours::Off, _) | (Colours::On, Tone::Plain) => return text.to_owned(),
            (Colours::On, Tone::Head) => "1",
            (Colours::On, Tone::Good) => "32",
            (Colours::On, Tone::Waiting) => "33",
            (Colours::On, Tone::Bad) => "31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// Prints rows under headings, columns as wide as they need to be.
    pub(crate) fn table(&mut self, headings: &[&str], rows: &[Vec<Cell>]) -> io::Result<()> {
        let head = headings.iter().map(|heading| Cell::new(Tone::Head, *heading)).collect();
        let all: Vec<&Vec<Cell>> = std::iter::once(&head).chain(rows).collect();
        self.rows(&all)
    }

    /// Prints rows without headings.
    pub(crate) fn rows(&mut self, rows: &[&Vec<Cell>]) -> io::Result<()> {
        let columns = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let width = |column: usize| {
            let widths = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| width(&cell.text));
            widths.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&self.paint(cell.tone, &cell.text));
                line.push_str(&" ".repeat(width.saturating_sub(self::width(&cell.text)) + 3));
            }
            self.line(line.trim_end())?;
        }
        self.to.flush()
    }
}

/// A cell of a table.
pub(crate) struct Cell {
    tone: Tone,
    text: String,
}

impl Cell {
    /// A text, made safe for terminals.
    pub(crate) fn new(tone: Tone, text: impl AsRef<str>) -> Cell {
        Cell {
            tone,
            text: clean(text.as_ref()),
        }
    }

    /// A text as it is.
    pub(crate) fn plain(text: impl AsRef<str>) -> Cell {
        Cell::new(Tone::Plain, text)
    }
}

/// Prints a line for people beside the results, to standard error. That it can't be written is no failure.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A resource as commands name it: `httproute/citizen/portal`.
pub(crate) fn short(key: &Key) -> String {
    if key.namespace.is_empty() {
        format!("{}/{}", key.kind.singular(), key.name)
    } else {
        format!("{}/{}/{}", key.kind.singular(), key.namespace, key.name)
    }
}

/// A text from elsewhere without control characters: escape sequences could write anything on the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// JSON as it is printed. The control characters of U+0080 to U+009F, which JSON lets stand as they are, are escaped:
/// some terminals act on them.
fn json_text(text: String) -> String {
    if !text.chars().any(|c| c.is_control() && c != '\n') {
        return text;
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() && c != '\n' => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

/// How many columns a text takes: two for the wide characters of East Asia (Unicode, UAX #11, in outline).
fn width(text: &str) -> usize {
    let wide = |c: char| matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}' | '\u{20000}'..='\u{3fffd}');
    text.chars().map(|c| if wide(c) { 2 } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_as_an_escape() {
        assert_eq!(clean("a\u{1b}[2Jb\r\n"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}");
        assert_eq!(clean("核酸 test"), "核酸 test");
        let value = serde_json::json!({"a": "\u{1b}[2J\u{9b}2J\n核"});
        let text = json_text(format!("{value:#}"));
        assert_eq!(text, "{\n  \"a\": \"\\u001b[2J\\u009b2J\\n核\"\n}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value);
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(width("核酸a"), 5);
    }
}
