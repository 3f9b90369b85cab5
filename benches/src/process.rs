//! Processes under test: started, watched and ended.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::callgrind::Callgrind;

/// A running program; killed when this is dropped.
pub struct Process {
    name: String,
    pid: u32,
    child: Child,
    /// Kept open, so that the program can go on writing.
    _stdout: Option<Lines<BufReader<ChildStdout>>>,
}

/// On which processors a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first, which what is measured has for itself.
    First,
    /// All others.
    Others,
    /// All.
    All,
}

/// How a program says that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready<'a> {
    /// It takes connections here.
    Accepts(SocketAddr),
    /// It prints a line that begins so on standard output.
    Line(&'a str),
}

impl Process {
    /// Starts a program and waits until it is ready; gives the line in which it said so.
    ///
    /// # Errors
    /// When it is missing, ends, or is not ready within 20 s.
    pub async fn start(
        program: &Path,
        args: &[String],
        (processors, place): (&Processors, Place),
        ready: Ready<'_>,
    ) -> anyhow::Result<(Process, String)> {
        let mut command = processors.command(program, place);
        command.args(args);
        Process::started(command, program, ready, READY_TIMEOUT).await
    }

    /// As [`Process::start`], with its instructions counted: some fifty times slower, and given as much more time.
    ///
    /// # Errors
    /// As [`Process::start`], and when valgrind is missing.
    pub async fn start_under(
        callgrind: &Callgrind,
        program: &Path,
        args: &[String],
        (processors, place): (&Processors, Place),
        ready: Ready<'_>,
    ) -> anyhow::Result<(Process, String)> {
        let [valgrind, before @ ..] = callgrind.before();
        let mut command = processors.command(Path::new(&valgrind), place);
        command.args(before).arg(program).args(args);
        Process::started(command, program, ready, READY_TIMEOUT_COUNTED).await
    }

    async fn started(
        mut command: Command,
        program: &Path,
        ready: Ready<'_>,
        within: Duration,
    ) -> anyhow::Result<(Process, String)> {
        let name = program
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        command.stdin(Stdio::null()).kill_on_drop(true);
        match ready {
            Ready::Accepts(_) => command.stdout(Stdio::null()),
            Ready::Line(_) => command.stdout(Stdio::piped()),
        };
        let mut child = command
            .spawn()
            .with_context(|| format!("{} can't be started", program.display()))?;
        let pid = child.id().with_context(|| format!("{name} ended at once"))?;
        let mut stdout = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        let said = async {
            match (ready, &mut stdout) {
                (Ready::Line(start), Some(lines)) => {
                    while let Some(line) = lines.next_line().await? {
                        if line.starts_with(start) {
                            return Ok(line);
                        }
                    }
                    bail!("{name} ended: {}", child.wait().await?)
                }
                (Ready::Line(_), None) => bail!("{name} has no output"),
                (Ready::Accepts(address), _) => loop {
                    if tokio::net::TcpStream::connect(address).await.is_ok() {
                        return Ok(String::new());
                    }
                    if let Some(status) = child.try_wait()? {
                        bail!("{name} ended: {status}");
                    }
                    tokio::time::sleep(POLL).await;
                },
            }
        };
        let said = timeout(within, said)
            .await
            .with_context(|| format!("{name} is not ready in time"))??;
        let process = Process {
            name,
            pid,
            child,
            _stdout: stdout,
        };
        Ok((process, said))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The processor time that its threads have used so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let mut nanos = 0;
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid))
            .with_context(|| format!("{} has ended", self.name))?;
        for task in tasks.flatten() {
            // A thread may end between the two reads; those that carry requests don't.
            let Ok(line) = std::fs::read_to_string(task.path().join("schedstat")) else {
                continue;
            };
            nanos += running_nanos(&line).with_context(|| format!("{}'s schedstat: {line:?}", self.name))?;
        }
        ensure!(nanos > 0, "the kernel keeps no schedstat");
        Ok(Duration::from_nanos(nanos))
    }

    /// Its resident memory, in KiB (VmRSS).
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_kib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))
            .with_context(|| format!("{} has ended", self.name))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse()
            .with_context(|| format!("VmRSS: {line:?}"))
    }

    /// Ends it and waits for its end.
    pub async fn stop(mut self) {
        // Killed rather than asked: nothing of it is needed any more.
        let _ = self.child.kill().await;
    }
}

