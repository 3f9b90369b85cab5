//! What the cases share: a mesh, calls, and what must come of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Answer, Member, MemberSettings, Protocol, Script, Seen, TestMesh};

/// Answers with what reached it, in the field `x-saw`.
pub(crate) fn tells(name: &'static str) -> Script {
    Script::http(move |seen| async move {
        let names = seen.head.headers.keys().map(|name| name.as_str());
        let headers: BTreeMap<&str, String> = names
            .map(|name| {
                let values = seen.head.headers.get_all(name).iter();
                let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                (name, values.collect::<Vec<_>>().join(","))
            })
            .collect();
        let saw = json!({
            "backend": name, "method": seen.head.method.as_str(), "target": seen.head.uri.to_string(),
            "version": format!("{:?}", seen.head.version), "headers": headers,
        });
        let mut response = Response::new(Full::default());
        let saw = saw.to_string().parse().expect("a header's value");
        response.headers_mut().insert("x-saw", saw);
        if seen.header("content-type") == Some("application/grpc") {
            // An answer of trailers alone, which are its header (gRPC, PROTOCOL-HTTP2.md, "Trailers-Only").
            let headers = response.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        response
    })
}

/// A mesh with a caller and the backends `v1` and `v2`, for any number of cases: each has a Service of its own.
pub(crate) struct World {
    pub(crate) mesh: TestMesh,
    pub(crate) caller: Member,
    pub(crate) backends: [Member; 2],
    pub(crate) protocol: AppProtocol,
    pub(crate) cases: AtomicU32,
}

impl World {
    pub(crate) async fn start() -> World {
        World::of(AppProtocol::Http1).await
    }

    /// A world whose backends speak this.
    pub(crate) async fn of(protocol: AppProtocol) -> World {
        let mesh = TestMesh::start().await;
        let settings = || MemberSettings {
            protocol,
            ..MemberSettings::default()
        };
        let v1 = mesh.service_with("v1", tells("v1"), settings()).await;
        let v2 = mesh.service_with("v2", tells("v2"), settings()).await;
        let caller = mesh.service("caller", Script::answer(200, "")).await;
        World {
            mesh,
            caller,
            backends: [v1, v2],
            protocol,
            cases: AtomicU32::new(0),
        }
    }

    /// Applies the resources of a case and checks its calls. Where a text says `ECHO`, the case's own Service is
    /// meant, whose endpoints are those of v1.
    pub(crate) async fn case(&self, name: &str, resources: &str, calls: Vec<Call>) {
        let echo = self.prepare(resources).await;
        for call in calls {
            call.check(name, &self.caller, &echo).await;
        }
    }

    /// Applies the resources of a case, and returns the name of its Service.
    pub(crate) async fn prepare(&self, resources: &str) -> String {
        let number = self.cases.fetch_add(1, Ordering::Relaxed);
        let echo = format!("echo-{number}");
        self.mesh.apply_service(&echo, "v1", self.protocol).await;
        self.mesh.apply_in_force(&resources.replace("ECHO", &echo)).await;
        echo
    }

    /// The share of requests that v1 gets is this, and v2 gets the others. Of 500 draws the share is within a tenth but
    /// once in a million times.
    pub(crate) async fn shares(&self, name: &str, echo: &str, call: Call, expect: f64) {
        let mut of_v1 = 0.0;
        for _ in 0..500 {
            let answer = call.send(&self.caller, echo).await;
            assert_eq!(answer.status, StatusCode::OK, "{name}: {}", answer.text());
            match saw(&answer)["backend"].as_str() {
                Some("v1") => of_v1 += 1.0 / 500.0,
                other => assert_eq!(other, Some("v2"), "{name}"),
            }
        }
        assert!((of_v1 - expect).abs() < 0.1, "{name}: {of_v1}");
    }
}

/// What the backend saw; `null`: none answered.
pub(crate) fn saw(answer: &Answer) -> Value {
    match answer.header("x-saw") {
        Some(saw) => serde_json::from_str(saw).expect("JSON"),
        None => Value::Null,
    }
}

/// A call and what must come of it.
pub(crate) struct Call {
    pub(crate) spoken: Protocol,
    pub(crate) method: Method,
    pub(crate) url: &'static str,
    pub(crate) headers: &'static [(&'static str, &'static str)],
    pub(crate) status: u16,
    pub(crate) backend: Option<&'static str>,
    /// Pointers into what the backend saw.
    pub(crate) saw: Vec<(&'static str, Value)>,
    /// Fields of the answer; `None`: must not be there.
    pub(crate) answer: Vec<(&'static str, Option<&'static str>)>,
}

pub(crate) fn get(url: &'static str) -> Call {
    call(Method::GET, url, &[])
}

/// A gRPC call, as gRPC's clients make it.
pub(crate) fn grpc(url: &'static str) -> Call {
    const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];
    Call {
        spoken: Protocol::Http2,
        ..call(Method::POST, url, GRPC)
    }
}

pub(crate) fn call(method: Method, url: &'static str, headers: &'static [(&'static str, &'static str)]) -> Call {
    Call {
        spoken: Protocol::Http1,
        method,
        url,
        headers,
        status: 200,
        backend: None,
        saw: Vec::new(),
        answer: Vec::new(),
    }
}

impl Call {
    pub(crate) fn reaches(mut self, backend: &'static str) -> Call {
        self.backend = Some(backend);
        self
    }

    pub(crate) fn status(mut self, status: u16) -> Call {
        self.status = status;
        self
    }

    /// The backend sees this target.
    pub(crate) fn target(mut self, target: &'static str) -> Call {
        self.saw.push(("/target", json!(target)));
        self
    }

    /// The backend sees this version.
    pub(crate) fn sees_version(mut self, version: &'static str) -> Call {
        self.saw.push(("/version", json!(version)));
        self
    }

    /// The backend sees this field; several of one name are joined.
    pub(crate) fn sees(mut self, field: &'static str, value: &'static str) -> Call {
        self.saw.push((field, json!(value)));
        self
    }

    /// The backend does not see this field.
    pub(crate) fn misses(mut self, field: &'static str) -> Call {
        self.saw.push((field, Value::Null));
        self
    }

    /// The answer has this field; several of one name are joined.
    pub(crate) fn answers(mut self, field: &'static str, value: &'static str) -> Call {
        self.answer.push((field, Some(value)));
        self
    }

    pub(crate) fn answers_without(mut self, field: &'static str) -> Call {
        self.answer.push((field, None));
        self
    }

    pub(crate) async fn send(&self, from: &Member, echo: &str) -> Answer {
        let url = self.url.replace("ECHO", echo);
        let mut request = Request::builder().method(self.method.clone()).uri(url);
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("a request");
        match self.spoken {
            Protocol::Http1 => from.call(request).await,
            Protocol::Http2 => weir_test_mesh::call(from.outbound(), Protocol::Http2, request)
                .await
                .expect("an answer of the sidecar"),
        }
    }

    pub(crate) async fn check(&self, name: &str, from: &Member, echo: &str) {
        let what = format!("{name}: {} {} {:?}", self.method, self.url, self.headers);
        let answer = self.send(from, echo).await;
        assert_eq!(answer.status.as_u16(), self.status, "{what}: {}", answer.text());
        let saw = saw(&answer);
        if let Some(backend) = self.backend {
            assert_eq!(saw["backend"], backend, "{what}");
        }
        for (place, expect) in &self.saw {
            let held = match place.strip_prefix('/') {
                Some(place) => &saw[place],
                None => &saw["headers"][*place],
            };
            assert_eq!(held, expect, "{what}: {place} of {saw}");
        }
        for (field, expect) in &self.answer {
            let held = answer.headers.get_all(*field).iter();
            let held: Vec<&str> = held.map(|value| value.to_str().expect("text")).collect();
            let held = (!held.is_empty()).then(|| held.join(","));
            let expect = expect.map(|expect| expect.replace("ECHO", echo));
            assert_eq!(held, expect, "{what}: {field}");
        }
    }
}

/// The case's Service, with a second port.
pub(crate) const TWO_PORTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: ECHO, namespace: default}
spec:
  selector: {app: v1}
  ports:
  - {name: web, port: 80, targetPort: http, appProtocol: http}
  - {name: alt, port: 8080, targetPort: http, appProtocol: http}
---";

/// A route of the case's Service with these rules, as a YAML list in flow style.
pub(crate) fn route(rules: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: ECHO, namespace: default}}
spec:
  parentRefs: [{{group: '', kind: Service, name: ECHO}}]
  rules:
{rules}
"
    )
}

/// The same of kind GRPCRoute.
pub(crate) fn grpc_route(rules: &str) -> String {
    route(rules).replace("kind: HTTPRoute", "kind: GRPCRoute")
}

/// How many requests for this target reached a backend.
pub(crate) fn reached(backend: &Member, target: &str) -> usize {
    let seen = backend.seen();
    let is_it = |seen: &&Seen| seen.head.uri.path_and_query().is_some_and(|held| held == target);
    seen.iter().filter(is_it).count()
}
