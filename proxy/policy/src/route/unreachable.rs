//! Which routes never take a request, because an earlier one takes all of theirs.

use std::collections::HashMap;

use super::without_trailing_slash;
use crate::model::{PathMatch, Route, RouteMatch, VirtualHost};

/// For each route of a virtual host, in order, an earlier one that takes every request that it could take, and of which
/// that is not so itself; `None`: none is known to.
///
/// Sound, not complete: nothing is said of a route that several earlier ones share between them, nor of what two
/// different regular expressions have in common.
pub fn taken_whole(host: &VirtualHost) -> Vec<Option<usize>> {
    let mut earlier = Earlier::default();
    let routes = host.routes.iter().enumerate();
    let takers = routes.map(|(place, route)| {
        let taker = earlier.taker_of(route);
        // Whose requests are taken whole takes none of others'.
        if taker.is_none() {
            earlier.add(place, route);
        }
        taker
    });
    takers.collect()
}

/// Routes by path, so that for each one only those are looked at whose path may take its own.
#[derive(Default)]
struct Earlier<'a> {
    exact: HashMap<&'a str, Vec<(usize, &'a RouteMatch)>>,
    /// Without the trailing slash.
    prefix: HashMap<&'a str, Vec<(usize, &'a RouteMatch)>>,
    regex: HashMap<&'a str, Vec<(usize, &'a RouteMatch)>>,
}

impl<'a> Earlier<'a> {
    fn add(&mut self, place: usize, route: &'a Route) {
        let matches = &route.matches;
        let of_path = match &matches.path {
            PathMatch::Exact(path) => self.exact.entry(path),
            PathMatch::Prefix(prefix) => self.prefix.entry(without_trailing_slash(prefix)),
            PathMatch::Regex(pattern) => self.regex.entry(pattern),
        };
        of_path.or_default().push((place, matches));
    }

    fn taker_of(&self, route: &Route) -> Option<usize> {
        let (same, above) = match &route.matches.path {
            PathMatch::Exact(path) => (self.exact.get(path.as_str()), upwards(path)),
            PathMatch::Prefix(prefix) => (None, upwards(prefix)),
            // Whatever the expression takes, the prefix of every path does.
            PathMatch::Regex(pattern) => (self.regex.get(pattern.as_str()), vec![""]),
        };
        let above = above.into_iter().filter_map(|prefix| self.prefix.get(prefix));
        let mut candidates = above.chain(same).flatten();
        let taker = candidates.find(|(_, earlier)| asks_no_more(earlier, &route.matches));
        taker.map(|(place, _)| *place)
    }
}

/// A path and all that is a prefix of it by whole segments; the last is empty, the prefix of every path.
fn upwards(path: &str) -> Vec<&str> {
    let mut prefixes = vec![without_trailing_slash(path)];
    while let Some((above, _)) = prefixes.last().and_then(|prefix| prefix.rsplit_once('/')) {
        prefixes.push(above);
    }
    prefixes
}

/// Whether, paths aside, `a` takes every request that `b` takes.
fn asks_no_more(a: &RouteMatch, b: &RouteMatch) -> bool {
    let RouteMatch {
        path: _,
        method,
        headers,
        query,
    } = a;
    (method.is_none() || *method == b.method)
        && headers.iter().all(|header| b.headers.contains(header))
        && query.iter().all(|parameter| b.query.contains(parameter))
}
