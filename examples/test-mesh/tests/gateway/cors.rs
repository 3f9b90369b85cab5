//! CORS (`conformance/tests/httproute-cors.yaml`, GEP-1767).

use http::Method;
use weir_test_mesh::Script;

use crate::world::{Call, World, call, get, reached, route};

type Fields = &'static [(&'static str, &'static str)];

/// A preflight, and which of the fields that speak of CORS its answer has; it has no other.
fn preflight(url: &'static str, asks: Fields, expect: Fields) -> Call {
    says(call(Method::OPTIONS, url, asks).status(204), expect)
}

/// Which of the fields that speak of CORS the answer has; it has no other.
fn says(call: Call, expect: Fields) -> Call {
    let fields = [
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "access-control-allow-methods",
        "access-control-allow-headers",
        "access-control-expose-headers",
        "access-control-max-age",
    ];
    let call = call.answers("vary", "Origin");
    fields.into_iter().fold(call, |call, field| {
        match expect.iter().find(|(name, _)| *name == field) {
            Some((_, value)) => call.answers(field, value),
            None => call.answers_without(field),
        }
    })
}

const RULES: &str = "
  - matches: [{path: {value: /listed}}]
    filters:
    - type: CORS
      cors:
        allowOrigins: [https://www.page.example, 'https://*.pages.example']
        allowMethods: [GET, OPTIONS]
        allowHeaders: [x-one, x-two]
        exposeHeaders: [x-three, x-four]
        allowCredentials: true
        maxAge: 3600
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /methods}}]
    filters: [{type: CORS, cors: {allowOrigins: [https://www.page.example], allowMethods: ['*']}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /origins}}]
    filters: [{type: CORS, cors: {allowOrigins: ['*'], allowMethods: [PUT], allowCredentials: false}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /credentials}}]
    filters:
    - type: CORS
      cors: {allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], exposeHeaders: ['*'], allowCredentials: true}
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /open}}]
    filters: [{type: CORS, cors: {allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], exposeHeaders: ['*']}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /plain}}]
    backendRefs: [{name: v1, port: 80}]";

