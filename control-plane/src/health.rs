//! Whether this process can serve, part by part.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::authority::Authority;
use crate::store::Store;

/// What every part tells about itself; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    store: Store,
    authority: Authority,
    files: Arc<Mutex<Files>>,
}

/// How the folder of `--resources` is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Files {
    /// None is read.
    #[default]
    Unused,
    /// Not read yet.
    Loading,
    /// In force as it is.
    InForce {
        /// How many objects it holds.
        objects: usize,
    },
    /// What it held before is in force, since what it holds now is wrong.
    Broken {
        /// What is wrong, one line each.
        errors: Vec<String>,
    },
}

/// Whether the process can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Yes,
    No,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) ready: Ready,
    /// Why the store can't write; what it holds is served all the same.
    store_trouble: Option<String>,
    files: Files,
    /// What of the authority ends soon; it serves until then.
    ends_soon: Vec<String>,
}

impl Health {
    pub(crate) fn new(store: Store, authority: Authority) -> Health {
        Health {
            store,
            authority,
            files: Arc::default(),
        }
    }

    pub(crate) fn set_files(&self, files: Files) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
    }

    pub(crate) fn report(&self) -> Report {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ready = match files {
            Files::Unused | Files::InForce { .. } | Files::Broken { .. } => Ready::Yes,
            Files::Loading => Ready::No,
        };
        Report {
            ready,
            store_trouble: self.store.trouble().map(|error| error.to_string()),
            files,
            ends_soon: self.authority.ends_soon(SystemTime::now()),
        }
    }
}

/// One line for each part, `[+]` in order and `[-]` not, as Kubernetes writes it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.store_trouble {
            None => writeln!(f, "[+] store")?,
            Some(error) => writeln!(
                f,
                "[-] store: what it holds is served, but the latest write failed: {error}"
            )?,
        }
        match &self.files {
            Files::Unused => {}
            Files::Loading => writeln!(f, "[-] files: not read yet")?,
            Files::InForce { objects } => writeln!(f, "[+] files: {objects} objects in force")?,
            Files::Broken { errors } => {
                writeln!(
                    f,
                    "[-] files: what they held before is in force, since they are wrong now"
                )?;
                for error in errors {
                    writeln!(f, "    {error}")?;
                }
            }
        }
        if self.ends_soon.is_empty() {
            writeln!(f, "[+] authority")?;
        }
        for ends_soon in &self.ends_soon {
            writeln!(f, "[-] authority: {ends_soon}")?;
        }
        match self.ready {
            Ready::Yes => writeln!(f, "ready"),
            Ready::No => writeln!(f, "not ready"),
        }
    }
}
