//! Lists and single objects in the form a client wants: written as text piece by piece, as the client takes them. A
//! client that reads slowly holds no copy of the whole, only the objects as the store has them.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use weir_api::table::{self, Shown};
use weir_api::views::{ListMetadata, ObjectList};
use weir_api::{Kind, Object};

use super::accept::Form;
use super::page::Page;
use super::query::{Pretty, Rows};
use crate::store::{Revision, Stored};

/// How objects are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    pub(super) version: &'static str,
    pub(super) form: Form,
    pub(super) rows: Rows,
}

/// Whether a table has headings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Headings {
    Written,
    LeftOut,
}

/// A page of the list as it was at `revision`, as JSON.
pub(super) fn body(shape: Shape, pretty: Pretty, revision: Revision, page: Page, counted: Counted) -> Body {
    let metadata = ListMetadata {
        resource_version: revision.to_string(),
        next: page.next.as_ref().map(ToString::to_string).unwrap_or_default(),
        remaining_item_count: match counted {
            Counted::Yes if page.next.is_some() => u64::try_from(page.remaining).ok(),
            Counted::Yes | Counted::No => None,
        },
    };
    let pieces = pieces(shape, pretty, &metadata, page.objects);
    Body::from_stream(futures_util::stream::iter(pieces.map(Ok::<_, Infallible>)))
}

/// Whether a page says how many objects follow. Under a selector Kubernetes says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Yes,
    No,
}

impl Shape {
    /// One object, alone.
    pub(super) fn one(self, object: &Object, headings: Headings) -> Value {
        match self.form {
            Form::Json => in_version(object, self.version),
            Form::Table => {
                let metadata = json!({"resourceVersion": object.metadata.resource_version});
                self.table(&metadata, vec![self.row(object, Timestamp::now())], headings)
            }
        }
    }

    /// What has no object of its own: a bookmark, with `metadata` alone.
    pub(super) fn none(self, metadata: &Value) -> Value {
        match self.form {
            Form::Json => json!({
                "kind": self.kind.kind(), "apiVersion": api_version(self.kind, self.version), "metadata": metadata,
            }),
            Form::Table => self.table(metadata, Vec::new(), Headings::LeftOut),
        }
    }

    /// A list without items, which stand last.
    fn empty(self, metadata: &ListMetadata, pretty: Pretty) -> String {
        match self.form {
            Form::Json => {
                let list = ObjectList {
                    api_version: api_version(self.kind, self.version),
                    kind: format!("{}List", self.kind.kind()),
                    metadata: metadata.clone(),
                    items: Vec::new(),
                };
                write(&list, pretty)
            }
            Form::Table => write(&self.table(&json!(metadata), Vec::new(), Headings::Written), pretty),
        }
    }

    fn item(self, object: &Object, now: Timestamp) -> Value {
        match self.form {
            Form::Json => in_version(object, self.version),
            Form::Table => self.row(object, now),
        }
    }

    fn table(self, metadata: &Value, rows: Vec<Value>, headings: Headings) -> Value {
        let column = |column: &table::Column| {
            let priority = match column.shown {
                Shown::Always => 0,
                Shown::Wide => 1,
            };
            // Clients find the name by its format.
            let format = if column.name == "Name" { "name" } else { "" };
            json!({
                "name": column.name, "type": "string", "format": format, "description": column.description,
                "priority": priority,
            })
        };
        let columns: Vec<Value> = match headings {
            Headings::Written => table::columns(self.kind).iter().map(column).collect(),
            Headings::LeftOut => Vec::new(),
        };
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns,
            "rows": rows,
        })
    }

    fn row(self, object: &Object, now: Timestamp) -> Value {
        let value = in_version(object, self.version);
        let cells: Vec<String> = table::columns(self.kind)
            .iter()
            .map(|column| column.cell(&value, now))
            .collect();
        match self.rows {
            Rows::Bare => json!({"cells": cells}),
            Rows::Metadata => json!({"cells": cells, "object": {
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.metadata,
            }}),
            Rows::Object => json!({"cells": cells, "object": value}),
        }
    }
}

