//! Matching, rule by rule of the Gateway API's text, and the compiled table against a naive matcher.

use http::{HeaderMap, Method, StatusCode};
use proptest::prelude::*;
use weir_policy::model::*;
use weir_policy::route::{CompileError, Problem, RequestFacts, RouteTable, check_regex, taken_whole};

use crate::support::*;

fn compile(virtual_hosts: &[VirtualHost]) -> RouteTable {
    RouteTable::compile(virtual_hosts).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// The name of the route that a request of `method`, `url` (host, path, query) and `headers` takes.
fn found<'a>(table: &'a RouteTable, method: &Method, url: &str, headers: &HeaderMap) -> Option<&'a str> {
    let at = url.find('/').expect("a url with a path");
    let (host, rest) = url.split_at(at);
    let (path, query) = rest
        .split_once('?')
        .map_or((rest, None), |(path, query)| (path, Some(query)));
    let facts = RequestFacts {
        host,
        path,
        query,
        method,
        headers,
    };
    table.find(&facts).map(|id| table.route(id).name.as_str())
}

/// Each url and the route it takes by GET without header fields, `-` for none.
#[track_caller]
fn check(virtual_hosts: &[VirtualHost], cases: &[(&str, &str)]) {
    let table = compile(virtual_hosts);
    for (url, expect) in cases {
        let name = found(&table, &Method::GET, url, &HeaderMap::new()).unwrap_or("-");
        assert_eq!(name, *expect, "{url}");
    }
}

#[test]
fn the_most_specific_host_is_taken() {
    let all = |name| vec![route(name, prefix("/"))];
    check(
        &[
            virtual_host(&["*"], all("any")),
            virtual_host(&["*.org"], all("short")),
            virtual_host(&["*.example.org", "*.example.net"], all("long")),
            virtual_host(&["a.example.org"], all("exact")),
        ],
        &[
            ("a.example.org/", "exact"),
            ("b.example.org/", "long"),
            ("c.b.example.org/", "long"),
            ("x.a.example.org/", "long"),
            ("b.example.net/", "long"),
            // A wildcard takes one label or more, never none.
            ("example.org/", "short"),
            ("org/", "any"),
            (".org/", "any"),
            ("notexample.org/", "short"),
            ("example.net/", "any"),
            ("/", "any"),
        ],
    );
}

#[test]
fn a_request_stays_in_the_virtual_host_of_its_host() {
    check(
        &[
            virtual_host(&["*"], vec![route("any", prefix("/"))]),
            virtual_host(&["a"], vec![route("only /x", exact("/x"))]),
        ],
        &[("a/x", "only /x"), ("a/y", "-"), ("b/y", "any")],
    );
}

#[test]
fn without_a_host_for_it_a_request_takes_no_route() {
    check(
        &[virtual_host(&["a"], vec![route("a", prefix("/"))])],
        &[("b/", "-"), ("a.b/", "-"), ("/", "-")],
    );
    check(&[], &[("a/", "-")]);
}

#[test]
fn hosts_are_compared_in_lower_case() {
    check(
        &[virtual_host(&["A.B", "*.C"], vec![route("it", prefix("/"))])],
        &[("a.b/", "it"), ("x.c/", "it")],
    );
}

#[test]
fn an_exact_path_takes_itself_alone() {
    check(
        &[virtual_host(
            &["*"],
            vec![route("foo", exact("/foo")), route("foo/", exact("/foo/"))],
        )],
        &[
            ("a/foo", "foo"),
            ("a/foo/", "foo/"),
            ("a/Foo", "-"),
            ("a/foo/b", "-"),
            ("a/fo", "-"),
            ("a/", "-"),
        ],
    );
}

#[test]
fn a_prefix_takes_whole_segments() {
    check(
        &[virtual_host(&["*"], vec![route("abc", prefix("/abc"))])],
        &[
            ("a/abc", "abc"),
            ("a/abc/", "abc"),
            ("a/abc/def", "abc"),
            ("a/abc//", "abc"),
            ("a/abc?x", "abc"),
            ("a/abcd", "-"),
            ("a/ab", "-"),
            ("a/ABC", "-"),
            ("a//abc", "-"),
            ("a/", "-"),
        ],
    );
}

