//! Answers that say no, as Kubernetes' `Status` objects: what `kubectl` and `weirctl` read.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use weir_api::{FieldError, Key};

use super::path::Subject;
use crate::objects::Refusal;
use crate::store::WriteError;

/// Why a request was not done, in Kubernetes' words (`metav1.StatusReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Timeout,
    AlreadyExists,
    Conflict,
    Expired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
}

impl Reason {
    fn code(self) -> StatusCode {
        match self {
            Reason::BadRequest => StatusCode::BAD_REQUEST,
            Reason::Forbidden => StatusCode::FORBIDDEN,
            Reason::NotFound => StatusCode::NOT_FOUND,
            Reason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Reason::Timeout => StatusCode::REQUEST_TIMEOUT,
            Reason::AlreadyExists | Reason::Conflict => StatusCode::CONFLICT,
            Reason::Expired => StatusCode::GONE,
            Reason::RequestEntityTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Reason::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Reason::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Reason::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Reason::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Reason::BadRequest => "BadRequest",
            Reason::Forbidden => "Forbidden",
            Reason::NotFound => "NotFound",
            Reason::MethodNotAllowed => "MethodNotAllowed",
            Reason::Timeout => "Timeout",
            Reason::AlreadyExists => "AlreadyExists",
            Reason::Conflict => "Conflict",
            Reason::Expired => "Expired",
            Reason::RequestEntityTooLarge => "RequestEntityTooLarge",
            Reason::UnsupportedMediaType => "UnsupportedMediaType",
            Reason::Invalid => "Invalid",
            Reason::TooManyRequests => "TooManyRequests",
            Reason::InternalError => "InternalError",
            Reason::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// One field that was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cause {
    field: String,
    message: String,
}

/// An answer that says no.
#[derive(Clone, Debug)]
pub(crate) struct Failure(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    reason: Reason,
    message: String,
    subject: Option<Subject>,
    causes: Vec<Cause>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
}

impl Failure {
    /// `message` says what was wrong and what would be right.
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Failure {
        Failure(Box::new(Parts {
            reason,
            message: message.into(),
            subject: None,
            causes: Vec::new(),
            retry_after: None,
            allow: None,
        }))
    }

    /// A request that may succeed later, unchanged.
    pub(crate) fn retry_later(reason: Reason, message: impl Into<String>) -> Failure {
        let mut failure = Failure::new(reason, message);
        failure.0.retry_after = Some(RETRY_AFTER_OVERLOAD);
        failure
    }

    /// A method that this place doesn't know; `allow` lists those it does (RFC 9110 section 10.2.1).
    pub(crate) fn method(allow: &'static str, message: impl Into<String>) -> Failure {
        let mut failure = Failure::new(Reason::MethodNotAllowed, message);
        failure.0.allow = Some(allow);
        failure
    }

    /// Says which object it is about.
    pub(crate) fn about(mut self, key: &Key) -> Failure {
        self.0.subject = Some(Subject::of(key));
        self
    }

    /// The `Status` object.
    pub(crate) fn to_value(&self) -> Value {
        let parts = &self.0;
        let mut details = serde_json::Map::new();
        if let Some(subject) = &parts.subject {
            details.insert("group".to_owned(), subject.group.into());
            details.insert("kind".to_owned(), subject.plural.into());
            details.insert("name".to_owned(), subject.name.clone().into());
        }
        if !parts.causes.is_empty() {
            let cause =
                |cause: &Cause| json!({"reason": "FieldValueInvalid", "field": cause.field, "message": cause.message});
            details.insert("causes".to_owned(), parts.causes.iter().map(cause).collect());
        }
        if let Some(after) = parts.retry_after {
            details.insert("retryAfterSeconds".to_owned(), after.as_secs().into());
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": parts.message,
            "reason": parts.reason.name(),
            "code": parts.reason.code().as_u16(),
        });
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }

    fn invalid(subject: &str, errors: &[FieldError]) -> Failure {
        let shown: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        let cause = |error: &FieldError| Cause {
            field: error.path.clone(),
            message: error.message(),
        };
        let mut failure = Failure::new(Reason::Invalid, format!("{subject} is invalid: {}", shown.join("; ")));
        failure.0.causes = errors.iter().map(cause).collect();
        failure
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let message = refusal.to_string();
        match refusal {
            Refusal::Malformed { errors } => Failure::invalid("the object", &errors),
            Refusal::Invalid { key, errors } => Failure::invalid(&key.to_string(), &errors).about(&key),
            Refusal::ReadOnly { key } => Failure::method("GET", message).about(&key),
            Refusal::FileOwned { key, .. } => Failure::new(Reason::Forbidden, message).about(&key),
            Refusal::UnknownNamespace { key } => Failure::new(Reason::NotFound, message).about(&key),
            Refusal::Protected { key } => Failure::new(Reason::Forbidden, message).about(&key),
            Refusal::Contended { key } => Failure::retry_later(Reason::Conflict, message).about(&key),
            Refusal::OtherUid { key, .. } => Failure::new(Reason::Conflict, message).about(&key),
            Refusal::Write(error) => {
                let (reason, key) = match error {
                    WriteError::Exists { key } => (Reason::AlreadyExists, Some(key)),
                    WriteError::NotFound { key } => (Reason::NotFound, Some(key)),
                    WriteError::Conflict { key, .. } => (Reason::Conflict, Some(key)),
                    WriteError::NotEmpty { .. } => (Reason::Conflict, None),
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
        let mut response = (self.0.reason.code(), self.to_value().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.0.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        if let Some(allow) = self.0.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

const RETRY_AFTER_OVERLOAD: Duration = Duration::from_secs(1);
