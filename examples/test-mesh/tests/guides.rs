//! The guides in `docs/` as a reader follows them: every ```` ```sh ```` block is run by one shell, in order, and what
//! an ```` ```output ```` block shows is what the block before it must print.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use weir_test_mesh::{Processes, free_port};

/// A block of commands, and what they must print; `None`: whatever they like.
#[derive(Debug)]
struct Block {
    /// `FILE:LINE`.
    place: String,
    commands: String,
    output: Option<String>,
}

fn blocks(guide: &str) -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(guide);
    let text = std::fs::read_to_string(&path).expect("the guide");
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            continue;
        };
        let inside: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .collect();
        let inside = format!("{}\n", inside.join("\n"));
        match language {
            "sh" => blocks.push(Block {
                place: format!("{guide}:{}", number + 1),
                commands: inside,
                output: None,
            }),
            "output" => blocks.last_mut().expect("commands before an output").output = Some(inside),
            _ => {}
        }
    }
    blocks
}

/// Whether what came is what is shown: line by line, where `…` in a line stands for any text, and a line of `…` alone
/// for any number of lines.
fn is_as_shown(shown: &[&str], came: &[&str]) -> bool {
    match (shown, came) {
        ([], []) => true,
        (["…", rest @ ..], _) => (0..=came.len()).any(|skipped| is_as_shown(rest, &came[skipped..])),
        ([first, shown @ ..], [line, came @ ..]) => is_line_as_shown(first, line) && is_as_shown(shown, came),
        ([], [_, ..]) | ([_, ..], []) => false,
    }
}

fn is_line_as_shown(shown: &str, line: &str) -> bool {
    let Some((before, after)) = shown.split_once('…') else {
        return shown.trim_end() == line.trim_end();
    };
    let Some(rest) = line.strip_prefix(before) else {
        return false;
    };
    let mut ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    ends.any(|at| is_line_as_shown(after, &rest[at..]))
}

/// Follows guides, one after the other, in a folder of their own. Well-known ports become free ones, so that nothing
/// else on the host matters.
async fn follow(guides: &[&str]) {
    let mut ports = HashMap::new();
    let mut script = String::from("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n");
    let blocks: Vec<Block> = guides.iter().flat_map(|guide| blocks(guide)).collect();
    for (number, block) in blocks.iter().enumerate() {
        let commands = with_free_ports(&block.commands, &mut ports);
        script.push_str(&format!("{{\n{commands}}} >{number}.out\n"));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let programs = Processes::of_this_build().folder().to_owned();
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&inherited))).expect("a path");
    let mut shell = Command::new("bash")
        .current_dir(folder.path())
        .env("PATH", path)
        .env("WEIR_API", format!("127.0.0.1:{}", port_for("7440", &mut ports)))
        .env(
            "WEIR_XDS_ADDRESS",
            format!("127.0.0.1:{}", port_for("15010", &mut ports)),
        )
        .env(
            "WEIR_SERVER",
            format!("http://127.0.0.1:{}", port_for("7440", &mut ports)),
        )
        .env("WEIR_OUTBOUND", format!("127.0.0.1:{}", port_for("15001", &mut ports)))
        .env("WEIR_ADMIN", format!("127.0.0.1:{}", port_for("15000", &mut ports)))
        .env("WEIR_INBOUND_ADDRESS", "127.0.0.1")
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("bash");
    let mut stdin = shell.stdin.take().expect("a pipe");
    stdin.write_all(script.as_bytes()).await.expect("a shell that reads");
    drop(stdin);
    let group = format!("-{}", shell.id().expect("a shell that runs"));
    let ended = tokio::time::timeout(BOUND, shell.wait()).await;
    // What the guide started in the background ends with it, also where the shell could not see to that.
    let _ = Command::new("kill")
        .args(["-KILL", "--", &group])
        .stderr(Stdio::null())
        .status()
        .await;
    let status = ended.expect("a guide that ends").expect("a shell that ended");
    let out = |number: usize| -> PathBuf { folder.path().join(format!("{number}.out")) };
    for (number, block) in blocks.iter().enumerate() {
        let place = &block.place;
        let came = std::fs::read_to_string(out(number))
            .unwrap_or_else(|_| panic!("{place} was not reached: the block before it ended with {status}"));
        if let Some(shown) = &block.output {
            let (shown, came): (Vec<&str>, Vec<&str>) = (shown.lines().collect(), came.lines().collect());
            let came_text = came.join("\n");
            assert!(
                is_as_shown(&shown, &came),
                "{place} ended with {status} and printed\n{came_text}"
            );
        }
    }
    assert!(status.success(), "the last block ended with {status}");
}

/// The same commands with a free port for each well-known one, wherever it stands as a number of its own.
fn with_free_ports(commands: &str, ports: &mut HashMap<String, u16>) -> String {
    let mut text = String::new();
    let mut rest = commands;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len());
        let (number, after) = from.split_at(end);
        text.push_str(before);
        if WELL_KNOWN.contains(&number) {
            text.push_str(&port_for(number, ports).to_string());
        } else {
            text.push_str(number);
        }
        rest = after;
    }
    text + rest
}

fn port_for(known: &str, ports: &mut HashMap<String, u16>) -> u16 {
    *ports.entry(known.to_owned()).or_insert_with(free_port)
}

#[test]
fn what_is_shown_is_compared_line_by_line() {
    let shown = |shown: &str, came: &str| {
        let (shown, came): (Vec<&str>, Vec<&str>) = (shown.lines().collect(), came.lines().collect());
        is_as_shown(&shown, &came)
    };
    assert!(shown("a\n…\nb c… e\n…", "a\nx\ny\nb c d e"));
    assert!(shown("…", ""));
    assert!(!shown("a", ""));
    assert!(!shown("a", "a\nb"));
    assert!(!shown("a\n…\nc", "a\nb"));
    assert!(!shown("a… d", "a b c"));
}

#[tokio::test]
async fn getting_started_and_the_guide_are_as_they_say() {
    follow(&["getting-started.md", "guide.md"]).await;
}

#[tokio::test]
async fn the_chinese_getting_started_is_as_it_says() {
    follow(&["getting-started.zh.md"]).await;
}

/// Ports that a guide names.
const WELL_KNOWN: [&str; 8] = ["7440", "15000", "15001", "15010", "15081", "15082", "8081", "8082"];

/// Far more than a guide takes; only one that hangs is ended by it.
const BOUND: Duration = Duration::from_secs(180);
