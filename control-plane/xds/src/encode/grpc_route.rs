//! Route configurations as gRPC's clients understand them (gRFC A28: matching and weights; A31: timeouts; A36: what is
//! not forwarded; A44: retries).

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::MaxStreamDuration;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, NonForwardingAction, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use http::{Method, StatusCode};
use weir_policy::model;
use weir_policy::model::{HostMatch, PathMatch, RetryMethods, RetryOn, ValueMatch};

use super::not_sent::{Notes, PRIORITY, RouteField};
use super::route::{cluster_specifier, regex_matcher, retry_back_off, take_mirrors, value_matcher};
use super::{duration, filters, number, re2};
use crate::meaning::{canonical_prefix, domain, prefix_pattern};

/// A route configuration for the services' port, `None`: for any.
pub(super) fn configuration(
    name: String,
    hosts: &[model::VirtualHost],
    port: Option<NonZeroU16>,
    notes: &mut Notes,
) -> RouteConfiguration {
    let hosts = hosts.iter().map(|host| {
        let model::VirtualHost { name, hosts, routes } = host;
        VirtualHost {
            name: name.clone(),
            domains: hosts.iter().flat_map(|host| domains(host, port)).collect(),
            routes: routes.iter().filter_map(|one| route(one, notes)).collect(),
            ..VirtualHost::default()
        }
    });
    RouteConfiguration {
        name,
        virtual_hosts: hosts.collect(),
        ..RouteConfiguration::default()
    }
}

/// gRPC compares the whole authority, with the port if it has one (gRFC A27, "RDS"); the model compares the host alone.
fn domains(host: &HostMatch, port: Option<NonZeroU16>) -> Vec<String> {
    let plain = domain(host);
    match host {
        HostMatch::Any => vec![plain],
        HostMatch::Exact(_) => vec![format!("{plain}:*"), plain],
        HostMatch::Suffix(_) => {
            let with_port = port.map(|port| format!("{plain}:{port}"));
            with_port.into_iter().chain([plain]).collect()
        }
    }
}

fn route(route: &model::Route, notes: &mut Notes) -> Option<Route> {
    let model::Route {
        name,
        matches,
        request_headers,
        response_headers,
        // No call comes from a page.
        cors: _,
        rate_limit,
        fault: _,
        priority,
        // It is shown nowhere.
        policy: _,
        action,
    } = route;
    let matches = match route_match(matches) {
        Ok(matches) => matches?,
        Err(problem) => {
            notes.route(name, format!("{problem}; the route is left out"));
            return None;
        }
    };
    if rate_limit.is_some() {
        let problem = "limits the rate of calls, which a gRPC client can't; all are made";
        notes.route_field(name, RouteField::RateLimit, problem);
    }
    if priority.is_some() {
        notes.route_field(name, RouteField::Priority, PRIORITY);
    }
    let unforwarded = |notes: &mut Notes, problem: &str| {
        notes.route(name, format!("{problem}; its calls fail with UNAVAILABLE"));
        Action::NonForwardingAction(NonForwardingAction {})
    };
    let action = match action {
        model::Action::Redirect(_) => unforwarded(notes, "redirects, which a gRPC client does not follow"),
        model::Action::Respond(_) => unforwarded(notes, "answers by itself, which a gRPC client can't"),
        // Answered with an error by every client.
        model::Action::Forward(forward) if forward.backends.iter().all(|backend| backend.weight == 0) => {
            Action::NonForwardingAction(NonForwardingAction {})
        }
        model::Action::Forward(_) if !request_headers.is_empty() || !response_headers.is_empty() => {
            unforwarded(notes, "changes headers, which a gRPC client can't")
        }
        model::Action::Forward(forward) if forward.rewrite != model::Rewrite::default() => {
            unforwarded(notes, "rewrites, which a gRPC client can't")
        }
        model::Action::Forward(forward) if forward.backends.iter().any(changes) => unforwarded(
            notes,
            "changes the calls for one of its backends, which a gRPC client can't",
        ),
        model::Action::Forward(forward) => Action::Route(forward_action(route, forward, notes)),
    };
    Some(Route {
        name: name.clone(),
        r#match: Some(matches),
        typed_per_filter_config: filters::fault_of_route(route).into_iter().collect(),
        action: Some(action),
        ..Route::default()
    })
}

/// A route's conditions on calls, which are POST with a path of `/service/method` and no query; `None`: no call can
/// fulfil them.
///
/// # Errors
/// Why a client could not tell.
fn route_match(matches: &model::RouteMatch) -> Result<Option<RouteMatch>, &'static str> {
    let model::RouteMatch {
        path,
        method,
        headers,
        query,
    } = matches;
    if method.as_ref().is_some_and(|method| method != Method::POST) || !query.is_empty() {
        return Ok(None);
    }
    let path = match path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::Regex(regex) => match re2::refuses(regex) {
            Some(problem) => return Err(problem),
            None => PathSpecifier::SafeRegex(regex_matcher(regex)),
        },
        PathMatch::Prefix(prefix) => path_prefix(canonical_prefix(prefix)),
    };
    let mut written = Vec::new();
    for header in headers {
        let model::HeaderMatch { name, value } = header;
        if is_hidden(name.as_str()) {
            return Err("has a condition on a field that a gRPC client does not show to its routes");
        }
        if let ValueMatch::Regex(regex) = value
            && let Some(problem) = re2::refuses(regex)
        {
            return Err(problem);
        }
        written.push(HeaderMatcher {
            name: name.as_str().to_owned(),
            // gRFC A63.
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value_matcher(value))),
            ..HeaderMatcher::default()
        });
    }
    Ok(Some(RouteMatch {
        path_specifier: Some(path),
        headers: written,
        ..RouteMatch::default()
    }))
}