#[test]
fn a_trailing_slash_of_a_prefix_is_ignored() {
    check(
        &[virtual_host(&["*"], vec![route("abc", prefix("/abc/"))])],
        &[
            ("a/abc", "abc"),
            ("a/abc/", "abc"),
            ("a/abc/def", "abc"),
            ("a/abcd", "-"),
        ],
    );
}

#[test]
fn the_prefix_slash_takes_every_path() {
    let table = compile(&[virtual_host(&["*"], vec![route("all", prefix("/"))])]);
    for path in ["/", "/a", "/a/b/", "//", "*", ""] {
        let facts = RequestFacts {
            host: "a",
            path,
            query: None,
            method: &Method::OPTIONS,
            headers: &HeaderMap::new(),
        };
        assert!(table.find(&facts).is_some(), "{path}");
    }
}

#[test]
fn a_regular_expression_takes_the_whole_path() {
    check(
        &[virtual_host(
            &["*"],
            vec![
                route("alternatives", regex("/a|/ab")),
                route("number", regex(r"/n/\d+")),
                route("own anchors", regex("^/anchored$")),
                route("insensitive", regex("(?i)/case")),
            ],
        )],
        &[
            ("a/a", "alternatives"),
            ("a/ab", "alternatives"),
            ("a/abc", "-"),
            ("a/x/a", "-"),
            ("a/n/12", "number"),
            ("a/n/12x", "-"),
            ("a/n/", "-"),
            // RE2: \d is of ASCII.
            ("a/n/٣", "-"),
            ("a/anchored", "own anchors"),
            ("a/anchored\n", "-"),
            ("a/CASE", "insensitive"),
        ],
    );
}

#[test]
fn the_first_route_in_order_is_taken_whatever_its_kind() {
    check(
        &[virtual_host(
            &["*"],
            vec![
                route("regex first", regex("/a/.*x")),
                route("prefix", prefix("/a")),
                route("exact after prefix", exact("/a/b")),
                route("longer after shorter", prefix("/a/b")),
                route("exact", exact("/c")),
                route("regex last", regex("/.*")),
            ],
        )],
        &[
            ("a/a/x", "regex first"),
            ("a/a/b", "prefix"),
            ("a/a/b/c", "prefix"),
            ("a/c", "exact"),
            ("a/d", "regex last"),
        ],
    );
}

#[test]
fn a_method_is_matched_by_its_name() {
    let table = compile(&[virtual_host(
        &["*"],
        vec![
            route("post", prefix("/")).method(Method::POST),
            route("get", exact("/")).method(Method::GET),
        ],
    )]);
    for (method, url, expect) in [
        (Method::POST, "a/", Some("post")),
        (Method::GET, "a/", Some("get")),
        (Method::HEAD, "a/", None),
        (Method::GET, "a/x", None),
    ] {
        assert_eq!(found(&table, &method, url, &HeaderMap::new()), expect, "{method} {url}");
    }
}

#[test]
fn all_conditions_on_header_fields_hold() {
    let table = compile(&[virtual_host(
        &["*"],
        vec![
            route("both", prefix("/"))
                .header("version", is("2"))
                .header("color", like("red|blue")),
            route("list", prefix("/")).header("version", is("1,2")),
            route("long list", prefix("/")).header("version", is("1,2,3")),
            route("bytes", prefix("/")).header("version", like(r".*\xff")),
            route("present", prefix("/")).header("color", like(".*")),
        ],
    )]);
    for (fields, expect) in [
        (&[("version", "2"), ("color", "red")][..], Some("both")),
        (&[("version", "2"), ("color", "blue")], Some("both")),
        (&[("version", "2"), ("color", "dark blue")], Some("present")),
        (&[("version", "2")], None),
        (&[("color", "red")], Some("present")),
        (&[("color", "")], Some("present")),
        (&[("version", "two"), ("color", "red")], Some("present")),
        (&[], None),
        // RFC 9110 section 5.3: several fields are one list.
        (&[("version", "1"), ("version", "2")], Some("list")),
        (&[("version", "2"), ("version", "1")], None),
        (
            &[("version", "1"), ("version", "2"), ("version", "3")],
            Some("long list"),
        ),
        (&[("version", "2"), ("version", "2"), ("color", "red")], Some("present")),
    ] {
        assert_eq!(
            found(&table, &Method::GET, "a/", &headers(fields)),
            expect,
            "{fields:?}"
        );
    }
    let mut opaque = HeaderMap::new();
    opaque.append(
        "version",
        http::HeaderValue::from_bytes(b"a\xff").expect("opaque bytes are a field value"),
    );
    assert_eq!(found(&table, &Method::GET, "a/", &opaque), Some("bytes"));
}

