//! The virtual host of a request.

use std::collections::HashMap;

use crate::model::HostMatch;

/// Virtual hosts by host: an exact host before suffixes, a longer suffix before a shorter, all of them before any.
#[derive(Debug, Default)]
pub(super) struct HostTable {
    exact: HashMap<Box<str>, usize>,
    suffixes: HashMap<Box<str>, usize>,
    longest_suffix: usize,
    any: Option<usize>,
}

impl HostTable {
    /// Adds a host; of two alike the first stays.
    pub(super) fn insert(&mut self, host: &HostMatch, virtual_host: usize) {
        match host {
            HostMatch::Exact(host) => {
                self.exact.entry(folded(host)).or_insert(virtual_host);
            }
            HostMatch::Suffix(suffix) => {
                self.longest_suffix = self.longest_suffix.max(suffix.len());
                self.suffixes.entry(folded(suffix)).or_insert(virtual_host);
            }
            HostMatch::Any => {
                self.any.get_or_insert(virtual_host);
            }
        }
    }

    /// The virtual host of a host in lower case and without port.
    pub(super) fn find(&self, host: &str) -> Option<usize> {
        if let Some(&found) = self.exact.get(host) {
            return Some(found);
        }
        if !self.suffixes.is_empty() {
            // From the left, so the longest first. Nothing longer than the longest suffix is hashed, so a hostile host
            // of thousands of dots costs no more than reading it.
            for (dot, _) in host.match_indices('.').skip_while(|(dot, _)| *dot == 0) {
                let suffix = host.get(dot + 1..).unwrap_or_default();
                if suffix.len() <= self.longest_suffix
                    && let Some(&found) = self.suffixes.get(suffix)
                {
                    return Some(found);
                }
            }
        }
        self.any
    }
}

fn folded(host: &str) -> Box<str> {
    host.to_ascii_lowercase().into_boxed_str()
}
