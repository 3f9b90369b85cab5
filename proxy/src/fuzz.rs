//! What fuzzers call (`proxy/fuzz`): parsers of the bytes that a peer sends, each with what must hold of any bytes.
//! Tests run it over the corpus there.

use bytes::BytesMut;
use http::{HeaderMap, Request};

use crate::http::h1::chunks::Decoder;
use crate::http::h1::parse::{Parsed, RequestHead, parse};
use crate::http::h1::violation::Violation;

/// A request's head: it is read the same however it comes; and what was read, written and read again, is the same.
pub fn head(bytes: &[u8]) {
    let whole = head_in_parts(&[bytes]);
    for cut in cuts(bytes) {
        let (first, second) = bytes.split_at(cut);
        let parted = head_in_parts(&[first, second]);
        assert_eq!(
            format!("{whole:?}"),
            format!("{parted:?}"),
            "cut at {cut}: {}",
            bytes.escape_ascii()
        );
    }
    if let Some(Ok((head, rest))) = whole {
        assert!(bytes.ends_with(&rest), "{}", bytes.escape_ascii());
        let written = written(&head.request);
        let again = head_in_parts(&[&written]).and_then(Result::ok).map(|(again, _)| again);
        assert_eq!(
            format!("{:?}", Some(head)),
            format!("{again:?}"),
            "{}",
            written.escape_ascii()
        );
    }
}

/// A chunked body: it is read the same however it comes; and what was read, written as one chunk, is the same.
pub fn chunks(bytes: &[u8]) {
    let whole = body_in_parts(&[bytes]);
    for cut in cuts(bytes) {
        let (first, second) = bytes.split_at(cut);
        let parted = body_in_parts(&[first, second]);
        assert_eq!(whole, parted, "cut at {cut}: {}", bytes.escape_ascii());
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(whole, body_in_parts(&single), "{}", bytes.escape_ascii());
    if let Ok(Some(Body { data, taken, .. })) = whole {
        assert!(taken <= bytes.len());
        let mut written = Vec::new();
        if !data.is_empty() {
            written.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            written.extend_from_slice(&data);
            written.extend_from_slice(b"\r\n");
        }
        written.extend_from_slice(b"0\r\n\r\n");
        let again = body_in_parts(&[&written]).ok().flatten().map(|again| again.data);
        assert_eq!(again, Some(data));
    }
}

/// Where bytes are cut in two: anywhere, if they are few.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let step = (bytes.len() / 64).max(1);
    (0..=bytes.len()).step_by(step)
}

/// What bytes that come in these parts are, and what is left after it; `None`: the begin of a head.
fn head_in_parts(parts: &[&[u8]]) -> Option<Result<(RequestHead, Vec<u8>), Violation>> {
    let mut bytes = BytesMut::new();
    let mut known = None;
    for part in parts {
        bytes.extend_from_slice(part);
        if known.is_none() {
            known = match parse(&mut bytes) {
                Parsed::Incomplete => None,
                Parsed::Head(head) => Some(Ok(head)),
                Parsed::Refused(refused) => Some(Err(refused.violation)),
            };
        }
    }
    known.map(|known| known.map(|head| (head, bytes.to_vec())))
}

fn written(request: &Request<()>) -> Vec<u8> {
    let mut text = format!("{} {} {:?}\r\n", request.method(), request.uri(), request.version()).into_bytes();
    for (name, value) in request.headers() {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}

#[derive(Debug, PartialEq)]
struct Body {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    taken: usize,
}

/// What a body that comes in these parts is; `None`: its begin.
fn body_in_parts(parts: &[&[u8]]) -> Result<Option<Body>, Violation> {
    let mut decoder = Decoder::new();
    let mut data = Vec::new();
    let mut taken = 0;
    for part in parts {
        taken += decoder.decode(part, &mut data)?;
    }
    if !decoder.is_done() {
        return Ok(None);
    }
    let trailers = decoder.take_trailers()?;
    Ok(Some(Body { data, trailers, taken }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every file of a target's corpus.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/").to_owned() + target;
        let files = std::fs::read_dir(folder).expect("the corpus");
        files
            .map(|file| std::fs::read(file.expect("a file").path()).expect("readable"))
            .collect()
    }

    #[test]
    fn the_corpus_holds() {
        let (heads, bodies) = (corpus("head"), corpus("chunks"));
        assert!(heads.len() > 10 && bodies.len() > 10);
        heads.iter().for_each(|bytes| head(bytes));
        bodies.iter().for_each(|bytes| chunks(bytes));
    }

    /// A file of the corpus, changed in some places.
    fn near(target: &str) -> impl Strategy<Value = Vec<u8>> {
        let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..4);
        (prop::sample::select(corpus(target)), changes).prop_map(|(mut bytes, changes)| {
            for (at, byte, change) in changes {
                let at = at.index(bytes.len() + 1);
                match change {
                    0 => bytes.insert(at, byte),
                    1 if at < bytes.len() => bytes[at] = byte,
                    _ if at < bytes.len() => {
                        bytes.remove(at);
                    }
                    _ => {}
                }
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn any_head_holds(bytes in prop_oneof![near("head"), proptest::collection::vec(any::<u8>(), 0..200)]) {
            head(&bytes);
        }

        #[test]
        fn any_chunks_hold(bytes in prop_oneof![near("chunks"), proptest::collection::vec(any::<u8>(), 0..200)]) {
            chunks(&bytes);
        }
    }
}
