//! Where resources are in the API, as Kubernetes has it:
//! `/api/v1/…` for the core group, `/apis/GROUP/v1/…` for others, then `[namespaces/NS/]PLURAL[/NAME[/status]]`. What
//! stands above tells which kinds there are; `/openapi/v3/…` says how they look.

use weir_api::{Key, Kind, Scope, StatusPart};

use super::{discovery, openapi};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// All objects of a kind, in one namespace or everywhere.
    Collection {
        /// Which kind.
        kind: Kind,
        /// In which of its versions.
        version: &'static str,
        /// Which namespace; `None`: all of them, or the kind knows none.
        namespace: Option<String>,
    },
    /// One object, in a version of its kind.
    Object(Key, &'static str),
    /// The status of one object, in a version of its kind.
    Status(Key, &'static str),
    /// Which kinds there are.
    Discovery(discovery::Document),
    /// How they look.
    OpenApi(openapi::Document),
}

/// Why a path names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("nothing is at {0}; resources are at /api/v1/… and /apis/GROUP/v1/…")]
    Unknown(String),
    #[error("{plural} of {group_version} are not known here; known: {}", known())]
    UnknownKind { group_version: String, plural: String },
    #[error("{} are not in namespaces: leave out /namespaces/{namespace}", .kind.plural())]
    NotNamespaced { kind: Kind, namespace: String },
    #[error("{} are in namespaces: /namespaces/NAMESPACE/{0}/{name}", .kind.plural())]
    LacksNamespace { kind: Kind, name: String },
    #[error("{} have no status", .kind.plural())]
    NoStatus { kind: Kind },
}

/// Reads the path of a request.
///
/// # Errors
/// When it names nothing; that is 404.
pub(crate) fn parse(path: &str) -> Result<Target, PathError> {
    let unknown = || PathError::Unknown(path.to_owned());
    let segments: Vec<&str> = path.strip_prefix('/').ok_or_else(unknown)?.split('/').collect();
    if let Some(document) = document(&segments) {
        return Ok(document);
    }
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(unknown());
    }
    let (group, version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(unknown()),
    };
    let (rest, part) = match rest {
        [rest @ .., "status"] if rest.len() > 1 => (rest, Part::Status),
        rest => (rest, Part::Whole),
    };
    let (namespace, plural, name) = match rest {
        ["namespaces", namespace, plural] => (Some(*namespace), *plural, None),
        ["namespaces", namespace, plural, name] => (Some(*namespace), *plural, Some(*name)),
        [plural] => (None, *plural, None),
        [plural, name] => (None, *plural, Some(*name)),
        _ => return Err(unknown()),
    };
    let kind = Kind::of_plural(group, version, plural).ok_or_else(|| PathError::UnknownKind {
        group_version: if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        },
        plural: plural.to_owned(),
    })?;
    let version = kind
        .versions()
        .iter()
        .find(|known| **known == version)
        .ok_or_else(unknown)?;
    match (kind.scope(), namespace, name) {
        (Scope::Cluster, Some(namespace), _) => Err(PathError::NotNamespaced {
            kind,
            namespace: namespace.to_owned(),
        }),
        (Scope::Namespaced, None, Some(name)) => Err(PathError::LacksNamespace {
            kind,
            name: name.to_owned(),
        }),
        (Scope::Cluster, None, None) | (Scope::Namespaced, _, None) => match part {
            Part::Whole => Ok(Target::Collection {
                kind,
                version,
                namespace: namespace.map(str::to_owned),
            }),
            Part::Status => Err(unknown()),
        },
        (Scope::Cluster, None, Some(name)) | (Scope::Namespaced, Some(_), Some(name)) => {
            let key = Key {
                kind,
                namespace: namespace.unwrap_or_default().to_owned(),
                name: name.to_owned(),
            };
            match (part, kind.status_part()) {
                (Part::Whole, _) => Ok(Target::Object(key, version)),
                (Part::Status, StatusPart::Kept) => Ok(Target::Status(key, version)),
                (Part::Status, StatusPart::None) => Err(PathError::NoStatus { kind }),
            }
        }
    }
}

/// Which part of an object a path names.
#[derive(Clone, Copy)]
enum Part {
    Whole,
    Status,
}

/// Discovery and OpenAPI. One slash may follow: clients in Python ask for `/apis/`.
fn document(segments: &[&str]) -> Option<Target> {
    let segments = match segments {
        [segments @ .., ""] => segments,
        segments => segments,
    };
    let known = |group: &str, version: &str| {
        let all = Kind::group_versions().into_iter();
        all.into_iter().find(|known| *known == (group, version))
    };
    let kinds = |(group, version)| Target::Discovery(discovery::Document::Kinds(group, version));
    let open_api = |(group, version)| Target::OpenApi(openapi::Document::Group(group, version));
    match segments {
        ["api"] => Some(Target::Discovery(discovery::Document::Core)),
        ["apis"] => Some(Target::Discovery(discovery::Document::Groups)),
        ["openapi", "v3"] => Some(Target::OpenApi(openapi::Document::Index)),
        ["api", version] => known("", version).map(kinds),
        ["openapi", "v3", "api", version] => known("", version).map(open_api),
        [_, "", ..] | [_, _, _, "", ..] => None,
        ["apis", group] => {
            let group = Kind::groups().find(|known| known == group)?;
            Some(Target::Discovery(discovery::Document::Group(group)))
        }
        ["apis", group, version] => known(group, version).map(kinds),
        ["openapi", "v3", "apis", group, version] => known(group, version).map(open_api),
        _ => None,
    }
}

