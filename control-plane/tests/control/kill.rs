//! Kill -9 at any moment: what was acknowledged is there, and nothing is half there.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::client::{Client, JSON};
use super::program::Program;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const WRITES: usize = 500;
const WRITERS: usize = 4;

/// Large, so that a torn write would show; told apart by its number in every part.
fn service(number: usize) -> Value {
    let port = u16::try_from(number + 1).expect("a port");
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": format!("s-{number}"),
            "labels": {"number": number.to_string()},
            "annotations": {"padding": format!("{number:05}").repeat(1000)},
        },
        "spec": {"ports": [{"port": port, "targetPort": port}]},
    })
}

/// Writes objects from `next` until the process is gone, telling each acknowledged one.
async fn write(client: Client, next: Arc<AtomicUsize>, acknowledged: mpsc::Sender<(usize, u64)>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= WRITES {
            return;
        }
        let body = Full::new(Bytes::from(service(number).to_string()));
        let request = Request::post(SERVICES)
            .header("host", "localhost")
            .header("content-type", JSON)
            .body(body)
            .expect("a request");
        let Ok(reply) = client.request(request).await else {
            return;
        };
        let created = reply.expect(201);
        let revision = created["metadata"]["resourceVersion"].as_str().expect("a revision");
        let revision = revision.parse().expect("a number");
        if acknowledged.send((number, revision)).await.is_err() {
            return;
        }
    }
}

/// What is there, each checked to be whole.
async fn held(client: Client) -> (BTreeSet<usize>, u64) {
    let list = client.get(SERVICES).await.expect(200);
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .expect("a revision")
        .parse()
        .expect("a number");
    let mut held = BTreeSet::new();
    for item in list["items"].as_array().expect("items") {
        let number = item["metadata"]["labels"]["number"].as_str().expect("a number");
        let number: usize = number.parse().expect("a number");
        let written = service(number);
        for part in ["name", "annotations"] {
            assert_eq!(item["metadata"][part], written["metadata"][part], "{number}");
        }
        assert_eq!(
            item["spec"]["ports"][0]["port"], written["spec"]["ports"][0]["port"],
            "{number}"
        );
        assert!(held.insert(number), "{number} is there twice");
    }
    (held, revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_and_none_is_torn() {
    let data = tempfile::tempdir().expect("a directory");
    let random = RandomState::new();
    let next = Arc::new(AtomicUsize::new(0));
    let mut acknowledged = BTreeSet::new();
    let mut latest = 0;
    let mut kills = 0_u64;
    while next.load(Ordering::Relaxed) < WRITES {
        let mut program = Program::start(data.path());
        let (tell, mut told) = mpsc::channel(WRITES);
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| tokio::spawn(write(program.client, Arc::clone(&next), tell.clone())))
            .collect();
        drop(tell);
        // After 1 to 100 writes, with others under way, and somewhere within the time that one takes.
        let dice = random.hash_one(kills);
        let writes_until_kill = 1 + dice % 100;
        for _ in 0..writes_until_kill {
            let Some((number, revision)) = told.recv().await else {
                break;
            };
            acknowledged.insert(number);
            latest = latest.max(revision);
        }
        for _ in 0..(dice >> 32) % 5000 {
            std::hint::spin_loop();
        }
        program.kill();
        kills += 1;
        for writer in writers {
            writer.await.expect("no panic");
        }
        while let Ok((number, revision)) = told.try_recv() {
            acknowledged.insert(number);
            latest = latest.max(revision);
        }

        let program = Program::start(data.path());
        let (held, revision) = held(program.client).await;
        let lost: Vec<_> = acknowledged.difference(&held).collect();
        assert!(lost.is_empty(), "lost after {kills} kills: {lost:?}");
        assert!(revision >= latest, "revision {revision} after {latest}");
        assert!(
            held.len() <= acknowledged.len() + WRITERS * usize::try_from(kills).expect("few"),
            "{held:?}"
        );
        assert!(program.terminate().success());
    }
    println!(
        "{} of {WRITES} writes acknowledged over {kills} kills, none lost",
        acknowledged.len()
    );
    assert!(kills >= 5 && acknowledged.len() >= WRITES - WRITERS * usize::try_from(kills).expect("few"));
}
