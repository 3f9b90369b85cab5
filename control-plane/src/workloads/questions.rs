//! Questions to proxies, over the workloads' streams: few under way, each with an end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prost::Message as _;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use weir_policy::names::WorkloadName;
use weir_xds::v1;
use weir_xds::v1::answer::Result as Said;
use weir_xds::v1::question::Question;
use weir_xds::v1::workload_reply::Reply;

use super::registry::StreamId;
use crate::xds::outbox::Outbox;

/// Why a proxy did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{0} has no stream to this control plane now, so it can't be asked")]
    NotConnected(WorkloadName),
    #[error(
        "{workload} (version {version}) does not take this question: bring it to the version of this control plane, \
         or ask it on its own host (weirctl … --proxy http://127.0.0.1:15000)"
    )]
    TooOld { workload: WorkloadName, version: String },
    #[error("{UNDER_WAY_MAX} questions are under way, {PER_PROXY_MAX} to one proxy at most; ask again in a moment")]
    Busy,
    #[error("the question has {0} bytes; at most {QUESTION_BYTES_MAX} are right")]
    TooLong(usize),
    #[error("{0} did not answer within {WITHIN:?}; it is connected, so it is overloaded or stuck")]
    TimedOut(WorkloadName),
    #[error("the stream of {0} ended before it answered")]
    Lost(WorkloadName),
    #[error("{workload} refused: {why}")]
    Refused { workload: WorkloadName, why: String },
    #[error("{0} answered with what is no JSON")]
    Strange(WorkloadName),
}

/// Which proxies can be asked, and what is asked of them now.
#[derive(Debug, Default)]
pub(super) struct Questions {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    proxies: BTreeMap<WorkloadName, Askable>,
    under_way: BTreeMap<u64, UnderWay>,
    last: u64,
}

/// A proxy on an open stream.
#[derive(Debug)]
struct Askable {
    stream: StreamId,
    takes: BTreeSet<i32>,
    version: String,
    /// Of the stream, which ends with its owner and not with this.
    to: Weak<Outbox<v1::WorkloadReply>>,
}

#[derive(Debug)]
struct UnderWay {
    stream: StreamId,
    to: Weak<Outbox<v1::WorkloadReply>>,
    answer: oneshot::Sender<Said>,
}

/// What a proxy said when it registered, as far as questions go.
#[derive(Debug)]
pub(super) struct Abilities {
    /// Values of `weir.v1.QuestionKind`.
    pub(super) takes: BTreeSet<i32>,
    pub(super) version: String,
}

impl Questions {
    /// A proxy registered on a stream.
    pub(super) fn connected(
        &self,
        workload: WorkloadName,
        stream: StreamId,
        abilities: Abilities,
        to: &Arc<Outbox<v1::WorkloadReply>>,
    ) {
        let askable = Askable {
            stream,
            takes: abilities.takes,
            version: abilities.version,
            to: Arc::downgrade(to),
        };
        self.locked().proxies.insert(workload, askable);
    }

    /// A stream is over: what was asked on it has no answer.
    pub(super) fn lost(&self, stream: StreamId) {
        let mut state = self.locked();
        state.proxies.retain(|_, askable| askable.stream != stream);
        state.under_way.retain(|_, asked| asked.stream != stream);
    }

    /// An answer came on a stream. One that nobody waits for any more is dropped.
    pub(super) fn answered(&self, stream: StreamId, answer: v1::Answer) {
        let mut state = self.locked();
        let asked_there = state
            .under_way
            .get(&answer.id)
            .is_some_and(|asked| asked.stream == stream);
        if asked_there && let Some(asked) = state.under_way.remove(&answer.id) {
            let said = answer
                .result
                .unwrap_or_else(|| Said::Refused("the answer is empty".to_owned()));
            // The asker may have left at this moment.
            let _ = asked.answer.send(said);
        }
    }

    /// Asks a proxy and waits for its answer, at most [`WITHIN`].
    ///
    /// # Errors
    /// See [`AskError`].
    ///
    /// # Cancel safety
    /// Dropped, the proxy is told that nobody waits any more.
    pub(super) async fn ask(&self, workload: &WorkloadName, question: Question) -> Result<Box<RawValue>, AskError> {
        let (id, answer) = self.begin(workload, question)?;
        let _ends = Ends { questions: self, id };
        match tokio::time::timeout(WITHIN, answer).await {
            Ok(Ok(Said::Json(json))) => RawValue::from_string(json).map_err(|_| AskError::Strange(workload.clone())),
            Ok(Ok(Said::Refused(why))) => Err(AskError::Refused {
                workload: workload.clone(),
                why: why.chars().take(WHY_CHARS_MAX).collect(),
            }),
            Ok(Err(_)) => Err(AskError::Lost(workload.clone())),
            Err(_) => Err(AskError::TimedOut(workload.clone())),
        }
    }