#[test]
fn parameters_of_the_query_are_decoded_and_the_first_counts() {
    check(
        &[virtual_host(
            &["*"],
            vec![
                route("both", prefix("/"))
                    .query("city", is("Wu han"))
                    .query("day", like(r"\d+")),
                route("city", prefix("/")).query("city", is("武汉")),
                route("empty", prefix("/")).query("flag", is("")),
                route("plus", prefix("/")).query("sum", is("1+1")),
                route("percent", prefix("/")).query("p", is("100%")),
            ],
        )],
        &[
            ("a/?city=Wu%20han&day=12", "both"),
            ("a/?day=12&city=Wu%20han", "both"),
            ("a/?day=%31%32&c%69ty=Wu%20han", "both"),
            ("a/?city=Wu+han&day=12", "-"),
            ("a/?city=Wu%20han&day=x", "-"),
            ("a/?city=Wu%20han", "-"),
            ("a/?City=Wu%20han&day=1", "-"),
            ("a/?city=%E6%AD%A6%E6%B1%89", "city"),
            ("a/?city=%e6%ad%a6%e6%b1%89&city=x", "city"),
            ("a/?city=x&city=%E6%AD%A6%E6%B1%89", "-"),
            ("a/?flag", "empty"),
            ("a/?flag=", "empty"),
            ("a/?x&flag", "empty"),
            ("a/?flag=1", "-"),
            ("a/?flag=&flag=1", "empty"),
            ("a/?sum=1+1", "plus"),
            ("a/?p=100%", "percent"),
            ("a/?p=100%25", "percent"),
            ("a/?p=100%zz", "-"),
            ("a/?", "-"),
            ("a/", "-"),
        ],
    );
}

#[test]
fn a_route_that_is_passed_over_says_which_condition_does_not_hold() {
    let routes = vec![
        route("exact", exact("/a")),
        route("regex", regex("/b.*")),
        route("prefix", prefix("/c")),
        route("method", prefix("/")).method(Method::POST),
        route("header", prefix("/")).header("x", is("1")),
        route("absent", prefix("/")).header("y", like(".*")),
        route("query", prefix("/")).query("k", is("v")),
        route("taken", prefix("/")),
        route("later", prefix("/")),
    ];
    let table = compile(&[virtual_host(&["*.b", "c"], routes), virtual_host(&["d"], Vec::new())]);
    let explain = |host: &'static str| {
        let headers = headers(&[("x", "2")]);
        let facts = RequestFacts {
            host,
            path: "/cc",
            query: Some("k=w"),
            method: &Method::GET,
            headers: &headers,
        };
        let explained = table.explain(&facts);
        let name = |id| table.route(id).name.clone();
        let passed = explained.passed_over.iter();
        (
            explained.virtual_host.map(|host| host.name.to_string()),
            explained.taken.map(name),
            passed
                .map(|(id, unmet)| format!("{}: {unmet:?}", name(*id)))
                .collect::<Vec<_>>(),
        )
    };
    let (host, taken, passed) = explain("a.b");
    assert_eq!((host.as_deref(), taken.as_deref()), (Some("*.b c"), Some("taken")));
    let expect = [
        "exact: Path",
        "regex: Path",
        "prefix: Path",
        "method: Method(POST)",
        "header: Header(\"x\")",
        "absent: Header(\"y\")",
        "query: Query(\"k\")",
    ];
    assert_eq!(passed, expect);
    assert_eq!(explain("d"), (Some("d".to_owned()), None, Vec::new()));
    assert_eq!(explain("e"), (None, None, Vec::new()));
}

