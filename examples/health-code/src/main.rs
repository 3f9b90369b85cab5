//! A governed health-code query, from a citizen to six services and back: the mesh at work, with real processes and
//! sockets, in about a minute. It is also an end-to-end test: what was asked for and what was seen, and an exit status
//! that says whether they agree.

mod app;
mod http;
mod load;
mod scenes;
mod stage;
mod table;
mod warden;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::Role;
use crate::scenes::Script;
use crate::stage::{AccessLogs, PortChoice, Stage, Tools};
use crate::table::{Check, Manner, Screen};

/// Shows Weir at work on a health-code query: a portal, a code service and four departments' services, each a process
/// with its own weir-proxy, under one weir-control, with citizens' queries on top.
///
/// Exit status: 0 when all that was asked for was seen, 1 when not, 130 when interrupted.
#[derive(Parser)]
#[command(name = "health-code", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Hidden>,
    /// Leaves everything running at the end, until Ctrl-C, and prints what to try by hand.
    #[arg(long)]
    keep: bool,
    /// A line each second instead of a table in place (which only a terminal gets anyway).
    #[arg(long)]
    plain: bool,
    /// What is printed at the end; with json, progress goes to standard error.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// Citizens' queries a second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// How long each scene takes; 2 to 60.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=60))]
    seconds_per_scene: u64,
    /// Takes weir-proxy, weir-control and weirctl as they are beside this program, instead of building them first.
    #[arg(long)]
    no_build: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What this program also is, for itself.
#[derive(Subcommand)]
enum Hidden {
    /// One of the services.
    #[command(hide = true)]
    App {
        role: Role,
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        outbound: SocketAddr,
    },
    /// Cleans up after a demo that was killed.
    #[command(hide = true)]
    Warden,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Hidden::Warden) = cli.command {
        return exit(warden::run());
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit(Err(error.into())),
    };
    match cli.command {
        Some(Hidden::App { role, listen, outbound }) => exit(runtime.block_on(app::run(role, listen, outbound))),
        Some(Hidden::Warden) | None => runtime.block_on(demo(cli)),
    }
}

fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("health-code: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(cli: Cli) -> ExitCode {
    let mut stop = match Stop::new() {
        Ok(stop) => stop,
        Err(error) => return exit(Err(error)),
    };
    let tools = async {
        if cli.no_build {
            Tools::beside()
        } else {
            Tools::build().await
        }
    };
    let tools = tokio::select! {
        tools = tools => tools,
        () = stop.asked() => return ExitCode::from(INTERRUPTED),
    };
    let (choice, access_logs) = match cli.keep {
        true => (PortChoice::WellKnown, AccessLogs::Files),
        false => (PortChoice::Any, AccessLogs::Off),
    };
    let mut stage = match tools.and_then(|tools| Stage::new(tools, choice, access_logs)) {
        Ok(stage) => stage,
        Err(error) => return exit(Err(error)),
    };
    let manner = match cli.output {
        Output::Json => Manner::Json,
        Output::Text if cli.plain => Manner::Plain,
        Output::Text => Manner::of_stdout(),
    };
    let mut screen = Screen::new(manner);
    let script = Script {
        per_second: cli.rate,
        scene: Duration::from_secs(cli.seconds_per_scene),
    };
    let mut checks = Vec::new();
    let played = tokio::select! {
        played = scenes::play(&mut stage, &mut screen, script, &mut checks) => Some(played),
        () = stop.asked() => None,
    };
    let mut told = 0;
    if cli.keep && matches!(played, Some(Ok(()))) {
        told = checks.len();
        screen.say(&format!("\n{}\n{}", table::reckoning(&checks), scenes::by_hand(&stage)));
        tokio::select! {
            () = scenes::linger(&stage, script) => {}
            () = stop.asked() => {}
        }
    }
    screen.headline("Everything is ended");
    let killed = stage.strike().await;
    checks.push(Check {
        asked: "every process ends when asked to".to_owned(),
        ok: killed.is_empty(),
        seen: if killed.is_empty() {
            "all did".to_owned()
        } else {
            format!("{} had to be killed", killed.join(", "))
        },
    });
    match played {
        None => {
            screen.say("interrupted");
            return ExitCode::from(INTERRUPTED);
        }
        Some(Err(error)) => {
            checks.push(Check {
                asked: "the demo plays to its end".to_owned(),
                seen: format!("{error:#}"),
                ok: false,
            });
        }
        Some(Ok(())) => {}
    }
    match manner {
        Manner::Json => println!("{}", serde_json::json!({ "checks": checks })),
        Manner::Live | Manner::Plain => screen.say(&format!(
            "\n{}",
            table::reckoning(checks.get(told..).unwrap_or_default())
        )),
    }
    if checks.iter().all(|check| check.ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// SIGINT or SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Stop> {
        Ok(Stop {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for either.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// As shells tell an end by SIGINT: 128 + 2.
const INTERRUPTED: u8 = 130;
