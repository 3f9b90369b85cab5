//! What is wrong with a route configuration: everything at once, each by its place.

use std::collections::{HashMap, HashSet};

use http::StatusCode;
use http::uri::Authority;
use regex::bytes::Regex;

use crate::model::{
    Action, BackendFilters, Forward, HostMatch, PathMatch, PathRewrite, Redirect, Route, ValueMatch, VirtualHost,
};

use super::patterns::Patterns;
use super::values::{HeaderMatcher, QueryMatcher, ValueMatcher};

/// One thing that is wrong with a route configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("virtual host {virtual_host:?}{}: {field} {held:?} {problem}", .route.as_ref().map(|route| format!(", route {route:?}")).unwrap_or_default())]
pub struct CompileError {
    /// The virtual host.
    pub virtual_host: String,
    /// The route; `None`: the virtual host itself.
    pub route: Option<String>,
    /// The field of it, as a path in the model: `matches.headers[x-version].regex`.
    pub field: String,
    /// What the field held.
    pub held: String,
    /// What is wrong with that.
    pub problem: Problem,
}

/// What is wrong with a field; said as the end of a sentence that begins with what it held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A virtual host without hosts.
    #[error("has no hosts, so that no request can come to it")]
    NoHosts,
    /// A host that no request can have.
    #[error("is no host: it must be a name or address without '*' and without port")]
    NotAHost,
    /// A host of two virtual hosts, or twice in one.
    #[error("is already a host of virtual host {other:?}")]
    DuplicateHost {
        /// The one that has it.
        other: String,
    },
    /// A name that another route of the virtual host has.
    #[error("is already the name of another route of this virtual host")]
    DuplicateRouteName,
    /// More routes than can be numbered.
    #[error("is one route too many: there may be 2^32 in all")]
    TooManyRoutes,
    /// A path that no request can have.
    #[error("does not begin with '/'")]
    PathNotAbsolute,
    /// A character that a path can't have.
    #[error("holds {character:?}, which the path of a request cannot hold")]
    PathCharacter {
        /// The first such.
        character: char,
    },
    /// A name that has a condition already.
    #[error("has a condition already; one name may have only one")]
    DuplicateCondition,
    /// A regular expression that is none.
    #[error("is not a regular expression (RE2 syntax): {reason}")]
    Regex {
        /// What is wrong with it, in one line.
        reason: String,
    },
    /// A regular expression that is too long.
    #[error("is longer than {max} bytes")]
    RegexTooLong {
        /// The longest that is taken.
        max: usize,
    },
    /// A regular expression that takes too much memory.
    #[error("compiles to more than {max_bytes} bytes; repeat less")]
    RegexTooBig {
        /// The most that is taken.
        max_bytes: usize,
    },
    /// Too many distinct regular expressions.
    #[error("is one regular expression too many: there may be {max} different ones in a configuration")]
    TooManyRegexes {
        /// How many are taken.
        max: usize,
    },
    /// The replacement of a prefix where no prefix is matched.
    #[error("replaces a prefix, but the route does not match by prefix")]
    PrefixRewriteWithoutPrefix,
    /// A host to rewrite to that is none.
    #[error("is not an authority that a request can have")]
    NotAnAuthority,
    /// A status that is no redirect.
    #[error("is not 301, 302, 303, 307 or 308")]
    NotARedirect,
    /// A time-out of zero, which would fail every request.
    #[error("is zero; leave it out for no time-out")]
    ZeroTimeout,
}

/// Gathers errors and what can be compiled beside them.
#[derive(Default)]
pub(super) struct Checker {
    errors: Vec<CompileError>,
    patterns: Patterns,
    /// The virtual host of each host.
    hosts: HashMap<HostMatch, String>,
    /// Names of the routes of the virtual host that is looked at.
    route_names: HashSet<String>,
}

impl Checker {
    /// Begins a virtual host.
    pub(super) fn virtual_host(&mut self, virtual_host: &VirtualHost) {
        self.route_names.clear();
        if virtual_host.hosts.is_empty() {
            self.wrong(virtual_host, None, "hosts", "", Problem::NoHosts);
        }
    }

