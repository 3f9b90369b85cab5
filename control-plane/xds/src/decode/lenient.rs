//! For control planes that are not Weir's: what they set and Weir does nothing by is taken out of a message, each by
//! name, and said; what is left is read as strictly as ever. So whatever is not named here is refused, above all what
//! has to do with security: transport sockets, filters that authorize, conditions, limits that others rely on.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{LbConfig, LbPolicy};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::health_check::HealthChecker;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, HealthCheck, HealthStatus, Http2ProtocolOptions, Metadata,
    RoutingPriority,
};
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier};
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use prost::{Message, Name};
use weir_policy::health_check::JITTER_PERCENT;
use weir_policy::model::{AppProtocol, Balancing, RetryBudget, RetryOn};

use super::at::{At, Held as _};
use crate::encode;
use crate::meaning::{FAULT_FILTER, HTTP_OPTIONS, METADATA_KEY, RETRIABLE_STATUS_CODES, ROUTER_FILTER};
use crate::type_url::ResourceType;

/// A message that [`super::decode`] may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Softened {
    /// The message.
    pub message: Any,
    /// The places of what was taken out or adapted, in no order that means anything. Not among them is what stays as it
    /// was in other words, and what is for people only: names of routes, prefixes of statistics.
    pub skipped: Vec<String>,
}

/// Takes out what Weir does nothing by. What can't be read is left as it is, to be refused.
pub fn soften(kind: ResourceType, any: &Any) -> Softened {
    match kind {
        ResourceType::Listener => changed(any, listener),
        ResourceType::Route => changed(any, |message, skipped| configuration(&At::ROOT, message, skipped)),
        ResourceType::Cluster => changed(any, cluster),
        ResourceType::Endpoints => changed(any, endpoints),
        // Nobody but Weir hands these out.
        ResourceType::WorkloadPolicy | ResourceType::TrustRoots => Softened {
            message: any.clone(),
            skipped: Vec::new(),
        },
    }
}

/// Places.
type Skipped = Vec<String>;

/// Unsets fields, and notes those that were set.
macro_rules! skip {
    ($skipped:expr, $at:expr, $message:expr, $($field:ident),* $(,)?) => {
        $(if std::mem::take(&mut $message.$field).held().is_some() {
            $skipped.push($at.field(stringify!($field)).to_string());
        })*
    };
}

/// Sets fields, and notes those that held something else.
macro_rules! adapt {
    ($skipped:expr, $at:expr, $message:expr, $($field:ident: $value:expr),* $(,)?) => {
        $({
            let before = std::mem::take(&mut $message.$field);
            $message.$field = $value;
            if $message.$field != before {
                $skipped.push($at.field(stringify!($field)).to_string());
            }
        })*
    };
}

fn changed<M: Message + Name + Default>(any: &Any, change: impl FnOnce(&mut M, &mut Skipped)) -> Softened {
    let mut skipped = Vec::new();
    let message = repacked(&At::ROOT, any, &mut skipped, change);
    Softened {
        message: message.unwrap_or_else(|| any.clone()),
        skipped,
    }
}

fn repacked<M: Message + Name + Default>(
    at: &At<'_>,
    any: &Any,
    skipped: &mut Skipped,
    change: impl FnOnce(&mut M, &mut Skipped),
) -> Option<Any> {
    let mut message = M::decode(any.value.as_slice())
        .ok()
        .filter(|_| any.type_url == M::type_url())?;
    if message.encoded_len() < any.value.len() {
        skipped.push(
            format!("{at}: a field that is newer than this program")
                .trim_start_matches(": ")
                .to_owned(),
        );
    }
    change(&mut message, skipped);
    Some(Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    })
}

fn listener(message: &mut Listener, skipped: &mut Skipped) {
    let at = At::ROOT;
    skip!(
        skipped,
        at,
        message,
        address,
        stat_prefix,
        stats_matcher,
        metadata,
        access_log,
        traffic_direction,
        per_connection_buffer_limit_bytes,
        drain_type,
        reuse_port,
        enable_reuse_port,
        tcp_backlog_size,
    );
    let name = message.name.clone();
    let at = at.field("api_listener");
    let Some(any) = message.api_listener.as_mut().and_then(|api| api.api_listener.as_mut()) else {
        return;
    };
    let at = at.field("api_listener");
    if let Some(manager) = repacked(&at, any, skipped, |message, skipped| {
        manager(&at, &name, message, skipped)
    }) {
        *any = manager;
    }
}

