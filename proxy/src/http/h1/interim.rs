//! Interim answers of an upstream (RFC 9110 section 15.2) on their way to the downstream: hyper tells of them by a call
//! from the upstream's connection, and the downstream's writes them when it has its turn.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use http::{HeaderMap, Request, StatusCode};

use crate::http::head::{strip_hop_by_hop, strip_own};

/// How many wait at once for one request. What is more is left out, as a proxy may (RFC 9110 section 15.2 has them as
/// hints but for 100 and 101): who says so much before it answers is not to fill our memory.
const WAITING_MAX: usize = 8;

/// Those of the request under way.
#[derive(Clone, Default)]
pub(crate) struct Interims(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    heads: VecDeque<(StatusCode, HeaderMap)>,
    downstream: Option<Waker>,
}

impl Interims {
    /// Has them heard of while this request is sent on by HTTP/1.1.
    pub(crate) fn hear<B>(&self, request: &mut Request<B>) {
        let interims = self.clone();
        hyper::ext::on_informational(request, move |interim| {
            interims.push(interim.status(), interim.headers());
        });
    }

    fn push(&self, status: StatusCode, headers: &HeaderMap) {
        // 100 is said here as soon as the body is wanted, and 101 is an answer.
        if matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
            return;
        }
        let mut headers = headers.clone();
        strip_hop_by_hop(&mut headers);
        strip_own(&mut headers);
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.heads.len() < WAITING_MAX {
            waiting.heads.push_back((status, headers));
        }
        if let Some(downstream) = waiting.downstream.take() {
            downstream.wake();
        }
    }

    /// The next one; the task is woken when there is another.
    pub(super) fn next(&self, cx: &Context<'_>) -> Option<(StatusCode, HeaderMap)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = waiting.heads.pop_front();
        if next.is_none() {
            waiting.downstream = Some(cx.waker().clone());
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn hints_wait_in_order_and_are_bounded() {
        let interims = Interims::default();
        let cx = Context::from_waker(Waker::noop());
        assert!(interims.next(&cx).is_none());
        let mut headers = HeaderMap::new();
        headers.insert("link", http::HeaderValue::from_static("</a.css>"));
        headers.insert("connection", http::HeaderValue::from_static("x-mine"));
        headers.insert("x-mine", http::HeaderValue::from_static("1"));
        headers.insert("weir-verdict", http::HeaderValue::from_static("1"));
        for status in [100, 101, 103] {
            interims.push(StatusCode::from_u16(status).expect("a status"), &headers);
        }
        let (status, headers) = interims.next(&cx).expect("one");
        assert_eq!(status, StatusCode::EARLY_HINTS);
        assert_eq!(
            (headers.len(), &headers["link"]),
            (1, &http::HeaderValue::from_static("</a.css>"))
        );
        assert!(interims.next(&cx).is_none());
        for number in 0..2 * WAITING_MAX {
            interims.push(
                StatusCode::from_u16(110 + number as u16).expect("a status"),
                &HeaderMap::new(),
            );
        }
        let kept: Vec<u16> = std::iter::from_fn(|| interims.next(&cx))
            .map(|(status, _)| status.as_u16())
            .collect();
        assert_eq!(kept, (110..110 + WAITING_MAX as u16).collect::<Vec<_>>());
    }
}
