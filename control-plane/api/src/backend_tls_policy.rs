//! BackendTLSPolicy (`gateway.networking.k8s.io/v1`, GEP-1897): TLS with what answers behind a Service.

use schemars::JsonSchema;
use serde::Serialize;

use crate::backend_policy::{TargetRef, read_target};
use crate::decode::{Errors, Node};
use crate::http_route::read::{read_hostname, read_precise_hostname};
use crate::names;
use crate::reference;
use crate::schema::texts::{Host, KindName, Subdomain, SubdomainOrEmpty, Uri};

/// TLS with the endpoints of some Services that are no workloads of the mesh, such as another department's old system:
/// who must answer there, and by whose word. Workloads of the mesh are reached by its own mutual TLS all the same. Of
/// two policies for one port the older holds; one for a named port goes before one for the whole Service. As long as
/// the one that holds has no certificate to go by, nothing is sent there at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BackendTLSPolicySpec")]
pub struct BackendTlsPolicySpec {
    /// Which Services it is for, all of its own namespace.
    ///
    /// Rule: none is there twice, and one that is there with `sectionName` is not there without.
    #[schemars(length(min = 1, max = reference::TARGETS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub target_refs: Vec<TargetRef>,
    /// Who must answer.
    pub validation: Validation,
}

/// Who must answer, and by whose word.
///
/// Rule: exactly one of `caCertificateRefs`, with at least one entry, and `wellKnownCACertificates` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BackendTLSPolicyValidation")]
pub struct Validation {
    /// Where the certificates are of those who sign for the upstream: ConfigMaps of the policy's own namespace, each
    /// with at least one certificate in PEM under `ca.crt`. What one of them lacks, the policy's status says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = CA_REFS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub ca_certificate_refs: Vec<CaCertificateRef>,
    /// Certificates that need not be given. Default: none, and `caCertificateRefs` says which.
    #[serde(rename = "wellKnownCACertificates", skip_serializing_if = "Option::is_none")]
    pub well_known_ca_certificates: Option<WellKnownCaCertificates>,
    /// The upstream's name: it is asked for by this (SNI, RFC 6066 section 3), and its certificate must be for it,
    /// unless there are `subjectAltNames`.
    ///
    /// Rule: an IP address is none, and its last part is no number, decimal or hexadecimal: `a.1` could be read as one.
    #[schemars(with = "Subdomain")]
    pub hostname: String,
    /// Whom the certificate may be for instead: it must have at least one of these names. `hostname` is none of them
    /// unless it is given here. Default: `hostname` alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = ALT_NAMES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// Where certificates are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "LocalObjectReference")]
pub struct CaCertificateRef {
    /// The group of `kind`: empty for a ConfigMap.
    #[schemars(with = "SubdomainOrEmpty")]
    pub group: String,
    /// A ConfigMap. Of another kind nothing is read, as the policy's status says then.
    #[schemars(with = "KindName")]
    pub kind: String,
    /// Its name, in the policy's own namespace.
    #[schemars(with = "Subdomain")]
    pub name: String,
}

impl CaCertificateRef {
    /// Whether it is of a kind that is read.
    pub fn is_config_map(&self) -> bool {
        self.group.is_empty() && self.kind == crate::Kind::ConfigMap.kind()
    }
}

/// Certificates that need not be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "WellKnownCACertificatesType")]
pub enum WellKnownCaCertificates {
    /// Those that the system of each proxy trusts.
    System,
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type")]
pub enum SubjectAltName {
    /// A name of the DNS.
    Hostname {
        /// The name; one with `*` in front is in a certificate only as it stands.
        ///
        /// Rule: an IP address is none, and its last part is no number.
        #[schemars(with = "Host")]
        hostname: String,
    },
    /// A URI, such as a SPIFFE id.
    #[serde(rename = "URI")]
    Uri {
        /// The URI, exactly.
        #[schemars(with = "Uri")]
        uri: String,
    },
}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<BackendTlsPolicySpec> {
    let mut fields = node.fields(errors)?;
    let target_refs = fields.required("targetRefs", errors, |node, errors| {
        let targets = reference::policy_targets(node, errors, "a policy is for at least one Service", read_target)?;
        let clash =
            |a: &TargetRef, b: &TargetRef| a.name == b.name && a.section_name.is_some() != b.section_name.is_some();
        let remedy = "give a sectionName with each, or with none";
        node.refuse_twins(
            errors,
            &targets,
            clash,
            "names a Service that an earlier one names with or without a sectionName",
            remedy,
        );
        Some(targets)
    });
    let validation = fields.required("validation", errors, read_validation);
    fields.refused(
        "options",
        errors,
        "is not supported",
        "leave it out: TLS 1.2 and 1.3 are spoken",
    );
    fields.finish(errors);
    Some(BackendTlsPolicySpec {
        target_refs: target_refs?,
        validation: validation?,
    })
}

fn read_validation(node: &Node<'_>, errors: &mut Errors) -> Option<Validation> {
    let mut fields = node.fields(errors)?;
    let refs = fields.optional("caCertificateRefs", errors, |node, errors| {
        node.list(errors, CA_REFS_MAX, read_ca_ref)
    });
    let well_known = fields.optional("wellKnownCACertificates", errors, |node, errors| {
        node.choice(errors, &[("System", WellKnownCaCertificates::System)])
    });
    let given = (fields.get("caCertificateRefs"), fields.get("wellKnownCACertificates"));
    let has_refs = given
        .0
        .is_some_and(|node| node.value().as_array().is_none_or(|refs| !refs.is_empty()));
    match (has_refs, &given.1) {
        (true, Some(node)) => node.refuse(
            errors,
            "stands beside caCertificateRefs",
            "give one of the two: certificates of your own, or those of the system",
        ),
        (false, None) => node.missing(
            errors,
            "caCertificateRefs",
            "[{group: \"\", kind: ConfigMap, name: NAME}] is right, or wellKnownCACertificates: System",
        ),
        (true, None) | (false, Some(_)) => {}
    }
    let hostname = fields.required("hostname", errors, |node, errors| {
        read_precise_hostname(node, errors).filter(|name| is_no_number(node, name, errors))
    });
    let names = fields.optional("subjectAltNames", errors, |node, errors| {
        node.list(errors, ALT_NAMES_MAX, read_alt_name)
    });
    fields.finish(errors);
    Some(Validation {
        ca_certificate_refs: refs.unwrap_or_default(),
        well_known_ca_certificates: well_known,
        hostname: hostname?,
        subject_alt_names: names.unwrap_or_default(),
    })
}

fn read_ca_ref(node: &Node<'_>, errors: &mut Errors) -> Option<CaCertificateRef> {
    let mut fields = node.fields(errors)?;
    let group = fields.required("group", errors, |node, errors| {
        let is_right = |group: &str| group.is_empty() || names::is_subdomain(group);
        names::checked(node, errors, is_right, "is no group", "\"\" is right, for a ConfigMap")
    });
    let kind = fields.required("kind", errors, |node, errors| {
        names::kind(node, errors, "ConfigMap is right")
    });
    let name = fields.required("name", errors, names::subdomain);
    fields.finish(errors);
    Some(CaCertificateRef {
        group: group?,
        kind: kind?,
        name: name?,
    })
}

fn read_alt_name(node: &Node<'_>, errors: &mut Errors) -> Option<SubjectAltName> {
    #[derive(Clone, Copy)]
    enum Of {
        Hostname,
        Uri,
    }
    let mut fields = node.fields(errors)?;
    let of = fields.required("type", errors, |node, errors| {
        node.choice(errors, &[("Hostname", Of::Hostname), ("URI", Of::Uri)])
    });
    let (hostname, uri) = (fields.get("hostname"), fields.get("uri"));
    fields.finish(errors);
    let of = of?;
    let (given, name, other, only) = match of {
        Of::Hostname => (hostname, "hostname", uri, "URI"),
        Of::Uri => (uri, "uri", hostname, "Hostname"),
    };
    if let Some(other) = other {
        other.refuse(errors, "would be without effect", format!("it belongs to type: {only}"));
        return None;
    }
    let Some(given) = given else {
        node.missing(errors, name, "it has to be given");
        return None;
    };
    match of {
        Of::Hostname => Some(SubjectAltName::Hostname {
            hostname: read_hostname(&given, errors).filter(|name| is_no_number(&given, name, errors))?,
        }),
        Of::Uri => {
            let remedy = "a URI like spiffe://example.org/ns/a/sa/b is right: scheme, \"://\" and the rest, in ASCII";
            let uri = names::checked(&given, errors, is_uri, "is no absolute URI", remedy)?;
            Some(SubjectAltName::Uri { uri })
        }
    }
}

/// Whether a name does not end in a number: proxies would read it as an address, and no certificate is for it (WHATWG
/// URL, "ends in a number checker").
fn is_no_number(node: &Node<'_>, name: &str, errors: &mut Errors) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_hex = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
    let is_number = last.bytes().all(|b| b.is_ascii_digit()) || last.strip_prefix("0x").is_some_and(is_hex);
    if is_number {
        let remedy = "a name like a.example.org is right: its last part is no number";
        node.refuse(errors, "ends in a number", remedy);
    }
    !is_number
}

/// An absolute URI with an authority (RFC 3986 section 3), as far as the Gateway API looks at it.
fn is_uri(text: &str) -> bool {
    let is_scheme = |scheme: &str| {
        let mut bytes = scheme.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
            && bytes.all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b))
    };
    let is_rest = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic());
    let parts = text.split_once("://");
    text.len() <= 253 && parts.is_some_and(|(scheme, rest)| is_scheme(scheme) && is_rest(rest))
}

