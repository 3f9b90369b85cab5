//! Faults that are injected on purpose: which of them a request meets, drawn by chance that is passed in.

use std::time::Duration;

use http::StatusCode;

use crate::model::{AbortAnswer, Fault};
use crate::split::draws;

/// What a request meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// It waits so long first.
    pub delay: Option<Duration>,
    /// It is answered with this instead of being sent.
    pub abort: Option<AbortAnswer>,
}

/// Draws what a request meets: whether it waits and whether it is answered are drawn apart from each other. `random`:
/// two numbers, each uniform over all of `u64`.
pub fn injected(fault: &Fault, random: [u64; 2]) -> Injected {
    let [for_delay, for_abort] = random;
    let delay = fault.delay.filter(|delay| draws(delay.parts_per_million, for_delay));
    let abort = fault.abort.filter(|abort| draws(abort.parts_per_million, for_abort));
    Injected {
        delay: delay.map(|delay| delay.duration),
        abort: abort.map(|abort| abort.answer),
    }
}

impl AbortAnswer {
    /// The status of the answer to a caller that does not speak gRPC. Where a gRPC status is given, the HTTP status
    /// that the Google API's mapping has for it (google.rpc.Code).
    pub fn status(self) -> StatusCode {
        match self {
            AbortAnswer::Http(status) => status,
            AbortAnswer::Grpc(code) => match code {
                0 => StatusCode::OK,
                3 | 9 | 11 => StatusCode::BAD_REQUEST,
                4 => StatusCode::GATEWAY_TIMEOUT,
                5 => StatusCode::NOT_FOUND,
                6 | 10 => StatusCode::CONFLICT,
                7 => StatusCode::FORBIDDEN,
                8 => StatusCode::TOO_MANY_REQUESTS,
                12 => StatusCode::NOT_IMPLEMENTED,
                14 => StatusCode::SERVICE_UNAVAILABLE,
                16 => StatusCode::UNAUTHORIZED,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// The status that a gRPC caller gets. Where an HTTP status is given, the one that its client would make of it
    /// (gRPC, http-grpc-status-mapping.md).
    pub fn grpc_status(self) -> u32 {
        match self {
            AbortAnswer::Grpc(code) => code,
            AbortAnswer::Http(status) => match status.as_u16() {
                400 => 13,
                401 => 16,
                403 => 7,
                404 => 12,
                429 | 502 | 503 | 504 => 14,
                _ => 2,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{FaultAbort, FaultDelay};

    const SECOND: Duration = Duration::from_secs(1);
    const ANSWER: AbortAnswer = AbortAnswer::Grpc(14);

    fn fault(delay: Option<u32>, abort: Option<u32>) -> Fault {
        Fault {
            delay: delay.map(|parts_per_million| FaultDelay {
                parts_per_million,
                duration: SECOND,
            }),
            abort: abort.map(|parts_per_million| FaultAbort {
                parts_per_million,
                answer: ANSWER,
            }),
        }
    }

    #[test]
    fn each_is_drawn_by_a_number_of_its_own() {
        let half = Some(500_000);
        let (below, above) = (u64::MAX / 2, u64::MAX / 2 + 1);
        for (given, random, expect) in [
            (fault(None, None), [0, 0], (None, None)),
            (fault(Some(0), Some(0)), [0, 0], (None, None)),
            (
                fault(Some(1_000_000), Some(1_000_000)),
                [u64::MAX, u64::MAX],
                (Some(SECOND), Some(ANSWER)),
            ),
            (fault(half, None), [below, below], (Some(SECOND), None)),
            (fault(half, None), [above, below], (None, None)),
            (fault(half, half), [above, below], (None, Some(ANSWER))),
            (fault(half, half), [below, above], (Some(SECOND), None)),
            (fault(half, half), [below, below], (Some(SECOND), Some(ANSWER))),
        ] {
            let met = injected(&given, random);
            assert_eq!((met.delay, met.abort), expect, "{given:?} {random:?}");
        }
    }

    #[test]
    fn a_caller_of_the_other_kind_gets_what_the_status_means_to_it() {
        for (grpc, http) in [(4, 504), (5, 404), (8, 429), (13, 500), (14, 503), (16, 401), (2, 500)] {
            let answer = AbortAnswer::Grpc(grpc);
            assert_eq!((answer.status().as_u16(), answer.grpc_status()), (http, grpc));
        }
        for (http, grpc) in [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (503, 14),
            (500, 2),
            (418, 2),
        ] {
            let answer = AbortAnswer::Http(StatusCode::from_u16(http).expect("a status"));
            assert_eq!((answer.status().as_u16(), answer.grpc_status()), (http, grpc));
        }
    }

    proptest! {
        #[test]
        fn so_many_in_a_million_meet_it(parts in 0..=1_000_000_u32, random: [u64; 2]) {
            let met = injected(&fault(Some(parts), Some(parts)), random);
            let share = |random: u64| (u128::from(random) * 1_000_000) >> 64 < u128::from(parts);
            prop_assert_eq!((met.delay.is_some(), met.abort.is_some()), (share(random[0]), share(random[1])));
        }
    }
}
