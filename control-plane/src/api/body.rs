//! Bodies: read whole, within what memory they may take together, in the formats that the API takes.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use weir_api::patch::Patch;
use weir_api::{Kind, PatchFormat};

use super::status::{Failure, Reason};
use super::{Api, json, protobuf};

/// What a body says. Its share of the memory is kept until it is dropped: what is read takes more room than its text.
pub(super) struct Said<T> {
    pub(super) value: T,
    _memory: OwnedSemaphorePermit,
}

/// Reads an object that is sent to where those of `kind` are.
///
/// # Errors
/// When the body is too large, of a media type that the kind does not come in, or no single value.
pub(super) async fn object(api: &Api, kind: Kind, headers: &HeaderMap, body: Body) -> Result<Said<Value>, Failure> {
    let read: fn(&[u8]) -> Result<Value, Failure> = match media_type_or_json(headers)?.as_str() {
        "application/json" => json_body,
        "application/yaml" => yaml_body,
        protobuf::MEDIA_TYPE if protobuf::is_taken(kind) => protobuf_body,
        held => return Err(unsupported(held, &object_formats(kind).join(", "))),
    };
    let Taken { bytes, memory } = whole(api, headers, body).await?;
    let value = read(&bytes)?;
    Ok(Said { value, _memory: memory })
}

/// The media types that objects of this kind come in.
pub(super) fn object_formats(kind: Kind) -> &'static [&'static str] {
    match protobuf::is_taken(kind) {
        true => &["application/json", "application/yaml", protobuf::MEDIA_TYPE],
        false => &["application/json", "application/yaml"],
    }
}

/// The format of a patch for an object of this kind.
///
/// # Errors
/// When the kind does not take it.
pub(super) fn patch_format(kind: Kind, headers: &HeaderMap) -> Result<PatchFormat, Failure> {
    let held = media_type(headers)?;
    let formats = kind.patch_formats();
    let found = formats.iter().find(|format| format.media_type() == held);
    found.copied().ok_or_else(|| {
        let taken: Vec<&str> = formats.iter().map(|format| format.media_type()).collect();
        let taken = taken.join(", ");
        match held.as_str() {
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => unsupported(
                "server-side apply",
                &format!("{taken}; kubectl apply sends one of these without --server-side"),
            ),
            held => unsupported(held, &taken),
        }
    })
}

/// Reads a patch.
///
/// # Errors
/// When the body is too large, or no patch.
pub(super) async fn patch(
    api: &Api,
    format: PatchFormat,
    headers: &HeaderMap,
    body: Body,
) -> Result<Said<Patch>, Failure> {
    let Taken { bytes, memory } = whole(api, headers, body).await?;
    let value = json_body(&bytes)?;
    let value =
        Patch::read(format, value).map_err(|error| Failure::new(Reason::BadRequest, format!("the body: {error}")))?;
    Ok(Said { value, _memory: memory })
}

/// Reads the options of a request; `None`: the body is empty.
///
/// # Errors
/// As for [`object`].
pub(super) async fn options(api: &Api, headers: &HeaderMap, body: Body) -> Result<Option<Value>, Failure> {
    let Taken { bytes, memory: _memory } = whole(api, headers, body).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    match media_type_or_json(headers)?.as_str() {
        "application/json" => json_body(&bytes).map(Some),
        protobuf::MEDIA_TYPE => protobuf_body(&bytes).map(Some),
        held => Err(unsupported(
            held,
            &format!("application/json, {}", protobuf::MEDIA_TYPE),
        )),
    }
}

fn json_body(body: &[u8]) -> Result<Value, Failure> {
    json::read(body).map_err(|error| Failure::new(Reason::BadRequest, format!("the body is no JSON: {error}")))
}

fn protobuf_body(body: &[u8]) -> Result<Value, Failure> {
    protobuf::read(body).map_err(|error| {
        Failure::new(
            Reason::BadRequest,
            format!("the body can't be read as protobuf: {error}"),
        )
    })
}

fn yaml_body(body: &[u8]) -> Result<Value, Failure> {
    let wrong = |problem: String| Failure::new(Reason::BadRequest, problem);
    let text = std::str::from_utf8(body).map_err(|error| wrong(format!("the body is not UTF-8: {error}")))?;
    let mut documents = weir_api::yaml::read(text, "body").map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        wrong(errors.join("; "))
    })?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document.value),
        (Some(_), false) => Err(wrong(
            "the body holds several documents; send them one by one".to_owned(),
        )),
        (None, _) => Err(wrong("the body is empty".to_owned())),
    }
}

/// The media type of a body that is an object or options. As in Kubernetes it is JSON where nothing is said: some
/// clients say nothing. Not so a request that a browser's page makes to another origin than its own: without a type it
/// goes out unasked, and it carries `Origin` (Fetch, "CORS-safelisted request-header").
fn media_type_or_json(headers: &HeaderMap) -> Result<String, Failure> {
    let held = media_type(headers)?;
    if held.is_empty() && !headers.contains_key(ORIGIN) {
        return Ok("application/json".to_owned());
    }
    Ok(held)
}

/// The body's media type in lower case, without parameters (RFC 9110 section 8.3.1), which change nothing: all that is
/// taken is UTF-8.
fn media_type(headers: &HeaderMap) -> Result<String, Failure> {
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Failure::new(
            Reason::UnsupportedMediaType,
            "bodies are not taken with a Content-Encoding",
        ));
    }
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|given| given.to_str().ok())
        .unwrap_or_default();
    Ok(given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn unsupported(held: &str, taken: &str) -> Failure {
    let held = if held.is_empty() {
        "a body without Content-Type"
    } else {
        held
    };
    Failure::new(
        Reason::UnsupportedMediaType,
        format!("{held} is not taken here; taken: {taken}"),
    )
}

/// A body, and its share of the memory that bodies may take together.
struct Taken {
    bytes: Bytes,
    memory: OwnedSemaphorePermit,
}

async fn whole(api: &Api, headers: &HeaderMap, body: Body) -> Result<Taken, Failure> {
    let max = api.limits.body_bytes_max;
    let too_large = || {
        let message = format!("the body is larger than {max} bytes");
        Failure::new(Reason::RequestEntityTooLarge, message)
    };
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    // One that is not announced may become as large as any.
    let length = announced.map_or(max, |length| usize::try_from(length).unwrap_or(usize::MAX));
    if length > max {
        return Err(too_large());
    }
    let kibibytes = u32::try_from(length.div_ceil(KIBIBYTE)).map_err(|_| too_large())?;
    let memory = Arc::clone(&api.bodies).try_acquire_many_owned(kibibytes).map_err(|_| {
        let message = "too many large requests at once; try again";
        Failure::retry_later(Reason::ServiceUnavailable, message)
    })?;
    let bytes = to_bytes(body, max).await.map_err(|error| {
        let length_limit = std::error::Error::source(&error).is_some_and(|cause| cause.is::<LengthLimitError>());
        if length_limit {
            too_large()
        } else {
            Failure::new(Reason::BadRequest, format!("the body did not come in whole: {error}"))
        }
    })?;
    Ok(Taken { bytes, memory })
}

type LengthLimitError = http_body_util::LengthLimitError;

pub(super) const KIBIBYTE: usize = 1024;
