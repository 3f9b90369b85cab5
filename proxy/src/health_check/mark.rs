//! The mark on a check from one sidecar to another, by which the inbound one knows it from the requests of callers.

use http::HeaderMap;
use http::header::HeaderName;

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

    /// What a request's header asks for; `None`: it is no check.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Asks> {
        let mark = headers.get(CHECK_HEADER)?;
        Asks::ALL
            .into_iter()
            .find(|asks| mark.as_bytes() == asks.as_str().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_is_marked_otherwise_is_no_check() {
        for (mark, expect) in [
            (Some("request"), Some(Asks::Request)),
            (Some("connection"), Some(Asks::Connection)),
            (Some("Request"), None),
            (Some(""), None),
            (None, None),
        ] {
            let mark = mark.map(|mark| (CHECK_HEADER, HeaderValue::from_static(mark)));
            assert_eq!(Asks::of(&mark.into_iter().collect()), expect);
        }
    }
}
