//! The order of routes, by the text of HTTPRouteRule.matches in the Gateway API.

use http::Method;
use proptest::prelude::*;
use weir_policy::model::Route;
use weir_policy::precedence::sort;

use crate::support::*;

/// `first` comes before `second`, whichever order they are given in.
#[track_caller]
fn precedes(first: Route, second: Route) {
    for mut routes in [vec![first.clone(), second.clone()], vec![second, first.clone()]] {
        sort(&mut routes);
        assert_eq!(routes[0].matches, first.matches);
    }
}

#[test]
fn each_criterion_outranks_those_after_it() {
    let all = |route: Route| route.method(Method::GET).header("x", is("1")).query("q", is("1"));
    // Exact path, then the longest prefix, whatever else is matched.
    precedes(route("", exact("/a")), all(route("", prefix("/a/b/c"))));
    precedes(route("", prefix("/a/bc")), all(route("", prefix("/a/b"))));
    precedes(route("", prefix("/a")), all(route("", prefix("/"))));
    // Then a method.
    precedes(
        route("", prefix("/a")).method(Method::GET),
        route("", prefix("/a")).header("x", is("1")).header("y", is("1")),
    );
    precedes(
        route("", exact("/a")).method(Method::GET),
        route("", exact("/a")).header("x", is("1")),
    );
    // Then the most header fields.
    precedes(
        route("", prefix("/a")).header("x", is("1")).header("y", is("1")),
        route("", prefix("/a"))
            .header("z", is("1"))
            .query("p", is("1"))
            .query("q", is("1")),
    );
    // Then the most query parameters.
    precedes(
        route("", prefix("/a")).query("p", is("1")).query("q", is("1")),
        route("", prefix("/a")).query("r", is("1")),
    );
}

#[test]
fn regular_expressions_are_between_exact_paths_and_prefixes() {
    precedes(route("", exact("/a")), route("", regex("/abc.*")));
    precedes(route("", regex("/.")), route("", prefix("/a/b/c/d")));
    precedes(route("", regex("/ab.*")), route("", regex("/a.*")).method(Method::GET));
}

#[test]
fn a_trailing_slash_makes_no_prefix_longer() {
    precedes(route("", prefix("/a")).method(Method::GET), route("", prefix("/a/")));
}

#[test]
fn ties_keep_their_order() {
    let names = |routes: &[Route]| routes.iter().map(|route| route.name.clone()).collect::<Vec<_>>();
    let mut routes = vec![
        route("older", prefix("/a")).header("x", is("1")),
        route("newer", prefix("/a/")).header("y", is("2")),
        route("exact", exact("/z")),
        route("newest", prefix("/b")).header("z", is("2")),
    ];
    sort(&mut routes);
    assert_eq!(names(&routes), ["exact", "older", "newer", "newest"]);
}

proptest! {
    #[test]
    fn sorting_twice_changes_nothing(seeds in prop::collection::vec((0_u8..3, 0_u8..4, any::<bool>(), 0_u8..3, 0_u8..3), 0..12)) {
        let mut routes: Vec<Route> = seeds.iter().enumerate().map(|(index, (kind, length, method, headers, queries))| {
            let path = "/a".repeat(usize::from(*length) + 1);
            let mut built = route(&index.to_string(), match kind { 0 => exact(&path), 1 => prefix(&path), _ => regex(&path) });
            if *method {
                built = built.method(Method::GET);
            }
            for name in ["x", "y"].into_iter().take(usize::from(*headers)) {
                built = built.header(name, is("1"));
            }
            for name in ["p", "q"].into_iter().take(usize::from(*queries)) {
                built = built.query(name, is("1"));
            }
            built
        }).collect();
        sort(&mut routes);
        let once = routes.clone();
        sort(&mut routes);
        prop_assert_eq!(&routes, &once);
        let mut names: Vec<usize> = routes.iter().map(|route| route.name.parse().expect("a number")).collect();
        names.sort_unstable();
        prop_assert_eq!(names, (0..seeds.len()).collect::<Vec<_>>());
    }
}