#[test]
fn ids_are_flat_over_all_virtual_hosts_in_order() {
    let hosts = [
        virtual_host(&["a"], vec![route("a0", prefix("/a")), route("a1", prefix("/"))]),
        virtual_host(&["b"], vec![]),
        virtual_host(&["c"], vec![route("c0", prefix("/"))]),
    ];
    let table = compile(&hosts);
    let routes: Vec<_> = table
        .routes()
        .map(|(id, route)| (id.index(), route.name.as_str()))
        .collect();
    assert_eq!(routes, [(0, "a0"), (1, "a1"), (2, "c0")]);
    assert_eq!(found(&table, &Method::GET, "c/", &HeaderMap::new()), Some("c0"));
}

/// What compiling one route of one virtual host finds wrong, as field and problem.
fn problems(virtual_hosts: &[VirtualHost]) -> Vec<(String, Problem)> {
    let errors = RouteTable::compile(virtual_hosts).err().unwrap_or_default();
    errors.into_iter().map(|error| (error.field, error.problem)).collect()
}

fn problem_of(route: Route) -> (String, Problem) {
    let mut problems = problems(&[virtual_host(&["*"], vec![route.clone()])]);
    assert_eq!(problems.len(), 1, "{route:?}: {problems:?}");
    problems.remove(0)
}

#[test]
fn what_no_request_can_meet_is_refused() {
    for (path, field, problem) in [
        (exact("a"), "matches.path.exact", Problem::PathNotAbsolute),
        (exact(""), "matches.path.exact", Problem::PathNotAbsolute),
        (prefix("a/"), "matches.path.prefix", Problem::PathNotAbsolute),
        (
            exact("/a?b"),
            "matches.path.exact",
            Problem::PathCharacter { character: '?' },
        ),
        (
            prefix("/a#b"),
            "matches.path.prefix",
            Problem::PathCharacter { character: '#' },
        ),
        (
            prefix("/a b"),
            "matches.path.prefix",
            Problem::PathCharacter { character: ' ' },
        ),
        (
            exact("/a\r\nx"),
            "matches.path.exact",
            Problem::PathCharacter { character: '\r' },
        ),
    ] {
        assert_eq!(problem_of(route("r", path)), (field.to_owned(), problem));
    }
    for (hosts, problem) in [
        (&[][..], Problem::NoHosts),
        (&["a:80"], Problem::NotAHost),
        (&["a/b"], Problem::NotAHost),
        (&["a*"], Problem::NotAHost),
        (&[""], Problem::NotAHost),
        (&["*."], Problem::NotAHost),
        (
            &["a", "A"],
            Problem::DuplicateHost {
                other: "a A".to_owned(),
            },
        ),
    ] {
        let problems = problems(&[virtual_host(hosts, vec![])]);
        assert_eq!(problems, [("hosts".to_owned(), problem)], "{hosts:?}");
    }
    let ipv6 = virtual_host(&["[::1]"], vec![]);
    assert_eq!(problems(&[ipv6]), []);
}

