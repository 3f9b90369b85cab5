//! Views that a proxy answers: `…/workloads/{name}/explain`, `/config` and `/endpoints`, passed on as it said them.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, RawQuery, State};
use axum::routing::{MethodRouter, get};
use http::Method;
use http::header::ALLOW;
use serde_json::value::RawValue;
use weir_api::views::{Reason, Status};
use weir_api::{Key, Kind};
use weir_xds::v1;
use weir_xds::v1::question::Question;

use super::{Failed, Views, failure, no_parameters, only_get};
use crate::compile::index::name_of;
use crate::workloads::AskError;

/// Each view by its last segment.
pub(super) fn routes() -> [(&'static str, MethodRouter<Views>); 3] {
    let explain = get(explain).post(explain_as_request).fallback(async |method: Method| {
        let problem = format!("{method}: use GET, or POST to have the proxy ask for a name that it does not know");
        ([(ALLOW, "GET, HEAD, POST")], failure(Reason::MethodNotAllowed, problem))
    });
    [
        ("explain", explain),
        ("config", only_get(get(config))),
        ("endpoints", only_get(get(endpoints))),
    ]
}

type Workload = Path<(String, String)>;
type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;
type Answered = Result<Json<Box<RawValue>>, Failed>;

/// By GET nothing happens in the proxy but that it is answered.
async fn explain(views: State<Views>, workload: Workload, parameters: Parameters) -> Answered {
    explained(views, workload, parameters, false).await
}

async fn explain_as_request(views: State<Views>, workload: Workload, parameters: Parameters) -> Answered {
    explained(views, workload, parameters, true).await
}

/// The proxy reads the parameters: what it does not know it refuses by name.
async fn explained(views: State<Views>, workload: Workload, parameters: Parameters, as_request: bool) -> Answered {
    let parameters = pairs(parameters)?.into_iter();
    let parameters = parameters.map(|(name, value)| v1::Parameter { name, value }).collect();
    let question = v1::AskExplain { parameters, as_request };
    ask(views, workload, Question::Explain(question)).await
}

async fn config(views: State<Views>, workload: Workload, RawQuery(query): RawQuery) -> Answered {
    no_parameters(query)?;
    ask(views, workload, Question::Config(v1::AskConfig {})).await
}

async fn endpoints(views: State<Views>, workload: Workload, parameters: Parameters) -> Answered {
    let mut cluster = String::new();
    for (name, value) in pairs(parameters)? {
        if name != "cluster" || !cluster.is_empty() || value.is_empty() {
            let problem = "the query is not right; cluster=SERVICE.NAMESPACE:PORT, once, or none is";
            return Err(failure(Reason::BadRequest, problem.to_owned()));
        }
        cluster = value;
    }
    ask(views, workload, Question::Endpoints(v1::AskEndpoints { cluster })).await
}

fn pairs(parameters: Parameters) -> Result<Vec<(String, String)>, Failed> {
    match parameters {
        Ok(Query(pairs)) => Ok(pairs),
        Err(error) => Err(failure(Reason::BadRequest, error.to_string())),
    }
}

async fn ask(State(views): State<Views>, Path((namespace, name)): Workload, question: Question) -> Answered {
    let key = Key {
        kind: Kind::Workload,
        namespace,
        name,
    };
    let stored = views.store.get(&key);
    let Some(workload) = stored.and_then(|stored| name_of(&stored.object)) else {
        let status = Status::failure(Reason::NotFound, format!("{key} does not exist")).about(&key);
        return Err(Failed(Box::new(status)));
    };
    let answer = views.workloads.ask(&workload, question).await;
    let answer = answer.map_err(|error| {
        let reason = match error {
            AskError::NotConnected(_) | AskError::Lost(_) => Reason::ServiceUnavailable,
            AskError::TooOld { .. } => Reason::MethodNotAllowed,
            AskError::Busy => Reason::TooManyRequests,
            AskError::TooLong(_) | AskError::Refused { .. } => Reason::BadRequest,
            AskError::TimedOut(_) => Reason::Timeout,
            AskError::Strange(_) => Reason::InternalError,
        };
        Failed(Box::new(Status::failure(reason, error.to_string()).about(&key)))
    })?;
    Ok(Json(answer))
}