fn manager(at: &At<'_>, listener: &str, message: &mut HttpConnectionManager, skipped: &mut Skipped) {
    skip!(
        skipped,
        at,
        message,
        codec_type,
        add_user_agent,
        tracing,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        server_name,
        server_header_transformation,
        stream_idle_timeout,
        request_timeout,
        request_headers_timeout,
        drain_timeout,
        delayed_close_timeout,
        access_log,
        access_log_flush_interval,
        flush_access_log_on_new_request,
        access_log_options,
        use_remote_address,
        generate_request_id,
        preserve_external_request_id,
        always_set_request_id_in_response,
        via,
        proxy_100_continue,
        upgrade_configs,
        stream_error_on_invalid_http_message,
        request_id_extension,
        strip_trailing_host_dot,
    );
    // For people only.
    listener.clone_into(&mut message.stat_prefix);
    let at_filters = at.field("http_filters");
    message.http_filters.retain(|filter| match fault_config(filter) {
        // What routes say to it is in force without it.
        Some(own) if own.value.is_empty() => false,
        _ if !is_optional(filter) => true,
        Some(_) => {
            skipped.push(format!(
                "{at_filters}: {:?}, where routes say nothing to it",
                filter.name
            ));
            false
        }
        None => {
            skipped.push(format!("{at_filters}: {:?}", filter.name));
            false
        }
    });
    for (i, filter) in message.http_filters.iter_mut().enumerate() {
        let Some(http_filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else {
            continue;
        };
        if any.type_url == Router::type_url() {
            ROUTER_FILTER.clone_into(&mut filter.name);
            if !any.value.is_empty() {
                skipped.push(at_filters.index(i).field("typed_config").to_string());
                any.value.clear();
            }
        }
    }
    match &mut message.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => {
            source(
                &at.field("rds").field("config_source"),
                rds.config_source.as_mut(),
                skipped,
            );
        }
        Some(RouteSpecifier::RouteConfig(inline)) => {
            listener.clone_into(&mut inline.name);
            configuration(&at.field("route_config"), inline, skipped);
        }
        Some(RouteSpecifier::ScopedRoutes(_)) | None => {}
    }
}

/// Whether a filter may be left out: its control plane says so, and it is none that authorizes.
fn is_optional(filter: &HttpFilter) -> bool {
    let type_url = match &filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(any)) => any.type_url.as_str(),
        Some(http_filter::ConfigType::ConfigDiscovery(_)) | None => "",
    };
    let guards = |word: &&str| type_url.contains(*word) || filter.name.contains(*word);
    (filter.is_optional || filter.disabled) && !GUARDS.iter().any(guards)
}

/// What the filter for faults, under the name by which routes mean it, does by itself.
fn fault_config(filter: &HttpFilter) -> Option<&Any> {
    match &filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(any)) => {
            (filter.name == FAULT_FILTER && any.type_url == HttpFault::type_url()).then_some(any)
        }
        Some(http_filter::ConfigType::ConfigDiscovery(_)) | None => None,
    }
}

/// In the names and types of filters that decide who may do what.
const GUARDS: [&str; 11] = [
    "rbac",
    "jwt",
    "auth",
    "oauth",
    "csrf",
    "api_key",
    "credential",
    "cors",
    "rate",
    "ext_proc",
    "wasm",
];

fn source(at: &At<'_>, source: Option<&mut ConfigSource>, skipped: &mut Skipped) {
    let Some(source) = source else { return };
    skip!(skipped, at, source, initial_fetch_timeout);
    if source.resource_api_version == i32::from(ApiVersion::Auto) {
        source.resource_api_version = ApiVersion::V3.into();
    }
    // The source of this message is the stream.
    if let Some(ConfigSourceSpecifier::Self_(_)) = source.config_source_specifier {
        source.config_source_specifier = Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {}));
    }
}

fn configuration(at: &At<'_>, message: &mut RouteConfiguration, skipped: &mut Skipped) {
    skip!(
        skipped,
        at,
        message,
        validate_clusters,
        max_direct_response_body_size_bytes,
        metadata,
        most_specific_header_mutations_wins,
    );
    let by_host = std::mem::replace(&mut message.ignore_port_in_host_matching, true);
    for (i, host) in message.virtual_hosts.iter_mut().enumerate() {
        let at = at.field("virtual_hosts");
        virtual_host(&at.index(i), host, skipped);
        if !by_host {
            without_ports(&at.index(i), &mut host.domains, skipped);
        }
    }
}

