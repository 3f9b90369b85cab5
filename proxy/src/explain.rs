//! Which way a request would go through this proxy, and why: by the snapshot and the matcher that serve requests.

mod explanation;
mod question;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use weir_policy::egress::{Egress, Outside};
use weir_policy::names::{ListenerName, WorkloadName};

pub(crate) use explanation::Explanation;
use explanation::Facts;
pub(crate) use question::Question;

use crate::egress::{Closed, Exit, Reachable};
use crate::error::ProxyError;
use crate::http::head::{Head, Over};
use crate::mesh::{Mesh, Unavailable};
use crate::outbound::CONFIG_WAIT;

/// Answers questions about requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Explainer {
    mesh: Mesh,
    workload: Arc<WorkloadName>,
    exit: Exit,
}

/// What an explanation may do to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// Nothing: it is made of what is in force.
    InForce,
    /// What the request would do: a name that nobody has asked for is asked for and waited for. Beside that the name
    /// is looked up in public DNS.
    AsRequest,
}

/// What public DNS says of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PublicDns {
    /// Its addresses, at most eight.
    Addresses(Vec<String>),
    /// Why there are none.
    Error(String),
}

impl Explainer {
    pub(crate) fn new(mesh: Mesh, workload: Arc<WorkloadName>, exit: Exit) -> Explainer {
        Explainer { mesh, workload, exit }
    }

    /// Explains a request. It waits only [`Asking::AsRequest`], at most as long as a request would.
    ///
    /// # Cancel safety
    /// Dropping the future leaves behind what a request that was given up would: a question to the control plane.
    pub(crate) async fn explain(&self, question: &Question, asking: Asking) -> Explanation {
        let head = Head::read(question.head(), Over::Cleartext);
        let name = match &head {
            Ok(head) => ListenerName::from_authority(head.authority.as_str(), &self.workload.namespace).ok(),
            Err(_) => None,
        };
        let (waited, looked_up) = match (asking, &head) {
            (Asking::AsRequest, Ok(head)) => {
                let (waited, looked_up) = tokio::join!(self.wait_for(head, name.as_ref()), self.look_up(head));
                (waited, Some(looked_up))
            }
            (Asking::AsRequest, Err(_)) | (Asking::InForce, _) => (None, None),
        };
        let (public_dns, outside) = looked_up.unzip();
        let snapshot = self.mesh.current();
        let link = self.mesh.link_status();
        let facts = Facts {
            workload: &self.workload,
            snapshot: &snapshot,
            link: &link,
            now: self.mesh.clock().now(),
            waited,
            public_dns,
            outside: outside.flatten(),
        };
        Explanation::new(&facts, question, head)
    }

    /// Has the name asked for, as a request would; why that came to nothing.
    async fn wait_for(&self, head: &Head, name: Option<&ListenerName>) -> Option<ProxyError> {
        let name = name?;
        let why = match self.mesh.service(name, CONFIG_WAIT).await.err()? {
            Unavailable::NoSuchService if name.port.is_some() && self.passes_through() => {
                let there = self.mesh.has_service(&name.service, CONFIG_WAIT).await;
                there.err().unwrap_or(Unavailable::NoSuchService)
            }
            why => why,
        };
        Some(ProxyError::of_name(head.authority.as_str(), why))
    }

    fn passes_through(&self) -> bool {
        self.mesh.current().egress() == Some(Egress::Passthrough)
    }

    /// What the name is outside of the mesh: in public DNS, and as far as it may be reached.
    async fn look_up(&self, head: &Head) -> (PublicDns, Option<Result<Reachable, Closed>>) {
        let place = match Outside::of(&head.authority) {
            Ok(place) => place,
            Err(error) => return (PublicDns::Error(error.to_string()), None),
        };
        let found = self.exit.look_up(&place.host, LOOK_UP_WAIT).await;
        let public = match &found {
            Ok(found) => {
                let addresses = found.addresses.iter().map(ToString::to_string);
                PublicDns::Addresses(addresses.take(ADDRESSES_MAX).collect())
            }
            Err(error) => PublicDns::Error(error.to_string()),
        };
        (public, Some(self.exit.reachable(found, place.port.get())))
    }
}

const LOOK_UP_WAIT: Duration = Duration::from_secs(1);
const ADDRESSES_MAX: usize = 8;
