//! The verbs on resources: list, watch, create, get, replace, patch; which place knows which.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, Uri};
use weir_api::{Access, Key, Kind, Scope};

use super::accept;
use super::list::{self, Counted, Headings, Shape};
use super::page::{self, PageToken};
use super::path::{self, Target};
use super::query::{self, DryRun, Follow, Read};
use super::status::{Failure, Reason};
use super::{Api, body, delete, discovery, openapi, watch};
use crate::objects::{Mode, Refusal};
use crate::store::{Compacted, Revision, WriteError};

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
    let (uri, headers) = (&head.uri, &head.headers);
    let target = path::parse(uri.path()).map_err(|error| Failure::new(Reason::NotFound, error.to_string()))?;
    match (target, head.method) {
        (Target::Discovery(document), Method::GET) => {
            let pretty = query::discovery(uri)?;
            discovery::answer(document, headers, pretty)
        }
        (Target::OpenApi(document), Method::GET) => openapi::answer(document, uri, headers),
        (Target::Discovery(_) | Target::OpenApi(_), method) => {
            Err(Failure::method("GET", format!("{method} is not done here")))
        }
        (
            Target::Collection {
                kind,
                version,
                namespace,
            },
            method,
        ) => match method {
            Method::GET => read(api, (kind, version), namespace, uri, headers),
            Method::POST | Method::DELETE if is_of_all(kind, namespace.as_deref()) && is_writable(kind) => {
                let right = format!("…/namespaces/NAMESPACE/{}", kind.plural());
                let message = format!("{method} is done in one namespace: {right} is right");
                Err(Failure::method(OF_ALL_NAMESPACES, message))
            }
            Method::POST if is_writable(kind) => {
                create(api, (kind, version), namespace.as_deref(), uri, headers, body).await
            }
            Method::DELETE if kind.verbs().contains(&"deletecollection") => {
                delete::many(api, (kind, version), namespace.as_deref(), uri, headers, body).await
            }
            method => Err(not_done(kind, collection_methods(kind, namespace.as_deref()), &method)),
        },
        (Target::Object(key, version), method) => match method {
            Method::GET => get(api, (&key, version), uri, headers),
            Method::PUT if is_writable(key.kind) => replace(api, (&key, version), uri, headers, body).await,
            Method::PATCH if is_writable(key.kind) => patch(api, (&key, version), uri, headers, body).await,
            Method::DELETE if is_writable(key.kind) => delete::one(api, (&key, version), uri, headers, body).await,
            method => Err(not_done(key.kind, object_methods(key.kind), &method).about(&key)),
        },
        (Target::Status(key, version), Method::GET) => get(api, (&key, version), uri, headers),
        (Target::Status(key, _), method) => {
            let message = format!("{method} is not done here: a status is written by the control plane alone");
            Err(Failure::method("GET", message).about(&key))
        }
    }
}

async fn create(
    api: &Api,
    (kind, version): (Kind, &str),
    namespace: Option<&str>,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    accept::json(headers)?;
    let query::Write { dry_run, pretty } = query::write(uri)?;
    let said = body::object(api, kind, headers, body).await?;
    let stored = api.objects.create(kind, namespace, said.value, dry_run.into()).await?;
    let created = list::in_version(&stored.object, version);
    Ok(accept::respond(StatusCode::CREATED, pretty, &created))
}

async fn replace(
    api: &Api,
    (key, version): (&Key, &str),
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    accept::json(headers)?;
    let query::Write { dry_run, pretty } = query::write(uri)?;
    let said = body::object(api, key.kind, headers, body).await?;
    let stored = api.objects.replace(key, said.value, dry_run.into()).await?;
    let replaced = list::in_version(&stored.object, version);
    Ok(accept::respond(StatusCode::OK, pretty, &replaced))
}

async fn patch(
    api: &Api,
    (key, version): (&Key, &str),
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    accept::json(headers)?;
    // Before the parameters: who applies on the server's side is told that first.
    let format = body::patch_format(key.kind, headers)?;
    let query::Write { dry_run, pretty } = query::write(uri)?;
    let said = body::patch(api, format, headers, body).await?;
    let stored = api.objects.patch(key, &said.value, dry_run.into()).await?;
    let patched = list::in_version(&stored.object, version);
    Ok(accept::respond(StatusCode::OK, pretty, &patched))
}

