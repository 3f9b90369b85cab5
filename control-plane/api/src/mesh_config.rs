//! MeshConfig: settings of the whole mesh.

mod trust_domains;

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use schemars::JsonSchema;
use serde::Serialize;

use crate::decode::{Errors, Node, port};
use crate::http_route::read::{TWIN, TWIN_REMEDY};
use crate::names;
use crate::schema::texts::Label;
use crate::telemetry_policy::{WorkloadSelector, read_selector};

use self::trust_domains::DOMAINS_MAX;
pub use self::trust_domains::TrustDomain;

/// The name of the only MeshConfig there is.
pub const NAME: &str = "mesh";

/// Settings of the whole mesh.
///
/// Rule: there is one MeshConfig, named `mesh`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default)]
pub struct MeshConfigSpec {
    /// What becomes of requests for names that are none of the mesh's.
    pub egress: Egress,
    /// Whether workloads have to be called by mutual TLS.
    pub mutual_tls: MutualTls,
    /// Trust domains beside the mesh's own, whose workloads may call those of the mesh. Default: none.
    ///
    /// Rule: each name stands once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = DOMAINS_MAX), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
    ))]
    pub trust_domains: Vec<TrustDomain>,
}

/// What becomes of requests for names that are none of the mesh's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Egress {
    /// They are refused.
    #[default]
    Refuse,
    /// They go to what the name is in DNS, over plain HTTP, without anything of the mesh's own. What is in the mesh
    /// goes before what is outside. Nothing is sent to loopback, link-local, unspecified and multicast addresses nor to
    /// the proxy's own ports, and no name below `.svc` or `.cluster.local` leads outside.
    Passthrough,
}

/// How the inbound ports of workloads are entered. A proxy that has a certificate takes mutual TLS at each of them,
/// whatever stands here, so that callers and callees may change in any order. A port where requests enter the mesh
/// (`edge`) is open to those who are none of it, in cleartext and by ordinary TLS, also if the mode is Strict; sidecars
/// of the mesh call it in cleartext too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default)]
pub struct MutualTls {
    /// Of the ports that no override takes.
    pub mode: MutualTlsMode,
    /// Of some ports. The first that takes a port holds for it, so that exceptions stand before what they are from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = OVERRIDES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub overrides: Vec<MutualTlsOverride>,
}

/// How a port is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub enum MutualTlsMode {
    /// In cleartext: callers are not told that it could be otherwise.
    Off,
    /// By mutual TLS where the caller can. Who can't comes in cleartext, which is counted.
    #[default]
    Permissive,
    /// By mutual TLS alone: cleartext is refused. That is also true for a proxy that has no certificate, which nobody
    /// can then call.
    Strict,
}

/// How some ports are entered: those that meet all that is given.
///
/// Rule: one of `namespaces`, `selector` and `ports` is given, and no earlier override takes all that this one does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MutualTlsOverride {
    /// Namespaces of workloads. Default: all.
    ///
    /// Rule: each stands once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<Label>",
        default,
        length(min = 1, max = NAMESPACES_MAX),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub namespaces: Vec<String>,
    /// Workloads by their labels. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// App ports. Default: all.
    ///
    /// Rule: each stands once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        default,
        length(min = 1, max = PORTS_MAX),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub ports: Vec<NonZeroU16>,
    /// How these are entered.
    pub mode: MutualTlsMode,
}

/// How the ports of one workload are entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Of single app ports.
    pub ports: BTreeMap<NonZeroU16, MutualTlsMode>,
    /// Of all others.
    pub others: MutualTlsMode,
}

impl Entered {
    /// How an app port is entered.
    pub fn at(&self, port: NonZeroU16) -> MutualTlsMode {
        self.ports.get(&port).copied().unwrap_or(self.others)
    }
}

