//! `weirctl trace`: which way a request went, and how long each part took.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use weir_api::views::{Span, SpanKind, SpanStatus, Trace, TraceList};

use crate::cli::{TraceArgs, ViewFormat};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Cell, Out, Tone, clean, say};

pub(crate) fn run(client: &Client, args: &TraceArgs, out: &mut Out) -> Result<(), CliError> {
    let path = match &args.id {
        Some(id) => format!("/traces/{id}"),
        None => format!("/traces?limit={}", args.limit),
    };
    match (&args.id, args.output) {
        (_, ViewFormat::Json) => {
            let view = client.get("traces", &path)?;
            out.json(&view)?;
        }
        (Some(id), ViewFormat::Table) => {
            let trace: Trace = client.view(&format!("trace {id}"), &path)?;
            for line in tree(&trace) {
                out.line(&out.paint(line.tone, &line.text))?;
            }
        }
        (None, ViewFormat::Table) => {
            let list: TraceList = client.view("traces", &path)?;
            if list.items.is_empty() {
                say("no trace has come yet; are proxies started with --otlp?");
                return Ok(());
            }
            let row = |one: &weir_api::views::TraceSummary| {
                let errors = if one.errors == 0 { Tone::Plain } else { Tone::Bad };
                vec![
                    Cell::plain(&one.trace_id),
                    Cell::plain(&one.start),
                    Cell::plain(format!("{:.1} ms", one.duration_millis)),
                    Cell::plain(one.spans.to_string()),
                    Cell::new(errors, one.errors.to_string()),
                    Cell::plain(format!("{} {}", one.service, one.root)),
                ]
            };
            let rows: Vec<Vec<Cell>> = list.items.iter().map(row).collect();
            out.table(&["TRACE", "START", "TIME", "SPANS", "ERRORS", "REQUEST"], &rows)?;
        }
    }
    Ok(())
}

/// A line of the tree.
struct Line {
    tone: Tone,
    text: String,
}

/// The spans as a tree: each under its parent, by start. What names a parent that has not come stands at the top. Each
/// span stands once, whatever the parents say.
fn tree(trace: &Trace) -> Vec<Line> {
    let known: BTreeSet<&str> = trace.spans.iter().map(|span| span.span_id.as_str()).collect();
    let mut children: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in &trace.spans {
        let parent = if known.contains(span.parent_id.as_str()) {
            span.parent_id.as_str()
        } else {
            ""
        };
        children.entry(parent).or_default().push(span);
    }
    for siblings in children.values_mut() {
        siblings.sort_by_key(|span| (span.start_unix_nano, span.span_id.as_str()));
    }
    let start = trace.spans.iter().map(|span| span.start_unix_nano).min().unwrap_or(0);
    let end = trace
        .spans
        .iter()
        .map(|span| span.start_unix_nano.saturating_add(span.duration_nanos))
        .max()
        .unwrap_or(0);
    let mut lines = vec![Line {
        tone: Tone::Head,
        text: clean(&format!(
            "trace {}: {} spans in {}",
            trace.trace_id,
            trace.spans.len(),
            millis(end.saturating_sub(start))
        )),
    }];
    let mut seen = BTreeSet::new();
    // Depth first, with a stack of its own: a trace may be as deep as it has spans.
    let roots = children.get("").into_iter().flatten();
    let mut stack: Vec<(&Span, String, String)> =
        roots.rev().map(|span| (*span, String::new(), String::new())).collect();
    // Spans whose parents form a ring hang under no root.
    let mut rest = trace.spans.iter();
    loop {
        let Some((span, branch, below)) = stack.pop().or_else(|| {
            let lost = rest.find(|span| !seen.contains(span.span_id.as_str()))?;
            Some((lost, String::new(), String::new()))
        }) else {
            return lines;
        };
        if !seen.insert(span.span_id.as_str()) {
            continue;
        }
        lines.push(line(span, &branch, start));
        let inner = children
            .get(span.span_id.as_str())
            .map(Vec::as_slice)
            .unwrap_or_default();
        for (index, child) in inner.iter().enumerate().rev() {
            let (knot, rail) = if index + 1 == inner.len() {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            if branch.chars().count() < DEPTH_MAX * 3 {
                stack.push((child, format!("{below}{knot}"), format!("{below}{rail}")));
            } else {
                stack.push((child, branch.clone(), below.clone()));
            }
        }
    }
}

fn line(span: &Span, branch: &str, start: u64) -> Line {
    let kind = match span.kind {
        SpanKind::Internal => "internal",
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
    };
    let mut text = format!(
        "{branch}{} {} ({kind}) +{} took {}",
        clean(&span.service),
        clean(&span.name),
        millis(span.start_unix_nano.saturating_sub(start)),
        millis(span.duration_nanos),
    );
    for (name, word) in SHOWN {
        if let Some(value) = span.attributes.get(name) {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    value.to_string()
                }
            };
            text.push_str(&clean(&format!(", {word} {value}")));
        }
    }
    let tone = match span.status {
        SpanStatus::Unset | SpanStatus::Ok => Tone::Plain,
        SpanStatus::Error => {
            text.push_str(", failed");
            Tone::Bad
        }
    };
    Line { tone, text }
}

