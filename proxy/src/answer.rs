//! Answers that the mesh itself makes: from one error value, the status, `Proxy-Status`, the gRPC status and the text.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use weir_policy::names::WorkloadName;

use crate::error::ProxyError;
use crate::http::body::ResponseBody;
use crate::http::head::{GRPC_STATUS, Grpc};

/// Says to whoever gets it why the proxy, and not the app, answered (RFC 9209).
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The answer to a request that failed at this proxy.
pub(crate) fn refusal(error: &ProxyError, grpc: Grpc, proxy: &WorkloadName) -> Response<ResponseBody> {
    let text = format!(
        "{error}; {} (fault: {}, at the {})\n",
        error.hint(),
        error.fault(),
        error.hop()
    );
    let mut response = match grpc {
        Grpc::No => {
            let mut response = Response::new(ResponseBody::text(text));
            *response.status_mut() = error.status();
            let headers = response.headers_mut();
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            if let Some(wait) = error.retry_after() {
                // Whole seconds (RFC 9110 section 10.2.3), rounded up: too early would only be refused again.
                headers.insert(
                    header::RETRY_AFTER,
                    HeaderValue::from(wait.as_millis().div_ceil(1000).max(1) as u64),
                );
            }
            response
        }
        // Trailers-Only (gRPC, PROTOCOL-HTTP2.md): the status stands in the header, and there is no body.
        Grpc::Yes => {
            let mut response = Response::new(ResponseBody::text(String::new()));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(GRPC_STATUS, error.grpc_status().into());
            if let Ok(message) = HeaderValue::try_from(percent_encoded(&format!("{error}; {}", error.hint()))) {
                headers.insert("grpc-message", message);
            }
            if let Some(wait) = error.retry_after() {
                let millis = wait.as_nanos().div_ceil(1_000_000) as u64;
                headers.insert("grpc-retry-pushback-ms", HeaderValue::from(millis));
            }
            response
        }
    };
    if let Ok(status) = HeaderValue::try_from(proxy_status(error, proxy)) {
        response.headers_mut().insert(PROXY_STATUS, status);
    }
    response
}

/// An answer that a route makes: a redirect or a text.
pub(crate) fn direct(status: StatusCode, headers: HeaderMap, body: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::text(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// `weir/NAMESPACE/WORKLOAD; error=TYPE; details="…"`: the proxy's name is a token and the details are a string of
/// Structured Fields, which is ASCII (RFC 9651 sections 3.3.3 and 3.3.4).
fn proxy_status(error: &ProxyError, proxy: &WorkloadName) -> String {
    let mut details = String::new();
    for character in error.to_string().chars() {
        match character {
            '"' | '\\' => {
                details.push('\\');
                details.push(character);
            }
            ' '..='~' => details.push(character),
            _ => details.push('?'),
        }
    }
    format!(
        "weir/{proxy}; error={}; details=\"{details}\"",
        error.proxy_status_error()
    )
}

/// Percent-encoding of `grpc-message` (gRPC, PROTOCOL-HTTP2.md): all but space to `~`, and `%` itself.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => encoded.push_str("%25"),
            b' '..=b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(authority: &str) -> ProxyError {
        ProxyError::UnknownDestination {
            authority: authority.to_owned(),
            why: "nobody knows it".to_owned(),
        }
    }

    #[test]
    fn a_refusal_says_who_and_why_in_ascii() {
        let proxy = "citizen/portal".parse().expect("a name");
        let answer = refusal(&unknown("健\"x\\"), Grpc::No, &proxy);
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(
            answer.headers()["proxy-status"],
            "weir/citizen/portal; error=destination_not_found; \
             details=\"\\\"?\\\\\\\"x\\\\\\\\\\\" is no service of the mesh: nobody knows it\""
        );
    }

    #[test]
    fn a_grpc_caller_gets_a_grpc_status() {
        let proxy = "citizen/portal".parse().expect("a name");
        let answer = refusal(&unknown("x"), Grpc::Yes, &proxy);
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["grpc-status"], "14");
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        assert!(http_body::Body::is_end_stream(answer.body()));
    }

    #[test]
    fn a_grpc_message_is_percent_encoded() {
        assert_eq!(percent_encoded("100% 健\n"), "100%25 %E5%81%A5%0A");
    }
}
