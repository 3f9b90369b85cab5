//! The stage: the product's programs and the apps, each a process of its own on a free port of loopback; and nothing
//! left of them afterwards.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use http::{HeaderMap, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::app::Role;
use crate::http::{Answer, Client};
use crate::warden::Warden;

/// The product's programs.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    proxy: PathBuf,
    control: PathBuf,
    weirctl: PathBuf,
}

impl Tools {
    /// Has cargo build them, in the profile of this program, with cargo's progress on standard error.
    ///
    /// # Errors
    /// When cargo is missing or the build fails.
    pub(crate) async fn build() -> anyhow::Result<Tools> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(&cargo);
        command.args(["build", "--manifest-path", MANIFEST]);
        // Not this program itself: it would be linked anew, and what runs would no longer be where it was started from.
        command.args(["-p", "weir-proxy", "-p", "weir-control", "-p", "weirctl"]);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let status = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await
            .with_context(|| {
                format!(
                    "{} is not there; with the programs built already, --no-build does without",
                    cargo.display()
                )
            })?;
        ensure!(
            status.success(),
            "the programs could not be built: cargo ended with {status}"
        );
        Tools::beside()
    }

    /// Those beside this program.
    ///
    /// # Errors
    /// When one is missing.
    pub(crate) fn beside() -> anyhow::Result<Tools> {
        let own = std::env::current_exe().context("where this program is")?;
        let folder = own.parent().context("this program is in no folder")?;
        let find = |name: &str| {
            let path = folder.join(name);
            ensure!(
                path.is_file(),
                "{} is not there: build it with cargo build{} -p weir-proxy -p weir-control -p weirctl",
                path.display(),
                if cfg!(debug_assertions) { "" } else { " --release" },
            );
            Ok(path)
        };
        Ok(Tools {
            proxy: find("weir-proxy")?,
            control: find("weir-control")?,
            weirctl: find("weirctl")?,
        })
    }
}

/// The ports of one service: its app's, and its sidecar's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) app: u16,
    pub(crate) inbound: u16,
    pub(crate) outbound: u16,
    pub(crate) admin: u16,
    pub(crate) metrics: u16,
    pub(crate) health: u16,
}

/// Which ports people get to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortChoice {
    /// Free ones, whichever.
    Any,
    /// The documented ones for the API and the edge where they are free.
    WellKnown,
}

/// What runs, and where.
pub(crate) struct Stage {
    tools: Tools,
    pub(crate) api: SocketAddr,
    pub(crate) xds: SocketAddr,
    ports: BTreeMap<&'static str, Ports>,
    control: Option<Process>,
    apps: Vec<Process>,
    proxies: Vec<Process>,
    /// Copies of the outputs that are waited on; they end with their processes.
    copies: JoinSet<()>,
    access_logs: AccessLogs,
    // After the processes: their files are in it.
    folder: TempDir,
    // Last: it looks after what the others could not.
    warden: Warden,
}

/// Whether the proxies write access logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessLogs {
    /// No: a hundred megabytes a minute that nobody reads.
    Off,
    /// Into the stage's folder.
    Files,
}

impl Stage {
    /// An empty stage.
    ///
    /// # Errors
    /// When there is no folder or no free port to be had.
    pub(crate) fn new(tools: Tools, choice: PortChoice, access_logs: AccessLogs) -> anyhow::Result<Stage> {
        let folder = tempfile::Builder::new()
            .prefix("weir-health-code-")
            .tempdir()
            .context("a temporary folder")?;
        for name in ["logs", "resources", "change"] {
            std::fs::create_dir(folder.path().join(name)).context("a folder in the temporary folder")?;
        }
        let warden = Warden::start(folder.path())?;
        let mut finder = PortFinder::new(choice);
        let mut ports = BTreeMap::new();
        let api = finder.prefer(WELL_KNOWN_API)?;
        let xds = finder.any()?;
        for role in Role::ALL {
            let inbound = match role {
                Role::Portal => finder.prefer(WELL_KNOWN_EDGE)?,
                _ => finder.any()?,
            };
            ports.insert(
                role.name(),
                Ports {
                    app: finder.any()?,
                    inbound,
                    outbound: finder.any()?,
                    admin: finder.any()?,
                    metrics: finder.any()?,
                    health: finder.any()?,
                },
            );
        }
        let stage = Stage {
            tools,
            api: loopback(api),
            xds: loopback(xds),
            ports,
            control: None,
            apps: Vec::new(),
            proxies: Vec::new(),
            copies: JoinSet::new(),
            access_logs,
            folder,
            warden,
        };
        stage.write_resources()?;
        Ok(stage)
    }

