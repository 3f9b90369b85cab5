//! Speaking to the control plane's API, or to a proxy's admin port.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{Method, Request, Uri};
use weir_api::views::{ObjectList, Outcome, Status, WatchEvent};
use weir_api::{Key, Kind, Scope, names};

use crate::error::CliError;

/// The control plane's API or a proxy's admin port, at one address.
pub(crate) struct Client {
    peer: Peer,
    server: String,
    agent: ureq::Agent,
}

/// Who is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// weir-control: what it refuses is a Kubernetes `Status`.
    ControlPlane,
    /// weir-proxy: what it refuses is a line of text.
    Proxy,
}

impl Client {
    /// A client of what is at `server`; nothing is sent yet.
    ///
    /// # Errors
    /// When `server` is no URL that can be spoken to.
    pub(crate) fn new(server: &str, peer: Peer) -> Result<Client, CliError> {
        let wrong = |problem: &str| {
            CliError::Usage(match peer {
                Peer::ControlPlane => {
                    format!("--server {server:?} {problem}; http://127.0.0.1:7440 is the default")
                }
                Peer::Proxy => format!("--proxy {server:?} {problem}; http://127.0.0.1:15000 is usual"),
            })
        };
        let uri: Uri = server.parse().map_err(|_| wrong("is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("asks for TLS, which is not supported yet")),
            Some(_) | None => return Err(wrong("does not begin with http://")),
        }
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err(wrong("holds more than scheme, host and port"));
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // An app's proxy settings send requests into the mesh; the API is beside it.
            .proxy(None)
            .user_agent(concat!("weirctl/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_send_request(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .build();
        Ok(Client {
            peer,
            server: server.trim_end_matches('/').to_owned(),
            agent: ureq::Agent::new_with_config(config),
        })
    }

    /// Reads a resource or a list as JSON. `what` is said in front of errors.
    pub(crate) fn get(&self, what: &str, path: &str) -> Result<Value, CliError> {
        self.send(what, Method::GET, path, None)
    }

    /// Reads a view.
    pub(crate) fn view<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, CliError> {
        let value = self.get(what, path)?;
        serde_json::from_value(value).map_err(|error| self.strange(what, &error.to_string()))
    }

    /// Reads which resources of a kind have these labels; `namespace` is empty for kinds of the whole cluster. What
    /// they hold is no matter, so that those of a newer control plane are found as well.
    ///
    /// # Errors
    /// Also when one of them has no name: none is passed over.
    pub(crate) fn keys(&self, kind: Kind, namespace: &str, selector: &str) -> Result<Vec<Key>, CliError> {
        let of = Some(namespace).filter(|namespace| !namespace.is_empty());
        let path = format!("{}?labelSelector={}", kind.path(of), encode(selector));
        let list: ObjectList = self.view(kind.plural(), &path)?;
        let keys = list.items.iter().map(|item| {
            let what = || self.strange(kind.plural(), "a resource in the list has no name that can be one");
            key_of(kind, item).ok_or_else(what)
        });
        keys.collect()
    }

    /// Reads JSON, and what the peer's clock said then, in seconds of Unix time.
    pub(crate) fn get_with_date(&self, what: &str, path: &str) -> Result<(Value, Option<i64>), CliError> {
        let answer = self.exchange(Method::GET, path, None)?;
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
        Ok((self.read(what, answer)?, date.map(jiff::Timestamp::as_second)))
    }

    /// Reads text, whatever its status.
    pub(crate) fn get_text(&self, path: &str) -> Result<(u16, String), CliError> {
        let answer = self.exchange(Method::GET, path, None)?;
        let code = answer.status().as_u16();
        Ok((code, String::from_utf8_lossy(&self.body(answer)?).into_owned()))
    }

    /// Creates a resource.
    pub(crate) fn post(&self, what: &str, path: &str, body: &Value) -> Result<Value, CliError> {
        self.send(what, Method::POST, path, Some(body))
    }

    /// Posts a question to a view, and reads its answer.
    pub(crate) fn ask<T: DeserializeOwned>(&self, what: &str, path: &str, body: &Value) -> Result<T, CliError> {
        let value = self.post(what, path, body)?;
        serde_json::from_value(value).map_err(|error| self.strange(what, &error.to_string()))
    }

    /// Replaces a resource.
    pub(crate) fn put(&self, what: &str, path: &str, body: &Value) -> Result<Value, CliError> {
        self.send(what, Method::PUT, path, Some(body))
    }

    /// Deletes a resource.
    pub(crate) fn delete(&self, what: &str, path: &str) -> Result<Value, CliError> {
        self.send(what, Method::DELETE, path, None)
    }

    /// Watches; ends when the control plane ends it.
    pub(crate) fn watch(
        &self,
        what: &str,
        path: &str,
    ) -> Result<impl Iterator<Item = Result<WatchEvent, CliError>> + use<'_>, CliError> {
        let answer = self.exchange(Method::GET, path, None)?;
        if !answer.status().is_success() {
            let code = answer.status().as_u16();
            let body = self.body(answer)?;
            return Err(self.refusal(what, code, &body));
        }
        let what = what.to_owned();
        let mut lines = BufReader::new(answer.into_body().into_reader());
        Ok(std::iter::from_fn(move || {
            let mut line = Vec::new();
            match (&mut lines).take(BODY_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) => None,
                Ok(_) => Some(serde_json::from_slice(&line).map_err(|error| self.strange(&what, &error.to_string()))),
                // A watch ends with its connection; the caller begins a new one.
                Err(_) => None,
            }
        }))
    }

    fn send(&self, what: &str, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        let answer = self.exchange(method, path, body)?;
        self.read(what, answer)
    }

    fn read(&self, what: &str, answer: ureq::http::Response<ureq::Body>) -> Result<Value, CliError> {
        let code = answer.status().as_u16();
        let success = answer.status().is_success();
        let body = self.body(answer)?;
        if !success {
            return Err(self.refusal(what, code, &body));
        }
        serde_json::from_slice(&body).map_err(|error| self.strange(what, &error.to_string()))
    }

    fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<ureq::http::Response<ureq::Body>, CliError> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.server));
        let request = request.header("accept", "application/json");
        let sent = match body {
            Some(body) => {
                let request = request
                    .header("content-type", "application/json")
                    .body(body.to_string());
                request
                    .map_err(ureq::Error::from)
                    .and_then(|request| self.agent.run(request))
            }
            None => request
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
        };
        sent.map_err(|error| self.unreachable(&error))
    }

    fn body(&self, mut answer: ureq::http::Response<ureq::Body>) -> Result<Vec<u8>, CliError> {
        let body = answer.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec();
        body.map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, error: &ureq::Error) -> CliError {
        CliError::Unreachable {
            peer: self.peer,
            server: self.server.clone(),
            reason: error.to_string(),
        }
    }

    fn refusal(&self, what: &str, code: u16, body: &[u8]) -> CliError {
        if self.peer == Peer::Proxy {
            let text = String::from_utf8_lossy(body.get(..TEXT_BYTES_MAX).unwrap_or(body)).into_owned();
            let (what, server) = (what.to_owned(), self.server.clone());
            return CliError::ProxyRefused {
                what,
                server,
                code,
                text,
            };
        }
        match serde_json::from_slice::<Status>(body) {
            Ok(status) if status.status == Outcome::Failure => CliError::Refused {
                what: what.to_owned(),
                status: Box::new(status),
            },
            Ok(_) | Err(_) => self.strange(what, &format!("it is HTTP {code} without a Kubernetes Status")),
        }
    }

    /// An answer that is none.
    pub(crate) fn strange(&self, what: &str, problem: &str) -> CliError {
        CliError::Strange {
            what: what.to_owned(),
            server: self.server.clone(),
            problem: problem.to_owned(),
        }
    }
}

