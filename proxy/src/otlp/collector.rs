//! The way to a collector: in cleartext, or by TLS to one whose certificate is for the host that is asked for.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use weir_policy::backend_tls::{Authorities, Certificate, Validation};

use super::EXPORT_WITHIN;
use crate::http::io::Io;
use crate::http::upstream::Wire;
use crate::identity::roots;
use crate::tls::backend::Client;

/// Where spans are sent.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    endpoint: Endpoint,
    /// `None`: in cleartext.
    tls: Option<CollectorTls>,
}

/// How it is known.
#[derive(Clone, Debug)]
struct CollectorTls {
    host: String,
    /// `None`: by the roots that the system trusts.
    ca_file: Option<PathBuf>,
}

/// Why a collector could never be believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectorError {
    #[error("--otlp {0}: can't be connected to; https://HOST:PORT is right")]
    Url(Uri),
    #[error("--otlp {url}: {problem}; --otlp-ca-file names others")]
    System { url: Uri, problem: String },
    #[error("--otlp-ca-file {}: {problem}", .file.display())]
    File { file: PathBuf, problem: String },
}

/// Without what could be a secret in it: a URL has no more than host and port.
impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.uri().fmt(f)
    }
}

impl Collector {
    /// With the roots of a file, or those that the system trusts, where the URL asks for TLS. Reads them once, so that
    /// what is wrong with them is said at once.
    ///
    /// # Errors
    /// When they can't be read, or are none.
    pub(crate) fn new(url: Uri, ca_file: Option<PathBuf>) -> Result<Collector, CollectorError> {
        let tls = match (url.scheme_str(), roots::host(&url)) {
            (Some("https"), Some(host)) => Some(CollectorTls {
                host: host.to_owned(),
                ca_file,
            }),
            (Some("https"), None) => return Err(CollectorError::Url(url)),
            (_, _) => None,
        };
        if let Some(tls) = &tls {
            let made = tls.client().map(drop);
            made.map_err(|problem| match &tls.ca_file {
                Some(file) => CollectorError::File {
                    file: file.clone(),
                    problem,
                },
                None => CollectorError::System {
                    url: url.clone(),
                    problem,
                },
            })?;
        }
        let endpoint = Endpoint::from(url)
            .connect_timeout(EXPORT_WITHIN)
            .timeout(EXPORT_WITHIN);
        Ok(Collector { endpoint, tls })
    }

    /// A connection, made when it is first needed, and again whenever it is lost.
    pub(super) fn channel(&self) -> Channel {
        match self.tls.clone() {
            None => self.endpoint.connect_lazy(),
            Some(tls) => {
                let connector = tower::service_fn(move |to: Uri| connect(to, tls.clone()));
                self.endpoint.connect_with_connector_lazy(connector)
            }
        }
    }
}

impl CollectorTls {
    fn client(&self) -> Result<Client, String> {
        let authorities = match &self.ca_file {
            None => Authorities::System,
            Some(file) => Authorities::Given(certificates(file)?),
        };
        let validation = Validation {
            hostname: self.host.clone(),
            authorities,
            subject_alt_names: Vec::new(),
        };
        Client::new(&validation, Some(Wire::Http2))
    }
}

/// With the roots as they are now: a file of them may have changed since the connection before.
async fn connect(to: Uri, tls: CollectorTls) -> io::Result<TokioIo<Io>> {
    let client = tls.client().map_err(io::Error::other)?;
    let stream = roots::open(&to).await?;
    let stream = client.connect(stream).await.map_err(io::Error::other)?;
    Ok(TokioIo::new(stream))
}