fn millis(nanos: u64) -> String {
    // Exact up to 2^53 ns, which is 104 days.
    format!("{:.1} ms", nanos as f64 / 1e6)
}

/// Attributes that say most in a line.
const SHOWN: [(&str, &str); 5] = [
    ("http.response.status_code", "status"),
    ("weir.flag", "because"),
    ("weir.attempts", "attempts"),
    ("weir.route", "route"),
    ("weir.endpoint", "to"),
];

/// Deeper spans are not moved further to the right.
const DEPTH_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: &str, start: u64, status: SpanStatus) -> Span {
        Span {
            span_id: id.to_owned(),
            parent_id: parent.to_owned(),
            service: id.to_uppercase(),
            name: "GET /".to_owned(),
            kind: SpanKind::Server,
            start_unix_nano: start,
            duration_nanos: 1_500_000,
            status,
            attributes: serde_json::Map::new(),
        }
    }

    #[track_caller]
    fn check(spans: Vec<Span>, expect: &[&str]) {
        let trace = Trace {
            trace_id: "t".to_owned(),
            spans,
        };
        let lines: Vec<String> = tree(&trace).into_iter().skip(1).map(|line| line.text).collect();
        let heads: Vec<&str> = lines
            .iter()
            .map(|line| line.split(" GET").next().unwrap_or(line))
            .collect();
        assert_eq!(heads, expect);
    }

    #[test]
    fn each_span_stands_under_its_parent() {
        let ok = SpanStatus::Ok;
        check(
            vec![
                span("c", "a", 3, ok),
                span("a", "", 1, ok),
                span("b", "a", 2, ok),
                span("d", "b", 4, ok),
            ],
            &["A", "├─ B", "│  └─ D", "└─ C"],
        );
        check(vec![span("b", "gone", 2, ok), span("a", "", 1, ok)], &["A", "B"]);
    }

    #[test]
    fn parents_in_a_ring_end() {
        let ok = SpanStatus::Ok;
        check(
            vec![span("a", "b", 1, ok), span("b", "a", 2, ok), span("c", "c", 3, ok)],
            &["A", "└─ B", "C"],
        );
        check(vec![span("a", "", 1, ok), span("a", "", 2, ok)], &["A"]);
    }

    #[test]
    fn a_deep_trace_is_printed_whole() {
        let spans: Vec<Span> = (0..20_000u64)
            .map(|n| {
                span(
                    &format!("s{n}"),
                    &n.checked_sub(1).map(|n| format!("s{n}")).unwrap_or_default(),
                    n,
                    SpanStatus::Ok,
                )
            })
            .collect();
        let trace = Trace {
            trace_id: "t".to_owned(),
            spans,
        };
        assert_eq!(tree(&trace).len(), 20_001);
    }

    #[test]
    fn a_failed_span_says_so() {
        let mut failed = span("a", "", 1, SpanStatus::Error);
        failed
            .attributes
            .insert("http.response.status_code".to_owned(), 503.into());
        failed
            .attributes
            .insert("weir.flag".to_owned(), "breaker\u{1b}[2J".into());
        assert_eq!(
            line(&failed, "", 1).text,
            "A GET / (server) +0.0 ms took 1.5 ms, status 503, because breaker\u{fffd}[2J, failed"
        );
    }
}
