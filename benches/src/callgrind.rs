//! Instructions that a program under test executes, counted by callgrind (valgrind).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::process::Command;

/// What counts a program's instructions: its start, and where the counts come to lie.
#[derive(Clone, Debug)]
pub struct Callgrind {
    out: PathBuf,
}

impl Callgrind {
    /// Counts into files `NAME.1`, `NAME.2` and so on in this folder, which `callgrind_annotate` reads.
    pub fn new(folder: &Path, name: &str) -> Callgrind {
        Callgrind { out: folder.join(name) }
    }

    /// What stands before a program and its arguments. One file holds all threads.
    pub(crate) fn before(&self) -> [OsString; 4] {
        let mut out = OsString::from("--callgrind-out-file=");
        out.push(&self.out);
        ["valgrind".into(), "--quiet".into(), "--tool=callgrind".into(), out]
    }

    /// What the running program has executed since the last time this was asked, and where that is written function by
    /// function.
    ///
    /// # Errors
    /// When the program has ended, or callgrind does not answer.
    pub async fn counted(&self, pid: u32) -> anyhow::Result<(u64, PathBuf)> {
        let mut ask = Command::new("callgrind_control");
        ask.arg("--dump")
            .arg(pid.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let said = ask.output().await.context("callgrind_control")?;
        let file = self.latest()?;
        ensure!(
            said.status.success(),
            "callgrind_control: {}: {}",
            said.status,
            String::from_utf8_lossy(&said.stderr)
        );
        let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
        let total = total(&text).with_context(|| format!("{}: no totals", file.display()))?;
        Ok((total, file))
    }

    /// The newest of the files: the one with the highest number.
    fn latest(&self) -> anyhow::Result<PathBuf> {
        let mut number = 1;
        let numbered = |number: u32| {
            let mut path = self.out.clone().into_os_string();
            path.push(format!(".{number}"));
            PathBuf::from(path)
        };
        while numbered(number + 1).exists() {
            number += 1;
        }
        let latest = numbered(number);
        ensure!(latest.exists(), "callgrind wrote no {}", latest.display());
        Ok(latest)
    }
}

/// The `totals:` line of callgrind's format (Callgrind Format Specification, "Total Lines").
fn total(text: &str) -> Option<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        for (text, expect) in [
            ("version: 1\nsummary: 5\n\nfn=(1) a\n1 5\ntotals: 5\n", Some(5)),
            ("totals: 123456\n", Some(123_456)),
            ("summary: 5\n", None),
            ("totals: x\n", None),
        ] {
            assert_eq!(total(text), expect, "{text:?}");
        }
    }
}
