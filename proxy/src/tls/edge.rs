//! Ordinary TLS for those outside of the mesh, at ports where requests enter it: an operator's certificate and key,
//! from files that are taken anew when they change.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{Carries, H2, HANDSHAKE_TIMEOUT, HTTP11, Session, TlsError, provider, session};
use crate::config::EdgeTlsFiles;
use crate::http::io::Io;
use crate::identity::token::open_to_others;

/// How TLS is spoken with those outside. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct EdgeTls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    files: EdgeTlsFiles,
    configs: ArcSwap<Configs>,
    seen: Mutex<Seen>,
}

/// One for each kind of port: with tickets of its own, so that no session goes from one to the other.
#[derive(Debug)]
struct Configs {
    http: Arc<ServerConfig>,
    /// Without ALPN: what is spoken is the app's, and what a client offers of it is passed over (RFC 7301 section 3.2).
    tcp: Arc<ServerConfig>,
}

/// What the files held when they were looked at last.
#[derive(Debug)]
struct Seen {
    held: Held,
    /// What is wrong with them, as it was told.
    trouble: Option<String>,
}

/// Their bytes: a key, which is shown nowhere.
#[derive(PartialEq, Eq)]
struct Held {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

impl EdgeTls {
    /// With what the files hold.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub(crate) fn open(files: EdgeTlsFiles) -> Result<EdgeTls, String> {
        let held = Held::read(&files)?;
        let configs = held.configs(&files)?;
        if let Some(mode) = open_to_others(&files.key) {
            tracing::warn!(file = %files.key.display(), mode, "others can read the key of the edge");
        }
        Ok(EdgeTls(Arc::new(Shared {
            files,
            configs: ArcSwap::from_pointee(configs),
            seen: Mutex::new(Seen { held, trouble: None }),
        })))
    }

