//! `weirctl get`.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use weir_api::table::{self, Column, Shown};
use weir_api::views::{ObjectList, Reason, Status, WatchEvent, WatchEventType};
use weir_api::{Key, Kind, Scope, yaml};

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
        Format::Table | Format::Wide => print_table(args, &[row(args, object)], out)?,
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
            print_table(args, &rows, out)?;
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

fn print_table(args: &GetArgs, rows: &[Vec<Cell>], out: &mut Out) -> Result<(), CliError> {
    let headings = headings(args);
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    Ok(out.table(&headings, rows)?)
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

/// The kind's columns, as many as are wanted.
fn columns(args: &GetArgs) -> impl Iterator<Item = &'static Column> {
    let wide = args.output == Format::Wide;
    let wanted = move |column: &&Column| match column.shown {
        Shown::Always => true,
        Shown::Wide => wide,
    };
    table::columns(args.kind).iter().filter(wanted)
}

fn with_namespace(args: &GetArgs) -> bool {
    args.all_namespaces && args.kind.scope() == Scope::Namespaced
}

fn headings(args: &GetArgs) -> Vec<String> {
    let namespace = with_namespace(args).then(|| "NAMESPACE".to_owned());
    let own = columns(args).map(|column| column.name.to_uppercase());
    namespace.into_iter().chain(own).collect()
}

fn row(args: &GetArgs, object: &Value) -> Vec<Cell> {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    let namespace = with_namespace(args).then(|| Cell::plain(namespace.unwrap_or_default()));
    let now = jiff::Timestamp::now();
    let own = columns(args).map(|column| Cell::plain(column.cell(object, now)));
    namespace.into_iter().chain(own).collect()
}

/// The pause before a watch that ended is begun again.
const RECONNECT: Duration = Duration::from_millis(500);
