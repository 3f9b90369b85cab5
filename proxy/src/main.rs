//! Weir's sidecar: reads the command line, runs the proxy until it is told to stop, drains.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tikv_jemallocator::Jemalloc;
use tokio::signal::unix::{SignalKind, signal};
use weir_proxy::cli::Args;
use weir_proxy::config::ProxyConfig;
use weir_proxy::process_log::{self, LogFormat, LogLevel};
use weir_proxy::proxy::{Drained, Proxy};

/// Some forty allocations stand in a request's path, and tasks want theirs aligned, for which the system's allocator
/// searches: docs/performance.md has what this one saves.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The command line is wrong: nothing was tried.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let (level, format) = match log_settings(&args) {
        Ok(settings) => settings,
        Err(problem) => return refuse(&[problem]),
    };
    let config = match ProxyConfig::from_args(args) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    match run(config, level, format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format_args!("weir-proxy: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn log_settings(args: &Args) -> Result<(LogLevel, LogFormat), String> {
    let level = args
        .log_level
        .parse()
        .map_err(|error| format!("--log-level: {error}"))?;
    let format = args
        .log_format
        .parse()
        .map_err(|error| format!("--log-format: {error}"))?;
    Ok((level, format))
}

fn refuse<T: std::fmt::Display>(problems: &[T]) -> ExitCode {
    for problem in problems {
        say(&format_args!("weir-proxy: {problem}"));
    }
    say(&"weir-proxy --help lists every flag");
    ExitCode::from(USAGE)
}

/// To whoever started it, beside the log, which may be off or JSON. Nobody may be listening.
fn say(text: &dyn std::fmt::Display) {
    let _nobody_listens = writeln!(io::stderr(), "{text}");
}

/// The workers have threads of their own; what stands beside them shares this one.
fn run(config: ProxyConfig, level: LogLevel, format: LogFormat) -> anyhow::Result<()> {
    process_log::install(level, format)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the system gives no event queue")?;
    runtime.block_on(serve(config))
}

async fn serve(config: ProxyConfig) -> anyhow::Result<()> {
    // Before anything runs: a signal that comes while it starts ends it in order as well.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT can't be handled")?;
    let workload = config.workload.to_string();
    let proxy = Proxy::start(config).await?;
    let addresses = proxy.addresses();
    let inbound = addresses
        .inbound
        .iter()
        .map(|(app_port, inbound)| format!("{app_port}@{inbound}"));
    let inbound = inbound.collect::<Vec<String>>().join(",");
    tracing::info!(
        workload,
        version = env!("CARGO_PKG_VERSION"),
        outbound = %addresses.outbound,
        inbound,
        admin = %addresses.admin,
        metrics = %addresses.metrics,
        health = %addresses.health,
        "started"
    );
    // Each is cancel safe: whichever comes first, the others' loss changes nothing.
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = proxy.drain_asked() => "the admin port",
    };
    tracing::info!(why, "draining");
    let drained = tokio::select! {
        drained = proxy.drain() => drained,
        // A second signal is an order: the drain is dropped, and what is under way with it.
        _ = terminate.recv() => Drained::CutOff,
        _ = interrupt.recv() => Drained::CutOff,
    };
    match drained {
        Drained::Whole => tracing::info!("stopped"),
        Drained::CutOff => tracing::warn!("stopped with requests under way"),
    }
    Ok(())
}
