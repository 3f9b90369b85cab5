//! A mesh under measurement: a control plane, and sidecars that join it by token and TLS.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::callgrind::Callgrind;
use crate::certificates::Identity;
use crate::load::post;
use crate::process::{Place, Process, Processors, Ready, beside, strings};

/// A control plane with its folder.
pub struct Mesh {
    /// The process.
    pub control: Process,
    folder: PathBuf,
    api: SocketAddr,
    xds: String,
}

/// A sidecar to be started: of which workload, with which app, at which addresses.
pub struct Sidecar<'a> {
    /// Its name, its account, and its label `app`.
    pub workload: &'a str,
    /// As `--app` takes it.
    pub app: String,
    /// Where calls of its app come in.
    pub outbound: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
    /// Its port for Prometheus.
    pub metrics: SocketAddr,
    /// Its port for probes.
    pub health: SocketAddr,
    /// As `--access-log` takes it.
    pub access_log: &'a str,
    /// What counts its instructions.
    pub callgrind: Option<&'a Callgrind>,
    /// As `--workers` takes it.
    pub workers: u32,
    /// On which processors it runs.
    pub place: Place,
}

impl Mesh {
    /// Starts a control plane that has these resources, YAML.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn start(
        folder: &Path,
        resources: &str,
        (api, xds): (SocketAddr, SocketAddr),
        processors: &Processors,
    ) -> anyhow::Result<Mesh> {
        let held = folder.join("resources");
        fs::create_dir(&held)?;
        fs::write(held.join("bench.yaml"), resources)?;
        let mut args = strings(&["--resources", &held.display().to_string(), "--api", &api.to_string()]);
        args.extend(strings(&[
            "--xds",
            "off",
            "--xds-tls",
            &xds.to_string(),
            "--log",
            "warn",
        ]));
        let (program, ready) = (beside("weir-control")?, Ready::Line("weir-control ready:"));
        let (control, _) = Process::start(&program, &args, (processors, Place::Others), ready).await?;
        Ok(Mesh {
            control,
            folder: folder.to_owned(),
            api,
            xds: format!("https://{xds}"),
        })
    }

    /// Starts a sidecar, and waits until it takes calls.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn sidecar(&self, sidecar: Sidecar<'_>, processors: &Processors) -> anyhow::Result<Process> {
        let Sidecar {
            workload,
            app,
            outbound,
            admin,
            metrics,
            health,
            access_log,
            callgrind,
            workers,
            place,
        } = sidecar;
        let token = self.folder.join(format!("{workload}.token"));
        write_private(&token, &self.token(workload).await?)?;
        let mut args = strings(&[
            "--control-plane",
            &self.xds,
            "--token-file",
            &token.display().to_string(),
        ]);
        args.extend(strings(&[
            "--workload",
            workload,
            "--namespace",
            NAMESPACE,
            "--app",
            &app,
        ]));
        args.extend(strings(&[
            "--outbound",
            &outbound.to_string(),
            "--admin",
            &admin.to_string(),
        ]));
        args.extend(strings(&[
            "--metrics",
            &metrics.to_string(),
            "--health",
            &health.to_string(),
        ]));
        args.extend(strings(&["--access-log", access_log, "--inbound-address", "127.0.0.1"]));
        args.extend(strings(&["--log-level", "warn", "--workers", &workers.to_string()]));
        let (program, ready) = (beside("weir-proxy")?, Ready::Accepts(outbound));
        let place = (processors, place);
        let (process, _) = match callgrind {
            None => Process::start(&program, &args, place, ready).await?,
            Some(callgrind) => Process::start_under(callgrind, &program, &args, place, ready).await?,
        };
        Ok(process)
    }

    /// A certificate of this mesh's authority, as [`Identity::read`] finds it in this folder.
    ///
    /// # Errors
    /// When it is not given, or can't be written.
    pub async fn certificate(&self, folder: &Path, account: &str) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default().serialize_request(&key)?.pem()?;
        let asked = json!({"namespace": NAMESPACE, "account": account, "csr": csr});
        let answer = post(self.api, "/authority/certificates", asked.to_string()).await?;
        let issued: Value = serde_json::from_slice(&answer)?;
        let pems = |name: &str| {
            let pems = issued[name].as_array().into_iter().flatten();
            pems.filter_map(Value::as_str).collect::<String>()
        };
        Identity::write(folder, &pems("chain"), &key.serialize_pem(), &pems("roots"))
    }

    /// A join token for a workload, labelled `app` as it is named.
    async fn token(&self, workload: &str) -> anyhow::Result<String> {
        let asked = json!({
            "namespace": NAMESPACE, "account": workload, "labels": {"app": workload}, "ttl": "1h", "uses": 1,
        });
        let answer = post(self.api, "/authority/tokens", asked.to_string()).await?;
        let issued: Value = serde_json::from_slice(&answer)?;
        let token = issued["token"].as_str().context("no token in the answer")?;
        Ok(token.to_owned())
    }
}

/// Writes a file that only its owner reads.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

/// The namespace of all that is measured.
const NAMESPACE: &str = "bench";
