//! What a sidecar says a request would do is what the request then does.

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use weir_test_mesh::{Member, MemberSettings, Script, TestMesh};

/// Explains, in words, and then sends the same request.
struct Case {
    method: &'static str,
    url: &'static str,
    headers: &'static [(&'static str, &'static str)],
    action: &'static str,
    status: u16,
    /// The end of the route's name, and of the names of those that were passed over, with why.
    route: &'static str,
    passed_over: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        method: "GET",
        url: "http://shop/cart?item=1",
        headers: &[],
        action: "forward",
        status: 200,
        route: "shop#rules[2].matches[0]",
        passed_over: &[
            "rules[1].matches[0]: the path is another",
            "rules[0].matches[0]: the method is not POST",
            "rules[0].matches[1]: header x-group is absent",
        ],
    },
    Case {
        method: "GET",
        url: "http://shop.default/cart/x",
        headers: &[("x-group", "alpha")],
        action: "forward",
        status: 200,
        route: "shop#rules[2].matches[0]",
        passed_over: &[
            "rules[1].matches[0]: the path is another",
            "rules[0].matches[0]: the method is not POST",
            "rules[0].matches[1]: header x-group holds another value",
        ],
    },
    Case {
        method: "POST",
        url: "http://shop.default.svc.cluster.local:80/cart",
        headers: &[],
        action: "forward",
        status: 201,
        route: "shop#rules[0].matches[0]",
        passed_over: &["rules[1].matches[0]: the path is another"],
    },
    Case {
        method: "GET",
        url: "http://shop:80/old/page?q=1",
        headers: &[],
        action: "redirect",
        status: 302,
        route: "shop#rules[1].matches[0]",
        passed_over: &[],
    },
    Case {
        method: "GET",
        url: "http://shop/nowhere",
        headers: &[],
        action: "refuse",
        status: 404,
        route: "",
        passed_over: &[
            "rules[1].matches[0]: the path is another",
            "rules[0].matches[0]: the path is another",
            "rules[0].matches[1]: the path is another",
            "rules[2].matches[0]: the path is another",
        ],
    },
    Case {
        method: "GET",
        url: "http://gone/",
        headers: &[],
        action: "refuse",
        status: 500,
        route: "gone#rules[0].matches[0]",
        passed_over: &[],
    },
    Case {
        method: "OPTIONS",
        url: "http://gone/",
        headers: &[
            ("origin", "https://www.page.example"),
            ("access-control-request-method", "PUT"),
        ],
        action: "respond",
        status: 204,
        route: "gone#rules[0].matches[0]",
        passed_over: &[],
    },
    Case {
        method: "OPTIONS",
        url: "http://gone/",
        headers: &[
            ("origin", "https://other.example"),
            ("access-control-request-method", "PUT"),
        ],
        action: "refuse",
        status: 403,
        route: "gone#rules[0].matches[0]",
        passed_over: &[],
    },
    Case {
        method: "GET",
        url: "http://empty/",
        headers: &[],
        action: "refuse",
        status: 503,
        route: "",
        passed_over: &[],
    },
    Case {
        method: "GET",
        url: "http://nobody/",
        headers: &[],
        action: "refuse",
        status: 502,
        route: "",
        passed_over: &[],
    },
    Case {
        method: "GET",
        url: "http://www.example.com/",
        headers: &[],
        action: "refuse",
        status: 502,
        route: "",
        passed_over: &[],
    },
];

