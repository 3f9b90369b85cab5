//! Istio's certificate service: whoever has a join token, or a certificate that is still good, gets the next one.

use std::time::{Duration, SystemTime};

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use weir_xds::istio::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use weir_xds::istio::{IstioCertificateRequest, IstioCertificateResponse};

use super::peer::Peer;
use crate::authority::ca::rfc3339;
use crate::authority::csr;
use crate::authority::tokens::Grant;
use crate::authority::x509::{Identity, to_pem};
use crate::authority::{Authority, Refused};

/// The service over an authority.
#[derive(Clone, Debug)]
pub(crate) struct Certificates(pub(crate) Authority);

impl Certificates {
    /// The gRPC service.
    pub(crate) fn service(self) -> IstioCertificateServiceServer<Certificates> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Who asks: by a token where there is one, else by the connection's certificate. Never by what the request says.
    fn who(&self, metadata: &MetadataMap, peer: Option<&Peer>) -> Result<Who, Status> {
        if let Some(token) = bearer(metadata)? {
            return self.0.read_token(token).map(Who::Joins).map_err(status);
        }
        let identity = peer.and_then(|peer| peer.identity(SystemTime::now()));
        let identity = identity.ok_or_else(|| Status::unauthenticated(NOBODY))?;
        Ok(Who::Known(identity.clone()))
    }
}

/// Whether an answer has what leads from roots of the past to the one of now: a token may know no other.
enum Bridges {
    Yes,
    No,
}

/// Who asks.
enum Who {
    /// The bearer of a token, of which no use is counted yet.
    Joins(Grant),
    Known(Identity),
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let IstioCertificateRequest {
            csr,
            validity_duration,
            metadata: more,
        } = request;
        if let Some(name) = more.and_then(|more| more.fields.into_keys().min()) {
            let shown: String = name.chars().take(64).collect();
            return Err(Status::invalid_argument(format!(
                "metadata.{shown} is not known here; none is right"
            )));
        }
        let ttl = match u64::try_from(validity_duration) {
            Ok(0) => None,
            Ok(seconds @ VALIDITY_SECONDS_MIN..) => Some(Duration::from_secs(seconds)),
            Ok(_) | Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "validity_duration is {validity_duration}; {VALIDITY_SECONDS_MIN} seconds or more are right, or 0 for \
                     as long as may be"
                )));
            }
        };
        // A csr is work: only for those who may ask. A use is counted last: what is wrong costs none.
        let who = self.who(&metadata, extensions.get::<Peer>())?;
        let csr = csr::read(&csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (Identity { id, labels }, bridges) = match who {
            Who::Known(identity) => (identity, Bridges::No),
            Who::Joins(grant) => {
                self.0.use_token(&grant, &csr).await.map_err(status)?;
                tracing::info!(id = %grant.id, token = grant.claims.jti, "joins by a token");
                let identity = Identity {
                    id: grant.id,
                    labels: grant.claims.labels,
                };
                (identity, Bridges::Yes)
            }
        };
        let identity = id.clone();
        let issued = self
            .0
            .aside(move |authority| authority.issue(&identity, &labels, &csr, ttl));
        let signed = issued.await.map_err(status)?;
        tracing::info!(%id, not_after = rfc3339(signed.not_after), "certificate given");
        let ca = self.0.ca().borrow().clone();
        let bridges = match bridges {
            Bridges::Yes => ca.bridges(),
            Bridges::No => &[],
        };
        let cert_chain = signed
            .chain
            .iter()
            .chain(ca.roots())
            .chain(bridges)
            .map(to_pem)
            .collect();
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// The token of the `authorization` entry (RFC 6750 section 2.1).
fn bearer(metadata: &MetadataMap) -> Result<Option<&str>, Status> {
    let mut given = metadata.get_all("authorization").iter();
    let (Some(one), None) = (given.next(), given.next()) else {
        return if metadata.contains_key("authorization") {
            Err(Status::unauthenticated("authorization is given more than once"))
        } else {
            Ok(None)
        };
    };
    let text = one.to_str().ok();
    let token = text
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let (_, token) = token.ok_or_else(|| Status::unauthenticated("authorization is not of the form: Bearer TOKEN"))?;
    Ok(Some(token.trim()))
}

fn status(refused: Refused) -> Status {
    let text = refused.to_string();
    match refused {
        Refused::Token(_) | Refused::UsedUp { .. } => Status::unauthenticated(text),
        Refused::ControlPlane(_) => Status::permission_denied(text),
        Refused::Request { .. } => Status::invalid_argument(text),
        Refused::Authority(_) | Refused::Store(_) | Refused::Rotation(_) => Status::unavailable(text),
    }
}

const NOBODY: &str = "who asks for a certificate shows a join token (weir-proxy: --token-file) or the certificate that it has, \
                      while that is good";
/// A request with the longest csr is a third of it.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
const VALIDITY_SECONDS_MIN: u64 = 60;
