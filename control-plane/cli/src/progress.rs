//! What is going on while something takes long: one line on standard error that changes, on a terminal only.

use std::io::{self, IsTerminal, Write};

use crate::output::clean;

/// The line; gone when dropped.
pub(crate) struct Progress {
    last: String,
    on_terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress {
            last: String::new(),
            on_terminal: io::stderr().is_terminal(),
        }
    }

    /// Shows a line in place of the one before.
    pub(crate) fn show(&mut self, line: &str) {
        if !self.on_terminal || self.last == line {
            return;
        }
        self.last = line.to_owned();
        let _ = write!(io::stderr(), "\r{}\u{1b}[K", clean(line));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.last.is_empty() {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}
