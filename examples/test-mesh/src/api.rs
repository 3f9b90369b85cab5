//! The control plane's API, as `weirctl` uses it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use weir_api::{Key, Object};

use crate::client::{Answer, Protocol, call};
use crate::until;

/// A control plane's API, in this process or another.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// Where it listens.
    pub address: SocketAddr,
}

impl Api {
    /// Applies YAML documents as `weirctl apply` does.
    ///
    /// # Panics
    /// When one is refused.
    pub async fn apply(&self, yaml: &str) -> Vec<Key> {
        let objects =
            weir_api::yaml::read_objects(yaml, "test.yaml", None).unwrap_or_else(|errors| panic!("{errors:#?}"));
        let mut keys = Vec::new();
        for weir_api::yaml::Sourced { object, .. } in objects {
            keys.push(object.key());
            self.apply_object(&object).await;
        }
        keys
    }

    async fn apply_object(&self, object: &Object) {
        let key = object.key();
        let mut value = object.to_value();
        loop {
            let held = self.request(Method::GET, &key.path(), None).await;
            let answer = if held.status == StatusCode::NOT_FOUND {
                self.request(Method::POST, &collection(&key), Some(&value)).await
            } else {
                value["metadata"]["resourceVersion"] = held.json()["metadata"]["resourceVersion"].clone();
                self.request(Method::PUT, &key.path(), Some(&value)).await
            };
            // Its status was written in between, for instance.
            if answer.status != StatusCode::CONFLICT {
                assert!(answer.status.is_success(), "{key}: {}", answer.text());
                return;
            }
        }
    }

    /// Applies, and waits until it is in force on every proxy that it concerns.
    ///
    /// # Panics
    /// When it is refused, or does not come into force.
    pub async fn apply_in_force(&self, yaml: &str) {
        for key in self.apply(yaml).await {
            until(&format!("{key} to be in force"), || async {
                let view = self.in_force(&key).await;
                match view["state"].as_str() {
                    Some("InForce" | "NoSubscribers") => Some(()),
                    Some("Rejected") => panic!("{key}: {view}"),
                    _ => None,
                }
            })
            .await;
        }
    }

    /// Where an object is in force.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn in_force(&self, key: &Key) -> Value {
        let path = format!("{}/proxies", key.path());
        self.request(Method::GET, &path, None).await.json()
    }

    /// Deletes an object.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn delete(&self, key: &Key) {
        let answer = self.request(Method::DELETE, &key.path(), None).await;
        assert!(answer.status.is_success(), "{key}: {}", answer.text());
    }

    /// One request.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("content-type", "application/json")
            .body(Full::new(body))
            .expect("a request");
        call(self.address, Protocol::Http1, request)
            .await
            .expect("an answer of the API")
    }
}

fn collection(key: &Key) -> String {
    let namespace = (!key.namespace.is_empty()).then_some(key.namespace.as_str());
    key.kind.path(namespace)
}
