//! What happens, scene by scene, and what must be seen in each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use weir_api::views::{ProxyList, Span, SpanKind, Trace};

use crate::app::{Fault, Role, SEEN_PATH, STALL, Seen, TRACE_HEADER, unix_nanos};
use crate::http::{Client, post};
use crate::load::{Load, Page, Totals, query};
use crate::stage::{NAMESPACE, Stage, get, json, loopback};
use crate::table::{Breaker, Check, Screen, millis};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    /// Citizens' queries a second.
    pub(crate) per_second: u32,
    /// How long each scene takes.
    pub(crate) scene: Duration,
}

/// Plays all scenes; what was asked for and seen is put into `checks` as it happens.
///
/// # Errors
/// When the demo can't go on: a process is gone, a command fails.
///
/// # Cancel safety
/// What was started is the stage's, which ends it.
pub(crate) async fn play(
    stage: &mut Stage,
    screen: &mut Screen,
    script: Script,
    checks: &mut Vec<Check>,
) -> anyhow::Result<()> {
    open(stage, screen).await?;
    let load = Load::start(stage.edge(), script.per_second);
    let mut scenes = Scenes {
        metrics: loopback(stage.ports(Role::HealthCode).metrics),
        screen,
        load,
        script,
        checks,
    };
    scenes.steady(stage).await?;
    scenes.version_2_fails(stage).await?;
    scenes.route_is_pushed(stage).await?;
    let before = resources(stage).await?;
    scenes.control_is_killed(stage).await?;
    scenes.control_comes_back(stage, &before).await?;
    scenes.one_trace(stage).await
}

/// Keeps a little traffic going, for those who look around.
pub(crate) async fn linger(stage: &Stage, script: Script) {
    let _load = Load::start(stage.edge(), script.per_second.min(LINGER_PER_SECOND));
    std::future::pending().await
}

/// What to try while all is left running.
pub(crate) fn by_hand(stage: &Stage) -> String {
    let weirctl = format!("{} --server http://{}", stage.weirctl_path().display(), stage.api);
    let v2 = loopback(stage.ports(Role::NucleicAcidTestV2).app);
    let health_code = stage.ports(Role::HealthCode);
    format!(
        "All is left running, with a few queries a second. Try by hand:\n\
         \n\
         the page                curl -i 'http://{edge}/?citizen=42'\n\
         what is in force        {weirctl} status\n\
         the resources           {weirctl} get httproute -n {NAMESPACE} -o yaml\n\
         calls to both versions  {weirctl} apply --wait -f {resources}\n\
         to version 1 alone      {weirctl} apply --wait -f {change}\n\
         version 2 fails         curl -X POST 'http://{v2}{fault}'\n\
         version 2 is well       curl -X POST 'http://{v2}{well}'\n\
         traces, and one of them {weirctl} trace [ID]\n\
         metrics of a sidecar    curl http://{metrics}/metrics\n\
         its configuration       curl http://{admin}/config\n\
         access logs             tail -f {logs}/health-code.access.jsonl\n\
         \n\
         Ctrl-C ends everything and removes {folder}.",
        edge = stage.edge(),
        resources = stage.resources().display(),
        change = stage.change().display(),
        fault = Fault::HALF.path(),
        well = Fault::NONE.path(),
        metrics = loopback(health_code.metrics),
        admin = loopback(health_code.admin),
        logs = stage.folder().join("logs").display(),
        folder = stage.folder().display(),
    )
}

