//! `weirctl check`: whether the mesh is well, and what to do where it is not.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use weir_api::Kind;
use weir_api::identity::AuthorityStatus;
use weir_api::status::condition;
use weir_api::views::{ObjectList, Proxy, ProxyList};

use crate::cli::{CheckArgs, ProxyName, ViewFormat};
use crate::client::Client;
use crate::error::CliError;
use crate::identity;
use crate::output::{Out, Tone, clean};
use crate::proxy::Asked;
use crate::status::PROXIES;
use crate::wait::conditions;

pub(crate) fn run(client: &Client, args: &CheckArgs, out: &mut Out) -> Result<(), CliError> {
    let findings = findings(client);
    let wrong = findings
        .iter()
        .filter(|finding| finding.result == Outcome::Wrong)
        .count();
    match args.output {
        ViewFormat::Json => out.json(&serde_json::json!({"wrong": wrong, "checks": findings}))?,
        ViewFormat::Table => {
            for finding in &findings {
                print(finding, out)?;
            }
        }
    }
    match wrong {
        0 => Ok(()),
        count => Err(CliError::NotWell(count)),
    }
}

/// What a check came to.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    check: String,
    result: Outcome,
    /// What was seen.
    seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<Cow<'static, str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Outcome {
    Well,
    /// Nothing is broken, but somebody may want to know.
    Notice,
    Wrong,
}

impl Finding {
    fn well(check: impl Into<String>, seen: impl Into<String>) -> Finding {
        Finding {
            check: check.into(),
            result: Outcome::Well,
            seen: seen.into(),
            remedy: None,
        }
    }

    fn wrong(check: impl Into<String>, seen: impl Into<String>, remedy: impl Into<Cow<'static, str>>) -> Finding {
        Finding {
            result: Outcome::Wrong,
            remedy: Some(remedy.into()),
            ..Finding::well(check, seen)
        }
    }

    fn notice(check: impl Into<String>, seen: impl Into<String>, remedy: impl Into<Cow<'static, str>>) -> Finding {
        Finding {
            result: Outcome::Notice,
            ..Finding::wrong(check, seen, remedy)
        }
    }
}

/// Everything that was looked at; what can't be looked at is wrong.
fn findings(client: &Client) -> Vec<Finding> {
    let mut findings = Vec::new();
    let answer = client.get_with_date("version", "/version");
    let (version, date) = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let remedy = error.hint().unwrap_or("look at weir-control's log");
            findings.push(Finding::wrong("control plane", error.to_string(), remedy));
            return findings;
        }
    };
    let version = version["gitVersion"]
        .as_str()
        .unwrap_or("?")
        .trim_start_matches('v')
        .to_owned();
    findings.push(Finding::well("control plane", format!("answers, version {version}")));
    if version != OWN_VERSION {
        let seen = format!("weirctl is {OWN_VERSION}, weir-control {version}");
        findings.push(Finding::notice("versions", seen, "bring both to one version"));
    }
    let now = jiff::Timestamp::now().as_second();
    if let Some(date) = date {
        findings.push(clock("clock of the control plane", "this host's", date - now));
    }
    readiness(client, &mut findings);
    match identity::status(client) {
        Ok(status) => {
            findings.push(authority(&status));
            rotation(&status, &mut findings);
        }
        Err(error) => {
            let remedy = "look at weir-control's log";
            findings.push(Finding::wrong("certificate authority", error.to_string(), remedy));
        }
    }
    if let Err(error) = proxies(client, &version, date.unwrap_or(now), &mut findings) {
        findings.push(Finding::wrong(
            "proxies",
            error.to_string(),
            "look at weir-control's log",
        ));
    }
    if let Err(error) = resources(client, &mut findings) {
        findings.push(Finding::wrong(
            "resources",
            error.to_string(),
            "look at weir-control's log",
        ));
    }
    findings
}

fn clock(whose: &str, than: &str, ahead_seconds: i64) -> Finding {
    let apart = ahead_seconds.unsigned_abs();
    if apart <= CLOCKS_APART_MAX_SECONDS {
        return Finding::well(whose, format!("agrees with {than}"));
    }
    let word = if ahead_seconds > 0 { "ahead of" } else { "behind" };
    let seen = format!("is {apart} s {word} {than}");
    Finding::wrong(
        whose,
        seen,
        "set the clocks by NTP: certificates, traces and time-outs go by them",
    )
}

