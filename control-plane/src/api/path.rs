//! Where resources are in the API, as Kubernetes has it:
//! `/api/v1/…` for the core group, `/apis/GROUP/v1/…` for others, then `[namespaces/NS/]PLURAL[/NAME]`.

use weir_api::{Key, Kind, Scope};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// All objects of a kind, in one namespace or everywhere.
    Collection {
        /// Which kind.
        kind: Kind,
        /// Which namespace; `None`: all of them, or the kind knows none.
        namespace: Option<String>,
    },
    /// One object.
    Object(Key),
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
}

/// Reads the path of a request.
///
/// # Errors
/// When it names nothing; that is 404.
pub(crate) fn parse(path: &str) -> Result<Target, PathError> {
    let unknown = || PathError::Unknown(path.to_owned());
    let segments: Vec<&str> = path.strip_prefix('/').ok_or_else(unknown)?.split('/').collect();
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(unknown());
    }
    let (group, version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(unknown()),
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
    match (kind.scope(), namespace, name) {
        (Scope::Cluster, Some(namespace), _) => Err(PathError::NotNamespaced {
            kind,
            namespace: namespace.to_owned(),
        }),
        (Scope::Namespaced, None, Some(name)) => Err(PathError::LacksNamespace {
            kind,
            name: name.to_owned(),
        }),
        (Scope::Cluster, None, None) | (Scope::Namespaced, _, None) => Ok(Target::Collection {
            kind,
            namespace: namespace.map(str::to_owned),
        }),
        (Scope::Cluster, None, Some(name)) | (Scope::Namespaced, Some(_), Some(name)) => Ok(Target::Object(Key {
            kind,
            namespace: namespace.unwrap_or_default().to_owned(),
            name: name.to_owned(),
        })),
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
        let namespace = namespace.map(str::to_owned);
        assert_eq!(parse(path), Ok(Target::Collection { kind, namespace }), "{path}");
    }

    #[track_caller]
    fn object(path: &str, expect: &str) {
        match parse(path) {
            Ok(Target::Object(key)) => assert_eq!(key.to_string(), expect, "{path}"),
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
    fn other_paths_name_nothing() {
        for path in [
            "",
            "/",
            "/api",
            "/api/v1",
            "/api/v1/",
            "//api/v1/services",
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
            if let Ok(Target::Object(key)) = parse(&path) {
                let end = format!("{}/{}", key.kind.plural(), key.name);
                prop_assert!(path.ends_with(&end), "{path}: {key}");
            }
        }
    }
}
