//! What stands after the `?`: parameters that the verb knows, each once, each with a value that means something. All
//! know `timeout`, with which clients in Go say how long they wait: answers come within the API's own limit.

use std::time::Duration;

use axum::extract::Query;
use http::Uri;

use super::page::{PageToken, PageTokenError};
use super::select::{FieldSelector, LabelSelector, Selector, SelectorError};
use crate::store::Revision;

/// How one object is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Get {
    pub(crate) pretty: Pretty,
    pub(crate) rows: Rows,
}

/// How a collection is read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Read {
    pub(crate) selector: Selector,
    pub(crate) follow: Follow,
    pub(crate) pretty: Pretty,
    pub(crate) rows: Rows,
}

/// Whether changes are wanted, or what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    List {
        state: State,
        /// How many objects at most; `None`: all.
        limit: Option<usize>,
    },
    Watch {
        start: Start,
        bookmarks: Bookmarks,
        /// `None`: the server's own limit.
        timeout: Option<Duration>,
    },
}

/// Which state of a collection is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The latest, which must not be older than this.
    NotOlderThan(Revision),
    /// As it was at this revision.
    Exact(Revision),
    /// The page that this token names.
    Page(PageToken),
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what is there, as if just added.
    There,
    /// With what is there, not older than this, as if just added, and a bookmark at its end (`sendInitialEvents`).
    Initial(Revision),
    /// After this revision.
    After(Revision),
    /// Now.
    Now,
}

/// Whether a watch also says up to where it has seen everything (`allowWatchBookmarks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bookmarks {
    Send,
    Omit,
}

/// Whether an answer is written for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pretty {
    Yes,
    No,
}

/// What a row of a table carries beside its cells (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Nothing.
    Bare,
    /// The object's metadata.
    Metadata,
    /// The object.
    Object,
}

