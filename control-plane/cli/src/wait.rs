//! `weirctl wait`, and waiting in other commands: until something is in force, gone, or has a condition.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_api::views::{ProxyView, Reason, ViewState};
use weir_api::{Key, Kind, duration};

use crate::cli::{For, WaitArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Out, Tone, clean, short};
use crate::progress::Progress;

pub(crate) fn run(client: &Client, args: &WaitArgs, out: &mut Out) -> Result<(), CliError> {
    let key = args.one.key();
    match &args.until {
        For::InForce => {
            let object = client.get(&short(&key), &key.path())?;
            let generation = generation(&object);
            in_force(
                client,
                vec![Waiting { key, generation }],
                Instant::now(),
                args.timeout,
                out,
            )
        }
        For::Deleted => {
            deleted(client, vec![key.clone()], args.timeout)?;
            out.line(&format!("{} is gone", short(&key)))?;
            Ok(())
        }
        For::Condition { name, status } => condition(client, &key, name, status, args.timeout, out),
    }
}

/// A resource that has to come into force, in this generation.
pub(crate) struct Waiting {
    pub(crate) key: Key,
    pub(crate) generation: i64,
}

/// Waits until all are in force on all proxies that use them, since `start`. What no connected proxy uses is not waited
/// for.
///
/// # Errors
/// When a proxy rejects one, or time is out.
pub(crate) fn in_force(
    client: &Client,
    waiting: Vec<Waiting>,
    start: Instant,
    timeout: Duration,
    out: &mut Out,
) -> Result<(), CliError> {
    let mut waiting: Vec<Waiting> = waiting
        .into_iter()
        .filter(|one| concerns_proxies(one.key.kind))
        .collect();
    let mut progress = Progress::new();
    // All proxies that any of the resources concerns.
    let mut concerned: BTreeSet<String> = BTreeSet::new();
    loop {
        let mut still = Vec::new();
        let mut lines = Vec::new();
        let mut pending: BTreeSet<String> = BTreeSet::new();
        for one in waiting {
            let what = short(&one.key);
            let view: ProxyView = client.view(&what, &format!("{}/proxies", one.key.path()))?;
            if view.generation < one.generation {
                lines.push(format!("{what} is not seen yet"));
                still.push(one);
                continue;
            }
            concerned.extend(view.in_force.iter().chain(&view.pending).cloned());
            match view.state {
                ViewState::InForce | ViewState::NoSubscribers => {}
                ViewState::Rejected => return Err(CliError::Rejected(rejections(&what, &view))),
                ViewState::Progressing => {
                    let proxies: Vec<String> = view.pending.iter().map(|proxy| clean(proxy)).collect();
                    lines.push(format!("{what} is pending on {}", proxies.join(", ")));
                    pending.extend(view.pending);
                    still.push(one);
                }
            }
        }
        if still.is_empty() {
            drop(progress);
            let after = format!("{:.2} s", start.elapsed().as_secs_f64());
            let line = match concerned.len() {
                0 => format!("no connected proxy uses it (after {after})"),
                1 => format!("in force on 1 proxy after {after}"),
                count => format!("in force on {count} proxies after {after}"),
            };
            out.line(&out.paint(Tone::Good, &line))?;
            return Ok(());
        }
        let in_force = concerned.difference(&pending).count();
        progress.show(&match concerned.len() {
            0 => "waiting for the control plane".to_owned(),
            count => format!("in force on {in_force} of {count} proxies"),
        });
        pause(start, timeout, || CliError::NotInForce {
            after: duration::format(timeout),
            waiting: lines,
        })?;
        waiting = still;
    }
}

