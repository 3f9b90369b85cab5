//! What both conversions must agree on: names, and how the model's paths, hosts and durations are written.

use std::cmp::Ordering;
use std::time::Duration;

use weir_policy::model::{
    Endpoint, FailurePercentage, HostMatch, Locality, OriginMatch, PathMatch, PathRewrite, RetryPolicy, Scheme,
};

/// The key of Weir's typed metadata.
pub(crate) const METADATA_KEY: &str = "weir.dev";

/// The name of the HTTP filter that every connection manager ends with.
pub(crate) const ROUTER_FILTER: &str = "envoy.filters.http.router";

/// The name of the HTTP filter that a route's CORS is for, and the key of that.
pub(crate) const CORS_FILTER: &str = "envoy.filters.http.cors";

/// All, in lists of CORS.
pub(crate) const ANY: &str = "*";
/// The name of the HTTP filter that limits rates, and of a route's configuration of it.
pub(crate) const RATE_LIMIT_FILTER: &str = "envoy.filters.http.local_ratelimit";

/// The name of the HTTP filter that injects faults, and of a route's configuration of it.
pub(crate) const FAULT_FILTER: &str = "envoy.filters.http.fault";

/// The name of the network filter that carries bytes.
pub(crate) const TCP_FILTER: &str = "envoy.filters.network.tcp_proxy";

/// The key of a cluster's HTTP options.
pub(crate) const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The name of a transport socket of TLS.
pub(crate) const TLS_SOCKET: &str = "envoy.transport_sockets.tls";

/// The name of Envoy's validator of SPIFFE ids, which has roots by trust domain.
pub(crate) const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

/// The SHA-256 that no certificate has, as far as anybody knows.
pub(crate) const NO_CERTIFICATE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The word of a retry policy that says that its list of statuses is meant.
pub(crate) const RETRIABLE_STATUS_CODES: &str = "retriable-status-codes";

/// The pseudo-header on which a condition on the method is written.
pub(crate) const METHOD: &str = ":method";

/// A regular expression that takes every path whole. `path_rewrite` would say it shorter, but only newer Envoys know
/// that field.
pub(crate) const WHOLE_PATH: &str = "^/.*$";

/// The statuses that a health check may be told of: from this, and below [`STATUS_END`].
pub(crate) const STATUS_START: i64 = 100;

/// Behind the last status that a health check may be told of.
pub(crate) const STATUS_END: i64 = 600;

/// Envoy's published default of a route's timeout.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Envoy's published default of a cluster's connect timeout.
pub(crate) const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Envoy's published default of the wait before the first retry.
pub(crate) const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

/// The words of a retry policy, as they are written.
pub(crate) fn retry_words(retry: &RetryPolicy) -> String {
    let by_status = (!retry.codes.is_empty()).then_some(RETRIABLE_STATUS_CODES);
    let words: Vec<&str> = retry.on.iter().map(|on| on.word()).chain(by_status).collect();
    words.join(",")
}

/// Envoy's published default of each number of failures one after the other that ejects an endpoint.
pub(crate) const DEFAULT_CONSECUTIVE: u32 = 5;

/// Envoy's published default of a share of failures that ejects an endpoint, where such a rule is in force.
pub(crate) const DEFAULT_FAILURE_PERCENTAGE: FailurePercentage = FailurePercentage {
    threshold: 85,
    min_requests: 50,
    min_hosts: 5,
};

/// Envoy's published default of the interval of outlier detection.
pub(crate) const DEFAULT_OUTLIER_INTERVAL: Duration = Duration::from_secs(10);

/// Envoy's published default of the first ejection.
pub(crate) const DEFAULT_BASE_EJECTION_TIME: Duration = Duration::from_secs(30);

/// Envoy's published default of the longest ejection, unless the first is longer.
pub(crate) const DEFAULT_MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

/// Envoy's published default, in percent, of the share of endpoints that may be ejected.
pub(crate) const DEFAULT_MAX_EJECTION_PERCENT: u32 = 10;

/// The runtime key that goes with a slow start's aggression: Envoy wants one, and nobody sets it.
pub(crate) const AGGRESSION_KEY: &str = "weir.slow_start.aggression";

/// Envoy's published default of a slow start's aggression.
pub(crate) const DEFAULT_AGGRESSION: f64 = 1.0;

/// Envoy's published default, in percent, of the share that a slow start begins with.
pub(crate) const DEFAULT_MIN_WEIGHT_PERCENT: u8 = 10;

