//! Route configurations.

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::retry_policy::RetryBackOff;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, FilterConfig, HeaderMatcher, QueryParameterMatcher, RedirectAction, RetryPolicy, Route,
    RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use http::StatusCode;
use weir_policy::model;
use weir_policy::model::{BackendFilters, HeaderChanges, PathMatch, PathRewrite, RetryMethods, Scheme, ValueMatch};

use super::{cors, duration, filters, metadata, number, pack};
use crate::meaning::{METADATA_KEY, METHOD, PathChange, canonical_prefix, domain, path_change, retry_words};
use crate::v1;

/// A route configuration; also one that a listener holds itself.
pub(super) fn configuration(name: String, hosts: &[model::VirtualHost]) -> RouteConfiguration {
    RouteConfiguration {
        name,
        virtual_hosts: hosts.iter().map(virtual_host).collect(),
        // The model compares hosts without port.
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    }
}

fn virtual_host(host: &model::VirtualHost) -> VirtualHost {
    VirtualHost {
        name: host.name.clone(),
        domains: host.hosts.iter().map(domain).collect(),
        routes: host.routes.iter().map(route).collect(),
        ..VirtualHost::default()
    }
}

fn route(route: &model::Route) -> Route {
    let mut noted = None;
    let action = match &route.action {
        model::Action::Forward(forward) if forward.backends.iter().all(|backend| backend.weight == 0) => {
            let asked = forward_action(&route.matches.path, forward);
            noted = Some(metadata(&v1::NoBackend {
                route: Some(pack(&asked)),
            }));
            Action::DirectResponse(DirectResponseAction {
                status: StatusCode::INTERNAL_SERVER_ERROR.as_u16().into(),
                ..DirectResponseAction::default()
            })
        }
        model::Action::Forward(forward) => Action::Route(forward_action(&route.matches.path, forward)),
        model::Action::Redirect(redirect) => Action::Redirect(redirect_action(&route.matches.path, redirect)),
        model::Action::Respond(response) => Action::DirectResponse(direct_response(response)),
    };
    Route {
        name: route.name.clone(),
        r#match: Some(route_match(&route.matches)),
        metadata: noted,
        request_headers_to_add: header_options(&route.request_headers),
        request_headers_to_remove: removed(&route.request_headers),
        response_headers_to_add: header_options(&route.response_headers),
        response_headers_to_remove: removed(&route.response_headers),
        typed_per_filter_config: filters::of_route(route),
        action: Some(action),
        ..Route::default()
    }
}

pub(super) fn direct_response(response: &model::DirectResponse) -> DirectResponseAction {
    DirectResponseAction {
        status: response.status.as_u16().into(),
        body: (!response.body.is_empty()).then(|| DataSource {
            specifier: Some(Specifier::InlineString(response.body.clone())),
            ..DataSource::default()
        }),
        ..DirectResponseAction::default()
    }
}

pub(super) fn route_match(matches: &model::RouteMatch) -> RouteMatch {
    let path = match &matches.path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::Prefix(prefix) if prefix == "/" => PathSpecifier::Prefix(prefix.clone()),
        PathMatch::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(canonical_prefix(prefix).to_owned()),
        PathMatch::Regex(regex) => PathSpecifier::SafeRegex(regex_matcher(regex)),
    };
    let method = matches.method.iter();
    let method =
        method.map(|method| header_matcher(METHOD, string_matcher(MatchPattern::Exact(method.as_str().to_owned()))));
    let headers = matches.headers.iter();
    let headers = headers.map(|matches| header_matcher(matches.name.as_str(), value_matcher(&matches.value)));
    let query = matches.query.iter().map(|matches| QueryParameterMatcher {
        name: matches.name.clone(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(value_matcher(&matches.value))),
    });
    RouteMatch {
        path_specifier: Some(path),
        headers: method.chain(headers).collect(),
        query_parameters: query.collect(),
        ..RouteMatch::default()
    }
}

pub(super) fn header_matcher(name: &str, value: StringMatcher) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value)),
        ..HeaderMatcher::default()
    }
}

