//! Running weirctl beside a mesh.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use weir_test_mesh::{PATIENCE, TestMesh};

/// How weirctl ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs weirctl against the mesh's control plane.
pub(crate) async fn weirctl(mesh: &TestMesh, args: &[&str]) -> Ran {
    run(mesh.control().api_addr(), args, "", &[]).await
}

/// The same with what it reads from standard input, and further variables.
pub(crate) async fn run(server: SocketAddr, args: &[&str], stdin: &str, variables: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirctl"));
    command.args(args).env_clear();
    command.env("WEIR_SERVER", format!("http://{server}"));
    command.envs(variables.iter().copied());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("weirctl starts");
    // It may end without reading it.
    let mut input = child.stdin.take().expect("piped");
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output());
    let output = output.await.expect("it ends in time").expect("it ends");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

impl Ran {
    #[track_caller]
    pub(crate) fn ends(&self, code: i32) -> &Ran {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Each part stands in what it printed, in this order.
    #[track_caller]
    pub(crate) fn prints(&self, parts: &[&str]) -> &Ran {
        let mut rest = self.stdout.as_str();
        for part in parts {
            let Some((_, behind)) = rest.split_once(part) else {
                panic!(
                    "{part:?} is not where it should be in\n{}\n{}",
                    self.stdout, self.stderr
                );
            };
            rest = behind;
        }
        self
    }

    /// Each part stands in what it said beside.
    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) -> &Ran {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in\n{}", self.stderr);
        }
        self
    }
}
