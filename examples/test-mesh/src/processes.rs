//! Processes of their own, for what can't be shown inside one: being killed, starting again, memory.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Processes {
    folder: PathBuf,
}

/// A process that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Processes {
    /// The programs of the same build as the test: they are built with the workspace's tests.
    ///
    /// # Panics
    /// When the test's own place is unknown.
    pub fn of_this_build() -> Processes {
        let own = std::env::current_exe().expect("the test's own place");
        // target/PROFILE/deps/TEST
        let folder = own.parent().and_then(|deps| deps.parent()).expect("a build folder");
        Processes {
            folder: folder.to_owned(),
        }
    }

    /// Starts a program; its stdout is read by [`Running::line`], its stderr is the test's.
    ///
    /// # Panics
    /// When it is not there: `cargo test --workspace` builds it.
    pub fn start(&self, program: &str, args: &[&str]) -> Running {
        let path = self.folder.join(program);
        let child = Command::new(&path)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; cargo build --workspace makes it", path.display()));
        Running { child }
    }
}

impl Running {
    /// Its process id.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// The first line of its stdout that holds `text`.
    ///
    /// # Panics
    /// When its stdout ends before.
    pub async fn line(&mut self, text: &str) -> String {
        let stdout = self.child.stdout.take().expect("stdout, read once");
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.expect("its stdout") {
            if line.contains(text) {
                // Read on, so that it never waits for a reader.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return line;
            }
        }
        panic!("its stdout ended without {text:?}");
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Panics
    /// When it can't be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
    }
}

/// A port that was free a moment ago, for programs that are told theirs.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}
