//! Virtual hosts and routes in Envoy's terms.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{RetryHostPredicate, retry_host_predicate};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, RetryPolicy, Route, RouteAction, RouteMatch, VirtualHost,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use weir_policy::model;
use weir_policy::model::{
    BackendFilters, HeaderChanges, HostMatch, PathMatch, RetryMethods, RetryOn, Scheme, ValueMatch,
};
use weir_policy::retry::UNPROCESSED_RESENDS_MAX;

use super::not_sent::{Notes, PRIORITY, RouteField};
use super::route::{
    direct_response, forward_action, header_matcher, header_options, redirect_action, regex_matcher, removed,
    retry_back_off, route_match, string_matcher, take_mirrors,
};
use super::{duration, envoy_cors, filters, number, pack, re2};
use crate::meaning::{METHOD, RATE_LIMIT_FILTER, retry_words};

/// The virtual hosts that requests for these names use. A name that none of `hosts` takes has one without routes, which
/// answers 404.
pub(super) fn hosts(
    names: &[String],
    hosts: &[model::VirtualHost],
    buckets: &mut Buckets,
    notes: &mut Notes,
) -> Vec<VirtualHost> {
    let mut by_host: BTreeMap<Option<usize>, Vec<String>> = BTreeMap::new();
    for name in names {
        by_host.entry(host_of(name, hosts)).or_default().push(name.clone());
    }
    let hosts = by_host.into_iter().map(|(at, domains)| {
        let routes = at.and_then(|at| hosts.get(at)).map(|host| {
            let model::VirtualHost {
                name: _,
                hosts: _,
                routes,
            } = host;
            let routes = routes.iter().flat_map(|one| {
                let written = route(one, notes);
                buckets.count(one, &written);
                written
            });
            routes.collect()
        });
        VirtualHost {
            // Names of virtual hosts have to differ, and domains do.
            name: domains.first().cloned().unwrap_or_default(),
            domains,
            routes: routes.unwrap_or_default(),
            ..VirtualHost::default()
        }
    });
    hosts.collect()
}

/// Of each limit of rates, by its name, how many an Envoy keeps: one for each of its routes. To Weir they are one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets(BTreeMap<String, Limited>);

#[derive(Clone, Debug, PartialEq)]
struct Limited {
    /// The first route of the model that has it.
    route: String,
    /// How many of Envoy's do.
    routes: usize,
}

impl Buckets {
    fn count(&mut self, route: &model::Route, written: &[Route]) {
        let Some(limit) = &route.rate_limit else { return };
        let limited = |route: &&Route| route.typed_per_filter_config.contains_key(RATE_LIMIT_FILTER);
        self.add(&limit.name, &route.name, written.iter().filter(limited).count());
    }

    fn add(&mut self, name: &str, route: &str, routes: usize) {
        let limited = self.0.entry(name.to_owned()).or_insert_with(|| Limited {
            route: route.to_owned(),
            routes: 0,
        });
        limited.routes += routes;
    }

    /// Counts those of others too.
    pub(super) fn extend(&mut self, others: &Buckets) {
        for (name, Limited { route, routes }) in &others.0 {
            self.add(name, route, *routes);
        }
    }

    /// Says which of these are several at an Envoy that has `all`, of which these are a part.
    pub(super) fn note(&self, all: &Buckets, notes: &mut Notes) {
        for (name, Limited { route, .. }) in &self.0 {
            let routes = all.0.get(name).map_or(0, |limited| limited.routes);
            if routes > 1 {
                let problem = format!(
                    "has a limit of the rate that Envoy keeps for each of its {routes} routes: up to {routes} times as \
                     many requests come through"
                );
                notes.route_field(route, RouteField::RateLimit, problem);
            }
        }
    }
}

/// The virtual host of an app behind an Envoy: it takes everything.
pub(super) fn to_app(cluster: String) -> VirtualHost {
    virtual_host(
        "app",
        Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
            // 0 is "none"; unset would be 15 seconds.
            timeout: Some(duration(std::time::Duration::ZERO)),
            retry_policy: Some(unprocessed_again()),
            ..RouteAction::default()
        }),
    )
}

/// The virtual host of every name that is no service.
pub(super) fn unknown_service() -> VirtualHost {
    let text = "this name is no service of the mesh that this Envoy was given\n";
    virtual_host("unknown", Action::DirectResponse(answer(StatusCode::BAD_GATEWAY, text)))
}

/// The longest text that a route answers with, in bytes.
pub(super) fn longest_text(host: &VirtualHost) -> usize {
    let texts = host.routes.iter().filter_map(|route| match &route.action {
        Some(Action::DirectResponse(response)) => response.body.as_ref(),
        _ => None,
    });
    let texts = texts.filter_map(|body| match &body.specifier {
        Some(Specifier::InlineString(text)) => Some(text.len()),
        _ => None,
    });
    texts.max().unwrap_or(0)
}

fn virtual_host(name: &str, action: Action) -> VirtualHost {
    let every_path = RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    };
    VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![Route {
            name: name.to_owned(),
            r#match: Some(every_path),
            action: Some(action),
            ..Route::default()
        }],
        ..VirtualHost::default()
    }
}

