//! `weirctl explain`: which way a request would go from a proxy, and why.

use serde::Deserialize;

use crate::cli::{ExplainArgs, ViewFormat};
use crate::client::{Client, encode};
use crate::clusters::Cluster;
use crate::error::CliError;
use crate::output::{Out, Tone, clean};
use crate::proxy::Asked;

pub(crate) fn run(client: &Client, args: &ExplainArgs, out: &mut Out) -> Result<(), CliError> {
    let mut query = format!("method={}&url={}", encode(&args.method), encode(&args.url));
    for header in &args.headers {
        query.push_str(&format!("&header={}", encode(header)));
    }
    let answer = Asked::new(client, args.of.from.as_ref(), args.of.proxy.as_deref())?.explain(&query)?;
    match args.output {
        ViewFormat::Json => out.json(&answer)?,
        ViewFormat::Table => {
            let read: Result<Explanation, _> = serde_json::from_value(answer);
            let explanation = read.map_err(|error| {
                let problem = error.to_string();
                client.strange("explain", &problem)
            })?;
            Printer { out }.print(&explanation)?;
        }
    }
    Ok(())
}

/// What a proxy says, as far as it is printed. Read leniently: either side may be the newer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Explanation {
    proxy: Proxy,
    request: Request,
    name: Option<Name>,
    listener: Option<Resource>,
    route_configuration: Option<Resource>,
    virtual_host: Option<VirtualHost>,
    passed_over: Option<PassedOver>,
    route: Option<Route>,
    backends: Vec<Backend>,
    outcome: Outcome,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Proxy {
    workload: String,
    connected: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    method: String,
    url: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Name {
    asked: String,
    canonical: Option<String>,
    because: Vec<String>,
    public_dns: Option<PublicDns>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PublicDns {
    addresses: Vec<String>,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Resource {
    name: String,
    state: String,
    version: Option<String>,
    waiting: Option<String>,
    rejected: Option<RejectedVersion>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RejectedVersion {
    version: String,
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct VirtualHost {
    name: String,
    hosts: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PassedOver {
    total: usize,
    routes: Vec<PassedRoute>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PassedRoute {
    name: String,
    matches: String,
    why: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Route {
    name: String,
    matches: String,
    policy: Option<Policy>,
    request_headers: Vec<String>,
    response_headers: Vec<String>,
    cors: Option<String>,
    mirrors: Vec<String>,
    rewritten_target: Option<String>,
    rewritten_host: Option<String>,
    timeouts: Option<Timeouts>,
    retry: Option<Retry>,
    rate_limit: Option<RateLimit>,
    fault: Option<Fault>,
    priority: Option<u8>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Policy {
    name: String,
    fields: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RateLimit {
    requests: u64,
    per_ms: u64,
    burst: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fault {
    delay: Option<Delay>,
    abort: Option<Abort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delay {
    percent: f64,
    duration_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Abort {
    percent: f64,
    status: u16,
    grpc_status: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Timeouts {
    request_ms: Option<u64>,
    backend_request_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Retry {
    attempts: u64,
    on: Vec<String>,
    codes: Vec<u16>,
    backoff_ms: u64,
    methods: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Backend {
    #[serde(flatten)]
    cluster: Cluster,
    weight: u64,
    share_percent: f64,
    problem: Option<Outcome>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Outcome {
    action: String,
    status: Option<u16>,
    flag: Option<String>,
    why: String,
    hint: Option<String>,
}

struct Printer<'a> {
    out: &'a mut Out,
}

impl Printer<'_> {
    fn print(&mut self, explanation: &Explanation) -> Result<(), CliError> {
        let Explanation {
            proxy,
            request,
            name,
            listener,
            route_configuration,
            virtual_host,
            passed_over,
            route,
            backends,
            outcome,
        } = explanation;
        self.field("request", &format!("{} {}", request.method, request.url))?;
        let link = match proxy.connected.as_str() {
            "no" => " (not connected to a control plane: it goes by what it has)",
            _ => "",
        };
        self.field("from", &format!("{}{link}", proxy.workload))?;
        if let Some(name) = name {
            self.name(name, outcome)?;
        }
        self.resource("listener", listener.as_ref())?;
        self.resource("routes", route_configuration.as_ref())?;
        if let Some(host) = virtual_host {
            self.field(
                "host",
                &format!("{}, which serves {}", host.name, host.hosts.join(", ")),
            )?;
        }
        self.passed_over(passed_over.as_ref())?;
        if let Some(route) = route {
            self.route(route)?;
        }
        for backend in backends {
            self.backend(backend)?;
        }
        let (text, tone) = said(outcome);
        self.toned("outcome", tone, &text)?;
        if let Some(hint) = &outcome.hint {
            self.field("", hint)?;
        }
        Ok(())
    }

    fn name(&mut self, name: &Name, outcome: &Outcome) -> Result<(), CliError> {
        match &name.canonical {
            Some(canonical) => self.field("name", canonical)?,
            None => self.field("name", &format!("{} is none of the mesh", name.asked))?,
        }
        for because in &name.because {
            self.field("", because)?;
        }
        match &name.public_dns {
            Some(dns) if dns.error.is_none() => {
                let addresses = dns.addresses.join(", ");
                let is_outside = outcome.action == "pass_through"
                    || matches!(
                        outcome.flag.as_deref(),
                        Some("unknown_destination" | "prohibited_address" | "not_resolved")
                    );
                match is_outside {
                    true => self.field("", &format!("public DNS has it, as {addresses}")),
                    false => self.field("", &format!("public DNS has it too, as {addresses}; a mesh name wins")),
                }
            }
            Some(_) => self.field("", "public DNS has no such name"),
            None => Ok(()),
        }
    }

    fn resource(&mut self, label: &str, resource: Option<&Resource>) -> Result<(), CliError> {
        let Some(resource) = resource else { return Ok(()) };
        let version = match &resource.version {
            Some(version) => format!(", version {version}"),
            None => String::new(),
        };
        let state = resource.state.replace('_', " ");
        self.field(label, &format!("{}: {state}{version}", resource.name))?;
        if let Some(waiting) = &resource.waiting {
            let text = format!("version {waiting} waits for the clusters that it names");
            self.toned("", Tone::Waiting, &text)?;
        }
        if let Some(rejected) = &resource.rejected {
            let text = format!("version {} was rejected: {}", rejected.version, rejected.reason);
            self.toned("", Tone::Bad, &text)?;
        }
        Ok(())
    }

    fn passed_over(&mut self, passed: Option<&PassedOver>) -> Result<(), CliError> {
        let Some(passed) = passed.filter(|passed| passed.total > 0) else {
            return Ok(());
        };
        let mut label = "not by";
        for route in &passed.routes {
            self.field(label, &format!("{} ({}): {}", route.name, route.matches, route.why))?;
            label = "";
        }
        match passed.total.saturating_sub(passed.routes.len()) {
            0 => Ok(()),
            more => self.field("", &format!("and {more} more routes before")),
        }
    }

    fn route(&mut self, route: &Route) -> Result<(), CliError> {
        self.field("route", &format!("{} ({})", route.name, route.matches))?;
        let mut policies = Vec::new();
        if let Some(target) = &route.rewritten_target {
            policies.push(format!("asks for {target}"));
        }
        if let Some(host) = &route.rewritten_host {
            policies.push(format!("asks {host}"));
        }
        if let Some(timeouts) = &route.timeouts {
            policies.push(match timeouts.request_ms {
                Some(limit) => format!("has {limit} ms in all"),
                None => "has as long as its caller waits".to_owned(),
            });
            policies.extend(
                timeouts
                    .backend_request_ms
                    .map(|limit| format!("{limit} ms for one attempt")),
            );
            policies.push(match &route.retry {
                None => "is sent again only where that is safe for every request".to_owned(),
                Some(Retry {
                    attempts,
                    on,
                    codes,
                    backoff_ms,
                    methods,
                }) => {
                    let codes = codes.iter().map(u16::to_string);
                    let on: Vec<String> = on.iter().cloned().chain(codes).collect();
                    let on = if on.is_empty() {
                        String::new()
                    } else {
                        format!(" on {}", on.join(", "))
                    };
                    let methods = if methods == "Any" { ", whatever the method" } else { "" };
                    format!("is sent again up to {attempts} times{on}{methods}, after {backoff_ms} ms first")
                }
            });
        }
        if let Some(RateLimit {
            requests,
            per_ms,
            burst,
        }) = &route.rate_limit
        {
            policies.push(format!("takes {requests} requests in {per_ms} ms, {burst} at once"));
        }
        if let Some(priority) = &route.priority {
            policies.push(format!("matters as priority {priority}, unless it came as less"));
        }
        if let Some(Fault { delay, abort }) = &route.fault {
            let delay = delay.as_ref();
            policies.extend(delay.map(|Delay { percent, duration_ms }| {
                format!("lets {percent} % of its requests wait {duration_ms} ms on purpose")
            }));
            let abort = abort.as_ref();
            policies.extend(abort.map(
                |Abort {
                     percent,
                     status,
                     grpc_status,
                 }| {
                    format!(
                        "answers {percent} % of its requests on purpose, with {status} or grpc-status {grpc_status}"
                    )
                },
            ));
        }
        policies.extend(
            route
                .request_headers
                .iter()
                .map(|change| format!("{change} of the request")),
        );
        policies.extend(
            route
                .response_headers
                .iter()
                .map(|change| format!("{change} of the answer")),
        );
        policies.extend(route.cors.clone());
        policies.extend(route.mirrors.iter().map(|mirror| format!("copies {mirror}")));
        if !policies.is_empty() {
            self.field("", &policies.join("; "))?;
        }
        let Some(Policy { name, fields }) = &route.policy else {
            return Ok(());
        };
        match fields.as_slice() {
            [] => self.field("policy", &format!("{name}, which says nothing")),
            fields => self.field("policy", &format!("{name}, which says its {}", fields.join(", "))),
        }
    }

    fn backend(&mut self, backend: &Backend) -> Result<(), CliError> {
        let share = format!("weight {}, {:.1} %", backend.weight, backend.share_percent);
        let summary = backend.cluster.summary();
        self.field("backend", &format!("{} ({share}): {summary}", backend.cluster.name))?;
        if let Some(made_from) = backend.cluster.made_from() {
            self.field("", &made_from)?;
        }
        if let Some(problem) = &backend.problem {
            let (text, tone) = said(problem);
            self.toned("", tone, &text)?;
        }
        backend.cluster.print_endpoints(self.out)
    }

    fn field(&mut self, label: &str, text: &str) -> Result<(), CliError> {
        self.toned(label, Tone::Plain, text)
    }

    fn toned(&mut self, label: &str, tone: Tone, text: &str) -> Result<(), CliError> {
        let head = self.out.paint(Tone::Head, &format!("{label:10}"));
        let text = self.out.paint(tone, &clean(text));
        self.out.line(&format!("{head}{text}"))?;
        Ok(())
    }
}

fn said(outcome: &Outcome) -> (String, Tone) {
    let status = outcome
        .status
        .map(|status| format!(" with {status}"))
        .unwrap_or_default();
    let flag = match (&outcome.flag, outcome.action.as_str()) {
        (Some(flag), "refuse") => format!(" ({flag})"),
        (Some(_) | None, _) => String::new(),
    };
    let tone = match outcome.action.as_str() {
        "forward" | "redirect" | "respond" | "pass_through" => Tone::Good,
        "ask" => Tone::Waiting,
        _ => Tone::Bad,
    };
    (format!("{}{status}{flag}: {}", outcome.action, outcome.why), tone)
}