fn certificates(file: &Path) -> Result<Vec<Certificate>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let read = weir_xds::pem::certificates(&text).map_err(|error| format!("is not PEM: {error}"))?;
    if read.is_empty() {
        return Err("holds no certificate; PEM blocks \"CERTIFICATE\" are right".to_owned());
    }
    Ok(read.into_iter().map(Certificate).collect())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::SystemTime;

    use opentelemetry::InstrumentationScope;
    use opentelemetry_sdk::trace::SpanExporter as _;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use tokio::io::copy_bidirectional;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::otlp::tests::collector;
    use crate::otlp::{exporter, resource, span};
    use crate::record::tests::record;

    /// An authority: its root, PEM, and what it signs.
    struct Authority {
        root: String,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Authority {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("a key");
            let root = params.self_signed(&key).expect("a root").pem();
            Authority {
                root,
                issuer: Issuer::new(params, key),
            }
        }

        /// A relay to a collector that shows a certificate for this name, and speaks this within TLS.
        async fn relay(&self, name: &str, alpn: &[u8], to: SocketAddr) -> SocketAddr {
            let params = CertificateParams::new([name.to_owned()]).expect("a name");
            let key = KeyPair::generate().expect("a key");
            let shown = params.signed_by(&key, &self.issuer).expect("a certificate");
            let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
            let config = ServerConfig::builder().with_no_client_auth();
            let mut config = config
                .with_single_cert(vec![shown.der().clone()], key)
                .expect("it fits");
            config.alpn_protocols = vec![alpn.to_vec()];
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let mut onward = TcpStream::connect(to).await.expect("it is there");
                        tokio::spawn(async move { copy_bidirectional(&mut stream, &mut onward).await });
                    }
                }
            });
            address
        }
    }

    #[tokio::test]
    async fn spans_go_by_tls_to_the_collector_that_is_asked_for_alone() {
        let (plain, mut got) = collector().await;
        let behind: SocketAddr = plain.authority().expect("one").as_str().parse().expect("an address");
        let (ours, others) = (Authority::new(), Authority::new());
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, &ours.root).expect("written");
        let workload = "citizen/portal-1".parse().expect("a workload");
        let scope = InstrumentationScope::builder("weir-proxy").build();
        let send = async |to: SocketAddr| {
            let url = format!("https://localhost:{}", to.port()).parse().expect("a URL");
            let collector = Collector::new(url, Some(file.clone())).expect("it can be believed");
            let exporter = exporter(&collector, &resource(&workload, SystemTime::now())).expect("it is right");
            exporter
                .export(vec![span(record(), &scope)])
                .await
                .map_err(|error| error.to_string())
        };
        for (what, authority, name, alpn, says) in [
            ("right", &ours, "localhost", &b"h2"[..], None),
            (
                "another authority",
                &others,
                "localhost",
                b"h2",
                Some("invalid peer certificate"),
            ),
            (
                "another name",
                &ours,
                "elsewhere",
                b"h2",
                Some("it is for elsewhere, and should be for localhost"),
            ),
        ] {
            let relay = authority.relay(name, alpn, behind).await;
            match (send(relay).await, says) {
                (Ok(()), None) => assert_eq!(got.recv().await.expect("spans").resource_spans.len(), 1),
                (Err(error), Some(says)) => assert!(error.contains(says), "{what}: {error}"),
                (sent, _) => panic!("{what}: {sent:?}"),
            }
        }
        // The file is read again for the next connection.
        std::fs::write(&file, &others.root).expect("written");
        let relay = others.relay("localhost", b"h2", behind).await;
        send(relay).await.expect("it is believed now");
        got.recv().await.expect("spans");
        assert!(got.try_recv().is_err(), "nobody else got any");
    }

    #[test]
    fn what_could_never_be_believed_is_said_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).expect("written");
            file
        };
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (file, says) in [
            (folder.path().join("none"), "No such file"),
            (file("empty", ""), "holds no certificate; PEM blocks"),
            (file("cut", "-----BEGIN CERTIFICATE-----\n"), "is not PEM"),
            (
                file("damaged", damaged),
                "certificate 1 of those who sign can't be read",
            ),
        ] {
            let url = "https://c:1".parse().expect("a URL");
            let error = Collector::new(url, Some(file.clone()))
                .expect_err("it is wrong")
                .to_string();
            let begin = format!("--otlp-ca-file {}: ", file.display());
            assert!(error.starts_with(&begin) && error.contains(says), "{error}");
        }
    }
}