/// Starts all and waits for the first whole page.
async fn open(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<()> {
    screen.headline("weir-control starts, on an empty folder");
    stage.start_control().await?;
    screen.headline("weirctl applies namespace, services, routes and policies");
    let folder = stage.resources().display().to_string();
    stage.weirctl(&["apply", "-f", &folder]).await?;
    screen.headline("seven services start, each with its own weir-proxy");
    stage.start_services().await?;
    screen.headline("the first query: each sidecar asks for what its app uses");
    let client = Client::new(stage.edge());
    let deadline = Instant::now() + FIRST_PAGE_TIMEOUT;
    loop {
        // The pages after the first see each version: the split is by weight, so that 20 pages leave none out.
        let mut pages = Vec::new();
        for citizen in 0..20 {
            pages.push(query(&client, citizen).await);
        }
        if pages.iter().all(|page| matches!(page, Page::Whole(_))) {
            return Ok(());
        }
        stage.check_alive()?;
        if Instant::now() > deadline {
            let why = pages.into_iter().find_map(|page| match page {
                Page::Blank(why) => Some(format!("no page: {why}")),
                Page::Degraded(answer) => Some(String::from_utf8_lossy(&answer.body).into_owned()),
                Page::Whole(_) => None,
            });
            let status = stage
                .weirctl(&["status"])
                .await
                .unwrap_or_else(|error| format!("{error:#}"));
            bail!("pages do not come whole: {}\n{status}", why.unwrap_or_default());
        }
        sleep(POLL).await;
    }
}

/// The scenes, while the citizens ask.
struct Scenes<'a> {
    screen: &'a mut Screen,
    load: Load,
    script: Script,
    checks: &'a mut Vec<Check>,
    /// The metrics port of the sidecar that calls both versions.
    metrics: SocketAddr,
}