/// The model compares hosts alone; what differed by the port is the same then.
fn without_ports(at: &At<'_>, domains: &mut Vec<String>, skipped: &mut Skipped) {
    let mut seen = BTreeSet::new();
    let at = at.field("domains");
    domains.retain_mut(|domain| {
        if let Some((host, port)) = domain.rsplit_once(':')
            && (port == "*" || port.bytes().all(|b| b.is_ascii_digit()))
        {
            skipped.push(format!("{at}: {domain:?}, its port"));
            *domain = host.to_owned();
        }
        seen.insert(domain.clone())
    });
}

fn virtual_host(at: &At<'_>, message: &mut VirtualHost, skipped: &mut Skipped) {
    skip!(
        skipped,
        at,
        message,
        virtual_clusters,
        include_request_attempt_count,
        include_attempt_count_in_response,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        metadata,
    );
    if message.name.is_empty() {
        message.name = message.domains.first().cloned().unwrap_or_default();
    }
    let mut names = BTreeSet::new();
    for (i, route) in message.routes.iter_mut().enumerate() {
        // For people; but each its own.
        if route.name.is_empty() || !names.insert(route.name.clone()) {
            route.name = format!("{}#{i}", message.name);
            names.insert(route.name.clone());
        }
        let at = at.field("routes");
        self::route(&at.index(i), route, skipped);
    }
}

fn route(at: &At<'_>, message: &mut Route, skipped: &mut Skipped) {
    skip!(
        skipped,
        at,
        message,
        decorator,
        tracing,
        stat_prefix,
        per_request_buffer_limit_bytes
    );
    foreign_metadata(&at.field("metadata"), &mut message.metadata, skipped);
    for header in message.r#match.iter_mut().flat_map(|matches| &mut matches.headers) {
        by_string(header);
    }
    if let Some(Action::Route(action)) = &mut message.action {
        route_action(&at.field("route"), action, skipped);
    }
}

/// The same condition, as it is written today.
fn by_string(header: &mut HeaderMatcher) {
    let pattern = match header.header_match_specifier.take() {
        Some(HeaderMatchSpecifier::ExactMatch(text)) => MatchPattern::Exact(text),
        Some(HeaderMatchSpecifier::SafeRegexMatch(regex)) => MatchPattern::SafeRegex(regex),
        other => {
            header.header_match_specifier = other;
            return;
        }
    };
    header.header_match_specifier = Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    }));
}

fn route_action(at: &At<'_>, message: &mut RouteAction, skipped: &mut Skipped) {
    skip!(
        skipped,
        at,
        message,
        idle_timeout,
        flush_timeout,
        priority,
        hash_policy,
        upgrade_configs,
        max_grpc_timeout,
        grpc_timeout_offset,
        max_stream_duration,
        hedge_policy,
    );
    adapt!(
        skipped,
        at,
        message,
        cluster_not_found_response_code: ClusterNotFoundResponseCode::InternalServerError.into(),
    );
    if let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut message.cluster_specifier {
        let at = at.field("weighted_clusters");
        skip!(skipped, at, weighted, total_weight, runtime_key_prefix);
    }
    if let Some(retry) = &mut message.retry_policy {
        retry_policy(&at.field("retry_policy"), retry, skipped);
    }
}

/// Envoy's words that Weir has too stay. `reset-before-request` goes without a word, since that is sent again anyway.
fn retry_policy(at: &At<'_>, message: &mut RetryPolicy, skipped: &mut Skipped) {
    skip!(
        skipped,
        at,
        message,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        rate_limited_retry_back_off,
        retriable_headers,
        refresh_cluster_on_retry,
    );
    let asked = std::mem::take(&mut message.retry_on);
    let mut words: BTreeSet<&str> = asked
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect();
    if !words.contains(RETRIABLE_STATUS_CODES) {
        message.retriable_status_codes.clear();
    }
    if words.remove("retriable-4xx") {
        message.retriable_status_codes.push(409);
    }
    words.remove("reset-before-request");
    words.remove(RETRIABLE_STATUS_CODES);
    let (mut known, left_out): (Vec<&str>, Vec<&str>) =
        words.into_iter().partition(|word| RetryOn::of_word(word).is_some());
    known.extend((!message.retriable_status_codes.is_empty()).then_some(RETRIABLE_STATUS_CODES));
    message.retry_on = known.join(",");
    if known.is_empty() {
        message.num_retries = None;
        message.retry_back_off = None;
    }
    let left_out = left_out.into_iter();
    skipped.extend(left_out.map(|word| format!("{}: {word:?}", at.field("retry_on"))));
}

