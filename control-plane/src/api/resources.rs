//! The verbs on resources: list, watch, create, get, replace, merge-patch, delete.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use weir_api::views::Status;
use weir_api::{Key, Kind, Scope};

use super::path::{self, Target};
use super::query::{self, DryRun, Follow, Read};
use super::status::{Failure, Reason};
use super::{Api, json, list, watch};
use crate::objects::{DeleteConditions, Mode, Refusal};
use crate::store::{Revision, Stored, WriteError};

/// Answers a request for any path that is no other route's.
pub(super) async fn serve(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = answer(&api, request).await.unwrap_or_else(IntoResponse::into_response);
    let status = response.status().as_u16();
    if method == Method::GET {
        tracing::debug!(%method, path, status, "request");
    } else {
        tracing::info!(%method, path, status, "request");
    }
    response
}

async fn answer(api: &Arc<Api>, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let target = path::parse(head.uri.path()).map_err(|error| Failure::new(Reason::NotFound, error.to_string()))?;
    match target {
        Target::Collection { kind, namespace } => match head.method {
            Method::GET => read(api, kind, namespace, &head.uri),
            Method::POST => {
                let mode = mode(query::write(&head.uri)?);
                if kind.scope() == Scope::Namespaced && namespace.is_none() {
                    let right = format!("create {0} in …/namespaces/NAMESPACE/{0}", kind.plural());
                    return Err(Failure::method("GET", right));
                }
                let said = object_body(api, &head.headers, body).await?;
                let stored = api.objects.create(kind, namespace.as_deref(), said.value, mode).await?;
                Ok(object(StatusCode::CREATED, &stored))
            }
            method => Err(Failure::method("GET, POST", format!("{method} is not done here"))),
        },
        Target::Object(key) => match head.method {
            Method::GET => {
                query::none(&head.uri)?;
                let missing = || Failure::from(Refusal::Write(WriteError::NotFound { key: key.clone() }));
                let stored = api.objects.store().get(&key).ok_or_else(missing)?;
                Ok(object(StatusCode::OK, &stored))
            }
            Method::PUT => {
                let mode = mode(query::write(&head.uri)?);
                let said = object_body(api, &head.headers, body).await?;
                let stored = api.objects.replace(&key, said.value, mode).await?;
                Ok(object(StatusCode::OK, &stored))
            }
            Method::PATCH => {
                let mode = mode(query::write(&head.uri)?);
                let patch = patch_body(api, &head.headers, body).await?;
                let stored = api.objects.merge_patch(&key, &patch.value, mode).await?;
                Ok(object(StatusCode::OK, &stored))
            }
            Method::DELETE => delete(api, &key, &head.uri, &head.headers, body).await,
            method => Err(Failure::method(
                "GET, PUT, PATCH, DELETE",
                format!("{method} is not done here"),
            )),
        },
    }
}

fn read(api: &Arc<Api>, kind: Kind, namespace: Option<String>, uri: &Uri) -> Result<Response, Failure> {
    let Read { selector, from, follow } = query::read(uri)?;
    match follow {
        Follow::Watch { bookmarks, timeout } => {
            let wanted = watch::Wanted {
                kind,
                namespace,
                selector,
            };
            let body = watch::follow(api, wanted, from, bookmarks, timeout)?;
            Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
        }
        Follow::List => {
            let (listed, revision) = api.objects.store().list(kind, namespace.as_deref());
            if let Some(from) = from.filter(|from| *from > revision) {
                return Err(future(from, revision));
            }
            let selected = listed
                .into_iter()
                .filter(|stored| selector.matches(&stored.object.metadata.labels));
            let body = list::body(kind, revision, selected.collect());
            Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
        }
    }
}

