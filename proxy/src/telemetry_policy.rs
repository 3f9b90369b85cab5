//! What the policy in force says of telemetry, compiled, and what it decides of a request at its head.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use weir_policy::telemetry::{AccessLog, ExcludedPath, Telemetry};

use crate::config::Ratio;
use crate::record::{Sampled, Sampler};

/// What the policy of this proxy's workload says. By default it says nothing: the flags hold.
#[derive(Debug, Default)]
pub(crate) struct TelemetryPolicy {
    /// As it came, for people; `None`: there is none.
    pub(crate) source: Option<Telemetry>,
    sampler: Option<Sampler>,
    tags: Vec<Tag>,
}

#[derive(Debug)]
struct Tag {
    name: Arc<str>,
    header: HeaderName,
}

/// What is told of a request beside metrics. Decided at its head, so that a change is never half in force for it.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Whether it has a line in the access log, if there is one.
    pub(crate) log: AccessLog,
    /// Whether it has a span, if spans are exported.
    pub(crate) span: Sampled,
    /// What its span says beside its own attributes.
    pub(crate) tags: Vec<(Arc<str>, String)>,
}

impl Told {
    /// Of a request that leaves no trace.
    pub(crate) const NOTHING: Told = Told {
        log: AccessLog::Off,
        span: Sampled::No,
        tags: Vec::new(),
    };
}

/// Whether a request leaves no trace, because of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excluded {
    Yes,
    No,
}

impl TelemetryPolicy {
    pub(crate) fn compile(source: Telemetry) -> TelemetryPolicy {
        let share = source.sampling_parts_per_ten_thousand;
        let share = share.and_then(|parts| Ratio::new(f64::from(parts) / 10_000.0));
        let tags = source.tags.iter().map(|tag| Tag {
            name: tag.name.as_str().into(),
            header: tag.header.clone(),
        });
        TelemetryPolicy {
            sampler: share.map(Sampler::new),
            tags: tags.collect(),
            source: Some(source),
        }
    }

    /// Decides which of the traces that begin here are recorded; `by_flag` where the policy leaves it open.
    pub(crate) fn sampler(&self, by_flag: Sampler) -> Sampler {
        self.sampler.unwrap_or(by_flag)
    }

    /// Whether a request with this path, which may have a query, leaves no trace.
    pub(crate) fn excludes(&self, path: &str) -> Excluded {
        let excluded: &[ExcludedPath] = self.source.as_ref().map_or(&[], |source| &source.excluded_paths);
        match excluded.iter().any(|excluded| excluded.takes(path)) {
            true => Excluded::Yes,
            false => Excluded::No,
        }
    }

    /// What is told of a request that is not excluded. Values are copied, and only where there is a span to show them:
    /// a span that waits to be sent does not keep its request's whole head.
    pub(crate) fn told(&self, span: Sampled, headers: &HeaderMap) -> Told {
        let log = self.source.as_ref().and_then(|source| source.access_log);
        let tags = match span {
            Sampled::Yes => self.tags.iter().filter_map(|tag| tag.read(headers)).collect(),
            Sampled::No => Vec::new(),
        };
        Told {
            log: log.unwrap_or(AccessLog::All),
            span,
            tags,
        }
    }
}

impl Tag {
    /// The attribute for a request; `None`: it has no such field. Several fields of one name are joined with `,` (RFC
    /// 9110 section 5.3).
    fn read(&self, headers: &HeaderMap) -> Option<(Arc<str>, String)> {
        let mut value = String::new();
        let mut left = VALUE_CHARS_MAX;
        for (index, field) in headers.get_all(&self.header).iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            let text = String::from_utf8_lossy(field.as_bytes());
            for c in separator.chars().chain(text.chars()) {
                if left == 0 {
                    break;
                }
                left -= 1;
                value.push(c);
            }
        }
        headers
            .contains_key(&self.header)
            .then(|| (Arc::clone(&self.name), value))
    }
}