#[test]
fn what_the_model_forbids_is_refused() {
    let all = || route("r", prefix("/"));
    let field = |name: &str| name.to_owned();
    let twice = all().header("x", is("1")).header("x", is("2"));
    assert_eq!(
        problem_of(twice),
        (field("matches.headers[x]"), Problem::DuplicateCondition)
    );
    let twice = all().query("q", is("1")).query("q", like("2"));
    assert_eq!(
        problem_of(twice),
        (field("matches.query[q]"), Problem::DuplicateCondition)
    );

    let redirect = |status, path, host: Option<&str>| {
        Action::Redirect(Redirect {
            scheme: None,
            host: host.map(str::to_owned),
            port: None,
            path,
            status,
        })
    };
    let replaced = || Some(PathRewrite::Prefix("/x".to_owned()));
    let wrong = all().action(redirect(StatusCode::OK, replaced(), None));
    assert_eq!(problem_of(wrong), (field("redirect.status"), Problem::NotARedirect));
    let wrong = route("r", exact("/a")).action(redirect(StatusCode::FOUND, replaced(), None));
    assert_eq!(
        problem_of(wrong),
        (field("redirect.path"), Problem::PrefixRewriteWithoutPrefix)
    );
    let wrong = all().action(redirect(StatusCode::FOUND, None, Some("a b")));
    assert_eq!(problem_of(wrong), (field("redirect.host"), Problem::NotAnAuthority));

    let forward = |path, host: Option<&str>, request| {
        Action::Forward(Forward {
            backends: vec![],
            mirrors: vec![],
            rewrite: Rewrite {
                host: host.map(str::to_owned),
                path,
            },
            timeouts: Timeouts {
                request,
                backend_request: None,
            },
            retry: None,
        })
    };
    let wrong = all().action(forward(Some(PathRewrite::Full("/a\n".to_owned())), None, None));
    assert_eq!(
        problem_of(wrong),
        (field("rewrite.path"), Problem::PathCharacter { character: '\n' })
    );
    let wrong = all().action(forward(None, Some("user@host"), None));
    assert_eq!(problem_of(wrong), (field("rewrite.host"), Problem::NotAnAuthority));
    let wrong = all().action(forward(None, None, Some(std::time::Duration::ZERO)));
    assert_eq!(problem_of(wrong), (field("timeouts.request"), Problem::ZeroTimeout));
    let right = all().action(forward(replaced(), Some("a.b:80"), None));
    assert_eq!(problems(&[virtual_host(&["*"], vec![right])]), []);
}

#[test]
fn hostile_regular_expressions_are_refused() {
    for pattern in [
        "(",
        "a)(b",
        "a)|(b",
        "[",
        "(?P<x",
        "*",
        r"\p{Greek}",
        "(?x)a # no end",
        r"(a)\1",
        "(?=a)",
    ] {
        let (field, problem) = problem_of(route("r", regex(pattern)));
        assert!(matches!(problem, Problem::Regex { .. }), "{pattern}: {problem}");
        assert_eq!(field, "matches.path.regex");
        assert_eq!(check_regex(pattern), Err(problem));
    }
    assert_eq!(check_regex(r"/v\d+/.*"), Ok(()));
    let reason = "unclosed group".to_owned();
    assert_eq!(check_regex("a("), Err(Problem::Regex { reason }));
    for pattern in [
        "(a{1000}){1000}",
        "((((a{99}){99}){99}){99}){99}",
        r"(\w{200}|\d{200}){50}",
    ] {
        let (_, problem) = problem_of(route("r", prefix("/")).header("x", like(pattern)));
        assert!(matches!(problem, Problem::RegexTooBig { .. }), "{pattern}: {problem}");
    }
    let deep = "(".repeat(200) + &")".repeat(200);
    let (field, problem) = problem_of(route("r", prefix("/")).query("q", like(&deep)));
    assert!(matches!(problem, Problem::Regex { .. }), "{problem}");
    assert_eq!(field, "matches.query[q].regex");
    let long = "a".repeat(4097);
    assert!(matches!(
        problem_of(route("r", regex(&long))).1,
        Problem::RegexTooLong { max: 4096 }
    ));

    let many = |count: u32| {
        let routes = (0..count).map(|n| route(&n.to_string(), regex(&format!("/{n}"))));
        virtual_host(&["*"], routes.collect())
    };
    assert_eq!(problems(&[many(1000)]), []);
    let over = [("matches.path.regex".to_owned(), Problem::TooManyRegexes { max: 1000 })];
    assert_eq!(problems(&[many(1001)]), over);
    // Two routes may share one.
    let same = (0..2000).map(|n| route(&n.to_string(), regex("/a.*")));
    assert_eq!(problems(&[virtual_host(&["*"], same.collect())]), []);
}

