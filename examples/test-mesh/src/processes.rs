//! Processes of their own, for what can't be shown inside one: being killed, starting again, memory.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::PATIENCE;
use crate::api::Api;

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Processes {
    folder: PathBuf,
    variables: Vec<(String, PathBuf)>,
}

/// A process that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

/// A `weir-control` that runs.
#[derive(Debug)]
pub struct ControlProcess {
    /// The process.
    pub running: Running,
    /// Its API.
    pub api: Api,
    /// Where proxies find it.
    pub xds: SocketAddr,
    /// Where they find it by TLS, with `--xds-tls`.
    pub xds_tls: Option<SocketAddr>,
}

/// A `weir-proxy` that runs.
#[derive(Debug)]
pub struct ProxyProcess {
    /// The process.
    pub running: Running,
    /// Where its app sends its calls.
    pub outbound: SocketAddr,
    /// Where others reach its app.
    pub inbound: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
    /// Where its metrics are.
    pub metrics: SocketAddr,
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
            variables: Vec::new(),
        }
    }

    /// With a variable of the environment that names a place.
    pub fn with_variable(mut self, name: &str, place: &Path) -> Processes {
        self.variables.push((name.to_owned(), place.to_owned()));
        self
    }

    /// The folder of the programs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a `weir-control` and waits until it is ready. Ports that `args` don't give are of the system's choice.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn control(&self, args: &[&str]) -> ControlProcess {
        self.control_within(PATIENCE, args).await
    }

    /// The same, which has this long to get ready.
    ///
    /// # Panics
    /// When it does not.
    pub async fn control_within(&self, bound: Duration, args: &[&str]) -> ControlProcess {
        let mut all = vec!["--log", "warn"];
        for flag in ["--api", "--xds"] {
            if !args.contains(&flag) {
                all.extend([flag, "127.0.0.1:0"]);
            }
        }
        all.extend(args);
        let mut running = self.start("weir-control", &all);
        let ready = tokio::time::timeout(bound, running.line("weir-control ready:")).await;
        let ready = ready.expect("a control plane that is ready in time");
        let address = |name: &str, scheme: &str| -> Option<SocketAddr> {
            let (_, rest) = ready.split_once(&format!(" {name} {scheme}"))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let cleartext = |name: &str| address(name, "http://").unwrap_or_else(|| panic!("no {name}: {ready}"));
        ControlProcess {
            api: Api {
                address: cleartext("api"),
            },
            xds: cleartext("xds"),
            xds_tls: address("xds-tls", "https://"),
            running,
        }
    }

    /// Starts a `weir-proxy` for an app on loopback that speaks HTTP/1.1, and waits until it has started. Its ports are
    /// of the system's choice.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn proxy(&self, workload: &str, app: SocketAddr, args: &[&str]) -> ProxyProcess {
        let app = format!("{}=http@0", app.port());
        let mut all = vec!["--workload", workload, "--namespace", "default", "--app", &app];
        all.extend([
            "--inbound-address",
            "127.0.0.1",
            "--log-format",
            "json",
            "--access-log",
            "off",
        ]);
        for flag in ["--outbound", "--admin", "--metrics", "--health"] {
            all.extend([flag, "127.0.0.1:0"]);
        }
        all.extend(args);
        let mut running = self.spawn("weir-proxy", &all, Stdio::piped());
        let started = tokio::time::timeout(PATIENCE, running.event("started")).await;
        let started = started.expect("a proxy that starts in time");
        let address = |field: &str| {
            let text = started[field].as_str().and_then(|text| text.parse().ok());
            text.unwrap_or_else(|| panic!("{field}: {started}"))
        };
        ProxyProcess {
            outbound: address("outbound"),
            // Of each app, of which this is the first: APP_PORT@ADDRESS.
            inbound: started["inbound"]
                .as_str()
                .and_then(|text| text.split([',', ' ']).next()?.split_once('@')?.1.parse().ok())
                .unwrap_or_else(|| panic!("inbound: {started}")),
            admin: address("admin"),
            metrics: address("metrics"),
            running,
        }
    }

    /// Runs `weirctl` for this control plane to its end, and returns what it said.
    ///
    /// # Panics
    /// When it fails.
    pub async fn weirctl(&self, api: &Api, args: &[&str]) -> Finished {
        let mut command = Command::new(self.folder.join("weirctl"));
        command.args(args).env("WEIR_SERVER", format!("http://{}", api.address));
        let finished = finish(command, b"").await;
        assert!(finished.success, "weirctl {args:?}: {finished:?}");
        finished
    }

    /// Starts a program; its stdout is read by [`Running::line`], its stderr is the test's.
    ///
    /// # Panics
    /// When it is not there: `cargo test --workspace` builds it.
    pub fn start(&self, program: &str, args: &[&str]) -> Running {
        self.spawn(program, args, Stdio::inherit())
    }

    fn spawn(&self, program: &str, args: &[&str], stderr: Stdio) -> Running {
        let mut command = Command::new(self.folder.join(program));
        command
            .args(args)
            .envs(self.variables.iter().map(|(name, place)| (name, place)));
        Running::of(command, stderr)
    }
}