    /// Where `weirctl` is.
    pub(crate) fn weirctl_path(&self) -> &Path {
        &self.tools.weirctl
    }

    /// The stage's folder, which goes with it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the resources that hold from the beginning.
    pub(crate) fn resources(&self) -> PathBuf {
        self.folder().join("resources")
    }

    /// The file of the change that is pushed later.
    pub(crate) fn change(&self) -> PathBuf {
        self.folder().join("change").join("all-to-version-1.yaml")
    }

    /// A service's ports.
    pub(crate) fn ports(&self, role: Role) -> Ports {
        // Filled for each role by `new`; zeros would be refused connections, not another service's.
        self.ports.get(role.name()).copied().unwrap_or(Ports {
            app: 0,
            inbound: 0,
            outbound: 0,
            admin: 0,
            metrics: 0,
            health: 0,
        })
    }

    /// Where citizens come in.
    pub(crate) fn edge(&self) -> SocketAddr {
        loopback(self.ports(Role::Portal).inbound)
    }

    /// Starts the control plane on its folder, which holds what an earlier one left, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time, with the end of its log.
    pub(crate) async fn start_control(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.tools.control);
        command.arg("--data-dir").arg(self.folder().join("control"));
        command.args(["--api", &self.api.to_string(), "--xds", &self.xds.to_string()]);
        let process = self
            .start("weir-control", command, Announces::Line("weir-control ready:"))
            .await?;
        self.control = Some(process);
        Ok(())
    }

    /// Kills the control plane with SIGKILL, as a failing machine would.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) async fn kill_control(&mut self) -> anyhow::Result<()> {
        let mut control = self.control.take().context("weir-control does not run")?;
        control.child.kill().await.context("weir-control can't be killed")?;
        self.warden.ended(control.pid);
        Ok(())
    }

    /// Starts each app with its sidecar, and waits until all of them say that they are ready.
    ///
    /// # Errors
    /// When one ends or is not ready in time, with the end of its log.
    pub(crate) async fn start_services(&mut self) -> anyhow::Result<()> {
        let own = std::env::current_exe().context("where this program is")?;
        for role in Role::ALL {
            let ports = self.ports(role);
            let mut command = Command::new(&own);
            command.args(["app", role.name()]);
            command.args(["--listen", &loopback(ports.app).to_string()]);
            command.args(["--outbound", &loopback(ports.outbound).to_string()]);
            let app = self
                .start(&format!("{} (app)", role.name()), command, Announces::Line("ready"))
                .await?;
            self.apps.push(app);
            let command = self.sidecar(role);
            let proxy = self
                .start(&format!("{} (weir-proxy)", role.name()), command, Announces::Nothing)
                .await?;
            self.proxies.push(proxy);
        }
        let deadline = Instant::now() + READY_TIMEOUT;
        for role in Role::ALL {
            let health = Client::new(loopback(self.ports(role).health));
            loop {
                let answer = health
                    .get("localhost", "/healthz/ready", &HeaderMap::new(), CALL_TIMEOUT)
                    .await;
                if answer.as_ref().is_ok_and(|answer| answer.status == StatusCode::OK) {
                    break;
                }
                self.check_alive()?;
                if Instant::now() > deadline {
                    let said = match answer {
                        Ok(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
                        Err(error) => error.to_string(),
                    };
                    bail!(
                        "the sidecar of {} is not ready: {said}{}",
                        role.name(),
                        self.log_ends(role.name())
                    );
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    fn sidecar(&self, role: Role) -> Command {
        let ports = self.ports(role);
        let entry = match role {
            Role::Portal => ",edge",
            _ => "",
        };
        let labels = match role {
            Role::NucleicAcidTestV1 => "app=nucleic-acid-test,version=v1".to_owned(),
            Role::NucleicAcidTestV2 => "app=nucleic-acid-test,version=v2".to_owned(),
            _ => format!("app={}", role.name()),
        };
        let mut command = Command::new(&self.tools.proxy);
        command.args(["--control-plane", &format!("http://{}", self.xds)]);
        command.args(["--workload", role.name(), "--namespace", NAMESPACE, "--labels", &labels]);
        command.args(["--app", &format!("{}=http@{}{entry}", ports.app, ports.inbound)]);
        command.args(["--inbound-address", "127.0.0.1"]);
        command.args(["--outbound", &loopback(ports.outbound).to_string()]);
        command.args(["--admin", &loopback(ports.admin).to_string()]);
        command.args(["--metrics", &loopback(ports.metrics).to_string()]);
        command.args(["--health", &loopback(ports.health).to_string()]);
        command.args(["--locality", "zhejiang/hangzhou/xihu"]);
        command.args(["--otlp", &format!("http://{}", self.xds), "--trace-sampling", "0.1"]);
        command
            .arg("--state-dir")
            .arg(self.folder().join("state").join(role.name()));
        let access_log = match self.access_logs {
            AccessLogs::Off => PathBuf::from("off"),
            AccessLogs::Files => self.folder().join("logs").join(format!("{}.access.jsonl", role.name())),
        };
        command.arg("--access-log").arg(access_log);
        command
    }

    /// Says which process has ended though nobody asked it to.
    ///
    /// # Errors
    /// When one has, with the end of its log.
    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        for process in self.control.iter_mut().chain(&mut self.apps).chain(&mut self.proxies) {
            if let Some(status) = process.child.try_wait()? {
                return Err(process.ended(status));
            }
        }
        Ok(())
    }

    /// Runs `weirctl` against the control plane, and gives what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub(crate) async fn weirctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.tools.weirctl);
        without_variables(&mut command);
        command.args(["--server", &format!("http://{}", self.api)]);
        command.args(args).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(WEIRCTL_TIMEOUT, command.output())
            .await
            .map_err(|_| {
                anyhow!(
                    "weirctl {} did not end in {} s",
                    args.join(" "),
                    WEIRCTL_TIMEOUT.as_secs()
                )
            })?
            .context("weirctl can't be started")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let wrong = String::from_utf8_lossy(&output.stderr);
            bail!(
                "weirctl {} ended with {}:\n{said}{wrong}",
                args.join(" "),
                output.status
            );
        }
        Ok(said)
    }

    /// Reads a JSON document from the control plane's API.
    ///
    /// # Errors
    /// When it does not answer with one.
    pub(crate) async fn api<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        json(&get(self.api, path).await?, path)
    }

    /// Ends everything, the sidecars first so that they can drain; gives the names of those that had to be killed.
    pub(crate) async fn strike(&mut self) -> Vec<String> {
        let mut killed = Vec::new();
        let mut end = |process: &Process| process.ask_to_end();
        self.proxies.iter().for_each(&mut end);
        let proxies = std::mem::take(&mut self.proxies);
        self.wait_for(proxies, DRAIN_TIMEOUT, &mut killed).await;
        // An app ends when its standard input does.
        let mut apps = std::mem::take(&mut self.apps);
        for app in &mut apps {
            drop(app.child.stdin.take());
        }
        self.wait_for(apps, END_TIMEOUT, &mut killed).await;
        if let Some(control) = self.control.take() {
            control.ask_to_end();
            self.wait_for(vec![control], END_TIMEOUT, &mut killed).await;
        }
        while self.copies.join_next().await.is_some() {}
        killed
    }

    async fn wait_for(&mut self, processes: Vec<Process>, limit: Duration, killed: &mut Vec<String>) {
        let deadline = Instant::now() + limit;
        for mut process in processes {
            if tokio::time::timeout_at(deadline, process.child.wait()).await.is_err() {
                killed.push(process.name.clone());
                let _ = process.child.kill().await;
            }
            self.warden.ended(process.pid);
        }
    }

    async fn start(&mut self, name: &str, mut command: Command, announces: Announces) -> anyhow::Result<Process> {
        let log = self
            .folder()
            .join("logs")
            .join(format!("{}.log", name.replace(['(', ')', ' '], "")));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .context("a log file")?;
        command.stderr(file.try_clone().context("a log file")?);
        match announces {
            Announces::Nothing => command.stdout(file),
            Announces::Line(_) => command.stdout(Stdio::piped()),
        };
        // A group of its own: Ctrl-C is for the demo, which ends the others in order.
        command.stdin(Stdio::piped()).process_group(0).kill_on_drop(true);
        without_variables(&mut command);
        let mut child = command.spawn().with_context(|| format!("{name} can't be started"))?;
        let pid = child.id().with_context(|| format!("{name} has ended at once"))?;
        self.warden.started(pid);
        let stdout = child.stdout.take();
        let mut process = Process {
            name: name.to_owned(),
            pid,
            child,
            log,
        };
        if let (Announces::Line(ready), Some(stdout)) = (announces, stdout) {
            let mut lines = BufReader::new(stdout).lines();
            let announced = async {
                while let Some(line) = lines.next_line().await? {
                    if line.starts_with(ready) {
                        return Ok::<_, std::io::Error>(true);
                    }
                }
                Ok(false)
            };
            match timeout(READY_TIMEOUT, announced).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    let status = process.child.wait().await?;
                    self.warden.ended(pid);
                    return Err(process.ended(status));
                }
                Ok(Err(error)) => return Err(error).with_context(|| format!("{name}'s output")),
                Err(_) => bail!(
                    "{name} is not ready after {} s{}",
                    READY_TIMEOUT.as_secs(),
                    process.log_end()
                ),
            }
            // What it prints later goes to its log, so that it never waits for a reader.
            let mut log = std::fs::OpenOptions::new()
                .append(true)
                .open(&process.log)
                .context("a log file")?;
            self.copies.spawn(async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    let _ = writeln!(log, "{line}");
                }
            });
        }
        Ok(process)
    }

    fn log_ends(&self, name: &str) -> String {
        let own = self
            .proxies
            .iter()
            .chain(&self.apps)
            .filter(|process| process.name.starts_with(name));
        own.map(Process::log_end).collect()
    }

    fn write_resources(&self) -> anyhow::Result<()> {
        for (name, text) in RESOURCES {
            let text = with_ports(text, |role| self.ports(role).app);
            std::fs::write(self.resources().join(name), text).with_context(|| name.to_string())?;
        }
        std::fs::write(self.change(), CHANGE).context("the change")
    }
}

