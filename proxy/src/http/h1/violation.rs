//! What a peer may not send on an HTTP/1 connection. One closed value, of which the answer's status and text, the
//! metric's label and the log line are made.

use http::{Method, StatusCode, Uri};

/// The rule or limit that a message broke. Whatever could be read in two ways is refused, never repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[repr(u8)]
pub(crate) enum Violation {
    /// RFC 9112 section 3.
    #[error("its first line is not METHOD, TARGET and VERSION, one space apart (RFC 9112 section 3)")]
    RequestLine,
    /// RFC 9110 section 9.1.
    #[error("its method is no token (RFC 9110 section 9.1)")]
    Method,
    /// RFC 9112 section 3.2.
    #[error("its target has none of the forms of RFC 9112 section 3.2")]
    Target,
    /// [`super::parse::TARGET_BYTES_MAX`].
    #[error("its target is longer than 32768 bytes")]
    TargetLength,
    /// RFC 9112 section 2.3.
    #[error("its version is neither 1.1 nor 1.0 (RFC 9112 section 2.3)")]
    Version,
    /// RFC 9112 section 2.2.
    #[error("a line of its head does not end with CR LF (RFC 9112 section 2.2)")]
    LineEnd,
    /// RFC 9112 section 5.
    #[error("a line of its head is no field: it has no colon (RFC 9112 section 5)")]
    FieldLine,
    /// RFC 9112 section 5.1.
    #[error("there is a blank between a field's name and its colon (RFC 9112 section 5.1)")]
    BlankBeforeColon,
    /// RFC 9112 section 5.2.
    #[error("a field goes on in a second line (obs-fold, RFC 9112 section 5.2)")]
    FoldedLine,
    /// RFC 9110 section 5.1.
    #[error("a field's name is no token (RFC 9110 section 5.1)")]
    FieldName,
    /// RFC 9110 section 5.5.
    #[error("a field's value holds NUL, CR or another control character (RFC 9110 section 5.5)")]
    FieldValue,
    /// [`super::parse::HEAD_FIELDS_MAX`].
    #[error("its head has more than 100 fields")]
    FieldCount,
    /// [`crate::http::upstream::HEAD_BYTES_MAX`].
    #[error("its head is longer than 65536 bytes")]
    HeadLength,
    /// RFC 9112 section 3.2.
    #[error("it does not have exactly one Host (RFC 9112 section 3.2)")]
    Host,
    /// RFC 9112 section 6.3.
    #[error("its Content-Length is not one decimal number (RFC 9112 section 6.3)")]
    ContentLength,
    /// RFC 9112 section 6.3.
    #[error("it has Content-Length and Transfer-Encoding (RFC 9112 section 6.3)")]
    LengthAndCoding,
    /// RFC 9112 sections 6.1 and 6.3.
    #[error("chunked is not the last of its transfer codings, or not once (RFC 9112 section 6.3)")]
    TransferCoding,
    /// RFC 9112 section 6.1.
    #[error("it has a transfer coding other than chunked (RFC 9112 section 6.1)")]
    UnknownCoding,
    /// RFC 9112 section 6.1.
    #[error("it is HTTP/1.0 and has Transfer-Encoding (RFC 9112 section 6.1)")]
    CodingInHttp10,
    /// RFC 9110 section 10.1.1.
    #[error("it expects something other than 100-continue (RFC 9110 section 10.1.1)")]
    Expectation,
    /// RFC 9112 section 7.1.
    #[error("a chunk's size is no hexadecimal number below 2^64 (RFC 9112 section 7.1)")]
    ChunkSize,
    /// RFC 9112 section 7.1.1.
    #[error("a chunk's extension is malformed, or they are longer than 4096 bytes in all (RFC 9112 section 7.1.1)")]
    ChunkExtension,
    /// RFC 9112 section 7.1.
    #[error("a chunk's line or data does not end with CR LF where it should (RFC 9112 section 7.1)")]
    ChunkEnd,
    /// RFC 9112 section 7.1.2.
    #[error("its trailers are malformed (RFC 9112 section 7.1.2)")]
    Trailers,
    /// [`super::chunks::TRAILER_BYTES_MAX`].
    #[error("its trailers are longer than 8192 bytes")]
    TrailersLength,
    /// [`super::HEAD_TIMEOUT`].
    #[error("its head took longer than 75 s")]
    HeadTime,
    /// [`super::body::WAIT_MAX`].
    #[error("its body came too slowly: nothing for 60 s, or in all less than a byte a second")]
    BodyTime,
    /// RFC 8446 section 5.1.
    #[error("it begins with a TLS handshake, and what is within that no sidecar can read")]
    Tls,
}

impl Violation {
    /// Every one, each at the place of its number.
    pub(crate) const ALL: [Violation; 28] = [
        Violation::RequestLine,
        Violation::Method,
        Violation::Target,
        Violation::TargetLength,
        Violation::Version,
        Violation::LineEnd,
        Violation::FieldLine,
        Violation::BlankBeforeColon,
        Violation::FoldedLine,
        Violation::FieldName,
        Violation::FieldValue,
        Violation::FieldCount,
        Violation::HeadLength,
        Violation::Host,
        Violation::ContentLength,
        Violation::LengthAndCoding,
        Violation::TransferCoding,
        Violation::UnknownCoding,
        Violation::CodingInHttp10,
        Violation::Expectation,
        Violation::ChunkSize,
        Violation::ChunkExtension,
        Violation::ChunkEnd,
        Violation::Trailers,
        Violation::TrailersLength,
        Violation::HeadTime,
        Violation::BodyTime,
        Violation::Tls,
    ];