#[tokio::test]
async fn preflights_and_requests_of_pages() {
    const PAGE: (&str, &str) = ("origin", "https://www.page.example");
    const OTHER: (&str, &str) = ("origin", "https://anypages.example");
    const GET: (&str, &str) = ("access-control-request-method", "GET");
    const PUT: (&str, &str) = ("access-control-request-method", "PUT");
    const FIELDS: (&str, &str) = ("access-control-request-headers", "x-one, x-two");
    let listed = |origin: &'static str| {
        let fields = [
            ("access-control-allow-origin", origin),
            ("access-control-allow-methods", "GET, OPTIONS"),
            ("access-control-allow-headers", "x-one, x-two"),
            ("access-control-expose-headers", "x-three, x-four"),
            ("access-control-max-age", "3600"),
            ("access-control-allow-credentials", "true"),
        ];
        let asks = [("origin", origin), GET, FIELDS];
        preflight("http://ECHO/listed", asks.to_vec().leak(), fields.to_vec().leak())
    };
    let world = World::start().await;
    let calls = vec![
        listed("https://www.page.example"),
        listed("https://www.pages.example"),
        listed("https://deep.www.pages.example"),
        says(
            call(Method::OPTIONS, "http://ECHO/listed", &[OTHER, GET]).status(403),
            &[],
        ),
        // With the fields of a preflight and another method: no preflight.
        says(
            call(Method::GET, "http://ECHO/listed", &[PAGE, GET, FIELDS]).reaches("v1"),
            &[
                ("access-control-allow-origin", "https://www.page.example"),
                ("access-control-allow-credentials", "true"),
                ("access-control-expose-headers", "x-three, x-four"),
            ],
        ),
        says(
            call(Method::GET, "http://ECHO/listed", &[OTHER, GET]).reaches("v1"),
            &[],
        ),
        says(get("http://ECHO/listed").reaches("v1"), &[]),
        preflight(
            "http://ECHO/methods",
            &[PAGE, ("access-control-request-method", "POST")],
            &[
                ("access-control-allow-origin", "https://www.page.example"),
                ("access-control-allow-methods", "POST"),
                ("access-control-max-age", "5"),
            ],
        ),
        preflight(
            "http://ECHO/origins",
            &[("origin", "https://any.example:12345"), PUT],
            &[
                ("access-control-allow-origin", "https://any.example:12345"),
                ("access-control-allow-methods", "PUT"),
                ("access-control-max-age", "5"),
            ],
        ),
        says(
            call(Method::PUT, "http://ECHO/origins", &[OTHER]).reaches("v1"),
            &[("access-control-allow-origin", "https://anypages.example")],
        ),
        preflight(
            "http://ECHO/credentials",
            &[OTHER, PUT, FIELDS],
            &[
                ("access-control-allow-origin", "https://anypages.example"),
                ("access-control-allow-methods", "PUT"),
                ("access-control-allow-headers", "x-one, x-two"),
                ("access-control-allow-credentials", "true"),
                ("access-control-max-age", "5"),
            ],
        ),
        says(
            call(Method::GET, "http://ECHO/credentials", &[OTHER, ("cookie", "a=b")]).reaches("v1"),
            &[
                ("access-control-allow-origin", "https://anypages.example"),
                ("access-control-allow-credentials", "true"),
                ("access-control-expose-headers", "content-length, date, x-saw"),
            ],
        ),
        preflight(
            "http://ECHO/open",
            &[OTHER, PUT, FIELDS],
            &[
                ("access-control-allow-origin", "https://anypages.example"),
                ("access-control-allow-methods", "PUT"),
                ("access-control-allow-headers", "x-one, x-two"),
                ("access-control-expose-headers", "*"),
                ("access-control-max-age", "5"),
            ],
        ),
        // OPTIONS that asks for no method, and one that comes from no page, are the app's to answer.
        call(Method::OPTIONS, "http://ECHO/open", &[OTHER]).reaches("v1"),
        call(Method::OPTIONS, "http://ECHO/open", &[PUT]).reaches("v1"),
        call(Method::OPTIONS, "http://ECHO/plain", &[OTHER, PUT])
            .reaches("v1")
            .answers_without("vary"),
    ];
    world.case("HTTPRouteCORS", &route(RULES), calls).await;
    assert_eq!(reached(&world.backends[0], "/origins"), 1, "no preflight goes on");

    let (_, log) = world.caller.stop().await;
    let flags: Vec<_> = log
        .iter()
        .map(|line| line["weir.flag"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(flags[..5], ["direct", "direct", "direct", "origin_not_allowed", "none"]);
}

/// A page can't read an answer that does not say so, and could not tell what went wrong: also what the proxy itself
/// answers says it.
#[tokio::test]
async fn what_the_proxy_answers_says_it_too() {
    let world = World::start().await;
    let loose = world
        .mesh
        .service(
            "loose",
            Script::http(|_| async {
                let answer = http::Response::builder()
                    .header("access-control-allow-origin", "*")
                    .header("access-control-allow-credentials", "true")
                    .header("vary", "accept, origin");
                answer.body(http_body_util::Full::default()).expect("an answer")
            }),
        )
        .await;
    let cors = "{type: CORS, cors: {allowOrigins: [https://www.page.example]}}";
    let rules = format!(
        "
  - matches: [{{path: {{value: /moved}}}}]
    filters: [{cors}, {{type: RequestRedirect, requestRedirect: {{port: 81}}}}]
  - matches: [{{path: {{value: /gone}}}}]
    filters: [{cors}]
    backendRefs: [{{name: gone, port: 80}}]
  - matches: [{{path: {{value: /empty}}}}]
    filters: [{cors}]
  - matches: [{{path: {{value: /loose}}}}]
    filters: [{cors}]
    backendRefs: [{{name: loose, port: 80}}]
  - matches: [{{path: {{value: /backends}}}}]
    filters: [{cors}]
    backendRefs:
    - {{name: v1, port: 80, filters: [{{type: CORS, cors: {{allowOrigins: ['https://*.backend.example'], maxAge: 9}}}}]}}"
    );
    const PAGE: &[(&str, &str)] = &[("origin", "https://www.page.example")];
    const OTHER: &[(&str, &str)] = &[("origin", "https://other.example")];
    const ALLOWED: Fields = &[("access-control-allow-origin", "https://www.page.example")];
    let of = |url, headers| call(Method::GET, url, headers);
    let calls = vec![
        says(of("http://ECHO/moved", PAGE).status(302), ALLOWED),
        says(of("http://ECHO/gone", PAGE).status(500), ALLOWED),
        says(of("http://ECHO/empty", PAGE).status(500), ALLOWED),
        says(of("http://ECHO/empty", OTHER).status(500), &[]),
        of("http://ECHO/none", PAGE)
            .status(404)
            .answers_without("access-control-allow-origin"),
        // What the app says of it is taken out.
        of("http://ECHO/loose", PAGE)
            .answers("vary", "accept, origin")
            .answers("access-control-allow-origin", "https://www.page.example")
            .answers_without("access-control-allow-credentials"),
        of("http://ECHO/loose", OTHER)
            .answers("vary", "accept, origin")
            .answers_without("access-control-allow-origin")
            .answers_without("access-control-allow-credentials"),
        says(of("http://ECHO/backends", PAGE).reaches("v1"), &[]),
        preflight(
            "http://ECHO/backends",
            &[
                ("origin", "https://a.backend.example"),
                ("access-control-request-method", "GET"),
            ],
            &[
                ("access-control-allow-origin", "https://a.backend.example"),
                ("access-control-max-age", "9"),
            ],
        ),
    ];
    world
        .case("HTTPRouteCORS, answers of the proxy", &route(&rules), calls)
        .await;
    assert_eq!(loose.seen().len(), 2);
}