/// What a process says when it is ready.
#[derive(Clone, Copy)]
enum Announces {
    /// Nothing: its health port tells.
    Nothing,
    /// A line on standard output that begins so.
    Line(&'static str),
}

/// A process of the stage; killed when this is dropped.
struct Process {
    name: String,
    pid: u32,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Sends SIGTERM.
    fn ask_to_end(&self) {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw)
        {
            // It may have ended by itself: then there is nobody to ask.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    fn ended(&self, status: ExitStatus) -> anyhow::Error {
        anyhow!("{} ended with {status}{}", self.name, self.log_end())
    }

    fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let end = lines
            .get(lines.len().saturating_sub(LOG_END_LINES)..)
            .unwrap_or_default();
        if end.is_empty() {
            return format!("\n({} said nothing)", self.name);
        }
        format!("\n{} said:\n  {}", self.name, end.join("\n  "))
    }
}

/// A resource file with the apps' ports in place of their names.
fn with_ports(text: &str, port: impl Fn(Role) -> u16) -> String {
    let mut text = text.to_owned();
    for role in Role::ALL {
        text = text.replace(&format!("PORT-OF-{}}}", role.name()), &format!("{}}}", port(role)));
    }
    text
}

/// The command without the variables that would configure the product's programs beside their flags.
fn without_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEIR_") {
            command.env_remove(name);
        }
    }
}