    fn begin(&self, workload: &WorkloadName, question: Question) -> Result<(u64, oneshot::Receiver<Said>), AskError> {
        let kind = match &question {
            Question::Explain(_) => v1::QuestionKind::Explain,
            Question::Config(_) => v1::QuestionKind::Config,
            Question::Endpoints(_) => v1::QuestionKind::Endpoints,
        };
        let mut state = self.locked();
        let askable = state.proxies.get(workload);
        let outbox = askable.and_then(|askable| Some((askable, askable.to.upgrade()?)));
        let (askable, outbox) = outbox.ok_or_else(|| AskError::NotConnected(workload.clone()))?;
        if !askable.takes.contains(&i32::from(kind)) {
            return Err(AskError::TooOld {
                workload: workload.clone(),
                version: askable.version.clone(),
            });
        }
        let stream = askable.stream;
        let there = state.under_way.values().filter(|asked| asked.stream == stream).count();
        if there >= PER_PROXY_MAX || state.under_way.len() >= UNDER_WAY_MAX {
            return Err(AskError::Busy);
        }
        let id = state.last + 1;
        let question = v1::Question {
            id,
            answer_bytes_max: ANSWER_BYTES_MAX,
            wait_millis: u32::try_from(WITHIN.as_millis()).unwrap_or(u32::MAX),
            question: Some(question),
        };
        let bytes = question.encoded_len();
        if bytes > QUESTION_BYTES_MAX {
            return Err(AskError::TooLong(bytes));
        }
        outbox
            .push([reply(Reply::Question(question))])
            .map_err(|_| AskError::Lost(workload.clone()))?;
        state.last = id;
        let (answer, answers) = oneshot::channel();
        let to = Arc::downgrade(&outbox);
        state.under_way.insert(id, UnderWay { stream, to, answer });
        Ok((id, answers))
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is whole before anything in it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a question with its asker, however that comes.
struct Ends<'a> {
    questions: &'a Questions,
    id: u64,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let unanswered = self.questions.locked().under_way.remove(&self.id);
        if let Some(outbox) = unanswered.and_then(|asked| asked.to.upgrade()) {
            // A stream whose proxy does not read is ended by this, as by anything else that is sent there.
            let _ = outbox.push([reply(Reply::Cancel(v1::CancelQuestion { id: self.id }))]);
        }
    }
}

fn reply(reply: Reply) -> v1::WorkloadReply {
    v1::WorkloadReply { reply: Some(reply) }
}