#[test]
fn all_errors_come_at_once_each_with_its_place() {
    let errors = RouteTable::compile(&[
        virtual_host(
            &["a"],
            vec![
                route("one", exact("x")),
                route("two", regex("(")).header("x", like("[")),
            ],
        ),
        virtual_host(
            &["b", "a"],
            vec![route("three", prefix("/")), route("three", prefix("/x"))],
        ),
    ])
    .expect_err("five things are wrong");
    let places = errors.iter().map(|error| {
        (
            error.virtual_host.as_str(),
            error.route.as_deref(),
            error.field.as_str(),
        )
    });
    assert_eq!(
        places.collect::<Vec<_>>(),
        [
            ("a", Some("one"), "matches.path.exact"),
            ("a", Some("two"), "matches.path.regex"),
            ("a", Some("two"), "matches.headers[x].regex"),
            ("b a", None, "hosts"),
            ("b a", Some("three"), "name"),
        ]
    );
    assert_eq!(
        errors[0].to_string(),
        r#"virtual host "a", route "one": matches.path.exact "x" does not begin with '/'"#
    );
    assert_eq!(
        errors[3].to_string(),
        r#"virtual host "b a": hosts "a" is already a host of virtual host "a""#
    );
}

/// The same decision, written as the model's text says it and nothing else.
fn naive<'a>(virtual_hosts: &'a [VirtualHost], facts: &RequestFacts<'_>) -> Option<&'a Route> {
    let specificity = |host: &HostMatch| match host {
        HostMatch::Exact(exact) => (exact == facts.host).then_some((2, 0)),
        HostMatch::Suffix(suffix) => {
            let before = facts.host.strip_suffix(suffix.as_str())?.strip_suffix('.')?;
            (!before.is_empty()).then_some((1, suffix.len()))
        }
        HostMatch::Any => Some((0, 0)),
    };
    let ranked = virtual_hosts.iter().flat_map(|virtual_host| {
        let ranks = virtual_host.hosts.iter().filter_map(specificity);
        ranks.map(move |rank| (rank, virtual_host))
    });
    let (_, virtual_host) = ranked.max_by_key(|(rank, _)| *rank)?;
    virtual_host
        .routes
        .iter()
        .find(|route| naive_takes(&route.matches, facts))
}

fn naive_takes(matches: &RouteMatch, facts: &RequestFacts<'_>) -> bool {
    let path = match &matches.path {
        PathMatch::Exact(exact) => exact == facts.path,
        PathMatch::Prefix(prefix) if prefix == "/" => true,
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            facts.path == prefix || facts.path.starts_with(&format!("{prefix}/"))
        }
        PathMatch::Regex(pattern) => naive_regex(pattern, facts.path),
    };
    let headers = matches.headers.iter().all(|header| {
        let values: Vec<_> = facts
            .headers
            .get_all(&header.name)
            .iter()
            .map(|value| value.to_str().expect("ascii"))
            .collect();
        !values.is_empty() && naive_value(&header.value, &values.join(","))
    });
    let query = matches.query.iter().all(|condition| {
        let pairs = facts
            .query
            .unwrap_or_default()
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) => (naive_decoded(name), naive_decoded(value)),
                None => (naive_decoded(pair), String::new()),
            });
        let first = pairs.into_iter().find(|(name, _)| *name == condition.name);
        facts.query.is_some() && first.is_some_and(|(_, value)| naive_value(&condition.value, &value))
    });
    path && headers && query && matches.method.as_ref().is_none_or(|method| method == facts.method)
}

fn naive_value(condition: &ValueMatch, value: &str) -> bool {
    match condition {
        ValueMatch::Exact(exact) => exact == value,
        ValueMatch::Regex(pattern) => naive_regex(pattern, value),
    }
}

fn naive_regex(pattern: &str, value: &str) -> bool {
    let regex = regex::Regex::new(&format!("^(?:{pattern})$")).expect("a pattern of this file");
    regex.is_match(value)
}

/// The tests' requests encode nothing but `k` and `1`.
fn naive_decoded(text: &str) -> String {
    text.replace("%6b", "k").replace("%6B", "k").replace("%31", "1")
}

