//! Weir's control plane: the API, the store, the xDS server, the trace view.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use weir_control::{Control, RunningControl};

use cli::{Cli, LogFormat};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Beside the log, which may be switched off or be JSON: the last word is for whoever started it.
            let _ = writeln!(io::stderr(), "weir-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let config = cli.config()?;
    log_to_stderr(cli)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let ended = runtime.block_on(async {
        // Before anything runs: a signal that comes while starting is not lost.
        let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
        let mut control = Control::start(config).await?;
        say_ready(&control);
        // Cancel safe, all three.
        let failed = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            ended = control.failed() => Some(ended),
        };
        tracing::info!("ending");
        control.shutdown().await;
        match failed {
            None => Ok(()),
            Some(ended) => Err(ended.into()),
        }
    });
    // A file whose mount hangs is read by a thread that nobody can end.
    runtime.shutdown_timeout(THREADS_END_WITHIN);
    ended
}

/// One line for whoever waits for it: a script, a test, a person.
fn say_ready(control: &RunningControl) {
    let mut line = format!("weir-control ready: api http://{}", control.api_addr());
    if let Some(xds) = control.xds_addr() {
        line.push_str(&format!(" xds http://{xds}"));
    }
    if let Some(xds_tls) = control.xds_tls_addr() {
        line.push_str(&format!(" xds-tls https://{xds_tls}"));
    }
    let mut stdout = io::stdout();
    // A closed stdout is no reason not to serve.
    let _ = writeln!(stdout, "{line}");
    let _ = stdout.flush();
}

fn log_to_stderr(cli: &Cli) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&cli.log).with_context(|| format!("--log {}", cli.log))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match cli.log_format {
        LogFormat::Text => subscriber.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

/// The control plane works little and waits much; the store has a thread of its own.
const WORKERS: usize = 2;
/// All that is to end in order has by then.
const THREADS_END_WITHIN: Duration = Duration::from_secs(1);