/// The most specific host that takes a name (model::VirtualHost), compared without port.
fn host_of(name: &str, hosts: &[model::VirtualHost]) -> Option<usize> {
    let name = name.split_once(':').map_or(name, |(host, _)| host);
    let rank = |host: &HostMatch| match host {
        HostMatch::Exact(exact) => (exact == name).then_some((2, exact.len())),
        HostMatch::Suffix(suffix) => {
            let labels = name.strip_suffix(suffix.as_str())?.strip_suffix('.')?;
            (!labels.is_empty()).then_some((1, suffix.len()))
        }
        HostMatch::Any => Some((0, 0)),
    };
    let ranked = hosts.iter().enumerate().filter_map(|(at, host)| {
        let best = host.hosts.iter().filter_map(rank).max()?;
        Some((best, at))
    });
    ranked.max().map(|(_, at)| at)
}

/// A route; two of them where methods differ in what is sent again.
fn route(route: &model::Route, notes: &mut Notes) -> Vec<Route> {
    let model::Route {
        name,
        matches,
        request_headers,
        response_headers,
        cors,
        rate_limit: _,
        fault: _,
        priority,
        // It is shown nowhere.
        policy: _,
        action,
    } = route;
    if let Some(problem) = unreadable(matches) {
        notes.route(name, format!("{problem}; the route is left out"));
        return Vec::new();
    }
    if priority.is_some() {
        notes.route_field(name, RouteField::Priority, PRIORITY);
    }
    let written = Route {
        name: name.clone(),
        r#match: Some(route_match(matches)),
        request_headers_to_add: header_options(request_headers),
        request_headers_to_remove: removed(request_headers),
        response_headers_to_add: header_options(response_headers),
        response_headers_to_remove: removed(response_headers),
        typed_per_filter_config: filters::of_route_but_cors(route),
        ..Route::default()
    };
    let with = |action| Route {
        action: Some(action),
        ..written.clone()
    };
    let problem = if !is_text(request_headers) || !is_text(response_headers) {
        Some("writes a header that is no text, which Envoy can't; it answers 500")
    } else {
        beyond_envoy(action)
    };
    if let Some(problem) = problem {
        notes.route(name, problem);
        let text = "this route can't be carried out by Envoy\n";
        let failed = Action::DirectResponse(answer(StatusCode::INTERNAL_SERVER_ERROR, text));
        return vec![Route {
            name: name.clone(),
            r#match: Some(route_match(matches)),
            action: Some(failed),
            ..Route::default()
        }];
    }
    match action {
        model::Action::Redirect(redirect) => {
            envoy_cors::note_own_answer(name, cors.as_ref(), notes);
            let mut action = redirect_action(&matches.path, redirect);
            // Envoy would keep the port that was asked for beside the new scheme.
            if let (Some(scheme), None) = (redirect.scheme, redirect.port) {
                action.port_redirect = match scheme {
                    Scheme::Http => 80,
                    Scheme::Https => 443,
                };
            }
            vec![with(Action::Redirect(action))]
        }
        model::Action::Respond(response) => {
            envoy_cors::note_own_answer(name, cors.as_ref(), notes);
            vec![with(Action::DirectResponse(direct_response(response)))]
        }
        model::Action::Forward(forward) if forward.backends.iter().all(|backend| backend.weight == 0) => {
            envoy_cors::note_own_answer(name, cors.as_ref(), notes);
            let status = if takes_calls_alone(matches) {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            };
            vec![with(Action::DirectResponse(answer(status, "")))]
        }
        model::Action::Forward(forward) => {
            let mut forward = without_mirrors_of_backends(name, forward, notes);
            let policies = envoy_cors::Policies::take(cors.as_ref(), &mut forward.backends);
            policies.note(name, notes);
            let forward = &forward;
            let sent = |retry: RetryPolicy| {
                let mut action = forward_action(&matches.path, forward);
                if takes_calls_alone(matches) {
                    action.cluster_not_found_response_code = ClusterNotFoundResponseCode::ServiceUnavailable.into();
                }
                action.retry_policy = Some(RetryPolicy {
                    per_try_timeout: forward.timeouts.backend_request.map(duration),
                    ..retry
                });
                let mut route = with(Action::Route(action));
                policies.write(&mut route);
                route
            };
            // Without attempts of its own it is as without: Envoy counts those for what is unprocessed among them.
            let retry = forward.retry.as_ref().filter(|retry| retry.attempts > 0);
            match (retry, &matches.method) {
                (None, _) => vec![sent(unprocessed_again())],
                (Some(retry), Some(_)) => vec![sent(again(retry))],
                (Some(retry), None) if retry.methods == RetryMethods::Any => vec![sent(again(retry))],
                // Of methods that are not named only idempotent ones are sent again (model::RetryPolicy).
                (Some(retry), None) => {
                    let mut idempotent = sent(again(retry));
                    if let Some(matches) = &mut idempotent.r#match {
                        matches.headers.insert(0, is_idempotent());
                    }
                    vec![idempotent, sent(unprocessed_again())]
                }
            }
        }
    }
}