/// One GET on a connection of its own.
///
/// # Errors
/// When there is no answer, or one that is not 200.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let client = Client::new(address);
    let answer = client
        .get(&address.to_string(), path, &HeaderMap::new(), CALL_TIMEOUT)
        .await;
    let answer = answer.with_context(|| format!("GET http://{address}{path}"))?;
    let said = String::from_utf8_lossy(&answer.body);
    ensure!(
        answer.status == StatusCode::OK,
        "GET http://{address}{path}: {}: {said}",
        answer.status
    );
    Ok(answer)
}

/// An answer's body as JSON.
///
/// # Errors
/// When it isn't.
pub(crate) fn json<T: serde::de::DeserializeOwned>(answer: &Answer, what: &str) -> anyhow::Result<T> {
    serde_json::from_slice(&answer.body).with_context(|| format!("the answer to {what}"))
}

/// A port on the loopback address that all of the stage uses.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Finds free ports, all different: it holds each until it is dropped.
///
/// They are below those that the system gives to outgoing connections: one of those could take a port in the moment
/// between its choice and its use, or while the control plane that had it is down.
struct PortFinder {
    choice: PortChoice,
    next: u16,
    end: u16,
    held: Vec<TcpListener>,
}

impl PortFinder {
    fn new(choice: PortChoice) -> Self {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let end = range
            .split_whitespace()
            .next()
            .and_then(|low| low.parse().ok())
            .unwrap_or(32768);
        let end = if end > FIRST_PORT + 1000 { end } else { u16::MAX };
        PortFinder {
            choice,
            // Somewhere, so that two demos at a time don't meet.
            next: fastrand::u16(FIRST_PORT..end - 500),
            end,
            held: Vec::new(),
        }
    }

