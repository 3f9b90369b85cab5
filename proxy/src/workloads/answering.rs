//! The control plane's questions on the workload's stream, and their answers: few at once, bounded in time and size.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};
use weir_xds::v1;
use weir_xds::v1::answer::Result as Said;
use weir_xds::v1::question::Question as Asked;

use crate::explain::{Asking, Explainer, Question};
use crate::mesh::Mesh;

/// What questions are answered from; the admin port shows the same.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) config: Arc<dyn Fn() -> Value + Send + Sync>,
    pub(crate) explainer: Explainer,
    pub(crate) mesh: Mesh,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

/// Questions under way on one stream.
pub(super) struct Answering {
    answers: Answers,
    tasks: JoinSet<v1::Answer>,
    under_way: BTreeMap<u64, AbortHandle>,
}

impl Answering {
    pub(super) fn new(answers: Answers) -> Answering {
        Answering {
            answers,
            tasks: JoinSet::new(),
            under_way: BTreeMap::new(),
        }
    }

    /// What can be asked, for Hello.
    pub(super) fn kinds() -> Vec<i32> {
        let kinds = [
            v1::QuestionKind::Explain,
            v1::QuestionKind::Config,
            v1::QuestionKind::Endpoints,
        ];
        kinds.into_iter().map(i32::from).collect()
    }

    /// Begins to answer; an answer at once where there is no more to it.
    pub(super) fn begin(&mut self, question: v1::Question) -> Option<v1::Answer> {
        let v1::Question {
            id,
            answer_bytes_max,
            wait_millis,
            question,
        } = question;
        let refused = |why: &str| {
            Some(v1::Answer {
                id,
                result: Some(Said::Refused(why.to_owned())),
            })
        };
        let Some(asked) = question else {
            return refused("the question is of a kind that this proxy does not know");
        };
        if self.under_way.len() >= UNDER_WAY_MAX {
            return refused("too many questions are under way");
        }
        let answers = self.answers.clone();
        let within = Duration::from_millis(wait_millis.into()).min(WITHIN_MAX);
        let task = self.tasks.spawn(async move {
            let said = match tokio::time::timeout(within, answers.answer(asked)).await {
                Ok(Ok(json)) => short_enough(json, answer_bytes_max),
                Ok(Err(why)) => Said::Refused(why),
                Err(_) => Said::Refused(format!("there was no answer within {within:?}")),
            };
            v1::Answer { id, result: Some(said) }
        });
        self.under_way.insert(id, task);
        None
    }

    /// Nobody waits for this answer any more.
    pub(super) fn cancel(&mut self, id: u64) {
        if let Some(task) = self.under_way.remove(&id) {
            task.abort();
        }
    }

    /// The stream is gone, and with it all who waited.
    pub(super) fn cancel_all(&mut self) {
        self.tasks.abort_all();
        self.under_way.clear();
    }

    /// The next answer; waits for ever while nothing is asked.
    ///
    /// # Cancel safety
    /// Safe: an answer is taken only when it is returned.
    pub(super) async fn next(&mut self) -> v1::Answer {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(answer)) => {
                    if self.under_way.remove(&answer.id).is_some() {
                        return answer;
                    }
                }
                Some(Err(error)) => {
                    if error.is_panic() {
                        tracing::error!(%error, "a question of the control plane was not answered");
                    }
                    self.under_way.retain(|_, task| !task.is_finished());
                }
                None => std::future::pending().await,
            }
        }
    }
}

impl Answers {
    async fn answer(&self, asked: Asked) -> Result<Value, String> {
        match asked {
            Asked::Explain(v1::AskExplain { parameters, as_request }) => {
                let parameters = parameters
                    .into_iter()
                    .map(|parameter| (parameter.name, parameter.value));
                let question = Question::read(parameters).map_err(|error| error.to_string())?;
                let asking = if as_request { Asking::AsRequest } else { Asking::InForce };
                let explanation = self.explainer.explain(&question, asking).await;
                serde_json::to_value(explanation).map_err(|error| error.to_string())
            }
            Asked::Config(v1::AskConfig {}) => Ok((self.config)()),
            Asked::Endpoints(v1::AskEndpoints { cluster }) => {
                let clusters = self.mesh.status().clusters;
                if cluster.is_empty() {
                    return Ok(json!({"clusters": clusters}));
                }
                let found: Vec<_> = clusters.iter().filter(|one| one.name() == cluster).collect();
                if found.is_empty() {
                    let known: Vec<&str> = clusters.iter().take(NAMES_SHOWN_MAX).map(|one| one.name()).collect();
                    return Err(format!(
                        "no cluster {cluster:?} is in force here; of {} there are: {}",
                        clusters.len(),
                        known.join(", ")
                    ));
                }
                Ok(json!({"clusters": found}))
            }
        }
    }
}