async fn delete(api: &Api, key: &Key, uri: &Uri, headers: &HeaderMap, body: Body) -> Result<Response, Failure> {
    let asked = query::write(uri)?;
    let Taken { bytes: body, .. } = whole(api, headers, body).await?;
    let options = if body.is_empty() {
        DeleteOptions::default()
    } else {
        match media_type(headers)? {
            Media::Json => {}
            Media::Yaml | Media::MergePatch => return Err(unsupported("application/json")),
        }
        let wrong = |error: serde_json::Error| Failure::new(Reason::BadRequest, format!("the body: {error}"));
        let value = json::read(&body).map_err(wrong)?;
        serde_json::from_value(value).map_err(wrong)?
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
    let conditions = DeleteConditions { uid, revision };
    let deleted = api.objects.delete(key, &conditions, mode(dry_run)).await?;
    let metadata = &deleted.object.metadata;
    let done = Status::success(format!("{key} with uid {} is deleted", metadata.uid)).about(key);
    Ok(axum::Json(done).into_response())
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
    _propagation_policy: Option<String>,
    #[serde(rename = "gracePeriodSeconds")]
    _grace_period_seconds: Option<u32>,
    preconditions: Option<Preconditions>,
    dry_run: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

async fn object_body(api: &Api, headers: &HeaderMap, body: Body) -> Result<Said, Failure> {
    let media = media_type(headers)?;
    match media {
        Media::Json | Media::Yaml => {}
        Media::MergePatch => return Err(unsupported("application/json, application/yaml")),
    }
    let Taken { bytes, memory } = whole(api, headers, body).await?;
    let value = match media {
        Media::Json | Media::MergePatch => json_body(&bytes)?,
        Media::Yaml => yaml_body(&bytes)?,
    };
    Ok(Said { value, _memory: memory })
}

async fn patch_body(api: &Api, headers: &HeaderMap, body: Body) -> Result<Said, Failure> {
    match media_type(headers)? {
        Media::MergePatch => {}
        Media::Json | Media::Yaml => return Err(unsupported("application/merge-patch+json")),
    }
    let Taken { bytes, memory } = whole(api, headers, body).await?;
    let value = json_body(&bytes)?;
    if value.is_object() {
        Ok(Said { value, _memory: memory })
    } else {
        Err(Failure::new(Reason::BadRequest, "the body: a merge patch is an object"))
    }
}

fn json_body(body: &[u8]) -> Result<Value, Failure> {
    json::read(body).map_err(|error| Failure::new(Reason::BadRequest, format!("the body is no JSON: {error}")))
}

fn yaml_body(body: &[u8]) -> Result<Value, Failure> {
    let wrong = |problem: String| Failure::new(Reason::BadRequest, problem);
    let text = std::str::from_utf8(body).map_err(|error| wrong(format!("the body is not UTF-8: {error}")))?;
    let mut documents = weir_api::yaml::read(text, "body").map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        wrong(errors.join("; "))
    })?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document.value),
        (Some(_), false) => Err(wrong(
            "the body holds several documents; send them one by one".to_owned(),
        )),
        (None, _) => Err(wrong("the body is empty".to_owned())),
    }
}

/// Media types that bodies are read in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    Json,
    Yaml,
    MergePatch,
}

fn media_type(headers: &HeaderMap) -> Result<Media, Failure> {
    let all = "application/json, application/yaml; for PATCH application/merge-patch+json";
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Failure::new(
            Reason::UnsupportedMediaType,
            "bodies are not taken with a Content-Encoding",
        ));
    }
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|given| given.to_str().ok())
        .unwrap_or_default();
    // Parameters (RFC 9110 section 8.3.1) change nothing: all three are UTF-8.
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(Media::Json),
        "application/yaml" => Ok(Media::Yaml),
        "application/merge-patch+json" => Ok(Media::MergePatch),
        _ => Err(unsupported(all)),
    }
}

fn unsupported(right: &str) -> Failure {
    Failure::new(
        Reason::UnsupportedMediaType,
        format!("the body's Content-Type is not taken here; taken: {right}"),
    )
}

/// A body, and its share of the memory that bodies may take together.
struct Taken {
    bytes: Bytes,
    memory: OwnedSemaphorePermit,
}

/// What a body says. Its share of the memory is kept until it is dropped: what is read takes more room than its text.
struct Said {
    value: Value,
    _memory: OwnedSemaphorePermit,
}

async fn whole(api: &Api, headers: &HeaderMap, body: Body) -> Result<Taken, Failure> {
    let max = api.limits.body_bytes_max;
    let too_large = || {
        let message = format!("the body is larger than {max} bytes");
        Failure::new(Reason::RequestEntityTooLarge, message)
    };
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    // One that is not announced may become as large as any.
    let length = announced.map_or(max, |length| usize::try_from(length).unwrap_or(usize::MAX));
    if length > max {
        return Err(too_large());
    }
    let kibibytes = u32::try_from(length.div_ceil(KIBIBYTE)).map_err(|_| too_large())?;
    let memory = Arc::clone(&api.bodies).try_acquire_many_owned(kibibytes).map_err(|_| {
        let message = "too many large requests at once; try again";
        Failure::retry_later(Reason::ServiceUnavailable, message)
    })?;
    let bytes = to_bytes(body, max).await.map_err(|error| {
        let length_limit = std::error::Error::source(&error).is_some_and(|cause| cause.is::<LengthLimitError>());
        if length_limit {
            too_large()
        } else {
            Failure::new(Reason::BadRequest, format!("the body did not come in whole: {error}"))
        }
    })?;
    Ok(Taken { bytes, memory })
}

type LengthLimitError = http_body_util::LengthLimitError;

pub(super) fn future(from: Revision, latest: Revision) -> Failure {
    let message = format!("resourceVersion {from} is not known here (latest: {latest}); list without one");
    Failure::new(Reason::Expired, message)
}

fn mode(dry_run: DryRun) -> Mode {
    match dry_run {
        DryRun::No => Mode::Commit,
        DryRun::All => Mode::DryRun,
    }
}

fn object(status: StatusCode, stored: &Stored) -> Response {
    (status, axum::Json(&*stored.object)).into_response()
}

pub(super) const KIBIBYTE: usize = 1024;
