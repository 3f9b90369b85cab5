//! What is sent over HTTP/1, and what became of it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_test_mesh::PATIENCE;

use crate::cases::{Ask, Case};
use crate::origin::{Arrived, NEXT, field};
use crate::programs::Program;

/// How long an answer is waited for in a case for which some program has none.
const SILENCE: Duration = Duration::from_secs(2);

/// Sends a case, and right behind it another request; tells what became of both.
pub(crate) async fn run(program: &Program, case: &Case) -> String {
    let refused = program.refused().await;
    program.origin.begin(case.says);
    let next = format!("GET {NEXT} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let message = [case.ask.bytes(), next.as_bytes()].concat();
    let patience = if case.silent { SILENCE } else { PATIENCE };
    let exchange = exchange(program.http1, &message, patience).await;
    let arrived = program.origin.arrived();
    let answers = answers(&exchange.bytes, case.ask.is_head());
    let mut outcome = match case.is_answer() {
        true => tell_answer(case, exchange.end, &answers),
        false => tell_request(case, exchange.end, &arrived, &answers),
    };
    let rules: Vec<String> = program
        .refused()
        .await
        .into_iter()
        .filter_map(|(rule, count)| {
            (count > refused.get(&rule).copied().unwrap_or_default()).then(|| format!("`{rule}`"))
        })
        .collect();
    if !rules.is_empty() {
        outcome = format!("{outcome}, {}", rules.join(", "));
    }
    outcome
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    /// Nothing came for as long as was waited.
    Silent,
}

struct Exchange {
    bytes: Vec<u8>,
    end: End,
}

async fn exchange(to: SocketAddr, message: &[u8], patience: Duration) -> Exchange {
    let stream = TcpStream::connect(to).await.expect("a connection");
    let (mut reads, mut writes) = stream.into_split();
    let message = message.to_vec();
    // Who closes before it has read all need not be told the rest.
    let writing = tokio::spawn(async move {
        let _ = writes.write_all(&message).await;
        writes
    });
    let mut bytes = Vec::new();
    let end = loop {
        match tokio::time::timeout(patience, reads.read_buf(&mut bytes)).await {
            Ok(Ok(1..)) => {}
            // A reset is an end as well.
            Ok(Ok(0) | Err(_)) => break End::Closed,
            Err(_) => break End::Silent,
        }
    };
    writing.abort();
    Exchange { bytes, end }
}

/// An answer as a client reads it.
#[derive(Debug, Default)]
struct Answer {
    status: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    whole: bool,
}

impl Answer {
    fn is_interim(&self) -> bool {
        self.status.starts_with('1') && !self.of_origin("case")
    }

    /// What it is called that no origin said.
    fn name(&self) -> String {
        match self.status.as_str() {
            "" => "an answer without a head".to_owned(),
            status => status.to_owned(),
        }
    }

    fn of_origin(&self, which: &str) -> bool {
        self.fields
            .iter()
            .any(|(name, value)| name == "x-origin" && value == which)
    }
}

/// The answers in what came; what is none is one without a status.
fn answers(mut bytes: &[u8], head: bool) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let (Some(end), true) = (end, bytes.starts_with(b"HTTP/1.")) else {
            answers.push(Answer {
                body: bytes.to_vec(),
                ..Answer::default()
            });
            break;
        };
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 4..];
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let mut answer = Answer {
            status: status.to_owned(),
            fields: lines.map(field).collect(),
            ..Answer::default()
        };
        let final_before = answers.iter().filter(|answer| !answer.status.starts_with('1')).count();
        let none = status.starts_with('1') || status == "204" || status == "304" || (head && final_before == 0);
        let value = |name: &str| {
            answer
                .fields
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, value)| value.as_str())
        };
        if none {
            answer.whole = true;
        } else if value("transfer-encoding").is_some() {
            (answer.body, answer.whole, bytes) = chunks(bytes);
        } else if let Some(length) = value("content-length").and_then(|length| length.parse::<usize>().ok()) {
            answer.whole = bytes.len() >= length;
            let (body, rest) = bytes.split_at(length.min(bytes.len()));
            (answer.body, bytes) = (body.to_vec(), rest);
        } else {
            answer.whole = true;
            (answer.body, bytes) = (bytes.to_vec(), &[]);
        }
        answers.push(answer);
    }
    answers
}

/// A chunked body, whether it was there to its end, and what comes behind it.
fn chunks(mut bytes: &[u8]) -> (Vec<u8>, bool, &[u8]) {
    let mut body = Vec::new();
    while let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = String::from_utf8_lossy(&bytes[..at]).into_owned();
        let Ok(size) = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16) else {
            return (body, false, &[]);
        };
        bytes = &bytes[at + 2..];
        if size == 0 {
            while let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") {
                bytes = &bytes[at + 2..];
                if at == 0 {
                    return (body, true, bytes);
                }
            }
            return (body, false, &[]);
        }
        let part = &bytes[..size.min(bytes.len())];
        body.extend(part);
        let Some(rest) = bytes.get(size + 2..) else {
            return (body, false, &[]);
        };
        bytes = rest;
    }
    (body, false, &[])
}

