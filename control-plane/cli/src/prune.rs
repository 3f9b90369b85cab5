//! `weirctl apply --prune`: what has the label and stands in no file goes.

use std::collections::BTreeSet;

use weir_api::views::Reason;
use weir_api::{Access, Key, Kind};

use crate::cli::{ApplyArgs, Selector};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Out, Tone, say, short};
use crate::sources::Source;

/// Refuses files whose resources the selector does not take: the next run would delete them.
pub(crate) fn check(sources: &[Source], selector: &Selector) -> Result<(), CliError> {
    for source in sources.iter().filter(|source| is_pruned(source.object.kind())) {
        if let Some((label, value)) = selector.missing(&source.object.metadata.labels) {
            return Err(CliError::Usage(format!(
                "{}: {} lacks the label {label}={value}: with --prune each resource in the files must have it",
                source.place,
                short(&source.object.key())
            )));
        }
    }
    Ok(())
}

/// Deletes what has the labels, lives in a namespace that the files name, and stands in no file; without `--yes` it
/// only says what that would be.
pub(crate) fn run(
    client: &Client,
    args: &ApplyArgs,
    sources: &[Source],
    selector: &Selector,
    out: &mut Out,
) -> Result<(), CliError> {
    let kept: BTreeSet<Key> = sources.iter().map(|source| source.object.key()).collect();
    let namespaces: BTreeSet<&str> = sources
        .iter()
        .map(|source| source.object.metadata.namespace.as_str())
        .filter(|namespace| !namespace.is_empty())
        .collect();
    let mut gone = Vec::new();
    // What was created last goes first.
    for &kind in Kind::ALL.iter().rev().filter(|kind| is_pruned(**kind)) {
        for namespace in &namespaces {
            let keys = client.keys(kind, namespace, &selector.to_string())?;
            gone.extend(keys.into_iter().filter(|key| !kept.contains(key)));
        }
    }
    let really = args.yes && !args.dry_run;
    let mut failed = 0;
    for key in &gone {
        if !really {
            let word = out.paint(Tone::Waiting, "would be pruned");
            out.line(&format!("{} {word}", short(key)))?;
            continue;
        }
        match client.delete(&short(key), &key.path()) {
            Ok(_) => {
                let word = out.paint(Tone::Bad, "pruned");
                out.line(&format!("{} {word}", short(key)))?;
            }
            Err(error) if error.is_refusal(Reason::NotFound) => {}
            Err(error) => {
                say(&format!("error: {error}"));
                failed += 1;
            }
        }
    }
    if failed > 0 {
        let all = gone.len();
        return Err(CliError::Some { failed, all });
    }
    if !really && !gone.is_empty() && !args.dry_run {
        say("nothing was pruned; the same with --yes deletes them");
    }
    Ok(())
}

/// Whether resources of a kind are pruned: what files hold, save what takes others with it.
fn is_pruned(kind: Kind) -> bool {
    let takes_others = match kind {
        Kind::Namespace | Kind::MeshConfig => true,
        Kind::ConfigMap
        | Kind::BackendTlsPolicy
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Workload
        | Kind::BackendPolicy
        | Kind::RoutePolicy
        | Kind::TelemetryPolicy
        | Kind::ReferenceGrant
        | Kind::HttpRoute
        | Kind::GrpcRoute => false,
    };
    kind.access() == Access::Writable && !takes_others
}