fn cluster(message: &mut Cluster, skipped: &mut Skipped) {
    let at = &At::ROOT;
    skip!(
        skipped,
        at,
        message,
        alt_stat_name,
        stats_matcher,
        per_connection_buffer_limit_bytes,
        common_http_protocol_options,
        dns_refresh_rate,
        dns_lookup_family,
        respect_dns_ttl,
        wait_for_warm_on_init,
        cleanup_interval,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        track_cluster_stats,
        preconnect_policy,
    );
    match &mut message.lb_config {
        // Slow start is there.
        Some(LbConfig::LeastRequestLbConfig(config)) if config.slow_start_config.is_some() => {
            let at = at.field("least_request_lb_config");
            skip!(skipped, at, config, choice_count, active_request_bias);
        }
        Some(LbConfig::RoundRobinLbConfig(config)) if config.slow_start_config.is_some() => {}
        _ => skip!(skipped, at, message, lb_config),
    }
    if let Some(eds) = &mut message.eds_cluster_config {
        source(
            &at.field("eds_cluster_config").field("eds_config"),
            eds.eds_config.as_mut(),
            skipped,
        );
    }
    if let Some(breakers) = &mut message.circuit_breakers {
        let at = at.field("circuit_breakers");
        skip!(skipped, at, breakers, per_host_thresholds);
        let at = at.field("thresholds");
        // Weir has one priority.
        let default = i32::from(RoutingPriority::Default);
        breakers.thresholds.retain(|threshold| {
            let other = threshold.priority != default;
            if other {
                skipped.push(format!("{at}: of another priority"));
            }
            !other
        });
        for (i, threshold) in breakers.thresholds.iter_mut().enumerate() {
            let at = at.index(i);
            skip!(
                skipped,
                at,
                threshold,
                max_retries,
                retry_budget,
                track_remaining,
                max_connection_pools
            );
        }
    }
    if let Some(common) = &mut message.common_lb_config {
        let at = at.field("common_lb_config");
        skip!(
            skipped,
            at,
            common,
            update_merge_window,
            ignore_new_hosts_until_first_hc,
            close_connections_on_host_set_change,
            locality_config_specifier,
        );
    }
    // Published: without options a cluster speaks HTTP/1.1, and with this one HTTP/2.
    let http2 = std::mem::take(&mut message.http2_protocol_options);
    if http2
        .as_ref()
        .is_some_and(|options| *options != Http2ProtocolOptions::default())
    {
        skipped.push(at.field("http2_protocol_options").to_string());
    }
    if !message.typed_extension_protocol_options.contains_key(HTTP_OPTIONS) {
        let protocol = if http2.is_some() {
            AppProtocol::Http2
        } else {
            AppProtocol::Http1
        };
        let options = encode::http_options_message(protocol);
        message
            .typed_extension_protocol_options
            .insert(HTTP_OPTIONS.to_owned(), options);
    }
    message.health_checks = health_checks(&at.field("health_checks"), message, skipped);
    let ours = |metadata: &Metadata| metadata.typed_filter_metadata.contains_key(METADATA_KEY);
    if message.metadata.as_ref().is_some_and(ours) {
        foreign_metadata(&at.field("metadata"), &mut message.metadata, skipped);
        return;
    }
    skip!(skipped, at, message, metadata);
    // Whose answers are gRPC's is not said: the app's own are passed on as they are.
    let balancing = match LbPolicy::try_from(message.lb_policy) {
        Ok(LbPolicy::RoundRobin) => Balancing::RoundRobin,
        Ok(LbPolicy::LeastRequest) => Balancing::PeakEwma { decay: DECAY },
        // It stays, and is refused.
        Ok(LbPolicy::RingHash | LbPolicy::Random | LbPolicy::Maglev)
        | Ok(LbPolicy::ClusterProvided | LbPolicy::LoadBalancingPolicyConfig)
        | Err(_) => Balancing::RoundRobin,
    };
    message.metadata = Some(encode::foreign_policy(balancing, RetryBudget::default()));
}