impl MutualTls {
    /// How the ports of a workload are entered. While its labels are not known (`None`), each is as the strictest says
    /// that they could make hold.
    pub fn of(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> Entered {
        let mut others = Settling::default();
        let mut ports: BTreeMap<NonZeroU16, Settling> = BTreeMap::new();
        for one in &self.overrides {
            let takes = one.takes(namespace, labels);
            for port in &one.ports {
                ports.entry(*port).or_insert(others).meets(takes, one.mode);
            }
            if one.ports.is_empty() {
                let ports = ports.values_mut();
                ports.chain([&mut others]).for_each(|met| met.meets(takes, one.mode));
            }
        }
        let settle = |mut met: Settling| {
            met.meets(Takes::Yes, self.mode);
            met.strictest
        };
        let others = settle(others);
        let ports = ports.into_iter().map(|(port, met)| (port, settle(met)));
        Entered {
            ports: ports.filter(|(_, mode)| *mode != others).collect(),
            others,
        }
    }
}

/// What is known of a port, or of all others, after some of the overrides.
#[derive(Clone, Copy, Debug)]
struct Settling {
    strictest: MutualTlsMode,
    is_settled: bool,
}

impl Default for Settling {
    fn default() -> Settling {
        Settling {
            strictest: MutualTlsMode::Off,
            is_settled: false,
        }
    }
}

impl Settling {
    fn meets(&mut self, takes: Takes, mode: MutualTlsMode) {
        if self.is_settled || takes == Takes::No {
            return;
        }
        self.strictest = self.strictest.max(mode);
        self.is_settled = takes == Takes::Yes;
    }
}

/// Whether an override takes a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// It does not.
    No,
    /// That depends on labels which are not known.
    Perhaps,
    /// It does.
    Yes,
}

