//! Which route a request takes: a route configuration compiled once into tables, so that finding a route costs the same
//! among one and among ten thousand.

use std::num::TryFromIntError;

use http::{HeaderMap, Method};

use crate::model::{PathMatch, Route, VirtualHost};

mod check;
mod explain;
mod hosts;
mod paths;
mod patterns;
mod rewrite;
mod unreachable;
mod values;

pub use check::{CompileError, Problem};
pub use explain::{Explanation, HostEntry, Unmet};
pub use patterns::check_regex;
pub use rewrite::rewrite_path;
pub(crate) use rewrite::without_trailing_slash;
pub use unreachable::taken_whole;

use check::Checker;
use hosts::HostTable;
use paths::PathTable;
use values::{HeaderMatcher, QueryMatcher};

/// What of a request decides its route.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// The host it is for: lower case, without port.
    pub host: &'a str,
    /// The path, as it came, without query.
    pub path: &'a str,
    /// The query, as it came, without `?`.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The header.
    pub headers: &'a HeaderMap,
}

/// A route of one table: its place among the routes of all virtual hosts in their order. Means nothing to another
/// table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(u32);

impl RouteId {
    /// The place, from 0, for tables of the caller's own beside the routes.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A route configuration, compiled. Immutable.
#[derive(Debug)]
pub struct RouteTable {
    hosts: HostTable,
    /// For each virtual host, its routes by path.
    paths: Vec<PathTable>,
    /// For each virtual host, what `explain` says of it.
    entries: Vec<HostEntry>,
    routes: Vec<Entry>,
}

/// A route and its conditions beside the path.
#[derive(Debug)]
struct Entry {
    route: Route,
    headers: Vec<HeaderMatcher>,
    query: Vec<QueryMatcher>,
}

impl RouteTable {
    /// Compiles virtual hosts.
    ///
    /// # Errors
    /// All that is wrong, in order: names twice, conditions that no request can meet or that are not of the model, and
    /// regular expressions that don't compile within 64 KiB.
    pub fn compile(virtual_hosts: &[VirtualHost]) -> Result<RouteTable, Vec<CompileError>> {
        let mut checker = Checker::default();
        let mut hosts = HostTable::default();
        let mut paths = Vec::with_capacity(virtual_hosts.len());
        let mut entries = Vec::with_capacity(virtual_hosts.len());
        let mut routes = Vec::new();
        for (index, virtual_host) in virtual_hosts.iter().enumerate() {
            checker.virtual_host(virtual_host);
            for host in &virtual_host.hosts {
                checker.host(virtual_host, host);
                hosts.insert(host, index);
            }
            let mut table = PathTable::default();
            let mut entry = HostEntry {
                name: virtual_host.name.as_str().into(),
                hosts: virtual_host.hosts.clone(),
                routes: Vec::with_capacity(virtual_host.routes.len()),
            };
            for route in &virtual_host.routes {
                let id = match number(routes.len()) {
                    Ok(number) => RouteId(number),
                    Err(_) => {
                        checker.too_many_routes(virtual_host, route);
                        break;
                    }
                };
                checker.route(virtual_host, route);
                match &route.matches.path {
                    PathMatch::Exact(path) => table.insert_exact(path, id),
                    PathMatch::Prefix(prefix) => table.insert_prefix(without_trailing_slash(prefix), id),
                    PathMatch::Regex(pattern) => {
                        if let Some(regex) = checker.regex(virtual_host, route, "matches.path.regex", pattern) {
                            table.insert_regex(regex, id);
                        }
                    }
                }
                entry.routes.push(id);
                routes.push(Entry {
                    route: route.clone(),
                    headers: checker.headers(virtual_host, route),
                    query: checker.query(virtual_host, route),
                });
            }
            paths.push(table);
            entries.push(entry);
        }
        checker.finish()?;
        Ok(RouteTable {
            hosts,
            paths,
            entries,
            routes,
        })
    }

    /// The first route in the virtual host most specific to the request's host that takes the request; `None`: no
    /// virtual host has its host, or none of that one's routes takes it.
    pub fn find(&self, facts: &RequestFacts<'_>) -> Option<RouteId> {
        let virtual_host = self.hosts.find(facts.host)?;
        let paths = self.paths.get(virtual_host)?;
        paths.first(facts.path, |id| {
            self.routes.get(id.index()).is_some_and(|entry| entry.takes(facts))
        })
    }

    /// The route of an id that [`find`](Self::find) or [`routes`](Self::routes) of this table gave.
    ///
    /// # Panics
    /// When given an id of another table that is beyond the end of this one.
    pub fn route(&self, id: RouteId) -> &Route {
        &self.routes[id.index()].route
    }

    /// All routes, in the order of their ids.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = (RouteId, &Route)> {
        let numbered = self.routes.iter().enumerate();
        // The number of routes was checked when compiling.
        numbered.map(|(index, entry)| (RouteId(number(index).unwrap_or(u32::MAX)), &entry.route))
    }
}

impl Entry {
    /// Whether the conditions beside the path hold.
    fn takes(&self, facts: &RequestFacts<'_>) -> bool {
        self.unmet(facts).is_none()
    }

    /// The first condition beside the path that does not hold.
    fn unmet(&self, facts: &RequestFacts<'_>) -> Option<Unmet<'_>> {
        let method = self.route.matches.method.as_ref();
        if let Some(method) = method.filter(|method| *method != facts.method) {
            return Some(Unmet::Method(method));
        }
        if let Some(header) = self.headers.iter().find(|header| !header.takes(facts.headers)) {
            return Some(Unmet::Header(&header.name));
        }
        let query = self.query.iter().find(|query| !query.takes(facts.query))?;
        Some(Unmet::Query(&query.name))
    }
}

fn number(index: usize) -> Result<u32, TryFromIntError> {
    u32::try_from(index)
}