/// Envoy's published default of the time for which an unused connection is kept.
pub(crate) const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Envoy's published default, in percent, of the share of healthy endpoints below which all are used.
pub(crate) const DEFAULT_PANIC_PERCENT: u8 = 50;

/// All requests, in parts of a million.
pub(crate) const WHOLE_PARTS: u32 = 1_000_000;

/// The longest duration on the wire, 285 years: just below what Envoy takes, which counts nanoseconds in 64 bits.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(9_000_000_000);

/// The longest wait between retries where none is given: ten times the first, Envoy's published default.
pub(crate) fn longest_backoff(first: Duration) -> Duration {
    first.saturating_mul(10).min(DURATION_MAX)
}

/// The order of endpoints in a resource: by locality, then by address.
pub(crate) fn canonical_order(a: &Endpoint, b: &Endpoint) -> Ordering {
    fn place(at: &Locality) -> (&str, &str, &str) {
        (&at.region, &at.zone, &at.site)
    }
    let by_place = place(&a.locality).cmp(&place(&b.locality));
    by_place.then_with(|| a.address.cmp(&b.address))
}

/// A host as a domain of a virtual host.
pub(crate) fn domain(host: &HostMatch) -> String {
    match host {
        HostMatch::Any => "*".to_owned(),
        HostMatch::Suffix(suffix) => format!("*.{suffix}"),
        HostMatch::Exact(host) => host.clone(),
    }
}

/// A prefix in its canonical form: without the trailing `/` that means nothing.
pub(crate) fn canonical_prefix(prefix: &str) -> &str {
    match prefix.strip_suffix('/') {
        Some("") | None => prefix,
        Some(rest) => rest,
    }
}

/// How a changed path is written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PathChange {
    /// The matched prefix becomes this.
    Prefix(String),
    /// What the expression takes becomes this.
    Regex {
        /// The expression.
        pattern: String,
        /// What it becomes.
        substitution: String,
    },
}

/// A rewrite of the path as Envoy can do it.
///
/// Envoy joins the new prefix and the rest as they are, where the Gateway API (HTTPPathModifier, `replacePrefixMatch`)
/// joins them with exactly one `/`. The two differ when the old or the new prefix is `/`: these go as an expression.
pub(crate) fn path_change(path: &PathMatch, rewrite: &PathRewrite) -> PathChange {
    let replacement = match rewrite {
        PathRewrite::Full(path) => {
            return PathChange::Regex {
                pattern: WHOLE_PATH.to_owned(),
                substitution: path.clone(),
            };
        }
        PathRewrite::Prefix(replacement) => replacement.strip_suffix('/').unwrap_or(replacement),
    };
    match path {
        PathMatch::Prefix(prefix) if replacement.is_empty() || prefix == "/" => PathChange::Regex {
            pattern: prefix_pattern(prefix),
            substitution: format!("{replacement}/"),
        },
        // The model has no such rewrite without a prefix to replace, and what reads this refuses it.
        PathMatch::Exact(_) | PathMatch::Regex(_) if replacement.is_empty() => PathChange::Prefix("/".to_owned()),
        PathMatch::Prefix(_) | PathMatch::Exact(_) | PathMatch::Regex(_) => PathChange::Prefix(replacement.to_owned()),
    }
}

/// An expression that takes a prefix with every `/` after it.
pub(crate) fn prefix_pattern(prefix: &str) -> String {
    let mut pattern = String::from("^");
    for c in prefix.strip_suffix('/').unwrap_or(prefix).chars() {
        if matches!(
            c,
            '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' | '\\'
        ) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push_str("/*");
    pattern
}

/// An expression that takes just these origins as a whole, in the form in which browsers write them (RFC 6454 section
/// 6.2), or with the scheme's own port, which they leave out.
pub(crate) fn origin_pattern(origin: &OriginMatch) -> String {
    let OriginMatch { scheme, host, port } = origin;
    let host = match host {
        HostMatch::Any => ANY_HOST.to_owned(),
        HostMatch::Suffix(suffix) => format!("{LABELS}{}", escaped(suffix)),
        HostMatch::Exact(host) => escaped(host),
    };
    let port = match *port == scheme.port() {
        true => format!("(:{port})?"),
        false => format!(":{port}"),
    };
    format!("{}://{host}{port}", scheme.as_str())
}

/// The origins that an expression takes; `None`: it is none that [`origin_pattern`] writes.
pub(crate) fn origin_of_pattern(pattern: &str) -> Option<OriginMatch> {
    let (scheme, rest) = scheme_of(pattern)?;
    let own = format!("(:{})?", scheme.port());
    let (host, port) = match rest.strip_suffix(own.as_str()) {
        Some(host) => (host, scheme.port()),
        None => {
            let (host, port) = rest.rsplit_once(':')?;
            (host, port.parse().ok()?)
        }
    };
    let plain = |text: &str| text.replace('\\', "");
    let host = match host.strip_prefix(LABELS) {
        _ if host == ANY_HOST => HostMatch::Any,
        Some(suffix) => HostMatch::Suffix(plain(suffix)),
        None => HostMatch::Exact(plain(host)),
    };
    let origin = OriginMatch { scheme, host, port };
    (origin_pattern(&origin) == pattern).then_some(origin)
}

/// The origin that a text is; `None`: it is none.
pub(crate) fn origin_of_text(text: &str) -> Option<OriginMatch> {
    let (scheme, rest) = scheme_of(text)?;
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        Some(_) | None => (rest, scheme.port()),
    };
    Some(OriginMatch {
        scheme,
        host: HostMatch::Exact(host.to_owned()),
        port,
    })
}