/// How long a proxy has for an answer: what a request waits for configuration, twice.
const WITHIN: Duration = Duration::from_secs(10);
/// Under way to one proxy.
const PER_PROXY_MAX: usize = 4;
/// Under way in this process: bounds what answers take of memory together.
const UNDER_WAY_MAX: usize = 64;
/// Of one question; a request's head is not longer.
const QUESTION_BYTES_MAX: usize = 32 << 10;
/// Of one answer.
pub(super) const ANSWER_BYTES_MAX: u32 = 1 << 20;
/// Of a proxy's words when it refuses.
const WHY_CHARS_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::outbox::{Bounds, Outgoing, outbox};

    struct Fixture {
        questions: Arc<Questions>,
        workload: WorkloadName,
        outbox: Arc<Outbox<v1::WorkloadReply>>,
        outgoing: Outgoing<v1::WorkloadReply>,
    }

    const STREAM: StreamId = StreamId(7);

    fn fixture(takes: &[v1::QuestionKind]) -> Fixture {
        let questions = Arc::new(Questions::default());
        let workload: WorkloadName = "n/w".parse().expect("a name");
        let (outbox, outgoing) = outbox(Bounds {
            items_max: 64,
            bytes_max: 1 << 20,
        });
        let outbox = Arc::new(outbox);
        let abilities = Abilities {
            takes: takes.iter().map(|kind| i32::from(*kind)).collect(),
            version: "0.0.9".to_owned(),
        };
        questions.connected(workload.clone(), STREAM, abilities, &outbox);
        Fixture {
            questions,
            workload,
            outbox,
            outgoing,
        }
    }

    impl Fixture {
        fn ask(&self) -> tokio::task::JoinHandle<Result<String, AskError>> {
            let (questions, workload) = (Arc::clone(&self.questions), self.workload.clone());
            tokio::spawn(async move {
                let answer = questions.ask(&workload, Question::Config(v1::AskConfig {})).await;
                answer.map(|json| json.get().to_owned())
            })
        }

        async fn asked(&mut self) -> u64 {
            match self.outgoing.next().await.expect("open").and_then(|reply| reply.reply) {
                Some(Reply::Question(question)) => question.id,
                other => panic!("no question: {other:?}"),
            }
        }

        fn answer(&self, stream: StreamId, id: u64, said: Option<Said>) {
            self.questions.answered(stream, v1::Answer { id, result: said });
        }
    }

    #[tokio::test]
    async fn each_question_has_its_own_answer() {
        let mut fixture = fixture(&[v1::QuestionKind::Config]);
        let (one, first) = (fixture.ask(), fixture.asked().await);
        let (two, second) = (fixture.ask(), fixture.asked().await);
        assert_ne!(first, second);
        // Of another stream, or to no question: nobody's.
        fixture.answer(StreamId(8), first, Some(Said::Json("9".to_owned())));
        fixture.answer(STREAM, 99, Some(Said::Json("9".to_owned())));
        fixture.answer(STREAM, second, Some(Said::Json("{\"two\": 2}".to_owned())));
        fixture.answer(STREAM, first, Some(Said::Refused("no".to_owned())));
        assert_eq!(two.await.expect("no panic"), Ok("{\"two\": 2}".to_owned()));
        let refused = one.await.expect("no panic").expect_err("refused");
        assert_eq!(refused.to_string(), "n/w refused: no");
        // A second answer finds nobody.
        fixture.answer(STREAM, second, Some(Said::Json("9".to_owned())));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_said() {
        let mut fixture = fixture(&[v1::QuestionKind::Config]);
        for (said, expect) in [
            (Some(Said::Json("{".to_owned())), "answered with what is no JSON"),
            (None, "refused: the answer is empty"),
        ] {
            let (asking, id) = (fixture.ask(), fixture.asked().await);
            fixture.answer(STREAM, id, said);
            let error = asking.await.expect("no panic").expect_err("no answer");
            assert!(error.to_string().ends_with(expect), "{error}");
        }
        let (asking, _) = (fixture.ask(), fixture.asked().await);
        fixture.questions.lost(STREAM);
        let workload = fixture.workload.clone();
        assert_eq!(asking.await.expect("no panic"), Err(AskError::Lost(workload.clone())));
        assert_eq!(
            fixture.ask().await.expect("no panic"),
            Err(AskError::NotConnected(workload))
        );
    }

    #[tokio::test]
    async fn a_proxy_is_asked_only_what_it_announced() {
        let older = fixture(&[v1::QuestionKind::Explain]);
        let error = older.ask().await.expect("no panic").expect_err("too old");
        assert!(
            error
                .to_string()
                .starts_with("n/w (version 0.0.9) does not take this question"),
            "{error}"
        );
        drop(older.outbox);
        let gone = Questions::default();
        let config = Question::Config(v1::AskConfig {});
        assert!(matches!(
            gone.ask(&older.workload, config).await,
            Err(AskError::NotConnected(_))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_ends_in_time_or_with_its_asker_and_the_proxy_is_told() {
        let mut fixture = fixture(&[v1::QuestionKind::Config]);
        let began = tokio::time::Instant::now();
        let (asking, first) = (fixture.ask(), fixture.asked().await);
        let timed_out = asking.await.expect("no panic");
        assert_eq!(timed_out, Err(AskError::TimedOut(fixture.workload.clone())));
        assert_eq!(began.elapsed(), WITHIN);
        let (asking, second) = (fixture.ask(), fixture.asked_after_cancel(first).await);
        asking.abort();
        assert!(asking.await.expect_err("aborted").is_cancelled());
        assert_eq!(fixture.cancelled().await, second);
        assert!(fixture.questions.locked().under_way.is_empty());
    }

    #[tokio::test]
    async fn few_are_under_way_to_one_proxy() {
        let mut fixture = fixture(&[v1::QuestionKind::Config]);
        let mut asking = Vec::new();
        for _ in 0..PER_PROXY_MAX {
            asking.push((fixture.ask(), fixture.asked().await));
        }
        assert_eq!(fixture.ask().await.expect("no panic"), Err(AskError::Busy));
        let (first, id) = asking.remove(0);
        fixture.answer(STREAM, id, Some(Said::Json("1".to_owned())));
        assert_eq!(first.await.expect("no panic"), Ok("1".to_owned()));
        let (asking, id) = (fixture.ask(), fixture.asked().await);
        fixture.answer(STREAM, id, Some(Said::Json("2".to_owned())));
        assert_eq!(asking.await.expect("no panic"), Ok("2".to_owned()));
    }

    impl Fixture {
        async fn cancelled(&mut self) -> u64 {
            match self.outgoing.next().await.expect("open").and_then(|reply| reply.reply) {
                Some(Reply::Cancel(cancel)) => cancel.id,
                other => panic!("no end of a question: {other:?}"),
            }
        }

        async fn asked_after_cancel(&mut self, id: u64) -> u64 {
            assert_eq!(self.cancelled().await, id);
            self.asked().await
        }
    }
}
