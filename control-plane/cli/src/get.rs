//! `weirctl get`.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use weir_api::backend_policy::{Balancing, CircuitBreaker};
use weir_api::http_route::{BackendRef, HttpRouteSpec, ParentRef};
use weir_api::mesh_config::Egress;
use weir_api::service::SERVICE_NAME_LABEL;
use weir_api::views::{ObjectList, Reason, Status, WatchEvent, WatchEventType};
use weir_api::{Key, Kind, Object, Scope, Spec, yaml};

use crate::cli::{Format, GetArgs};
use crate::client::{Client, encode};
use crate::error::CliError;
use crate::output::{Cell, Out, short};

pub(crate) fn run(client: &Client, args: &GetArgs, out: &mut Out) -> Result<(), CliError> {
    if args.watch {
        return watch(client, args, out);
    }
    match &args.name {
        Some(name) => {
            let key = key(args, name);
            let object = client.get(&short(&key), &key.path())?;
            print_one(args, &object, out)
        }
        None => {
            let list = list(client, args)?;
            print_list(args, &list, out)
        }
    }
}

fn key(args: &GetArgs, name: &str) -> Key {
    Key {
        kind: args.kind,
        namespace: namespace(args).unwrap_or_default().to_owned(),
        name: name.to_owned(),
    }
}

fn namespace(args: &GetArgs) -> Option<&str> {
    match args.kind.scope() {
        Scope::Cluster => None,
        Scope::Namespaced if args.all_namespaces => None,
        Scope::Namespaced => Some(&args.namespace),
    }
}

fn list(client: &Client, args: &GetArgs) -> Result<ObjectList, CliError> {
    let selector = args
        .selector
        .as_ref()
        .map(|selector| format!("?labelSelector={}", encode(selector)));
    let path = format!("{}{}", args.kind.path(namespace(args)), selector.unwrap_or_default());
    client.view(args.kind.plural(), &path)
}

fn print_one(args: &GetArgs, object: &Value, out: &mut Out) -> Result<(), CliError> {
    match args.output {
        Format::Table | Format::Wide => out.table(&headings(args), &[row(args, object)])?,
        Format::Json => out.json(object)?,
        Format::Yaml => out.text(&yaml::write(object))?,
        Format::Name => out.line(&name_of(args.kind, object))?,
    }
    Ok(())
}

fn print_list(args: &GetArgs, list: &ObjectList, out: &mut Out) -> Result<(), CliError> {
    // As kubectl prints them: what `apply -f` reads back.
    let whole = || serde_json::json!({"apiVersion": "v1", "kind": "List", "items": list.items});
    match args.output {
        Format::Table | Format::Wide if list.items.is_empty() => {
            let place = match namespace(args) {
                Some(namespace) => format!(" in namespace {namespace}; -A looks into all"),
                None => String::new(),
            };
            crate::output::say(&format!("no {}{place}", args.kind.plural()));
        }
        Format::Table | Format::Wide => {
            let rows: Vec<Vec<Cell>> = list.items.iter().map(|object| row(args, object)).collect();
            out.table(&headings(args), &rows)?;
        }
        Format::Json => out.json(&whole())?,
        Format::Yaml => out.text(&yaml::write(&whole()))?,
        Format::Name => {
            for object in &list.items {
                out.line(&name_of(args.kind, object))?;
            }
        }
    }
    Ok(())
}