impl Running {
    /// Starts it; its stdout is read by [`Running::line`].
    ///
    /// # Panics
    /// When it is not there.
    pub(crate) fn of(mut command: Command, stderr: Stdio) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let spawned = command.kill_on_drop(true).spawn();
        let child = spawned.unwrap_or_else(|error| {
            let name = command.as_std().get_program().display();
            panic!("{name}: {error}; cargo build --workspace makes it, or `./dev setup` brings it")
        });
        Running { child }
    }

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

    /// The first event on its stderr, in JSON, with this message. What comes after is the test's.
    ///
    /// # Panics
    /// When its stderr ends before.
    async fn event(&mut self, message: &str) -> Value {
        let stderr = self.child.stderr.take().expect("stderr, read once");
        let mut lines = BufReader::new(stderr).lines();
        let mut before = Vec::new();
        while let Some(line) = lines.next_line().await.expect("its stderr") {
            if let Ok(event) = serde_json::from_str::<Value>(&line)
                && event["message"] == message
            {
                tokio::spawn(async move {
                    while let Ok(Some(line)) = lines.next_line().await {
                        eprintln!("{line}");
                    }
                });
                return event;
            }
            before.push(line);
        }
        panic!("its stderr ended without {message:?}: {before:#?}");
    }

    /// Its resident memory now, in bytes.
    ///
    /// # Panics
    /// When it has ended, or the system does not tell.
    pub fn memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("Linux' /proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.expect("VmRSS") << 10
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Panics
    /// When it can't be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
    }
}

/// What a program said that has ended. What is not UTF-8 is replaced.
#[derive(Debug)]
pub struct Finished {
    /// Whether it ended well.
    pub success: bool,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

/// Runs a program to its end, with this on its stdin.
///
/// # Panics
/// When it can't be started, or does not end.
pub async fn finish(command: Command, input: &[u8]) -> Finished {
    finish_within(PATIENCE, command, input).await
}

/// The same, which has this long.
///
/// # Panics
/// When it can't be started, or does not end.
pub async fn finish_within(bound: Duration, mut command: Command, input: &[u8]) -> Finished {
    let name = command.as_std().get_program().to_owned();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let spawned = command.kill_on_drop(true).spawn();
    let mut child = spawned.unwrap_or_else(|error| {
        let name = name.display();
        panic!("{name}: {error}; `./dev setup` brings what is of others, cargo build --workspace makes the rest")
    });
    let mut stdin = child.stdin.take().expect("it is piped");
    let whole = async {
        // Who ends without having read all has said why.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(bound, whole).await;
    let output = output.unwrap_or_else(|_| panic!("{} did not end within {bound:?}", name.display()));
    let output = output.expect("its end");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Finished {
        success: output.status.success(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// A program of others that `./dev setup` brings.
///
/// # Panics
/// When it is unknown where they are.
pub fn peer_program(name: &str) -> PathBuf {
    let peers = std::env::var_os("WEIR_PEERS");
    let peers = peers.unwrap_or_else(|| panic!("WEIR_PEERS: `./dev test` installs {name} and says where it is"));
    PathBuf::from(peers).join("bin").join(name)
}

/// A port that nobody listens on, for a program that takes its port by number. It is none that the system gives to
/// whoever asks for any, or to connections (Linux: 32768 to 60999): between now and its use none of these can take it.
///
/// # Panics
/// When all are in use.
pub fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes begin apart from each other.
    let from = std::process::id().wrapping_mul(101);
    let ports = (0..COUNT).map(|_| {
        let number = from.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        u16::try_from(FIRST + number).expect("it is below 65536")
    });
    let mut free = ports.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.next().expect("a port that is free")
}
