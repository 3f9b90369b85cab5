//! Whether RE2, which gRPC's clients and Envoy match with, reads a regular expression as Weir does.
//!
//! Both read almost the same language, and one expression that RE2 does not take makes a client refuse the routes of
//! everybody: so what may be read in two ways is told apart here (RE2, "Syntax"; the regex crate, "Syntax").

/// Why RE2 would refuse this expression or read it otherwise; `None`: it reads it as Weir does.
pub(super) fn refuses(pattern: &str) -> Option<&'static str> {
    let mut rest = pattern.chars().peekable();
    // How deep in `[`: a class in a class is Weir's alone.
    let mut in_class = false;
    while let Some(c) = rest.next() {
        match (c, in_class) {
            ('\\', _) => match rest.next() {
                Some('u' | 'U' | '<' | '>') => return Some("has an escape that RE2 does not know"),
                Some('b' | 'B') if rest.peek() == Some(&'{') => {
                    return Some("has a kind of word boundary that RE2 does not know");
                }
                _ => {}
            },
            ('[', false) => {
                in_class = true;
                // A `]` at the beginning, also after `^`, is one of the class.
                rest.next_if_eq(&'^');
                rest.next_if_eq(&']');
            }
            ('[', true) if rest.peek() == Some(&':') => {
                // A named class, up to `:]`.
                for c in rest.by_ref() {
                    if c == ']' {
                        break;
                    }
                }
            }
            ('[', true) => return Some("has a class in a class, which RE2 does not know"),
            (']', true) => in_class = false,
            ('&' | '-' | '~', true) if rest.peek() == Some(&c) => {
                return Some("has an operation on classes, which RE2 does not know");
            }
            ('(', false) if rest.next_if_eq(&'?').is_some() => {
                let flags: String = std::iter::from_fn(|| rest.next_if(char::is_ascii_alphabetic)).collect();
                if flags.contains(['x', 'R', 'u']) {
                    return Some("has a flag that RE2 does not know");
                }
            }
            ('{', false) => {
                let counts: String = std::iter::from_fn(|| rest.next_if(|c| *c != '}')).collect();
                let counts = counts.split(',').map(str::trim);
                if counts
                    .filter(|count| !count.is_empty())
                    .any(|count| !at_most_1000(count))
                {
                    return Some("repeats more than 1000 times, which RE2 does not take");
                }
            }
            _ => {}
        }
    }
    None
}

fn at_most_1000(count: &str) -> bool {
    count.parse::<u32>().is_ok_and(|count| count <= 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_re2_reads_otherwise_is_told_apart() {
        for pattern in [
            "",
            "/a/.*",
            r"/v[12]/\d+(?:/x)?",
            "[^a-z]{1,3}",
            "[[:alpha:]]+",
            "[]a]",
            "(?i)abc",
            "(?P<name>x)",
            "a{2,}",
            r"\[a&&b\]",
            "a&&b--",
        ] {
            assert_eq!(refuses(pattern), None, "{pattern}");
        }
        for pattern in [
            "[a-z&&[^b]]",
            "[a-z--b]",
            "[a[bc]]",
            "(?x) a b",
            "(?ix)a",
            r"\u0041",
            r"\b{start}a",
            r"\<a",
            "a{2000}",
            "a{1,1001}",
        ] {
            assert!(refuses(pattern).is_some(), "{pattern}");
        }
    }
}