fn readiness(client: &Client, findings: &mut Vec<Finding>) {
    match client.get_text("/readyz?verbose") {
        Ok((200, _)) => findings.push(Finding::well("readiness", "the control plane is ready")),
        Ok((_, text)) => {
            let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let seen = lines.join("; ");
            findings.push(Finding::wrong(
                "readiness",
                seen,
                "correct what is named; what was before stays in force",
            ));
        }
        Err(error) => findings.push(Finding::wrong(
            "readiness",
            error.to_string(),
            "look at weir-control's log",
        )),
    }
}

fn authority(status: &AuthorityStatus) -> Finding {
    const CHECK: &str = "certificate authority";
    if !status.trouble.is_empty() {
        let remedy = "correct the file that is named; what it held before is still in use";
        return Finding::wrong(CHECK, status.trouble.clone(), remedy);
    }
    // Peers trust all roots: the last to end counts.
    let root = status.roots.iter().map(|root| root.days_left).max().unwrap_or(-1);
    let intermediate = status.intermediate.days_left;
    let seen = format!("root good for {root} days, intermediate for {intermediate}");
    let remedy = "`weirctl ca rotate` (with an operator's files: new ones); when one ends, no proxy can join or renew";
    match root.min(intermediate) {
        ..CA_DAYS_WRONG => Finding::wrong(CHECK, seen, remedy),
        CA_DAYS_WRONG..CA_DAYS_NOTICE => Finding::notice(CHECK, seen, remedy),
        CA_DAYS_NOTICE.. => Finding::well(CHECK, seen),
    }
}

/// What a rotation of the root waits for, and who doesn't have the roots as they are now.
fn rotation(status: &AuthorityStatus, findings: &mut Vec<Finding>) {
    if let Some(rotation) = &status.rotation {
        let seen = identity::under_way(rotation);
        let remedy = match status.behind.is_empty() {
            true => "nothing: it goes on by itself",
            false => "see to the proxies that are named below",
        };
        findings.push(Finding::notice("rotation of the root", seen, remedy));
    }
    for proxy in &status.behind {
        let seen = format!("{} since {}: {}", proxy.workload, proxy.since, proxy.why);
        findings.push(Finding::notice("trust in the roots", seen, proxy.remedy.clone()));
    }
}

fn proxies(client: &Client, version: &str, now: i64, findings: &mut Vec<Finding>) -> Result<(), CliError> {
    let list: ProxyList = client.view("proxies", PROXIES)?;
    let workloads: ObjectList = client.view("workloads", &Kind::Workload.path(None))?;
    if list.items.is_empty() {
        let remedy = "start weir-proxy with --control-plane, beside each app";
        findings.push(Finding::notice("proxies", "none has connected", remedy));
        return Ok(());
    }
    let before = findings.len();
    for proxy in &list.items {
        one_proxy(proxy, version, findings);
    }
    for workload in &workloads.items {
        one_workload(workload, now, findings);
    }
    if findings.len() == before {
        let count = list.items.len();
        let seen = format!("{count} connected and confirmed, with all in force that they use");
        findings.push(Finding::well("proxies", seen));
    }
    cleartext(client, &list, findings);
    Ok(())
}

/// Who came in cleartext to workloads that have certificates: those whom `Strict` would shut out; and how many proxies
/// did not say.
fn cleartext(client: &Client, list: &ProxyList, findings: &mut Vec<Finding>) {
    let secured = list
        .items
        .iter()
        .filter(|proxy| proxy.connected && !proxy.account.is_empty());
    let began = Instant::now();
    let (mut callers, mut asked, mut silent) = (Vec::new(), 0, 0);
    for proxy in secured {
        asked += 1;
        let config = match ProxyName::parse(&proxy.name) {
            Ok(name) if began.elapsed() < CALLERS_ASKED_FOR => Asked::new(client, Some(&name), None)
                .and_then(|asked| asked.config())
                .ok(),
            Ok(_) | Err(_) => None,
        };
        let Some(config) = config else {
            silent += 1;
            continue;
        };
        let seen = config["cleartextCallers"].as_array().into_iter().flatten();
        callers.extend(seen.map(|caller| {
            let (address, port) = (caller["address"].as_str().unwrap_or("?"), &caller["appPort"]);
            let (requests, ago) = (&caller["requests"], &caller["lastSecondsAgo"]);
            clean(&format!(
                "{address} to port {port} of {} (requests: {requests}, the last {ago} s ago)",
                proxy.name
            ))
        }));
    }
    findings.extend(told(callers, asked, silent));
}

