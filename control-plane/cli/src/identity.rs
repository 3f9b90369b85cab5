//! `weirctl ca`, `cert` and `token`: the certificate authority, and who it lets in.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde_json::Value;
use weir_api::identity::{
    AUTHORITY, AuthorityStatus, CERTIFICATES, CertificateRequest, CertificateStatus, IssuedCertificate, IssuedToken,
    ROTATION, RotationAction, RotationRequest, RotationStatus, TOKENS, TokenRequest,
};

use crate::cli::{CaArgs, CaCommand, CertArgs, CreateTokenArgs, RotateArgs, TokenArgs, TokenCommand, ViewFormat};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Cell, Out, Tone, clean, say};
use crate::progress::Progress;
use crate::wait;

pub(crate) fn ca(client: &Client, args: &CaArgs, out: &mut Out) -> Result<(), CliError> {
    let args = match &args.command {
        CaCommand::Status(args) => args,
        CaCommand::Rotate(args) => return rotate(client, args, out),
    };
    if args.output == ViewFormat::Json {
        return Ok(out.json(&client.get(WHAT, AUTHORITY)?)?);
    }
    let status = status(client)?;
    out.line(&format!("trust domain  {}", clean(&status.trust_domain)))?;
    out.line(&format!("keys          {}", clean(&status.source)))?;
    out.line(&format!("certificates  good for {}", clean(&status.cert_ttl)))?;
    let mut rows: Vec<Vec<Cell>> = status.roots.iter().map(|root| row("root", root)).collect();
    rows.push(row("intermediate", &status.intermediate));
    out.table(&["CERTIFICATE", "SUBJECT", "DAYS LEFT", "ENDS", "SHA-256"], &rows)?;
    if !status.trouble.is_empty() {
        let word = out.paint(Tone::Bad, "trouble");
        out.line(&format!("{word}: {}", clean(&status.trouble)))?;
    }
    if let Some(rotation) = &status.rotation {
        out.line(&clean(&under_way(rotation)))?;
    }
    let behind = status.behind.iter().map(|proxy| {
        vec![
            Cell::new(Tone::Waiting, proxy.workload.clone()),
            Cell::plain(&proxy.since),
            Cell::plain(&proxy.why),
            Cell::plain(&proxy.remedy),
        ]
    });
    let behind: Vec<Vec<Cell>> = behind.collect();
    if !behind.is_empty() {
        out.table(&["BEHIND", "SINCE", "WHY", "WHAT TO DO"], &behind)?;
    }
    Ok(())
}

/// How far a rotation is, in a line.
pub(crate) fn under_way(rotation: &RotationStatus) -> String {
    let RotationStatus {
        step,
        began,
        since,
        waits_until,
        can_abort,
        despite,
    } = rotation;
    let mut line = format!("rotation of the root, begun {began}: step {step} since {since}");
    if !waits_until.is_empty() {
        line += &format!("; waits until {waits_until} for the end of certificates below the old root");
    }
    if !despite.is_empty() {
        line += &format!("; doesn't wait for {}", despite.join(", "));
    }
    if *can_abort {
        line += "; can be aborted";
    }
    line
}

fn rotate(client: &Client, args: &RotateArgs, out: &mut Out) -> Result<(), CliError> {
    let action = match (args.intermediate, args.abort) {
        (true, _) => RotationAction::Intermediate,
        (false, true) => RotationAction::Abort,
        (false, false) => RotationAction::Root,
    };
    let before = args.wait.then(|| status(client)).transpose()?;
    let joins = args.despite.is_empty() && before.as_ref().is_some_and(|before| before.rotation.is_some());
    if !joins {
        let request = RotationRequest {
            action,
            despite: args.despite.clone(),
        };
        let _: AuthorityStatus = client.ask("rotation", ROTATION, &to_value(&request))?;
        out.line(match action {
            RotationAction::Root => "the root is rotated; `weirctl ca status` says how it goes on",
            RotationAction::Intermediate => "a new intermediate signs; certificates follow with their renewals",
            RotationAction::Abort => "the rotation is aborted; the root is that of before",
        })?;
    }
    match before {
        Some(before) => until_rotated(client, &before, args.timeout, out),
        None => Ok(()),
    }
}

/// Waits for the end of the rotation that follows `before`. The control plane may be away meanwhile: it goes on after a
/// restart.
fn until_rotated(client: &Client, before: &AuthorityStatus, timeout: Duration, out: &mut Out) -> Result<(), CliError> {
    let start = Instant::now();
    let mut progress = Progress::new();
    loop {
        let status = match status(client) {
            Err(error @ CliError::Unreachable { .. }) => {
                progress.show(&error.to_string());
                wait::pause(start, timeout, || error)?;
                continue;
            }
            status => status?,
        };
        let Some(rotation) = &status.rotation else {
            drop(progress);
            if is_aborted(before, &status) {
                return Err(CliError::Aborted);
            }
            return Ok(out.line("done: the old root is forgotten, and its key is gone")?);
        };
        let behind = status.behind.iter();
        let behind = behind.map(|proxy| format!("\n  {}: {}; {}", proxy.workload, proxy.why, proxy.remedy));
        let behind: Vec<String> = behind.collect();
        let line = under_way(rotation);
        progress.show(&match behind.len() {
            0 => line.clone(),
            count => format!("{line}; {count} behind"),
        });
        wait::pause(start, timeout, || CliError::NotYet {
            after: weir_api::duration::format(timeout),
            what: format!("{line}{}", behind.concat()),
        })?;
    }
}

