//! CORS.

use std::collections::HashSet;
use std::hash::Hash;

use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use http::{HeaderName, Method};
use weir_policy::model::{Cors, Listed, OriginMatch};

use super::at::{At, Fault, take};
use super::checks::unpack;
use super::hosts;
use crate::meaning::{ANY, domain, origin_of_pattern, origin_of_text};
use crate::rejection::Problem;

pub(super) fn policy(at: &At<'_>, any: &Any) -> Result<Cors, Fault> {
    take!(at, unpack(at, any, "a CorsPolicy")?, CorsPolicy {
        allow_origin_string_match, allow_methods, allow_headers, expose_headers, max_age, allow_credentials,
        forward_not_matching_preflights;
        filter_enabled, shadow_enabled, allow_private_network_access
    });
    // Published: unset is true.
    if forward_not_matching_preflights != Some(BoolValue { value: false }) {
        let expected = "false: no preflight goes further than the proxy";
        let at = at.field("forward_not_matching_preflights");
        return Err(at.fault("true", Problem::Unsupported { expected }));
    }
    let at_age = at.field("max_age");
    let max_age_seconds = max_age.parse().ok().filter(|age: &u32| *age > 0);
    Ok(Cors {
        origins: origins(&at.field("allow_origin_string_match"), allow_origin_string_match)?,
        credentials: allow_credentials.is_some_and(|allowed| allowed.value),
        methods: list(&at.field("allow_methods"), &allow_methods, |text| {
            Method::from_bytes(text.as_bytes()).ok()
        })?,
        request_fields: list(&at.field("allow_headers"), &allow_headers, field_name)?,
        exposed_fields: list(&at.field("expose_headers"), &expose_headers, field_name)?,
        max_age_seconds: max_age_seconds.ok_or_else(|| at_age.malformed(&max_age, "is no number of seconds from 1"))?,
    })
}

fn origins(at: &At<'_>, wire: Vec<StringMatcher>) -> Result<Listed<OriginMatch>, Fault> {
    let every = StringMatcher {
        match_pattern: Some(MatchPattern::Exact(ANY.to_owned())),
        ..StringMatcher::default()
    };
    if wire == [every] {
        return Ok(Listed::Any);
    }
    let mut read = Vec::with_capacity(wire.len());
    let mut seen = HashSet::new();
    for (i, wire) in wire.into_iter().enumerate() {
        let at = at.index(i);
        take!(at, wire, StringMatcher { match_pattern; ignore_case });
        let unsupported = |at: &At<'_>, held: &str| {
            let expected = "\"*\" alone, an origin, or an expression for those at, or below, a host";
            at.fault(format_args!("{held:?}"), Problem::Unsupported { expected })
        };
        let (at, origin) = match at.need(match_pattern)? {
            MatchPattern::Exact(text) => {
                let at = at.field("exact");
                (at, origin_of_text(&text).ok_or_else(|| unsupported(&at, &text))?)
            }
            MatchPattern::SafeRegex(wire) => {
                take!(at, wire, RegexMatcher { regex; engine_type });
                let at = at.field("safe_regex");
                (at, origin_of_pattern(&regex).ok_or_else(|| unsupported(&at, &regex))?)
            }
            MatchPattern::Prefix(text) => return Err(unsupported(&at.field("prefix"), &text)),
            MatchPattern::Suffix(text) => return Err(unsupported(&at.field("suffix"), &text)),
            MatchPattern::Contains(text) => return Err(unsupported(&at.field("contains"), &text)),
            MatchPattern::Custom(_) => return Err(unsupported(&at.field("custom"), "")),
        };
        hosts::host(&at, &domain(&origin.host))?;
        if !seen.insert(origin.clone()) {
            return Err(at.fault(origin, Problem::Duplicate));
        }
        read.push(origin);
    }
    Ok(Listed::These(read))
}

fn field_name(text: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).ok()
}

/// A list with commas, which is the value of a header field.
fn list<T: Clone + Eq + Hash>(at: &At<'_>, wire: &str, read: fn(&str) -> Option<T>) -> Result<Listed<T>, Fault> {
    match wire {
        "" => return Ok(Listed::These(Vec::new())),
        ANY => return Ok(Listed::Any),
        _ => {}
    }
    let mut seen = HashSet::new();
    let mut listed = Vec::new();
    for text in wire.split(',').map(str::trim) {
        let one = read(text).filter(|_| text != ANY);
        let one = one.ok_or_else(|| at.malformed(text, "is no name, nor \"*\" alone"))?;
        if !seen.insert(one.clone()) {
            return Err(at.fault(format_args!("{text:?}"), Problem::Duplicate));
        }
        listed.push(one);
    }
    Ok(Listed::These(listed))
}
