//! One attempt: a connection, the request on it, the answer's head, or what went wrong as an error value.

use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use weir_policy::retry::Sent;

use crate::error::ProxyError;
use crate::http::body::RequestBody;
use crate::http::upstream::{ConnectError, End, Lease, Target, Upstreams};
use crate::record::AttemptOutcome;
use crate::tls::{Security, With};

/// An attempt without an answer.
#[derive(Debug)]
pub(crate) struct Failed {
    /// What to tell, if it is the last.
    pub(crate) error: ProxyError,
    /// Whether the peer may have seen the request.
    pub(crate) sent: Sent,
}

/// Connects and sends.
///
/// # Cancel safety
/// As [`Upstreams::lease`] and [`Lease::send`].
pub(crate) async fn send(
    upstreams: &Upstreams,
    target: &Target<'_>,
    cluster: &str,
    request: impl FnOnce() -> Request<RequestBody>,
) -> Result<(Response<Incoming>, Lease), Failed> {
    let mut lease = match upstreams.lease(target).await {
        Ok(lease) => lease,
        Err(error) => {
            return Err(Failed {
                error: not_connected(error, target, cluster),
                sent: Sent::No,
            });
        }
    };
    match lease.send(request()).await {
        Ok(response) => Ok((response, lease)),
        Err(failed) => {
            let (endpoint, detail) = (target.address, failed.detail);
            let error = match (failed.end, failed.sent) {
                (End::NotHttp, _) => ProxyError::Protocol { endpoint, detail },
                (End::Closed, Sent::No | Sent::Refused) => ProxyError::Unprocessed { endpoint, detail },
                (End::Closed, Sent::Maybe { .. } | Sent::Answered(_) | Sent::TimedOut) => {
                    ProxyError::Reset { endpoint, detail }
                }
            };
            Err(Failed {
                error,
                sent: failed.sent,
            })
        }
    }
}

/// An attempt that took longer than it may.
pub(crate) fn timed_out(target: &Target<'_>, limit: Duration) -> Failed {
    Failed {
        error: ProxyError::AttemptTimeout {
            endpoint: target.address,
            limit,
        },
        sent: Sent::TimedOut,
    }
}

impl Failed {
    /// For the record.
    pub(crate) fn outcome(&self) -> AttemptOutcome {
        match (&self.error, self.sent) {
            (
                ProxyError::Connect { .. }
                | ProxyError::ConnectTimeout { .. }
                | ProxyError::Tls { .. }
                | ProxyError::Refused { .. },
                _,
            ) => AttemptOutcome::ConnectFailed,
            (_, Sent::No | Sent::Refused) => AttemptOutcome::Unprocessed,
            (_, Sent::TimedOut) => AttemptOutcome::TimedOut,
            (_, Sent::Maybe { .. } | Sent::Answered(_)) => AttemptOutcome::Reset,
        }
    }
}

fn not_connected(error: ConnectError, target: &Target<'_>, cluster: &str) -> ProxyError {
    let endpoint = target.address;
    match error {
        ConnectError::Refused(refusal) => ProxyError::Refused {
            cluster: cluster.to_owned(),
            refusal,
        },
        ConnectError::TimedOut => ProxyError::ConnectTimeout {
            endpoint,
            limit: target.connect_timeout,
        },
        ConnectError::Tls(failure, detail) => ProxyError::Tls {
            endpoint,
            with: match target.security {
                Security::Backend(_) => With::Backend,
                Security::Cleartext | Security::Mutual(_) => With::Mesh,
            },
            failure,
            detail,
        },
        ConnectError::Failed(kind, text) => ProxyError::Connect {
            endpoint,
            source: std::io::Error::new(kind, text),
        },
    }
}
