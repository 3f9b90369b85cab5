//! Answers that say no, as Kubernetes' `Status` objects: what `kubectl` and `weirctl` read.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use weir_api::views::{Cause, Status};
use weir_api::{FieldError, Key};

pub(crate) use weir_api::views::Reason;

use super::page::PageToken;
use crate::objects::Refusal;
use crate::store::WriteError;

/// An answer that says no.
#[derive(Clone, Debug)]
pub(crate) struct Failure(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: Status,
    /// Methods that would do.
    allow: Option<&'static str>,
}

impl Failure {
    /// `message` says what was wrong and what would be right.
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Failure {
        let status = Status::failure(reason, message);
        Failure(Box::new(Parts { status, allow: None }))
    }

    /// A request that may succeed later, unchanged.
    pub(crate) fn retry_later(reason: Reason, message: impl Into<String>) -> Failure {
        let mut failure = Failure::new(reason, message);
        let details = failure.0.status.details.get_or_insert_default();
        details.retry_after_seconds = RETRY_AFTER_OVERLOAD.as_secs();
        failure
    }

    /// A method that this place doesn't know; `allow` lists those it does (RFC 9110 section 10.2.1).
    pub(crate) fn method(allow: &'static str, message: impl Into<String>) -> Failure {
        let mut failure = Failure::new(Reason::MethodNotAllowed, message);
        failure.0.allow = Some(allow);
        failure
    }

    /// A request that did not come in whole in time (RFC 9110 section 15.5.9); it is the client that was slow, so not
    /// 504, which [`Reason::Timeout`] stands for otherwise.
    pub(crate) fn too_slow(message: impl Into<String>) -> Failure {
        let mut failure = Failure::new(Reason::Timeout, message);
        failure.0.status.code = StatusCode::REQUEST_TIMEOUT.as_u16();
        failure
    }

    /// Says where a list goes on that is broken off.
    pub(crate) fn with_next(mut self, token: &PageToken) -> Failure {
        self.0.status.metadata.next = token.to_string();
        self
    }

    /// Says which object it is about.
    pub(crate) fn about(mut self, key: &Key) -> Failure {
        self.0.status = self.0.status.about(key);
        self
    }

    /// Names the kind by its own name and not by its plural, as Kubernetes does for what is invalid: kubectl puts it
    /// into a sentence.
    fn by_kind(mut self, key: &Key) -> Failure {
        self.0.status.details.get_or_insert_default().kind = key.kind.kind().to_owned();
        self
    }

    /// The `Status` object.
    pub(crate) fn into_status(self) -> Status {
        self.0.status
    }

    fn invalid(subject: &str, errors: &[FieldError]) -> Failure {
        let shown: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        let mut failure = Failure::new(Reason::Invalid, format!("{subject} is invalid: {}", shown.join("; ")));
        failure.0.status = failure.0.status.because(errors);
        failure
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let message = refusal.to_string();
        match refusal {
            Refusal::Malformed { errors } => Failure::invalid("the object", &errors),
            Refusal::Invalid { key, errors } => Failure::invalid(&key.to_string(), &errors).about(&key).by_kind(&key),
            Refusal::ReadOnly { key } => Failure::method("GET", message).about(&key),
            Refusal::FileOwned { key, .. } => Failure::new(Reason::Forbidden, message).about(&key),
            Refusal::Patch { key, .. } => Failure::new(Reason::Invalid, message).about(&key).by_kind(&key),
            Refusal::Terminating { key } => {
                let mut failure = Failure::new(Reason::Forbidden, message).about(&key);
                let cause = Cause {
                    reason: "NamespaceTerminating".to_owned(),
                    field: "metadata.namespace".to_owned(),
                    message: format!("the namespace {} is being deleted", key.namespace),
                };
                failure.0.status.details.get_or_insert_default().causes.push(cause);
                failure
            }
            Refusal::UnknownNamespace { key } => Failure::new(Reason::NotFound, message).about(&key),
            Refusal::Protected { key } => Failure::new(Reason::Forbidden, message).about(&key),
            Refusal::Contended { key } => Failure::retry_later(Reason::Conflict, message).about(&key),
            Refusal::ContendedCollection { .. } => Failure::retry_later(Reason::Conflict, message),
            Refusal::OtherUid { key, .. } => Failure::new(Reason::Conflict, message).about(&key),
            Refusal::Write(error) => {
                let (reason, key) = match error {
                    WriteError::Exists { key } => (Reason::AlreadyExists, Some(key)),
                    WriteError::NotFound { key } => (Reason::NotFound, Some(key)),
                    WriteError::Conflict { key, .. } => (Reason::Conflict, Some(key)),
                    WriteError::NotEmpty { .. } | WriteError::Terminating { .. } => (Reason::Conflict, None),
                    WriteError::Closed => return Failure::retry_later(Reason::ServiceUnavailable, message),
                    WriteError::Storage(_) => (Reason::InternalError, None),
                };
                let failure = Failure::new(reason, message);
                match key {
                    Some(key) => failure.about(&key),
                    None => failure,
                }
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Parts { status, allow } = *self.0;
        let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let mut response = (code, axum::Json(status)).into_response();
        let headers = response.headers_mut();
        if retry_after > 0 {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after));
        }
        if let Some(allow) = allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

const RETRY_AFTER_OVERLOAD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use weir_api::Kind;

    use super::*;
    use crate::objects::{Mode, Objects};
    use crate::store::samples::{key, namespace, service};
    use crate::store::{Location, Op, Precondition, Store};

    /// Nobody empties the namespace here, so that it stays.
    #[tokio::test]
    async fn a_namespace_that_is_being_deleted_takes_nothing_new() {
        let (store, task) = Store::open(Location::Memory).expect("a store");
        let a = key(Kind::Namespace, "", "a");
        let (key, precondition) = (a.clone(), Precondition::Any);
        let ops = vec![
            Op::Create(namespace("a")),
            Op::Create(service("a", "old", 80)),
            Op::Terminate { key, precondition },
        ];
        store.write(ops).await.expect("written");
        let objects = Objects::new(store.clone(), Arc::new(|_, _| Ok(())));
        let create = objects.create(
            Kind::Service,
            Some("a"),
            service("a", "new", 80).to_value(),
            Mode::Commit,
        );
        let status = Failure::from(create.await.expect_err("refused")).into_status();
        assert_eq!((status.code, status.reason), (403, Some(Reason::Forbidden)));
        assert_eq!(
            status.message,
            "Service/a/new: the namespace a is being deleted and takes nothing new; create it again once it is gone"
        );
        let causes = status.details.expect("details").causes;
        assert_eq!(
            causes.iter().map(|cause| cause.reason.as_str()).collect::<Vec<_>>(),
            ["NamespaceTerminating"]
        );
        // What is there may still be changed, and the mark can't be taken back.
        let old = weir_api::Key {
            namespace: "a".to_owned(),
            name: "old".to_owned(),
            kind: Kind::Service,
        };
        let changed = objects
            .replace(&old, service("a", "old", 81).to_value(), Mode::Commit)
            .await;
        assert_eq!(changed.expect("replaced").object.metadata.generation, 2);
        let replaced = objects
            .replace(&a, namespace("a").to_value(), Mode::Commit)
            .await
            .expect("replaced");
        assert!(replaced.object.metadata.deletion_timestamp.is_some());
        assert_eq!(replaced.object.status, Some(json!({"phase": "Terminating"})));
        task.stop().await.expect("no panic");
    }
}
