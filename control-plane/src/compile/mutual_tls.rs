//! How the inbound ports of workloads are entered, as the MeshConfig says.

use std::collections::BTreeMap;

use weir_api::mesh_config::{self, Entered, MutualTlsMode};
use weir_policy::mutual_tls::{Mode, MutualTls};

/// What holds without a MeshConfig.
pub(crate) static UNSAID: mesh_config::MutualTls = mesh_config::MutualTls {
    mode: MutualTlsMode::Permissive,
    overrides: Vec::new(),
};

/// How the ports of a workload are entered, which has these labels. `None`: they are not known, and it is the strictest
/// that they could make it, so that no door stands open until they are.
pub(crate) fn mutual_tls(
    spec: &mesh_config::MutualTls,
    namespace: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> MutualTls {
    let Entered { ports, others } = spec.of(namespace, labels);
    MutualTls {
        mode: mode(others),
        ports: ports.into_iter().map(|(port, at)| (port, mode(at))).collect(),
    }
}

fn mode(mode: MutualTlsMode) -> Mode {
    match mode {
        MutualTlsMode::Strict => Mode::Strict,
        MutualTlsMode::Permissive => Mode::Permissive,
        MutualTlsMode::Off => Mode::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_said_is_the_default() {
        assert_eq!(UNSAID, mesh_config::MutualTls::default());
        assert_eq!(mutual_tls(&UNSAID, "a", None), MutualTls::everywhere(Mode::Permissive));
    }
}
