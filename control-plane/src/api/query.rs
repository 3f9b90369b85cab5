//! What stands after the `?`: parameters that the verb knows, each once, each with a value that means something.

use std::time::Duration;

use axum::extract::Query;
use http::Uri;

use super::select::{Selector, SelectorError};
use crate::store::Revision;

/// How a collection is read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Read {
    pub(crate) selector: Selector,
    /// `None`: as it is now.
    pub(crate) from: Option<Revision>,
    pub(crate) follow: Follow,
}

/// Whether changes are wanted, or what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    List,
    Watch {
        bookmarks: Bookmarks,
        /// `None`: the server's own limit.
        timeout: Option<Duration>,
    },
}

/// Whether a watch also says up to where it has seen everything (`allowWatchBookmarks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bookmarks {
    Send,
    Omit,
}

/// Whether a write is for real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DryRun {
    No,
    All,
}

/// Why the query can't be read. The message names the parameter, what it held and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("the query is not made of name=value pairs")]
    Syntax,
    #[error("the query parameter {name:?} is not known here; known: {known}")]
    Unknown { name: String, known: String },
    #[error("the query parameter {0:?} is given twice")]
    Twice(String),
    #[error("the query parameter {name} is {held:?}; {right}")]
    Value {
        name: &'static str,
        held: String,
        right: &'static str,
    },
    #[error("the query parameter labelSelector: {0}")]
    Selector(#[from] SelectorError),
    #[error("the query parameter {0} means something for a watch only")]
    WatchOnly(&'static str),
}

/// Reads the query of a list or a watch.
pub(crate) fn read(uri: &Uri) -> Result<Read, QueryError> {
    let mut parameters = Parameters::parse(
        uri,
        &[
            "watch",
            "resourceVersion",
            "labelSelector",
            "allowWatchBookmarks",
            "timeoutSeconds",
        ],
    )?;
    let selector = parameters.take("labelSelector").unwrap_or_default().parse()?;
    // "0" asks for any state, however old; the latest is one.
    let from = match parameters.take("resourceVersion").as_deref() {
        None | Some("" | "0") => None,
        Some(held) => Some(held.parse().map_err(|_| QueryError::Value {
            name: "resourceVersion",
            held: held.to_owned(),
            right: "the metadata.resourceVersion of a list or an object is right",
        })?),
    };
    let bookmarks = if parameters.flag("allowWatchBookmarks")? {
        Bookmarks::Send
    } else {
        Bookmarks::Omit
    };
    let timeout = match parameters.take("timeoutSeconds") {
        None => None,
        Some(held) => match held.parse::<u32>() {
            Ok(seconds) => Some(Duration::from_secs(seconds.into())),
            Err(_) => {
                return Err(QueryError::Value {
                    name: "timeoutSeconds",
                    held,
                    right: "a whole number of seconds is right",
                });
            }
        },
    };
    let follow = if parameters.flag("watch")? {
        Follow::Watch { bookmarks, timeout }
    } else if bookmarks == Bookmarks::Send {
        return Err(QueryError::WatchOnly("allowWatchBookmarks"));
    } else if timeout.is_some() {
        return Err(QueryError::WatchOnly("timeoutSeconds"));
    } else {
        Follow::List
    };
    Ok(Read { selector, from, follow })
}

/// Reads the query of a create, replace, patch or delete.
pub(crate) fn write(uri: &Uri) -> Result<DryRun, QueryError> {
    let mut parameters = Parameters::parse(uri, &["dryRun"])?;
    match parameters.take("dryRun").as_deref() {
        None | Some("") => Ok(DryRun::No),
        Some("All") => Ok(DryRun::All),
        Some(held) => Err(QueryError::Value {
            name: "dryRun",
            held: held.to_owned(),
            right: "All is right",
        }),
    }
}

/// Refuses any parameter.
pub(crate) fn none(uri: &Uri) -> Result<(), QueryError> {
    Parameters::parse(uri, &[]).map(|_| ())
}

/// Reads the one parameter of `/readyz`: with `verbose`, each part is listed.
pub(crate) fn verbose(uri: &Uri) -> Result<Verbose, QueryError> {
    let mut parameters = Parameters::parse(uri, &["verbose"])?;
    Ok(if parameters.take("verbose").is_some() {
        Verbose::Yes
    } else {
        Verbose::No
    })
}

/// Whether all parts are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbose {
    Yes,
    No,
}

struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn parse(uri: &Uri, known: &[&str]) -> Result<Parameters, QueryError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| QueryError::Syntax)?;
        let mut seen = Vec::new();
        for (name, _) in &pairs {
            if !known.contains(&name.as_str()) {
                return Err(QueryError::Unknown {
                    name: name.clone(),
                    known: if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known.join(", ")
                    },
                });
            }
            if seen.contains(&name) {
                return Err(QueryError::Twice(name.clone()));
            }
            seen.push(name);
        }
        Ok(Parameters(pairs))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(held, _)| held == name)?;
        Some(self.0.swap_remove(at).1)
    }

    fn flag(&mut self, name: &'static str) -> Result<bool, QueryError> {
        match self.take(name).as_deref() {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(held) => Err(QueryError::Value {
                name,
                held: held.to_owned(),
                right: "true or false is right",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(query: &str) -> Uri {
        format!("/api/v1/services?{query}").parse().expect(query)
    }

    #[test]
    fn reads_know_their_parameters() {
        let list = read(&uri("")).expect("empty");
        assert_eq!((list.from, list.follow), (None, Follow::List));
        let all = "watch=1&resourceVersion=41&labelSelector=app%3Dx&allowWatchBookmarks=true&timeoutSeconds=5";
        let watch = read(&uri(all)).expect(all);
        assert_eq!(watch.from, Some(Revision(41)));
        assert_eq!(watch.selector, "app=x".parse().expect("a selector"));
        let timeout = Some(Duration::from_secs(5));
        let bookmarks = Bookmarks::Send;
        assert_eq!(watch.follow, Follow::Watch { bookmarks, timeout });
        assert_eq!(read(&uri("resourceVersion=0")).expect("any").from, None);
        assert_eq!(write(&uri("dryRun=All")), Ok(DryRun::All));
        assert_eq!(write(&uri("")), Ok(DryRun::No));
        assert_eq!(verbose(&uri("verbose")), Ok(Verbose::Yes));
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (query, expect) in [
            (
                "fieldSelector=a",
                "the query parameter \"fieldSelector\" is not known here; known: watch, resourceVersion, \
                 labelSelector, allowWatchBookmarks, timeoutSeconds",
            ),
            ("watch=1&watch=1", "the query parameter \"watch\" is given twice"),
            (
                "watch=yes",
                "the query parameter watch is \"yes\"; true or false is right",
            ),
            (
                "resourceVersion=x",
                "the query parameter resourceVersion is \"x\"; the metadata.resourceVersion of a list or an object is right",
            ),
            (
                "watch=1&timeoutSeconds=-1",
                "the query parameter timeoutSeconds is \"-1\"; a whole number of seconds is right",
            ),
            (
                "timeoutSeconds=1",
                "the query parameter timeoutSeconds means something for a watch only",
            ),
        ] {
            assert_eq!(read(&uri(query)).expect_err(query).to_string(), expect);
        }
        let error = write(&uri("dryRun=Some")).expect_err("no value of dryRun");
        assert_eq!(
            error.to_string(),
            "the query parameter dryRun is \"Some\"; All is right"
        );
        let error = none(&uri("x=1")).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "the query parameter \"x\" is not known here; known: none"
        );
    }
}