/// Prints what there is, then each change, until the reader goes away or the control plane does.
fn watch(client: &Client, args: &GetArgs, out: &mut Out) -> Result<(), CliError> {
    let path = args.kind.path(namespace(args));
    let what = args.kind.plural();
    let wanted = |object: &Value| {
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        args.name.is_none() || name == args.name.as_deref()
    };
    let mut version: Option<String> = None;
    loop {
        let from = match version.take() {
            Some(version) => version,
            None => {
                let mut list = list(client, args)?;
                list.items.retain(&wanted);
                match args.output {
                    Format::Table | Format::Wide => print_list(args, &list, out)?,
                    Format::Json | Format::Yaml | Format::Name => {
                        for object in &list.items {
                            print_change(args, WatchEventType::Added, object, out)?;
                        }
                    }
                }
                list.metadata.resource_version
            }
        };
        let mut query = format!("watch=1&allowWatchBookmarks=1&resourceVersion={from}");
        if let Some(selector) = &args.selector {
            query.push_str(&format!("&labelSelector={}", encode(selector)));
        }
        let events = match client.watch(what, &format!("{path}?{query}")) {
            Ok(events) => events,
            // Too old to go on from: begin again with what there is.
            Err(error) if error.is_refusal(Reason::Expired) => continue,
            Err(error) => return Err(error),
        };
        let mut last = Some(from);
        for event in events {
            let WatchEvent { event_type, object } = event?;
            match event_type {
                WatchEventType::Added | WatchEventType::Modified | WatchEventType::Deleted => {
                    last = resource_version(&object).or(last);
                    if wanted(&object) {
                        print_change(args, event_type, &object, out)?;
                    }
                }
                WatchEventType::Bookmark => last = resource_version(&object).or(last),
                WatchEventType::Error => {
                    last = None;
                    let status: Option<Status> = serde_json::from_value(object).ok();
                    match status {
                        Some(status) if status.reason == Some(Reason::Expired) => {}
                        Some(status) => {
                            let (what, status) = (what.to_owned(), Box::new(status));
                            return Err(CliError::Refused { what, status });
                        }
                        None => {}
                    }
                    break;
                }
            }
        }
        version = last;
        // A control plane that ends each watch at once is not asked without a pause.
        thread::sleep(RECONNECT);
    }
}

fn resource_version(object: &Value) -> Option<String> {
    object
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .map(str::to_owned)
}

fn print_change(args: &GetArgs, change: WatchEventType, object: &Value, out: &mut Out) -> Result<(), CliError> {
    let word = match change {
        WatchEventType::Deleted => "deleted",
        WatchEventType::Added | WatchEventType::Modified | WatchEventType::Bookmark | WatchEventType::Error => "",
    };
    match args.output {
        Format::Table | Format::Wide => {
            let mut row = row(args, object);
            row.push(Cell::plain(word));
            // Headings stand above the list already.
            out.rows(&[&row])?;
        }
        Format::Json => out.json_line(object)?,
        Format::Yaml => out.text(&format!("---\n{}", yaml::write(object)))?,
        Format::Name => out.line(format!("{} {word}", name_of(args.kind, object)).trim_end())?,
    }
    Ok(())
}

fn name_of(kind: Kind, object: &Value) -> String {
    let part = |name: &str| {
        let text = object.pointer(&format!("/metadata/{name}")).and_then(Value::as_str);
        crate::output::clean(text.unwrap_or_default())
    };
    short(&Key {
        kind,
        namespace: part("namespace"),
        name: part("name"),
    })
}

fn headings(args: &GetArgs) -> Vec<&'static str> {
    let mut headings = Vec::new();
    if args.all_namespaces && args.kind.scope() == Scope::Namespaced {
        headings.push("NAMESPACE");
    }
    headings.push("NAME");
    headings.extend_from_slice(match args.kind {
        Kind::Namespace => &[],
        Kind::MeshConfig => &["EGRESS"],
        Kind::Service => &["PORTS", "SELECTOR"],
        Kind::EndpointSlice => &["SERVICE", "PORTS", "READY"],
        Kind::Workload => &["ADDRESS", "APPS", "VERSION", "STATE"],
        Kind::BackendPolicy => &["SERVICES", "BALANCING", "BREAKER"],
        Kind::ReferenceGrant => &["FROM", "TO"],
        Kind::HttpRoute => &["SERVICES", "RULES", "BACKENDS"],
    });
    headings.push("AGE");
    if args.output == Format::Wide {
        headings.push("LABELS");
    }
    headings
}

fn row(args: &GetArgs, value: &Value) -> Vec<Cell> {
    let metadata = |name: &str| {
        value
            .pointer(&format!("/metadata/{name}"))
            .and_then(Value::as_str)
            .unwrap_or("")
    };
    let mut row = Vec::new();
    if args.all_namespaces && args.kind.scope() == Scope::Namespaced {
        row.push(Cell::plain(metadata("namespace")));
    }
    row.push(Cell::plain(metadata("name")));
    match Object::parse(value.clone()) {
        Ok(object) if object.kind() == args.kind => row.extend(columns(&object).into_iter().map(Cell::plain)),
        // Of a newer control plane: shown as far as it is known.
        Ok(_) | Err(_) => {
            let own = headings(args)
                .into_iter()
                .skip(row.len())
                .take_while(|heading| *heading != "AGE");
            row.extend(own.map(|_| Cell::plain("?")));
        }
    }
    row.push(Cell::plain(age(metadata("creationTimestamp"))));
    if args.output == Format::Wide {
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        let labels = labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
        row.push(Cell::plain(joined(labels)));
    }
    row
}

