//! What names may look like.

use crate::decode::{Errors, Node};

/// Whether a text is a DNS label (RFC 1123 section 2.1): 1 to 63 of `a-z`, `0-9` and `-`, neither first nor last a
/// `-`. Services, Namespaces and Workloads are named so.
pub fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether a text is a DNS name: labels joined by dots, at most 253 characters. Other resources are named so.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Whether a text may be the key of a label or annotation (Kubernetes, "Labels and Selectors"): 1 to 63 letters,
/// digits, `-`, `_` and `.`, beginning and ending with a letter or digit; before it may stand a DNS name and `/`.
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified_part(name),
        None => is_qualified_part(text),
    }
}

/// Whether a text may be the value of a label: as the part of a key without prefix, or empty.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified_part(text)
}

/// Whether a text may name a field of a header (RFC 9110 section 5.1: a token), at most 256 characters. Names of
/// HTTP/2's pseudo-fields are none.
pub(crate) fn is_header_name(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=256).contains(&text.len()) && text.bytes().all(token)
}

/// Whether a text may be the value of a header field that is set: visible ASCII, spaces and tabs, no space at either
/// end (RFC 9110 section 5.5), 1 to 4096 characters.
pub(crate) fn is_header_value(text: &str) -> bool {
    let visible = |b: u8| matches!(b, b'\t' | b' '..=b'~');
    (1..=4096).contains(&text.len()) && text.bytes().all(visible) && text.trim_ascii() == text
}

/// Whether a text is a trust domain (SPIFFE-ID, section 2.1): 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`.
pub(crate) fn is_trust_domain(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    (1..=255).contains(&text.len()) && text.bytes().all(allowed)
}

/// What is wrong with a text as a path to match or to redirect to: it begins with `/`, has no empty segment and none
/// that is `.` or `..` in any spelling, no fragment and no escaped slash (Gateway API, HTTPPathMatch), and only
/// characters of paths (RFC 3986 section 3.3); at most 1024.
pub(crate) fn path_problem(text: &str) -> Option<&'static str> {
    let lower = text.to_ascii_lowercase();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&b);
    if !text.starts_with('/') {
        Some("does not begin with '/'")
    } else if text.len() > 1024 {
        Some("is longer than 1024 characters")
    } else if text.contains("//") {
        Some("holds '//'")
    } else if lower.contains("%2f") {
        Some("holds an escaped slash")
    } else if text.contains('#') {
        Some("holds '#'")
    } else if text.contains('?') {
        Some("holds '?': a path is matched without its query")
    } else if !text.bytes().all(allowed) {
        Some("holds characters that stand in no path (escape them with %)")
    } else if !escapes_are_whole(text) {
        Some("holds a '%' without two hexadecimal digits behind it")
    } else if lower
        .split('/')
        .any(|segment| matches!(segment.replace("%2e", ".").as_str(), "." | ".."))
    {
        Some("holds a segment '.' or '..'")
    } else {
        None
    }
}

/// Reads a trust domain.
pub(crate) fn trust_domain(node: &Node<'_>, errors: &mut Errors) -> Option<String> {
    let remedy = "1 to 255 of a-z, 0-9, '.', '-' and '_' are right, without spiffe://";
    checked(node, errors, is_trust_domain, "is no trust domain", remedy)
}

/// Reads a DNS label.
pub(crate) fn label(node: &Node<'_>, errors: &mut Errors) -> Option<String> {
    checked(node, errors, is_label, LABEL_PROBLEM, LABEL_REMEDY)
}

/// Reads a DNS name.
pub(crate) fn subdomain(node: &Node<'_>, errors: &mut Errors) -> Option<String> {
    checked(
        node,
        errors,
        is_subdomain,
        "is no name",
        "up to 253 characters are right: parts of a-z, 0-9 and '-', joined by '.'",
    )
}

/// Reads the name of a port: a label of at most 15 characters with a letter (Kubernetes, IANA_SVC_NAME), or as long
/// as a label in slices.
pub(crate) fn port_name(node: &Node<'_>, errors: &mut Errors) -> Option<String> {
    checked(node, errors, is_label, "is no name of a port", LABEL_REMEDY)
}

/// Reads the name of a kind, whether it is known or not. `remedy` says what would be right.
pub(crate) fn kind(node: &Node<'_>, errors: &mut Errors, remedy: &str) -> Option<String> {
    let is_right = |kind: &str| (1..=63).contains(&kind.len()) && kind.bytes().all(|b| b.is_ascii_alphanumeric());
    checked(node, errors, is_right, "is no kind", remedy)
}

/// Reads a text that a function takes.
pub(crate) fn checked(
    node: &Node<'_>,
    errors: &mut Errors,
    is_right: impl FnOnce(&str) -> bool,
    problem: &str,
    remedy: &str,
) -> Option<String> {
    let text = node.text(errors)?;
    if is_right(text) {
        return Some(text.to_owned());
    }
    node.refuse(errors, problem, remedy);
    None
}

fn is_qualified_part(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len()) && text.bytes().all(inner) && ends(bytes.first()) && ends(bytes.last())
}

fn escapes_are_whole(text: &str) -> bool {
    let hex = |b: Option<&u8>| b.is_some_and(u8::is_ascii_hexdigit);
    let behind = text.split('%').skip(1);
    behind
        .map(str::as_bytes)
        .all(|rest| hex(rest.first()) && hex(rest.get(1)))
}

const LABEL_PROBLEM: &str = "is no name";
const LABEL_REMEDY: &str = "1 to 63 characters of a-z, 0-9 and '-' are right, neither first nor last a '-'";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(is_right: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(is_right(text), "{text:?} is good");
        }
        for text in bad {
            assert!(!is_right(text), "{text:?} is bad");
        }
    }

    #[test]
    fn names() {
        let long = "a".repeat(64);
        check(
            is_label,
            &["a", "1", "a-b", &long[1..]],
            &["", "-a", "a-", "A", "a.b", "a_b", "é", &long],
        );
        let longest = ["a".repeat(63).as_str(); 4].join(".");
        check(
            is_subdomain,
            &["a", "a.b", &longest[2..]],
            &["", ".", "a.", ".a", "a..b", "a_b", &longest],
        );
        let keys = ["a", "A_b.c", "app.kubernetes.io/name"];
        check(
            is_label_key,
            &keys,
            &["", "/", "a/", "/a", "-a", "a/b/c", "A.b/c", "x y", &long],
        );
        check(is_label_value, &["", "a", "V1.2_x"], &["-", "a-", "a b", "版", &long]);
    }

    #[test]
    fn header_fields() {
        check(
            is_header_name,
            &["a", "X-Forwarded-For", "!#$"],
            &["", ":path", "a b", "a:", "é", "a\r\n", "a\0"],
        );
        check(
            is_header_value,
            &["a", "a b", "a\tb", "~"],
            &["", " a", "a ", "a\r\nb", "a\0", "é", "\u{7f}"],
        );
    }

    #[test]
    fn paths() {
        check(
            |text| path_problem(text).is_none(),
            &["/", "/a", "/a/", "/a.b/..c", "/%41", "/a;b=c,d", "/%E4%B8%AD"],
            &[
                "",
                "a",
                "//",
                "/a//b",
                "/./a",
                "/a/..",
                "/a/.",
                "/../a",
                "/%2e%2E/a",
                "/.%2e",
                "/a%2Fb",
                "/a#b",
                "/a?b",
                "/a b",
                "/中",
                "/%",
                "/%4",
                "/%zz",
                "/a\0",
                "/\\",
            ],
        );
    }
}
