//! What is asked: a request that was not sent.

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

/// A request that somebody wants to know about.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) method: Method,
    /// Absolute: where a `Host` is among the fields it takes the place of this one's authority, as it would for a
    /// request in origin form.
    pub(crate) url: Uri,
    pub(crate) headers: HeaderMap,
}

/// Of what a question is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Of a request.
    Request,
    /// Of a connection of TCP: `tcp://NAME:PORT`.
    Connection,
}

/// Why a question can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuestionError {
    #[error("url is missing; url=http://NAME/PATH is right")]
    NoUrl,
    #[error("url is longer than {URL_BYTES_MAX} bytes")]
    LongUrl,
    #[error("url {0:?} is not of the form http://NAME[:PORT][/PATH][?QUERY], or tcp://NAME:PORT")]
    Url(String),
    #[error("method {0:?} is no HTTP method")]
    Method(String),
    #[error("header {0:?} is not of the form NAME: VALUE")]
    Header(String),
    #[error(
        "there are more than {HEADERS_MAX} header fields, or they are longer than {HEADERS_BYTES_MAX} bytes together"
    )]
    ManyHeaders,
    #[error("the parameter {0:?} is not known; known are url, method and header, which may be repeated")]
    Unknown(String),
    #[error("the parameter {0:?} is given twice")]
    Twice(&'static str),
}

impl Question {
    /// Reads parameters: `url` once, `method` at most once (otherwise GET), `header` any number of times.
    ///
    /// # Errors
    /// The first that is wrong.
    pub(crate) fn read(parameters: impl IntoIterator<Item = (String, String)>) -> Result<Question, QuestionError> {
        let (mut url, mut method, mut headers) = (None, None, Vec::new());
        for (name, value) in parameters {
            match name.as_str() {
                "url" if url.is_some() => return Err(QuestionError::Twice("url")),
                "method" if method.is_some() => return Err(QuestionError::Twice("method")),
                "url" => url = Some(value),
                "method" => method = Some(value),
                "header" => headers.push(value),
                _ => return Err(QuestionError::Unknown(shown(&name))),
            }
        }
        let url = url.ok_or(QuestionError::NoUrl)?;
        Question::new(&url, method.as_deref().unwrap_or("GET"), &headers)
    }

    /// A question by its parts as text: `http://NAME[:PORT][/PATH][?QUERY]`, where `http://` may be left out; fields as
    /// `NAME: VALUE`. Or `tcp://NAME:PORT`, for a connection of TCP.
    ///
    /// # Errors
    /// The first that is wrong.
    pub(crate) fn new(url: &str, method: &str, headers: &[String]) -> Result<Question, QuestionError> {
        if url.len() > URL_BYTES_MAX {
            return Err(QuestionError::LongUrl);
        }
        let bytes: usize = headers.iter().map(String::len).sum();
        if headers.len() > HEADERS_MAX || bytes > HEADERS_BYTES_MAX {
            return Err(QuestionError::ManyHeaders);
        }
        let absolute = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let wrong = || QuestionError::Url(shown(url));
        let parsed: Uri = absolute.parse().map_err(|_| wrong())?;
        if parsed.host().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        let method: Method = method.parse().map_err(|_| QuestionError::Method(shown(method)))?;
        let mut fields = HeaderMap::new();
        for field in headers {
            let (name, value) = header(field).ok_or_else(|| QuestionError::Header(shown(field)))?;
            fields.append(name, value);
        }
        Ok(Question {
            method,
            url: parsed,
            headers: fields,
        })
    }

    /// Of what it is.
    pub(super) fn asks(&self) -> Asks {
        match self.url.scheme_str() {
            Some("tcp") => Asks::Connection,
            Some(_) | None => Asks::Request,
        }
    }

    /// The head of the request, as a sidecar would get it; of a connection one that names the same service.
    pub(super) fn head(&self) -> Parts {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        if let (Asks::Connection, Some(authority)) = (self.asks(), self.url.authority())
            && let Ok(authority) = HeaderValue::try_from(authority.as_str())
        {
            request.headers_mut().insert(HOST, authority);
            return request.into_parts().0;
        }
        *request.uri_mut() = match (self.headers.contains_key(HOST), self.url.path_and_query()) {
            (true, Some(target)) => Uri::from(target.clone()),
            (true, None) | (false, _) => self.url.clone(),
        };
        request.into_parts().0
    }
}

fn header(field: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = field.split_once(':')?;
    let value = HeaderValue::from_bytes(value.trim().as_bytes()).ok()?;
    Some((name.trim().parse().ok()?, value))
}

/// As much of a text as an error shows.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

const URL_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
const HEADERS_BYTES_MAX: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<Question, QuestionError> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Question::read(parameters.iter().map(owned))
    }

    #[test]
    fn a_question_is_a_request_that_was_not_sent() {
        let question = read(&[("url", "b/p?q=1"), ("header", "X-A: 1"), ("header", "x-a:2")]).expect("right");
        let head = question.head();
        assert_eq!(
            (head.method.as_str(), head.uri.to_string()),
            ("GET", "http://b/p?q=1".to_owned())
        );
        assert_eq!(head.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        let by_host = [
            ("url", "http://127.0.0.1:15001/p"),
            ("header", "Host: b"),
            ("method", "POST"),
        ];
        let head = read(&by_host).expect("right").head();
        assert_eq!((head.method.as_str(), head.uri.to_string()), ("POST", "/p".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "a".repeat(URL_BYTES_MAX + 1);
        let many: Vec<(&str, &str)> = std::iter::once(("url", "b"))
            .chain(std::iter::repeat_n(("header", "a: b"), HEADERS_MAX + 1))
            .collect();
        for (parameters, expect) in [
            (&[][..], QuestionError::NoUrl),
            (&[("url", "")], QuestionError::Url(String::new())),
            (&[("url", "http:///p")], QuestionError::Url("http:///p".to_owned())),
            (&[("url", "a b")], QuestionError::Url("a b".to_owned())),
            (&[("url", long.as_str())], QuestionError::LongUrl),
            (&[("url", "b"), ("url", "c")], QuestionError::Twice("url")),
            (
                &[("url", "b"), ("method", "A B")],
                QuestionError::Method("A B".to_owned()),
            ),
            (&[("url", "b"), ("header", "a")], QuestionError::Header("a".to_owned())),
            (
                &[("url", "b"), ("header", "a b: c")],
                QuestionError::Header("a b: c".to_owned()),
            ),
            (
                &[("url", "b"), ("path", "/")],
                QuestionError::Unknown("path".to_owned()),
            ),
            (&many, QuestionError::ManyHeaders),
        ] {
            assert_eq!(read(parameters).expect_err("wrong"), expect, "{parameters:?}");
        }
    }
}
