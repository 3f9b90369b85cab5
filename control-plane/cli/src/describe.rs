//! `weirctl describe`: one resource with all that is known of it: what it says, what became of it, where it is in
//! force, and what refers to it.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use weir_api::service::SERVICE_NAME_LABEL;
use weir_api::status::condition;
use weir_api::views::{ObjectList, ProxyView, ViewState};
use weir_api::{Key, Kind, yaml};

use crate::cli::{DescribeArgs, ViewFormat};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Cell, Out, Tone, clean, short};
use crate::wait::{concerns_proxies, conditions};

pub(crate) fn run(client: &Client, args: &DescribeArgs, out: &mut Out) -> Result<(), CliError> {
    let key = args.one.key();
    let object = client.get(&short(&key), &key.path())?;
    let view: Option<ProxyView> = match concerns_proxies(key.kind) {
        true => Some(client.view(&short(&key), &format!("{}/proxies", key.path()))?),
        false => None,
    };
    let referrers = referrers(client, &key, &object)?;
    match args.output {
        ViewFormat::Json => {
            let whole = json!({"object": object, "proxies": view, "referredToBy": referrers});
            out.json(&whole)?;
        }
        ViewFormat::Table => print(&key, &object, view.as_ref(), &referrers, out)?,
    }
    Ok(())
}

fn print(
    key: &Key,
    object: &Value,
    view: Option<&ProxyView>,
    referrers: &BTreeSet<String>,
    out: &mut Out,
) -> Result<(), CliError> {
    let metadata = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    field("Name", &key.name, out)?;
    if !key.namespace.is_empty() {
        field("Namespace", &key.namespace, out)?;
    }
    field("Kind", &format!("{} ({})", key.kind, key.kind.api_version()), out)?;
    for (label, name) in [("Labels", "labels"), ("Annotations", "annotations")] {
        let pairs = joined(object["metadata"][name].as_object());
        if !pairs.is_empty() {
            field(label, &pairs, out)?;
        }
    }
    field("Created", &metadata("creationTimestamp"), out)?;
    if !metadata("deletionTimestamp").is_empty() {
        field(
            "Deleted",
            &format!("{}, and still going", metadata("deletionTimestamp")),
            out,
        )?;
    }
    let generation = object.pointer("/metadata/generation").map(Value::to_string);
    let revision = metadata("resourceVersion");
    field(
        "Generation",
        &format!("{} (revision {revision})", generation.unwrap_or_default()),
        out,
    )?;
    body(object, out)?;
    print_conditions(object, out)?;
    if let Some(view) = view {
        in_force(view, out)?;
    }
    if referrers.is_empty() {
        return Ok(());
    }
    heading("Referred to by", out)?;
    for referrer in referrers.iter().take(REFERRERS_SHOWN_MAX) {
        out.line(&format!("  {}", clean(referrer)))?;
    }
    match referrers.len().saturating_sub(REFERRERS_SHOWN_MAX) {
        0 => Ok(()),
        more => Ok(out.line(&format!("  and {more} more"))?),
    }
}

/// All that a resource holds beside its metadata and its conditions.
fn body(object: &Value, out: &mut Out) -> Result<(), CliError> {
    for (name, value) in object.as_object().into_iter().flatten() {
        let mut value = value.clone();
        if name == "status"
            && let Value::Object(status) = &mut value
        {
            for shown_below in ["conditions", "parents", "ancestors"] {
                status.remove(shown_below);
            }
        }
        let nothing = value.as_object().is_some_and(Map::is_empty);
        if matches!(name.as_str(), "apiVersion" | "kind" | "metadata") || nothing {
            continue;
        }
        let mut title = name.clone();
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        heading(&title, out)?;
        for line in yaml::write(&value).lines() {
            out.line(&format!("  {}", clean(line)))?;
        }
    }
    Ok(())
}

fn print_conditions(object: &Value, out: &mut Out) -> Result<(), CliError> {
    let conditions = conditions(object);
    if conditions.is_empty() {
        return Ok(());
    }
    heading("Conditions", out)?;
    let rows: Vec<Vec<Cell>> = conditions
        .iter()
        .map(|one| {
            let tone = match (one.status.as_str(), one.name.as_str()) {
                ("True", condition::INEFFECTIVE) => Tone::Waiting,
                ("True", _) => Tone::Good,
                ("False", _) => Tone::Bad,
                _ => Tone::Waiting,
            };
            vec![
                Cell::plain(format!("  {}", if one.of.is_empty() { "-" } else { &one.of })),
                Cell::plain(&one.name),
                Cell::new(tone, &one.status),
                Cell::plain(&one.reason),
                Cell::plain(&one.message),
            ]
        })
        .collect();
    out.table(&["  FOR", "CONDITION", "STATUS", "REASON", "MESSAGE"], &rows)?;
    Ok(())
}

