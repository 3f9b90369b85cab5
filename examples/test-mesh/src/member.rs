//! One workload of the test mesh: a scripted app and its sidecar.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;
use weir_policy::model::AppProtocol;
use weir_proxy::config::{Edge, OutboundAddr, ProxyConfig};
use weir_proxy::{Addresses, Drained, Proxy};

use crate::client::{Answer, Protocol, call};
use crate::script::{ScriptedApp, Seen};

/// How a workload differs from what is usual.
pub struct MemberSettings {
    /// What the app speaks.
    pub protocol: AppProtocol,
    /// Its namespace, and that of its Service; made if it isn't there.
    pub namespace: &'static str,
    /// Whether requests enter the mesh at it.
    pub edge: Edge,
    /// Changes to the sidecar's configuration.
    pub proxy: Box<dyn FnOnce(&mut ProxyConfig)>,
}

impl Default for MemberSettings {
    fn default() -> Self {
        MemberSettings {
            protocol: AppProtocol::Http1,
            namespace: "default",
            edge: Edge::No,
            proxy: Box::new(|_| {}),
        }
    }
}

/// A workload that runs.
pub struct Member {
    pub(crate) app: ScriptedApp,
    pub(crate) proxy: Proxy,
    pub(crate) log: PathBuf,
}

impl Member {
    /// Where its sidecar listens.
    pub fn addresses(&self) -> &Addresses {
        self.proxy.addresses()
    }

    /// Where the app sends its calls.
    ///
    /// # Panics
    /// When that is a unix socket.
    pub fn outbound(&self) -> SocketAddr {
        match &self.addresses().outbound {
            OutboundAddr::Tcp(address) => *address,
            OutboundAddr::Unix(path) => panic!("outbound is {}", path.display()),
        }
    }

    /// Where others reach the app.
    ///
    /// # Panics
    /// Without an app port.
    pub fn inbound(&self) -> SocketAddr {
        self.addresses().inbound.first().expect("an app port").1
    }

    /// The app calls a service: `http://b/path`.
    ///
    /// # Panics
    /// When there is no answer at all.
    pub async fn get(&self, url: &str) -> Answer {
        let request = Request::get(url).body(Full::default()).expect("a request");
        self.call(request).await
    }

    /// The app calls a service; the URL is in absolute form.
    ///
    /// # Panics
    /// When there is no answer at all.
    pub async fn call(&self, request: Request<Full<Bytes>>) -> Answer {
        let host = request.uri().authority().expect("an absolute URL").to_string();
        let mut request = request;
        request.headers_mut().insert("host", host.parse().expect("a host"));
        let answer = call(self.outbound(), Protocol::Http1, request).await;
        answer.expect("an answer of the sidecar")
    }

    /// The app.
    pub fn app(&self) -> &ScriptedApp {
        &self.app
    }

    /// Ends the app; its sidecar goes on.
    pub async fn close_app(&mut self) {
        self.app.close().await;
    }

    /// What reached the app.
    pub fn seen(&self) -> Vec<Seen> {
        self.app.seen()
    }

    /// A line's value on the sidecar's metrics page, summed over the label sets that hold all of `labels`; 0 if there
    /// is none.
    ///
    /// # Panics
    /// When the page can't be had.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let request = Request::get("/metrics")
            .header("host", "localhost")
            .body(Full::default())
            .expect("a request");
        let page = call(self.addresses().metrics, Protocol::Http1, request)
            .await
            .expect("the metrics page");
        let page = page.text();
        let lines = page.lines().filter(|line| {
            let of_name = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            of_name && labels.iter().all(|label| line.contains(label))
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// What the sidecar's admin port shows as `/config`.
    ///
    /// # Panics
    /// When it can't be had.
    pub async fn config(&self) -> Value {
        self.admin(Method::GET, "/config").await.json()
    }

    /// What the sidecar's admin port answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn admin(&self, method: Method, path: &str) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("host", "localhost").body(Full::default());
        call(self.addresses().admin, Protocol::Http1, request.expect("a request"))
            .await
            .expect("an answer of the admin port")
    }

    /// Drains the sidecar and gives its access log.
    ///
    /// # Panics
    /// When a line is not JSON.
    pub async fn stop(self) -> (Drained, Vec<Value>) {
        let drained = self.proxy.drain().await;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = log
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"));
        (drained, lines.collect())
    }
}