    pub(super) fn host(&mut self, virtual_host: &VirtualHost, host: &HostMatch) {
        let (text, folded) = match host {
            HostMatch::Any => ("*", HostMatch::Any),
            HostMatch::Suffix(suffix) => (suffix.as_str(), HostMatch::Suffix(suffix.to_ascii_lowercase())),
            HostMatch::Exact(exact) => (exact.as_str(), HostMatch::Exact(exact.to_ascii_lowercase())),
        };
        if folded != HostMatch::Any && !is_host(text) {
            return self.wrong(virtual_host, None, "hosts", text, Problem::NotAHost);
        }
        if let Some(other) = self.hosts.insert(folded, virtual_host.name.clone()) {
            self.wrong(virtual_host, None, "hosts", text, Problem::DuplicateHost { other });
        }
    }

    pub(super) fn too_many_routes(&mut self, virtual_host: &VirtualHost, route: &Route) {
        self.wrong(virtual_host, Some(route), "name", &route.name, Problem::TooManyRoutes);
    }

    /// Checks all of a route that isn't compiled.
    pub(super) fn route(&mut self, virtual_host: &VirtualHost, route: &Route) {
        if !self.route_names.insert(route.name.clone()) {
            self.wrong(
                virtual_host,
                Some(route),
                "name",
                &route.name,
                Problem::DuplicateRouteName,
            );
        }
        let path = match &route.matches.path {
            PathMatch::Exact(path) => Some(("matches.path.exact", path)),
            PathMatch::Prefix(path) => Some(("matches.path.prefix", path)),
            PathMatch::Regex(_) => None,
        };
        if let Some((field, path)) = path {
            if !path.starts_with('/') {
                self.wrong(virtual_host, Some(route), field, path, Problem::PathNotAbsolute);
            }
            self.path_characters(virtual_host, route, field, path);
        }
        match &route.action {
            Action::Forward(forward) => self.forward(virtual_host, route, forward),
            Action::Redirect(redirect) => self.redirect(virtual_host, route, "redirect", redirect),
            Action::Respond(_) => {}
        }
    }