/// The CRD's limits.
const CA_REFS_MAX: usize = 8;
const ALT_NAMES_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use crate::tests::{bad, good};

    const HEAD: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: p}\n";
    const TARGET: &str = "targetRefs: [{group: '', kind: Service, name: a}]";
    const CA: &str = "caCertificateRefs: [{group: '', kind: ConfigMap, name: c}]";

    /// A policy for a Service with this validation, in line 6.
    fn validation(fields: &str) -> String {
        format!("{HEAD}spec:\n  {TARGET}\n  validation: {{{fields}}}\n")
    }

    #[test]
    fn what_is_right() {
        for fields in [
            format!("{CA}, hostname: a.example"),
            "wellKnownCACertificates: System, hostname: a.example, caCertificateRefs: []".to_owned(),
            format!("{CA}, hostname: a, subjectAltNames: [{{type: Hostname, hostname: '*.a.example'}}]"),
            format!("{CA}, hostname: a, subjectAltNames: [{{type: URI, uri: 'urn+x://a', hostname: null}}]"),
            // What stands there the policy's status says, as the Gateway API has it.
            "caCertificateRefs: [{group: '', kind: Secret, name: c}], hostname: a".to_owned(),
            "caCertificateRefs: [{group: a.example, kind: Bundle, name: c}], hostname: a".to_owned(),
        ] {
            good(&validation(&fields));
        }
        good(&format!(
            "{}  options: {{}}\n",
            validation(&format!("{CA}, hostname: a"))
        ));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        #[track_caller]
        fn check(fields: &str, expect: &str) {
            bad(&validation(fields), &[&format!("f:6: spec.validation{expect}")]);
        }
        check("hostname: a", ".caCertificateRefs: is missing");
        check("hostname: a, caCertificateRefs: []", ".caCertificateRefs: is missing");
        check(
            &format!("{CA}, hostname: a, wellKnownCACertificates: System"),
            ".wellKnownCACertificates: \"System\" stands beside caCertificateRefs; give one of the two",
        );
        check(
            "hostname: a, wellKnownCACertificates: Mozilla",
            ".wellKnownCACertificates: \"Mozilla\" is not supported; \"System\" is right",
        );
        check(CA, ".hostname: is missing");
        check(
            &format!("{CA}, hostname: 10.0.0.1"),
            ".hostname: \"10.0.0.1\" is no host name",
        );
        for name in ["a.1", "a.0x1f", "a.0x"] {
            check(
                &format!("{CA}, hostname: {name}"),
                &format!(".hostname: \"{name}\" ends in a number"),
            );
        }
        check(&format!("{CA}, hostname: '*.a'"), ".hostname: \"*.a\" is no host name");
        let names = |names: &str| format!("{CA}, hostname: a, subjectAltNames: [{names}]");
        check(
            &names("{type: Hostname, hostname: '*.2019'}"),
            ".subjectAltNames[0].hostname: \"*.2019\" ends in a number",
        );
        check(
            &names("{type: Hostname, hostname: a, uri: 'x://a'}"),
            ".subjectAltNames[0].uri: \"x://a\" would be without effect; it belongs to type: URI",
        );
        check(&names("{type: URI}"), ".subjectAltNames[0].uri: is missing");
        check(
            &names("{type: URI, uri: a}"),
            ".subjectAltNames[0].uri: \"a\" is no absolute URI",
        );
        check(
            &names("{type: URI, uri: 'a://'}"),
            ".subjectAltNames[0].uri: \"a://\" is no absolute URI",
        );
        check(
            &names("{type: URI, uri: '1a://b'}"),
            ".subjectAltNames[0].uri: \"1a://b\" is no absolute URI",
        );
    }

    #[test]
    fn targets_with_and_without_a_port_and_options_are_refused() {
        let targets =
            "targetRefs: [{group: '', kind: Service, name: a}, {group: '', kind: Service, name: a, sectionName: b}]";
        bad(
            &format!("{HEAD}spec:\n  {targets}\n  validation: {{{CA}, hostname: a}}\n"),
            &["f:5: spec.targetRefs[1]"],
        );
        bad(
            &format!(
                "{}  options: {{example.org/min: '1.3'}}\n",
                validation(&format!("{CA}, hostname: a"))
            ),
            &["f:7: spec.options: {\"example.org/min\":\"1.3\"} is not supported"],
        );
    }
}
