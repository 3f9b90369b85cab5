//! In which form a client would have its answer (RFC 9110 section 12.5.1), and answers in that form.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

use super::query::Pretty;
use super::status::{Failure, Reason};

/// The form of resources in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Json,
    /// As a `meta.k8s.io/v1` Table.
    Table,
}

/// Which resources' form the client prefers of those there are.
///
/// # Errors
/// 406 when it takes none of them.
pub(crate) fn form(headers: &HeaderMap) -> Result<Form, Failure> {
    let known = |range: &Range| match range.parameter("as") {
        None if range.is_json() => Some(Form::Json),
        Some("table") if range.is_json() && range.is_of("meta.k8s.io", "v1") => Some(Form::Table),
        None | Some(_) => None,
    };
    let right = "application/json, also as Table: application/json;as=Table;g=meta.k8s.io;v=v1";
    choose(headers, known, Form::Json, right)
}

/// The form of discovery in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiscoveryForm {
    /// One document for each group.
    Plain,
    /// `apidiscovery.k8s.io/v2`: everything in one.
    Aggregated,
}

/// Which form of discovery the client prefers of those there are.
///
/// # Errors
/// 406 when it takes none of them.
pub(crate) fn discovery_form(headers: &HeaderMap) -> Result<DiscoveryForm, Failure> {
    let known = |range: &Range| match range.parameter("as") {
        None if range.is_json() => Some(DiscoveryForm::Plain),
        Some("apigroupdiscoverylist") if range.is_json() && range.is_of("apidiscovery.k8s.io", "v2") => {
            Some(DiscoveryForm::Aggregated)
        }
        None | Some(_) => None,
    };
    let right =
        "application/json, also as one list: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    choose(headers, known, DiscoveryForm::Plain, right)
}

/// That the client takes JSON.
///
/// # Errors
/// 406 when it does not.
pub(crate) fn json(headers: &HeaderMap) -> Result<(), Failure> {
    let known = |range: &Range| (range.parameter("as").is_none() && range.is_json()).then_some(());
    choose(headers, known, (), "application/json")
}

/// An answer in JSON.
pub(crate) fn respond(status: StatusCode, pretty: Pretty, content: &impl Serialize) -> Response {
    let text = match pretty {
        Pretty::No => serde_json::to_vec(content),
        Pretty::Yes => serde_json::to_vec_pretty(content),
    };
    match text {
        Ok(text) => (status, [(CONTENT_TYPE, JSON), (VARY, ACCEPT_NAME)], text).into_response(),
        Err(error) => {
            Failure::new(Reason::InternalError, format!("the answer can't be written: {error}")).into_response()
        }
    }
}

/// An answer in JSON that is written as the client takes it.
pub(crate) fn stream(body: Body) -> Response {
    ([(CONTENT_TYPE, JSON), (VARY, ACCEPT_NAME)], body).into_response()
}

/// One element of Accept.
struct Range {
    /// In lower case, without parameters.
    media: String,
    /// Names and values in lower case.
    parameters: Vec<(String, String)>,
}

impl Range {
    fn parse(text: &str) -> Range {
        let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
        let media = parts.next().unwrap_or_default();
        let pair = |part: String| {
            let (name, value) = part.split_once('=')?;
            Some((name.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
        };
        Range {
            media,
            parameters: parts.filter_map(pair).collect(),
        }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(held, _)| held == name);
        found.map(|(_, value)| value.as_str())
    }

    fn is_json(&self) -> bool {
        matches!(self.media.as_str(), "application/json" | "application/*" | "*/*")
    }

    fn is_of(&self, group: &str, version: &str) -> bool {
        self.parameter("g") == Some(group) && self.parameter("v") == Some(version)
    }

    /// In thousandths; what can't be read counts as not said.
    fn quality(&self) -> u32 {
        let quality = self.parameter("q").and_then(|q| q.parse::<f32>().ok());
        // RFC 9110 section 12.4.2: 0 to 1 with three digits.
        quality
            .filter(|q| (0.0..=1.0).contains(q))
            .map_or(1000, |q| (q * 1000.0) as u32)
    }
}

/// The most preferred of what the client takes and is known here. Without Accept, everything is taken.
fn choose<T>(headers: &HeaderMap, known: impl Fn(&Range) -> Option<T>, default: T, right: &str) -> Result<T, Failure> {
    let given: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    if given.is_empty() {
        return Ok(default);
    }
    let mut ranges: Vec<Range> = given
        .iter()
        .flat_map(|given| given.split(','))
        .map(Range::parse)
        .collect();
    ranges.retain(|range| range.quality() > 0);
    // Stable: of equals the first, as Kubernetes' clients mean it.
    ranges.sort_by_key(|range| std::cmp::Reverse(range.quality()));
    ranges.iter().find_map(known).ok_or_else(|| {
        let message = format!("nothing is answered here in what the request accepts; there is: {right}");
        Failure::new(Reason::NotAcceptable, message)
    })
}

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ACCEPT_NAME: HeaderValue = HeaderValue::from_static("accept");

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &[&str]) -> HeaderMap {
        let accept = accept
            .iter()
            .map(|accept| (ACCEPT, HeaderValue::from_str(accept).expect("a value")));
        accept.collect()
    }

    #[track_caller]
    fn check(accept: &[&str], expect: Option<Form>) {
        assert_eq!(form(&headers(accept)).ok(), expect, "{accept:?}");
    }

    #[test]
    fn the_first_form_that_is_known_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(&[], Some(Form::Json));
        check(&["*/*"], Some(Form::Json));
        check(&["application/json"], Some(Form::Json));
        check(&["Application/JSON; charset=utf-8"], Some(Form::Json));
        check(&[kubectl], Some(Form::Table));
        check(
            &["application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"],
            Some(Form::Json),
        );
        check(
            &["application/vnd.kubernetes.protobuf,application/json"],
            Some(Form::Json),
        );
        check(&["text/html", "application/json"], Some(Form::Json));
        check(
            &["application/json;q=0.5,application/json;as=Table;g=meta.k8s.io;v=v1;q=0.9"],
            Some(Form::Table),
        );
        check(
            &["application/json;as=Table;g=meta.k8s.io;v=v1;q=0.4,application/json;q=0.5"],
            Some(Form::Json),
        );
        check(&["application/json;q=0"], None);
        check(&["application/vnd.kubernetes.protobuf"], None);
        check(&["application/json;as=Table;v=v1beta1;g=meta.k8s.io"], None);
    }

    #[test]
    fn discovery_is_told_in_one_document_where_that_is_wanted() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(
            discovery_form(&headers(&[kubectl])).ok(),
            Some(DiscoveryForm::Aggregated)
        );
        let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery_form(&headers(&[old])).ok(), Some(DiscoveryForm::Plain));
        assert_eq!(discovery_form(&headers(&[])).ok(), Some(DiscoveryForm::Plain));
    }
}
