//! OpenAPI v3: what can be asked for, where, with which parameters and bodies. Made of [`Kind::ALL`] and the kinds'
//! schemas, once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde_json::{Map, Value, json};
use weir_api::schema;
use weir_api::{Access, Kind, Scope, StatusPart};

use super::query;
use super::status::{Failure, Reason};
use super::{accept, body};
use crate::compile::Version;

/// A document of OpenAPI v3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// `/openapi/v3`: where the others are.
    Index,
    /// Of a group (empty: core) in a version.
    Group(&'static str, &'static str),
}

/// Answers with `document`. The index names each group's document by its hash; under that name it never changes, and
/// clients keep it.
///
/// # Errors
/// 406 when the client takes no JSON.
pub(crate) fn answer(document: Document, uri: &Uri, headers: &HeaderMap) -> Result<Response, Failure> {
    accept::json(headers)?;
    let query::OpenApi { pretty, hash } = query::open_api(uri)?;
    let (group, version) = match document {
        Document::Index => return Ok(accept::respond(StatusCode::OK, pretty, &index())),
        Document::Group(group, version) => (group, version),
    };
    let Some(built) = DOCUMENTS.get(&(group, version)) else {
        let message = format!("there is no {group}/{version}; /openapi/v3 lists what there is");
        return Err(Failure::new(Reason::NotFound, message));
    };
    match hash {
        Some(hash) if hash != built.hash => {
            let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
            let right = HeaderValue::from_str(&built.url(group, version)).map_err(|error| {
                Failure::new(
                    Reason::InternalError,
                    format!("the document's place can't be written: {error}"),
                )
            })?;
            response.headers_mut().insert(LOCATION, right);
            Ok(response)
        }
        hash => {
            let tag = format!("\"{}\"", built.hash);
            let known = headers.get(IF_NONE_MATCH).and_then(|known| known.to_str().ok());
            let mut response = if known == Some(tag.as_str()) {
                StatusCode::NOT_MODIFIED.into_response()
            } else {
                accept::respond(StatusCode::OK, pretty, &built.document)
            };
            let cache = if hash.is_some() { IMMUTABLE } else { ASK_AGAIN };
            response.headers_mut().insert(CACHE_CONTROL, cache);
            if let Ok(tag) = HeaderValue::from_str(&tag) {
                response.headers_mut().insert(ETAG, tag);
            }
            Ok(response)
        }
    }
}

/// A group's document.
struct Built {
    document: Value,
    hash: String,
}

impl Built {
    fn url(&self, group: &str, version: &str) -> String {
        format!("/openapi/v3/{}?hash={}", place(group, version), self.hash)
    }
}

static DOCUMENTS: LazyLock<BTreeMap<(&'static str, &'static str), Built>> = LazyLock::new(|| {
    let built = Kind::group_versions().into_iter().map(|(group, version)| {
        let document = group_document(group, version);
        let hash = Version::of(document.to_string().as_bytes()).to_string();
        ((group, version), Built { document, hash })
    });
    built.collect()
});

fn index() -> Value {
    let url = |(&(group, version), built): (&(&str, &str), &Built)| {
        (
            place(group, version),
            json!({"serverRelativeURL": built.url(group, version)}),
        )
    };
    let paths: Map<String, Value> = DOCUMENTS.iter().map(url).collect();
    json!({"paths": paths})
}

/// `api/v1` or `apis/GROUP/VERSION`.
fn place(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

fn group_document(group: &str, version: &'static str) -> Value {
    let mut paths = Map::new();
    let is_there = |kind: &&Kind| kind.group() == group && kind.versions().contains(&version);
    for &kind in Kind::ALL.iter().filter(is_there) {
        let of = Versioned { kind, version };
        let collection = kind.path_in(version, in_namespace(kind));
        if kind.scope() == Scope::Namespaced {
            paths.insert(kind.path_in(version, None), of.everywhere());
        }
        if kind.status_part() == StatusPart::Kept {
            paths.insert(format!("{collection}/{{name}}/status"), of.status());
        }
        paths.insert(format!("{collection}/{{name}}"), of.object());
        paths.insert(collection, of.collection());
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Weir", "version": concat!("v", env!("CARGO_PKG_VERSION"))},
        "paths": paths,
        "components": {"schemas": schema::components(group)},
    })
}