/// What is said of callers in cleartext.
fn told(mut callers: Vec<String>, asked: usize, silent: usize) -> Vec<Finding> {
    const WHAT: &str = "callers in cleartext";
    let mut findings = Vec::new();
    let more = callers.len().saturating_sub(CALLERS_SHOWN_MAX);
    callers.truncate(CALLERS_SHOWN_MAX);
    if more > 0 {
        callers.push(format!("and {more} more"));
    }
    if !callers.is_empty() {
        let remedy = "before you ask for mutual TLS there, give them sidecars that join with a token, or the port an override \
                      in MeshConfig.spec.mutualTls";
        findings.push(Finding::notice(WHAT, callers.join("; "), remedy));
    }
    if silent > 0 {
        let seen = format!("{silent} of {asked} proxies did not say theirs in time");
        let remedy = "look at weir_cleartext_requests_total of each before you ask for mutual TLS there";
        findings.push(Finding::notice(WHAT, seen, remedy));
    }
    findings
}

/// How long proxies are asked, one after the other; those that are left are counted.
const CALLERS_ASKED_FOR: Duration = Duration::from_secs(20);
/// Of callers; more are counted.
const CALLERS_SHOWN_MAX: usize = 10;

fn one_proxy(proxy: &Proxy, version: &str, findings: &mut Vec<Finding>) {
    let name = format!("proxy {}", proxy.name);
    if !proxy.connected {
        let remedy = "does weir-proxy run there, and does it reach this control plane? See its log";
        findings.push(Finding::wrong(name, "is not connected", remedy));
        return;
    }
    for rejected in &proxy.rejected {
        let from = match rejected.sources.as_slice() {
            [] => String::new(),
            sources => format!(" (made from {})", sources.join(", ")),
        };
        let seen = format!(
            "rejected {:?} {}{from}: {}",
            rejected.config_type, rejected.name, rejected.reason
        );
        let remedy = "correct the resource, or bring proxy and control plane to one version";
        findings.push(Finding::wrong(&name, seen, remedy));
    }
    for pending in proxy.pending.iter().filter(|one| one.seconds > PENDING_MAX_SECONDS) {
        let seen = format!(
            "has not confirmed {:?} {} for {:.0} s",
            pending.config_type, pending.name, pending.seconds
        );
        findings.push(Finding::wrong(
            &name,
            seen,
            "is its host overloaded? See its log and /config",
        ));
    }
    let strict = proxy.ports.iter().filter(|port| port.entered == "Strict");
    let strict: Vec<String> = strict.map(|port| port.app_port.to_string()).collect();
    if proxy.account.is_empty() && !strict.is_empty() {
        let seen = format!(
            "has no certificate, and nobody can call its app port {}, which is entered by mutual TLS alone",
            strict.join(", ")
        );
        let remedy = "let it join with a token, or give it an override in MeshConfig.spec.mutualTls";
        findings.push(Finding::wrong(&name, seen, remedy));
    }
    if !proxy.version.is_empty() && proxy.version != version {
        let seen = format!("is of version {}, weir-control of {version}", proxy.version);
        findings.push(Finding::notice(
            &name,
            seen,
            "bring both to one version, the control plane first",
        ));
    }
}

fn one_workload(workload: &Value, now: i64, findings: &mut Vec<Finding>) {
    let text = |pointer: &str| workload.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = format!("workload {}/{}", text("/metadata/namespace"), text("/metadata/name"));
    match text("/status/state") {
        "Unconfirmed" => {
            let remedy = "its stream is lost: callers use it as long as it answers them; see its proxy's log";
            findings.push(Finding::wrong(&name, "is not confirmed", remedy));
        }
        "Draining" => {
            let remedy = "nothing to do if somebody is stopping it";
            findings.push(Finding::notice(&name, "drains: it takes no new requests", remedy));
        }
        _ => {}
    }
    let ports = workload.pointer("/spec/ports").and_then(Value::as_array);
    let ready = workload.pointer("/status/readyAppPorts").and_then(Value::as_array);
    if let (Some(ports), Some(ready)) = (ports, ready) {
        for port in ports
            .iter()
            .filter_map(|port| port.get("appPort"))
            .filter(|port| !ready.contains(port))
        {
            let seen = format!("takes no connections on app port {port}");
            findings.push(Finding::wrong(&name, seen, "does the app run, and listen there?"));
        }
    }
    // Microseconds of its own clock when it started; it did so before now.
    let started = workload.pointer("/spec/instance").and_then(Value::as_i64).unwrap_or(0) / 1_000_000;
    let ahead = started - now;
    if ahead > 0 && ahead.unsigned_abs() > CLOCKS_APART_MAX_SECONDS {
        findings.push(clock(&format!("clock of {name}"), "the control plane's", ahead));
    }
}