const ROUTES: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: shop}]
  rules:
    - matches:
        - {path: {type: PathPrefix, value: /cart}, method: POST}
        - {path: {type: PathPrefix, value: /cart}, headers: [{name: x-group, value: beta}]}
      backendRefs: [{name: new, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /old/page}}]
      filters:
        - {type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 302}}
    - matches: [{path: {type: PathPrefix, value: /cart}}]
      timeouts: {request: 9s}
      backendRefs: [{name: shop, port: 80, weight: 3}, {name: other, port: 80, weight: 1}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: gone, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: gone}]
  rules:
    - filters: [{type: CORS, cors: {allowOrigins: [https://www.page.example]}}]
      backendRefs: [{name: nothing, port: 80}]
";

fn path(case: &Case) -> String {
    let encode = |text: &str| {
        text.replace('%', "%25")
            .replace('?', "%3f")
            .replace('&', "%26")
            .replace(' ', "%20")
    };
    let mut path = format!("/explain?method={}&url={}", case.method, encode(case.url));
    for (name, value) in case.headers {
        path.push_str(&format!("&header={name}:{value}"));
    }
    path
}

async fn send(a: &Member, case: &Case) -> StatusCode {
    let mut request = Request::builder().method(case.method).uri(case.url);
    for (name, value) in case.headers {
        request = request.header(*name, *value);
    }
    a.call(request.body(Full::default()).expect("a request")).await.status
}

fn texts<'a>(value: &'a Value, list: &str, field: &str) -> Vec<&'a str> {
    let items = value[list].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item[field].as_str()).collect()
}

#[tokio::test]
async fn what_is_explained_is_what_happens() {
    let mesh = TestMesh::start().await;
    let _shop = mesh.service("shop", Script::answer(200, "")).await;
    let settings = MemberSettings::default;
    let _shop_2 = mesh
        .workload("shop-2", "shop", Script::answer(200, ""), settings())
        .await;
    let _other = mesh.service("other", Script::answer(200, "")).await;
    let _new = mesh.service("new", Script::answer(201, "")).await;
    for name in ["gone", "empty"] {
        mesh.apply_service(name, name, weir_policy::model::AppProtocol::Http1)
            .await;
    }
    mesh.apply(ROUTES).await;
    let a = mesh.service("a", Script::answer(200, "")).await;

    let before = a.admin(Method::GET, &path(&CASES[0])).await.json();
    assert_eq!(before["outcome"]["action"], "ask", "GET asks nobody: {before}");
    let mut explained = Vec::new();
    for case in CASES {
        let explanation = a.admin(Method::POST, &path(case)).await.json();
        assert_eq!(explanation["outcome"]["action"], case.action, "{explanation:#}");
        let expected = (case.action == "forward").then_some(Value::Null);
        let expected = expected.unwrap_or_else(|| case.status.into());
        assert_eq!(explanation["outcome"]["status"], expected, "{explanation:#}");
        let route = explanation["route"]["name"].as_str().unwrap_or_default();
        assert!(route.ends_with(case.route), "{explanation:#}");
        let passed: Vec<String> = texts(&explanation["passed_over"], "routes", "name")
            .iter()
            .zip(texts(&explanation["passed_over"], "routes", "why"))
            .map(|(name, why)| format!("{}: {why}", name.split('#').next_back().unwrap_or_default()))
            .collect();
        if !case.passed_over.is_empty() {
            assert_eq!(passed, case.passed_over, "{explanation:#}");
        }
        // By now it is in force: the same without asking.
        let again = a.admin(Method::GET, &path(case)).await.json();
        assert_eq!(again["outcome"], explanation["outcome"]);
        assert_eq!(send(&a, case).await, case.status, "{explanation:#}");
        explained.push(explanation);
    }
    let (_, log) = a.stop().await;
    let sent: Vec<&Value> = log.iter().filter(|line| line["weir.direction"] == "outbound").collect();
    assert_eq!(sent.len(), CASES.len());
    for (line, explanation) in sent.iter().zip(&explained) {
        assert_eq!(
            line["weir.route"].as_str(),
            explanation["route"]["name"]
                .as_str()
                .filter(|_| line["weir.route"].is_string()),
            "{line}"
        );
        let flag = &explanation["outcome"]["flag"];
        let flag = if flag.is_null() { &Value::from("none") } else { flag };
        assert_eq!(line["weir.flag"], *flag, "{line}");
        if let Some(cluster) = line["weir.cluster"].as_str() {
            let backends = explanation["backends"].as_array().expect("backends");
            let drawn = backends.iter().find(|backend| backend["name"] == cluster);
            let drawn = drawn.unwrap_or_else(|| panic!("{cluster} is not among {explanation:#}"));
            if let Some(endpoint) = line["weir.endpoint"].as_str() {
                let used = drawn["endpoints"].as_array().expect("endpoints").iter();
                let used: Vec<&str> = used
                    .filter(|endpoint| endpoint["used"] == true)
                    .filter_map(|endpoint| endpoint["address"].as_str())
                    .collect();
                assert!(used.contains(&endpoint), "{endpoint}: {explanation:#}");
            }
        }
    }
    let shop = &explained[0];
    assert_eq!(texts(shop, "backends", "name"), ["shop.default:80", "other.default:80"]);
    assert_eq!(shop["backends"][0]["share_percent"], 75.0);
    assert_eq!(shop["backends"][0]["endpoints"].as_array().expect("endpoints").len(), 2);
    assert_eq!(shop["route"]["timeouts"]["request_ms"], 9000);
    assert_eq!(shop["name"]["canonical"], "shop.default.svc.cluster.local");
    let because = shop["name"]["because"].to_string();
    assert!(because.contains("own namespace, default"), "{because}");
    assert!(because.contains("the control plane chose 80"), "{because}");
    assert_eq!(shop["listener"]["state"], "in_force");
    assert!(shop["route_configuration"]["version"].is_string());
    assert_eq!(shop["backends"][0]["resources"][0]["state"], "in_force");
    assert_eq!(shop["route"]["source"], "HTTPRoute/default/shop");
}

/// A cluster whose breaker is open, and one without a healthy endpoint, are explained as such.
#[tokio::test]
async fn what_stands_in_the_way_is_named_with_the_endpoints_that_are_left() {
    let mesh = TestMesh::start().await;
    let _b = mesh.service("b", Script::answer(500, "")).await;
    mesh.apply(
        r"
apiVersion: weir.dev/v1
kind: BackendPolicy
metadata: {name: b, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: b}]
  circuitBreaker: {failures: {percent: 50, minRequests: 2, window: 10s, openFor: 60s}}
",
    )
    .await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    assert_eq!(a.get("http://b/").await.status, 500);
    assert_eq!(a.get("http://b/").await.status, 500);
    let explanation = a.admin(Method::GET, "/explain?url=b").await.json();
    assert_eq!(explanation["outcome"]["flag"], "breaker_open", "{explanation:#}");
    assert_eq!(explanation["backends"][0]["breaker"], "open");
    assert_eq!(explanation["backends"][0]["endpoints"][0]["why"], "it is healthy");
    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, 503);
    let told = answer.header("proxy-status").unwrap_or_default();
    assert!(told.contains("destination_unavailable"), "{told}");
}
