//! What is made of the description of the commands: help, completions, manual pages.

use std::io::Write;
use std::process::{Command, Stdio};

fn weirctl(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirctl"));
    let output = command.args(args).env_clear().output().expect("weirctl runs");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

const COMMANDS: [&[&str]; 24] = [
    &[],
    &["apply"],
    &["diff"],
    &["get"],
    &["describe"],
    &["edit"],
    &["delete"],
    &["wait"],
    &["explain"],
    &["proxy"],
    &["proxy", "list"],
    &["proxy", "config"],
    &["proxy", "endpoints"],
    &["check"],
    &["status"],
    &["trace"],
    &["ca"],
    &["ca", "status"],
    &["ca", "rotate"],
    &["cert"],
    &["token"],
    &["token", "create"],
    &["completion"],
    &["man"],
];

#[test]
fn help_is_as_it_was() {
    let mut all = String::new();
    for command in COMMANDS {
        let help = weirctl(&[command, &["--help"]].concat());
        let line = ["weirctl", &command.join(" ")].join(" ");
        all.push_str(&format!("$ {} --help\n{help}\n", line.trim_end()));
    }
    let top = weirctl(&["--help"]);
    let listed = top.lines().skip_while(|line| *line != "Commands:").skip(1);
    for line in listed.take_while(|line| !line.is_empty()) {
        // Text that goes on in the next line is indented further.
        let name = line.strip_prefix("  ").and_then(|line| line.split(' ').next());
        let known = |name: &str| COMMANDS.iter().any(|known| known.first() == Some(&name));
        assert!(
            name.is_some_and(|name| name.is_empty() || known(name)),
            "{line:?} is not in this test's list"
        );
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata/help.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, &all).expect("written");
    }
    let expected = std::fs::read_to_string(path).expect("the golden file");
    assert!(all == expected, "UPDATE_EXPECT=1 writes {path} anew; now it is:\n{all}");
}

/// A real bash takes the script and then knows how to complete.
#[test]
fn bash_loads_the_completion_and_completes() {
    let script = weirctl(&["completion", "bash"]);
    let mut bash = Command::new("bash")
        .args(["--noprofile", "--norc", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bash runs");
    let asking = "\ncomplete -p weirctl\nCOMP_WORDS=(weirctl des) COMP_CWORD=1 COMPREPLY=()\n\
                  _weirctl weirctl des weirctl\necho \"${COMPREPLY[*]}\"\n";
    let mut input = bash.stdin.take().expect("piped");
    input
        .write_all(format!("{script}{asking}").as_bytes())
        .expect("written");
    drop(input);
    let output = bash.wait_with_output().expect("bash ends");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("-F _weirctl"), "{said}");
    assert!(said.trim_end().ends_with("\ndescribe"), "{said}");

    let mut check = Command::new("bash")
        .args(["-n", "-s"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("bash runs");
    check
        .stdin
        .take()
        .expect("piped")
        .write_all(script.as_bytes())
        .expect("written");
    assert!(check.wait().expect("bash ends").success());
}

#[test]
fn other_shells_have_theirs() {
    assert!(weirctl(&["completion", "zsh"]).starts_with("#compdef weirctl\n"));
    assert!(weirctl(&["completion", "fish"]).contains("complete -c weirctl"));
}

#[test]
fn each_command_has_a_manual_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man1");
    weirctl(&["man", pages.to_str().expect("UTF-8")]);
    for command in COMMANDS {
        let name = [&["weirctl"], command].concat().join("-");
        let page = std::fs::read_to_string(pages.join(format!("{name}.1"))).expect(&name);
        assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
}
