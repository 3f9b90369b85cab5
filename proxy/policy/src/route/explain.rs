//! Why a request takes its route, and not an earlier one.

use http::{HeaderName, Method};

use crate::model::{HostMatch, PathMatch};

use super::{Entry, RequestFacts, RouteId, RouteTable, without_trailing_slash};

/// What a table makes of a request: the answer of [`RouteTable::find`], and the way to it.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// The virtual host most specific to the request's host; `None`: none has it.
    pub virtual_host: Option<&'a HostEntry>,
    /// The route that takes the request.
    pub taken: Option<RouteId>,
    /// The routes tried before it, or all if none takes the request: in order of precedence, each with the first
    /// condition that does not hold.
    pub passed_over: Vec<(RouteId, Unmet<'a>)>,
}

/// A virtual host of a table.
#[derive(Debug)]
pub struct HostEntry {
    /// Its name, for people.
    pub name: Box<str>,
    /// Which hosts it serves.
    pub hosts: Vec<HostMatch>,
    /// Its routes, in order of precedence.
    pub(super) routes: Vec<RouteId>,
}

/// A condition of a route that a request does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet<'a> {
    /// On the path.
    Path,
    /// On the method: it must be this.
    Method(&'a Method),
    /// On this header field.
    Header(&'a HeaderName),
    /// On this parameter of the query.
    Query(&'a str),
}

impl RouteTable {
    /// [`find`](Self::find), slowly: each route of the virtual host is tried by itself, in order.
    pub fn explain(&self, facts: &RequestFacts<'_>) -> Explanation<'_> {
        let mut explanation = Explanation {
            virtual_host: None,
            taken: None,
            passed_over: Vec::new(),
        };
        let Some(index) = self.hosts.find(facts.host) else {
            return explanation;
        };
        explanation.virtual_host = self.entries.get(index);
        for &id in explanation.virtual_host.iter().flat_map(|entry| &entry.routes) {
            let Some(route) = self.routes.get(id.index()) else {
                continue;
            };
            let unmet = if self.takes_path(index, id, route, facts.path) {
                route.unmet(facts)
            } else {
                Some(Unmet::Path)
            };
            match unmet {
                Some(unmet) => explanation.passed_over.push((id, unmet)),
                None => {
                    explanation.taken = Some(id);
                    break;
                }
            }
        }
        explanation
    }

    fn takes_path(&self, virtual_host: usize, id: RouteId, route: &Entry, path: &str) -> bool {
        match &route.route.matches.path {
            PathMatch::Exact(exact) => exact == path,
            PathMatch::Prefix(prefix) => {
                let prefix = without_trailing_slash(prefix);
                let rest = path.strip_prefix(prefix);
                prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::Regex(_) => {
                let paths = self.paths.get(virtual_host);
                let regex = paths.and_then(|paths| paths.regex(id));
                regex.is_some_and(|regex| regex.is_match(path.as_bytes()))
            }
        }
    }
}