fn in_force(view: &ProxyView, out: &mut Out) -> Result<(), CliError> {
    let all = view.subscribers;
    let (tone, text) = match view.state {
        ViewState::NoSubscribers => (Tone::Plain, "no connected proxy uses it".to_owned()),
        ViewState::InForce => (Tone::Good, format!("on {all} of {all} proxies")),
        ViewState::Progressing => (
            Tone::Waiting,
            format!("on {} of {all} proxies yet", view.in_force.len()),
        ),
        ViewState::Rejected => (Tone::Bad, format!("on {} of {all} proxies", view.in_force.len())),
    };
    let text = out.paint(tone, &text);
    field_as_is("In force", &text, out)?;
    for proxy in view.pending.iter().take(PROXIES_SHOWN_MAX) {
        out.line(&format!("  pending on {}", clean(proxy)))?;
    }
    for rejection in view.rejected.iter().take(PROXIES_SHOWN_MAX) {
        let said = clean(&format!("rejected by {}: {}", rejection.proxy, rejection.reason));
        out.line(&format!("  {}", out.paint(Tone::Bad, &said)))?;
    }
    let shown = view.pending.len().min(PROXIES_SHOWN_MAX) + view.rejected.len().min(PROXIES_SHOWN_MAX);
    match (view.pending.len() + view.rejected.len()).saturating_sub(shown) {
        0 => Ok(()),
        more => Ok(out.line(&format!("  and {more} more"))?),
    }
}

/// What names a resource: by reference, by the label of EndpointSlices, or, of Workloads, by a Service's selector.
fn referrers(client: &Client, key: &Key, object: &Value) -> Result<BTreeSet<String>, CliError> {
    let mut found = BTreeSet::new();
    for &kind in Kind::ALL {
        let list: ObjectList = client.view(kind.plural(), &kind.path(None))?;
        for item in &list.items {
            let text = |name: &str| item["metadata"][name].as_str().unwrap_or_default().to_owned();
            let other = Key {
                kind,
                namespace: text("namespace"),
                name: text("name"),
            };
            if other != *key && refers(item, &other, object, key) {
                found.insert(short(&other));
            }
        }
    }
    Ok(found)
}

fn refers(item: &Value, item_key: &Key, object: &Value, key: &Key) -> bool {
    let same_namespace = item_key.namespace == key.namespace;
    match (item_key.kind, key.kind) {
        (Kind::EndpointSlice, Kind::Service) => {
            same_namespace && item["metadata"]["labels"][SERVICE_NAME_LABEL] == key.name
        }
        (Kind::Workload, Kind::Service) => same_namespace && selects(&object["spec"]["selector"], item),
        (Kind::Service, Kind::Workload) => same_namespace && selects(&item["spec"]["selector"], object),
        _ => names(&item["spec"], &item_key.namespace, key),
    }
}

/// Whether a selector takes something by its labels; an empty one takes nothing (Kubernetes, ServiceSpec.selector).
fn selects(selector: &Value, item: &Value) -> bool {
    let wanted = selector.as_object().filter(|wanted| !wanted.is_empty());
    wanted.is_some_and(|wanted| {
        wanted
            .iter()
            .all(|(name, value)| item["metadata"]["labels"][name] == *value)
    })
}

/// Whether any reference in a spec, however deep, is to the resource: an object with a name, whose kind is Service and
/// whose namespace is that of the spec unless it says otherwise.
fn names(spec: &Value, own_namespace: &str, key: &Key) -> bool {
    match spec {
        Value::Array(items) => items.iter().any(|item| names(item, own_namespace, key)),
        Value::Object(fields) => fields.iter().any(|(field, value)| {
            let is_reference = field.ends_with("Ref") || field.ends_with("Refs");
            (is_reference && references(value).any(|one| is_to(one, own_namespace, key)))
                || names(value, own_namespace, key)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn references(value: &Value) -> impl Iterator<Item = &Value> {
    let many = value.as_array().map(Vec::as_slice).unwrap_or_default();
    many.iter().chain(value.is_object().then_some(value))
}

fn is_to(reference: &Value, own_namespace: &str, key: &Key) -> bool {
    let text = |name: &str| reference[name].as_str();
    text("name") == Some(key.name.as_str())
        && text("kind").unwrap_or("Service") == key.kind.kind()
        && text("namespace").unwrap_or(own_namespace) == key.namespace
}

/// Labels or annotations, but for the one in which kubectl keeps the whole of the resource once more.
fn joined(pairs: Option<&Map<String, Value>>) -> String {
    let pairs = pairs.into_iter().flatten();
    let pairs: Vec<String> = pairs
        .filter(|(name, _)| *name != "kubectl.kubernetes.io/last-applied-configuration")
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.join(", ")
}

fn field(label: &str, text: &str, out: &mut Out) -> Result<(), CliError> {
    field_as_is(label, &clean(text), out)
}

fn field_as_is(label: &str, text: &str, out: &mut Out) -> Result<(), CliError> {
    let label = out.paint(Tone::Head, &format!("{:13}", format!("{label}:")));
    out.line(&format!("{label}{text}"))?;
    Ok(())
}

fn heading(text: &str, out: &mut Out) -> Result<(), CliError> {
    let text = out.paint(Tone::Head, &format!("{}:", clean(text)));
    out.line(&text)?;
    Ok(())
}

const PROXIES_SHOWN_MAX: usize = 10;
const REFERRERS_SHOWN_MAX: usize = 50;