fn get(api: &Api, (key, version): (&Key, &'static str), uri: &Uri, headers: &HeaderMap) -> Result<Response, Failure> {
    let form = accept::form(headers)?;
    let query::Get { pretty, rows } = query::get(uri)?;
    let missing = || Failure::from(Refusal::Write(WriteError::NotFound { key: key.clone() }));
    let stored = api.objects.store().get(key).ok_or_else(missing)?;
    let shape = Shape {
        kind: key.kind,
        version,
        form,
        rows,
    };
    let shown = shape.one(&stored.object, Headings::Written);
    Ok(accept::respond(StatusCode::OK, pretty, &shown))
}

fn read(
    api: &Arc<Api>,
    (kind, version): (Kind, &'static str),
    namespace: Option<String>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let form = accept::form(headers)?;
    let Read {
        selector,
        follow,
        pretty,
        rows,
    } = query::read(uri)?;
    let shape = Shape {
        kind,
        version,
        form,
        rows,
    };
    let (state, limit) = match follow {
        Follow::Watch {
            start,
            bookmarks,
            timeout,
        } => {
            let wanted = watch::Wanted {
                shape,
                namespace,
                selector,
            };
            return watch::follow(api, wanted, start, bookmarks, timeout).map(accept::stream);
        }
        Follow::List { state, limit } => (state, limit),
    };
    let store = api.objects.store();
    let namespace = namespace.as_deref();
    let (listed, revision, after) = match state {
        query::State::NotOlderThan(not_older) => {
            let (listed, revision) = store.list(kind, namespace);
            if not_older > revision {
                return Err(future(not_older, revision));
            }
            (listed, revision, None)
        }
        query::State::Exact(revision) => {
            let listed = store.list_at(kind, namespace, revision);
            (listed.map_err(|compacted| expired(&compacted, None))?, revision, None)
        }
        query::State::Page(token) => match token.revision {
            Some(revision) => {
                let listed = store.list_at(kind, namespace, revision);
                let listed = listed.map_err(|compacted| expired(&compacted, Some(&token)))?;
                (listed, revision, Some(token))
            }
            None => {
                let (listed, revision) = store.list(kind, namespace);
                (listed, revision, Some(token))
            }
        },
    };
    let counted = if selector.is_empty() { Counted::Yes } else { Counted::No };
    let selected = listed
        .into_iter()
        .filter(|stored| selector.matches(&stored.object.metadata));
    let page = page::cut(selected.collect(), after.as_ref(), limit, revision);
    Ok(accept::stream(list::body(shape, pretty, revision, page, counted)))
}

fn is_writable(kind: Kind) -> bool {
    kind.access() == Access::Writable
}

/// Whether a collection is that of all namespaces.
fn is_of_all(kind: Kind, namespace: Option<&str>) -> bool {
    kind.scope() == Scope::Namespaced && namespace.is_none()
}

/// What is done with it: whoever forgets a namespace creates and deletes nothing.
const OF_ALL_NAMESPACES: &str = "GET";

fn collection_methods(kind: Kind, namespace: Option<&str>) -> &'static str {
    if is_of_all(kind, namespace) {
        return OF_ALL_NAMESPACES;
    }
    match (kind.access(), kind.verbs().contains(&"deletecollection")) {
        (Access::ReadOnly, _) => "GET",
        (Access::Writable, true) => "GET, POST, DELETE",
        (Access::Writable, false) => "GET, POST",
    }
}

fn object_methods(kind: Kind) -> &'static str {
    match kind.access() {
        Access::ReadOnly => "GET",
        Access::Writable => "GET, PUT, PATCH, DELETE",
    }
}

fn not_done(kind: Kind, allow: &'static str, method: &Method) -> Failure {
    let message = match (kind.access(), method) {
        (Access::ReadOnly, &(Method::POST | Method::PUT | Method::PATCH | Method::DELETE)) => format!(
            "{} are written by the control plane from what proxies register; they can't be changed here",
            kind.plural()
        ),
        (Access::ReadOnly | Access::Writable, method) => format!("{method} is not done here; {allow} are right"),
    };
    Failure::method(allow, message)
}

pub(super) fn future(from: Revision, latest: Revision) -> Failure {
    let message = format!("resourceVersion {from} is not known here (latest: {latest}); list without one");
    Failure::new(Reason::Expired, message)
}

/// A page of a state that is forgotten: the token it carries goes on in the latest one.
fn expired(compacted: &Compacted, token: Option<&PageToken>) -> Failure {
    let failure = Failure::new(Reason::Expired, compacted.to_string());
    match token {
        Some(token) => failure.with_next(&token.clone().in_latest()),
        None => failure,
    }
}

impl From<DryRun> for Mode {
    fn from(dry_run: DryRun) -> Mode {
        match dry_run {
            DryRun::No => Mode::Commit,
            DryRun::All => Mode::DryRun,
        }
    }
}