fn a_path() -> impl Strategy<Value = String> {
    let segments = prop::collection::vec(prop::sample::select(vec!["", "a", "b", "ab"]), 0..4);
    segments.prop_map(|segments| format!("/{}", segments.join("/")))
}

fn a_value() -> impl Strategy<Value = ValueMatch> {
    let exact = prop::sample::select(vec!["", "1", "2", "1,2"]).prop_map(is);
    let regex = prop::sample::select(vec!["1|2", "1.*", ".*", "", "[^1]+"]).prop_map(like);
    prop_oneof![exact, regex]
}

fn a_route() -> impl Strategy<Value = RouteMatch> {
    let patterns = vec!["/a.*", "/a|/ab", ".*b", "/(a|b)/[ab]*", "/", ".*"];
    let path = prop_oneof![
        a_path().prop_map(PathMatch::Exact),
        a_path().prop_map(PathMatch::Prefix),
        prop::sample::select(patterns).prop_map(regex),
    ];
    let method = prop::option::weighted(0.3, prop::sample::select(vec![Method::GET, Method::POST]));
    let header = prop::option::weighted(0.3, (prop::sample::select(vec!["x", "y"]), a_value()));
    let query = prop::option::weighted(0.3, (prop::sample::select(vec!["k", "l"]), a_value()));
    (path, method, header, query).prop_map(|(path, method, header, query)| {
        let mut built = route("", path);
        built.matches.method = method;
        if let Some((name, value)) = header {
            built = built.header(name, value);
        }
        if let Some((name, value)) = query {
            built = built.query(name, value);
        }
        built.matches
    })
}

fn some_virtual_hosts() -> impl Strategy<Value = Vec<VirtualHost>> {
    let hosts = vec!["*", "a", "b", "a.b", "x.a.b", "*.b", "*.a.b", "*.x.a.b", "*.c"];
    let hosts = prop::sample::subsequence(hosts, 1..6).prop_shuffle();
    (hosts, prop::collection::vec(prop::collection::vec(a_route(), 0..12), 6)).prop_map(|(hosts, routes)| {
        let each = hosts.into_iter().zip(routes).map(|(host, matches)| {
            let routes = matches.into_iter().enumerate().map(|(index, matches)| Route {
                name: format!("{host}#{index}"),
                matches,
                ..route("", prefix("/"))
            });
            virtual_host(&[host], routes.collect())
        });
        each.collect()
    })
}