    /// Takes the files anew whenever they change, until it is dropped. What is wrong is told once, and what was before
    /// stays: a new certificate and its key are two files, and for a moment they don't fit.
    pub(crate) async fn keep(self) {
        loop {
            sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    fn look(&self) {
        let Shared { files, configs, seen } = &*self.0;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let read = Held::read(files);
        if read.as_ref().is_ok_and(|held| *held == seen.held) {
            seen.trouble = None;
            return;
        }
        match read.and_then(|held| Ok((held.configs(files)?, held))) {
            Ok((new, held)) => {
                configs.store(Arc::new(new));
                *seen = Seen { held, trouble: None };
                tracing::info!(file = %files.cert.display(), "the edge has another certificate");
            }
            Err(trouble) => {
                if seen.trouble.as_ref() != Some(&trouble) {
                    tracing::error!(trouble, "the edge keeps the certificate that it has");
                }
                seen.trouble = Some(trouble);
            }
        }
    }

    /// Shakes hands with whoever connected to a port that carries this.
    pub(super) async fn accept(&self, stream: TcpStream, carries: Carries) -> Result<(Io, Session), TlsError> {
        let config = {
            let configs = self.0.configs.load();
            match carries {
                Carries::Http => Arc::clone(&configs.http),
                Carries::Tcp => Arc::clone(&configs.tcp),
            }
        };
        let accepting = TlsAcceptor::from(config).accept(stream);
        let stream = timeout(HANDSHAKE_TIMEOUT, accepting)
            .await
            .map_err(|_| TlsError::TimedOut(HANDSHAKE_TIMEOUT))?
            .map_err(TlsError::Handshake)?;
        let session = session(stream.get_ref().1);
        Ok((Io::Tls(Box::new(TlsStream::Server(stream))), session))
    }
}

impl Held {
    fn read(files: &EdgeTlsFiles) -> Result<Held, String> {
        let read = |flag: &str, path: &Path| {
            std::fs::read(path).map_err(|error| format!("{flag} {}: {error}", path.display()))
        };
        Ok(Held {
            cert: read("--edge-cert", &files.cert)?,
            key: read("--edge-key", &files.key)?,
        })
    }

    fn configs(&self, files: &EdgeTlsFiles) -> Result<Configs, String> {
        let wrong = |flag: &str, path: &Path, problem: &str| format!("{flag} {}: {problem}", path.display());
        let chain = CertificateDer::pem_slice_iter(&self.cert).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| wrong("--edge-cert", &files.cert, &error.to_string()))?;
        if chain.is_empty() {
            let problem = "holds no certificate; PEM blocks \"CERTIFICATE\" are right, the server's own first";
            return Err(wrong("--edge-cert", &files.cert, problem));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key);
        let key = key.map_err(|_| {
            let problem = "holds no private key; a PEM block \"PRIVATE KEY\" is right";
            wrong("--edge-key", &files.key, problem)
        })?;
        let made = |alpn: &[&[u8]]| -> Result<Arc<ServerConfig>, rustls::Error> {
            let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
                .with_protocol_versions(&[&TLS13])?
                .with_no_client_auth()
                .with_single_cert(chain.clone(), key.clone_key())?;
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            config.ticketer = Ticketer::new()?;
            Ok(Arc::new(config))
        };
        let both = || {
            Ok(Configs {
                http: made(&[H2, HTTP11])?,
                tcp: made(&[])?,
            })
        };
        both().map_err(|error: rustls::Error| {
            let key = files.key.display();
            wrong(
                "--edge-cert",
                &files.cert,
                &format!("does not go with --edge-key {key}: {error}"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    /// A certificate for this name, and its key, as PEM.
    fn made(name: &str) -> (String, String) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        (cert.pem(), signing_key.serialize_pem())
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = EdgeTlsFiles {
            cert: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
        };
        let (cert, key) = made("portal.gov");
        let (_, other_key) = made("portal.gov");
        for (held, expect) in [
            (
                [None, Some(&key)],
                "--edge-cert <cert>: No such file or directory (os error 2)",
            ),
            (
                [Some(&cert), None],
                "--edge-key <key>: No such file or directory (os error 2)",
            ),
            ([Some(&key), Some(&key)], "--edge-cert <cert>: holds no certificate;"),
            ([Some(&cert), Some(&cert)], "--edge-key <key>: holds no private key;"),
            (
                [Some(&cert), Some(&other_key)],
                "--edge-cert <cert>: does not go with --edge-key <key>: ",
            ),
        ] {
            for (path, text) in [&files.cert, &files.key].into_iter().zip(held) {
                let _ = std::fs::remove_file(path);
                if let Some(text) = text {
                    std::fs::write(path, text).expect("written");
                }
            }
            let said = EdgeTls::open(files.clone()).expect_err(expect);
            let said = said
                .replace(&files.cert.display().to_string(), "<cert>")
                .replace(&files.key.display().to_string(), "<key>");
            assert!(said.starts_with(expect), "{said}");
            assert!(!said.contains("BEGIN"), "{said}");
        }
    }

    /// RFC 7301 section 3.2: a server that speaks HTTP's names alone would end a handshake that offers another.
    #[tokio::test]
    async fn a_port_of_tcp_leaves_its_protocol_to_the_app() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = EdgeTlsFiles {
            cert: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
        };
        let (cert, key) = made("portal.gov");
        std::fs::write(&files.cert, &cert).expect("written");
        std::fs::write(&files.key, &key).expect("written");
        let edge = EdgeTls::open(files).expect("they fit");
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(cert.as_bytes()).expect("a certificate");
        roots.add(root).expect("a root");
        let roots = Arc::new(roots);
        for (carries, offers, expect) in [
            (Carries::Http, "h2", Some(Some(b"h2".to_vec()))),
            (Carries::Http, "postgresql", None),
            (Carries::Tcp, "h2", Some(None)),
            (Carries::Tcp, "postgresql", Some(None)),
        ] {
            let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider()));
            let config = config.with_protocol_versions(&[&TLS13]).expect("TLS 1.3");
            let mut config = config.with_root_certificates(Arc::clone(&roots)).with_no_client_auth();
            config.alpn_protocols = vec![offers.as_bytes().to_vec()];
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let accepts = async {
                let (stream, _) = listener.accept().await.expect("a connection");
                edge.accept(stream, carries).await
            };
            let connects = async {
                let stream = TcpStream::connect(address).await.expect("a connection");
                let name = "portal.gov".try_into().expect("a name");
                let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
                connector.connect(name, stream).await
            };
            let (accepted, connected) = tokio::join!(accepts, connects);
            let agreed = connected
                .ok()
                .map(|stream| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
            assert_eq!(agreed, expect, "{carries:?}, {offers}");
            assert_eq!(accepted.is_ok(), expect.is_some(), "{carries:?}, {offers}");
        }
    }

    #[test]
    fn a_certificate_is_taken_anew_when_it_fits_its_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = EdgeTlsFiles {
            cert: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
        };
        let write = |path: &Path, text: &str| std::fs::write(path, text).expect("written");
        let (cert, key) = made("portal.gov");
        write(&files.cert, &cert);
        write(&files.key, &key);
        let edge = EdgeTls::open(files.clone()).expect("they fit");
        let in_use = || Arc::as_ptr(&edge.0.configs.load_full());
        let first = in_use();
        edge.look();
        assert_eq!(in_use(), first, "nothing changed");
        let (cert, key) = made("portal.gov");
        write(&files.cert, &cert);
        edge.look();
        assert_eq!(in_use(), first, "its key is not there yet");
        let trouble = || edge.0.seen.lock().expect("no panic").trouble.clone();
        assert!(trouble().is_some_and(|trouble| trouble.contains("does not go with")));
        write(&files.key, &key);
        edge.look();
        assert_ne!(in_use(), first);
        assert_eq!(trouble(), None);
    }
}
