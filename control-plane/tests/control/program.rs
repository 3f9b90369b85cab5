//! The program itself, as a process.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::client::Client;

/// A running `weir-control`, killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) ready: String,
    pub(crate) client: Client,
}

impl Program {
    /// Starts it on free ports and waits until it says that it is ready.
    pub(crate) fn start(data: &Path) -> Program {
        Program::start_with(data, &[])
    }

    /// The same with more flags.
    pub(crate) fn start_with(data: &Path, flags: &[&str]) -> Program {
        Program::start_as(data, flags, Stdio::inherit())
    }

    /// The same, with its log in a file.
    pub(crate) fn start_logging(data: &Path, flags: &[&str], log: &Path) -> Program {
        let log = File::create(log).expect("a file");
        Program::start_as(data, flags, log.into())
    }

    fn start_as(data: &Path, flags: &[&str], log: Stdio) -> Program {
        let mut child = command(&["--api", "127.0.0.1:0", "--xds", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("a process");
        let mut ready = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut ready).expect("its first line");
        let mut words = ready.split_whitespace().filter_map(|word| word.strip_prefix("http://"));
        let address = words.next().unwrap_or_else(|| panic!("it did not start: {ready:?}"));
        let address = address.parse().expect("an address");
        Program {
            child,
            ready,
            client: Client { address },
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// SIGTERM, and waits until it is gone.
    pub(crate) fn terminate(mut self) -> std::process::ExitStatus {
        let kill = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -TERM {}", self.id()))
            .status();
        assert!(kill.expect("a shell").success());
        self.child.wait().expect("gone")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-control"));
    command.args(flags).stdin(Stdio::null()).env("WEIR_LOG", "warn");
    command
}

/// Runs it with flags with which it can't start: its exit code, and what it says.
pub(crate) fn refused(flags: &[&str]) -> (Option<i32>, String) {
    let mut child = command(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut said = String::new();
    let stderr = child.stderr.as_mut().expect("its errors");
    stderr.read_to_string(&mut said).expect("text");
    (child.wait().expect("gone").code(), said)
}
