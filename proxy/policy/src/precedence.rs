//! The order in which routes are tried.

use std::cmp::Reverse;

use crate::model::{PathMatch, Route};

/// Sorts routes into the order of precedence of the Gateway API (HTTPRouteRule.matches): exact path, then longest
/// prefix, then a method, then most headers, then most query parameters.
///
/// It leaves the place of regular expressions to the implementation: here they come after exact paths and before
/// prefixes, the longest pattern first, since who writes one means it to take something out of a prefix. A trailing `/`
/// of a prefix does not count, as it does not when matching.
///
/// Ties keep the order they came in, so the caller passes the oldest resource first, then by `namespace/name`, then by
/// the order of its rules.
pub fn sort(routes: &mut [Route]) {
    // Two routes with different paths of one kind compete only if one prefix continues the other, so the length of the
    // path may come before all else.
    routes.sort_by_key(|route| {
        let matches = &route.matches;
        let (kind, length) = match &matches.path {
            PathMatch::Exact(_) => (0, 0),
            PathMatch::Regex(pattern) => (1, pattern.len()),
            PathMatch::Prefix(prefix) => (2, crate::route::without_trailing_slash(prefix).len()),
        };
        (
            kind,
            Reverse(length),
            Reverse(matches.method.is_some()),
            Reverse(matches.headers.len()),
            Reverse(matches.query.len()),
        )
    });
}
