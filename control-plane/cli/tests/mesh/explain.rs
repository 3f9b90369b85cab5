//! `weirctl explain` and `weirctl proxy`: through the control plane, and on a proxy's own port.

use serde_json::Value;
use weir_test_mesh::{Script, TestMesh};

use crate::support::weirctl;

const ROUTE: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: shop}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /cart}, headers: [{name: x-group, value: beta}]}]
      backendRefs: [{name: other, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /cart}}]
      timeouts: {request: 9s}
      backendRefs: [{name: shop, port: 80}]
";

const POLICY: &str = r"
apiVersion: weir.dev/v1
kind: BackendPolicy
metadata: {name: for-shop, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: shop}]
  circuitBreaker: {maxRequests: 99}
---
apiVersion: weir.dev/v1
kind: RoutePolicy
metadata: {name: for-routes, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: shop}]
  retry: {on: [5xx], codes: [429], methods: Any}
  rateLimit: {requests: 5, burst: 50}
  fault: {delay: {percent: 1, duration: 2s}, abort: {percent: 0, status: 503}}
  mirror: [{backendRef: {name: other, port: 80}, percent: 25}]
";

#[tokio::test]
async fn a_request_is_explained_from_anywhere() {
    let mesh = TestMesh::start().await;
    let shop = mesh.service("shop", Script::answer(200, "")).await;
    let _other = mesh.service("other", Script::answer(200, "")).await;
    mesh.apply_in_force(ROUTE).await;
    mesh.apply_in_force(POLICY).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let inbound = shop.inbound().to_string();

    let from = [
        "explain",
        "shop/cart?x=1",
        "--from",
        "default/a",
        "-H",
        "X-Group: alpha",
    ];
    let direct = format!("http://{}", a.addresses().admin);
    let at_proxy = [
        "explain",
        "http://shop/cart?x=1",
        "--proxy",
        &direct,
        "-H",
        "X-Group: alpha",
    ];
    for args in [from, at_proxy] {
        weirctl(&mesh, &args).await.ends(0).prints(&[
            "request   GET http://shop/cart?x=1\n",
            "from      default/a\n",
            "name      shop.default.svc.cluster.local\n",
            "own namespace, default\n",
            "no port is given, and the control plane chose 80\n",
            "listener  shop.default.svc.cluster.local: in force, version ",
            "routes    shop.default:80/",
            "not by    HTTPRoute/default/shop#rules[0].matches[0] (path under /cart, header x-group = beta): ",
            "header x-group holds another value\n",
            "route     HTTPRoute/default/shop#rules[1].matches[0] (path under /cart)\n",
            "has 9000 ms in all; is sent again up to 1 times on 5xx, 429, whatever the method, after 25 ms first; ",
            "takes 5 requests in 1000 ms, 50 at once; lets 1 % of its requests wait 2000 ms on purpose; ",
            "answers 0 % of its requests on purpose, with 503 or grpc-status 14; copies 25 % to other.default:80\n",
            "policy    RoutePolicy/default/for-routes, which says its retry, rateLimit, fault, mirror\n",
            "backend   shop.default:80 (weight 1, 100.0 %): http1, peak_ewma, breaker closed, requests 0 of 99",
            "made from Service/default/shop, BackendPolicy/default/for-shop\n",
            &inbound,
            "healthy   yes    it is healthy",
            "default/shop",
            "outcome   forward: it is sent to shop.default:80\n",
        ]);
    }
    let refused = weirctl(&mesh, &["explain", "nobody", "--from", "a"]).await;
    refused
        .ends(0)
        .prints(&["outcome   refuse with 502 (unknown_destination): \"nobody\" is no service of the mesh"]);
    let json = weirctl(&mesh, &["explain", "shop/cart", "--from", "a", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json.ends(0).stdout).expect("JSON");
    assert_eq!(json["backends"][0]["name"], "shop.default:80");

    let endpoints = ["proxy", "endpoints", "a", "--cluster", "shop.default:80"];
    let directly = ["proxy", "endpoints", "--proxy", &direct, "--cluster", "shop.default:80"];
    weirctl(&mesh, &endpoints).await.ends(0).prints(&[
        "shop.default:80   http1, peak_ewma",
        "  made from Service/default/shop, BackendPolicy/default/for-shop\n",
        &inbound,
        "yes",
    ]);
    weirctl(&mesh, &directly).await.ends(0).prints(&[
        "shop.default:80   http1, peak_ewma",
        "  made from Service/default/shop, BackendPolicy/default/for-shop\n",
        &inbound,
        "yes",
    ]);
    for args in [
        vec!["proxy", "config", "a"],
        vec!["proxy", "config", "--proxy", &direct],
    ] {
        let config = weirctl(&mesh, &args).await;
        let config: Value = serde_json::from_str(&config.ends(0).stdout).expect("JSON");
        assert_eq!(config["config"]["workload"], "default/a");
    }
    weirctl(&mesh, &["proxy", "list"])
        .await
        .ends(0)
        .prints(&["PROXY", "default/a ", "connected"]);

    for (args, code, message) in [
        (
            &["explain", "shop"][..],
            2,
            "say which proxy: NAMESPACE/WORKLOAD of default/a, default/other, default/shop",
        ),
        (
            &["explain", "shop", "--from", "n/nobody"],
            1,
            "Workload/n/nobody does not exist",
        ),
        (
            &["explain", "a b", "--from", "a"],
            1,
            "default/a refused: url \"a b\" is not of the form http://",
        ),
        (
            &["explain", "shop", "--from", "a", "-H", "x"],
            1,
            "header \"x\" is not of the form NAME: VALUE",
        ),
        (
            &["explain", "a b", "--proxy", &direct],
            1,
            "refused with 400: url \"a b\" is not of the form",
        ),
        (
            &["explain", "shop", "--from", "A/b"],
            2,
            "is no workload: NAMESPACE/NAME is right",
        ),
        (
            &["explain", "shop", "--proxy", "http://a/b"],
            2,
            "--proxy \"http://a/b\" holds more than scheme, host and port",
        ),
        (
            &["proxy", "endpoints", "a", "--cluster", "x"],
            1,
            "no cluster \"x\" is in force here; of 2 there are: other.default:80, shop.default:80",
        ),
        (
            &["proxy", "endpoints", "--proxy", &direct, "--cluster", "x"],
            1,
            "no cluster \"x\" is in force there",
        ),
    ] {
        weirctl(&mesh, args).await.ends(code).says(&[message]);
    }
    let admin = a.addresses().admin;
    a.stop().await;
    let gone = weirctl(&mesh, &["explain", "shop", "--proxy", &format!("http://{admin}")]).await;
    gone.ends(1).says(&[
        "the proxy at http://",
        "does not answer",
        "is weir-proxy running on that host?",
    ]);
}
