//! `weirctl status`: what is in force where.

use weir_api::views::{Proxy, ProxyList};

use crate::cli::{StatusArgs, ViewFormat};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Cell, Out, Tone, clean, say};

pub(crate) fn run(client: &Client, args: &StatusArgs, out: &mut Out) -> Result<(), CliError> {
    list(client, args.output, out)
}

/// Prints each proxy.
pub(crate) fn list(client: &Client, format: ViewFormat, out: &mut Out) -> Result<(), CliError> {
    match format {
        ViewFormat::Json => {
            let list = client.get("proxies", PROXIES)?;
            out.json(&list)?;
        }
        ViewFormat::Table => {
            let list: ProxyList = client.view("proxies", PROXIES)?;
            if list.items.is_empty() {
                say("no proxy has connected to this control plane");
                return Ok(());
            }
            let rows: Vec<Vec<Cell>> = list.items.iter().map(row).collect();
            out.table(
                &[
                    "PROXY",
                    "STREAM",
                    "VERSION",
                    "ACCOUNT",
                    "MUTUAL TLS",
                    "IN FORCE",
                    "PENDING",
                    "REJECTED",
                    "REVISION",
                ],
                &rows,
            )?;
            for proxy in &list.items {
                details(proxy, out)?;
            }
        }
    }
    Ok(())
}

fn row(proxy: &Proxy) -> Vec<Cell> {
    let stream = if proxy.connected {
        Cell::new(Tone::Good, "connected")
    } else {
        Cell::new(Tone::Bad, "lost")
    };
    let whole = proxy.in_force == proxy.subscribed;
    let in_force = format!("{} of {}", proxy.in_force, proxy.subscribed);
    let count = |count: usize, tone| Cell::new(if count == 0 { Tone::Plain } else { tone }, count.to_string());
    vec![
        Cell::plain(&proxy.name),
        stream,
        Cell::plain(&proxy.version),
        Cell::plain(or_dash(&proxy.account)),
        Cell::plain(or_dash(&entered(proxy))),
        Cell::new(if whole { Tone::Good } else { Tone::Waiting }, in_force),
        count(proxy.pending.len(), Tone::Waiting),
        count(proxy.rejected.len(), Tone::Bad),
        Cell::plain(or_dash(&proxy.revision)),
    ]
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// How its ports are entered: in one word, if it is the same for all.
fn entered(proxy: &Proxy) -> String {
    match proxy.ports.as_slice() {
        [] => String::new(),
        [first, others @ ..] if others.iter().all(|port| port.entered == first.entered) => first.entered.clone(),
        ports => {
            let ports = ports.iter().map(|port| format!("{} {}", port.app_port, port.entered));
            ports.collect::<Vec<_>>().join(", ")
        }
    }
}

fn details(proxy: &Proxy, out: &mut Out) -> Result<(), CliError> {
    for one in &proxy.pending {
        let word = out.paint(Tone::Waiting, "pending");
        let what = clean(&format!("{:?} {}, for {:.1} s", one.config_type, one.name, one.seconds));
        out.line(&format!("{} {word}: {what}", clean(&proxy.name)))?;
    }
    for one in &proxy.rejected {
        let word = out.paint(Tone::Bad, "rejected");
        let what = clean(&format!("{:?} {}: {}", one.config_type, one.name, one.reason));
        out.line(&format!("{} {word}: {what}", clean(&proxy.name)))?;
        if !one.sources.is_empty() {
            out.line(&format!("  made from {}", clean(&one.sources.join(", "))))?;
        }
    }
    Ok(())
}

/// Where the list of proxies is.
pub(crate) const PROXIES: &str = "/apis/weir.dev/v1/proxies";
