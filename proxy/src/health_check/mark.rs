//! The mark on a check from one sidecar to another, by which the inbound one knows it from the requests of callers.

use http::Method;
use http::header::HeaderName;
use http::request::Parts;
use http_body::Body;

/// Among sidecars only; taken out of what passes.
pub(crate) const CHECK_HEADER: HeaderName = HeaderName::from_static("weir-check");

/// What a check asks of an inbound sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// To carry it to the app.
    Request,
    /// To find out whether the app takes connections, and to answer itself.
    Connection,
}

impl Asks {
    const ALL: [Asks; 2] = [Asks::Request, Asks::Connection];

    /// As in the header.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Asks::Request => "request",
            Asks::Connection => "connection",
        }
    }

    /// What a request with this head and body asks for; `None`: it is no check. Of what no sidecar asks the mark says
    /// nothing: whoever wrote it, the request is one as any other.
    pub(crate) fn of(head: &Parts, body: &impl Body) -> Option<Asks> {
        let mark = head.headers.get(CHECK_HEADER)?;
        let asks = Asks::ALL
            .into_iter()
            .find(|asks| mark.as_bytes() == asks.as_str().as_bytes())?;
        let asked_so = match (asks, &head.method) {
            (_, &Method::GET) => body.is_end_stream(),
            (Asks::Request, &Method::POST) => head.uri.path() == GRPC_CHECK,
            (Asks::Request | Asks::Connection, _) => false,
        };
        asked_so.then_some(asks)
    }
}

/// Where gRPC servers tell how they are (gRPC, health-checking.md).
pub(super) const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Full;

    use super::*;

    #[test]
    fn what_no_sidecar_asks_is_no_check() {
        for (mark, line, content, expect) in [
            (Some("request"), "GET /healthz", "", Some(Asks::Request)),
            (
                Some("request"),
                "POST /grpc.health.v1.Health/Check",
                "x",
                Some(Asks::Request),
            ),
            (Some("connection"), "GET /", "", Some(Asks::Connection)),
            (Some("request"), "GET /healthz", "x", None),
            (Some("request"), "HEAD /healthz", "", None),
            (Some("request"), "POST /healthz", "", None),
            (Some("request"), "POST /grpc.health.v1.Health/Watch", "x", None),
            (Some("request"), "DELETE /records", "", None),
            (Some("connection"), "GET /", "x", None),
            (Some("connection"), "POST /grpc.health.v1.Health/Check", "x", None),
            (Some("Request"), "GET /healthz", "", None),
            (Some(""), "GET /healthz", "", None),
            (None, "GET /healthz", "", None),
        ] {
            let (method, path) = line.split_once(' ').expect("two words");
            let mut request = Request::builder().method(method).uri(path);
            if let Some(mark) = mark {
                request = request.header(CHECK_HEADER, mark);
            }
            let (head, body) = request
                .body(Full::<Bytes>::from(content))
                .expect("a request")
                .into_parts();
            assert_eq!(Asks::of(&head, &body), expect, "{mark:?} {line} {content:?}");
        }
    }
}