fn scheme_of(text: &str) -> Option<(Scheme, &str)> {
    match text.split_once("://")? {
        ("http", rest) => Some((Scheme::Http, rest)),
        ("https", rest) => Some((Scheme::Https, rest)),
        _ => None,
    }
}

/// Takes a host that holds of all such characters only dots, or is an address in brackets, by itself.
fn escaped(host: &str) -> String {
    host.replace('.', "\\.").replace('[', "\\[").replace(']', "\\]")
}

/// Takes a name, or an address in brackets.
const ANY_HOST: &str = r"([a-z0-9._-]+|\[[0-9a-f:.]+\])";

/// Takes what may stand before the end of a name.
const LABELS: &str = r"[a-z0-9._-]+\.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_so_that_they_are_read() {
        for (text, pattern) in [
            ("https://www.foo.com", r"https://www\.foo\.com(:443)?"),
            ("http://www.foo.com:443", r"http://www\.foo\.com:443"),
            ("https://[::1]:8443", r"https://\[::1\]:8443"),
            ("https://[::1]", r"https://\[::1\](:443)?"),
        ] {
            let origin = origin_of_text(text).expect(text);
            assert_eq!(origin_pattern(&origin), pattern);
            assert_eq!(origin_of_pattern(pattern), Some(origin));
        }
        for pattern in [
            r"https://[a-z0-9._-]+\.foo\.com(:443)?",
            r"http://([a-z0-9._-]+|\[[0-9a-f:.]+\]):8080",
        ] {
            assert_eq!(
                origin_of_pattern(pattern)
                    .map(|origin| origin_pattern(&origin))
                    .as_deref(),
                Some(pattern)
            );
        }
        for pattern in [
            r".*",
            r"https://www.foo\.com(:443)?",
            r"https://www\.foo\.com",
            r"https://www\.foo\.com:443",
            r"https://.*\.foo\.com(:443)?",
            r"https?://a(:443)?",
        ] {
            assert_eq!(origin_of_pattern(pattern), None, "{pattern}");
        }
        for text in ["*", "a", "ftp://a", "https://a:0", "https://a:x"] {
            assert_eq!(origin_of_text(text), None, "{text}");
        }
    }

    #[track_caller]
    fn change(prefix: &str, replacement: &str, expect: PathChange) {
        let path = PathMatch::Prefix(prefix.to_owned());
        assert_eq!(path_change(&path, &PathRewrite::Prefix(replacement.to_owned())), expect);
    }

    fn regex(pattern: &str, substitution: &str) -> PathChange {
        PathChange::Regex {
            pattern: pattern.to_owned(),
            substitution: substitution.to_owned(),
        }
    }

    #[test]
    fn a_prefix_is_replaced_so_that_one_slash_joins() {
        change("/foo", "/xyz", PathChange::Prefix("/xyz".to_owned()));
        change("/foo", "/xyz/", PathChange::Prefix("/xyz".to_owned()));
        change("/foo", "/", regex("^/foo/*", "/"));
        change("/foo", "", regex("^/foo/*", "/"));
        change("/a.b", "/", regex("^/a\\.b/*", "/"));
        change("/", "/xyz", regex("^/*", "/xyz/"));
        change("/", "/", regex("^/*", "/"));
    }

    #[test]
    fn prefixes_lose_the_slash_that_means_nothing() {
        for (prefix, expect) in [("/", "/"), ("/abc", "/abc"), ("/abc/", "/abc"), ("", "")] {
            assert_eq!(canonical_prefix(prefix), expect);
        }
    }
}
