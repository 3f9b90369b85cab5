//! `weirctl delete`.

use weir_api::Key;
use weir_api::views::Reason;

use crate::cli::DeleteArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Out, say, short};
use crate::{sources, wait};

pub(crate) fn run(client: &Client, args: &DeleteArgs, out: &mut Out) -> Result<(), CliError> {
    let keys = keys(client, args)?;
    let (query, done) = match args.dry_run {
        true => ("?dryRun=All", "deleted (dry run)"),
        false => ("", "deleted"),
    };
    let mut failed = 0;
    for key in &keys {
        match client.delete(&short(key), &format!("{}{query}", key.path())) {
            Ok(_) => out.line(&format!("{} {done}", short(key)))?,
            Err(error) if args.ignore_not_found && error.is_refusal(Reason::NotFound) => {
                out.line(&format!("{} is not there", short(key)))?;
            }
            // Said by main.
            Err(error) if keys.len() == 1 => return Err(error),
            Err(error @ CliError::Unreachable { .. }) => return Err(error),
            Err(error) => {
                say(&format!("error: {error}"));
                failed += 1;
            }
        }
    }
    if failed > 0 {
        let all = keys.len();
        return Err(CliError::Some { failed, all });
    }
    if args.wait {
        wait::deleted(client, keys, args.timeout)?;
    }
    Ok(())
}

/// What to delete: what was created last goes first.
fn keys(client: &Client, args: &DeleteArgs) -> Result<Vec<Key>, CliError> {
    let Some(kind) = args.kind else {
        let sources = sources::read(&args.files.files, args.namespace.as_deref())?;
        return Ok(sources.iter().rev().map(|source| source.object.key()).collect());
    };
    if !args.files.files.is_empty() {
        return Err(CliError::Usage(
            "give either a kind with names or a selector, or files, not both".to_owned(),
        ));
    }
    let namespace = crate::cli::namespace_of(kind, args.namespace.as_deref());
    if let Some(selector) = &args.selector {
        let keys = client.keys(kind, &namespace, &selector.to_string())?;
        if keys.is_empty() {
            say(&format!("no {} has {selector}", kind.plural()));
        }
        return Ok(keys);
    }
    if args.names.is_empty() {
        return Err(CliError::Usage(format!(
            "say which {}: by name, or by label with -l",
            kind.plural()
        )));
    }
    let key = |name: &String| Key {
        kind,
        namespace: namespace.clone(),
        name: name.clone(),
    };
    Ok(args.names.iter().map(key).collect())
}