fn short_enough(json: Value, bytes_max: u32) -> Said {
    let text = json.to_string();
    let bytes = text.len();
    if u32::try_from(bytes).is_ok_and(|bytes| bytes <= bytes_max) {
        return Said::Json(text);
    }
    Said::Refused(format!(
        "the answer has {bytes} bytes, and {bytes_max} may be sent; ask for the endpoints of one cluster, or look at \
         /config on the admin port of the proxy's own host"
    ))
}

/// At once.
const UNDER_WAY_MAX: usize = 8;
/// For one answer, however long the control plane would wait.
const WITHIN_MAX: Duration = Duration::from_secs(10);
const NAMES_SHOWN_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::mesh::Feed;

    fn answering(config: Value) -> (Answering, Feed) {
        let (mesh, feed) = Mesh::new(Clock::start(), weir_policy::model::Locality::default());
        let answers = Answers {
            config: Arc::new(move || config.clone()),
            explainer: Explainer::new(
                mesh.clone(),
                Arc::new("n/w".parse().expect("a name")),
                crate::egress::tests::exit(),
            ),
            mesh,
        };
        (Answering::new(answers), feed)
    }

    fn question(id: u64, asked: Asked) -> v1::Question {
        v1::Question {
            id,
            answer_bytes_max: 1 << 10,
            wait_millis: 60_000,
            question: Some(asked),
        }
    }

    /// It waits for a name that nobody tells of.
    fn slow(id: u64) -> v1::Question {
        let url = v1::Parameter {
            name: "url".to_owned(),
            value: "http://127.0.0.1/".to_owned(),
        };
        let host = v1::Parameter {
            name: "header".to_owned(),
            value: "host: a".to_owned(),
        };
        let asked = v1::AskExplain {
            parameters: vec![url, host],
            as_request: true,
        };
        question(id, Asked::Explain(asked))
    }

    fn said(answer: v1::Answer) -> (u64, String) {
        let said = match answer.result.expect("is set") {
            Said::Json(json) => json,
            Said::Refused(why) => format!("refused: {why}"),
        };
        (answer.id, said)
    }

    #[tokio::test]
    async fn each_question_is_answered_or_refused() {
        let (mut answering, _feed) = answering(json!({"long": "x".repeat(2_000)}));
        answering.begin(question(1, Asked::Config(v1::AskConfig {})));
        let (id, why) = said(answering.next().await);
        assert_eq!(id, 1);
        assert!(
            why.starts_with("refused: the answer has 2011 bytes, and 1024 may be sent"),
            "{why}"
        );
        let endpoints = |cluster: &str| {
            Asked::Endpoints(v1::AskEndpoints {
                cluster: cluster.to_owned(),
            })
        };
        answering.begin(question(2, endpoints("")));
        assert_eq!(said(answering.next().await), (2, "{\"clusters\":[]}".to_owned()));
        answering.begin(question(3, endpoints("a.n:80")));
        let (_, why) = said(answering.next().await);
        assert!(why.contains("no cluster \"a.n:80\" is in force here"), "{why}");
        answering.begin(question(4, Asked::Explain(v1::AskExplain::default())));
        assert_eq!(
            said(answering.next().await).1,
            "refused: url is missing; url=http://NAME/PATH is right"
        );
        let unknown = v1::Question {
            question: None,
            ..question(5, endpoints(""))
        };
        let (id, why) = said(answering.begin(unknown).expect("at once"));
        assert!(id == 5 && why.contains("does not know"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_under_way_and_each_ends() {
        let (mut answering, _feed) = answering(Value::Null);
        for id in 1..=8 {
            assert!(answering.begin(slow(id)).is_none());
        }
        let (id, why) = said(answering.begin(slow(9)).expect("refused at once"));
        assert_eq!((id, why.as_str()), (9, "refused: too many questions are under way"));
        answering.cancel(1);
        assert!(answering.begin(slow(10)).is_none(), "there is room again");
        let mut ids = Vec::new();
        for _ in 2..=8 {
            ids.push(said(answering.next().await).0);
        }
        ids.push(said(answering.next().await).0);
        ids.sort_unstable();
        assert_eq!(ids, [2, 3, 4, 5, 6, 7, 8, 10], "what was cancelled is not answered");
        answering.begin(slow(11));
        answering.cancel_all();
        let quiet = tokio::time::timeout(Duration::from_secs(60), answering.next()).await;
        assert!(quiet.is_err(), "nobody waits for it");
    }
}
