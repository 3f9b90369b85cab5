//! Discovery: which kinds there are, where, and what can be done with them, in both forms that Kubernetes' clients ask
//! for. All of it follows from [`Kind::ALL`].

use axum::response::{IntoResponse, Response};
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use weir_api::{Kind, Scope, StatusPart};

use super::accept::{self, DiscoveryForm};
use super::query::Pretty;
use super::status::Failure;
use crate::compile::Version;

/// A document of discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// `/api`: versions of the core group.
    Core,
    /// `/apis`: all other groups.
    Groups,
    /// `/apis/GROUP`: versions of one.
    Group(&'static str),
    /// `/api/v1` or `/apis/GROUP/VERSION`: the kinds of a group (core: empty) in a version.
    Kinds(&'static str, &'static str),
}

/// Answers with `document`. `/api` and `/apis` carry an ETag, so that clients keep what has not changed (RFC 9110
/// section 13.1.2).
///
/// # Errors
/// 406 when the client takes no form there is.
pub(crate) fn answer(document: Document, headers: &HeaderMap, pretty: Pretty) -> Result<Response, Failure> {
    let (content, content_type) = match (document, accept::discovery_form(headers)?) {
        (Document::Core, DiscoveryForm::Aggregated) => {
            (aggregated(Kind::groups().filter(|g| g.is_empty())), AGGREGATED)
        }
        (Document::Groups, DiscoveryForm::Aggregated) => (aggregated(named_groups()), AGGREGATED),
        (Document::Core, DiscoveryForm::Plain) => (core_versions(), accept::JSON),
        (Document::Groups, DiscoveryForm::Plain) => (groups(), accept::JSON),
        (Document::Group(group), _) => (with_type(api_group(group), "APIGroup"), accept::JSON),
        (Document::Kinds(group, version), _) => (kinds(group, version), accept::JSON),
    };
    let tag = format!("\"{}\"", Version::of(content.to_string().as_bytes()));
    let known = headers
        .get(IF_NONE_MATCH)
        .and_then(|known| known.to_str().ok())
        .unwrap_or_default();
    let mut response = if known
        .split(',')
        .any(|known| known.trim().trim_start_matches("W/") == tag)
    {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = accept::respond(StatusCode::OK, pretty, &content);
        response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
        response
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

/// The groups that `/apis` is about.
fn named_groups() -> impl Iterator<Item = &'static str> {
    Kind::groups().filter(|group| !group.is_empty())
}

fn kinds_of(group: &str, version: &str) -> impl Iterator<Item = Kind> + use<> {
    let is_there = |kind: &Kind| kind.group() == group && kind.versions().contains(&version);
    let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(is_there).collect();
    kinds.into_iter()
}

fn versions(group: &str) -> impl Iterator<Item = &'static str> + use<'_> {
    let all = Kind::group_versions().into_iter();
    all.filter(move |(of, _)| *of == group).map(|(_, version)| version)
}

fn core_versions() -> Value {
    // Which address a client has to use is its own knowledge, so none is told.
    json!({"kind": "APIVersions", "versions": versions("").collect::<Vec<_>>(), "serverAddressByClientCIDRs": []})
}

fn groups() -> Value {
    let groups: Vec<Value> = named_groups().map(api_group).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn api_group(group: &str) -> Value {
    let version = |version| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let versions: Vec<Value> = versions(group).map(version).collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

fn with_type(mut value: Value, kind: &str) -> Value {
    value["kind"] = kind.into();
    value["apiVersion"] = "v1".into();
    value
}

fn kinds(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in kinds_of(group, version) {
        let namespaced = kind.scope() == Scope::Namespaced;
        let mut resource = json!({
            "name": kind.plural(), "singularName": kind.singular(), "namespaced": namespaced, "kind": kind.kind(),
            "verbs": kind.verbs(),
        });
        add_names(&mut resource, kind);
        resources.push(resource);
        if kind.status_part() == StatusPart::Kept {
            resources.push(json!({
                "name": format!("{}/status", kind.plural()), "singularName": "", "namespaced": namespaced,
                "kind": kind.kind(), "verbs": STATUS_VERBS,
            }));
        }
    }
    let group_version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn aggregated(groups: impl Iterator<Item = &'static str>) -> Value {
    let items: Vec<Value> = groups.map(aggregated_group).collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
}

fn aggregated_group(group: &str) -> Value {
    let mut metadata = json!({});
    if !group.is_empty() {
        metadata["name"] = group.into();
    }
    let versions: Vec<Value> = versions(group)
        .map(|version| aggregated_version(group, version))
        .collect();
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_version(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in kinds_of(group, version) {
        let response = json!({"group": group, "version": version, "kind": kind.kind()});
        let scope = match kind.scope() {
            Scope::Cluster => "Cluster",
            Scope::Namespaced => "Namespaced",
        };
        let mut resource = json!({
            "resource": kind.plural(), "singularResource": kind.singular(), "scope": scope, "responseKind": response,
            "verbs": kind.verbs(),
        });
        add_names(&mut resource, kind);
        if kind.status_part() == StatusPart::Kept {
            resource["subresources"] =
                json!([{"subresource": "status", "responseKind": response, "verbs": STATUS_VERBS}]);
        }
        resources.push(resource);
    }
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

fn add_names(resource: &mut Value, kind: Kind) {
    for (field, names) in [("shortNames", kind.short_names()), ("categories", kind.categories())] {
        if !names.is_empty() {
            resource[field] = names.into();
        }
    }
}

/// A status is read; only the control plane writes it.
const STATUS_VERBS: &[&str] = &["get"];
const AGGREGATED: HeaderValue =
    HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
