//! One exchange with the control plane: a request for a certificate goes there, the certificate comes back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Uri;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use weir_policy::spiffe::SpiffeId;
use weir_xds::istio::IstioCertificateRequest;
use weir_xds::istio::istio_certificate_service_client::IstioCertificateServiceClient;

use super::roots::{self, Roots};
use super::token::Token;
use super::trust::{self, Trust, Untrusted};
use crate::tls;
use crate::xds::Causes;

/// A certificate with its key.
pub(crate) struct Credential {
    /// Whose it is.
    pub(crate) id: SpiffeId,
    /// The certificate, then what is between it and a root.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The roots that came with it, of those that are trusted; later those that were told.
    pub(crate) roots: Roots,
    /// Its key.
    pub(crate) key: PrivateKeyDer<'static>,
    /// Until when it is good.
    pub(crate) not_after: SystemTime,
}

impl Credential {
    /// The same, of somebody who trusts these roots.
    pub(super) fn below(&self, roots: &Roots) -> Credential {
        Credential {
            id: self.id.clone(),
            chain: self.chain.clone(),
            roots: roots.clone(),
            key: self.key.clone_key(),
            not_after: self.not_after,
        }
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error("the system gives no key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("can't connect to the control plane: {0}")]
    Connect(String),
    /// As TLS sees it: one does not believe the other's certificate.
    #[error("can't connect to the control plane: {0}")]
    Distrust(String),
    #[error("the control plane refuses: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    #[error("the control plane does not answer within {EXCHANGE_TIMEOUT:?}")]
    TimedOut,
    #[error("the control plane's answer is no certificate of ours: {0}")]
    Answer(#[from] Untrusted),
    #[error("{0}")]
    Local(String),
    #[error("{renewal}; and by the token: {join}")]
    Both {
        renewal: Box<JoinError>,
        join: Box<JoinError>,
    },
}

impl JoinError {
    /// Whether control plane and certificate don't know each other (any more), so that only a token helps. It stays so,
    /// other than a control plane that can't be reached or is not able to sign now: a token is not to be spent on that.
    pub(super) fn is_of_strangers(&self) -> bool {
        match self {
            JoinError::Distrust(_) | JoinError::Answer(_) => true,
            JoinError::Refused(status) => status.code() == tonic::Code::Unauthenticated || tls::ended(status.as_ref()),
            JoinError::Key(_)
            | JoinError::Tls(_)
            | JoinError::Connect(_)
            | JoinError::TimedOut
            | JoinError::Local(_)
            | JoinError::Both { .. } => false,
        }
    }
}

/// A key that wants a certificate, and how that is got.
pub(crate) struct Exchange<'a> {
    /// Where the control plane is.
    pub(crate) endpoint: &'a Endpoint,
    /// By what it is known.
    pub(crate) trust: &'a Trust,
    /// Who is asking.
    pub(crate) id: &'a SpiffeId,
    /// By what it is known who asks.
    pub(crate) as_whom: AsWhom<'a>,
}

/// By what the control plane knows who asks.
pub(crate) enum AsWhom<'a> {
    /// A join token.
    Bearer(&'a Token),
    /// The certificate so far.
    Holder(&'a Credential),
}

impl Exchange<'_> {
    /// A certificate for `key`.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub(crate) async fn run(self, key: &KeyPair) -> Result<Credential, JoinError> {
        match tokio::time::timeout(EXCHANGE_TIMEOUT, self.ask(key)).await {
            Ok(asked) => asked,
            Err(_) => Err(JoinError::TimedOut),
        }
    }

    async fn ask(self, key: &KeyPair) -> Result<Credential, JoinError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(key)?.pem()?;
        let (own, token) = match self.as_whom {
            AsWhom::Bearer(token) => (None, Some(token)),
            AsWhom::Holder(credential) => (Some((credential.chain.clone(), credential.key.clone_key())), None),
        };
        let config = Arc::new(self.trust.clone().client_config(own)?);
        let channel = connect(self.endpoint, config).await;
        let channel = channel.map_err(|error| {
            let said = Causes(&error).to_string();
            if tls::ended(&error) {
                JoinError::Distrust(said)
            } else {
                JoinError::Connect(said)
            }
        })?;
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr,
            validity_duration: 0,
            metadata: None,
        });
        if let Some(token) = token {
            let bearer = MetadataValue::try_from(format!("Bearer {}", token.secret()));
            let mut bearer = bearer.map_err(|_| JoinError::Local("the join token is no header's value".to_owned()))?;
            bearer.set_sensitive(true);
            request.metadata_mut().insert("authorization", bearer);
        }
        let mut client = IstioCertificateServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = client.create_certificate(request).await;
        let answer = answer
            .map_err(|status| JoinError::Refused(Box::new(status)))?
            .into_inner();
        self::answered(&answer.cert_chain, key, self.id, self.trust, SystemTime::now()).map_err(JoinError::Answer)
    }
}

/// Reads an answer: a chain that ends with its roots.
pub(super) fn answered(
    chain: &[String],
    key: &KeyPair,
    id: &SpiffeId,
    trust: &Trust,
    now: SystemTime,
) -> Result<Credential, Untrusted> {
    let read = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| Untrusted::Malformed);
    let all: Vec<CertificateDer<'static>> = chain.iter().map(read).collect::<Result<_, _>>()?;
    let vouched = trust.check(&all, id, trust::unix_time(now))?;
    let first = all.first().ok_or(Untrusted::Malformed)?;
    let end = webpki::EndEntityCert::try_from(first).map_err(|_| Untrusted::Malformed)?;
    if *end.subject_public_key_info() != *rcgen::PublicKeyData::subject_public_key_info(key) {
        return Err(Untrusted::Chain("it is for another key".to_owned()));
    }
    let (not_after, id) = trust::read(first)?;
    let is_root = |one: &CertificateDer<'static>| {
        trust.roots.contains(one) || trust.pins.contains(&trust::sha256(one)) || vouched.is_for(one)
    };
    let (mut roots, mut chain): (Vec<_>, Vec<_>) = all.into_iter().partition(is_root);
    if roots.is_empty() {
        // It is below one that we have from a file and that was not sent along.
        roots.clone_from(&trust.roots);
    }
    // Roots that came along and are not trusted. Kept on disk they would be, since a root is known there by its issuer.
    chain.retain(|one| !trust::is_self_issued(one));
    Ok(Credential {
        id,
        chain,
        roots: Roots::of_the_mesh(roots),
        key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        not_after,
    })
}

/// Connects by TLS.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    config: Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |to: Uri| shake_hands(to, Arc::clone(&config)));
    endpoint.connect_with_connector(connector).await
}

async fn shake_hands(to: Uri, config: Arc<ClientConfig>) -> std::io::Result<TokioIo<TlsStream<TcpStream>>> {
    let wrong = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let host = roots::host(&to).ok_or_else(wrong)?.to_owned();
    let name = ServerName::try_from(host).map_err(|_| wrong())?;
    let stream = roots::open(&to).await?;
    let connected = TlsConnector::from(config).connect(name, stream).await;
    let connected = connected.map_err(|error| std::io::Error::new(error.kind(), tls::Said(&error).to_string()))?;
    Ok(TokioIo::new(connected))
}

/// For all of it: name, connection, handshake, answer.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A certificate, an intermediate or two and some roots, with room to spare.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
