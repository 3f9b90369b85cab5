//! How a request's target changes.

use envoy_types::pb::envoy::config::route::v3::route_action::HostRewriteSpecifier;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use weir_policy::model::{PathMatch, PathRewrite};

use super::at::{At, Fault, take};
use super::hosts;
use super::matches::path_text;
use crate::meaning::{PathChange, WHOLE_PATH, path_change};
use crate::rejection::Problem;

pub(super) fn rewritten_host(at: &At<'_>, specifier: Option<HostRewriteSpecifier>) -> Result<Option<String>, Fault> {
    let unsupported = |field: &'static str| Err(at.field(field).fault("", Problem::WithoutEffect));
    match specifier {
        None => Ok(None),
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            let at = at.field("host_rewrite_literal");
            hosts::literal(&at, &host)?;
            Ok(Some(host))
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => unsupported("auto_host_rewrite"),
        Some(HostRewriteSpecifier::HostRewriteHeader(_)) => unsupported("host_rewrite_header"),
        Some(HostRewriteSpecifier::HostRewritePathRegex(_)) => unsupported("host_rewrite_path_regex"),
        Some(HostRewriteSpecifier::HostRewrite(_)) => unsupported("host_rewrite"),
    }
}

pub(super) fn rewritten_path(
    at: &At<'_>,
    path: &PathMatch,
    prefix: String,
    regex: Option<RegexMatchAndSubstitute>,
) -> Result<Option<PathRewrite>, Fault> {
    let (at_prefix, at_regex) = (at.field("prefix_rewrite"), at.field("regex_rewrite"));
    match (prefix.is_empty(), regex) {
        (true, None) => Ok(None),
        (false, None) => new_prefix(&at_prefix, path, prefix).map(Some),
        (true, Some(wire)) => {
            let (pattern, substitution) = substitution(&at_regex, wire)?;
            if pattern == WHOLE_PATH {
                path_text(&at_regex.field("substitution"), &substitution)?;
                return Ok(Some(PathRewrite::Full(substitution)));
            }
            joined_prefix(&at_regex, path, pattern, substitution).map(Some)
        }
        (false, Some(_)) => Err(at_prefix.fault(format_args!("{prefix:?}"), Problem::WithoutEffect)),
    }
}

/// `prefix_rewrite`: only where joining old and new as they are is what the Gateway API means.
pub(super) fn new_prefix(at: &At<'_>, path: &PathMatch, prefix: String) -> Result<PathRewrite, Fault> {
    path_text(at, &prefix)?;
    let rewrite = PathRewrite::Prefix(prefix.clone());
    if !matches!(path, PathMatch::Prefix(_)) || path_change(path, &rewrite) != PathChange::Prefix(prefix.clone()) {
        let expected = "a prefix without '/' at its end, where the route matches a prefix other than '/'";
        return Err(at.fault(format_args!("{prefix:?}"), Problem::Unsupported { expected }));
    }
    Ok(rewrite)
}

/// `regex_rewrite`: only as [`path_change`] writes a prefix that needs one `/` where it joins.
pub(super) fn joined_prefix(
    at: &At<'_>,
    path: &PathMatch,
    pattern: String,
    substitution: String,
) -> Result<PathRewrite, Fault> {
    path_text(&at.field("substitution"), &substitution)?;
    let rewrite = PathRewrite::Prefix(match substitution.strip_suffix('/') {
        Some("") | None => substitution.clone(),
        Some(prefix) => prefix.to_owned(),
    });
    let change = PathChange::Regex { pattern, substitution };
    if !matches!(path, PathMatch::Prefix(_)) || path_change(path, &rewrite) != change {
        let (PathChange::Regex { pattern, .. } | PathChange::Prefix(pattern)) = change;
        let expected = "an expression that takes the whole path, or the prefix of the route";
        return Err(at
            .field("pattern")
            .fault(format_args!("{pattern:?}"), Problem::Unsupported { expected }));
    }
    Ok(rewrite)
}

pub(super) fn substitution(at: &At<'_>, wire: RegexMatchAndSubstitute) -> Result<(String, String), Fault> {
    take!(at, wire, RegexMatchAndSubstitute { pattern, substitution; });
    let at = at.field("pattern");
    take!(at, at.need(pattern)?, RegexMatcher { regex; engine_type });
    Ok((regex, substitution))
}
