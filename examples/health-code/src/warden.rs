//! The warden: a small process that ends the stage's processes and removes its folder when the demo itself can't
//! (killed with -9, aborted). It reads what there is from standard input, and acts when that ends.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

/// The demo's side: tells the warden what there is. Closed, it makes the warden act.
pub(crate) struct Warden {
    stdin: Option<ChildStdin>,
    child: Child,
}

impl Warden {
    /// Starts the warden, in a process group of its own so that Ctrl-C reaches it only through the demo.
    ///
    /// # Errors
    /// When this program can't be started again.
    pub(crate) fn start(folder: &std::path::Path) -> anyhow::Result<Warden> {
        use std::os::unix::process::CommandExt as _;
        let program = std::env::current_exe().context("where this program is")?;
        let mut child = Command::new(program)
            .arg("warden")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("the warden, which cleans up if this program is killed")?;
        let stdin = child.stdin.take();
        let mut warden = Warden { stdin, child };
        warden.tell(&Note::Folder(folder.to_owned()));
        Ok(warden)
    }

    /// A process was started.
    pub(crate) fn started(&mut self, pid: u32) {
        if let Some(since) = started_at(pid) {
            self.tell(&Note::Started(pid, since));
        }
    }

    /// A process has ended and was waited for: its number may become another's.
    pub(crate) fn ended(&mut self, pid: u32) {
        self.tell(&Note::Ended(pid));
    }

    fn tell(&mut self, note: &Note) {
        if let Some(stdin) = &mut self.stdin {
            // A warden that is gone can't help; the stage still ends what it started.
            let _ = writeln!(stdin, "{}", note.line()).and_then(|()| stdin.flush());
        }
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// The warden's own life.
///
/// # Errors
/// When standard input can't be read.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut folder = None;
    let mut processes = BTreeSet::new();
    for line in BufReader::new(std::io::stdin()).lines() {
        match Note::read(&line?) {
            Some(Note::Folder(path)) => folder = Some(path),
            Some(Note::Started(pid, since)) => {
                processes.insert((pid, since));
            }
            Some(Note::Ended(pid)) => processes.retain(|(other, _)| *other != pid),
            None => {}
        }
    }
    // The number may have become another process's: that began at another time.
    processes.retain(|(pid, since)| started_at(*pid) == Some(*since));
    for (pid, _) in &processes {
        if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    // Their end takes a moment, in which they may still write into the folder.
    let deadline = Instant::now() + END_TIMEOUT;
    while processes.iter().any(|(pid, since)| started_at(*pid) == Some(*since)) && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    if let Some(folder) = folder {
        // Usually gone already.
        let _ = std::fs::remove_dir_all(folder);
    }
    Ok(())
}

/// What the warden is told, a line each.
#[derive(Debug, PartialEq, Eq)]
enum Note {
    /// This folder goes in the end.
    Folder(PathBuf),
    /// This process was started, at this time (see [`started_at`]).
    Started(u32, u64),
    /// This process has ended.
    Ended(u32),
}

impl Note {
    fn line(&self) -> String {
        match self {
            Note::Folder(path) => format!("folder {}", path.display()),
            Note::Started(pid, since) => format!("started {pid} {since}"),
            Note::Ended(pid) => format!("ended {pid}"),
        }
    }

    fn read(line: &str) -> Option<Note> {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "folder" => Some(Note::Folder(PathBuf::from(rest))),
            "started" => {
                let (pid, since) = rest.split_once(' ')?;
                Some(Note::Started(pid.parse().ok()?, since.parse().ok()?))
            }
            "ended" => Some(Note::Ended(rest.parse().ok()?)),
            _ => None,
        }
    }
}

/// When a process began, in clock ticks since boot (proc(5), /proc/pid/stat, field 22); `None`: there is none, or it
/// has ended and nobody has asked for its status yet (states Z and X).
fn started_at(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

const END_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_were_written() {
        for note in [
            Note::Folder(PathBuf::from("/tmp/a b")),
            Note::Started(17, 4_000_000_000_000),
            Note::Ended(17),
        ] {
            assert_eq!(Note::read(&note.line()), Some(note));
        }
        for line in ["", "started", "started x 1", "started 1", "ended -1", "other 1"] {
            assert_eq!(Note::read(line), None, "{line:?}");
        }
    }

    #[test]
    fn this_process_began_at_some_time() {
        assert!(started_at(std::process::id()).is_some());
        assert_eq!(started_at(u32::MAX), None);
    }
}
