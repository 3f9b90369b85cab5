use std::cell::Cell;
use std::rc::Rc;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::drain::{self, DrainControl};

/// Both ends of a relay under way.
struct Relaying {
    downstream: DuplexStream,
    upstream: DuplexStream,
    drain: DrainControl,
    relay: JoinHandle<Relayed>,
}

fn relaying(pipe_bytes: usize, idle: Option<Duration>) -> Relaying {
    let (downstream, mut near) = duplex(pipe_bytes);
    let (upstream, mut far) = duplex(pipe_bytes);
    let (drain, mut drained) = drain::pair();
    let relay = tokio::spawn(async move { relay(&mut near, &mut far, idle, &mut drained, |_, _| {}).await });
    Relaying {
        downstream,
        upstream,
        drain,
        relay,
    }
}

impl Relaying {
    async fn ended(self) -> Relayed {
        self.relay.await.expect("a relay does not panic")
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_is_passed_on_while_the_other_direction_goes_on() {
    for way in [Way::FromDownstream, Way::ToDownstream] {
        let mut ends = relaying(64, None);
        let (first, second) = match way {
            Way::FromDownstream => (&mut ends.downstream, &mut ends.upstream),
            Way::ToDownstream => (&mut ends.upstream, &mut ends.downstream),
        };
        first.write_all(b"all I have").await.expect("it is written");
        first.shutdown().await.expect("it ends");
        let mut said = String::new();
        second.read_to_string(&mut said).await.expect("it comes, and the end");
        assert_eq!(said, "all I have");
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        second.write_all(b"thanks").await.expect("it is written");
        second.shutdown().await.expect("it ends");
        let mut answer = String::new();
        first.read_to_string(&mut answer).await.expect("it comes, and the end");
        assert_eq!(answer, "thanks");
        let relayed = ends.ended().await;
        assert!(matches!(relayed.end, RelayEnd::Finished), "{relayed:?}");
        let bytes = (relayed.from_downstream, relayed.to_downstream);
        let expected = match way {
            Way::FromDownstream => (10, 6),
            Way::ToDownstream => (6, 10),
        };
        assert_eq!(bytes, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_idle_too_long_ends() {
    let mut ends = relaying(64, Some(Duration::from_secs(60)));
    let began = Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(59)).await;
        ends.downstream.write_all(b"?").await.expect("it is written");
        ends.upstream.read_u8().await.expect("it comes");
        tokio::time::sleep(Duration::from_secs(59)).await;
        ends.upstream.write_all(b"!").await.expect("it is written");
        ends.downstream.read_u8().await.expect("it comes");
    }
    let relayed = ends.ended().await;
    assert!(matches!(relayed.end, RelayEnd::Idle), "{relayed:?}");
    assert_eq!((relayed.from_downstream, relayed.to_downstream), (3, 3));
    assert_eq!(began.elapsed(), Duration::from_secs(6 * 59 + 60));
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_it_when_its_time_is_over() {
    let mut ends = relaying(64, None);
    ends.drain.begin();
    ends.downstream.write_all(b"still open").await.expect("it is written");
    let mut said = [0; 10];
    ends.upstream.read_exact(&mut said).await.expect("it comes");
    ends.drain.over();
    let relayed = ends.ended().await;
    assert!(matches!(relayed.end, RelayEnd::Drained), "{relayed:?}");
    assert_eq!(relayed.from_downstream, 10);
}

#[tokio::test(start_paused = true)]
async fn it_says_who_was_lost() {
    let mut ends = relaying(64, None);
    drop(ends.upstream);
    let mut end = Vec::new();
    ends.downstream.read_to_end(&mut end).await.expect("the end comes");
    ends.downstream.write_all(b"?").await.expect("the relay takes it");
    let relayed = ends.relay.await.expect("it does not panic");
    assert!(matches!(relayed.end, RelayEnd::UpstreamLost(_)), "{relayed:?}");

    let mut ends = relaying(64, None);
    drop(ends.downstream);
    let mut end = Vec::new();
    ends.upstream.read_to_end(&mut end).await.expect("the end comes");
    ends.upstream.write_all(b"?").await.expect("the relay takes it");
    let relayed = ends.relay.await.expect("it does not panic");
    assert!(matches!(relayed.end, RelayEnd::DownstreamLost(_)), "{relayed:?}");
}

#[tokio::test(start_paused = true)]
async fn last_words_of_one_that_takes_nothing_any_more_are_passed_on() {
    let mut ends = relaying(256 * 1024, None);
    let words = vec![b'w'; 200 * 1024];
    ends.upstream.write_all(&words).await.expect("it is written");
    drop(ends.upstream);
    // What the relay finds is all there is at once: a request, the answer, and that nobody is there.
    ends.downstream.write_all(b"too late").await.expect("it is written");
    let mut said = Vec::new();
    ends.downstream.read_to_end(&mut said).await.expect("they come");
    assert!(said == words, "{} of {} bytes", said.len(), words.len());
    let relayed = ends.relay.await.expect("it does not panic");
    assert!(matches!(relayed.end, RelayEnd::UpstreamLost(_)), "{relayed:?}");
    assert_eq!(relayed.to_downstream, words.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_stalls_the_sender() {
    let mut ends = relaying(1024, None);
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), ends.downstream.write(&[0; 512])).await {
        sent += written.expect("it is written");
    }
    // Both pipes and one buffer.
    assert!(sent <= 2 * 1024 + BUFFER_BYTES, "{sent} bytes were taken");
    // The other direction is not held up.
    ends.upstream.write_all(b"go on").await.expect("it is written");
    let mut said = [0; 5];
    ends.downstream.read_exact(&mut said).await.expect("it comes");
    let mut came = vec![0; sent];
    ends.upstream.read_exact(&mut came).await.expect("all of it comes");
    drop((ends.upstream, ends.downstream));
    let relayed = ends.relay.await.expect("it does not panic");
    assert_eq!(relayed.from_downstream, sent as u64);
}

#[tokio::test(start_paused = true)]
async fn who_never_pauses_does_not_keep_the_other_from_being_heard() {
    /// Always has more to read, and takes all that is written.
    struct Endless;
    impl AsyncRead for Endless {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buf.put_slice(&[0; 1024]);
            Poll::Ready(Ok(()))
        }
    }
    impl AsyncWrite for Endless {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let (control, mut drain) = drain::pair();
    let counts = Rc::new([Cell::new(0), Cell::new(0)]);
    let counted = Rc::clone(&counts);
    let (mut downstream, mut upstream) = (Endless, Endless);
    let relayed = relay(&mut downstream, &mut upstream, None, &mut drain, |way, bytes| {
        counted[way as usize].set(counted[way as usize].get() + bytes);
        if counted.iter().all(|count| count.get() > 1024 * 1024) {
            control.over();
        }
    });
    let relayed = relayed.await;
    assert!(matches!(relayed.end, RelayEnd::Drained), "{relayed:?}");
    assert_eq!(relayed.from_downstream, counts[0].get());
    assert_eq!(relayed.to_downstream, counts[1].get());
}

#[test]
fn one_without_traffic_holds_nothing() {
    // Each open connection has one of these, for as long as its app keeps it.
    assert!(size_of::<Relay>() <= 176, "{} bytes", size_of::<Relay>());
    let mut pump = Pump::default();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let ((mut from, mut near), (mut to, mut far)) = (duplex(4096), duplex(8));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        from.write_all(&[7; 100]).await.expect("it is written");
        assert!(matches!(pump.turn(&mut cx, &mut near, &mut far), Turn::Goes));
        assert_eq!(pump.kept.len(), 92);
        for _ in 0..13 {
            let mut came = [0; 8];
            let _ = to.read(&mut came).await.expect("it comes");
            let _ = pump.turn(&mut cx, &mut near, &mut far);
        }
    });
    assert_eq!((pump.passed, pump.kept.capacity()), (100, 0));
}

/// One step of a side: so many bytes written at once, or read at most.
#[derive(Clone, Debug)]
enum Does {
    Writes(usize),
    Reads(usize),
}

fn steps() -> impl Strategy<Value = Vec<Does>> {
    let step = prop_oneof![
        (1..40_000_usize).prop_map(Does::Writes),
        (1..40_000_usize).prop_map(Does::Reads)
    ];
    prop::collection::vec(step, 0..12)
}

/// Does these, then ends its side and reads to the end of the other's. Returns what it read.
async fn side(stream: DuplexStream, steps: Vec<Does>, seed: u8) -> Vec<u8> {
    let (mut reads, mut writes) = tokio::io::split(stream);
    let (written, read): (Vec<_>, Vec<_>) = steps.into_iter().partition(|step| matches!(step, Does::Writes(_)));
    let writing = async {
        let mut all = bytes_of(seed, &written).into_iter();
        for step in &written {
            let (Does::Writes(count) | Does::Reads(count)) = step;
            let chunk: Vec<u8> = all.by_ref().take(*count).collect();
            writes.write_all(&chunk).await.expect("it is written");
            tokio::task::yield_now().await;
        }
        writes.shutdown().await.expect("it ends");
    };
    let reading = async {
        let mut came = Vec::new();
        for step in &read {
            let (Does::Writes(most) | Does::Reads(most)) = step;
            let mut part = vec![0; *most];
            let count = reads.read(&mut part).await.expect("it comes");
            came.extend_from_slice(&part[..count]);
            tokio::task::yield_now().await;
        }
        reads.read_to_end(&mut came).await.expect("it comes, and the end");
        came
    };
    tokio::join!(writing, reading).1
}

/// What a side with this seed writes.
fn bytes_of(seed: u8, steps: &[Does]) -> Vec<u8> {
    let count: usize = steps
        .iter()
        .map(|step| match step {
            Does::Writes(count) => *count,
            Does::Reads(_) => 0,
        })
        .sum();
    (0..count).map(|at| (at % 251) as u8 ^ seed).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn all_bytes_come_in_order(
        (downstream, upstream) in (steps(), steps()),
        pipe_bytes in prop_oneof![1..16_usize, 1000..100_000_usize],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async move {
            let ends = relaying(pipe_bytes, None);
            let (to_downstream, to_upstream) = tokio::join!(
                side(ends.downstream, downstream.clone(), 0),
                side(ends.upstream, upstream.clone(), 0xff),
            );
            let relayed = ends.relay.await.expect("it does not panic");
            prop_assert!(matches!(relayed.end, RelayEnd::Finished), "{:?}", relayed);
            prop_assert_eq!(relayed.from_downstream, to_upstream.len() as u64);
            prop_assert_eq!(relayed.to_downstream, to_downstream.len() as u64);
            prop_assert!(to_upstream == bytes_of(0, &downstream));
            prop_assert!(to_downstream == bytes_of(0xff, &upstream));
            Ok(())
        })?;
    }
}
