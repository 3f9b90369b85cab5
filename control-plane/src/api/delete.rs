//! The verbs that take objects away.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;
use serde_json::Value;
use weir_api::views::Status;
use weir_api::{Key, Kind};

use super::accept::{self, Form};
use super::list::{self, Counted, Shape};
use super::page::Page;
use super::query::{self, DryRun, Rows, Write};
use super::status::{Failure, Reason};
use super::{Api, body};
use crate::objects::{DeleteConditions, Deleted, Mode};
use crate::store::Revision;

/// Deletes one object.
pub(super) async fn one(
    api: &Api,
    (key, version): (&Key, &str),
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    accept::json(headers)?;
    let Write { dry_run, pretty } = query::delete(uri)?;
    let (conditions, mode) = options(api, dry_run, headers, body).await?;
    Ok(match api.objects.delete(key, &conditions, mode).await? {
        Deleted::Gone(stored) => {
            let uid = &stored.object.metadata.uid;
            let mut done = Status::success(format!("{key} with uid {uid} is deleted")).about(key);
            done.details.get_or_insert_default().uid.clone_from(uid);
            accept::respond(StatusCode::OK, pretty, &done)
        }
        // As Kubernetes answers: the object as it is until it is gone.
        Deleted::Terminating(stored) => {
            accept::respond(StatusCode::OK, pretty, &list::in_version(&stored.object, version))
        }
    })
}

/// Deletes all objects of a collection that are selected, or none, and answers with the list of them.
pub(super) async fn many(
    api: &Api,
    (kind, version): (Kind, &'static str),
    namespace: Option<&str>,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    accept::json(headers)?;
    let (selector, Write { dry_run, pretty }) = query::delete_collection(uri)?;
    let (conditions, mode) = options(api, dry_run, headers, body).await?;
    if conditions != DeleteConditions::default() {
        let message = "the body: preconditions are those of one object; a collection is deleted without";
        return Err(Failure::new(Reason::BadRequest, message));
    }
    let selected = |metadata: &weir_api::Metadata| selector.matches(metadata);
    let (objects, revision) = api.objects.delete_collection(kind, namespace, selected, mode).await?;
    let shape = Shape {
        kind,
        version,
        form: Form::Json,
        rows: Rows::Metadata,
    };
    let page = Page {
        objects,
        next: None,
        remaining: 0,
    };
    let body = list::body(shape, pretty, revision, page, Counted::No);
    Ok(accept::stream(body))
}

async fn options(
    api: &Api,
    asked: DryRun,
    headers: &HeaderMap,
    body: Body,
) -> Result<(DeleteConditions, Mode), Failure> {
    let options = match body::options(api, headers, body).await? {
        None => DeleteOptions::default(),
        Some(value) => {
            // serde would take an array's values for the fields, in their order.
            for (place, held) in [("", Some(&value)), ("preconditions: ", value.get("preconditions"))] {
                if held.is_some_and(Value::is_array) {
                    let message = format!("the body: {place}an array; an object is right");
                    return Err(Failure::new(Reason::BadRequest, message));
                }
            }
            serde_json::from_value(value)
                .map_err(|error| Failure::new(Reason::BadRequest, format!("the body: {error}")))?
        }
    };
    let dry_run = match options.dry_run.as_deref() {
        None | Some([]) => asked,
        Some([all]) if all == "All" => DryRun::All,
        Some(_) => return Err(Failure::new(Reason::BadRequest, "the body: dryRun: [\"All\"] is right")),
    };
    let Preconditions { uid, resource_version } = options.preconditions.unwrap_or_default();
    let revision = resource_version
        .map(|given| given.parse::<Revision>())
        .transpose()
        .map_err(|_| {
            let right = "the body: preconditions.resourceVersion: the resourceVersion that was read is right";
            Failure::new(Reason::BadRequest, right)
        })?;
    Ok((DeleteConditions { uid, revision }, dry_run.into()))
}

/// The body of a DELETE, `meta/v1` DeleteOptions. Nothing here has dependents or a time to end gracefully, so each
/// policy and period means the same.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeleteOptions {
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "propagationPolicy")]
    _propagation_policy: Option<PropagationPolicy>,
    #[serde(rename = "gracePeriodSeconds")]
    _grace_period_seconds: Option<u32>,
    preconditions: Option<Preconditions>,
    dry_run: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
enum PropagationPolicy {
    Orphan,
    Background,
    Foreground,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}
