//! Short ways to write the model in tests.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use weir_policy::model::*;

pub(crate) fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.to_owned())
}

pub(crate) fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.to_owned())
}

pub(crate) fn regex(pattern: &str) -> PathMatch {
    PathMatch::Regex(pattern.to_owned())
}

pub(crate) fn is(value: &str) -> ValueMatch {
    ValueMatch::Exact(value.to_owned())
}

pub(crate) fn like(pattern: &str) -> ValueMatch {
    ValueMatch::Regex(pattern.to_owned())
}

/// A route by its path alone, answered with 200.
pub(crate) fn route(name: &str, path: PathMatch) -> Route {
    Route {
        name: name.to_owned(),
        matches: RouteMatch {
            path,
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        },
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        cors: None,
        rate_limit: None,
        fault: None,
        priority: None,
        policy: None,
        action: Action::Respond(DirectResponse {
            status: StatusCode::OK,
            body: String::new(),
        }),
    }
}

pub(crate) trait RouteExt: Sized {
    fn method(self, method: Method) -> Self;
    fn header(self, name: &'static str, value: ValueMatch) -> Self;
    fn query(self, name: &str, value: ValueMatch) -> Self;
    fn action(self, action: Action) -> Self;
}

impl RouteExt for Route {
    fn method(mut self, method: Method) -> Self {
        self.matches.method = Some(method);
        self
    }

    fn header(mut self, name: &'static str, value: ValueMatch) -> Self {
        let name = HeaderName::from_static(name);
        self.matches.headers.push(HeaderMatch { name, value });
        self
    }

    fn query(mut self, name: &str, value: ValueMatch) -> Self {
        let name = name.to_owned();
        self.matches.query.push(QueryMatch { name, value });
        self
    }

    fn action(mut self, action: Action) -> Self {
        self.action = action;
        self
    }
}

pub(crate) fn host(text: &str) -> HostMatch {
    match text.strip_prefix("*.") {
        _ if text == "*" => HostMatch::Any,
        Some(suffix) => HostMatch::Suffix(suffix.to_owned()),
        None => HostMatch::Exact(text.to_owned()),
    }
}

pub(crate) fn virtual_host(hosts: &[&str], routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: hosts.join(" "),
        hosts: hosts.iter().map(|text| host(text)).collect(),
        routes,
    }
}

pub(crate) fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a field value");
        headers.append(HeaderName::from_static(name), value);
    }
    headers
}
