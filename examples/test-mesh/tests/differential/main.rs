//! The same bytes sent to Weir, Envoy, nginx and haproxy, each before an origin that writes down what arrives: the
//! tables of docs/conformance.md.
//!
//! A cell says what became of a message. Where programs differ, the case says why, and what is right.

mod cases;
mod http1;
mod http2;
mod origin;
mod programs;

use std::fmt::Write as _;
use std::path::Path;

use programs::Program;
use tokio::process::Command;
use weir_test_mesh::{finish, peer_program};

/// What became of a case at each program, in the order of [`all`].
struct Row {
    name: &'static str,
    section: &'static str,
    outcomes: [String; 4],
    why: &'static str,
}

async fn all() -> [Program; 4] {
    let (weir, envoy, nginx, haproxy) =
        tokio::join!(Program::weir(), Program::envoy(), Program::nginx(), Program::haproxy());
    [weir, envoy, nginx, haproxy]
}

/// What became of these cases at all programs, which take them side by side, each in the order of the cases.
async fn rows<C>(programs: &[Program; 4], cases: &[C], run: impl AsyncFn(&Program, &C) -> String) -> Vec<[String; 4]> {
    let of = async |program: &Program| {
        let mut outcomes = Vec::new();
        for case in cases {
            outcomes.push(run(program, case).await);
        }
        outcomes
    };
    let [weir, envoy, nginx, haproxy] = programs;
    let (weir, envoy, nginx, haproxy) = tokio::join!(of(weir), of(envoy), of(nginx), of(haproxy));
    let others = envoy.into_iter().zip(nginx).zip(haproxy);
    weir.into_iter()
        .zip(others)
        .map(|(weir, ((envoy, nginx), haproxy))| [weir, envoy, nginx, haproxy])
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_what_each_program_makes_of_the_same_bytes() {
    let programs = all().await;
    let mut page = HEAD.replace("VERSIONS", &versions().await);
    let (requests, answers, frames) = (cases::requests(), cases::answers(), http2::cases());
    let of_requests = rows(&programs, &requests, http1::run).await;
    let of_answers = rows(&programs, &answers, http1::run).await;
    let of_frames = rows(&programs, &frames, http2::run).await;
    let row = |name, section, outcomes, why| Row {
        name,
        section,
        outcomes,
        why,
    };
    let plain = |(case, outcomes): (&cases::Case, _)| row(case.name, case.section, outcomes, case.why);
    let framed = |(case, outcomes): (&http2::Case, _)| row(case.name, case.section, outcomes, case.why);
    let tables = [
        (
            REQUESTS,
            requests.iter().zip(of_requests).map(plain).collect::<Vec<_>>(),
        ),
        (ANSWERS, answers.iter().zip(of_answers).map(plain).collect()),
        (FRAMES, frames.iter().zip(of_frames).map(framed).collect()),
    ];
    let mut unexplained = Vec::new();
    for (head, rows) in tables {
        page.push_str(head);
        for row in rows {
            let [weir, envoy, nginx, haproxy] = &row.outcomes;
            let differ = [envoy, nginx, haproxy]
                .into_iter()
                .any(|other| plainly(other) != plainly(weir));
            if differ == row.why.is_empty() {
                unexplained.push(format!("{}: {:?}, because {:?}", row.name, row.outcomes, row.why));
            }
            let Row { name, section, why, .. } = row;
            writeln!(
                page,
                "| {name} | {section} | {weir} | {envoy} | {nginx} | {haproxy} | {why} |"
            )
            .expect("a string takes it");
        }
    }
    check(&page);
    assert!(
        unexplained.is_empty(),
        "a difference without a reason, or a reason without one: {unexplained:#?}"
    );
}

/// An outcome without the rule that Weir names.
fn plainly(outcome: &str) -> &str {
    match outcome.split_once(", `") {
        Some((status, _)) if status.len() == 3 => status,
        _ => outcome,
    }
}

/// Compares the page with the one that is there; `UPDATE_EXPECT=1` writes it anew.
fn check(page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, page).expect("the page can be written");
        return;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    // Others' versions change what the head says, and are no difference.
    let body = |text: &str| -> Vec<String> {
        let lines = text.lines().skip_while(|line| !line.starts_with("## "));
        lines.map(str::to_owned).collect()
    };
    let (now, there) = (body(page), body(&there));
    let new: Vec<_> = now.iter().filter(|line| !there.contains(line)).collect();
    let gone: Vec<_> = there.iter().filter(|line| !now.contains(line)).collect();
    assert!(
        now == there,
        "UPDATE_EXPECT=1 writes docs/conformance.md, where now {new:#?} stands in place of {gone:#?}"
    );
}

async fn versions() -> String {
    let envoy = peer_program("envoy");
    let said = async |program: &Path, flag: &str| {
        let mut command = Command::new(program);
        command.arg(flag);
        let finished = finish(command, b"").await;
        assert!(finished.success, "{finished:?}");
        format!("{}{}", finished.stdout, finished.stderr)
    };
    let envoy = said(&envoy, "--version").await;
    let envoy = envoy.split('/').nth(1).unwrap_or_default().to_owned();
    let nginx = said(Path::new("/usr/sbin/nginx"), "-v").await;
    let nginx = nginx.trim().rsplit('/').next().unwrap_or_default().to_owned();
    let haproxy = said(Path::new("/usr/sbin/haproxy"), "-v").await;
    let haproxy = haproxy.split(' ').nth(2).unwrap_or_default().to_owned();
    format!("Envoy {envoy}, nginx {nginx}, haproxy {haproxy}")
}

const HEAD: &str = "\
# Conformance

What Weir makes of the messages that peers may send, beside Envoy, nginx and haproxy: the same bytes go to each, as a plain
reverse proxy before an origin that writes down what arrives. This page is written by a test
(`examples/test-mesh/tests/differential/main.rs`), where the configurations stand as well:
`UPDATE_EXPECT=1 cargo test --workspace --test differential`. Tested: VERSIONS.

Right behind each message another request goes on the same connection. A cell says:

- a status alone: the program answered so itself, nothing reached the origin, and nothing more was read. Weir names the rule
  by which `weir_http1_refused_total` counts it;
- `passed`: the origin had it, with what had changed on its way. How a message is framed, and what is said of the connection
  alone, is each hop's own. `then closed`: the request behind it was not taken;
- `closed`: no answer at all; `waits`: none came while the connection stayed open.

";

const REQUESTS: &str = "\
## Requests over HTTP/1

Sections are RFC 9110's, RFC 9112's and RFC 3986's.

| a downstream sends | section | Weir | Envoy | nginx | haproxy | why they differ |
| --- | --- | --- | --- | --- | --- | --- |
";

const ANSWERS: &str = "
## Answers over HTTP/1

| an origin answers | section | Weir | Envoy | nginx | haproxy | why they differ |
| --- | --- | --- | --- | --- | --- | --- |
";

const FRAMES: &str = "
## HTTP/2

Each message is on a stream of a connection in cleartext; another request follows on a stream of its own. `stream` and
`connection` say what was ended, and by which error (RFC 9113 section 7); of floods only whether the connection goes on.
Sections are RFC 9113's and RFC 7541's.

| a downstream sends | section | Weir | Envoy | nginx | haproxy | why they differ |
| --- | --- | --- | --- | --- | --- | --- |
";
