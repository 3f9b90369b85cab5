//! A key and its certificate on disk, so that a proxy that starts anew is who it was: one PEM file for its owner alone,
//! replaced whole.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use weir_policy::spiffe::TrustDomain;

use super::joining::Credential;
use super::roots::Roots;
use super::trust;

/// Before the name of another trust domain, whose roots follow.
const DOMAIN: &str = "# trust domain ";

/// The file's name in the state directory.
pub(super) const FILE: &str = "identity.pem";

/// Replaces what is kept. Blocks until it is on the disk.
pub(super) fn write(path: &Path, credential: &Credential) -> io::Result<()> {
    let new = path.with_extension("pem.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut text = block("PRIVATE KEY", credential.key.secret_der());
    // The certificate first, the roots last, and how many of them there are by their being signed by themselves.
    for certificate in credential.chain.iter().chain(credential.roots.own()) {
        text.push_str(&block("CERTIFICATE", certificate));
    }
    for (name, roots) in credential.roots.others() {
        text.push_str(&format!("{DOMAIN}{name}\n"));
        for root in roots {
            text.push_str(&block("CERTIFICATE", root));
        }
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(directory)?.sync_all()
}

/// What is kept, if there is something and it is still good.
///
/// # Errors
/// When it can't be used, in words.
pub(super) fn read(path: &Path, now: SystemTime) -> Result<Option<Credential>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mode = fs::metadata(path).map_err(|error| error.to_string())?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "it has mode {mode:o}, so that others can read the key: remove it"
        ));
    }
    let damaged = || "it is damaged".to_owned();
    let mut parts = text.split(DOMAIN);
    let own = parts.next().unwrap_or_default().as_bytes();
    let others = parts.map(|part| {
        let (name, roots) = part.split_once('\n')?;
        Some((name.parse().ok()?, roots.to_owned()))
    });
    let others: Option<BTreeMap<TrustDomain, String>> = others.collect();
    let key = PrivateKeyDer::from_pem_slice(own).map_err(|_| damaged())?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(own).collect();
    let all = all.map_err(|_| damaged())?;
    let first = all.first().ok_or_else(damaged)?;
    let (not_after, id) = trust::read(first).map_err(|_| damaged())?;
    if not_after <= now {
        return Err("its certificate has ended".to_owned());
    }
    let (roots, chain): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| trust::is_self_issued(one));
    let pem: String = roots.iter().map(|root| block("CERTIFICATE", root)).collect();
    let roots = Roots::read(&pem, &others.ok_or_else(damaged)?).map_err(|_| damaged())?;
    Ok(Some(Credential {
        id,
        chain,
        roots,
        key,
        not_after,
    }))
}

fn block(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