/// What became of a case's request, and of the one behind it.
fn tell_request(case: &Case, end: End, arrived: &[Arrived], answers: &[Answer]) -> String {
    let (nexts, ours): (Vec<_>, Vec<_>) = arrived.iter().partition(|arrived| arrived.is_next());
    let (interim, finals): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.is_interim());
    let mut told = Vec::new();
    let request = match (ours.first(), finals.first()) {
        // A part that had gone on when the rest was refused is no request.
        (Some(request), Some(answer)) if !request.ended && !answer.of_origin("case") => None,
        (request, _) => request,
    };
    match (request, finals.first()) {
        (None, None) => {
            return match end {
                End::Closed => "closed",
                End::Silent => "waits",
            }
            .to_owned();
        }
        (None, Some(answer)) if answer.of_origin("next") => return "left out".to_owned(),
        (None, Some(answer)) => told.push(answer.name()),
        (Some(request), answer) => {
            told.push(if request.ended { "passed" } else { "passed in part" }.to_owned());
            told.extend(case.request_changes(request));
            told.extend(
                answer
                    .filter(|answer| !answer.of_origin("case"))
                    .map(|answer| answer.name()),
            );
            told.extend(after(&interim));
            if ours.len() > case.requests {
                told.push(format!("{} requests arrive", ours.len()));
            }
        }
    }
    match finals.get(case.requests) {
        Some(answer) if answer.of_origin("next") => {}
        Some(_) => told.push("the next gets what is not its answer".to_owned()),
        None if ours.iter().any(|request| contains(&request.body, NEXT.as_bytes())) => {
            told.push("the next taken for content".to_owned());
        }
        None if !nexts.is_empty() => told.push("the next has no answer".to_owned()),
        None if end == End::Silent => told.push("waits".to_owned()),
        None if request.is_some() => told.push("then closed".to_owned()),
        None => {}
    }
    told.join(", ")
}

/// What became of a case's answer, and whether the request behind it got its own.
fn tell_answer(case: &Case, end: End, answers: &[Answer]) -> String {
    let (interim, finals): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.is_interim());
    let mut told = Vec::new();
    match finals.first() {
        None => told.push(if end == End::Closed { "closed" } else { "waits" }.to_owned()),
        Some(answer) if !answer.of_origin("case") => told.push(answer.name()),
        Some(answer) if !answer.whole => return "cut off".to_owned(),
        Some(answer) => {
            told.push("passed".to_owned());
            told.extend(case.answer_changes(answer));
        }
    }
    told.extend(after(&interim));
    if finals.get(1).is_some_and(|answer| answer.of_origin("split")) {
        told.push("the next gets what is not its answer".to_owned());
    }
    told.join(", ")
}

/// What was said before an answer. How many of many get through is a matter of time.
fn after(interim: &[&Answer]) -> Option<String> {
    match interim {
        [] => None,
        [one] => Some(format!("after `{}`", one.status)),
        [one, ..] => Some(format!("after some of `{}`", one.status)),
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

impl Ask {
    fn is_head(&self) -> bool {
        self.bytes().starts_with(b"HEAD ")
    }
}

impl Case {
    /// How the request that arrived differs from the one that was sent.
    fn request_changes(&self, arrived: &Arrived) -> Vec<String> {
        let sent = String::from_utf8_lossy(self.ask.bytes()).into_owned();
        let head = sent.split("\r\n\r\n").next().unwrap_or_default().trim_start();
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let line = line.rsplit_once(' ').map_or(line, |(line, _)| line);
        let mut changes = Vec::new();
        if arrived.line != line {
            changes.push(code(&arrived.line));
        }
        let sent = fields(lines);
        let got = |name: &str| arrived.values(name).into_iter().map(str::to_owned).collect();
        changes.extend(field_changes(&sent, got));
        if arrived.values("content-length").len() + arrived.values("transfer-encoding").len() > 1 {
            changes.push("framed twice".to_owned());
        }
        if arrived.ended && arrived.body != self.body.as_bytes() && !contains(&arrived.body, NEXT.as_bytes()) {
            changes.push(format!("content {}", code(&arrived.body.escape_ascii().to_string())));
        }
        if !arrived.trailers.is_empty() {
            changes.push(format!("trailer {}", code(&arrived.trailers.join(", "))));
        }
        changes
    }

    /// How the answer that the client got differs from the one that the origin gave.
    fn answer_changes(&self, came: &Answer) -> Vec<String> {
        let said = String::from_utf8_lossy(self.says.bytes).into_owned();
        // The head of the last answer: those before it are of what is said before an answer.
        let head = said
            .split("\r\n\r\n")
            .find(|head| !head.starts_with("HTTP/1.1 1"))
            .unwrap_or_default();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let sent = fields(lines);
        let got = |name: &str| {
            let values = came.fields.iter().filter(|(field, _)| field == name);
            values.map(|(_, value)| value.clone()).collect()
        };
        let mut changes = Vec::new();
        if came.status != status {
            changes.push(format!("as {}", came.status));
        }
        changes.extend(field_changes(&sent, got));
        if came.body != self.body.as_bytes() {
            changes.push(format!("content {}", code(&came.body.escape_ascii().to_string())));
        }
        changes
    }
}

/// The fields of a header, each from its first line.
fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    lines.filter(|line| !line.starts_with(' ')).map(field).collect()
}

/// Which of these fields came otherwise. How a message is framed, and what is said of the connection alone, is each
/// hop's own.
fn field_changes(sent: &[(String, String)], got: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let mut changes = Vec::new();
    let mut seen = Vec::new();
    for (name, _) in sent {
        if HOP.contains(&name.as_str()) || seen.contains(name) {
            continue;
        }
        seen.push(name.clone());
        let values: Vec<String> = sent
            .iter()
            .filter(|(field, _)| field == name)
            .map(|(_, value)| value.clone())
            .collect();
        let came = got(name);
        if came.is_empty() {
            changes.push(format!("without {}", code(name)));
        } else if came != values {
            changes.push(code(&format!("{name}: {}", came.join(", "))));
        }
    }
    changes
}

const HOP: [&str; 6] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "keep-alive",
    "date",
    "server",
];

/// As code of Markdown, in a table.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}
