//! `weirctl completion` and `weirctl man`: made of the same description as `--help`.

use std::fs;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, CompletionArgs, ManArgs, Shells};
use crate::error::CliError;
use crate::output::Out;

/// Prints what a shell has to read.
pub(crate) fn completion(args: &CompletionArgs, out: &mut Out) -> Result<(), CliError> {
    let shell = match args.shell {
        Shells::Bash => Shell::Bash,
        Shells::Zsh => Shell::Zsh,
        Shells::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weirctl", &mut script);
    out.text(&String::from_utf8_lossy(&script))?;
    Ok(())
}

/// Writes a page for each command.
pub(crate) fn man(args: &ManArgs, out: &mut Out) -> Result<(), CliError> {
    let failed = |source| CliError::File {
        path: args.folder.clone(),
        source,
    };
    fs::create_dir_all(&args.folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.folder).map_err(failed)?;
    out.line(&format!("man pages are in {}", args.folder.display()))?;
    Ok(())
}