impl Scenes<'_> {
    async fn steady(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        self.screen.scene(
            "1 steady",
            "Steady traffic; half of the calls go to each version of nucleic-acid-test",
        );
        let totals = self.watch().await;
        self.always_a_page("steady traffic", &totals);
        self.whole_pages("steady traffic", &totals);
        let slow = totals.times.quantile(0.99).unwrap_or_default();
        self.check(
            "steady traffic: p99 under 500 ms",
            millis(slow),
            slow < Duration::from_millis(500),
        );
        stage.check_alive()
    }

    async fn version_2_fails(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        let stall = STALL.as_secs();
        self.screen.scene(
            "2 version 2 fails",
            format!(
                "Version 2 of nucleic-acid-test fails half of its requests, and stalls {stall} s on half of the others"
            ),
        );
        let app = loopback(stage.ports(Role::NucleicAcidTestV2).app);
        post(app, &Fault::HALF.path(), CALL_TIMEOUT)
            .await
            .context("telling version 2 to fail")?;
        let before = sidecar(self.metrics).await?;
        let totals = self.watch().await;
        let after = sidecar(self.metrics).await?;
        let seen = seen(stage, Role::NucleicAcidTestV2).await?;
        self.check(
            "version 2 fails: it does, and it stalls",
            format!("{} failed, {} stalled, of {}", seen.errors, seen.stalls, seen.requests),
            seen.errors > 0 && seen.stalls > 0,
        );
        self.always_a_page("version 2 fails", &totals);
        let slow = totals.times.quantile(0.99).unwrap_or_default();
        self.check(
            "version 2 fails: nobody waits for a stall, p99 under 1 s",
            millis(slow),
            slow < Duration::from_secs(1),
        );
        let retries = after.retries - before.retries;
        self.check(
            "version 2 fails: what failed is asked again, as the route says",
            format!("retries: {retries}"),
            retries > 0.0,
        );
        let opened = after.opened - before.opened;
        self.check(
            "version 2 fails: its circuit breaker opens",
            format!("opened: {opened}"),
            opened > 0.0,
        );
        stage.check_alive()
    }

    async fn route_is_pushed(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        self.screen.scene(
            "3 a route is pushed",
            "A route that sends all calls to version 1 is pushed: weirctl apply --wait",
        );
        let before = seen(stage, Role::NucleicAcidTestV1).await?;
        ensure!(
            !before.routes.contains_key(NEW_ROUTE),
            "requests went by a route that was not pushed yet"
        );
        let file = stage.change().display().to_string();
        let start = (Instant::now(), unix_nanos());
        let load = &self.load;
        let push = async {
            stage.weirctl(&["apply", "-f", &file, "--wait"]).await?;
            let took = start.0.elapsed();
            sleep(SETTLE).await;
            anyhow::Ok((took, load.totals()))
        };
        let watch = watch(self.screen, load, self.metrics, self.script.scene);
        let (push, totals) = tokio::join!(push, watch);
        let (acknowledged, settled) = push?;
        let after = self.load.totals().since(&settled);
        let version_1 = seen(stage, Role::NucleicAcidTestV1).await?;
        let version_2 = seen(stage, Role::NucleicAcidTestV2).await?;
        let since = |nanos: u64| Duration::from_nanos(nanos.saturating_sub(start.1));
        self.check(
            "route pushed: in force on all proxies within 2 s",
            format!("{} from apply to the last ACK", millis(acknowledged)),
            acknowledged < Duration::from_secs(2),
        );
        let first = version_1
            .routes
            .get(NEW_ROUTE)
            .map(|route| since(route.first_unix_nanos));
        self.check(
            "route pushed: requests go by it within 2 s",
            first.map_or("none did".to_owned(), |first| {
                format!("{} from apply to the first", millis(first))
            }),
            first.is_some_and(|first| first < Duration::from_secs(2)),
        );
        let old =
            [&version_1, &version_2].map(|seen| seen.routes.get(OLD_ROUTE).map(|route| since(route.last_unix_nanos)));
        let old = old.into_iter().flatten().max().unwrap_or_default();
        self.check(
            "route pushed: the old one ends at most 1 s after the last ACK",
            match old {
                Duration::ZERO => "no request on the old route after apply".to_owned(),
                old => format!("last request on the old route {} after apply", millis(old)),
            },
            old < acknowledged + Duration::from_secs(1),
        );
        let strays = version_2.routes.get(NEW_ROUTE).map_or(0, |route| route.requests);
        self.check(
            "route pushed: version 2 gets nothing by it",
            format!("{strays} requests"),
            strays == 0,
        );
        self.always_a_page("route pushed", &totals);
        self.whole_pages("route pushed, after it", &after);
        let app = loopback(stage.ports(Role::NucleicAcidTestV2).app);
        post(app, &Fault::NONE.path(), CALL_TIMEOUT)
            .await
            .context("telling version 2 to be well")?;
        stage.check_alive()
    }

    async fn control_is_killed(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        self.screen.scene(
            "4 control plane killed",
            "weir-control is killed with -9; the sidecars go on with what they have",
        );
        stage.kill_control().await?;
        let totals = self.watch().await;
        self.always_a_page("control plane killed", &totals);
        self.whole_pages("control plane killed", &totals);
        stage.check_alive()
    }

    async fn control_comes_back(&mut self, stage: &mut Stage, before: &BTreeMap<String, Value>) -> anyhow::Result<()> {
        self.screen.scene(
            "5 it comes back",
            "weir-control starts again on the same folder; the sidecars find it again",
        );
        let come_back = async {
            let start = Instant::now();
            stage.start_control().await?;
            let ready = start.elapsed();
            let after = resources(stage).await?;
            let in_force = in_force_everywhere(stage).await;
            anyhow::Ok((ready, after, in_force, start.elapsed()))
        };
        let watch = watch(self.screen, &self.load, self.metrics, self.script.scene);
        let (come_back, totals) = tokio::join!(come_back, watch);
        let (ready, after, in_force, took) = come_back?;
        let lost = differences(before, &after);
        self.check(
            "control plane back: no resource is lost or changed",
            if lost.is_empty() {
                format!("all {} are there, ready in {}", before.len(), millis(ready))
            } else {
                format!("differ: {}", lost.join(", "))
            },
            lost.is_empty(),
        );
        let (text, ok) = match in_force {
            Ok(proxies) => (
                format!("{proxies} of {proxies}, {} after its start", millis(took)),
                true,
            ),
            Err(error) => (format!("{error:#}"), false),
        };
        self.check(
            "control plane back: all proxies are connected, all is in force",
            text,
            ok,
        );
        self.always_a_page("control plane back", &totals);
        self.whole_pages("control plane back", &totals);
        stage.check_alive()
    }

    async fn one_trace(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        self.screen.headline("One query's trace, over all services");
        let id = traced_query(stage.edge()).await?;
        let path = format!("/traces/{id}");
        let deadline = Instant::now() + TRACE_TIMEOUT;
        let trace = loop {
            match stage.api::<Trace>(&path).await {
                Ok(trace) if trace.spans.len() >= SPANS => break trace,
                trace if Instant::now() > deadline => break trace?,
                // Spans are exported once a second.
                _ => sleep(POLL).await,
            }
        };
        self.screen.say(&format!("\ntrace {id}\n{}", tree(&trace)));
        let services: BTreeSet<&str> = trace.spans.iter().map(|span| span.service.as_str()).collect();
        self.check(
            "one query: one trace over six services, both sidecars of each hop",
            format!("{} spans of {} services", trace.spans.len(), services.len()),
            trace.spans.len() == SPANS && services.len() == 6,
        );
        let (text, ok) = match judge_parents(&trace) {
            Ok(()) => ("each has".to_owned(), true),
            Err(wrong) => (wrong, false),
        };
        self.check("one query: each span has the right parent", text, ok);
        stage.check_alive()
    }

    async fn watch(&mut self) -> Totals {
        watch(self.screen, &self.load, self.metrics, self.script.scene).await
    }

    fn always_a_page(&mut self, when: &str, totals: &Totals) {
        let why = totals
            .blank_why
            .as_ref()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        self.check(
            &format!("{when}: every query has a page, never blank"),
            format!("{} of {}{why}", totals.all() - totals.blank, totals.all()),
            totals.blank == 0 && totals.all() > 0,
        );
    }

    fn whole_pages(&mut self, when: &str, totals: &Totals) {
        let percent = totals.degraded_percent();
        self.check(
            &format!("{when}: at most {DEGRADED_PERCENT_MAX} % of the pages, or {DEGRADED_MAX}, lack a part"),
            format!("{percent:.2} %, {} of {}", totals.degraded, totals.all()),
            (percent <= DEGRADED_PERCENT_MAX || totals.degraded <= DEGRADED_MAX) && totals.all() > 0,
        );
    }

    fn check(&mut self, asked: &str, seen: impl Into<String>, ok: bool) {
        self.checks.push(Check {
            asked: asked.to_owned(),
            seen: seen.into(),
            ok,
        });
    }
}

