//! Lists in pages: where the next one begins, so that all pages together are the list as it was when the first was
//! asked for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::store::{Revision, Stored};

/// Where a page begins (`continue`). Its text is for this control plane to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageToken {
    /// Of which state the page is; `None`: of the latest, for a client whose state is forgotten and that goes on all
    /// the same.
    pub(crate) revision: Option<Revision>,
    /// The last object before the page.
    namespace: String,
    name: String,
}

/// A text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no token of this control plane; metadata.continue of the page before is right")]
pub(crate) struct PageTokenError(String);

impl PageToken {
    pub(crate) fn after(revision: Option<Revision>, namespace: &str, name: &str) -> PageToken {
        PageToken {
            revision,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The same place in the latest state.
    pub(crate) fn in_latest(self) -> PageToken {
        PageToken { revision: None, ..self }
    }

    fn is_before(&self, stored: &Stored) -> bool {
        let metadata = &stored.object.metadata;
        (self.namespace.as_str(), self.name.as_str()) < (metadata.namespace.as_str(), metadata.name.as_str())
    }
}

/// No name holds a slash.
impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision {
            Some(revision) => write!(f, "{revision}")?,
            None => f.write_str(LATEST)?,
        }
        write!(f, "/{}/{}", self.namespace, self.name)
    }
}

impl FromStr for PageToken {
    type Err = PageTokenError;

    fn from_str(text: &str) -> Result<Self, PageTokenError> {
        let wrong = || PageTokenError(text.to_owned());
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(revision), Some(namespace), Some(name), None) if !name.is_empty() => {
                let revision = match revision {
                    LATEST => None,
                    revision => Some(revision.parse().map_err(|_| wrong())?),
                };
                Ok(PageToken::after(revision, namespace, name))
            }
            _ => Err(wrong()),
        }
    }
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Stored>>,
    /// Where the next page begins; `None`: this is the last.
    pub(crate) next: Option<PageToken>,
    /// How many objects come after it.
    pub(crate) remaining: usize,
}

/// Cuts a page of at most `limit` objects out of all that are selected, which are sorted and were so at `revision`.
pub(crate) fn cut(
    mut selected: Vec<Arc<Stored>>,
    after: Option<&PageToken>,
    limit: Option<usize>,
    revision: Revision,
) -> Page {
    if let Some(after) = after {
        selected.retain(|stored| after.is_before(stored));
    }
    let limit = limit.unwrap_or(usize::MAX);
    let remaining = selected.len().saturating_sub(limit);
    selected.truncate(limit);
    let next = selected.last().filter(|_| remaining > 0).map(|last| {
        let metadata = &last.object.metadata;
        PageToken::after(Some(revision), &metadata.namespace, &metadata.name)
    });
    Page {
        objects: selected,
        next,
        remaining,
    }
}

const LATEST: &str = "latest";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::samples::service;

    fn stored(namespace: &str, name: &str) -> Arc<Stored> {
        let (object, revision) = (Arc::new(service(namespace, name, 80)), Revision(1));
        Arc::new(Stored { object, revision })
    }

    #[test]
    fn tokens_read_back_and_others_are_refused() {
        for token in [
            PageToken::after(Some(Revision(7)), "citizen", "portal"),
            PageToken::after(None, "", "citizen"),
        ] {
            assert_eq!(token.to_string().parse(), Ok(token.clone()), "{token}");
        }
        for text in ["", "x", "7", "7/a", "7/a/", "7/a/b/c", "-1/a/b", "/a/b"] {
            assert!(text.parse::<PageToken>().is_err(), "{text}");
        }
    }

    proptest! {
        /// Whatever the pages' size, all pages together are the list, each is full but the last, and each says how many
        /// follow.
        #[test]
        fn pages_are_the_list(
            names in prop::collection::btree_set(("[ab]", "[a-c]{1,3}"), 0..20),
            limit in 1usize..8,
        ) {
            let all: Vec<Arc<Stored>> = names.iter().map(|(namespace, name)| stored(namespace, name)).collect();
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let page = cut(all.clone(), after.as_ref(), Some(limit), Revision(9));
                seen.extend(page.objects.clone());
                prop_assert_eq!(page.remaining, all.len() - seen.len());
                prop_assert_eq!(page.next.is_some(), page.remaining > 0);
                let Some(next) = page.next else { break };
                prop_assert_eq!(page.objects.len(), limit);
                prop_assert_eq!(next.revision, Some(Revision(9)));
                after = Some(next.to_string().parse().expect("a token"));
            }
            prop_assert_eq!(seen, all);
        }
    }
}