/// Waits until none of them is there any more.
///
/// # Errors
/// When time is out.
pub(crate) fn deleted(client: &Client, mut keys: Vec<Key>, timeout: Duration) -> Result<(), CliError> {
    let start = Instant::now();
    let mut progress = Progress::new();
    let all = keys.len();
    loop {
        let mut still = Vec::new();
        for key in keys {
            match client.get(&short(&key), &key.path()) {
                Ok(_) => still.push(key),
                Err(error) if error.is_refusal(Reason::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        if still.is_empty() {
            return Ok(());
        }
        progress.show(&format!("{} of {all} are gone", all - still.len()));
        pause(start, timeout, || CliError::NotYet {
            after: duration::format(timeout),
            what: format!(
                "{} is still there",
                still.iter().map(short).collect::<Vec<_>>().join(", ")
            ),
        })?;
        keys = still;
    }
}

fn condition(
    client: &Client,
    key: &Key,
    name: &str,
    status: &str,
    timeout: Duration,
    out: &mut Out,
) -> Result<(), CliError> {
    let start = Instant::now();
    let mut progress = Progress::new();
    loop {
        let object = client.get(&short(key), &key.path())?;
        let found: Vec<Condition> = conditions(&object).into_iter().filter(|one| one.name == name).collect();
        let current =
            |one: &Condition| one.status == status && one.generation.is_none_or(|seen| seen >= generation(&object));
        if !found.is_empty() && found.iter().all(current) {
            drop(progress);
            out.line(&format!("{} has {name}={status}", short(key)))?;
            return Ok(());
        }
        let now = found
            .first()
            .map(|one| format!("{name} is {}: {}", one.status, one.message));
        let now = now.unwrap_or_else(|| format!("it has no condition {name}"));
        progress.show(&now);
        pause(start, timeout, || CliError::NotYet {
            after: duration::format(timeout),
            what: format!("{}: {}", short(key), clean(&now)),
        })?;
    }
}

/// A condition of a resource's status, wherever its kind has them.
pub(crate) struct Condition {
    /// Whose it is, where a status has several lists: `Service/shop`; empty: the resource's own.
    pub(crate) of: String,
    pub(crate) name: String,
    /// `True`, `False` or `Unknown`.
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// For which generation it was said.
    pub(crate) generation: Option<i64>,
}

/// All conditions of a resource: its own, those of a route's parents, those of a policy's ancestors.
pub(crate) fn conditions(object: &Value) -> Vec<Condition> {
    let mut all = Vec::new();
    let Some(status) = object.get("status") else { return all };
    read_conditions(status, "", &mut all);
    for (list, reference) in [("parents", "parentRef"), ("ancestors", "ancestorRef")] {
        for entry in status[list].as_array().into_iter().flatten() {
            let of = entry.get(reference).map(reference_text).unwrap_or_default();
            read_conditions(entry, &of, &mut all);
        }
    }
    all
}

fn read_conditions(holder: &Value, of: &str, all: &mut Vec<Condition>) {
    for condition in holder["conditions"].as_array().into_iter().flatten() {
        let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        all.push(Condition {
            of: of.to_owned(),
            name: text("type"),
            status: text("status"),
            reason: text("reason"),
            message: text("message"),
            generation: condition["observedGeneration"].as_i64(),
        });
    }
}

/// `Service/shop`, with namespace, section and port where they are given.
fn reference_text(reference: &Value) -> String {
    let part = |name: &str| reference[name].as_str().unwrap_or_default();
    let kind = reference["kind"].as_str().unwrap_or("Service");
    let mut text = match part("namespace") {
        "" => format!("{kind}/{}", part("name")),
        namespace => format!("{kind}/{namespace}/{}", part("name")),
    };
    if let Some(port) = reference["port"].as_u64() {
        text.push_str(&format!(":{port}"));
    }
    if !part("sectionName").is_empty() {
        text.push_str(&format!("#{}", part("sectionName")));
    }
    text
}

/// The generation of a resource's spec.
pub(crate) fn generation(object: &Value) -> i64 {
    object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

/// Whether proxies get anything that is made of a kind.
pub(crate) fn concerns_proxies(kind: Kind) -> bool {
    match kind {
        Kind::MeshConfig
        | Kind::ConfigMap
        | Kind::BackendTlsPolicy
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::BackendPolicy
        | Kind::RoutePolicy
        | Kind::TelemetryPolicy
        | Kind::ReferenceGrant
        | Kind::HttpRoute
        | Kind::GrpcRoute => true,
        Kind::Namespace | Kind::Workload => false,
    }
}

fn rejections(what: &str, view: &ProxyView) -> Vec<String> {
    let said = view.rejected.iter();
    let mut lines: Vec<String> = said
        .map(|one| clean(&format!("{what} was rejected by {}: {}", one.proxy, one.reason)))
        .collect();
    if lines.is_empty() {
        lines.push(format!("{what} was rejected"));
    }
    lines
}

/// Waits a moment, unless time is out.
pub(crate) fn pause(start: Instant, timeout: Duration, late: impl FnOnce() -> CliError) -> Result<(), CliError> {
    let left = timeout.saturating_sub(start.elapsed());
    if left.is_zero() {
        return Err(late());
    }
    thread::sleep(POLL.min(left));
    Ok(())
}

/// How often the control plane is asked.
const POLL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reference_is_said_with_all_that_it_names() {
        for (reference, expect) in [
            (json!({"name": "shop"}), "Service/shop"),
            (
                json!({"kind": "HTTPRoute", "name": "shop", "namespace": "n"}),
                "HTTPRoute/n/shop",
            ),
            (json!({"name": "shop", "port": 80}), "Service/shop:80"),
            (json!({"name": "shop", "sectionName": "web"}), "Service/shop#web"),
        ] {
            assert_eq!(reference_text(&reference), expect);
        }
    }

    #[test]
    fn a_rejection_is_said_with_its_proxies_if_they_are_known() {
        let view = |rejected| {
            let view = json!({
                "kind": "ProxyView", "object": "Service/n/a", "generation": 1, "state": "Rejected", "subscribers": 1,
                "inForce": [], "pending": [], "rejected": rejected,
            });
            rejections("a", &serde_json::from_value::<ProxyView>(view).expect("a view"))
        };
        let by_one = view(json!([{"proxy": "n/p", "reason": "why"}]));
        assert_eq!(by_one, ["a was rejected by n/p: why"]);
        assert_eq!(view(json!([])), ["a was rejected"]);
    }
}