/// Shows the numbers each second until the scene is over; gives what came of its queries.
async fn watch(screen: &mut Screen, load: &Load, metrics: SocketAddr, scene: Duration) -> Totals {
    let start = Instant::now();
    let before = load.totals();
    let mut last = (start, before.clone());
    let mut ticks = interval(SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let breaker = sidecar(metrics)
            .await
            .map_or(Breaker::Unknown, |sidecar| sidecar.breaker);
        let totals = load.totals();
        let (second, so_far) = (totals.since(&last.1), totals.since(&before));
        screen.tick(&second, last.0.elapsed(), &so_far, start.elapsed(), breaker);
        last = (Instant::now(), totals);
        if start.elapsed() >= scene {
            return so_far;
        }
    }
}

/// What the sidecar of the health-code service says of itself on its metrics page.
struct Sidecar {
    /// Of version 2.
    breaker: Breaker,
    /// How often that has opened.
    opened: f64,
    /// Retries because a route says so, to whichever service.
    retries: f64,
}

async fn sidecar(metrics: SocketAddr) -> anyhow::Result<Sidecar> {
    let answer = get(metrics, "/metrics").await?;
    Ok(read_metrics(&String::from_utf8_lossy(&answer.body)))
}

fn read_metrics(page: &str) -> Sidecar {
    let value = |name: &str, label: &str| {
        let mut lines = page
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
        let line = lines.find(|line| line.contains(label))?;
        line.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    Sidecar {
        breaker: match value("weir_breaker_open", VERSION_2) {
            None => Breaker::Unknown,
            Some(0.0) => Breaker::Closed,
            Some(_) => Breaker::Open,
        },
        opened: value("weir_breaker_opened_total", VERSION_2).unwrap_or(0.0),
        retries: value("weir_retries_total", "kind=\"policy\"").unwrap_or(0.0),
    }
}

/// What a leaf service has seen, asked on its own port, past the mesh.
async fn seen(stage: &Stage, role: Role) -> anyhow::Result<Seen> {
    let answer = get(loopback(stage.ports(role).app), SEEN_PATH).await?;
    json(&answer, SEEN_PATH)
}

/// All resources of the demo, by kind and name, without what may change by itself: status and revision.
async fn resources(stage: &Stage) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    for path in RESOURCE_PATHS {
        let list: Value = stage.api(path).await?;
        let items = list["items"].as_array().with_context(|| format!("{path} is no list"))?;
        let kind = path.rsplit('/').next().unwrap_or(path);
        for item in items {
            let name = item["metadata"]["name"]
                .as_str()
                .with_context(|| format!("{path}: an item without a name"))?;
            let mut item = item.clone();
            if let Some(object) = item.as_object_mut() {
                object.remove("status");
            }
            if let Some(metadata) = item["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
            all.insert(format!("{kind}/{name}"), item);
        }
    }
    Ok(all)
}

/// The names of resources that are not the same before and after.
fn differences(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<String> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .cloned()
        .collect()
}

/// Waits until each proxy is connected and has acknowledged all that it subscribes to; gives how many there are.
async fn in_force_everywhere(stage: &Stage) -> anyhow::Result<usize> {
    let deadline = Instant::now() + RECONNECT_TIMEOUT;
    loop {
        let proxies: ProxyList = stage.api("/apis/weir.dev/v1/proxies").await?;
        let proxies = proxies.items;
        let behind: Vec<&str> = proxies
            .iter()
            .filter(|proxy| !proxy.connected || proxy.in_force < proxy.subscribed)
            .map(|proxy| proxy.name.as_str())
            .collect();
        // Who calls nobody subscribes to nothing; the portal and the health-code service do.
        let callers = proxies.iter().filter(|proxy| proxy.in_force > 0).count();
        if behind.is_empty() && proxies.len() == Role::ALL.len() && callers >= 2 {
            return Ok(proxies.len());
        }
        if Instant::now() > deadline {
            bail!(
                "{} of {} proxies are there, behind: {}",
                proxies.len(),
                Role::ALL.len(),
                behind.join(", ")
            );
        }
        sleep(POLL).await;
    }
}

/// Asks for pages until one is whole and its trace was sampled; gives the trace's id.
async fn traced_query(edge: SocketAddr) -> anyhow::Result<String> {
    let client = Client::new(edge);
    for citizen in 0..TRACED_QUERIES_MAX {
        let Page::Whole(answer) = query(&client, citizen).await else {
            continue;
        };
        let header = answer
            .header(TRACE_HEADER)
            .context("the portal's answer names no trace: it got no traceparent")?;
        if let Some(id) = sampled(header) {
            return Ok(id.to_owned());
        }
    }
    bail!("of {TRACED_QUERIES_MAX} queries none was sampled")
}

/// The trace id of a `traceparent` whose trace is sampled (W3C Trace Context, section 3.2.2).
fn sampled(traceparent: &str) -> Option<&str> {
    let mut fields = traceparent.split('-');
    let (_version, id, _parent, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    (u8::from_str_radix(flags, 16).ok()? & 1 == 1).then_some(id)
}

/// A span's children, by start; of no span: the roots.
fn children<'a>(trace: &'a Trace, parent: &str) -> Vec<&'a Span> {
    let mut spans: Vec<&Span> = trace.spans.iter().filter(|span| span.parent_id == parent).collect();
    spans.sort_by_key(|span| span.start_unix_nano);
    spans
}

