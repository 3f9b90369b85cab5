//! Conditions on header fields and query parameters.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use regex::bytes::Regex;

/// A condition on a value.
#[derive(Debug)]
pub(super) enum ValueMatcher {
    Exact(Box<[u8]>),
    Regex(Regex),
}

/// A condition on a header field.
#[derive(Debug)]
pub(super) struct HeaderMatcher {
    pub(super) name: HeaderName,
    pub(super) value: ValueMatcher,
}

impl HeaderMatcher {
    pub(super) fn takes(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter().map(|value| value.as_bytes());
        let Some(first) = values.next() else { return false };
        let Some(second) = values.next() else {
            return self.value.takes(first);
        };
        // RFC 9110 section 5.3: fields of one name are one list, joined in order.
        let mut joined = [first, second].join(&b',');
        for value in values {
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        self.value.takes(&joined)
    }
}

impl ValueMatcher {
    fn takes(&self, value: &[u8]) -> bool {
        match self {
            ValueMatcher::Exact(exact) => **exact == *value,
            ValueMatcher::Regex(regex) => regex.is_match(value),
        }
    }
}

/// A condition on a parameter of the query.
#[derive(Debug)]
pub(super) struct QueryMatcher {
    pub(super) name: Box<str>,
    pub(super) value: ValueMatcher,
}

impl QueryMatcher {
    pub(super) fn takes(&self, query: Option<&str>) -> bool {
        let pairs = query.into_iter().flat_map(|query| query.split('&'));
        let named = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut named = named.filter(|(name, _)| decoded_bytes(name).eq(self.name.bytes()));
        let Some((_, value)) = named.next() else { return false };
        match &self.value {
            ValueMatcher::Exact(exact) => decoded_bytes(value).eq(exact.iter().copied()),
            ValueMatcher::Regex(regex) => regex.is_match(&decoded(value)),
        }
    }
}

/// The bytes of a percent-encoded text (RFC 3986 section 2.1). A `%` that two hexadecimal digits don't follow stands
/// for itself, and so does `+`: what it means is the app's convention.
fn decoded_bytes(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        if let [b'%', high, low, tail @ ..] = rest
            && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
        {
            rest = tail;
            return Some(high << 4 | low);
        }
        let (first, tail) = rest.split_first()?;
        rest = tail;
        Some(*first)
    })
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    if text.contains('%') {
        Cow::Owned(decoded_bytes(text).collect())
    } else {
        Cow::Borrowed(text.as_bytes())
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