/// Checks as they are made here, where they can be; without one that can't, an endpoint is as healthy as it is told.
fn health_checks(at: &At<'_>, message: &mut Cluster, skipped: &mut Skipped) -> Vec<HealthCheck> {
    let mut checks = std::mem::take(&mut message.health_checks);
    let protocol = spoken(message);
    let mut number = 0;
    checks.retain_mut(|check| {
        let at = at.index(number);
        number += 1;
        skip!(
            skipped,
            at,
            check,
            initial_jitter,
            interval_jitter,
            no_traffic_healthy_interval,
            unhealthy_interval,
            unhealthy_edge_interval,
            healthy_edge_interval,
            event_log_path,
            event_logger,
            event_service,
            always_log_health_check_failures,
            always_log_health_check_success,
        );
        adapt!(
            skipped,
            at,
            check,
            interval_jitter_percent: JITTER_PERCENT,
            reuse_connection: Some(BoolValue { value: false }),
            no_traffic_interval: check.interval,
        );
        if let Some(HealthChecker::HttpHealthCheck(http)) = &mut check.health_checker {
            let at = at.field("http_health_check");
            adapt!(
                skipped,
                at,
                http,
                retriable_statuses: vec![encode::health_check::every_status()],
                codec_client_type: encode::health_check::codec(protocol).into(),
            );
        }
        let read = super::health_check::health_check(&at, vec![check.clone()], protocol);
        if read.is_err() {
            skipped.push(at.to_string());
        }
        read.is_ok()
    });
    checks
}

/// What a cluster says that it speaks; HTTP/1.1 where that can't be read, and is refused.
fn spoken(message: &Cluster) -> AppProtocol {
    let options = message.typed_extension_protocol_options.get(HTTP_OPTIONS);
    let options = options.and_then(|any| HttpProtocolOptions::decode(any.value.as_slice()).ok());
    let http2 = match options.and_then(|options| options.upstream_protocol_options) {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            matches!(explicit.protocol_config, Some(ProtocolConfig::Http2ProtocolOptions(_)))
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_) | UpstreamProtocolOptions::AutoConfig(_))
        | None => false,
    };
    if http2 { AppProtocol::Http2 } else { AppProtocol::Http1 }
}

fn endpoints(message: &mut ClusterLoadAssignment, skipped: &mut Skipped) {
    let at = &At::ROOT;
    skip!(skipped, at, message, named_endpoints);
    // To drop a share of requests is a limit: that stays, and is refused.
    let drops = |policy: &Policy| !policy.drop_overloads.is_empty();
    if !message.policy.as_ref().is_some_and(drops) {
        skip!(skipped, at, message, policy);
    }
    for (i, locality) in message.endpoints.iter_mut().enumerate() {
        let at = at.field("endpoints");
        let at = at.index(i);
        skip!(skipped, at, locality, metadata, load_balancing_weight, proximity);
        for (i, endpoint) in locality.lb_endpoints.iter_mut().enumerate() {
            let at = at.field("lb_endpoints");
            lb_endpoint(&at.index(i), endpoint, skipped);
        }
    }
}

fn lb_endpoint(at: &At<'_>, message: &mut LbEndpoint, skipped: &mut Skipped) {
    skip!(skipped, at, message, load_balancing_weight);
    foreign_metadata(&at.field("metadata"), &mut message.metadata, skipped);
    message.health_status = match HealthStatus::try_from(message.health_status) {
        Ok(HealthStatus::Timeout) => HealthStatus::Unhealthy.into(),
        Ok(HealthStatus::Degraded) => {
            skipped.push(at.field("health_status").to_string());
            HealthStatus::Healthy.into()
        }
        Ok(_) | Err(_) => message.health_status,
    };
    if let Some(HostIdentifier::Endpoint(endpoint)) = &mut message.host_identifier {
        let at = at.field("endpoint");
        skip!(
            skipped,
            at,
            endpoint,
            health_check_config,
            hostname,
            additional_addresses,
            observability_name
        );
    }
}

/// Metadata under others' keys.
fn foreign_metadata(at: &At<'_>, metadata: &mut Option<Metadata>, skipped: &mut Skipped) {
    let Some(held) = metadata else { return };
    skip!(skipped, at, held, filter_metadata);
    let before = held.typed_filter_metadata.len();
    held.typed_filter_metadata.retain(|key, _| key == METADATA_KEY);
    if held.typed_filter_metadata.len() != before {
        skipped.push(at.field("typed_filter_metadata").to_string());
    }
    if held.typed_filter_metadata.is_empty() {
        *metadata = None;
    }
}

/// Weir's own default.
const DECAY: std::time::Duration = std::time::Duration::from_secs(10);