    fn forward(&mut self, virtual_host: &VirtualHost, route: &Route, forward: &Forward) {
        self.new_path(virtual_host, route, "rewrite.path", forward.rewrite.path.as_ref());
        self.new_host(virtual_host, route, "rewrite.host", forward.rewrite.host.as_deref());
        for (index, backend) in forward.backends.iter().enumerate() {
            let at = format!("backends[{index}]");
            let BackendFilters { rewrite, redirect, .. } = &backend.filters;
            self.new_path(
                virtual_host,
                route,
                &format!("{at}.rewrite.path"),
                rewrite.path.as_ref(),
            );
            self.new_host(
                virtual_host,
                route,
                &format!("{at}.rewrite.host"),
                rewrite.host.as_deref(),
            );
            if let Some(redirect) = redirect {
                self.redirect(virtual_host, route, &format!("{at}.redirect"), redirect);
            }
        }
        for (field, timeout) in [
            ("timeouts.request", forward.timeouts.request),
            ("timeouts.backend_request", forward.timeouts.backend_request),
        ] {
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                self.wrong(virtual_host, Some(route), field, "0s", Problem::ZeroTimeout);
            }
        }
    }

    fn redirect(&mut self, virtual_host: &VirtualHost, route: &Route, at: &str, redirect: &Redirect) {
        self.new_path(virtual_host, route, &format!("{at}.path"), redirect.path.as_ref());
        self.new_host(virtual_host, route, &format!("{at}.host"), redirect.host.as_deref());
        if !REDIRECTS.contains(&redirect.status) {
            let held = redirect.status.as_str();
            let field = format!("{at}.status");
            self.wrong(virtual_host, Some(route), &field, held, Problem::NotARedirect);
        }
    }

    fn new_path(&mut self, virtual_host: &VirtualHost, route: &Route, field: &str, rewrite: Option<&PathRewrite>) {
        let text = match rewrite {
            None => return,
            Some(PathRewrite::Full(full)) => full,
            Some(PathRewrite::Prefix(replacement)) => {
                if !matches!(route.matches.path, PathMatch::Prefix(_)) {
                    let problem = Problem::PrefixRewriteWithoutPrefix;
                    self.wrong(virtual_host, Some(route), field, replacement, problem);
                }
                replacement
            }
        };
        self.path_characters(virtual_host, route, field, text);
    }

    fn new_host(&mut self, virtual_host: &VirtualHost, route: &Route, field: &str, host: Option<&str>) {
        if let Some(host) = host
            && !host
                .parse::<Authority>()
                .is_ok_and(|authority| !authority.as_str().contains('@'))
        {
            self.wrong(virtual_host, Some(route), field, host, Problem::NotAnAuthority);
        }
    }

    fn path_characters(&mut self, virtual_host: &VirtualHost, route: &Route, field: &str, path: &str) {
        // RFC 3986 section 3.3: the path ends at '?' or '#'; blanks and controls end a request line.
        let impossible = |c: char| matches!(c, '?' | '#' | ' ') || c.is_control();
        if let Some(character) = path.chars().find(|c| impossible(*c)) {
            self.wrong(
                virtual_host,
                Some(route),
                field,
                path,
                Problem::PathCharacter { character },
            );
        }
    }

    /// Compiles a regular expression; `None` when it is wrong.
    pub(super) fn regex(
        &mut self,
        virtual_host: &VirtualHost,
        route: &Route,
        field: &str,
        pattern: &str,
    ) -> Option<Regex> {
        match self.patterns.compile(pattern) {
            Ok(regex) => Some(regex),
            Err(problem) => {
                self.wrong(virtual_host, Some(route), field, pattern, problem);
                None
            }
        }
    }

    /// Compiles the conditions on header fields that are right.
    pub(super) fn headers(&mut self, virtual_host: &VirtualHost, route: &Route) -> Vec<HeaderMatcher> {
        let mut seen = HashSet::new();
        let mut compiled = Vec::with_capacity(route.matches.headers.len());
        for header in &route.matches.headers {
            let name = header.name.as_str();
            let field = format!("matches.headers[{name}]");
            if !seen.insert(name) {
                self.wrong(virtual_host, Some(route), &field, name, Problem::DuplicateCondition);
            }
            if let Some(value) = self.value(virtual_host, route, &field, &header.value) {
                let name = header.name.clone();
                compiled.push(HeaderMatcher { name, value });
            }
        }
        compiled
    }

    /// Compiles the conditions on query parameters that are right.
    pub(super) fn query(&mut self, virtual_host: &VirtualHost, route: &Route) -> Vec<QueryMatcher> {
        let mut seen = HashSet::new();
        let mut compiled = Vec::with_capacity(route.matches.query.len());
        for query in &route.matches.query {
            let name = query.name.as_str();
            let field = format!("matches.query[{name}]");
            if !seen.insert(name) {
                self.wrong(virtual_host, Some(route), &field, name, Problem::DuplicateCondition);
            }
            if let Some(value) = self.value(virtual_host, route, &field, &query.value) {
                let name = name.into();
                compiled.push(QueryMatcher { name, value });
            }
        }
        compiled
    }

    fn value(
        &mut self,
        virtual_host: &VirtualHost,
        route: &Route,
        field: &str,
        value: &ValueMatch,
    ) -> Option<ValueMatcher> {
        match value {
            ValueMatch::Exact(exact) => Some(ValueMatcher::Exact(exact.as_bytes().into())),
            ValueMatch::Regex(pattern) => {
                let regex = self.regex(virtual_host, route, &format!("{field}.regex"), pattern)?;
                Some(ValueMatcher::Regex(regex))
            }
        }
    }

    /// All that was wrong.
    pub(super) fn finish(self) -> Result<(), Vec<CompileError>> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(self.errors)
        }
    }

    fn wrong(&mut self, virtual_host: &VirtualHost, route: Option<&Route>, field: &str, held: &str, problem: Problem) {
        self.errors.push(CompileError {
            virtual_host: virtual_host.name.clone(),
            route: route.map(|route| route.name.clone()),
            field: field.to_owned(),
            held: held.to_owned(),
            problem,
        });
    }
}

/// Whether a request can have this host: visible ASCII without what delimits it; `:` only in brackets (RFC 3986 section
/// 3.2.2).
fn is_host(host: &str) -> bool {
    let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let name = in_brackets.unwrap_or(host);
    let delimits = |b: u8| matches!(b, b'*' | b'/' | b'?' | b'#' | b'@' | b'[' | b']');
    let taken = |b: u8| b.is_ascii_graphic() && !delimits(b) && (b != b':' || in_brackets.is_some());
    !name.is_empty() && name.bytes().all(taken)
}

const REDIRECTS: [StatusCode; 5] = [
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::FOUND,
    StatusCode::SEE_OTHER,
    StatusCode::TEMPORARY_REDIRECT,
    StatusCode::PERMANENT_REDIRECT,
];