/// Whether what signed before still does, where no rotation is under way any more. One at a later step than that in
/// which it can be aborted has another root sign already.
fn is_aborted(before: &AuthorityStatus, after: &AuthorityStatus) -> bool {
    let began_here = before.rotation.as_ref().is_none_or(|rotation| rotation.can_abort);
    // The one above what signs is first.
    let signs = |status: &AuthorityStatus| status.roots.first().map(|root| root.sha256.clone());
    began_here && signs(before) == signs(after)
}

/// How the authority stands.
pub(crate) fn status(client: &Client) -> Result<AuthorityStatus, CliError> {
    client.view(WHAT, AUTHORITY)
}

fn row(what: &str, certificate: &CertificateStatus) -> Vec<Cell> {
    let tone = match certificate.days_left {
        ..=7 => Tone::Bad,
        8..=30 => Tone::Waiting,
        31.. => Tone::Good,
    };
    vec![
        Cell::plain(what),
        Cell::plain(&certificate.subject),
        Cell::new(tone, certificate.days_left.to_string()),
        Cell::plain(&certificate.not_after),
        Cell::plain(&certificate.sha256),
    ]
}

/// The key is made here and goes nowhere: what is sent is a request signed with it.
pub(crate) fn cert(client: &Client, args: &CertArgs, out: &mut Out) -> Result<(), CliError> {
    let made = |error: rcgen::Error| CliError::Usage(format!("no key can be made: {error}"));
    let key = KeyPair::generate().map_err(made)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(made)?;
    let request = CertificateRequest {
        namespace: args.who.namespace.clone(),
        account: args.who.account.clone(),
        csr,
        ttl: args.ttl.clone(),
    };
    let issued: IssuedCertificate = client.ask("certificate", CERTIFICATES, &to_value(&request))?;
    fs::create_dir_all(&args.out).map_err(at(&args.out))?;
    let files = [
        ("key.pem", key.serialize_pem(), PRIVATE),
        ("cert.pem", issued.chain.concat(), PUBLIC),
        ("ca.pem", issued.roots.concat(), PUBLIC),
    ];
    for (name, text, mode) in files {
        let path = args.out.join(name);
        write(&path, &text, mode).map_err(at(&path))?;
        out.line(&clean(&path.display().to_string()))?;
    }
    say(&format!("{}, good until {}", issued.spiffe_id, issued.not_after));
    Ok(())
}

/// Whole or not at all, since a program may be reading the one before.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)?;
    File::open(directory)?.sync_all()
}

pub(crate) fn token(client: &Client, args: &TokenArgs, out: &mut Out) -> Result<(), CliError> {
    let TokenCommand::Create(CreateTokenArgs {
        who,
        labels,
        ttl,
        uses,
        out: file,
        output,
    }) = &args.command;
    let request = TokenRequest {
        namespace: who.namespace.clone(),
        account: who.account.clone(),
        labels: labels.iter().flat_map(|labels| labels.pairs()).collect(),
        ttl: ttl.clone(),
        uses: *uses,
    };
    let issued: IssuedToken = client.ask("token", TOKENS, &to_value(&request))?;
    match output {
        ViewFormat::Json => out.json(&to_value(&issued))?,
        ViewFormat::Table => {
            match file {
                Some(path) => {
                    write(path, &format!("{}\n", issued.token), PRIVATE).map_err(at(path))?;
                    out.line(&clean(&path.display().to_string()))?;
                }
                None => out.line(&clean(&issued.token))?,
            }
            let IssuedToken {
                id, spiffe_id, expires, ..
            } = issued;
            let proxies = if *uses == 1 {
                "1 proxy".to_owned()
            } else {
                format!("{uses} proxies")
            };
            say(&format!(
                "token {id} lets {proxies} in as {spiffe_id} until {expires}; keep it as a password"
            ));
        }
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::File { path, source }
}

fn to_value(of: &impl serde::Serialize) -> Value {
    serde_json::to_value(of).expect("texts and numbers have no fallible parts")
}

const WHAT: &str = "authority";
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_is_done_when_another_root_signs() {
        let status = |roots: &[&str], can_abort: Option<bool>| AuthorityStatus {
            roots: roots
                .iter()
                .map(|sha256| CertificateStatus {
                    sha256: (*sha256).to_owned(),
                    ..CertificateStatus::default()
                })
                .collect(),
            rotation: can_abort.map(|can_abort| RotationStatus {
                can_abort,
                ..RotationStatus::default()
            }),
            ..AuthorityStatus::default()
        };
        for (before, after, aborted) in [
            (status(&["old"], None), "old", true),
            (status(&["old"], None), "new", false),
            // One that was under way: at Trust, and later.
            (status(&["old", "new"], Some(true)), "old", true),
            (status(&["old", "new"], Some(true)), "new", false),
            (status(&["new", "old"], Some(false)), "new", false),
            (status(&["new"], Some(false)), "new", false),
        ] {
            assert_eq!(
                is_aborted(&before, &status(&[after], None)),
                aborted,
                "{before:?} {after}"
            );
        }
    }
}
