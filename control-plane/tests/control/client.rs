//! A client for the API: one connection per request, answers as they came.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Fails a test that waits for what will not come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const JSON: &str = "application/json";
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
pub(crate) const YAML: &str = "application/yaml";

#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// The code, reason and message of a `Status`.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, reason: &str) -> String {
        let value = self.expect(status);
        assert_eq!(value["kind"], "Status", "{value}");
        assert_eq!(value["status"], "Failure", "{value}");
        assert_eq!(value["code"], status, "{value}");
        assert_eq!(value["reason"], reason, "{value}");
        value["message"].as_str().expect("a message").to_owned()
    }
}

impl Client {
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, None, "").await
    }

    /// With what the client accepts.
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Reply {
        self.get_with(path, "accept", accept).await
    }

    pub(crate) async fn get_with(&self, path: &str, name: &str, value: &str) -> Reply {
        let request = Request::get(path)
            .header("host", self.address.to_string())
            .header(name, value);
        let request = request.body(Full::default()).expect("a request");
        self.request(request).await.expect("an answer")
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, Some(JSON), body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PUT, path, Some(JSON), body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PATCH, path, Some(MERGE_PATCH), body.to_string())
            .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, None, "").await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, media: Option<&str>, body: impl Into<Bytes>) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("host", self.address.to_string());
        if let Some(media) = media {
            request = request.header("content-type", media);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        self.request(request).await.expect("an answer")
    }

    /// # Errors
    /// When no whole answer comes.
    pub(crate) async fn request(&self, request: Request<Full<Bytes>>) -> Result<Reply, anyhow::Error> {
        let (response, connection) = self.begin(request).await?;
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await??.to_bytes();
        connection.abort();
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    pub(crate) async fn watch(&self, path: &str) -> Watching {
        self.watch_as(path, JSON).await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Watching {
        let request = Request::get(path)
            .header("host", self.address.to_string())
            .header("accept", accept);
        let request = request.body(Full::default()).expect("a request");
        let (response, connection) = self.begin(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        Watching {
            body: response.into_body(),
            buffer: Vec::new(),
            connection,
        }
    }

    async fn begin(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(http::Response<Incoming>, JoinHandle<()>), anyhow::Error> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move {
            // Its errors come out at the request.
            let _ = connection.await;
        });
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await??;
        Ok((response, connection))
    }
}

#[derive(Debug)]
pub(crate) struct Watching {
    body: Incoming,
    buffer: Vec<u8>,
    connection: JoinHandle<()>,
}

impl Watching {
    /// The next event; `None`: the server ended the watch.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a JSON line"));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("an event in time");
            let frame = frame?.expect("a whole frame");
            self.buffer.extend(frame.into_data().expect("data"));
        }
    }

    /// `ADDED x`, of as many events.
    pub(crate) async fn shown(&mut self, count: usize) -> Vec<String> {
        let mut shown = Vec::new();
        while shown.len() < count {
            let event = self.next().await.expect("an event");
            let (kind, name) = (&event["type"], &event["object"]["metadata"]["name"]);
            shown.push(format!(
                "{} {}",
                kind.as_str().unwrap_or("?"),
                name.as_str().unwrap_or("?")
            ));
        }
        shown
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