    /// As in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Violation::RequestLine => "request_line",
            Violation::Method => "method",
            Violation::Target => "target",
            Violation::TargetLength => "target_length",
            Violation::Version => "version",
            Violation::LineEnd => "line_end",
            Violation::FieldLine => "field_line",
            Violation::BlankBeforeColon => "blank_before_colon",
            Violation::FoldedLine => "folded_line",
            Violation::FieldName => "field_name",
            Violation::FieldValue => "field_value",
            Violation::FieldCount => "field_count",
            Violation::HeadLength => "head_length",
            Violation::Host => "host",
            Violation::ContentLength => "content_length",
            Violation::LengthAndCoding => "length_and_coding",
            Violation::TransferCoding => "transfer_coding",
            Violation::UnknownCoding => "unknown_coding",
            Violation::CodingInHttp10 => "coding_in_http10",
            Violation::Expectation => "expectation",
            Violation::ChunkSize => "chunk_size",
            Violation::ChunkExtension => "chunk_extension",
            Violation::ChunkEnd => "chunk_end",
            Violation::Trailers => "trailers",
            Violation::TrailersLength => "trailers_length",
            Violation::HeadTime => "head_time",
            Violation::BodyTime => "body_time",
            Violation::Tls => "tls",
        }
    }

    /// The status of the answer.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Violation::TargetLength => StatusCode::URI_TOO_LONG,
            Violation::FieldCount | Violation::HeadLength | Violation::TrailersLength => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Violation::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Violation::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Violation::Expectation => StatusCode::EXPECTATION_FAILED,
            Violation::HeadTime | Violation::BodyTime => StatusCode::REQUEST_TIMEOUT,
            Violation::RequestLine
            | Violation::Method
            | Violation::Target
            | Violation::LineEnd
            | Violation::FieldLine
            | Violation::BlankBeforeColon
            | Violation::FoldedLine
            | Violation::FieldName
            | Violation::FieldValue
            | Violation::Host
            | Violation::ContentLength
            | Violation::LengthAndCoding
            | Violation::TransferCoding
            | Violation::CodingInHttp10
            | Violation::ChunkSize
            | Violation::ChunkExtension
            | Violation::ChunkEnd
            | Violation::Trailers
            | Violation::Tls => StatusCode::BAD_REQUEST,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Violation::TargetLength
            | Violation::FieldCount
            | Violation::HeadLength
            | Violation::TrailersLength
            | Violation::ChunkExtension => "send less beside the body",
            Violation::HeadTime | Violation::BodyTime => "send it faster",
            Violation::Version => "speak version 1.1, or HTTP/2",
            Violation::Tls => "call it by http: sidecars encrypt what is between them",
            Violation::Expectation => "expect 100-continue or nothing",
            Violation::Host => "send one Host",
            Violation::ContentLength
            | Violation::LengthAndCoding
            | Violation::TransferCoding
            | Violation::UnknownCoding
            | Violation::CodingInHttp10 => "frame the body by one Content-Length or by Transfer-Encoding: chunked",
            Violation::RequestLine
            | Violation::Method
            | Violation::Target
            | Violation::LineEnd
            | Violation::FieldLine
            | Violation::BlankBeforeColon
            | Violation::FoldedLine
            | Violation::FieldName
            | Violation::FieldValue
            | Violation::ChunkSize
            | Violation::ChunkEnd
            | Violation::Trailers => "write the message as RFC 9112 has it",
        }
    }
}

/// A head that is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Why.
    pub(crate) violation: Violation,
    /// Its first line, if that could be read.
    pub(crate) line: Option<(Method, Uri)>,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_has_a_place_a_label_and_a_status_of_refusal() {
        for (place, violation) in Violation::ALL.into_iter().enumerate() {
            assert_eq!(violation as usize, place, "{violation:?}");
            assert!(violation.status().as_u16() >= 400, "{violation:?}");
        }
        let labels: HashSet<_> = Violation::ALL.into_iter().map(Violation::as_str).collect();
        assert_eq!(labels.len(), Violation::ALL.len());
    }

    #[test]
    fn texts_name_the_limits_in_force() {
        use crate::http::h1::{HEAD_TIMEOUT, body, chunks, parse};
        use crate::http::upstream::HEAD_BYTES_MAX;
        for (violation, limit) in [
            (Violation::TargetLength, parse::TARGET_BYTES_MAX.to_string()),
            (Violation::FieldCount, parse::HEAD_FIELDS_MAX.to_string()),
            (Violation::HeadLength, HEAD_BYTES_MAX.to_string()),
            (Violation::ChunkExtension, chunks::EXTENSION_BYTES_MAX.to_string()),
            (Violation::TrailersLength, chunks::TRAILER_BYTES_MAX.to_string()),
            (Violation::HeadTime, format!("{HEAD_TIMEOUT:?}").replace('s', " s")),
            (Violation::BodyTime, format!("{:?}", body::WAIT_MAX).replace('s', " s")),
        ] {
            assert!(violation.to_string().contains(&limit), "{violation}: {limit}");
        }
    }
}
