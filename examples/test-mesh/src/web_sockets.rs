//! WebSockets by others: an app and clients of it, in Python (`tests/upgrades/peer.py`).

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::member::MemberSettings;
use crate::processes::{Running, finish_within, peer_program};
use crate::{PATIENCE, Script, ScriptedApp, TestMesh};

/// An app with WebSockets by aiohttp; ended when dropped.
#[derive(Debug)]
pub struct WebSocketApp {
    _running: Running,
    port: NonZeroU16,
}

/// How its clients go through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// They send what they would send to the app. That an app dies may look as if it ended, as Envoy has it.
    Requests,
    /// Also as to an HTTP proxy: by CONNECT, and by the absolute form. An app that dies is a reset.
    Proxy,
}

impl WebSocketApp {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> WebSocketApp {
        let mut command = Command::new(peer_program("python"));
        command.arg(script()).arg("serve");
        let mut running = Running::of(command, Stdio::inherit());
        let line = tokio::time::timeout(PATIENCE, running.line("port ")).await;
        let line = line.expect("an app that starts in time");
        let port = line.strip_prefix("port ").and_then(|port| port.parse().ok());
        WebSocketApp {
            _running: running,
            port: port.expect("a port"),
        }
    }

    /// Makes it the app of a workload of this mesh, behind a Service of the same name with port 80.
    pub async fn join(&self, mesh: &TestMesh, name: &str) -> crate::Member {
        let port = self.port;
        let settings = MemberSettings {
            proxy: Box::new(move |config| {
                for app in &mut config.apps {
                    app.app_port = port;
                }
            }),
            ..MemberSettings::default()
        };
        mesh.apply_service(name, name, settings.protocol).await;
        let unused = ScriptedApp::start(Script::answer(500, "unused")).await;
        mesh.sidecar(name, name, unused, settings).await
    }
}

/// Runs clients of an app through this port: messages of all kinds and sizes, and every end that there is.
///
/// # Panics
/// When one of them finds what it should not.
pub async fn call_web_sockets(port: SocketAddr, host: &str, through: Through) {
    let mut command = Command::new(peer_program("python"));
    command.arg(script()).args(["call", &port.port().to_string(), host]);
    if through == Through::Proxy {
        command.arg("as-proxy");
    }
    let finished = finish_within(PATIENCE + PATIENCE, command, b"").await;
    assert!(finished.success && finished.stdout == "all well\n", "{finished:?}");
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upgrades/peer.py")
}