/// How many characters of a field a span shows.
const VALUE_CHARS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use weir_policy::telemetry::SpanTag;

    use super::*;

    fn tagging() -> TelemetryPolicy {
        let tag = |name: &str, header: &'static str| SpanTag {
            name: name.to_owned(),
            header: HeaderName::from_static(header),
        };
        TelemetryPolicy::compile(Telemetry {
            tags: vec![tag("department", "x-department"), tag("agent", "user-agent")],
            ..Telemetry::default()
        })
    }

    #[track_caller]
    fn shows(fields: &[&[u8]], expect: Option<&str>) {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append("x-department", HeaderValue::from_bytes(field).expect("a value"));
        }
        let told = tagging().told(Sampled::Yes, &headers);
        let shown: Vec<(&str, &str)> = told
            .tags
            .iter()
            .map(|(name, value)| (&**name, value.as_str()))
            .collect();
        let expect: Vec<(&str, &str)> = expect.into_iter().map(|value| ("department", value)).collect();
        assert_eq!(shown, expect);
    }

    #[test]
    fn a_tag_shows_the_field_of_its_name_cut_short() {
        shows(&[], None);
        shows(&[b""], Some(""));
        shows(&[b"health"], Some("health"));
        shows(&[b"health", b"police"], Some("health,police"));
        shows(&["卫健委".as_bytes()], Some("卫健委"));
        shows(&[b"\xff"], Some("\u{fffd}"));
        shows(&[&[b'a'; 300]], Some(&"a".repeat(256)));
        shows(&["界".repeat(300).as_bytes(), b"more"], Some(&"界".repeat(256)));
        shows(&[&[b'a'; 255], b"b"], Some(&format!("{},", "a".repeat(255))));
    }

    #[test]
    fn nothing_is_copied_for_a_request_without_a_span() {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-department"), HeaderValue::from_static("a"))]);
        let told = tagging().told(Sampled::No, &headers);
        assert_eq!(told.tags.capacity(), 0);
        assert_eq!((told.log, told.span), (AccessLog::All, Sampled::No));
    }

    #[test]
    fn what_is_left_open_is_as_the_flags_say() {
        let id = [0; 16];
        let (none, all) = (Sampler::new(Ratio::NONE), Sampler::new(Ratio::ALL));
        let sampled = |parts: Option<u16>, by_flag: Sampler| {
            let policy = TelemetryPolicy::compile(Telemetry {
                sampling_parts_per_ten_thousand: parts,
                ..Telemetry::default()
            });
            policy.sampler(by_flag).decide(None, &id)
        };
        assert_eq!(sampled(None, none), Sampled::No);
        assert_eq!(sampled(None, all), Sampled::Yes);
        assert_eq!(sampled(Some(0), all), Sampled::No);
        assert_eq!(sampled(Some(1), none), Sampled::Yes, "the lowest id is among any share");
        let silent = TelemetryPolicy::default();
        assert_eq!(silent.sampler(all).decide(None, &id), Sampled::Yes);
        assert_eq!(silent.excludes("/"), Excluded::No);
        assert_eq!(silent.told(Sampled::Yes, &HeaderMap::new()).log, AccessLog::All);
    }

    #[test]
    fn any_of_the_excluded_paths_excludes() {
        let policy = TelemetryPolicy::compile(Telemetry {
            excluded_paths: vec![
                ExcludedPath::Exact("/healthz".to_owned()),
                ExcludedPath::Prefix("/internal".to_owned()),
            ],
            ..Telemetry::default()
        });
        for (path, expect) in [
            ("/healthz", Excluded::Yes),
            ("/healthz/a", Excluded::No),
            ("/internal/a", Excluded::Yes),
            ("/", Excluded::No),
        ] {
            assert_eq!(policy.excludes(path), expect, "{path}");
        }
    }
}