fn a_request() -> impl Strategy<Value = (String, String, Option<String>, Method, HeaderMap)> {
    let host = prop::sample::select(vec!["a", "b", "a.b", "x.a.b", "y.x.a.b", ".b", "b.c", "c", "", "q"]);
    let path = prop_oneof![9 => a_path(), 1 => Just("*".to_owned()), 1 => Just(String::new())];
    let pair = prop::sample::select(vec!["k=1", "k=2", "%6b=1", "l=%31", "l", "k", "l=2", "", "k=1=", "=1"]);
    let query = prop::option::of(prop::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&")));
    let method = prop::sample::select(vec![Method::GET, Method::POST, Method::PUT]);
    let field = (
        prop::sample::select(vec!["x", "y"]),
        prop::sample::select(vec!["", "1", "2", "1,2"]),
    );
    let fields = prop::collection::vec(field, 0..4).prop_map(|fields| headers(&fields));
    (host.prop_map(str::to_owned), path, query, method, fields)
}

/// Routes in order, and by which earlier one each is taken whole.
#[track_caller]
fn takers(routes: Vec<Route>, expect: &[Option<usize>]) {
    assert_eq!(taken_whole(&virtual_host(&["*"], routes)), expect);
}

#[test]
fn a_route_is_taken_whole_by_an_earlier_one_that_asks_no_more() {
    let at = |path: PathMatch| route("r", path);
    takers(
        vec![at(prefix("/")), at(prefix("/a")), at(exact("/a")), at(regex("/a.*"))],
        &[None, Some(0), Some(0), Some(0)],
    );
    takers(
        vec![
            at(prefix("/a/")),
            at(exact("/a")),
            at(prefix("/a/b")),
            at(prefix("/ab")),
            at(exact("/a/")),
        ],
        &[None, Some(0), Some(0), None, Some(0)],
    );
    takers(
        vec![at(exact("/a")), at(exact("/a")), at(prefix("/a")), at(exact("/a/"))],
        &[None, Some(0), None, Some(2)],
    );
    takers(
        vec![at(regex("/a.")), at(regex("/a.")), at(regex("/a.*")), at(prefix("/a"))],
        &[None, Some(0), None, None],
    );
    let get = || at(prefix("/")).method(Method::GET);
    takers(
        vec![get(), at(prefix("/")), get(), at(prefix("/")).method(Method::PUT)],
        &[None, None, Some(0), Some(1)],
    );
    let x = |value: &str| at(prefix("/")).header("x", is(value));
    takers(
        vec![
            x("1"),
            x("2"),
            x("1").header("y", is("1")),
            at(prefix("/")).query("x", is("1")),
        ],
        &[None, None, Some(0), None],
    );
    let q = || at(prefix("/")).query("q", is("1"));
    takers(
        vec![q(), q().header("x", is("1")), at(prefix("/"))],
        &[None, Some(0), None],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_compiled_table_equals_the_naive_matcher(
        hosts in some_virtual_hosts(),
        requests in prop::collection::vec(a_request(), 24),
    ) {
        let table = compile(&hosts);
        for (host, path, query, method, headers) in &requests {
            let facts = RequestFacts { host, path, query: query.as_deref(), method, headers };
            let compiled = table.find(&facts).map(|id| &table.route(id).name);
            let expected = naive(&hosts, &facts).map(|route| &route.name);
            prop_assert_eq!(compiled, expected, "{:?}", facts);
        }
    }

    /// What is said to take no request takes none, whatever the request.
    #[test]
    fn a_route_whose_requests_are_taken_whole_is_never_found(
        hosts in some_virtual_hosts(),
        requests in prop::collection::vec(a_request(), 24),
    ) {
        let table = compile(&hosts);
        let takers: Vec<Option<usize>> = hosts.iter().flat_map(taken_whole).collect();
        for (host, path, query, method, headers) in &requests {
            let facts = RequestFacts { host, path, query: query.as_deref(), method, headers };
            if let Some(found) = table.find(&facts) {
                prop_assert_eq!(takers[found.index()], None, "{:?}", facts);
            }
        }
    }

    #[test]
    fn what_is_explained_is_what_is_found(
        hosts in some_virtual_hosts(),
        requests in prop::collection::vec(a_request(), 24),
    ) {
        let table = compile(&hosts);
        for (host, path, query, method, headers) in &requests {
            let facts = RequestFacts { host, path, query: query.as_deref(), method, headers };
            let explained = table.explain(&facts);
            prop_assert_eq!(explained.taken, table.find(&facts), "{:?}", facts);
            // Each route that was passed over is missed by itself as well: alone in its host, it takes no such request.
            for (id, _) in explained.passed_over {
                let alone = compile(&[virtual_host(&["*"], vec![table.route(id).clone()])]);
                prop_assert_eq!(alone.find(&facts), None, "{:?}", facts);
            }
        }
    }

    #[test]
    fn no_text_makes_compiling_or_finding_panic(
        pattern in ".{0,40}",
        path in ".{0,40}",
        host in ".{0,20}",
        query in ".{0,20}",
    ) {
        let routes = vec![
            route("regex", regex(&pattern)).header("x", like(&pattern)).query(&path, like(&pattern)),
            route("exact", exact(&path)).query(&pattern, is(&path)),
            route("prefix", prefix(&path)),
        ];
        let _: Result<RouteTable, Vec<CompileError>> = RouteTable::compile(&[virtual_host(&[&host], routes)]);
        let table = compile(&[virtual_host(&["*", "*.b"], vec![route("all", prefix("/")).query("a", is("b")), route("", prefix("/a/b"))])]);
        let headers = HeaderMap::new();
        let _ = table.find(&RequestFacts { host: &host, path: &path, query: Some(&query), method: &Method::GET, headers: &headers });
    }
}