fn in_namespace(kind: Kind) -> Option<&'static str> {
    match kind.scope() {
        Scope::Cluster => None,
        Scope::Namespaced => Some("{namespace}"),
    }
}

/// A kind in a version, and what can be asked for at its places.
#[derive(Clone, Copy)]
struct Versioned {
    kind: Kind,
    version: &'static str,
}

impl Versioned {
    /// Lists and watches over all namespaces.
    fn everywhere(self) -> Value {
        let list = self.operation("list", "ForAllNamespaces", query::LIST_PARAMETERS);
        json!({"get": list.answers(StatusCode::OK, &schema::list_name(self.kind))})
    }

    fn collection(self) -> Value {
        let kind = self.kind;
        let place = in_which(kind);
        let list = schema::list_name(kind);
        let mut operations = json!({
            "get": self.operation("list", place, query::LIST_PARAMETERS).answers(StatusCode::OK, &list),
        });
        if kind.access() == Access::Writable {
            let create = self
                .operation("post", place, query::WRITE_PARAMETERS)
                .takes(&object_bodies(kind));
            operations["post"] = create.answers(StatusCode::CREATED, &schema::name(kind));
        }
        if kind.verbs().contains(&"deletecollection") {
            let delete = self.operation("deletecollection", place, query::DELETE_COLLECTION_PARAMETERS);
            operations["delete"] = delete.may_take(&delete_body()).answers(StatusCode::OK, &list);
        }
        with_path_parameters(operations, kind, Name::Collection)
    }

    fn object(self) -> Value {
        let kind = self.kind;
        let (place, name) = (in_which(kind), schema::name(kind));
        let mut operations = json!({
            "get": self.operation("get", place, query::GET_PARAMETERS).answers(StatusCode::OK, &name),
        });
        if kind.access() == Access::Writable {
            let replace = self
                .operation("put", place, query::WRITE_PARAMETERS)
                .takes(&object_bodies(kind));
            operations["put"] = replace.answers(StatusCode::OK, &name);
            let patch = self
                .operation("patch", place, query::WRITE_PARAMETERS)
                .takes(&patch_bodies(kind));
            operations["patch"] = patch.answers(StatusCode::OK, &name);
            let delete = self
                .operation("delete", place, query::DELETE_PARAMETERS)
                .may_take(&delete_body());
            let answer = match kind {
                Kind::Namespace => name,
                _ => schema::meta_name("Status"),
            };
            operations["delete"] = delete.answers(StatusCode::OK, &answer);
        }
        with_path_parameters(operations, kind, Name::Object)
    }

    fn status(self) -> Value {
        let get = self
            .operation("get", in_which(self.kind), query::GET_PARAMETERS)
            .part("Status");
        let operations = json!({"get": get.answers(StatusCode::OK, &schema::name(self.kind))});
        with_path_parameters(operations, self.kind, Name::Object)
    }

    fn operation(self, action: &str, place: &str, parameters: &[&str]) -> Operation {
        let Versioned { kind, version } = self;
        let verb = match action {
            "get" => "read",
            "post" => "create",
            "put" => "replace",
            "deletecollection" => "deleteCollection",
            action => action,
        };
        let tag = match kind.group() {
            "" => format!("core_{version}"),
            group => format!("{}_{version}", group.replace('.', "_")),
        };
        let parameters: Vec<Value> = parameters.iter().map(|name| parameter(name)).collect();
        let id = match place {
            "ForAllNamespaces" => format!("{verb}_{tag}_{kind}{place}"),
            place => format!("{verb}_{tag}_{place}{kind}"),
        };
        Operation(json!({
            "operationId": id,
            "description": format!("{} {}", said(action), kind.plural()),
            "tags": [tag],
            "parameters": parameters,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": kind.group(), "version": version, "kind": kind.kind()},
        }))
    }
}

