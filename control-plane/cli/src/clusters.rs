//! Clusters and their endpoints, as a proxy shows them. Read leniently: either side may be the newer.

use serde::Deserialize;

use crate::error::CliError;
use crate::output::{Cell, Out, Tone, clean};

/// A cluster as a proxy has it in force.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    /// `known`, `missing` or `unanswered`.
    state: String,
    protocol: String,
    balancing: String,
    breaker: String,
    connections: Count,
    pending: Count,
    requests: Count,
    retry_budget: Option<RetryBudget>,
    backend_tls: Option<BackendTls>,
    sources: Vec<String>,
    endpoints: Vec<Endpoint>,
    endpoints_left_out: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Count {
    open: u64,
    limit: u64,
}

/// How endpoints without an identity are reached.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BackendTls {
    verified: Option<Verified>,
    /// Why they aren't.
    closed: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Verified {
    hostname: String,
    subject_alt_names: Vec<String>,
    authorities: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RetryBudget {
    percent: u64,
    min_per_second: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    address: String,
    health: String,
    used: bool,
    why: String,
    ejected_for_ms: Option<f64>,
    peer: String,
    workload: Option<String>,
    identity: Option<String>,
    /// The name that is asked for, where there is no identity.
    tls: Option<String>,
    locality: String,
    requests: u64,
    cost_ms: Option<f64>,
}

impl Cluster {
    /// What it is like, without its name and its endpoints.
    pub(crate) fn summary(&self) -> String {
        match self.state.as_str() {
            "known" => {}
            "missing" => return "does not exist".to_owned(),
            "unanswered" => return "the control plane has not told of it".to_owned(),
            other => return clean(other),
        }
        let count = |what: &str, count: &Count| format!("{what} {} of {}", count.open, count.limit);
        let mut parts = vec![self.protocol.clone(), self.balancing.clone()];
        parts.push(format!("breaker {}", self.breaker));
        parts.push(count("requests", &self.requests));
        parts.push(count("waiting", &self.pending));
        parts.push(count("connections", &self.connections));
        if let Some(budget) = &self.retry_budget {
            parts.push(format!(
                "retry budget {} % and {} a second",
                budget.percent, budget.min_per_second
            ));
        }
        if let Some(verified) = self.backend_tls.as_ref().and_then(|tls| tls.verified.as_ref()) {
            parts.push(verified.summary());
        }
        if let Some(why) = self.backend_tls.as_ref().and_then(|tls| tls.closed.as_ref()) {
            parts.push(format!("closed: {why}"));
        }
        clean(&parts.join(", "))
    }

    /// What it is made from; `None`: nobody said.
    pub(crate) fn made_from(&self) -> Option<String> {
        let named = !self.sources.is_empty();
        named.then(|| clean(&format!("made from {}", self.sources.join(", "))))
    }

    /// Prints its endpoints, one in a line.
    pub(crate) fn print_endpoints(&self, out: &mut Out) -> Result<(), CliError> {
        if self.endpoints.is_empty() {
            return Ok(());
        }
        let rows: Vec<Vec<Cell>> = self.endpoints.iter().map(row).collect();
        let headings = [
            "  ENDPOINT",
            "HEALTH",
            "USED",
            "BECAUSE",
            "REQUESTS",
            "COST",
            "WORKLOAD",
            "TLS AS",
            "LOCALITY",
        ];
        out.table(&headings, &rows)?;
        if self.endpoints_left_out > 0 {
            out.line(&format!("  and {} more", self.endpoints_left_out))?;
        }
        Ok(())
    }
}

impl Verified {
    fn summary(&self) -> String {
        let names = match self.subject_alt_names.as_slice() {
            [] => String::new(),
            names => format!(" as {}", names.join(" or ")),
        };
        format!("TLS with {}{names} by {}", self.hostname, self.authorities)
    }
}

/// The namespace and account of a SPIFFE id, as `ns/account`: all of a mesh have the rest in common.
fn account(id: &str) -> String {
    let parts: Vec<&str> = id.rsplitn(4, '/').collect();
    match parts[..] {
        [account, "sa", namespace, _] => format!("{namespace}/{account}"),
        _ => clean(id),
    }
}

fn row(endpoint: &Endpoint) -> Vec<Cell> {
    let used = match endpoint.used {
        true => Cell::new(Tone::Good, "yes"),
        false => Cell::new(Tone::Bad, "no"),
    };
    let cost = endpoint.cost_ms.map(|cost| format!("{cost:.1} ms"));
    let who = match &endpoint.workload {
        Some(workload) => workload.clone(),
        None if endpoint.peer == "plain" => "(no sidecar)".to_owned(),
        None => "-".to_owned(),
    };
    let locality = endpoint.locality.trim_matches('/');
    vec![
        Cell::plain(format!("  {}", endpoint.address)),
        Cell::plain(&endpoint.health),
        used,
        Cell::plain(match endpoint.ejected_for_ms {
            Some(left) => format!("{} ({:.1} s more)", endpoint.why, left / 1e3),
            None => endpoint.why.clone(),
        }),
        Cell::plain(endpoint.requests.to_string()),
        Cell::plain(cost.unwrap_or_else(|| "-".to_owned())),
        Cell::plain(who),
        Cell::plain(match (&endpoint.identity, &endpoint.tls) {
            (Some(id), _) => account(id),
            (None, Some(hostname)) => clean(hostname),
            (None, None) => "-".to_owned(),
        }),
        Cell::plain(if locality.is_empty() { "-" } else { locality }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_told_in_words() {
        let summary = |tls: &str| {
            let text = format!(r#"{{"state": "known", "protocol": "http1", "backend_tls": {tls}}}"#);
            let cluster: Cluster = serde_json::from_str(&text).expect("a cluster");
            cluster.summary()
        };
        let verified = r#"{"verified": {"hostname": "a.example", "authorities": "1 certificate of the policy"}}"#;
        assert!(summary(verified).ends_with(", TLS with a.example by 1 certificate of the policy"));
        let names = r#"{"verified": {"hostname": "a", "subject_alt_names": ["b", "c"], "authorities": "x"}}"#;
        assert!(summary(names).ends_with(", TLS with a as b or c by x"));
        assert!(summary(r#"{"closed": "no certificate"}"#).ends_with(", closed: no certificate"));
        assert!(!summary("null").contains("TLS"));
    }
}
