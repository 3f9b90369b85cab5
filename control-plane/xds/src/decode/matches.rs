//! Conditions of a route.

use std::collections::HashSet;

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, RouteMatch};
use envoy_types::pb::envoy::r#type::matcher::v3::regex_matcher::EngineType;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, regex_matcher};
use envoy_types::pb::google::protobuf::BoolValue;
use http::{HeaderValue, Method};
use weir_policy::model;
use weir_policy::model::{HeaderMatch, PathMatch, QueryMatch, ValueMatch};

use super::at::{At, Fault, take};
use super::checks::{bounded, text};
use super::headers::header_name;
use crate::meaning::METHOD;
use crate::rejection::Problem;

pub(super) fn route_match(at: &At<'_>, wire: RouteMatch) -> Result<model::RouteMatch, Fault> {
    take!(at, wire, RouteMatch {
        path_specifier, case_sensitive, headers, query_parameters;
        runtime_fraction, cookies, grpc, tls_context, dynamic_metadata, filter_state
    });
    if let Some(BoolValue { value: false }) = case_sensitive {
        let expected = "true";
        return Err(at
            .field("case_sensitive")
            .fault("false", Problem::Unsupported { expected }));
    }
    let (method, headers) = conditions(&at.field("headers"), headers)?;
    Ok(model::RouteMatch {
        path: path(at, path_specifier)?,
        method,
        headers,
        query: query(&at.field("query_parameters"), query_parameters)?,
    })
}

fn path(at: &At<'_>, specifier: Option<PathSpecifier>) -> Result<PathMatch, Fault> {
    match specifier {
        Some(PathSpecifier::Path(path)) => {
            path_text(&at.field("path"), &path)?;
            Ok(PathMatch::Exact(path))
        }
        Some(PathSpecifier::Prefix(prefix)) if prefix == "/" => Ok(PathMatch::Prefix(prefix)),
        Some(PathSpecifier::Prefix(prefix)) => {
            let expected = "'/'; a longer prefix is a path_separated_prefix";
            Err(at
                .field("prefix")
                .fault(format_args!("{prefix:?}"), Problem::Unsupported { expected }))
        }
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            let at = at.field("path_separated_prefix");
            path_text(&at, &prefix)?;
            if prefix.ends_with('/') {
                return Err(at.malformed(&prefix, "may not end with '/'"));
            }
            Ok(PathMatch::Prefix(prefix))
        }
        Some(PathSpecifier::SafeRegex(wire)) => Ok(PathMatch::Regex(regex(&at.field("safe_regex"), wire)?)),
        Some(PathSpecifier::ConnectMatcher(_)) => Err(at.field("connect_matcher").fault("", Problem::WithoutEffect)),
        Some(PathSpecifier::PathMatchPolicy(_)) => Err(at.field("path_match_policy").fault("", Problem::WithoutEffect)),
        None => Err(at.field("path").fault("", Problem::Missing)),
    }
}

fn conditions(at: &At<'_>, wire: Vec<HeaderMatcher>) -> Result<(Option<Method>, Vec<HeaderMatch>), Fault> {
    let mut method = None;
    let mut names = HashSet::new();
    let mut headers = Vec::with_capacity(wire.len());
    for (i, wire) in wire.into_iter().enumerate() {
        let at = at.index(i);
        take!(at, wire, HeaderMatcher {
            name, header_match_specifier;
            invert_match, treat_missing_header_as_empty
        });
        let at_match = at.field("string_match");
        let wire = match at_match.need(header_match_specifier)? {
            HeaderMatchSpecifier::StringMatch(wire) => wire,
            HeaderMatchSpecifier::ExactMatch(_)
            | HeaderMatchSpecifier::SafeRegexMatch(_)
            | HeaderMatchSpecifier::RangeMatch(_)
            | HeaderMatchSpecifier::PresentMatch(_)
            | HeaderMatchSpecifier::PrefixMatch(_)
            | HeaderMatchSpecifier::SuffixMatch(_)
            | HeaderMatchSpecifier::ContainsMatch(_) => {
                let expected = "a string_match";
                return Err(at.fault("another condition", Problem::Unsupported { expected }));
            }
        };
        let value = value(&at_match, wire)?;
        if name == METHOD {
            if method.replace(self::method(&at_match, value)?).is_some() {
                return Err(at.field("name").fault(format_args!("{name:?}"), Problem::Duplicate));
            }
            continue;
        }
        let name = header_name(&at.field("name"), &name)?;
        if let ValueMatch::Exact(text) = &value
            && HeaderValue::from_bytes(text.as_bytes()).is_err()
        {
            return Err(at_match.field("exact").malformed(text, "can't be a header's value"));
        }
        if !names.insert(name.clone()) {
            return Err(at.field("name").fault(format_args!("{name:?}"), Problem::Duplicate));
        }
        headers.push(HeaderMatch { name, value });
    }
    Ok((method, headers))
}

