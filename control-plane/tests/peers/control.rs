//! A control plane for programs by others, and where those are.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running `weir-control` that keeps nothing; killed when it is dropped.
pub(crate) struct Control {
    child: Child,
    /// `http://127.0.0.1:PORT`
    pub(crate) api: String,
}

impl Control {
    /// Starts it on free ports and waits until it says that it is ready.
    pub(crate) fn start() -> Control {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir-control"))
            .args(["--api", "127.0.0.1:0", "--xds", "127.0.0.1:0", "--in-memory"])
            .env("WEIR_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut ready = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut ready).expect("its first line");
        let api = ready.split_whitespace().find(|word| word.starts_with("http://"));
        let api = api.unwrap_or_else(|| panic!("it did not start: {ready:?}")).to_owned();
        Control { child, api }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program by others is installed.
pub(crate) fn peer(name: &str) -> PathBuf {
    let peers = std::env::var_os("WEIR_PEERS")
        .unwrap_or_else(|| panic!("WEIR_PEERS: `./dev test` installs {name} and says where it is"));
    Path::new(&peers).join("bin").join(name)
}