fn in_which(kind: Kind) -> &'static str {
    match kind.scope() {
        Scope::Cluster => "",
        Scope::Namespaced => "Namespaced",
    }
}

/// Whether a path names one object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Collection,
    Object,
}

fn with_path_parameters(mut operations: Value, kind: Kind, name: Name) -> Value {
    let parameter = |name: &str, description: &str| {
        json!({
            "name": name, "in": "path", "required": true, "description": description,
            "schema": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": NAME_PATTERN},
        })
    };
    let mut parameters = Vec::new();
    if name == Name::Object {
        parameters.push(parameter("name", "The resource's name."));
    }
    if kind.scope() == Scope::Namespaced {
        parameters.push(parameter("namespace", "The resource's namespace."));
    }
    operations["parameters"] = parameters.into();
    operations
}

/// One method at one place.
struct Operation(Value);

impl Operation {
    /// The same for a part of an object.
    fn part(mut self, part: &str) -> Operation {
        let id = format!("{}{part}", self.0["operationId"].as_str().unwrap_or_default());
        self.0["operationId"] = id.into();
        self
    }

    fn takes(mut self, content: &Value) -> Operation {
        self.0["requestBody"] = json!({"content": content, "required": true});
        self
    }

    fn may_take(mut self, content: &Value) -> Operation {
        self.0["requestBody"] = json!({"content": content});
        self
    }

    fn answers(mut self, status: StatusCode, component: &str) -> Value {
        let answer = |description: &str, component: &str| json!({"description": description, "content": {"application/json": {"schema": reference(component)}}});
        self.0["responses"] = json!({
            status.as_str(): answer(status.canonical_reason().unwrap_or_default(), component),
            "default": answer("Why it was not done.", &schema::meta_name("Status")),
        });
        self.0
    }
}

fn said(action: &str) -> &'static str {
    match action {
        "list" => "List or watch",
        "get" => "Read one of",
        "post" => "Create one of",
        "put" => "Replace one of",
        "patch" => "Change one of",
        "deletecollection" => "Delete those selected of",
        _ => "Delete one of",
    }
}

fn reference(component: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{component}")})
}

fn object_bodies(kind: Kind) -> Value {
    let content = |format: &&str| ((*format).to_owned(), json!({"schema": reference(&schema::name(kind))}));
    Value::Object(body::object_formats(kind).iter().map(content).collect())
}

fn patch_bodies(kind: Kind) -> Value {
    let body = |format: &weir_api::PatchFormat| {
        let schema = match format {
            weir_api::PatchFormat::Json => json!({"type": "array", "items": {"type": "object"}}),
            weir_api::PatchFormat::Merge | weir_api::PatchFormat::Strategic => reference(&schema::meta_name("Patch")),
        };
        (format.media_type().to_owned(), json!({"schema": schema}))
    };
    Value::Object(kind.patch_formats().iter().map(body).collect())
}

fn delete_body() -> Value {
    json!({"application/json": {"schema": reference(&schema::meta_name("DeleteOptions"))}})
}

