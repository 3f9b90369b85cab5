//! The command line for mesh admins and people on call.

mod apply;
mod cli;
mod client;
mod clusters;
mod delete;
mod error;
mod explain;
mod get;
mod output;
mod proxy;
mod sources;
mod status;
mod trace;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::client::{Client, Peer};
use crate::error::CliError;
use crate::output::{Out, say};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            if let Some(hint) = error.hint() {
                say(&format!("hint: {hint}"));
            }
            error.exit_code()
        }
    }
}

fn run(cli: &Cli) -> Result<(), CliError> {
    let client = Client::new(&cli.server, Peer::ControlPlane)?;
    let mut out = Out::stdout();
    match &cli.command {
        Command::Apply(args) => apply::run(&client, args, &mut out),
        Command::Get(args) => get::run(&client, args, &mut out),
        Command::Delete(args) => delete::run(&client, args, &mut out),
        Command::Explain(args) => explain::run(&client, args, &mut out),
        Command::Proxy(args) => proxy::run(&client, args, &mut out),
        Command::Status(args) => status::run(&client, args, &mut out),
        Command::Trace(args) => trace::run(&client, args, &mut out),
    }
}