/// Whether a route is for gRPC calls, which a 503 of Envoy's own ends with UNAVAILABLE; a 500 is UNKNOWN to them.
fn takes_calls_alone(matches: &model::RouteMatch) -> bool {
    let mut headers = matches.headers.iter();
    headers.any(|header| match &header.value {
        ValueMatch::Exact(value) | ValueMatch::Regex(value) => {
            header.name == CONTENT_TYPE && value.starts_with("application/grpc") && !value.contains('|')
        }
    })
}

/// Why Envoy would not read these conditions as Weir does.
fn unreadable(matches: &model::RouteMatch) -> Option<&'static str> {
    let model::RouteMatch {
        path,
        method: _,
        headers,
        query,
    } = matches;
    let path = match path {
        PathMatch::Regex(regex) => Some(regex),
        PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
    };
    let values = headers.iter().map(|header| &header.value);
    let values = values.chain(query.iter().map(|parameter| &parameter.value));
    let regexes = values.filter_map(|value| match value {
        ValueMatch::Regex(regex) => Some(regex),
        ValueMatch::Exact(_) => None,
    });
    regexes.chain(path).find_map(|regex| re2::refuses(regex))
}

/// What of a route's backends Envoy has no field for, and that can't be left out.
fn beyond_envoy(action: &model::Action) -> Option<&'static str> {
    let model::Action::Forward(forward) = action else {
        return None;
    };
    let mut filters = forward.backends.iter().map(|backend| &backend.filters);
    filters.find_map(|filters| {
        let BackendFilters {
            request_headers,
            response_headers,
            rewrite,
            redirect,
            mirrors: _,
            cors: _,
        } = filters;
        if redirect.is_some() {
            return Some("redirects for one of its backends, which Envoy can't; it answers 500");
        }
        if rewrite.path.is_some() {
            return Some("rewrites the path for one of its backends, which Envoy can't; it answers 500");
        }
        let is_text = is_text(request_headers) && is_text(response_headers);
        (!is_text).then_some("writes a header that is no text, which Envoy can't; it answers 500")
    })
}

fn without_mirrors_of_backends(name: &str, forward: &model::Forward, notes: &mut Notes) -> model::Forward {
    let mut forward = forward.clone();
    if !take_mirrors(&mut forward.backends).is_empty() {
        notes.route(
            name,
            "copies the requests for one of its backends, which Envoy can't; none are sent",
        );
    }
    forward
}

fn is_text(changes: &HeaderChanges) -> bool {
    let mut values = changes.set.iter().chain(&changes.add);
    values.all(|(_, value)| std::str::from_utf8(value.as_bytes()).is_ok())
}

fn answer(status: StatusCode, text: &str) -> DirectResponseAction {
    DirectResponseAction {
        status: status.as_u16().into(),
        body: (!text.is_empty()).then(|| DataSource {
            specifier: Some(Specifier::InlineString(text.to_owned())),
            ..DataSource::default()
        }),
        ..DirectResponseAction::default()
    }
}

fn is_idempotent() -> HeaderMatcher {
    let methods = MatchPattern::SafeRegex(regex_matcher("DELETE|GET|HEAD|OPTIONS|PUT|TRACE"));
    header_matcher(METHOD, string_matcher(methods))
}

/// What is provably unprocessed is sent again, whatever the route says.
fn unprocessed_again() -> RetryPolicy {
    RetryPolicy {
        retry_on: UNPROCESSED.join(","),
        num_retries: Some(number(UNPROCESSED_RESENDS_MAX)),
        ..elsewhere()
    }
}

fn again(retry: &model::RetryPolicy) -> RetryPolicy {
    let model::RetryPolicy {
        attempts,
        on,
        codes,
        backoff,
        methods: _,
    } = retry;
    // Each of these takes in all that is unprocessed.
    let unanswered = [RetryOn::ServerError, RetryOn::GatewayError, RetryOn::Reset];
    let mut words = retry_words(retry);
    if !unanswered.iter().any(|word| on.contains(word)) {
        for word in UNPROCESSED {
            words.extend([",", word]);
        }
    }
    RetryPolicy {
        retry_on: words,
        num_retries: Some(number(*attempts)),
        retriable_status_codes: codes.iter().map(|code| code.as_u16().into()).collect(),
        retry_back_off: (!backoff.base.is_zero()).then(|| retry_back_off(*backoff)),
        ..elsewhere()
    }
}

/// To another endpoint, if there is one.
fn elsewhere() -> RetryPolicy {
    RetryPolicy {
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack(
                &PreviousHostsPredicate::default(),
            ))),
        }],
        host_selection_retry_max_attempts: HOSTS_TRIED_MAX,
        ..RetryPolicy::default()
    }
}

/// Envoy's words for it.
const UNPROCESSED: [&str; 3] = ["connect-failure", "refused-stream", "reset-before-request"];
/// So often another endpoint is looked for: Envoy's documentation advises three to five.
const HOSTS_TRIED_MAX: i64 = 5;
