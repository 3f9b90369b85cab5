//! How the inbound ports of workloads are entered, as the MeshConfig says.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use weir_api::mesh_config::{self, MutualTlsMode};
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
    let at = |port: Option<NonZeroU16>| match spec.mode_of(namespace, labels, port) {
        MutualTlsMode::Strict => Mode::Strict,
        MutualTlsMode::Permissive => Mode::Permissive,
        MutualTlsMode::Off => Mode::Off,
    };
    let mode = at(None);
    let ports = spec.ports().map(|port| (port, at(Some(port))));
    MutualTls {
        mode,
        ports: ports.filter(|(_, at)| *at != mode).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::fixture;

    #[test]
    fn a_port_stands_by_itself_only_where_it_differs() {
        let spec = fixture::mutual_tls(
            "{mode: Strict, overrides: [{namespaces: [a], ports: [80, 81], mode: Permissive}, {ports: [80], mode: Strict}, \
             {selector: {matchLabels: {x: y}}, mode: 'Off'}]}",
        );
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let held = |namespace: &str, labels: Option<&BTreeMap<String, String>>| {
            let held = mutual_tls(&spec, namespace, labels);
            let ports = held.ports.into_iter().map(|(port, mode)| (port.get(), mode));
            (held.mode, ports.collect::<Vec<_>>())
        };
        use Mode::{Off, Permissive, Strict};
        let (none, some) = (labels(&[]), labels(&[("x", "y")]));
        assert_eq!(
            held("a", Some(&none)),
            (Strict, vec![(80, Permissive), (81, Permissive)])
        );
        assert_eq!(held("a", Some(&some)), (Off, vec![(80, Permissive), (81, Permissive)]));
        assert_eq!(held("b", Some(&none)), (Strict, vec![]));
        assert_eq!(held("b", Some(&some)), (Off, vec![(80, Strict)]));
        assert_eq!(held("b", None), (Strict, vec![]));
    }

    #[test]
    fn what_nobody_said_is_the_default() {
        assert_eq!(UNSAID, mesh_config::MutualTls::default());
        assert_eq!(mutual_tls(&UNSAID, "a", None), MutualTls::everywhere(Mode::Permissive));
    }
}
