//! Lists: written as text piece by piece, as the client takes them. A client that reads slowly holds no copy of the
//! whole, only the objects as the store has them.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use serde_json::Value;
use weir_api::Kind;
use weir_api::views::{ListMetadata, ObjectList};

use crate::store::{Revision, Stored};

/// The list of `objects`, which was so at `revision`, as JSON.
pub(super) fn body(kind: Kind, revision: Revision, objects: Vec<Arc<Stored>>) -> Body {
    Body::from_stream(futures_util::stream::iter(
        pieces(kind, revision, objects).map(Ok::<_, Infallible>),
    ))
}

fn pieces(kind: Kind, revision: Revision, objects: Vec<Arc<Stored>>) -> impl Iterator<Item = Bytes> {
    let empty = ObjectList {
        api_version: kind.api_version().to_owned(),
        kind: format!("{}List", kind.kind()),
        metadata: ListMetadata {
            resource_version: revision.to_string(),
        },
        items: Vec::new(),
    };
    // The items stand last, so that the list can be cut open there.
    let empty = serde_json::to_string(&empty).unwrap_or_default();
    let head = empty.strip_suffix("]}").unwrap_or(&empty).to_owned();
    let mut left = objects.into_iter().enumerate();
    let items = std::iter::from_fn(move || {
        let mut piece = String::new();
        for (at, stored) in left.by_ref().take(ITEMS_PER_PIECE) {
            if at > 0 {
                piece.push(',');
            }
            let item: Value = stored.object.to_value();
            piece.push_str(&item.to_string());
        }
        (!piece.is_empty()).then(|| piece.into())
    });
    std::iter::once(head.into())
        .chain(items)
        .chain(std::iter::once("]}".into()))
}

const ITEMS_PER_PIECE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::samples::service;

    #[track_caller]
    fn check(count: usize) {
        let object = |i: usize| {
            let object = Arc::new(service("a", &format!("s-{i}"), 80));
            let revision = Revision(1);
            Arc::new(Stored { object, revision })
        };
        let objects: Vec<_> = (0..count).map(object).collect();
        let expect: Vec<Value> = objects.iter().map(|stored| stored.object.to_value()).collect();
        let whole: Vec<Bytes> = pieces(Kind::Service, Revision(7), objects).collect();
        let list: ObjectList = serde_json::from_slice(&whole.concat()).expect("a list");
        assert_eq!((list.kind.as_str(), list.api_version.as_str()), ("ServiceList", "v1"));
        assert_eq!(list.metadata.resource_version, "7");
        assert_eq!(list.items, expect);
    }

    #[test]
    fn a_list_in_pieces_is_the_list() {
        for count in [0, 1, 2, ITEMS_PER_PIECE, ITEMS_PER_PIECE + 1, 3 * ITEMS_PER_PIECE] {
            check(count);
        }
    }
}