/// Who calls whom, with a bar for when.
fn tree(trace: &Trace) -> String {
    let end = |span: &Span| span.start_unix_nano.saturating_add(span.duration_nanos);
    let first = trace.spans.iter().map(|span| span.start_unix_nano).min().unwrap_or(0);
    let last = trace.spans.iter().map(end).max().unwrap_or(0);
    let mut text = String::new();
    let mut open: Vec<(usize, &Span)> = children(trace, "").into_iter().rev().map(|span| (0, span)).collect();
    // No more than there are: spans whose parents form a circle would go on for ever.
    for _ in 0..trace.spans.len() {
        let Some((depth, span)) = open.pop() else {
            break;
        };
        let name = format!("{:indent$}{}", "", side(span), indent = depth * 2);
        let bar = bar(span.start_unix_nano - first, span.duration_nanos, last - first);
        let took = millis(Duration::from_nanos(span.duration_nanos));
        text.push_str(&format!("  {name:<44} {took:>8}  {bar}  {}\n", span.name));
        let below = children(trace, &span.span_id);
        open.extend(below.into_iter().rev().map(|span| (depth + 1, span)));
    }
    text
}

/// Whether each span hangs where it must: one root, at the portal's inbound side; an inbound side's parent is the
/// outbound side of its caller; an outbound side's is the inbound side of the same service.
fn judge_parents(trace: &Trace) -> Result<(), String> {
    let by_id: BTreeMap<&str, &Span> = trace.spans.iter().map(|span| (span.span_id.as_str(), span)).collect();
    let mut roots = 0;
    for span in &trace.spans {
        if span.parent_id.is_empty() {
            roots += 1;
            if own_name(span) != Role::Portal.name() || span.kind != SpanKind::Server {
                return Err(format!("{} has no parent", side(span)));
            }
            continue;
        }
        let Some(parent) = by_id.get(span.parent_id.as_str()) else {
            return Err(format!("the parent of {} is missing", side(span)));
        };
        let right = match (parent.kind, span.kind) {
            (SpanKind::Client, SpanKind::Server) => calls(own_name(parent), own_name(span)),
            (SpanKind::Server, SpanKind::Client) => parent.service == span.service,
            _ => false,
        };
        if !right {
            return Err(format!("the parent of {} is {}", side(span), side(parent)));
        }
    }
    if roots == 1 {
        Ok(())
    } else {
        Err(format!("{roots} spans have no parent"))
    }
}

