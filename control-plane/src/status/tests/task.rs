//! The task, under virtual time: when it writes, and that it does not where nothing is to be said.

use weir_policy::spiffe::TrustDomain;

use super::*;
use crate::drain;
use crate::store::{self, Location, StoreTask};
use crate::xds;

/// A store with the tasks that make statuses.
struct World {
    store: Store,
    store_task: StoreTask,
    drainer: drain::Drainer,
    tasks: tokio::task::JoinHandle<()>,
}

impl World {
    async fn start(held: &[Object]) -> World {
        let (store, store_task) = Store::open(Location::Memory).expect("a store in memory");
        store
            .write(held.iter().cloned().map(Op::Create).collect())
            .await
            .expect("memory takes it");
        let (drainer, drain) = drain::channel();
        let (xds, serve) = xds::server(
            store.clone(),
            TrustDomain::default(),
            tokio::sync::watch::channel(Vec::new()).1,
            drain.clone(),
        );
        let keep = keep(store.clone(), xds, drain);
        let tasks = tokio::spawn(async move {
            tokio::join!(serve, keep);
        });
        World {
            store,
            store_task,
            drainer,
            tasks,
        }
    }

    fn watch(&self) -> Watch {
        self.store.watch(self.store.revision()).expect("now")
    }

    fn accepted(&self, key: &Key) -> Option<String> {
        let status = self.store.get(key)?.object.status.clone()?;
        let reason = status.pointer("/parents/0/conditions/0/reason")?;
        reason.as_str().map(str::to_owned)
    }

    async fn until_accepted(&self, watch: &mut Watch, key: &Key, reason: &str) {
        while self.accepted(key).as_deref() != Some(reason) {
            watch.next().await.expect("the store is open");
        }
    }

    async fn stop(self) {
        self.drainer.begin();
        self.tasks.await.expect("no panic");
        self.store_task.stop().await.expect("no panic");
    }
}

async fn events(watch: &mut Watch, until: Revision) -> Vec<Arc<store::Event>> {
    let mut all = Vec::new();
    while watch.seen() < until {
        all.extend(watch.next().await.expect("the store is open"));
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_status_comes_by_itself_and_is_nothing_that_asks_for_more() {
    let mut route = route("r");
    route.status = Some(serde_json::json!({"parents": "as the client has it"}));
    let world = World::start(&[]).await;
    let mut watch = world.watch();
    let before = world.store.revision();
    world
        .store
        .write(vec![Op::Create(portal()), Op::Create(route.clone())])
        .await
        .expect("memory takes it");
    world.until_accepted(&mut watch, &route.key(), "Accepted").await;
    let stored = world.store.get(&route.key()).expect("there");
    assert_eq!(stored.object.metadata.generation, 1);
    let status = stored.object.status.as_ref().expect("a status");
    assert_eq!(
        shown(status, "/parents/0")[2],
        "weir.dev/InForce=Unknown/NoSubscribers: no connected proxy uses it"
    );
    let after = Revision(before.0 + 3);
    assert_eq!(world.store.revision(), after, "two objects and one status");
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(world.store.revision(), after, "a day on which nobody changes anything");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_once_a_second_at_most_and_ends_as_it_should() {
    let world = World::start(&[portal(), route("r")]).await;
    let mut watch = world.watch();
    let key = route("r").key();
    world.until_accepted(&mut watch, &key, "Accepted").await;
    let (before, start) = (world.store.revision(), Instant::now());
    // The parent comes and goes, a hundred times a second.
    for number in 0..3_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let op = match number % 2 {
            0 => Op::Delete {
                key: portal().key(),
                precondition: Precondition::Any,
            },
            _ => Op::Create(portal()),
        };
        world.store.write(vec![op]).await.expect("memory takes it");
    }
    let delete = Op::Delete {
        key: portal().key(),
        precondition: Precondition::Any,
    };
    let mut after = world.watch();
    world.store.write(vec![delete]).await.expect("memory takes it");
    world.until_accepted(&mut after, &key, "NoMatchingParent").await;
    let seconds = start.elapsed().as_secs() + 1;
    let mut changes = world.store.watch(before).expect("all is remembered");
    let all = events(&mut changes, world.store.revision()).await;
    let written = all.iter().filter(|event| event.key == key).count() as u64;
    assert!((2..=seconds).contains(&written), "{written} writes in {seconds} s");
    assert_eq!(world.store.get(&key).expect("there").object.metadata.generation, 1);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_status_of_an_earlier_run_is_put_right_once_proxies_had_time_to_be_back() {
    let mut held = route("r");
    held.status = Some(status_of(&fixture::index([portal(), held.clone()]), &held.key()));
    let world = World::start(&[portal(), held.clone(), route("new")]).await;
    let start = Instant::now();
    let mut watch = world.watch();
    world.until_accepted(&mut watch, &route("new").key(), "Accepted").await;
    assert_eq!(world.store.get(&held.key()).expect("there").object.status, held.status);
    let in_force = |world: &World| {
        let status = world
            .store
            .get(&held.key())
            .and_then(|stored| stored.object.status.clone());
        shown(&status.expect("a status"), "/parents/0")[2].clone()
    };
    while in_force(&world) == "weir.dev/InForce=True/InForce: in force on 1 of 1" {
        watch.next().await.expect("the store is open");
    }
    assert_eq!(
        in_force(&world),
        "weir.dev/InForce=Unknown/NoSubscribers: no connected proxy uses it"
    );
    assert!(start.elapsed() >= RECONNECT_TIME, "after {:?}", start.elapsed());
    world.stop().await;
}