/// The key of a resource in a list; `None`: it can be none's, and must not come into a path.
fn key_of(kind: Kind, item: &Value) -> Option<Key> {
    let name = item["metadata"]["name"]
        .as_str()
        .filter(|name| names::is_subdomain(name))?;
    let namespace = match kind.scope() {
        Scope::Cluster => "",
        Scope::Namespaced => item["metadata"]["namespace"]
            .as_str()
            .filter(|name| names::is_label(name))?,
    };
    Some(Key {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// A text as a value in a query.
pub(crate) fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The API is near: what takes longer does not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the control plane may think.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of a proxy's refusal is shown.
const TEXT_BYTES_MAX: usize = 2_000;

/// How much of an answer is read.
const BODY_BYTES_MAX: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resource_in_a_list_is_known_by_its_name_whatever_it_holds() {
        let key = |kind, metadata| {
            let item = json!({"metadata": metadata, "spec": {"of": "a newer version"}});
            key_of(kind, &item).map(|key| key.to_string())
        };
        let whole = json!({"name": "a.b", "namespace": "n"});
        assert_eq!(key(Kind::HttpRoute, whole).as_deref(), Some("HTTPRoute/n/a.b"));
        assert_eq!(
            key(Kind::Namespace, json!({"name": "n"})).as_deref(),
            Some("Namespace/n")
        );
        for metadata in [
            json!({"name": "a"}),
            json!({"namespace": "n"}),
            json!({"name": "../a", "namespace": "n"}),
            json!({"name": "a", "namespace": "n/../m"}),
            json!({"name": 1, "namespace": "n"}),
        ] {
            assert_eq!(key(Kind::HttpRoute, metadata.clone()), None, "{metadata}");
        }
    }
}