/// Which sidecar made a span, and on which of its sides.
fn side(span: &Span) -> String {
    let side = match span.kind {
        SpanKind::Server => "inbound",
        SpanKind::Client => "outbound",
        SpanKind::Internal | SpanKind::Producer | SpanKind::Consumer => "inside",
    };
    format!("{} {side}", own_name(span))
}

/// A workload's name without its namespace, which is the same for all.
fn own_name(span: &Span) -> &str {
    span.service.rsplit_once('/').map_or(&span.service, |(_, name)| name)
}

/// Who calls whom in the demo.
fn calls(caller: &str, callee: &str) -> bool {
    match caller {
        "portal" => callee == "health-code",
        "health-code" => callee != "portal" && callee != "health-code",
        _ => false,
    }
}

/// Where a span lies in its trace, in [`BAR_WIDTH`] characters.
fn bar(from: u64, took: u64, all: u64) -> String {
    let place = |nanos: u64| (nanos as f64 / all.max(1) as f64 * BAR_WIDTH as f64) as usize;
    let from_place = place(from).min(BAR_WIDTH - 1);
    let width = place(took).clamp(1, BAR_WIDTH - from_place);
    format!(
        "{}{}{}",
        " ".repeat(from_place),
        "=".repeat(width),
        " ".repeat(BAR_WIDTH - from_place - width)
    )
}

/// What the routes write into the header that says which took a request.
const OLD_ROUTE: &str = "split";
const NEW_ROUTE: &str = "all-to-version-1";
/// The share of pages that may lack a part when nothing is broken: a machine that is busy with something else may
/// let one of the mesh's time-outs pass (200 ms an attempt).
const DEGRADED_PERCENT_MAX: f64 = 0.5;
/// The same where a scene is so short that a page is more than that share.
const DEGRADED_MAX: u64 = 2;
/// Two sidecars at each of five hops, and the portal's own inbound side.
const SPANS: usize = 11;
/// Where the resources are that must survive.
const RESOURCE_PATHS: [&str; 6] = [
    "/api/v1/namespaces",
    "/api/v1/namespaces/citizen/services",
    "/apis/gateway.networking.k8s.io/v1/namespaces/citizen/httproutes",
    "/apis/weir.dev/v1/namespaces/citizen/backendpolicies",
    "/apis/weir.dev/v1/namespaces/citizen/workloads",
    "/apis/discovery.k8s.io/v1/namespaces/citizen/endpointslices",
];
/// How the metrics name version 2.
const VERSION_2: &str = "cluster=\"nucleic-acid-test-v2.citizen:80\"";
const BAR_WIDTH: usize = 24;
const FIRST_PAGE_TIMEOUT: Duration = Duration::from_secs(20);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const TRACE_TIMEOUT: Duration = Duration::from_secs(10);
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long requests that were planned by the old route may still be under way: the route's own time-out, and some.
const SETTLE: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);
/// One query in ten is sampled.
const TRACED_QUERIES_MAX: u64 = 500;
const LINGER_PER_SECOND: u32 = 10;

#[cfg(test)]
mod tests {
    use weir_api::views::SpanStatus;

    use super::*;

    fn span(id: &str, parent: &str, service: &str, kind: SpanKind) -> Span {
        Span {
            span_id: id.to_owned(),
            parent_id: parent.to_owned(),
            service: service.to_owned(),
            name: "GET".to_owned(),
            kind,
            start_unix_nano: 1_000,
            duration_nanos: 500,
            status: SpanStatus::Unset,
            attributes: serde_json::Map::new(),
        }
    }