/// How a write is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) dry_run: DryRun,
    pub(crate) pretty: Pretty,
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
    #[error("the query parameter {name}: {error}")]
    Selector { name: &'static str, error: SelectorError },
    #[error("the query parameter {0} means something for a watch only")]
    WatchOnly(&'static str),
    #[error("the query parameter {0} means something for a list only")]
    ListOnly(&'static str),
    #[error("the query parameter {name} is given; {right}")]
    Together { name: &'static str, right: &'static str },
    #[error("the query parameter continue: {0}")]
    Page(#[from] PageTokenError),
}

/// Reads the query of a get.
pub(crate) fn get(uri: &Uri) -> Result<Get, QueryError> {
    let mut parameters = Parameters::parse(uri, GET_PARAMETERS)?;
    // The latest state is not older than any that was read before.
    parameters.revision()?;
    Ok(Get {
        pretty: parameters.pretty()?,
        rows: parameters.rows()?,
    })
}

/// Reads the query of a list or a watch.
pub(crate) fn read(uri: &Uri) -> Result<Read, QueryError> {
    let mut parameters = Parameters::parse(uri, LIST_PARAMETERS)?;
    let pretty = parameters.pretty()?;
    let rows = parameters.rows()?;
    let selector = parameters.selector()?;
    let timeout = parameters.whole("timeoutSeconds", "a whole number of seconds is right")?;
    let timeout = timeout.map(|seconds| Duration::from_secs(seconds.into()));
    let follow = if parameters.flag("watch")? {
        parameters.watch(timeout)?
    } else {
        // A list is answered at once, whatever time it is given.
        parameters.list()?
    };
    Ok(Read {
        selector,
        follow,
        pretty,
        rows,
    })
}

/// Reads the query of a create, replace or patch.
pub(crate) fn write(uri: &Uri) -> Result<Write, QueryError> {
    let mut parameters = Parameters::parse(uri, WRITE_PARAMETERS)?;
    match parameters.take("fieldValidation").as_deref() {
        None | Some("" | "Strict") => {}
        Some(held) => {
            return Err(QueryError::Value {
                name: "fieldValidation",
                held: held.to_owned(),
                right: "Strict is right: a field that is not known is refused here, never dropped",
            });
        }
    }
    // Nobody's fields are kept apart; the name is only checked as Kubernetes does.
    if let Some(held) = parameters.take("fieldManager")
        && (held.len() > FIELD_MANAGER_BYTES_MAX || held.chars().any(char::is_control))
    {
        return Err(QueryError::Value {
            name: "fieldManager",
            held,
            right: "up to 128 printable characters are right",
        });
    }
    parameters.write()
}

/// Reads the query of a delete.
pub(crate) fn delete(uri: &Uri) -> Result<Write, QueryError> {
    let mut parameters = Parameters::parse(uri, DELETE_PARAMETERS)?;
    parameters.deletion()
}

/// Reads the query of a delete of many: which, and how.
pub(crate) fn delete_collection(uri: &Uri) -> Result<(Selector, Write), QueryError> {
    let mut parameters = Parameters::parse(uri, DELETE_COLLECTION_PARAMETERS)?;
    Ok((parameters.selector()?, parameters.deletion()?))
}

/// Reads the query of a document of discovery.
pub(crate) fn discovery(uri: &Uri) -> Result<Pretty, QueryError> {
    Parameters::parse(uri, &["pretty", "timeout"])?.pretty()
}

/// How a document of OpenAPI is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenApi {
    pub(crate) pretty: Pretty,
    /// Of the document that is meant.
    pub(crate) hash: Option<String>,
}

/// Reads the query of a document of OpenAPI.
pub(crate) fn open_api(uri: &Uri) -> Result<OpenApi, QueryError> {
    let mut parameters = Parameters::parse(uri, &["hash", "pretty", "timeout"])?;
    Ok(OpenApi {
        pretty: parameters.pretty()?,
        hash: parameters.take("hash"),
    })
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
        Ok(self.choice(name)?.unwrap_or(false))
    }

    /// `None`: not said.
    fn choice(&mut self, name: &'static str) -> Result<Option<bool>, QueryError> {
        match self.take(name).as_deref() {
            None => Ok(None),
            Some("0" | "false") => Ok(Some(false)),
            Some("1" | "true") => Ok(Some(true)),
            Some(held) => Err(QueryError::Value {
                name,
                held: held.to_owned(),
                right: "true or false is right",
            }),
        }
    }

    fn whole(&mut self, name: &'static str, right: &'static str) -> Result<Option<u32>, QueryError> {
        let Some(held) = self.take(name) else {
            return Ok(None);
        };
        let whole = held.parse::<u32>();
        whole.map(Some).map_err(|_| QueryError::Value { name, held, right })
    }

    /// "0" asks for any state, however old; the latest is one.
    fn revision(&mut self) -> Result<Option<Revision>, QueryError> {
        match self.take("resourceVersion").as_deref() {
            None | Some("" | "0") => Ok(None),
            Some(held) => held.parse().map(Some).map_err(|_| QueryError::Value {
                name: "resourceVersion",
                held: held.to_owned(),
                right: "the metadata.resourceVersion of a list or an object is right",
            }),
        }
    }

    fn pretty(&mut self) -> Result<Pretty, QueryError> {
        Ok(if self.flag("pretty")? { Pretty::Yes } else { Pretty::No })
    }

    fn rows(&mut self) -> Result<Rows, QueryError> {
        match self.take("includeObject").as_deref() {
            None | Some("" | "Metadata") => Ok(Rows::Metadata),
            Some("None") => Ok(Rows::Bare),
            Some("Object") => Ok(Rows::Object),
            Some(held) => Err(QueryError::Value {
                name: "includeObject",
                held: held.to_owned(),
                right: "None, Metadata or Object is right",
            }),
        }
    }

    fn selector(&mut self) -> Result<Selector, QueryError> {
        let text = self.take("labelSelector").unwrap_or_default();
        let wrong = |error| QueryError::Selector {
            name: "labelSelector",
            error,
        };
        let labels: LabelSelector = text.parse().map_err(wrong)?;
        let text = self.take("fieldSelector").unwrap_or_default();
        let wrong = |error| QueryError::Selector {
            name: "fieldSelector",
            error,
        };
        let fields: FieldSelector = text.parse().map_err(wrong)?;
        Ok(Selector { labels, fields })
    }

    fn match_is(&mut self) -> Result<Option<Match>, QueryError> {
        match self.take("resourceVersionMatch").as_deref() {
            None | Some("") => Ok(None),
            Some("Exact") => Ok(Some(Match::Exact)),
            Some("NotOlderThan") => Ok(Some(Match::NotOlderThan)),
            Some(held) => Err(QueryError::Value {
                name: "resourceVersionMatch",
                held: held.to_owned(),
                right: "Exact or NotOlderThan is right",
            }),
        }
    }

    fn list(&mut self) -> Result<Follow, QueryError> {
        if self.flag("allowWatchBookmarks")? {
            return Err(QueryError::WatchOnly("allowWatchBookmarks"));
        }
        if self.choice("sendInitialEvents")?.is_some() {
            return Err(QueryError::WatchOnly("sendInitialEvents"));
        }
        let limit = self
            .whole("limit", "a whole number of objects is right")?
            .filter(|limit| *limit > 0);
        let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let given = self.0.iter().any(|(name, _)| name == "resourceVersion");
        let (revision, match_is) = (self.revision()?, self.match_is()?);
        if let Some(token) = self.take("continue").filter(|token| !token.is_empty()) {
            if revision.is_some() || match_is.is_some() {
                let right =
                    "leave out resourceVersion and resourceVersionMatch: the token says of which state the page is";
                return Err(QueryError::Together {
                    name: "continue",
                    right,
                });
            }
            let state = State::Page(token.parse()?);
            return Ok(Follow::List { state, limit });
        }
        let state = match (match_is, revision) {
            (Some(_), None) if !given => {
                let name = "resourceVersionMatch";
                let right = "resourceVersion, which it is about, must be given too";
                return Err(QueryError::Together { name, right });
            }
            (Some(Match::Exact), None) => {
                let (name, held) = ("resourceVersionMatch", "Exact".to_owned());
                let right = "resourceVersion must be that of a list or an object then";
                return Err(QueryError::Value { name, held, right });
            }
            (Some(Match::Exact), Some(revision)) => State::Exact(revision),
            // Of a list in pages, a revision names the state (Kubernetes, "Semantics for get and list").
            (None, Some(revision)) if limit.is_some() => State::Exact(revision),
            (None | Some(Match::NotOlderThan), revision) => State::NotOlderThan(revision.unwrap_or_default()),
        };
        Ok(Follow::List { state, limit })
    }

    fn watch(&mut self, timeout: Option<Duration>) -> Result<Follow, QueryError> {
        for name in ["limit", "continue"] {
            if self.take(name).is_some_and(|held| !held.is_empty() && held != "0") {
                return Err(QueryError::ListOnly(name));
            }
        }
        let bookmarks = if self.flag("allowWatchBookmarks")? {
            Bookmarks::Send
        } else {
            Bookmarks::Omit
        };
        let (revision, match_is) = (self.revision()?, self.match_is()?);
        let start = match (self.choice("sendInitialEvents")?, match_is) {
            (None, Some(_)) => {
                return Err(QueryError::Together {
                    name: "resourceVersionMatch",
                    right: "a watch takes it with sendInitialEvents only",
                });
            }
            (Some(_), None | Some(Match::Exact)) => {
                return Err(QueryError::Together {
                    name: "sendInitialEvents",
                    right: "resourceVersionMatch=NotOlderThan must be given too",
                });
            }
            (Some(true), Some(Match::NotOlderThan)) => Start::Initial(revision.unwrap_or_default()),
            (Some(false), Some(Match::NotOlderThan)) => revision.map_or(Start::Now, Start::After),
            (None, None) => revision.map_or(Start::There, Start::After),
        };
        Ok(Follow::Watch {
            start,
            bookmarks,
            timeout,
        })
    }

    fn write(&mut self) -> Result<Write, QueryError> {
        let dry_run = match self.take("dryRun").as_deref() {
            None | Some("") => DryRun::No,
            Some("All") => DryRun::All,
            Some(held) => {
                return Err(QueryError::Value {
                    name: "dryRun",
                    held: held.to_owned(),
                    right: "All is right",
                });
            }
        };
        let pretty = self.pretty()?;
        Ok(Write { dry_run, pretty })
    }

    /// Nothing here has dependents or a time to end gracefully, so each policy and period means the same.
    fn deletion(&mut self) -> Result<Write, QueryError> {
        self.whole("gracePeriodSeconds", "a whole number of seconds is right")?;
        match self.take("propagationPolicy").as_deref() {
            None | Some("" | "Orphan" | "Background" | "Foreground") => self.write(),
            Some(held) => Err(QueryError::Value {
                name: "propagationPolicy",
                held: held.to_owned(),
                right: "Orphan, Background or Foreground is right",
            }),
        }
    }
}

/// How a revision is meant (`resourceVersionMatch`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Exact,
    NotOlderThan,
}