fn method(at: &At<'_>, value: ValueMatch) -> Result<Method, Fault> {
    match value {
        ValueMatch::Exact(method) => {
            let at = at.field("exact");
            Method::from_bytes(method.as_bytes()).map_err(|_| at.malformed(&method, "is not a method"))
        }
        ValueMatch::Regex(regex) => {
            let expected = "exact: a method is matched by its name";
            Err(at
                .field("safe_regex")
                .fault(format_args!("{regex:?}"), Problem::Unsupported { expected }))
        }
    }
}

fn query(at: &At<'_>, wire: Vec<QueryParameterMatcher>) -> Result<Vec<QueryMatch>, Fault> {
    let mut names = HashSet::new();
    let mut query = Vec::with_capacity(wire.len());
    for (i, wire) in wire.into_iter().enumerate() {
        let at = at.index(i);
        take!(at, wire, QueryParameterMatcher { name, query_parameter_match_specifier; });
        let at_match = at.field("string_match");
        let wire = match at_match.need(query_parameter_match_specifier)? {
            QueryParameterMatchSpecifier::StringMatch(wire) => wire,
            QueryParameterMatchSpecifier::PresentMatch(_) => {
                let expected = "a string_match";
                return Err(at.fault("present_match", Problem::Unsupported { expected }));
            }
        };
        let value = value(&at_match, wire)?;
        let name = text(&at.field("name"), name)?;
        if !names.insert(name.clone()) {
            return Err(at.field("name").fault(format_args!("{name:?}"), Problem::Duplicate));
        }
        query.push(QueryMatch { name, value });
    }
    Ok(query)
}

fn value(at: &At<'_>, wire: StringMatcher) -> Result<ValueMatch, Fault> {
    take!(at, wire, StringMatcher { match_pattern; ignore_case });
    match at.need(match_pattern)? {
        MatchPattern::Exact(value) => Ok(ValueMatch::Exact(bounded(&at.field("exact"), value)?)),
        MatchPattern::SafeRegex(wire) => Ok(ValueMatch::Regex(regex(&at.field("safe_regex"), wire)?)),
        MatchPattern::Prefix(_) | MatchPattern::Suffix(_) | MatchPattern::Contains(_) | MatchPattern::Custom(_) => {
            let expected = "exact or safe_regex";
            Err(at.fault("another condition", Problem::Unsupported { expected }))
        }
    }
}

/// An expression; whether it compiles is found by who compiles it.
fn regex(at: &At<'_>, wire: RegexMatcher) -> Result<String, Fault> {
    take!(at, wire, RegexMatcher { regex, engine_type; });
    match engine_type {
        None => {}
        // Deprecated, and says what is so anyway.
        Some(EngineType::GoogleRe2(engine)) => {
            take!(at, engine, regex_matcher::GoogleRe2 { ; max_program_size });
        }
    }
    text(&at.field("regex"), regex)
}

/// A path: `/`, then what RFC 3986 section 3.3 allows in one (`pchar` and `/`).
pub(super) fn path_text(at: &At<'_>, path: &str) -> Result<(), Fault> {
    if !path.starts_with('/') {
        return Err(at.malformed(path, "does not begin with '/'"));
    }
    bounded(at, path.to_owned())?;
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let allowed = match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => true,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => true,
            b'%' => {
                let digits = [bytes.next(), bytes.next()];
                digits
                    .into_iter()
                    .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit()))
            }
            _ => false,
        };
        if !allowed {
            return Err(at.malformed(path, "holds what is not allowed in a path (RFC 3986 section 3.3)"));
        }
    }
    Ok(())
}