    fn trace(spans: Vec<Span>) -> Trace {
        Trace {
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
            spans,
        }
    }

    fn chain() -> Vec<Span> {
        vec![
            span("a", "", "citizen/portal", SpanKind::Server),
            span("b", "a", "citizen/portal", SpanKind::Client),
            span("c", "b", "citizen/health-code", SpanKind::Server),
            span("d", "c", "citizen/health-code", SpanKind::Client),
            span("e", "d", "citizen/identity", SpanKind::Server),
        ]
    }

    #[test]
    fn parents_are_judged() {
        assert_eq!(judge_parents(&trace(chain())), Ok(()));
        type Change = fn(&mut Vec<Span>);
        let changes: [(&str, Change); 7] = [
            ("two roots", |spans| {
                spans.push(span("x", "", "citizen/portal", SpanKind::Server))
            }),
            ("a root elsewhere", |spans| spans[2].parent_id.clear()),
            ("a parent that is missing", |spans| spans[4].parent_id = "y".to_owned()),
            ("a hop left out", |spans| spans[4].parent_id = "c".to_owned()),
            ("a caller that does not call it", |spans| {
                spans[4].parent_id = "b".to_owned()
            }),
            ("a side that is none", |spans| spans[3].kind = SpanKind::Internal),
            ("no spans", Vec::clear),
        ];
        for (what, change) in changes {
            let mut spans = chain();
            change(&mut spans);
            assert!(judge_parents(&trace(spans)).is_err(), "{what}");
        }
    }

    #[test]
    fn a_tree_shows_each_span_once_even_in_a_circle() {
        let mut spans = chain();
        spans.push(span("a", "e", "citizen/travel", SpanKind::Server));
        let tree = tree(&trace(spans));
        assert_eq!(tree.lines().count(), 6, "{tree}");
        let first = tree.lines().next().unwrap_or_default();
        assert!(
            first.trim_start().starts_with("portal inbound") && first.contains(&"=".repeat(BAR_WIDTH)),
            "{tree}"
        );
    }

    #[test]
    fn the_metrics_page_is_read() {
        for (page, breaker, opened, retries) in [
            ("", Breaker::Unknown, 0.0, 0.0),
            (
                "weir_breaker_open{cluster=\"identity.citizen:80\"} 1",
                Breaker::Unknown,
                0.0,
                0.0,
            ),
            (
                "weir_breaker_open{cluster=\"nucleic-acid-test-v2.citizen:80\"} 0.0",
                Breaker::Closed,
                0.0,
                0.0,
            ),
            (
                "# HELP x\n\
                 weir_breaker_opened_total{cluster=\"identity.citizen:80\"} 7\n\
                 weir_breaker_opened_total{cluster=\"nucleic-acid-test-v2.citizen:80\"} 2\n\
                 weir_breaker_open{cluster=\"nucleic-acid-test-v2.citizen:80\"} 1.0\n\
                 weir_retries_total{kind=\"unprocessed\"} 3\n\
                 weir_retries_total{kind=\"policy\"} 9\n",
                Breaker::Open,
                2.0,
                9.0,
            ),
        ] {
            let read = read_metrics(page);
            assert_eq!(
                (read.breaker, read.opened, read.retries),
                (breaker, opened, retries),
                "{page}"
            );
        }
    }

    #[test]
    fn only_a_sampled_trace_is_taken() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (flags, expect) in [
            ("01", Some(id)),
            ("03", Some(id)),
            ("00", None),
            ("02", None),
            ("zz", None),
        ] {
            assert_eq!(sampled(&format!("00-{id}-00f067aa0ba902b7-{flags}")), expect);
        }
        assert_eq!(sampled("00"), None);
    }

    #[test]
    fn differences_name_what_came_went_and_changed() {
        let list = |items: &[(&str, u32)]| {
            items
                .iter()
                .map(|(name, value)| (name.to_string(), Value::from(*value)))
                .collect()
        };
        let before = list(&[("a", 1), ("b", 1), ("c", 1)]);
        let after = list(&[("a", 1), ("b", 2), ("d", 1)]);
        assert_eq!(differences(&before, &after), ["b", "c", "d"]);
        assert!(differences(&before, &before).is_empty());
    }
}