/// The parameters of a get; [`super::openapi`] says what each means.
pub(crate) const GET_PARAMETERS: &[&str] = &["includeObject", "pretty", "resourceVersion", "timeout"];
/// Of a list or a watch.
pub(crate) const LIST_PARAMETERS: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "includeObject",
    "labelSelector",
    "limit",
    "pretty",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeout",
    "timeoutSeconds",
    "watch",
];
/// Of a create, replace or patch.
pub(crate) const WRITE_PARAMETERS: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "pretty", "timeout"];
/// Of a delete.
pub(crate) const DELETE_PARAMETERS: &[&str] =
    &["dryRun", "gracePeriodSeconds", "pretty", "propagationPolicy", "timeout"];
/// Of a delete of many.
pub(crate) const DELETE_COLLECTION_PARAMETERS: &[&str] = &[
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "labelSelector",
    "pretty",
    "propagationPolicy",
    "timeout",
];

/// Kubernetes' own limit.
const FIELD_MANAGER_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(query: &str) -> Uri {
        format!("/api/v1/services?{query}").parse().expect(query)
    }

    fn follow(query: &str) -> Follow {
        read(&uri(query)).expect(query).follow
    }

    #[test]
    fn lists_know_their_parameters() {
        let list = |state, limit| Follow::List { state, limit };
        let latest = |revision| State::NotOlderThan(Revision(revision));
        for (query, expect) in [
            ("", list(latest(0), None)),
            (
                "resourceVersion=0&limit=0&timeoutSeconds=3&pretty=true",
                list(latest(0), None),
            ),
            ("resourceVersion=41", list(latest(41), None)),
            (
                "resourceVersion=41&resourceVersionMatch=NotOlderThan&limit=5",
                list(latest(41), Some(5)),
            ),
            (
                "resourceVersion=0&resourceVersionMatch=NotOlderThan",
                list(latest(0), None),
            ),
            (
                "resourceVersion=41&resourceVersionMatch=Exact",
                list(State::Exact(Revision(41)), None),
            ),
            ("resourceVersion=41&limit=5", list(State::Exact(Revision(41)), Some(5))),
        ] {
            assert_eq!(follow(query), expect, "{query}");
        }
        let token = PageToken::after(Some(Revision(41)), "a", "b");
        let query = format!("continue={token}&limit=5&resourceVersion=");
        assert_eq!(follow(&query), list(State::Page(token), Some(5)));
    }

    #[test]
    fn watches_know_their_parameters() {
        let watch = |start| Follow::Watch {
            start,
            bookmarks: Bookmarks::Omit,
            timeout: None,
        };
        for (query, expect) in [
            ("", Start::There),
            ("&resourceVersion=0", Start::There),
            ("&resourceVersion=41", Start::After(Revision(41))),
            (
                "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
                Start::Initial(Revision(0)),
            ),
            (
                "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=41",
                Start::Initial(Revision(41)),
            ),
            ("&sendInitialEvents=false&resourceVersionMatch=NotOlderThan", Start::Now),
            (
                "&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=41",
                Start::After(Revision(41)),
            ),
        ] {
            assert_eq!(follow(&format!("watch=1{query}")), watch(expect), "{query}");
        }
        let all = "watch=1&resourceVersion=41&labelSelector=app%3Dx&allowWatchBookmarks=true&timeoutSeconds=5";
        let read = read(&uri(all)).expect(all);
        assert_eq!(read.selector.labels, "app=x".parse().expect("a selector"));
        let (start, timeout) = (Start::After(Revision(41)), Some(Duration::from_secs(5)));
        let bookmarks = Bookmarks::Send;
        assert_eq!(
            read.follow,
            Follow::Watch {
                start,
                bookmarks,
                timeout
            }
        );
    }

    #[test]
    fn writes_know_their_parameters() {
        let all = "dryRun=All&fieldManager=kubectl&fieldValidation=Strict&pretty=1";
        let (dry_run, pretty) = (DryRun::All, Pretty::Yes);
        assert_eq!(write(&uri(all)), Ok(Write { dry_run, pretty }));
        let all = "dryRun=All&gracePeriodSeconds=0&propagationPolicy=Background&pretty=1";
        assert_eq!(delete(&uri(all)), Ok(Write { dry_run, pretty }));
        let many = delete_collection(&uri("labelSelector=a&fieldSelector=metadata.name%3Db")).expect("it is right");
        assert_eq!(many.0.labels, "a".parse().expect("a selector"));
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (query, expect) in [
            (
                "limits=1",
                "the query parameter \"limits\" is not known here; known: allowWatchBookmarks, continue, fieldSelector, \
                 includeObject, labelSelector, limit, pretty, resourceVersion, resourceVersionMatch, sendInitialEvents, \
                 timeout, timeoutSeconds, watch",
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
                "limit=-1",
                "the query parameter limit is \"-1\"; a whole number of objects is right",
            ),
            (
                "watch=1&limit=5",
                "the query parameter limit means something for a list only",
            ),
            (
                "allowWatchBookmarks=1",
                "the query parameter allowWatchBookmarks means something for a watch only",
            ),
            (
                "sendInitialEvents=0",
                "the query parameter sendInitialEvents means something for a watch only",
            ),
            (
                "resourceVersionMatch=Exact",
                "the query parameter resourceVersionMatch is given; resourceVersion, which it is about, must be given too",
            ),
            (
                "resourceVersionMatch=Exact&resourceVersion=0",
                "the query parameter resourceVersionMatch is \"Exact\"; resourceVersion must be that of a list or an \
                 object then",
            ),
            (
                "watch=1&resourceVersionMatch=Exact&resourceVersion=1",
                "the query parameter resourceVersionMatch is given; a watch takes it with sendInitialEvents only",
            ),
            (
                "watch=1&sendInitialEvents=true",
                "the query parameter sendInitialEvents is given; resourceVersionMatch=NotOlderThan must be given too",
            ),
            (
                "continue=x",
                "the query parameter continue: \"x\" is no token of this control plane; metadata.continue of the page \
                 before is right",
            ),
            (
                "fieldSelector=spec.type%3Da",
                "the query parameter fieldSelector: \"spec.type\" is no field to select by; metadata.name and \
                 metadata.namespace are",
            ),
            (
                "includeObject=All",
                "the query parameter includeObject is \"All\"; None, Metadata or Object is right",
            ),
        ] {
            assert_eq!(read(&uri(query)).expect_err(query).to_string(), expect);
        }
        for (query, expect) in [
            ("dryRun=Some", "the query parameter dryRun is \"Some\"; All is right"),
            (
                "fieldValidation=Warn",
                "the query parameter fieldValidation is \"Warn\"; Strict is right: a field that is not known is refused \
                 here, never dropped",
            ),
            (
                "force=true",
                "the query parameter \"force\" is not known here; known: dryRun, fieldManager, fieldValidation, pretty, \
                 timeout",
            ),
        ] {
            assert_eq!(write(&uri(query)).expect_err(query).to_string(), expect);
        }
        let error = delete(&uri("propagationPolicy=All")).expect_err("no policy");
        assert_eq!(
            error.to_string(),
            "the query parameter propagationPolicy is \"All\"; Orphan, Background or Foreground is right"
        );
        let error = none(&uri("x=1")).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "the query parameter \"x\" is not known here; known: none"
        );
    }
}