/// gRPC has no prefix of whole segments. `/package.Service` is a whole one if a `/` is put behind it, since each call
/// has a method; what is longer goes as an expression.
fn path_prefix(prefix: &str) -> PathSpecifier {
    match prefix.matches('/').count() {
        _ if prefix == "/" => PathSpecifier::Prefix("/".to_owned()),
        1 => PathSpecifier::Prefix(format!("{prefix}/")),
        _ => {
            let pattern = prefix_pattern(prefix);
            let whole = pattern.strip_suffix("/*").unwrap_or(&pattern);
            PathSpecifier::SafeRegex(regex_matcher(&format!("{whole}(/.*)?")))
        }
    }
}

/// Fields that gRPC does not match on (gRFC A28, "Header matching"): binary ones, and those it makes itself later.
fn is_hidden(name: &str) -> bool {
    matches!(name, "host" | "user-agent" | "te") || name.starts_with("grpc-") || name.ends_with("-bin")
}

/// Whether calls for this backend are changed or redirected.
fn changes(backend: &model::WeightedBackend) -> bool {
    let model::BackendFilters {
        request_headers,
        response_headers,
        rewrite,
        redirect,
        mirrors: _,
        cors: _,
    } = &backend.filters;
    let headers = !request_headers.is_empty() || !response_headers.is_empty();
    headers || *rewrite != model::Rewrite::default() || redirect.is_some()
}

fn forward_action(route: &model::Route, forward: &model::Forward, notes: &mut Notes) -> RouteAction {
    let model::Forward {
        backends,
        mirrors,
        rewrite: _,
        timeouts,
        retry,
    } = forward;
    let mut backends = backends.clone();
    let of_backends = take_mirrors(&mut backends);
    for backend in &mut backends {
        backend.filters.cors = None;
    }
    if !(mirrors.is_empty() && of_backends.is_empty()) {
        notes.route_field(
            &route.name,
            RouteField::Mirror,
            "copies calls, which a gRPC client can't; none are sent",
        );
    }
    // A call is POST: it is sent again only by a route that says POST by name, or any method (model::RetryPolicy).
    let names_post = route.matches.method.is_some();
    let retry = retry
        .as_ref()
        .filter(|retry| names_post || retry.methods == RetryMethods::Any);
    let longest = match (timeouts.request, timeouts.backend_request, retry) {
        (request, None, _) => request,
        // Without retries there is one attempt.
        (request, Some(attempt), None) => Some(request.map_or(attempt, |request| request.min(attempt))),
        (request, Some(_), Some(_)) => {
            notes.route_field(
                &route.name,
                RouteField::Retry,
                "has a timeout for one attempt, which a gRPC client does not know",
            );
            request
        }
    };
    RouteAction {
        cluster_specifier: Some(cluster_specifier(&route.matches.path, &backends)),
        max_stream_duration: longest.map(|longest| MaxStreamDuration {
            max_stream_duration: Some(duration(longest)),
            ..MaxStreamDuration::default()
        }),
        retry_policy: retry.and_then(|retry| retry_policy(&route.name, retry, notes)),
        ..RouteAction::default()
    }
}

fn retry_policy(name: &str, retry: &model::RetryPolicy, notes: &mut Notes) -> Option<RetryPolicy> {
    let model::RetryPolicy {
        attempts,
        on,
        codes,
        backoff,
        methods: _,
    } = retry;
    // gRPC refuses a policy of none.
    if *attempts == 0 {
        return None;
    }
    if *attempts > ATTEMPTS_MAX {
        notes.route_field(
            name,
            RouteField::Retry,
            "sends again more than 4 times, which is the most of a gRPC client",
        );
    }
    if !codes.iter().all(is_unavailable) || on.contains(&RetryOn::ServerError) {
        notes.route_field(
            name,
            RouteField::Retry,
            "sends again on statuses that a gRPC client does not take for UNAVAILABLE",
        );
    }
    // What has no answer is UNAVAILABLE to a gRPC client, as these statuses are.
    let mut words: BTreeSet<RetryOn> = on.iter().map(|word| as_grpc(*word)).collect();
    words.extend(codes.iter().any(is_unavailable).then_some(RetryOn::Unavailable));
    if words.contains(&RetryOn::Unavailable) && !on.contains(&RetryOn::Unavailable) {
        notes.route_field(
            name,
            RouteField::Retry,
            "sends again what to a gRPC client is UNAVAILABLE, so that it also sends again what the app itself ends with \
             UNAVAILABLE",
        );
    }
    let words: Vec<&str> = words.into_iter().map(RetryOn::word).collect();
    // One without words it would refuse.
    if words.is_empty() {
        return None;
    }
    Some(RetryPolicy {
        retry_on: words.join(","),
        num_retries: Some(number(*attempts)),
        retry_back_off: (!backoff.base.is_zero()).then(|| retry_back_off(*backoff)),
        ..RetryPolicy::default()
    })
}

/// The word in its place, of those that a gRPC client knows (gRFC A44).
fn as_grpc(word: RetryOn) -> RetryOn {
    match word {
        RetryOn::ServerError
        | RetryOn::GatewayError
        | RetryOn::Reset
        | RetryOn::ConnectFailure
        | RetryOn::RefusedStream => RetryOn::Unavailable,
        RetryOn::Cancelled
        | RetryOn::DeadlineExceeded
        | RetryOn::Internal
        | RetryOn::ResourceExhausted
        | RetryOn::Unavailable => word,
    }
}

/// gRPC, "HTTP to gRPC Status Code Mapping".
fn is_unavailable(status: &StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// gRFC A6, "maxAttempts": five, with the first.
const ATTEMPTS_MAX: u32 = 4;