/// Resources whose status says that something is not as it was asked for.
fn resources(client: &Client, findings: &mut Vec<Finding>) -> Result<(), CliError> {
    let before = findings.len();
    for &kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Workload) {
        let list: ObjectList = client.view(kind.plural(), &kind.path(None))?;
        for item in &list.items {
            for condition in &conditions(item) {
                let text = |name: &str| item["metadata"][name].as_str().unwrap_or_default();
                let name = format!("{}/{}/{}", kind.singular(), text("namespace"), text("name"));
                let seen = format!(
                    "{} is {} ({}): {}",
                    condition.name, condition.status, condition.reason, condition.message
                );
                let remedy = "`weirctl describe` shows the whole of it";
                match (condition.name.as_str(), condition.status.as_str()) {
                    (_, "False") => findings.push(Finding::wrong(name, seen, remedy)),
                    (condition::INEFFECTIVE, "True") => findings.push(Finding::notice(name, seen, remedy)),
                    _ => {}
                }
            }
        }
    }
    if findings.len() == before {
        findings.push(Finding::well("resources", "none says that it is refused"));
    }
    Ok(())
}

fn print(finding: &Finding, out: &mut Out) -> Result<(), CliError> {
    let (word, tone) = match finding.result {
        Outcome::Well => ("ok", Tone::Good),
        Outcome::Notice => ("note", Tone::Waiting),
        Outcome::Wrong => ("WRONG", Tone::Bad),
    };
    let word = out.paint(tone, &format!("{word:7}"));
    out.line(&format!("{word}{}: {}", clean(&finding.check), clean(&finding.seen)))?;
    if let Some(remedy) = &finding.remedy {
        out.line(&format!("       {remedy}"))?;
    }
    Ok(())
}

const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");
/// HTTP's dates are of whole seconds, and an answer takes a while.
const CLOCKS_APART_MAX_SECONDS: u64 = 5;
/// With fewer days left an authority is wrong; with fewer than these somebody should know.
const CA_DAYS_WRONG: i64 = 7;
const CA_DAYS_NOTICE: i64 = 30;
/// A proxy confirms within milliseconds, or waits 5 s for what a route names.
const PENDING_MAX_SECONDS: f64 = 10.0;

#[cfg(test)]
mod tests {
    use weir_api::identity::CertificateStatus;
    use weir_api::views::{ConfigType, Pending, ProxyPort, Rejected};

    use super::*;

    fn said(look: impl FnOnce(&mut Vec<Finding>)) -> Vec<String> {
        let mut findings = Vec::new();
        look(&mut findings);
        let said = |one: &Finding| format!("{:?} {}: {}", one.result, one.check, one.seen);
        findings.iter().map(said).collect()
    }

    #[test]
    fn clocks_may_be_five_seconds_apart() {
        for (ahead, expect) in [
            (0, "Well c: agrees with x"),
            (5, "Well c: agrees with x"),
            (-5, "Well c: agrees with x"),
            (6, "Wrong c: is 6 s ahead of x"),
            (-3600, "Wrong c: is 3600 s behind x"),
        ] {
            assert_eq!(said(|all| all.push(clock("c", "x", ahead))), [expect]);
        }
    }

    #[test]
    fn an_authority_is_well_or_somebody_is_told_in_time() {
        let certificate = |days_left| CertificateStatus {
            days_left,
            ..CertificateStatus::default()
        };
        let status = |roots: &[i64], intermediate, trouble: &str| AuthorityStatus {
            roots: roots.iter().copied().map(certificate).collect(),
            intermediate: certificate(intermediate),
            trouble: trouble.to_owned(),
            ..AuthorityStatus::default()
        };
        for (status, expect) in [
            (
                status(&[3000], 300, ""),
                "Well certificate authority: root good for 3000 days, intermediate for 300",
            ),
            (
                status(&[3000], 30, ""),
                "Well certificate authority: root good for 3000 days, intermediate for 30",
            ),
            (
                status(&[3000], 29, ""),
                "Notice certificate authority: root good for 3000 days, intermediate for 29",
            ),
            (
                status(&[3000], 6, ""),
                "Wrong certificate authority: root good for 3000 days, intermediate for 6",
            ),
            (
                status(&[-1, 90], 80, ""),
                "Well certificate authority: root good for 90 days, intermediate for 80",
            ),
            (
                status(&[-1], 80, ""),
                "Wrong certificate authority: root good for -1 days, intermediate for 80",
            ),
            (
                status(&[], 80, ""),
                "Wrong certificate authority: root good for -1 days, intermediate for 80",
            ),
            (
                status(&[3000], 300, "ca.pem can't be read"),
                "Wrong certificate authority: ca.pem can't be read",
            ),
        ] {
            assert_eq!(said(|all| all.push(authority(&status))), [expect]);
        }
    }

