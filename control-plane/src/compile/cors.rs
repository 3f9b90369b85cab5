//! HTTPRoute's CORS filter in the model.

use http::{HeaderName, Method};
use weir_api::FieldError;
use weir_api::http_route::{ANY, CorsFilter, CorsMethod, CorsOrigin, RedirectScheme};
use weir_policy::model;
use weir_policy::model::{HostMatch, Listed, OriginMatch, Scheme};

use super::rules::{header_name, wrong};

/// The filter that stands at `path`.
pub(super) fn cors(path: &str, given: &CorsFilter) -> Result<model::Cors, FieldError> {
    let CorsFilter {
        allow_origins,
        allow_credentials,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
    } = given;
    let is_any = |name: &String| name == ANY;
    Ok(model::Cors {
        origins: listed(&format!("{path}.allowOrigins"), allow_origins, is_any, |path, text| {
            origin(path, text)
        })?,
        credentials: *allow_credentials,
        methods: listed(
            &format!("{path}.allowMethods"),
            allow_methods,
            |one| *one == CorsMethod::Any,
            method,
        )?,
        request_fields: names(&format!("{path}.allowHeaders"), allow_headers)?,
        exposed_fields: names(&format!("{path}.exposeHeaders"), expose_headers)?,
        max_age_seconds: *max_age,
    })
}

fn names(path: &str, given: &[String]) -> Result<Listed<HeaderName>, FieldError> {
    listed(path, given, |name| name == ANY, |path, name| header_name(path, name))
}

fn origin(path: &str, text: &str) -> Result<OriginMatch, FieldError> {
    let CorsOrigin { scheme, host, port } =
        CorsOrigin::read(text).ok_or_else(|| wrong(path.to_owned(), text, "is no origin"))?;
    let scheme = match scheme {
        RedirectScheme::Http => Scheme::Http,
        RedirectScheme::Https => Scheme::Https,
    };
    let host = match host.strip_prefix("*.") {
        _ if host == ANY => HostMatch::Any,
        Some(suffix) => HostMatch::Suffix(suffix.to_owned()),
        None => HostMatch::Exact(host),
    };
    let port = port.unwrap_or(scheme.port());
    Ok(OriginMatch { scheme, host, port })
}

fn method(path: &str, given: &CorsMethod) -> Result<Method, FieldError> {
    let text = given.as_str();
    Method::from_bytes(text.as_bytes()).map_err(|_| wrong(path.to_owned(), text, "is no method"))
}

fn listed<T, U>(
    path: &str,
    given: &[T],
    is_any: impl Fn(&T) -> bool,
    read: impl Fn(&str, &T) -> Result<U, FieldError>,
) -> Result<Listed<U>, FieldError> {
    if given.iter().any(is_any) {
        return Ok(Listed::Any);
    }
    let given = given.iter().enumerate();
    let read = given.map(|(at, one)| read(&format!("{path}[{at}]"), one));
    Ok(Listed::These(read.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    #[test]
    fn a_filter_is_what_it_says() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let given = CorsFilter {
            allow_origins: texts(&["https://A.example", "http://*.b.example:8080", "https://*"]),
            allow_credentials: true,
            allow_methods: vec![CorsMethod::Named(weir_api::http_route::HttpMethod::Put)],
            allow_headers: texts(&["X-One"]),
            expose_headers: texts(&["X-Two", "*"]),
            max_age: 60,
        };
        let origin = |scheme, host, port| {
            let port = NonZeroU16::new(port).expect("a port");
            OriginMatch { scheme, host, port }
        };
        let expect = model::Cors {
            origins: Listed::These(vec![
                origin(Scheme::Https, HostMatch::Exact("a.example".to_owned()), 443),
                origin(Scheme::Http, HostMatch::Suffix("b.example".to_owned()), 8080),
                origin(Scheme::Https, HostMatch::Any, 443),
            ]),
            credentials: true,
            methods: Listed::These(vec![Method::PUT]),
            request_fields: Listed::These(vec![HeaderName::from_static("x-one")]),
            exposed_fields: Listed::Any,
            max_age_seconds: 60,
        };
        assert_eq!(cors("", &given), Ok(expect.clone()));
        let open = CorsFilter {
            allow_origins: texts(&["*"]),
            allow_methods: vec![CorsMethod::Any],
            allow_headers: texts(&["*"]),
            ..given
        };
        let expect = model::Cors {
            origins: Listed::Any,
            methods: Listed::Any,
            request_fields: Listed::Any,
            ..expect
        };
        assert_eq!(cors("", &open), Ok(expect));
    }
}
