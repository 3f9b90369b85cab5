//! A mesh for tests: a control plane, sidecars and scripted apps, on real sockets with ports of the system's choice.
//!
//! ```no_run
//! # async fn example() {
//! use weir_test_mesh::{Script, TestMesh};
//! let mesh = TestMesh::start().await;
//! let _b = mesh.service("b", Script::answer(200, "hello")).await;
//! let a = mesh.service("a", Script::answer(200, "")).await;
//! assert_eq!(a.get("http://b/").await.text(), "hello");
//! # }
//! ```
//!
//! Everything runs in the test's own process but for what a test starts itself with [`Processes`]. A failure of the
//! mesh itself panics with what was expected: this crate is for tests only.

mod api;
mod client;
mod envoy;
mod member;
mod mesh;
mod name_server;
mod peer;
mod processes;
mod script;
mod web_sockets;

pub use api::Api;
pub use client::{Answer, Client, Protocol, call};
pub use envoy::{Envoy, bootstrap};
pub use member::{Member, MemberSettings};
pub use mesh::TestMesh;
pub use name_server::{NameServer, Says, own_address};
pub use peer::{Act, ClosedPort, Peer, PeerSaw, frame};
pub use processes::{
    ControlProcess, Finished, Processes, ProxyProcess, Running, finish, finish_within, free_port, peer_program,
};
pub use script::{Script, ScriptedApp, Seen};
pub use web_sockets::{Through, WebSocketApp, call_web_sockets};

use std::future::Future;
use std::time::Duration;

/// How long a test waits for what must come; only a test that fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` finds what it looks for.
///
/// # Panics
/// After [`PATIENCE`], with `what` was waited for.
pub async fn until<T, F>(what: &str, look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    until_within(PATIENCE, what, look).await
}

/// The same for what takes its time.
///
/// # Panics
/// After `bound`, with `what` was waited for.
pub async fn until_within<T, F>(bound: Duration, what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(bound, found).await {
        Ok(found) => found,
        Err(_) => panic!("waited {bound:?} in vain for {what}"),
    }
}