/// What a parameter of the query means.
fn parameter(name: &str) -> Value {
    let flag = json!({"type": "boolean"});
    let text = json!({"type": "string"});
    let one_of = |values: &[&str]| json!({"type": "string", "enum": values});
    let whole = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
    let revision = json!({"type": "string", "pattern": "^[0-9]{0,19}$"});
    let (schema, description) = match name {
        "allowWatchBookmarks" => (flag, "A watch also says up to where it has seen everything."),
        "continue" => (text, "metadata.continue of the page before: the next one is listed."),
        "dryRun" => (one_of(&["All"]), "All: only what it would do is wanted."),
        "fieldManager" => (
            json!({"type": "string", "maxLength": 128}),
            "Who writes. Nobody's fields are kept apart.",
        ),
        "fieldSelector" => (
            text,
            "Conditions on metadata.name and metadata.namespace, joined by commas.",
        ),
        "fieldValidation" => (
            one_of(&["Strict"]),
            "A field that is not known is refused, never dropped.",
        ),
        "gracePeriodSeconds" => (
            whole,
            "Taken for the clients that send it. Nothing here takes time to end.",
        ),
        "includeObject" => (
            one_of(&["None", "Metadata", "Object"]),
            "What a row of a table carries; default: Metadata.",
        ),
        "labelSelector" => (text, "Conditions on labels, joined by commas."),
        "limit" => (whole, "How many objects a page has at most; default, and 0: all."),
        "pretty" => (flag, "The answer is written for people to read."),
        "propagationPolicy" => (
            one_of(&["Orphan", "Background", "Foreground"]),
            "Taken for the clients that send it. Nothing here has dependents.",
        ),
        "resourceVersion" => (
            revision,
            "Where a watch begins, or which state is listed, as resourceVersionMatch says.",
        ),
        "resourceVersionMatch" => (
            one_of(&["Exact", "NotOlderThan"]),
            "Whether exactly the state of resourceVersion is listed, or the latest.",
        ),
        "sendInitialEvents" => (flag, "A watch begins with what is there, and says where that ends."),
        "timeout" => (text, "How long the client waits."),
        "timeoutSeconds" => (whole, "How long a watch goes on at most."),
        "watch" => (flag, "Changes are sent as they happen, each as one line of JSON."),
        _ => (text, ""),
    };
    json!({"name": name, "in": "query", "description": description, "schema": schema})
}

const NAME_PATTERN: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn operations() -> Vec<(String, String, Value)> {
        let mut all = Vec::new();
        for built in DOCUMENTS.values() {
            for (path, methods) in built.document["paths"].as_object().expect("paths") {
                for (method, operation) in methods.as_object().expect("methods") {
                    if method != "parameters" {
                        all.push((path.clone(), method.clone(), operation.clone()));
                    }
                }
            }
        }
        all
    }

    #[test]
    fn every_parameter_is_described_and_every_operation_named_once() {
        let mut names = BTreeSet::new();
        for (path, method, operation) in operations() {
            assert!(
                names.insert(operation["operationId"].to_string()),
                "{method} {path}: {operation}"
            );
            for parameter in operation["parameters"].as_array().expect("parameters") {
                assert_ne!(parameter["description"], "", "{method} {path}: {parameter}");
            }
        }
    }

    #[test]
    fn actions_are_the_verbs_of_discovery() {
        for &kind in Kind::ALL {
            let of_kind = operations().into_iter().filter(|(path, _, operation)| {
                operation["x-kubernetes-group-version-kind"]["kind"] == kind.kind() && !path.ends_with("/status")
            });
            let verb = |(_, _, operation): (String, String, Value)| match operation["x-kubernetes-action"].as_str() {
                Some("post") => "create".to_owned(),
                Some("put") => "update".to_owned(),
                action => action.unwrap_or_default().to_owned(),
            };
            let mut verbs: BTreeSet<String> = of_kind.map(verb).collect();
            verbs.insert("watch".to_owned());
            let expect: BTreeSet<String> = kind.verbs().iter().map(|verb| (*verb).to_owned()).collect();
            assert_eq!(verbs, expect, "{kind}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    fields.values().for_each(|value| walk(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(value, found)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        for (group, built) in DOCUMENTS.iter() {
            let mut found = Vec::new();
            walk(&built.document, &mut found);
            for reference in found {
                let pointer = reference.strip_prefix('#').expect("of this document");
                assert!(built.document.pointer(pointer).is_some(), "{group:?}: {reference}");
            }
        }
    }
}
