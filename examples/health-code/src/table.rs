//! What people see: the live table, the plain lines where there is no terminal, and the reckoning at the end.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::load::Totals;

/// How the demo speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// A table that is drawn again in place each second.
    Live,
    /// A line each second.
    Plain,
    /// Lines on standard error, and the reckoning as one JSON document on standard output.
    Json,
}

impl Manner {
    /// In place on a terminal, else by lines.
    pub(crate) fn of_stdout() -> Manner {
        if std::io::stdout().is_terminal() {
            Manner::Live
        } else {
            Manner::Plain
        }
    }
}

/// Whether a circuit breaker is open, as a proxy's metrics page has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaker {
    Closed,
    Open,
    /// The page does not say: no route in use leads to the cluster.
    Unknown,
}

impl Breaker {
    fn text(self) -> &'static str {
        match self {
            Breaker::Closed => "closed",
            Breaker::Open => "OPEN",
            Breaker::Unknown => "not used",
        }
    }
}

/// A row of the table: a scene, as far as it has come.
#[derive(Clone, Debug)]
struct Row {
    scene: &'static str,
    cells: String,
}

/// What is shown while the demo runs.
pub(crate) struct Screen {
    manner: Manner,
    start: Instant,
    headline: String,
    rows: Vec<Row>,
    /// How many lines of the table stand on the terminal.
    drawn: usize,
}

impl Screen {
    pub(crate) fn new(manner: Manner) -> Self {
        Screen {
            manner,
            start: Instant::now(),
            headline: String::new(),
            rows: Vec::new(),
            drawn: 0,
        }
    }

    /// Says what happens now.
    pub(crate) fn headline(&mut self, text: impl Into<String>) {
        self.headline = text.into();
        match self.manner {
            Manner::Live if self.drawn > 0 => self.draw(),
            Manner::Live | Manner::Plain | Manner::Json => self.line(&format!("{} > {}", self.clock(), self.headline)),
        }
    }

    /// Begins a row.
    pub(crate) fn scene(&mut self, scene: &'static str, headline: impl Into<String>) {
        self.headline = headline.into();
        self.rows.push(Row {
            scene,
            cells: String::new(),
        });
        match self.manner {
            Manner::Live => self.draw(),
            Manner::Plain | Manner::Json => {
                self.line("");
                self.line(&format!("{} > {}", self.clock(), self.headline));
            }
        }
    }

    /// Shows the scene's numbers: of its last second in lines, of all of it in the table.
    pub(crate) fn tick(
        &mut self,
        second: &Totals,
        took: Duration,
        scene: &Totals,
        scene_took: Duration,
        breaker: Breaker,
    ) {
        match self.manner {
            Manner::Live => {
                if let Some(row) = self.rows.last_mut() {
                    row.cells = cells(scene, scene_took, breaker);
                }
                self.draw();
            }
            Manner::Plain | Manner::Json => {
                let name = self.rows.last().map_or("", |row| row.scene);
                self.line(&format!(
                    "{}   {name:<22} {}",
                    self.clock(),
                    cells(second, took, breaker)
                ));
            }
        }
    }

    /// Prints a line that stays, under the table.
    pub(crate) fn say(&mut self, text: &str) {
        self.drawn = 0;
        for line in text.lines() {
            self.line(line);
        }
    }

    fn clock(&self) -> String {
        let seconds = self.start.elapsed().as_secs();
        format!("{:02}:{:02}", seconds / 60, seconds % 60)
    }

    fn line(&self, text: &str) {
        // Who closed the output does not want to read on; the demo's exit status still tells.
        let _ = match self.manner {
            Manner::Live | Manner::Plain => writeln!(std::io::stdout(), "{text}"),
            Manner::Json => writeln!(std::io::stderr(), "{text}"),
        };
    }

    fn draw(&mut self) {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        let head = format!("\x1b[1m{} > {}\x1b[0m\n", self.clock(), self.headline);
        text.push_str(&head);
        text.push_str(&format!("\n{:<24}{HEAD}\n", "scene"));
        for row in &self.rows {
            text.push_str(&format!("{:<24}{}\n", row.scene, row.cells));
        }
        self.drawn = self.rows.len() + 3;
        let mut stdout = std::io::stdout();
        let _ = stdout.write_all(text.as_bytes());
        let _ = stdout.flush();
    }
}

const HEAD: &str = "   rate/s   success  degraded       p50       p99  breaker of v2";

fn cells(totals: &Totals, took: Duration, breaker: Breaker) -> String {
    let rate = totals.all() as f64 / took.as_secs_f64().max(0.001);
    format!(
        "{rate:>9.1}  {:>7.2}%  {:>7.2}%  {:>8}  {:>8}  {}",
        totals.success_percent(),
        totals.degraded_percent(),
        totals.times.quantile(0.5).map_or("-".to_owned(), millis),
        totals.times.quantile(0.99).map_or("-".to_owned(), millis),
        breaker.text(),
    )
}

/// A duration for people, with three digits that matter.
pub(crate) fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    match millis {
        m if m < 10.0 => format!("{m:.2} ms"),
        m if m < 100.0 => format!("{m:.1} ms"),
        m if m < 10_000.0 => format!("{m:.0} ms"),
        m => format!("{:.1} s", m / 1000.0),
    }
}

/// One line of the reckoning.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    /// What must be seen.
    pub(crate) asked: String,
    /// What was.
    pub(crate) seen: String,
    /// Whether that is it.
    pub(crate) ok: bool,
}

/// The reckoning as a table.
pub(crate) fn reckoning(checks: &[Check]) -> String {
    let width = checks
        .iter()
        .map(|check| check.asked.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = format!("{:<width$}  {:<3}  seen\n", "asked for", "ok");
    for Check { asked, seen, ok } in checks {
        let ok = if *ok { "yes" } else { "NO" };
        text.push_str(&format!("{asked:<width$}  {ok:<3}  {seen}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (micros, expect) in [
            (1, "0.00 ms"),
            (1_234, "1.23 ms"),
            (12_345, "12.3 ms"),
            (123_456, "123 ms"),
            (1_234_567, "1235 ms"),
            (12_345_678, "12.3 s"),
        ] {
            assert_eq!(millis(Duration::from_micros(micros)), expect);
        }
    }

    #[test]
    fn the_reckoning_says_what_differs() {
        let check = |asked: &str, seen: &str, ok| Check {
            asked: asked.to_owned(),
            seen: seen.to_owned(),
            ok,
        };
        let text = reckoning(&[check("a page", "a page", true), check("all of it", "half", false)]);
        assert_eq!(
            text,
            "asked for  ok   seen\na page     yes  a page\nall of it  NO   half\n"
        );
    }
}
