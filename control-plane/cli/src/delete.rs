//! `weirctl delete`.

use weir_api::views::Reason;
use weir_api::{Key, Scope};

use crate::apply::short;
use crate::cli::DeleteArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Out, say};
use crate::sources;

pub(crate) fn run(client: &Client, args: &DeleteArgs, out: &mut Out) -> Result<(), CliError> {
    let keys = keys(args)?;
    let mut failed = 0;
    for key in &keys {
        match client.delete(&short(key), &key.path()) {
            Ok(_) => out.line(&format!("{} deleted", short(key)))?,
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
    Ok(())
}

/// What to delete: what was created last goes first.
fn keys(args: &DeleteArgs) -> Result<Vec<Key>, CliError> {
    let (Some(kind), Some(name)) = (args.kind, &args.name) else {
        let sources = sources::read(&args.files.files, args.namespace.as_deref())?;
        return Ok(sources.iter().rev().map(|source| source.object.key()).collect());
    };
    if !args.files.files.is_empty() {
        return Err(CliError::Usage(
            "give either KIND and NAME or files, not both".to_owned(),
        ));
    }
    let namespace = match kind.scope() {
        Scope::Cluster => String::new(),
        Scope::Namespaced => args.namespace.clone().unwrap_or_else(|| "default".to_owned()),
    };
    Ok(vec![Key {
        kind,
        namespace,
        name: name.clone(),
    }])
}
