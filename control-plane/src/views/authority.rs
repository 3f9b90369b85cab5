//! The authority over HTTP: how it stands, certificates and join tokens for people, the rotation of its root. All but
//! the status is for this host alone: whoever may ask for it could be anybody in the mesh, or shut others out.

use axum::extract::rejection::JsonRejection;
use axum::extract::{RawQuery, State};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json};
use http::Method;
use http::header::ALLOW;
use weir_api::identity::{
    AUTHORITY, AuthorityStatus, CERTIFICATES, CertificateRequest, IssuedCertificate, IssuedToken, ROTATION,
    RotationAction, RotationRequest, TOKENS, TokenRequest,
};
use weir_api::views::Reason;
use weir_policy::names::WorkloadName;

use super::{Failed, Views, failure, no_parameters, only_get};
use crate::api::server::ClientAddr;
use crate::authority::ca::rfc3339;
use crate::authority::x509::to_pem;
use crate::authority::{Refused, RotationError, csr};

/// Each view by its path.
pub(super) fn routes() -> [(&'static str, MethodRouter<Views>); 4] {
    [
        (AUTHORITY, only_get(get(status))),
        (CERTIFICATES, only_post(post(certificate))),
        (TOKENS, only_post(post(token))),
        (ROTATION, only_post(post(rotation))),
    ]
}

fn only_post(post: MethodRouter<Views>) -> MethodRouter<Views> {
    post.fallback(async |method: Method| {
        let problem = format!("{method}: use POST");
        ([(ALLOW, "POST")], failure(Reason::MethodNotAllowed, problem))
    })
}

async fn status(State(views): State<Views>, RawQuery(query): RawQuery) -> Result<Json<AuthorityStatus>, Failed> {
    no_parameters(query)?;
    Ok(Json(views.authority.status()))
}

async fn certificate(
    State(views): State<Views>,
    client: Extension<ClientAddr>,
    request: Result<Json<CertificateRequest>, JsonRejection>,
) -> Result<Json<IssuedCertificate>, Failed> {
    let CertificateRequest {
        namespace,
        account,
        csr,
        ttl,
    } = asked(client, request)?;
    let authority = &views.authority;
    let id = authority.id(&namespace, &account)?;
    let csr = csr::read(&csr).map_err(|error| failure(Reason::BadRequest, error.to_string()))?;
    let identity = id.clone();
    let issued = authority.aside(move |authority| authority.issue_to_person(&identity, &csr, ttl.as_deref()));
    let signed = issued.await?;
    tracing::info!(%id, not_after = rfc3339(signed.not_after), "certificate given by the API");
    Ok(Json(IssuedCertificate {
        spiffe_id: id.to_string(),
        chain: signed.chain.iter().map(to_pem).collect(),
        roots: authority.ca().borrow().roots().iter().map(to_pem).collect(),
        not_after: rfc3339(signed.not_after),
    }))
}

async fn token(
    State(views): State<Views>,
    client: Extension<ClientAddr>,
    request: Result<Json<TokenRequest>, JsonRejection>,
) -> Result<Json<IssuedToken>, Failed> {
    let TokenRequest {
        namespace,
        account,
        labels,
        ttl,
        uses,
    } = asked(client, request)?;
    let id = views.authority.id(&namespace, &account)?;
    let token = views.authority.token(&id, labels, &ttl, uses)?;
    tracing::info!(%id, token = token.id, uses, expires = token.expires, "join token made");
    Ok(Json(token))
}

async fn rotation(
    State(views): State<Views>,
    client: Extension<ClientAddr>,
    request: Result<Json<RotationRequest>, JsonRejection>,
) -> Result<Json<AuthorityStatus>, Failed> {
    let RotationRequest { action, despite } = asked(client, request)?;
    let despite = despite
        .into_iter()
        .map(|name| workload(&name))
        .collect::<Result<_, _>>()?;
    let authority = views.authority.clone();
    // It makes keys and writes files: not on a thread that serves others.
    let done = tokio::task::spawn_blocking(move || match action {
        RotationAction::Root => authority.rotate(despite),
        RotationAction::Intermediate => authority.renew_intermediate(),
        RotationAction::Abort => authority.abort_rotation(),
    });
    let done = done
        .await
        .map_err(|error| failure(Reason::InternalError, error.to_string()))?;
    done.map_err(Refused::from)?;
    Ok(Json(views.authority.status()))
}

fn workload(name: &str) -> Result<String, Failed> {
    let read: Result<WorkloadName, _> = name.parse();
    let shown: String = name.chars().take(128).collect();
    read.map(|name| name.to_string())
        .map_err(|error| failure(Reason::BadRequest, format!("despite {shown:?}: {}", error.problem)))
}

/// What is asked for, by somebody who may.
fn asked<T>(
    Extension(ClientAddr(client)): Extension<ClientAddr>,
    request: Result<Json<T>, JsonRejection>,
) -> Result<T, Failed> {
    // A socket of IPv6 has IPv4's addresses in a form of its own (RFC 4291 section 2.5.5.2).
    let client = client.ip().to_canonical();
    if !client.is_loopback() {
        let problem = format!(
            "the authority takes this from its own host only, and the request came from {client}: run weirctl beside weir-control"
        );
        return Err(failure(Reason::Forbidden, problem));
    }
    let Json(request) = request.map_err(|error| failure(Reason::BadRequest, error.body_text()))?;
    Ok(request)
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Failed {
        let reason = match refused {
            Refused::ControlPlane(_) => Reason::Forbidden,
            Refused::Request { .. } => Reason::BadRequest,
            Refused::Token(_) | Refused::UsedUp { .. } => Reason::Forbidden,
            Refused::Authority(_) | Refused::Store(_) | Refused::Rotation(RotationError::Files(_)) => {
                Reason::InternalError
            }
            Refused::Rotation(
                RotationError::OperatorsRoot
                | RotationError::OperatorsIntermediate
                | RotationError::Memory
                | RotationError::UnderWay(_)
                | RotationError::NotUnderWay
                | RotationError::TooLate(_),
            ) => Reason::Conflict,
        };
        failure(reason, refused.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_given_to_this_host_alone() {
        let check = |address: &str| {
            let client = ClientAddr(address.parse().expect("an address"));
            asked(Extension(client), Ok(Json(()))).map_err(|Failed(status)| status.code)
        };
        for here in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check(here), Ok(()), "{here}");
        }
        for elsewhere in [
            "10.0.0.1:1",
            "192.168.1.1:1",
            "[2001:db8::1]:1",
            "0.0.0.0:1",
            "[::ffff:10.0.0.1]:1",
        ] {
            assert_eq!(check(elsewhere), Err(403), "{elsewhere}");
        }
    }
}