pub(super) fn forward_action(path: &PathMatch, forward: &model::Forward) -> RouteAction {
    let mut action = RouteAction {
        cluster_specifier: Some(cluster_specifier(path, &forward.backends)),
        cluster_not_found_response_code: ClusterNotFoundResponseCode::InternalServerError.into(),
        // 0 is "none"; unset would be 15 seconds.
        request_mirror_policies: forward.mirrors.iter().map(mirror).collect(),
        timeout: Some(duration(forward.timeouts.request.unwrap_or_default())),
        retry_policy: retry_policy(forward),
        host_rewrite_specifier: forward
            .rewrite
            .host
            .clone()
            .map(HostRewriteSpecifier::HostRewriteLiteral),
        ..RouteAction::default()
    };
    rewrite_path(&mut action, path, forward.rewrite.path.as_ref());
    action
}

fn rewrite_path(action: &mut RouteAction, path: &PathMatch, rewrite: Option<&PathRewrite>) {
    match rewrite.map(|rewrite| path_change(path, rewrite)) {
        Some(PathChange::Prefix(prefix)) => action.prefix_rewrite = prefix,
        Some(PathChange::Regex { pattern, substitution }) => {
            action.regex_rewrite = Some(regex_rewrite(&pattern, substitution));
        }
        None => {}
    }
}

pub(super) fn cluster_specifier(path: &PathMatch, backends: &[model::WeightedBackend]) -> ClusterSpecifier {
    match backends {
        [one] if one.weight == 1 && one.filters.is_empty() => ClusterSpecifier::Cluster(one.cluster.to_string()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several.iter().map(|backend| cluster_weight(path, backend)).collect(),
            ..WeightedCluster::default()
        }),
    }
}

fn cluster_weight(path: &PathMatch, backend: &model::WeightedBackend) -> ClusterWeight {
    let BackendFilters {
        request_headers,
        response_headers,
        rewrite,
        redirect,
        mirrors,
        cors,
    } = &backend.filters;
    // What Envoy has no field for.
    let mut route = RouteAction {
        request_mirror_policies: mirrors.iter().map(mirror).collect(),
        ..RouteAction::default()
    };
    rewrite_path(&mut route, path, rewrite.path.as_ref());
    let own = v1::BackendFilters {
        route: (route != RouteAction::default()).then(|| pack(&route)),
        redirect: redirect.as_ref().map(|redirect| pack(&redirect_action(path, redirect))),
        cors: cors.as_ref().map(cors::policy),
    };
    let optional = FilterConfig {
        config: Some(pack(&own)),
        is_optional: true,
        disabled: false,
    };
    let more = (own != v1::BackendFilters::default()).then(|| (METADATA_KEY.to_owned(), pack(&optional)));
    ClusterWeight {
        name: backend.cluster.to_string(),
        weight: Some(number(backend.weight)),
        request_headers_to_add: header_options(request_headers),
        request_headers_to_remove: removed(request_headers),
        response_headers_to_add: header_options(response_headers),
        response_headers_to_remove: removed(response_headers),
        host_rewrite_specifier: rewrite
            .host
            .clone()
            .map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        typed_per_filter_config: more.into_iter().collect(),
        ..ClusterWeight::default()
    }
}

/// The mirrors of backends, taken out of them: for clients that have them for a whole route at the most.
pub(super) fn take_mirrors(backends: &mut [model::WeightedBackend]) -> Vec<model::Mirror> {
    let mirrors = backends.iter_mut().map(|backend| &mut backend.filters.mirrors);
    mirrors.flat_map(std::mem::take).collect()
}

fn mirror(mirror: &model::Mirror) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster: mirror.cluster.to_string(),
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: mirror.parts_per_million,
                denominator: DenominatorType::Million.into(),
            }),
            runtime_key: String::new(),
        }),
        // The copy asks for the same host.
        disable_shadow_host_suffix_append: true,
        ..RequestMirrorPolicy::default()
    }
}

fn retry_policy(forward: &model::Forward) -> Option<RetryPolicy> {
    let per_try_timeout = forward.timeouts.backend_request.map(duration);
    match &forward.retry {
        Some(retry) => Some(RetryPolicy {
            retry_on: retry_words(retry),
            num_retries: Some(number(retry.attempts)),
            per_try_timeout,
            retriable_status_codes: retry.codes.iter().map(|code| code.as_u16().into()).collect(),
            retry_back_off: Some(retry_back_off(retry.backoff)),
            retriable_request_headers: match retry.methods {
                RetryMethods::Idempotent => Vec::new(),
                RetryMethods::Any => vec![every_method()],
            },
            ..RetryPolicy::default()
        }),
        // Envoy has the timeout of one attempt only here; without `retry_on` nothing is retried.
        None => per_try_timeout.map(|timeout| RetryPolicy {
            per_try_timeout: Some(timeout),
            ..RetryPolicy::default()
        }),
    }
}

