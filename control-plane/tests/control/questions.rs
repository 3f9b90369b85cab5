//! Questions to proxies over the API: answered, refused, given up, and to proxies that misbehave.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use weir_control::RunningControl;
use weir_xds::v1;
use weir_xds::v1::answer::Result as Said;
use weir_xds::v1::question::Question;
use weir_xds::v1::workload_message::Message;
use weir_xds::v1::workload_reply::Reply;

use super::client::{Client, Reply as Answered};
use super::in_memory;
use super::proxy::{Registered, hello};

const WORKLOAD: &str = "/apis/weir.dev/v1/namespaces/citizen/workloads/portal-1";

fn able(instance: u64) -> v1::Hello {
    let kinds = [
        v1::QuestionKind::Explain,
        v1::QuestionKind::Config,
        v1::QuestionKind::Endpoints,
    ];
    v1::Hello {
        questions: kinds.into_iter().map(i32::from).chain([99]).collect(),
        ..hello("portal-1", instance)
    }
}

async fn proxy(control: &RunningControl, instance: u64) -> Registered {
    Registered::open(control, able(instance)).await
}

fn get(client: Client, view: &str) -> tokio::task::JoinHandle<Answered> {
    let path = format!("{WORKLOAD}/{view}");
    tokio::spawn(async move { client.get(&path).await })
}

async fn question(proxy: &mut Registered) -> (u64, Question) {
    match proxy
        .reply()
        .await
        .expect("the stream is well")
        .and_then(|reply| reply.reply)
    {
        Some(Reply::Question(question)) => (question.id, question.question.expect("is set")),
        other => panic!("no question: {other:?}"),
    }
}

async fn answer(proxy: &Registered, id: u64, said: Said) {
    let answer = v1::Answer { id, result: Some(said) };
    proxy.say(Message::Answer(answer)).await;
}

#[track_caller]
fn failed(answered: &Answered, code: u16, reason: &str, message: &str) {
    let status = answered.json();
    assert_eq!(answered.status, code, "{status}");
    assert_eq!(status["reason"], reason, "{status}");
    let said = status["message"].as_str().unwrap_or_default();
    assert!(said.contains(message), "{status}");
}

#[tokio::test]
async fn each_view_asks_its_question_and_passes_the_answer_on() {
    let (control, client) = in_memory().await;
    let mut proxy = proxy(&control, 1).await;
    let parameter = |name: &str, value: &str| v1::Parameter {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let explain = |as_request| {
        Question::Explain(v1::AskExplain {
            parameters: vec![parameter("url", "http://a/b c"), parameter("header", "x:1")],
            as_request,
        })
    };
    let endpoints = |cluster: &str| {
        Question::Endpoints(v1::AskEndpoints {
            cluster: cluster.to_owned(),
        })
    };
    for (view, expect) in [
        ("explain?url=http://a/b%20c&header=x:1", explain(false)),
        ("config", Question::Config(v1::AskConfig {})),
        ("endpoints", endpoints("")),
        ("endpoints?cluster=a.n:80", endpoints("a.n:80")),
    ] {
        let asking = get(client, view);
        let (id, asked) = question(&mut proxy).await;
        assert_eq!(asked, expect);
        answer(&proxy, id, Said::Json(format!("{{\"view\": \"{view}\"}}"))).await;
        let answered = asking.await.expect("no panic");
        assert_eq!(
            (answered.status.as_u16(), answered.json()),
            (200, json!({"view": view}))
        );
    }
    let path = format!("{WORKLOAD}/explain?url=http://a/b%20c&header=x:1");
    let asking = tokio::spawn(async move { client.post(&path, &Value::Null).await });
    let (id, asked) = question(&mut proxy).await;
    assert_eq!(asked, explain(true));
    answer(&proxy, id, Said::Refused("url is missing".to_owned())).await;
    let refused = asking.await.expect("no panic");
    failed(&refused, 400, "BadRequest", "citizen/portal-1 refused: url is missing");
}

#[tokio::test]
async fn what_can_not_be_asked_is_said_at_once() {
    let (control, client) = in_memory().await;
    failed(
        &get(client, "config").await.expect("no panic"),
        404,
        "NotFound",
        "does not exist",
    );
    let older = Registered::open(&control, hello("portal-1", 1)).await;
    let too_old = "citizen/portal-1 (version 0.1.0) does not take this question";
    failed(
        &get(client, "config").await.expect("no panic"),
        405,
        "MethodNotAllowed",
        too_old,
    );
    failed(
        &get(client, "config?x=1").await.expect("no panic"),
        400,
        "BadRequest",
        "none is right",
    );
    let wrong = "cluster=SERVICE.NAMESPACE:PORT";
    failed(
        &get(client, "endpoints?clustre=a").await.expect("no panic"),
        400,
        "BadRequest",
        wrong,
    );
    let post = client.post(&format!("{WORKLOAD}/config"), &Value::Null).await;
    failed(&post, 405, "MethodNotAllowed", "use GET");
    let long = format!("explain?url={}", "a".repeat(33 << 10));
    drop(older);
    let _proxy = proxy(&control, 2).await;
    failed(
        &get(client, &long).await.expect("no panic"),
        400,
        "BadRequest",
        "at most 32768 are right",
    );
}

#[tokio::test]
async fn a_proxy_that_dies_or_answers_wrongly_is_said_to() {
    let (control, client) = in_memory().await;
    let mut first = proxy(&control, 1).await;
    let asking = get(client, "config");
    let (id, _) = question(&mut first).await;
    answer(&first, id, Said::Json("{\"a\":".to_owned())).await;
    failed(
        &asking.await.expect("no panic"),
        500,
        "InternalError",
        "what is no JSON",
    );

    let asking = get(client, "config");
    question(&mut first).await;
    drop(first);
    let lost = "the stream of citizen/portal-1 ended before it answered";
    failed(&asking.await.expect("no panic"), 503, "ServiceUnavailable", lost);

    // More than the question allows is not read to its end.
    let mut second = proxy(&control, 2).await;
    let asking = get(client, "config");
    let (id, _) = question(&mut second).await;
    answer(&second, id, Said::Json(format!("\"{}\"", "a".repeat(2 << 20)))).await;
    failed(&asking.await.expect("no panic"), 503, "ServiceUnavailable", lost);

    // A newer instance took its place: the question goes to that one.
    let mut third = proxy(&control, 3).await;
    let asking = get(client, "config");
    let (id, _) = question(&mut third).await;
    answer(&third, id, Said::Json("3".to_owned())).await;
    assert_eq!(asking.await.expect("no panic").json(), 3);
}

#[tokio::test]
async fn a_question_ends_when_its_asker_leaves() {
    let (control, client) = in_memory().await;
    let mut proxy = proxy(&control, 1).await;
    let mut asker = TcpStream::connect(client.address).await.expect("connected");
    let request = format!("GET {WORKLOAD}/config HTTP/1.1\r\nhost: {}\r\n\r\n", client.address);
    asker.write_all(request.as_bytes()).await.expect("sent");
    let (id, _) = question(&mut proxy).await;
    drop(asker);
    match proxy
        .reply()
        .await
        .expect("the stream is well")
        .and_then(|reply| reply.reply)
    {
        Some(Reply::Cancel(cancel)) => assert_eq!(cancel.id, id),
        other => panic!("no end of the question: {other:?}"),
    }
}
