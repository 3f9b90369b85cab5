//! `weirctl proxy`: the proxies, and what one of them has in force.

use serde::Deserialize;
use serde_json::Value;
use weir_api::views::ProxyList;

use crate::cli::{OfProxy, ProxyArgs, ProxyCommand, ProxyName, ViewFormat};
use crate::client::{Client, Peer, encode};
use crate::clusters::Cluster;
use crate::error::CliError;
use crate::output::{Out, Tone, clean, say};

pub(crate) fn run(client: &Client, args: &ProxyArgs, out: &mut Out) -> Result<(), CliError> {
    match &args.command {
        ProxyCommand::List(list) => crate::status::list(client, list.output, out),
        ProxyCommand::Config(of) => {
            let config = Asked::of(client, of)?.config()?;
            out.json(&config)?;
            Ok(())
        }
        ProxyCommand::Endpoints(endpoints) => {
            let answer = Asked::of(client, &endpoints.of)?.endpoints(endpoints.cluster.as_deref())?;
            match endpoints.output {
                ViewFormat::Json => out.json(&answer)?,
                ViewFormat::Table => print_endpoints(client, answer, out)?,
            }
            Ok(())
        }
    }
}

fn print_endpoints(client: &Client, answer: Value, out: &mut Out) -> Result<(), CliError> {
    #[derive(Deserialize)]
    struct Clusters {
        #[serde(default)]
        clusters: Vec<Cluster>,
    }
    let Clusters { clusters } =
        serde_json::from_value(answer).map_err(|error| client.strange("endpoints", &error.to_string()))?;
    if clusters.is_empty() {
        say("nothing is in force: the app has called no service lately");
    }
    for cluster in clusters {
        let name = out.paint(Tone::Head, &clean(&cluster.name));
        out.line(&format!("{name}   {}", cluster.summary()))?;
        if let Some(made_from) = cluster.made_from() {
            out.line(&format!("  {made_from}"))?;
        }
        cluster.print_endpoints(out)?;
    }
    Ok(())
}

/// A proxy that is asked: through the control plane, or by itself.
pub(crate) enum Asked<'a> {
    Through { control_plane: &'a Client, name: ProxyName },
    Directly(Box<Client>),
}

impl<'a> Asked<'a> {
    fn of(client: &'a Client, of: &OfProxy) -> Result<Asked<'a>, CliError> {
        Asked::new(client, of.workload.as_ref(), of.proxy.as_deref())
    }

    /// The proxy at a URL, or of a workload; if neither is given, the only one that is connected.
    pub(crate) fn new(
        client: &'a Client,
        workload: Option<&ProxyName>,
        url: Option<&str>,
    ) -> Result<Asked<'a>, CliError> {
        if let Some(url) = url {
            return Ok(Asked::Directly(Box::new(Client::new(url, Peer::Proxy)?)));
        }
        let name = match workload {
            Some(name) => name.clone(),
            None => only_one(client)?,
        };
        Ok(Asked::Through {
            control_plane: client,
            name,
        })
    }

    /// What it runs with, and everything in force.
    pub(crate) fn config(&self) -> Result<Value, CliError> {
        match self {
            Asked::Through { control_plane, name } => control_plane.get(&name.what(), &name.path("config")),
            Asked::Directly(proxy) => proxy.get("the proxy", "/config"),
        }
    }

    /// Clusters in force with their endpoints: all, or one.
    pub(crate) fn endpoints(&self, cluster: Option<&str>) -> Result<Value, CliError> {
        match self {
            Asked::Through { control_plane, name } => {
                let query = cluster.map(|cluster| format!("?cluster={}", encode(cluster)));
                let path = format!("{}{}", name.path("endpoints"), query.unwrap_or_default());
                control_plane.get(&name.what(), &path)
            }
            Asked::Directly(_) => {
                let mut config = self.config()?;
                let all = config.pointer_mut("/mesh/clusters").map(Value::take);
                let mut clusters: Vec<Value> = match all {
                    Some(Value::Array(clusters)) => clusters,
                    Some(_) | None => Vec::new(),
                };
                clusters.retain(|one| cluster.is_none_or(|name| one["name"] == name));
                if let (Some(name), true) = (cluster, clusters.is_empty()) {
                    return Err(CliError::Absent(format!("no cluster {name:?} is in force there")));
                }
                Ok(serde_json::json!({"clusters": clusters}))
            }
        }
    }

    /// Explains a request, given as a query.
    pub(crate) fn explain(&self, query: &str) -> Result<Value, CliError> {
        match self {
            Asked::Through { control_plane, name } => {
                let path = format!("{}?{query}", name.path("explain"));
                control_plane.post(&name.what(), &path, &Value::Null)
            }
            Asked::Directly(proxy) => proxy.post("the proxy", &format!("/explain?{query}"), &Value::Null),
        }
    }
}

fn only_one(client: &Client) -> Result<ProxyName, CliError> {
    let list: ProxyList = client.view("proxies", crate::status::PROXIES)?;
    let mut connected: Vec<String> = list
        .items
        .into_iter()
        .filter(|proxy| proxy.connected)
        .map(|proxy| proxy.name)
        .collect();
    match (connected.pop(), connected.len()) {
        (Some(only), 0) => ProxyName::parse(&only).map_err(CliError::Usage),
        (None, _) => Err(CliError::Absent(
            "no proxy is connected to this control plane; --proxy URL asks one on its own host".to_owned(),
        )),
        (Some(last), _) => {
            connected.push(last);
            let shown: Vec<String> = connected.iter().take(NAMES_SHOWN_MAX).map(|name| clean(name)).collect();
            let more = connected.len().saturating_sub(NAMES_SHOWN_MAX);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            Err(CliError::Usage(format!(
                "say which proxy: NAMESPACE/WORKLOAD of {}{more}",
                shown.join(", ")
            )))
        }
    }
}

const NAMES_SHOWN_MAX: usize = 10;

impl ProxyName {
    fn path(&self, view: &str) -> String {
        format!(
            "/apis/weir.dev/v1/namespaces/{}/workloads/{}/{view}",
            self.namespace, self.name
        )
    }

    fn what(&self) -> String {
        format!("proxy {}/{}", self.namespace, self.name)
    }
}