/// An object in one of the versions in which it is read: all have the same fields.
pub(super) fn in_version(object: &Object, version: &str) -> Value {
    let mut value = object.to_value();
    value["apiVersion"] = api_version(object.kind(), version).into();
    value
}

fn api_version(kind: Kind, version: &str) -> String {
    match kind.group() {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

fn pieces(
    shape: Shape,
    pretty: Pretty,
    metadata: &ListMetadata,
    objects: Vec<Arc<Stored>>,
) -> impl Iterator<Item = Bytes> + use<> {
    let now = Timestamp::now();
    let empty = shape.empty(metadata, pretty);
    // The items stand last, so that the list can be cut open there.
    let (head, tail) = empty.rsplit_once("[]").unwrap_or_default();
    let head = format!("{head}[");
    let tail = match pretty {
        Pretty::Yes if !objects.is_empty() => format!("\n  ]{tail}"),
        Pretty::Yes | Pretty::No => format!("]{tail}"),
    };
    let mut left = objects.into_iter().enumerate();
    let items = std::iter::from_fn(move || {
        let mut piece = String::new();
        for (at, stored) in left.by_ref().take(ITEMS_PER_PIECE) {
            if at > 0 {
                piece.push(',');
            }
            let item = write(&shape.item(&stored.object, now), pretty);
            match pretty {
                Pretty::No => piece.push_str(&item),
                Pretty::Yes => {
                    // No text of JSON holds a line break of its own.
                    for line in item.lines() {
                        piece.push_str("\n    ");
                        piece.push_str(line);
                    }
                }
            }
        }
        (!piece.is_empty()).then(|| piece.into())
    });
    std::iter::once(head.into())
        .chain(items)
        .chain(std::iter::once(tail.into()))
}

fn write(value: &impl Serialize, pretty: Pretty) -> String {
    let text = match pretty {
        Pretty::No => serde_json::to_string(value),
        Pretty::Yes => serde_json::to_string_pretty(value),
    };
    // Objects, and tables of texts, can always be written.
    text.unwrap_or_default()
}

const ITEMS_PER_PIECE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::samples::service;

    #[track_caller]
    fn check(count: usize, pretty: Pretty) {
        let object = |i: usize| {
            let object = Arc::new(service("a", &format!("s-{i}"), 80));
            let revision = Revision(1);
            Arc::new(Stored { object, revision })
        };
        let objects: Vec<_> = (0..count).map(object).collect();
        let expect: Vec<Value> = objects.iter().map(|stored| stored.object.to_value()).collect();
        let metadata = ListMetadata {
            resource_version: "7".to_owned(),
            next: "7/a/s-1".to_owned(),
            remaining_item_count: Some(3),
        };
        let shape = |form| Shape {
            kind: Kind::Service,
            version: "v1",
            form,
            rows: Rows::Object,
        };
        let whole = |form| {
            pieces(shape(form), pretty, &metadata, objects.clone())
                .collect::<Vec<_>>()
                .concat()
        };
        let list = whole(Form::Json);
        let text = String::from_utf8(list).expect("text");
        let list: ObjectList = serde_json::from_str(&text).expect("a list");
        assert_eq!(text, write(&list, pretty));
        assert_eq!((list.kind.as_str(), list.api_version.as_str()), ("ServiceList", "v1"));
        assert_eq!(list.metadata, metadata);
        assert_eq!(list.items, expect);
        let table: Value = serde_json::from_slice(&whole(Form::Table)).expect("a table");
        assert_eq!(table["kind"], "Table");
        let rows = table["rows"].as_array().expect("rows");
        let of_rows: Vec<Value> = rows.iter().map(|row| row["object"].clone()).collect();
        assert_eq!(of_rows, expect);
        let columns = table["columnDefinitions"].as_array().map(Vec::len);
        assert!(rows.iter().all(|row| row["cells"].as_array().map(Vec::len) == columns));
    }

    #[test]
    fn a_list_in_pieces_is_the_list() {
        for count in [0, 1, 2, ITEMS_PER_PIECE, ITEMS_PER_PIECE + 1, 3 * ITEMS_PER_PIECE] {
            check(count, Pretty::No);
            check(count, Pretty::Yes);
        }
    }
}
