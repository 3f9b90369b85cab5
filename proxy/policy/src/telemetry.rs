//! What of a workload's requests is told beside metrics: which have a line in the access log, which are traced, what
//! their spans say.

use http::{HeaderName, header};

/// What one workload's proxy tells of the requests that it carries, in and out. What is open is as its flags say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// Which requests have a line in the access log; `None`: all, if there is a log.
    pub access_log: Option<AccessLog>,
    /// How many of ten thousand traces that begin there are recorded, at most 10000; `None`: as the flag says.
    pub sampling_parts_per_ten_thousand: Option<u16>,
    /// What spans say beside their own attributes; each name once.
    pub tags: Vec<SpanTag>,
    /// Requests that have neither a line nor a span.
    pub excluded_paths: Vec<ExcludedPath>,
}

/// The most that may be recorded of ten thousand: all.
pub const TEN_THOUSAND: u16 = 10_000;

/// Which requests have a line in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Every one.
    All,
    /// Those that failed.
    Errors,
    /// None.
    Off,
}

/// What became of a request, as far as the access log asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has the answer that was meant for it.
    Well,
    /// It failed at the upstream or in the mesh, or nobody waited for its answer.
    Failed,
}

impl AccessLog {
    /// Whether a request that ended so has a line.
    pub fn takes(self, ended: Ended) -> bool {
        match (self, ended) {
            (AccessLog::All, _) | (AccessLog::Errors, Ended::Failed) => true,
            (AccessLog::Errors, Ended::Well) | (AccessLog::Off, _) => false,
        }
    }
}

/// An attribute of spans that shows a field of the request's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanTag {
    /// The attribute.
    pub name: String,
    /// The field; none for which [`is_credential`] is so.
    pub header: HeaderName,
}

/// Whether the values of a field let in who knows them: no span may show them.
pub fn is_credential(header: &HeaderName) -> bool {
    [
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
    ]
    .contains(header)
}

/// Requests by their path, without the query; case matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExcludedPath {
    /// The whole path.
    Exact(String),
    /// Whole segments from the start, as in [`crate::model::PathMatch::Prefix`].
    Prefix(String),
}

impl ExcludedPath {
    /// Whether a request with this path is one of them.
    pub fn takes(&self, path: &str) -> bool {
        match self {
            ExcludedPath::Exact(exact) => path == exact,
            ExcludedPath::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                let rest = path.strip_prefix(prefix);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(excluded: &ExcludedPath, takes: &[&str], leaves: &[&str]) {
        for path in takes {
            assert!(excluded.takes(path), "{excluded:?} takes {path}");
        }
        for path in leaves {
            assert!(!excluded.takes(path), "{excluded:?} leaves {path}");
        }
    }

    #[test]
    fn a_prefix_is_whole_segments() {
        let prefix = |prefix: &str| ExcludedPath::Prefix(prefix.to_owned());
        let exact = |path: &str| ExcludedPath::Exact(path.to_owned());
        check(&exact("/a"), &["/a"], &["/a/", "/A", "/ab", "/", ""]);
        for a in ["/a", "/a/"] {
            check(&prefix(a), &["/a", "/a/", "/a/b"], &["/ab", "/A", "/", "", "/b/a"]);
        }
        check(&prefix("/"), &["/", "/a", "/a/b", ""], &["*"]);
    }

    #[test]
    fn a_line_is_for_all_or_for_failures() {
        use Ended::{Failed, Well};
        for (log, well, failed) in [
            (AccessLog::All, true, true),
            (AccessLog::Errors, false, true),
            (AccessLog::Off, false, false),
        ] {
            assert_eq!((log.takes(Well), log.takes(Failed)), (well, failed), "{log:?}");
        }
    }

    #[test]
    fn credentials_are_known_whatever_their_case() {
        for (name, expect) in [
            ("Authorization", true),
            ("proxy-authorization", true),
            ("COOKIE", true),
            ("set-cookie", true),
            ("x-cookie", false),
        ] {
            let header = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            assert_eq!(is_credential(&header), expect, "{name}");
        }
    }
}