/// What stands between a kind's NAME and AGE.
fn columns(object: &Object) -> Vec<String> {
    match &object.spec {
        Spec::Namespace(_) => Vec::new(),
        Spec::MeshConfig(spec) => match spec.egress {
            Egress::Refuse => vec!["refuse".to_owned()],
        },
        Spec::Service(spec) => {
            let ports = spec.ports.iter().map(|port| match port.app_protocol {
                Some(protocol) => format!("{}/{}", port.port, protocol.as_str()),
                None => port.port.to_string(),
            });
            let selector = spec.selector.iter().map(|(key, value)| format!("{key}={value}"));
            vec![joined(ports), joined(selector)]
        }
        Spec::EndpointSlice(body) => {
            let service = object.metadata.labels.get(SERVICE_NAME_LABEL).cloned();
            let ready = body
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.conditions.ready.unwrap_or(true))
                .count();
            let ports = body.ports.iter().map(|port| port.port.to_string());
            let ready = format!("{ready} of {}", body.endpoints.len());
            vec![service.unwrap_or_else(|| "-".to_owned()), joined(ports), ready]
        }
        Spec::Workload(spec) => {
            let state = object
                .status
                .as_ref()
                .and_then(|status| status.get("state"))
                .and_then(Value::as_str);
            let apps = spec.ports.iter().map(|port| {
                let edge = if port.edge { ",edge" } else { "" };
                format!(
                    "{}={}@{}{edge}",
                    port.app_port,
                    port.protocol.as_str(),
                    port.inbound_port
                )
            });
            let version = if spec.version.is_empty() { "-" } else { &spec.version };
            let state = state.unwrap_or("-").to_owned();
            vec![spec.address.to_string(), joined(apps), version.to_owned(), state]
        }
        Spec::BackendPolicy(spec) => {
            let targets = spec.target_refs.iter().map(|target| match &target.section_name {
                Some(port) => format!("{}:{port}", target.name),
                None => target.name.clone(),
            });
            let balancing = match spec.balancing.unwrap_or_default() {
                Balancing::PeakEwma { .. } => "PeakEwma",
                Balancing::RoundRobin => "RoundRobin",
            };
            let breaker = breaker(&spec.circuit_breaker.unwrap_or_default());
            vec![joined(targets), balancing.to_owned(), breaker]
        }
        Spec::ReferenceGrant(spec) => {
            let from = spec.from.iter().map(|from| format!("{}.{}", from.kind, from.namespace));
            let to = spec
                .to
                .iter()
                .map(|to| to.name.clone().unwrap_or_else(|| "*".to_owned()));
            vec![joined(from), joined(to)]
        }
        Spec::HttpRoute(spec) => route(spec),
    }
}

fn breaker(breaker: &CircuitBreaker) -> String {
    match breaker.failures {
        Some(failures) => format!("{} % of {}", failures.percent, failures.min_requests),
        None => "-".to_owned(),
    }
}

fn route(spec: &HttpRouteSpec) -> Vec<String> {
    let parent = |parent: &ParentRef| {
        let port = parent.port.map(|port| format!(":{port}")).unwrap_or_default();
        let namespace = parent
            .namespace
            .as_ref()
            .map(|namespace| format!(".{namespace}"))
            .unwrap_or_default();
        format!("{}{namespace}{port}", parent.name)
    };
    let backend = |backend: &BackendRef| format!("{}:{} {}", backend.name, backend.port, backend.weight);
    let mut backends: Vec<String> = spec
        .rules
        .iter()
        .flat_map(|rule| &rule.backend_refs)
        .map(backend)
        .collect();
    backends.sort();
    backends.dedup();
    let parents = joined(spec.parent_refs.iter().map(parent));
    vec![parents, spec.rules.len().to_string(), joined(backends.into_iter())]
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(", ")
    }
}

/// How long ago, in one unit: `12s`, `5m`, `3h`, `9d`.
fn age(timestamp: &str) -> String {
    let Ok(then) = timestamp.parse::<jiff::Timestamp>() else {
        return "-".to_owned();
    };
    let seconds = jiff::Timestamp::now()
        .as_second()
        .saturating_sub(then.as_second())
        .max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The pause before a watch that ended is begun again.
const RECONNECT: Duration = Duration::from_millis(500);
