//! The routes of one virtual host by path.

use std::collections::HashMap;

use regex::bytes::Regex;

use super::RouteId;

/// Routes by path. Each list of ids rises, so that its first match is the one of the highest precedence in it.
#[derive(Debug, Default)]
pub(super) struct PathTable {
    exact: HashMap<Box<str>, Vec<RouteId>>,
    prefixes: PrefixTree,
    regexes: Vec<(Regex, RouteId)>,
}

impl PathTable {
    /// Adds a route for exactly this path. Ids come in rising order, here and below.
    pub(super) fn insert_exact(&mut self, path: &str, id: RouteId) {
        self.exact.entry(path.into()).or_default().push(id);
    }

    /// Adds a route for this prefix, given without trailing slash.
    pub(super) fn insert_prefix(&mut self, prefix: &str, id: RouteId) {
        self.prefixes.insert(prefix, id);
    }

    /// Adds a route for paths that this expression takes.
    pub(super) fn insert_regex(&mut self, regex: Regex, id: RouteId) {
        self.regexes.push((regex, id));
    }

    /// The expression of a route that has one.
    pub(super) fn regex(&self, id: RouteId) -> Option<&Regex> {
        let found = self.regexes.binary_search_by_key(&id, |(_, id)| *id).ok()?;
        self.regexes.get(found).map(|(regex, _)| regex)
    }

    /// The lowest id whose path condition takes `path` and for which `takes` holds.
    pub(super) fn first(&self, path: &str, takes: impl Fn(RouteId) -> bool) -> Option<RouteId> {
        let mut best: Option<RouteId> = None;
        let mut look_through = |ids: &[RouteId]| {
            let better = ids.iter().copied().take_while(|id| best.is_none_or(|best| *id < best));
            if let Some(found) = better.into_iter().find(|id| takes(*id)) {
                best = Some(found);
            }
        };
        if let Some(ids) = self.exact.get(path) {
            look_through(ids);
        }
        self.prefixes.visit(path, &mut look_through);
        for (regex, id) in &self.regexes {
            if best.is_some_and(|best| best < *id) {
                break;
            }
            if regex.is_match(path.as_bytes()) && takes(*id) {
                return Some(*id);
            }
        }
        best
    }
}

/// Prefixes by segment: a radix tree whose edges are whole segments, since prefixes end only between them.
#[derive(Debug)]
struct PrefixTree {
    /// The first is the root: the prefix that takes every path.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    ids: Vec<RouteId>,
    children: HashMap<Box<str>, usize>,
}

impl Default for PrefixTree {
    fn default() -> Self {
        PrefixTree {
            nodes: vec![Node::default()],
        }
    }
}

impl PrefixTree {
    fn insert(&mut self, prefix: &str, id: RouteId) {
        let mut at = 0;
        for segment in segments(prefix) {
            let next = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { return };
            at = *node.children.entry(segment.into()).or_insert(next);
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.ids.push(id);
        }
    }

    /// Calls `each` with the ids of every prefix of `path`.
    fn visit(&self, path: &str, mut each: impl FnMut(&[RouteId])) {
        let mut at = self.nodes.first();
        let mut rest = segments(path);
        while let Some(node) = at {
            each(&node.ids);
            if node.children.is_empty() {
                return;
            }
            let child = rest.next().and_then(|segment| node.children.get(segment));
            at = child.and_then(|&child| self.nodes.get(child));
        }
    }
}

/// The segments of a path that begins with `/`; of another one, the empty one among them, none.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many routes are looked at to find none, or the one, for a path among `count` paths and prefixes.
    fn looked_at(count: u32) -> Vec<usize> {
        let mut table = PathTable::default();
        for number in 0..count {
            table.insert_exact(&format!("/exact/{number}"), RouteId(number * 3));
            table.insert_prefix(&format!("/prefix/{number}"), RouteId(number * 3 + 1));
            table.insert_prefix(&format!("/{number}/a/b"), RouteId(number * 3 + 2));
        }
        let paths = ["/exact/0", "/prefix/0/x", "/0/a/b/c/d", "/exact/none", "/prefix", "/"];
        let look = |path: &str| {
            let looked = std::cell::Cell::new(0);
            table.first(path, |_| {
                looked.set(looked.get() + 1);
                false
            });
            looked.get()
        };
        paths.into_iter().map(look).collect()
    }

    #[test]
    fn among_ten_thousand_no_more_are_looked_at_than_among_one() {
        assert_eq!(looked_at(1), [1, 1, 1, 0, 0, 0]);
        assert_eq!(looked_at(10_000), looked_at(1));
    }

    #[test]
    fn what_cannot_win_is_not_looked_at() {
        let mut table = PathTable::default();
        table.insert_exact("/a", RouteId(0));
        table.insert_prefix("", RouteId(1));
        table.insert_prefix("/a", RouteId(2));
        let looked = std::cell::Cell::new(0);
        let found = table.first("/a", |_| {
            looked.set(looked.get() + 1);
            true
        });
        assert_eq!((found, looked.get()), (Some(RouteId(0)), 1));
    }
}
