//! The peers themselves: what `origin` answers comes whole through `relay`, over each protocol.

use std::path::Path;
use std::time::Duration;

use weir_bench::load::{Ask, Load, Over, Target};
use weir_bench::process::{Place, Process, Processors, Ready, free_ports};

#[tokio::test]
async fn what_the_origin_answers_comes_whole_through_the_relay() {
    let processors = Processors::find();
    let place = (&processors, Place::Others);
    let ready = Ready::Line("ready");
    let [at, http1, http2] = free_ports().expect("ports are free");
    let start = async |program: &str, args: [String; 6], count: usize| {
        Process::start(Path::new(program), &args[..count], place, ready)
            .await
            .expect("it starts")
            .0
    };
    let args = |listen: std::net::SocketAddr, protocol: &str| {
        [
            "--listen",
            &listen.to_string(),
            "--to",
            &at.to_string(),
            "--protocol",
            protocol,
        ]
        .map(str::to_owned)
    };
    let _origin = start(env!("CARGO_BIN_EXE_origin"), args(at, ""), 2).await;
    let _relay_http1 = start(env!("CARGO_BIN_EXE_relay"), args(http1, "http1"), 6).await;
    let relay_http2 = start(env!("CARGO_BIN_EXE_relay"), args(http2, "http2"), 6).await;
    let over_http1 = Over::Http1 { connections: 2 };
    let over_http2 = Over::Http2 {
        connections: 2,
        streams: 3,
    };
    for (address, over, ask) in [
        (http1, over_http1, Ask::Bytes(0)),
        (http1, over_http1, Ask::Bytes(16 << 10)),
        (http2, over_http2, Ask::Bytes(100)),
        (http2, over_http2, Ask::Grpc(100)),
    ] {
        let target = Target {
            address,
            authority: "origin.example".to_owned(),
        };
        let mut load = Load::open(&target, over, ask).await.expect("all is answered");
        let answered = load.run(Duration::from_millis(10)).await.expect("all is answered");
        assert!(answered >= 2, "{over:?} {ask:?}");
    }
    assert!(relay_http2.cpu().expect("it runs") > Duration::ZERO);
    assert!(relay_http2.resident_kib().expect("it runs") > 100);
    let target = Target {
        address: http1,
        authority: "origin.example".to_owned(),
    };
    let wrong = Load::open(&target, over_http1, Ask::Bytes(usize::MAX)).await;
    assert!(wrong.is_err(), "an answer that is not the one asked for fails the run");
}