impl MutualTlsOverride {
    fn takes(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> Takes {
        if !self.namespaces.is_empty() && !self.namespaces.iter().any(|one| one == namespace) {
            return Takes::No;
        }
        match (&self.selector, labels) {
            (None, _) => Takes::Yes,
            (Some(_), None) => Takes::Perhaps,
            (Some(selector), Some(labels)) if selector.takes(labels) => Takes::Yes,
            (Some(_), Some(_)) => Takes::No,
        }
    }

    /// Whether it takes all that another does.
    fn covers(&self, other: &MutualTlsOverride) -> bool {
        fn holds<T: PartialEq>(these: &[T], others: &[T]) -> bool {
            these.is_empty() || (!others.is_empty() && others.iter().all(|other| these.contains(other)))
        }
        let selects = match (&self.selector, &other.selector) {
            (None, _) => true,
            (Some(_), None) => false,
            // Whoever has the other's labels has these.
            (Some(selector), Some(other)) => selector.takes(&other.match_labels),
        };
        selects && holds(&self.namespaces, &other.namespaces) && holds(&self.ports, &other.ports)
    }
}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<MeshConfigSpec> {
    let mut fields = node.fields(errors)?;
    let egress = fields.optional("egress", errors, |node, errors| {
        let words = [("Refuse", Egress::Refuse), ("Passthrough", Egress::Passthrough)];
        node.choice(errors, &words)
    });
    let mutual_tls = fields.optional("mutualTls", errors, read_mutual_tls);
    let trust_domains = fields.optional("trustDomains", errors, trust_domains::read);
    fields.finish(errors);
    Some(MeshConfigSpec {
        egress: egress.unwrap_or_default(),
        mutual_tls: mutual_tls.unwrap_or_default(),
        trust_domains: trust_domains.unwrap_or_default(),
    })
}

fn read_mutual_tls(node: &Node<'_>, errors: &mut Errors) -> Option<MutualTls> {
    let mut fields = node.fields(errors)?;
    let mode = fields.optional("mode", errors, read_mode);
    let overrides = fields.optional("overrides", errors, |node, errors| {
        let overrides = node.list(errors, OVERRIDES_MAX, read_override)?;
        for (index, later) in overrides.iter().enumerate() {
            let mut earlier = overrides.iter().take(index);
            if let Some(first) = earlier.position(|earlier| earlier.covers(later)) {
                let problem = format!("takes nothing that overrides[{first}] leaves to it");
                node.refuse_item(
                    errors,
                    &overrides,
                    index,
                    problem,
                    "put it before that one, or leave it out",
                );
            }
        }
        Some(overrides)
    });
    fields.finish(errors);
    Some(MutualTls {
        mode: mode.unwrap_or_default(),
        overrides: overrides.unwrap_or_default(),
    })
}

fn read_mode(node: &Node<'_>, errors: &mut Errors) -> Option<MutualTlsMode> {
    let words = [
        ("Off", MutualTlsMode::Off),
        ("Permissive", MutualTlsMode::Permissive),
        ("Strict", MutualTlsMode::Strict),
    ];
    node.choice(errors, &words)
}

fn read_override(node: &Node<'_>, errors: &mut Errors) -> Option<MutualTlsOverride> {
    let mut fields = node.fields(errors)?;
    let namespaces = fields.optional("namespaces", errors, |node, errors| {
        let remedy = "leave it out for all namespaces";
        read_set(node, errors, NAMESPACES_MAX, remedy, names::label)
    });
    let selector = fields.optional("selector", errors, read_selector);
    let ports = fields.optional("ports", errors, |node, errors| {
        read_set(node, errors, PORTS_MAX, "leave it out for all ports", port)
    });
    let mode = fields.required("mode", errors, read_mode);
    let mut narrows = ["namespaces", "selector", "ports"].into_iter();
    let is_narrow = narrows.any(|name| fields.get(name).is_some());
    fields.finish(errors);
    if !is_narrow {
        let remedy = "give namespaces, selector or ports, or say it in mutualTls.mode";
        node.refuse(errors, "takes every port of every workload", remedy);
    }
    Some(MutualTlsOverride {
        namespaces: namespaces.unwrap_or_default(),
        selector,
        ports: ports.unwrap_or_default(),
        mode: mode?,
    })
}

/// A list without twins. One without items would be for all, and reads as if it were for none.
fn read_set<T: PartialEq>(
    node: &Node<'_>,
    errors: &mut Errors,
    max: usize,
    remedy: &str,
    read: fn(&Node<'_>, &mut Errors) -> Option<T>,
) -> Option<Vec<T>> {
    node.refuse_empty(errors, remedy);
    let items = node.list(errors, max, read)?;
    node.refuse_twins(errors, &items, |a, b| a == b, TWIN, TWIN_REMEDY);
    Some(items)
}

/// More exceptions than one keeps in mind.
const OVERRIDES_MAX: usize = 64;
/// Of one override.
const NAMESPACES_MAX: usize = 256;
/// As many as a workload has.
const PORTS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spec;
    use crate::tests::{bad, good};

    fn document(mutual_tls: &str) -> String {
        format!(
            "apiVersion: weir.dev/v1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{mutualTls: {mutual_tls}}}"
        )
    }

    fn read(mutual_tls: &str) -> MutualTls {
        match good(&document(mutual_tls)).spec {
            Spec::MeshConfig(spec) => spec.mutual_tls,
            other => panic!("{other:?}"),
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn port_of(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).expect("a port")
    }

    const RULES: &str = "{mode: Permissive, overrides: [\
        {namespaces: [citizen], ports: [9090], mode: 'Off'}, \
        {namespaces: [citizen, police], selector: {matchLabels: {tier: core}}, mode: Strict}, \
        {selector: {matchLabels: {app: old}}, ports: [8080], mode: 'Off'}, \
        {namespaces: [police], mode: Permissive}, \
        {ports: [7070], mode: Strict}]}";

    #[test]
    fn the_first_override_that_takes_a_port_holds() {
        use MutualTlsMode::{Off, Permissive, Strict};
        let held = read(RULES);
        let core = labels(&[("tier", "core"), ("app", "old")]);
        let old = labels(&[("app", "old")]);
        for (namespace, labels, port, expect) in [
            ("citizen", &core, 9090, Off),
            ("citizen", &core, 8080, Strict),
            ("citizen", &old, 8080, Off),
            ("citizen", &old, 8081, Permissive),
            ("citizen", &old, 7070, Strict),
            ("police", &core, 9090, Strict),
            ("police", &old, 8080, Off),
            ("police", &old, 7070, Permissive),
            ("health", &core, 8080, Off),
            ("health", &core, 9090, Permissive),
            ("health", &core, 7070, Strict),
        ] {
            let entered = held.of(namespace, Some(labels));
            assert_eq!(entered.at(port_of(port)), expect, "{namespace} {labels:?} {port}");
        }
        assert_eq!(held.of("health", Some(&old)).others, Permissive);
        assert_eq!(read("{}"), MutualTls::default());
        assert_eq!(MutualTls::default().of("a", None).others, Permissive);
    }

    #[test]
    fn while_labels_are_not_known_the_strictest_that_could_be_holds() {
        use MutualTlsMode::{Off, Permissive, Strict};
        let held = read(RULES);
        for (namespace, port, expect) in [
            ("citizen", 9090, Off),
            ("citizen", 8080, Strict),
            ("citizen", 1, Strict),
            ("police", 7070, Strict),
            ("health", 8080, Permissive),
            ("health", 7070, Strict),
            ("health", 1, Permissive),
        ] {
            let entered = held.of(namespace, None);
            assert_eq!(entered.at(port_of(port)), expect, "{namespace} {port}");
        }
        // What comes after one that takes it for sure is not looked at.
        let held = read(
            "{mode: Strict, overrides: [{namespaces: [a], mode: 'Off'}, {selector: {matchLabels: {x: y}}, mode: Strict}]}",
        );
        assert_eq!((held.of("a", None).others, held.of("b", None).others), (Off, Strict));
    }

    #[test]
    fn a_port_stands_by_itself_only_where_it_differs() {
        use MutualTlsMode::{Off, Permissive, Strict};
        let held = read(
            "{mode: Strict, overrides: [{namespaces: [a], ports: [80, 81], mode: Permissive}, \
             {ports: [80], mode: Strict}, {selector: {matchLabels: {x: y}}, mode: 'Off'}]}",
        );
        let of = |namespace: &str, labels: Option<&BTreeMap<String, String>>| {
            let Entered { ports, others } = held.of(namespace, labels);
            let ports = ports.into_iter().map(|(port, mode)| (port.get(), mode));
            (others, ports.collect::<Vec<_>>())
        };
        let (none, some) = (labels(&[]), labels(&[("x", "y")]));
        assert_eq!(of("a", Some(&none)), (Strict, vec![(80, Permissive), (81, Permissive)]));
        assert_eq!(of("a", Some(&some)), (Off, vec![(80, Permissive), (81, Permissive)]));
        assert_eq!(of("b", Some(&none)), (Strict, vec![]));
        assert_eq!(of("b", Some(&some)), (Off, vec![(80, Strict)]));
        assert_eq!(of("b", None), (Strict, vec![]));
    }

    #[test]
    fn what_can_have_no_effect_is_refused() {
        for (fields, held) in [
            (
                "mode: On",
                "mode: \"On\" is not supported; \"Off\" or \"Permissive\" or \"Strict\" is right",
            ),
            ("mode: false", "mode: false is not text"),
            ("modes: Strict", "modes: \"Strict\" stands in an unknown field"),
            ("overrides: [{ports: [80]}]", "overrides[0].mode: is missing"),
            (
                "overrides: [{mode: Strict}]",
                "overrides[0]: {\"mode\":\"Strict\"} takes every port of every workload",
            ),
            (
                "overrides: [{namespaces: [], mode: Strict}]",
                "overrides[0].namespaces: [] is empty; leave it out for all namespaces",
            ),
            (
                "overrides: [{ports: [], mode: Strict}]",
                "overrides[0].ports: [] is empty; leave it out for all ports",
            ),
            (
                "overrides: [{selector: {matchLabels: {}}, mode: Strict}]",
                "overrides[0].selector.matchLabels: {} holds no label",
            ),
            (
                "overrides: [{namespaces: [a, a], mode: Strict}]",
                "overrides[0].namespaces[1]: \"a\" is there already",
            ),
            (
                "overrides: [{ports: [80, 80], mode: Strict}]",
                "overrides[0].ports[1]: 80 is there already",
            ),
            (
                "overrides: [{ports: [0], mode: Strict}]",
                "overrides[0].ports[0]: 0 is out of range",
            ),
            (
                "overrides: [{namespaces: [A], mode: Strict}]",
                "overrides[0].namespaces[0]: \"A\" is no",
            ),
        ] {
            bad(
                &document(&format!("{{{fields}}}")),
                &[&format!("f:4: spec.mutualTls.{held}")],
            );
        }
        for (earlier, later) in [
            ("namespaces: [a, b]", "namespaces: [b, a]"),
            ("namespaces: [a, b]", "namespaces: [b]"),
            ("namespaces: [a]", "namespaces: [a], ports: [80]"),
            ("ports: [80, 81]", "ports: [81], selector: {matchLabels: {x: y}}"),
            (
                "selector: {matchLabels: {x: y}}",
                "selector: {matchLabels: {x: y, z: y}}, namespaces: [a]",
            ),
        ] {
            let overrides = |first: &str, second: &str| {
                document(&format!(
                    "{{overrides: [{{ports: [1], mode: Strict}}, {{{first}, mode: Strict}}, {{{second}, mode: 'Off'}}]}}"
                ))
            };
            let text = overrides(earlier, later);
            let errors = crate::yaml::read_objects(&text, "f", None).expect_err("it is never reached");
            let [error] = errors.as_slice() else {
                panic!("{errors:?}")
            };
            let says = error.to_string();
            assert!(says.starts_with("f:4: spec.mutualTls.overrides[2]: "), "{says}");
            assert!(says.contains("takes nothing that overrides[1] leaves to it"), "{says}");
            if earlier.len() != later.len() {
                good(&overrides(later, earlier));
            }
        }
        let many = |count: usize| {
            let overrides: Vec<String> = (1..=count).map(|n| format!("{{ports: [{n}], mode: Strict}}")).collect();
            document(&format!("{{overrides: [{}]}}", overrides.join(", ")))
        };
        good(&many(OVERRIDES_MAX));
        bad(&many(OVERRIDES_MAX + 1), &["f:4: spec.mutualTls.overrides: "]);
    }
}
