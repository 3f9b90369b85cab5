//! Certificates by which relays speak mutual TLS with each other, as sidecars do: TLS 1.3, P-256, one intermediate, the
//! same key agreement.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// What one needs for mutual TLS.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    root: CertificateDer<'static>,
}

/// What every relay is called.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(NAME).expect("the name is one")
}

/// Makes a certificate with its key, and the root by which it is known, in this folder.
///
/// # Errors
/// When they can't be made or written.
pub fn make(folder: &Path) -> anyhow::Result<()> {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let (root, root_key) = (authority("root"), KeyPair::generate()?);
    let root_certificate = root.self_signed(&root_key)?;
    let (params, intermediate_key) = (authority("intermediate"), KeyPair::generate()?);
    let intermediate = params.signed_by(&intermediate_key, &Issuer::new(root, root_key))?;
    let mut end = CertificateParams::new([NAME.to_owned()])?;
    end.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let end = end.signed_by(&key, &Issuer::new(params, intermediate_key))?;
    let chain = format!("{}{}", end.pem(), intermediate.pem());
    Identity::write(folder, &chain, &key.serialize_pem(), &root_certificate.pem())
}

impl Identity {
    /// Leaves a certificate in a folder for [`Identity::read`]; all is PEM.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(folder: &Path, chain: &str, key: &str, root: &str) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(CHAIN), chain)?;
        fs::write(folder.join(KEY), key)?;
        fs::write(folder.join(ROOT), root)?;
        Ok(())
    }

    /// What [`Identity::write`] left there.
    ///
    /// # Errors
    /// When it is not there.
    pub fn read(folder: &Path) -> anyhow::Result<Identity> {
        let chain = CertificateDer::pem_file_iter(folder.join(CHAIN))?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(folder.join(KEY))?;
        let root = CertificateDer::from_pem_file(folder.join(ROOT))?;
        Ok(Identity { chain, key, root })
    }

    /// Whom others may be below.
    ///
    /// # Errors
    /// When the root is none.
    pub fn roots(self) -> anyhow::Result<RootCertStore> {
        roots(self.root)
    }

    /// For the end that is connected to.
    ///
    /// # Errors
    /// When certificate and key don't fit.
    pub fn server(self, alpn: &str) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(self.root)?), Arc::clone(&provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier.build().context("no verifier")?)
            .with_single_cert(self.chain, self.key)?;
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Ok(config)
    }

    /// For the end that connects.
    ///
    /// # Errors
    /// When certificate and key don't fit.
    pub fn client(self, alpn: &str) -> anyhow::Result<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots(self.root)?)
            .with_client_auth_cert(self.chain, self.key)?;
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Ok(config)
    }
}

fn roots(root: CertificateDer<'static>) -> anyhow::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add(root)?;
    Ok(store)
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768],
        ..default_provider()
    }
}

const NAME: &str = "relay.bench";
/// The file of the certificate and its intermediates.
pub const CHAIN: &str = "cert.pem";
/// The file of the key.
pub const KEY: &str = "key.pem";
/// The file of the root.
pub const ROOT: &str = "root.pem";
