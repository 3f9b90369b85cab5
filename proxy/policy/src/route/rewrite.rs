//! How a path changes on its way upstream.

use crate::model::{PathMatch, PathRewrite};

/// The path (without query) that `path`, matched by `matches`, becomes; always with a `/` first.
///
/// A prefix is replaced as the Gateway API's table for ReplacePrefixMatch says: `/` at the end of the prefix or of its
/// replacement does not count, one at the end of the request's path stays. Where `matches` is no prefix, or not one of
/// `path`, the whole path is taken for the prefix; compiling a table refuses such routes.
pub fn rewrite_path(rewrite: &PathRewrite, matches: &PathMatch, path: &str) -> String {
    let rewritten = match rewrite {
        PathRewrite::Full(full) => full.clone(),
        PathRewrite::Prefix(replacement) => {
            let rest = match matches {
                PathMatch::Prefix(prefix) => path.strip_prefix(without_trailing_slash(prefix)).unwrap_or_default(),
                PathMatch::Exact(_) | PathMatch::Regex(_) => "",
            };
            format!("{}{rest}", without_trailing_slash(replacement))
        }
    };
    if rewritten.starts_with('/') {
        rewritten
    } else {
        format!("/{rewritten}")
    }
}

/// A prefix as it is compared (Gateway API, HTTPPathMatch: a trailing `/` is ignored); empty for `/`.
pub(crate) fn without_trailing_slash(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_replaced_by_the_table_of_the_gateway_api() {
        for (path, prefix, replacement, expect) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            // Beside the table: the prefix that takes everything, and a replacement without its slash.
            ("/", "/", "/xyz", "/xyz/"),
            ("/a/b", "/", "/xyz", "/xyz/a/b"),
            ("/foo/bar", "/foo", "xyz", "/xyz/bar"),
            ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
        ] {
            let rewrite = PathRewrite::Prefix(replacement.to_owned());
            let matches = PathMatch::Prefix(prefix.to_owned());
            let row = format!("{path} {prefix} {replacement}");
            assert_eq!(rewrite_path(&rewrite, &matches, path), expect, "{row}");
        }
    }

    #[test]
    fn a_full_path_replaces_all() {
        for (full, expect) in [("/new", "/new"), ("new", "/new"), ("", "/"), ("/new/", "/new/")] {
            for matches in [PathMatch::Prefix("/a".to_owned()), PathMatch::Exact("/a/b".to_owned())] {
                assert_eq!(
                    rewrite_path(&PathRewrite::Full(full.to_owned()), &matches, "/a/b"),
                    expect
                );
            }
        }
    }
}
