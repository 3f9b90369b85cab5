//! The command line for mesh admins and people on call.

mod apply;
mod check;
mod cli;
mod client;
mod clusters;
mod delete;
mod describe;
mod diff;
mod edit;
mod error;
mod explain;
mod get;
mod identity;
mod output;
mod pages;
mod progress;
mod proxy;
mod prune;
mod sources;
mod status;
mod trace;
mod wait;

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
        Err(error) if error.is_said() => error.exit_code(),
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
    let mut out = Out::stdout();
    let client = || Client::new(&cli.server, Peer::ControlPlane);
    match &cli.command {
        Command::Completion(args) => pages::completion(args, &mut out),
        Command::Man(args) => pages::man(args, &mut out),
        Command::Check(args) => check::run(&client()?, args, &mut out),
        Command::Describe(args) => describe::run(&client()?, args, &mut out),
        Command::Diff(args) => diff::run(&client()?, args, &mut out),
        Command::Edit(args) => edit::run(&client()?, args, &mut out),
        Command::Wait(args) => wait::run(&client()?, args, &mut out),
        Command::Apply(args) => apply::run(&client()?, args, &mut out),
        Command::Get(args) => get::run(&client()?, args, &mut out),
        Command::Delete(args) => delete::run(&client()?, args, &mut out),
        Command::Explain(args) => explain::run(&client()?, args, &mut out),
        Command::Proxy(args) => proxy::run(&client()?, args, &mut out),
        Command::Status(args) => status::run(&client()?, args, &mut out),
        Command::Ca(args) => identity::ca(&client()?, args, &mut out),
        Command::Cert(args) => identity::cert(&client()?, args, &mut out),
        Command::Token(args) => identity::token(&client()?, args, &mut out),
        Command::Trace(args) => trace::run(&client()?, args, &mut out),
    }
}