/// A condition on requests to be sent again that every request fulfils. Without it a weir proxy takes the methods that
/// RFC 9110 section 9.2.2 allows, where an Envoy takes all.
fn every_method() -> HeaderMatcher {
    HeaderMatcher {
        name: METHOD.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..HeaderMatcher::default()
    }
}

pub(super) fn retry_back_off(backoff: model::Backoff) -> RetryBackOff {
    let model::Backoff { base, max } = backoff;
    RetryBackOff {
        base_interval: Some(duration(base)),
        max_interval: Some(duration(max)),
    }
}

pub(super) fn redirect_action(path: &PathMatch, redirect: &model::Redirect) -> RedirectAction {
    let code = match redirect.status {
        StatusCode::MOVED_PERMANENTLY => RedirectResponseCode::MovedPermanently.into(),
        StatusCode::FOUND => RedirectResponseCode::Found.into(),
        StatusCode::SEE_OTHER => RedirectResponseCode::SeeOther.into(),
        StatusCode::TEMPORARY_REDIRECT => RedirectResponseCode::TemporaryRedirect.into(),
        StatusCode::PERMANENT_REDIRECT => RedirectResponseCode::PermanentRedirect.into(),
        // No value of the enum, and so refused where it is read.
        other => other.as_u16().into(),
    };
    let scheme = redirect.scheme.map(|scheme| match scheme {
        Scheme::Http => SchemeRewriteSpecifier::SchemeRedirect("http".to_owned()),
        Scheme::Https => SchemeRewriteSpecifier::SchemeRedirect("https".to_owned()),
    });
    let path = redirect.path.as_ref().map(|rewrite| match rewrite {
        PathRewrite::Full(whole) => PathRewriteSpecifier::PathRedirect(whole.clone()),
        PathRewrite::Prefix(_) => match path_change(path, rewrite) {
            PathChange::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
            PathChange::Regex { pattern, substitution } => {
                PathRewriteSpecifier::RegexRewrite(regex_rewrite(&pattern, substitution))
            }
        },
    });
    RedirectAction {
        host_redirect: redirect.host.clone().unwrap_or_default(),
        port_redirect: redirect.port.map_or(0, |port| port.get().into()),
        response_code: code,
        scheme_rewrite_specifier: scheme,
        path_rewrite_specifier: path,
        ..RedirectAction::default()
    }
}

pub(super) fn header_options(changes: &HeaderChanges) -> Vec<HeaderValueOption> {
    let set = changes.set.iter();
    let set = set.map(|(name, value)| header_option(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = changes.add.iter();
    let add = add.map(|(name, value)| header_option(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

fn header_option(name: &http::HeaderName, value: &http::HeaderValue, action: HeaderAppendAction) -> HeaderValueOption {
    let mut header = HeaderValue {
        key: name.as_str().to_owned(),
        ..HeaderValue::default()
    };
    // Envoy reads a value as a format: a `%` of its own is written twice.
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => header.value = text.replace('%', "%%"),
        Err(_) => {
            let bytes = value.as_bytes().iter();
            header.raw_value = bytes
                .flat_map(|byte| std::iter::repeat_n(*byte, if *byte == b'%' { 2 } else { 1 }))
                .collect();
        }
    }
    HeaderValueOption {
        header: Some(header),
        append_action: action.into(),
        // Otherwise Envoy would drop the field.
        keep_empty_value: value.is_empty(),
        ..HeaderValueOption::default()
    }
}

pub(super) fn removed(changes: &HeaderChanges) -> Vec<String> {
    changes.remove.iter().map(|name| name.as_str().to_owned()).collect()
}

pub(super) fn value_matcher(value: &ValueMatch) -> StringMatcher {
    string_matcher(match value {
        ValueMatch::Exact(value) => MatchPattern::Exact(value.clone()),
        ValueMatch::Regex(regex) => MatchPattern::SafeRegex(regex_matcher(regex)),
    })
}

pub(super) fn string_matcher(pattern: MatchPattern) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    }
}

pub(super) fn regex_matcher(regex: &str) -> RegexMatcher {
    RegexMatcher {
        regex: regex.to_owned(),
        engine_type: None,
    }
}

fn regex_rewrite(pattern: &str, substitution: String) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(regex_matcher(pattern)),
        substitution,
    }
}