fn known() -> String {
    let known: Vec<String> = Kind::ALL
        .iter()
        .map(|kind| format!("{} of {}", kind.plural(), kind.api_version()))
        .collect();
    known.join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn collection(path: &str, kind: Kind, namespace: Option<&str>) {
        let expect = Target::Collection {
            kind,
            version: "v1",
            namespace: namespace.map(str::to_owned),
        };
        assert_eq!(parse(path), Ok(expect), "{path}");
    }

    #[track_caller]
    fn object(path: &str, expect: &str) {
        match parse(path) {
            Ok(Target::Object(key, _)) => assert_eq!(key.to_string(), expect, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_name_kinds_and_objects() {
        collection("/api/v1/namespaces", Kind::Namespace, None);
        collection("/api/v1/services", Kind::Service, None);
        collection("/api/v1/namespaces/citizen/services", Kind::Service, Some("citizen"));
        collection(
            "/apis/gateway.networking.k8s.io/v1/namespaces/citizen/httproutes",
            Kind::HttpRoute,
            Some("citizen"),
        );
        object("/api/v1/namespaces/citizen", "Namespace/citizen");
        object("/api/v1/namespaces/citizen/services/portal", "Service/citizen/portal");
        object("/apis/weir.dev/v1/meshconfigs/mesh", "MeshConfig/mesh");
        object(
            "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/b.c",
            "EndpointSlice/a/b.c",
        );
    }

    #[test]
    fn paths_name_parts_and_documents() {
        let status = |path: &str| match parse(path) {
            Ok(Target::Status(key, _)) => key.to_string(),
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(status("/api/v1/namespaces/citizen/status"), "Namespace/citizen");
        let route = "/apis/gateway.networking.k8s.io/v1/namespaces/a/httproutes/b/status";
        assert_eq!(status(route), "HTTPRoute/a/b");
        // An object of that name is no part of another.
        object("/api/v1/namespaces/status/services/b", "Service/status/b");
        for (path, expect) in [
            ("/api", discovery::Document::Core),
            ("/api/", discovery::Document::Core),
            ("/api/v1", discovery::Document::Kinds("", "v1")),
            ("/apis", discovery::Document::Groups),
            ("/apis/weir.dev", discovery::Document::Group("weir.dev")),
            (
                "/apis/gateway.networking.k8s.io/v1beta1",
                discovery::Document::Kinds("gateway.networking.k8s.io", "v1beta1"),
            ),
            ("/apis/weir.dev/v1/", discovery::Document::Kinds("weir.dev", "v1")),
        ] {
            assert_eq!(parse(path), Ok(Target::Discovery(expect)), "{path}");
        }
        for (path, expect) in [
            ("/openapi/v3", openapi::Document::Index),
            ("/openapi/v3/api/v1", openapi::Document::Group("", "v1")),
            (
                "/openapi/v3/apis/weir.dev/v1",
                openapi::Document::Group("weir.dev", "v1"),
            ),
        ] {
            assert_eq!(parse(path), Ok(Target::OpenApi(expect)), "{path}");
        }
    }

    #[test]
    fn other_paths_name_nothing() {
        for path in [
            "",
            "/",
            "//api/v1/services",
            "/api/v1//",
            "/api/v2",
            "/apis/apps",
            "/apis//v1",
            "/apis/apps/v1",
            "/openapi/v2",
            "/openapi/v3/apis/apps/v1",
            "/api/v1/services/",
            "/api/v1/status",
            "/api/v1/namespaces/a/services/status",
            "/api/v1/namespaces/a/services/b/scale",
            "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/b/status",
            "/api/v1/namespaces/a/services/b/c",
            "/api/v2/services",
            "/api/v1/pods",
            "/apis/weir.dev/v1/services",
            "/apis/weir.dev/v1/namespaces/a/meshconfigs/mesh",
            "/api/v1/services/portal",
        ] {
            assert!(parse(path).is_err(), "{path}");
        }
    }
    proptest! {
        /// Whatever comes as a path is read or refused; what is read names what the path says.
        #[test]
        fn any_path_is_read_or_refused(path in "/(api|apis|[a-z.]{0,3})(/(v1|namespaces|services|weir.dev|[ -~é]{0,4})){0,7}") {
            if let Ok(Target::Object(key, _)) = parse(&path) {
                let end = format!("{}/{}", key.kind.plural(), key.name);
                prop_assert!(path.ends_with(&end), "{path}: {key}");
            }
        }
    }
}