    fn any(&mut self) -> anyhow::Result<u16> {
        while self.next < self.end {
            let port = self.next;
            self.next += 1;
            if self.take(port) {
                return Ok(port);
            }
        }
        bail!("there is no free port below {}", self.end)
    }

    fn prefer(&mut self, port: u16) -> anyhow::Result<u16> {
        match self.choice {
            PortChoice::Any => self.any(),
            PortChoice::WellKnown => {
                if self.take(port) {
                    return Ok(port);
                }
                let other = self.any()?;
                eprintln!("port {port} is in use by another program: {other} is taken instead");
                Ok(other)
            }
        }
    }

    /// On every address, since the sidecars' inbound listeners are.
    fn take(&mut self, port: u16) -> bool {
        let free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        free.map(|listener| self.held.push(listener)).is_ok()
    }
}

/// The namespace of all the services.
pub(crate) const NAMESPACE: &str = "citizen";
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
const RESOURCES: [(&str, &str); 4] = [
    ("namespace.yaml", include_str!("../resources/namespace.yaml")),
    ("services.yaml", include_str!("../resources/services.yaml")),
    ("routes.yaml", include_str!("../resources/routes.yaml")),
    ("policies.yaml", include_str!("../resources/policies.yaml")),
];
const CHANGE: &str = include_str!("../resources/change/all-to-version-1.yaml");
const WELL_KNOWN_API: u16 = 7440;
const WELL_KNOWN_EDGE: u16 = 15006;
const FIRST_PORT: u16 = 16_000;
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const WEIRCTL_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than a sidecar needs for the stage's requests, shorter than people wait.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
const END_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
const LOG_END_LINES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_a_taken_one_is_passed_over() {
        let mut finder = PortFinder::new(PortChoice::WellKnown);
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let taken = taken.local_addr().expect("it is bound").port();
        let mut ports = vec![finder.prefer(taken).expect("there are free ports")];
        for _ in 0..50 {
            ports.push(finder.any().expect("there are free ports"));
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 51);
    }

    #[test]
    fn the_resources_are_valid() {
        let mut read = 0;
        for (name, text) in RESOURCES.into_iter().chain([("change", CHANGE)]) {
            let text = with_ports(text, |_| 8080);
            let objects = weir_api::yaml::read_objects(&text, name, None);
            read += objects.unwrap_or_else(|errors| panic!("{errors:?}")).len();
        }
        assert_eq!(read, 13);
    }
}
