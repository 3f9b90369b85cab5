//! Why a command failed.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use weir_api::views::{Reason, Status};
use weir_api::yaml::SourceError;

use crate::client::Peer;
use crate::output::clean;

/// Why a command failed, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A file can't be read.
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// Resources in files are wrong.
    #[error("{}", Lines(.0))]
    Sources(Vec<SourceError>),
    /// The control plane, or the proxy that was named, does not answer.
    #[error("{} at {server} does not answer: {reason}", named(*.peer))]
    Unreachable { peer: Peer, server: String, reason: String },
    /// The control plane refused.
    #[error("{what}: {}", Refusal(.status))]
    Refused { what: String, status: Box<Status> },
    /// A proxy refused on its admin port.
    #[error("{what} at {server} refused with {code}: {}", clean(.text.trim_end()))]
    ProxyRefused {
        what: String,
        server: String,
        code: u16,
        text: String,
    },
    /// What was asked for is not there.
    #[error("{0}")]
    Absent(String),
    /// Something answers that is no control plane, or a much other version of it.
    #[error("{what}: the answer from {server} can't be understood: {problem}")]
    Strange {
        what: String,
        server: String,
        problem: String,
    },
    /// Some of several resources failed; each was said.
    #[error("{failed} of {all} resources failed")]
    Some { failed: usize, all: usize },
    /// A proxy rejected what was applied.
    #[error("{}", .0.join("\n"))]
    Rejected(Vec<String>),
    /// It did not come to be in time.
    #[error("after {after}: {what}")]
    NotYet { after: String, what: String },
    /// The rotation that was waited for was given up by somebody.
    #[error("aborted: the rotation was given up by `weirctl ca rotate --abort`, and the root is that of before")]
    Aborted,
    /// There is a difference; it was printed.
    #[error("there are differences")]
    Different,
    /// Whether there is a difference is not known.
    #[error("{0}")]
    NoDiff(Box<CliError>),
    /// Checks found something; it was printed.
    #[error("{0} things are wrong")]
    NotWell(usize),
    /// What was edited is not taken; it is kept.
    #[error("{}\nwhat you wrote is in {}", clean_lines(.remarks), .file.display())]
    Draft { file: PathBuf, remarks: Vec<String> },
    /// The editor failed.
    #[error("the editor {editor:?} failed: {why}; what you wrote is in {}", .file.display())]
    Editor { editor: String, why: String, file: PathBuf },
    /// It was not in force in time.
    #[error("not in force after {after}: {}", .waiting.join("; "))]
    NotInForce { after: String, waiting: Vec<String> },
    /// The output can't be written.
    #[error("can't write the output: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    /// What to do about it, where the message does not say.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            CliError::Unreachable {
                peer: Peer::ControlPlane,
                ..
            } => Some("is weir-control running? Its address is given by --server or WEIR_SERVER"),
            CliError::Unreachable { peer: Peer::Proxy, .. } => {
                Some("is weir-proxy running on that host? Its admin port is given by its --admin")
            }
            CliError::ProxyRefused { code: 404, .. } => Some("the proxy is older than this weirctl, or it is none"),
            CliError::Strange { .. } => Some("does --server name weir-control's API, and are the versions alike?"),
            CliError::Rejected(_) => {
                Some("what was in force before stays in force on these proxies; see `weirctl status`")
            }
            CliError::NotInForce { .. } => Some("it is applied and may still come into force; see `weirctl status`"),
            CliError::Sources(_) => Some("nothing was applied"),
            CliError::Refused { status, .. } => match status.reason {
                Some(Reason::TooManyRequests | Reason::ServiceUnavailable) => Some("try again in a moment"),
                _ => None,
            },
            CliError::Editor { .. } => Some("name another with WEIR_EDITOR or EDITOR"),
            CliError::Draft { .. } => Some("correct it there, and give it to `weirctl apply -f`"),
            CliError::NoDiff(error) => error.hint(),
            CliError::Usage(_)
            | CliError::File { .. }
            | CliError::Some { .. }
            | CliError::NotYet { .. }
            | CliError::Aborted
            | CliError::Different
            | CliError::NotWell(_)
            | CliError::ProxyRefused { .. }
            | CliError::Absent(_)
            | CliError::Output(_) => None,
        }
    }

    /// Whether all that matters was printed already.
    pub(crate) fn is_said(&self) -> bool {
        matches!(self, CliError::Different | CliError::NotWell(_))
    }

    /// 2 for wrong usage, and where 1 says that there are differences; 1 for everything else.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            CliError::Usage(_) | CliError::NoDiff(_) => ExitCode::from(2),
            CliError::File { .. }
            | CliError::Sources(_)
            | CliError::Unreachable { .. }
            | CliError::Refused { .. }
            | CliError::Strange { .. }
            | CliError::ProxyRefused { .. }
            | CliError::Absent(_)
            | CliError::NotYet { .. }
            | CliError::Aborted
            | CliError::Different
            | CliError::NotWell(_)
            | CliError::Draft { .. }
            | CliError::Editor { .. }
            | CliError::Some { .. }
            | CliError::Rejected(_)
            | CliError::NotInForce { .. }
            | CliError::Output(_) => ExitCode::from(1),
        }
    }

    /// Whether the control plane refused for this reason.
    pub(crate) fn is_refusal(&self, reason: Reason) -> bool {
        match self {
            CliError::Refused { status, .. } => status.reason == Some(reason),
            _ => false,
        }
    }
}

fn clean_lines(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().flat_map(|line| line.lines()).map(clean).collect();
    lines.join("\n")
}

fn named(peer: Peer) -> &'static str {
    match peer {
        Peer::ControlPlane => "the control plane",
        Peer::Proxy => "the proxy",
    }
}

struct Lines<'a>(&'a [SourceError]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{}", clean(&error.to_string()))?;
        }
        Ok(())
    }
}

struct Refusal<'a>(&'a Status);

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let causes = self
            .0
            .details
            .as_ref()
            .map(|details| details.causes.as_slice())
            .unwrap_or_default();
        if causes.is_empty() {
            return f.write_str(&clean(&self.0.message));
        }
        // The message holds them all on one line; they read better one by one.
        let head = self.0.message.split(": ").next().unwrap_or_default();
        f.write_str(&clean(head))?;
        for cause in causes {
            let told = cause.field.is_empty() || cause.message.starts_with(&cause.field);
            let field = if told {
                String::new()
            } else {
                format!("{}: ", cause.field)
            };
            write!(f, "\n  {}", clean(&format!("{field}{}", cause.message)))?;
        }
        Ok(())
    }
}
