//! CORS, as Envoy's filter of that name has it.

use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use http::{HeaderName, Method};
use weir_policy::model::{Cors, Listed, OriginMatch};

use super::pack;
use super::route::{regex_matcher, string_matcher};
use crate::meaning::{ANY, origin_pattern};

pub(super) fn policy(cors: &Cors) -> Any {
    let Cors {
        origins,
        credentials,
        methods,
        request_fields,
        exposed_fields,
        max_age_seconds,
    } = cors;
    let origins = match origins {
        Listed::Any => vec![string_matcher(MatchPattern::Exact(ANY.to_owned()))],
        Listed::These(origins) => origins.iter().map(origin).collect(),
    };
    pack(&CorsPolicy {
        allow_origin_string_match: origins,
        allow_methods: list(methods, Method::as_str),
        allow_headers: list(request_fields, HeaderName::as_str),
        expose_headers: list(exposed_fields, HeaderName::as_str),
        max_age: max_age_seconds.to_string(),
        allow_credentials: Some(BoolValue { value: *credentials }),
        // No preflight goes further than the proxy (GEP-1767).
        forward_not_matching_preflights: Some(BoolValue { value: false }),
        ..CorsPolicy::default()
    })
}

fn origin(origin: &OriginMatch) -> StringMatcher {
    string_matcher(MatchPattern::SafeRegex(regex_matcher(&origin_pattern(origin))))
}

fn list<T>(listed: &Listed<T>, text: fn(&T) -> &str) -> String {
    match listed {
        Listed::Any => ANY.to_owned(),
        Listed::These(listed) => listed.iter().map(text).collect::<Vec<_>>().join(", "),
    }
}