    #[test]
    fn a_proxy_is_well_or_what_is_wrong_with_it_is_said() {
        let well = Proxy {
            name: "n/p".to_owned(),
            connected: true,
            version: "1".to_owned(),
            ..Proxy::default()
        };
        let pending = |seconds| Pending {
            config_type: ConfigType::Route,
            name: "r".to_owned(),
            seconds,
        };
        let rejected = Rejected {
            config_type: ConfigType::Cluster,
            name: "c".to_owned(),
            reason: "why".to_owned(),
            sources: vec!["BackendPolicy/n/x".to_owned()],
        };
        let one = |change: &dyn Fn(&mut Proxy)| {
            let mut proxy = well.clone();
            change(&mut proxy);
            said(|all| one_proxy(&proxy, "1", all))
        };
        assert_eq!(one(&|_| {}), [""; 0]);
        assert_eq!(one(&|proxy| proxy.pending = vec![pending(9.0)]), [""; 0]);
        let late = ["Wrong proxy n/p: has not confirmed Route r for 11 s"];
        assert_eq!(one(&|proxy| proxy.pending = vec![pending(11.0)]), late);
        assert_eq!(
            one(&|proxy| proxy.connected = false),
            ["Wrong proxy n/p: is not connected"]
        );
        let no = ["Wrong proxy n/p: rejected Cluster c (made from BackendPolicy/n/x): why"];
        assert_eq!(one(&|proxy| proxy.rejected = vec![rejected.clone()]), no);
        let other = ["Notice proxy n/p: is of version 2, weir-control of 1"];
        assert_eq!(one(&|proxy| proxy.version = "2".to_owned()), other);
        assert_eq!(one(&|proxy| proxy.version = String::new()), [""; 0]);
        let ports = [(7070, "Edge"), (8080, "Strict"), (8081, "Permissive"), (9090, "Strict")];
        let ports = ports.map(|(app_port, entered)| ProxyPort {
            app_port,
            entered: entered.to_owned(),
        });
        let shut = "Wrong proxy n/p: has no certificate, and nobody can call its app port 8080, 9090, which is entered by \
                    mutual TLS alone";
        assert_eq!(one(&|proxy| proxy.ports = ports.to_vec()), [shut]);
        assert_eq!(
            one(&|proxy| {
                proxy.ports = ports.to_vec();
                proxy.account = "a".to_owned();
            }),
            [""; 0]
        );
    }

    #[test]
    fn callers_in_cleartext_are_named_and_who_did_not_say_is_counted() {
        let said = |callers: usize, asked, silent| -> Vec<String> {
            let callers = (0..callers).map(|n| n.to_string()).collect();
            told(callers, asked, silent)
                .into_iter()
                .map(|found| found.seen)
                .collect()
        };
        assert!(said(0, 3, 0).is_empty());
        assert_eq!(said(2, 3, 0), ["0; 1"]);
        assert_eq!(said(12, 3, 0), ["0; 1; 2; 3; 4; 5; 6; 7; 8; 9; and 2 more"]);
        assert_eq!(said(1, 3, 2), ["0", "2 of 3 proxies did not say theirs in time"]);
    }

    #[test]
    fn a_workload_is_well_or_what_is_wrong_with_it_is_said() {
        let workload = |state: &str, ready: &[u16], started: i64| {
            serde_json::json!({
                "metadata": {"namespace": "n", "name": "w"},
                "spec": {"ports": [{"appPort": 8080}], "instance": started * 1_000_000},
                "status": {"state": state, "readyAppPorts": ready},
            })
        };
        for (workload, expect) in [
            (workload("Confirmed", &[8080], 95), &[][..]),
            (
                workload("Unconfirmed", &[8080], 95),
                &["Wrong workload n/w: is not confirmed"],
            ),
            (
                workload("Draining", &[8080], 95),
                &["Notice workload n/w: drains: it takes no new requests"],
            ),
            (
                workload("Confirmed", &[], 95),
                &["Wrong workload n/w: takes no connections on app port 8080"],
            ),
            (
                workload("Confirmed", &[8080], 200),
                &["Wrong clock of workload n/w: is 100 s ahead of the control plane's"],
            ),
        ] {
            assert_eq!(said(|all| one_workload(&workload, 100, all)), expect);
        }
    }
}