/// The first number of schedstat: nanoseconds on a processor (kernel documentation, sched-stats).
fn running_nanos(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// The processors that this process may use, parted: what is measured has the first for itself.
#[derive(Clone, Debug)]
pub struct Processors {
    /// `taskset`, with the first and the others as it takes them; `None`: all share all.
    parted: Option<Parted>,
    count: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parted {
    taskset: PathBuf,
    first: String,
    others: String,
    all: String,
}

impl Processors {
    /// Looks what there is: at least two processors and `taskset` (util-linux) are needed to part them.
    pub fn find() -> Processors {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let all = allowed.unwrap_or_default().trim();
        let parted = part(all).zip(taskset());
        Processors {
            parted: parted.map(|((first, others), taskset)| Parted {
                taskset,
                first,
                others,
                all: all.to_owned(),
            }),
            count: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether what is measured has a processor for itself.
    pub fn are_parted(&self) -> bool {
        self.parted.is_some()
    }

    /// Moves this process, which must not have started threads yet, beside what is measured.
    ///
    /// # Errors
    /// When `taskset` does not do it.
    pub fn stand_aside(&self) -> anyhow::Result<()> {
        let Some(Parted { taskset, others, .. }) = &self.parted else {
            return Ok(());
        };
        let own = std::process::id().to_string();
        let mut command = std::process::Command::new(taskset);
        let status = command
            .args(["-c", "-p", others, &own])
            .stdout(Stdio::null())
            .status()
            .context("taskset")?;
        ensure!(status.success(), "taskset ended with {status}");
        Ok(())
    }

    fn command(&self, program: &Path, place: Place) -> Command {
        let Some(Parted {
            taskset,
            first,
            others,
            all,
        }) = &self.parted
        else {
            return Command::new(program);
        };
        let list = match place {
            Place::First => first,
            Place::Others => others,
            Place::All => all,
        };
        let mut command = Command::new(taskset);
        command.arg("-c").arg(list).arg(program);
        command
    }
}

/// Where `taskset` is.
fn taskset() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("taskset"))
        .find(|program| program.is_file())
}

/// Parts a list like `0-3,8` into its first processor and the others; `None` where there is only one.
fn part(list: &str) -> Option<(String, String)> {
    let (range, rest) = list.split_once(',').map_or((list, ""), |(range, rest)| (range, rest));
    let mut others = Vec::new();
    let first = match range.split_once('-') {
        None => range.parse::<u32>().ok()?,
        Some((first, last)) => {
            let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
            others.push(format!("{}-{last}", first.checked_add(1)?));
            first
        }
    };
    others.extend((!rest.is_empty()).then(|| rest.to_owned()));
    (!others.is_empty()).then(|| (first.to_string(), others.join(",")))
}

/// A program beside this one.
///
/// # Errors
/// When it isn't there, with the command that builds it.
pub fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("where this program is")?;
    let path = own.parent().context("this program is in no folder")?.join(name);
    let release = if cfg!(debug_assertions) { "" } else { " --release" };
    ensure!(
        path.is_file(),
        "{} is not there: cargo build{release} -p weir-bench -p weir-proxy -p weir-control",
        path.display()
    );
    Ok(path)
}

/// Free ports on loopback, all different, below those that the system gives to outgoing connections.
///
/// # Errors
/// When there are not that many.
pub fn free_ports<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let mut ports = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    let mut held = Vec::new();
    let mut next = fastrand::u16(12_000..30_000);
    for port in &mut ports {
        loop {
            next += 1;
            ensure!(next < 32_768, "there are no free ports");
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, next)) {
                held.push(listener);
                port.set_port(next);
                break;
            }
        }
    }
    Ok(ports)
}

/// The processor and how many there are, for the conditions of a table.
pub fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("an unknown processor", |(_, model)| model.trim());
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    format!("{model}, {count} processors")
}

/// Arguments of a program.
pub fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| arg.to_string()).collect()
}

const READY_TIMEOUT: Duration = Duration::from_secs(20);
const READY_TIMEOUT_COUNTED: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_read() {
        for (line, expect) in [("25432746 4047051 85\n", Some(25_432_746)), ("", None), ("x 1 2", None)] {
            assert_eq!(running_nanos(line), expect, "{line:?}");
        }
    }

    #[test]
    fn processors_are_parted() {
        for (list, expect) in [
            ("0-1", Some(("0", "1-1"))),
            ("0-7", Some(("0", "1-7"))),
            ("2-3,8-9", Some(("2", "3-3,8-9"))),
            ("4,6", Some(("4", "6"))),
            ("3", None),
            ("", None),
            ("x-y", None),
        ] {
            let expect = expect.map(|(first, others)| (first.to_owned(), others.to_owned()));
            assert_eq!(part(list), expect, "{list:?}");
        }
    }
}
