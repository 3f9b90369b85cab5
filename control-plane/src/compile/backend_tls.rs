//! How the endpoints of a service port are reached that have no identity: by the BackendTLSPolicy that holds for it,
//! and with the certificates that it refers to.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use weir_api::backend_policy::TargetRef;
use weir_api::backend_tls_policy::{BackendTlsPolicySpec, CaCertificateRef, SubjectAltName, WellKnownCaCertificates};
use weir_api::service::ServicePort;
use weir_api::{Key, Kind, Object, Spec};
use weir_policy::backend_tls::{self, Authorities, BackendTls, Certificate, Validation};
use weir_policy::names::ServiceName;
use weir_xds::pem;

use super::index::{Index, Of};
use super::source;

/// What a policy's references lead to.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// Who signs for the upstream; `None`: nobody, and nothing may be sent there.
    pub(crate) authorities: Option<Authorities>,
    /// What is wrong with single references, in their order.
    pub(crate) problems: Vec<RefProblem>,
    /// The objects that the certificates are from, with their generations.
    pub(crate) sources: Vec<(Key, i64)>,
}

/// A reference that leads to no certificates.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RefProblem {
    /// What kind of problem it is.
    pub(crate) reason: RefReason,
    /// Which reference, what is wrong, and what would be right.
    pub(crate) message: String,
}

/// Gateway API, BackendTLSPolicyReasonInvalidKind and BackendTLSPolicyReasonInvalidCACertificateRef.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefReason {
    /// Of that kind nothing is read.
    Kind,
    /// It is not there, or holds no certificates.
    Certificates,
}

/// The policy that holds for a port: one for the port by name before one for the whole service, then the older. One
/// that has no certificate to go by holds as well.
pub(crate) fn policy_for<'a, 'b>(
    name: &ServiceName,
    port: &ServicePort,
    oldest_first: &'a [Of<'b, BackendTlsPolicySpec>],
) -> Option<&'a Of<'b, BackendTlsPolicySpec>> {
    let oldest = |section: Option<&str>| {
        let is_this =
            |target: &TargetRef| target.name == name.service.as_str() && target.section_name.as_deref() == section;
        let mut policies = oldest_first.iter();
        policies.find(|policy| policy.spec.target_refs.iter().any(is_this))
    };
    let by_port = port.name.as_deref().and_then(|section| oldest(Some(section)));
    by_port.or_else(|| oldest(None))
}

/// What a policy says, and what it was made from: the policy, and where its certificates are.
pub(super) fn compiled(policy: &Of<'_, BackendTlsPolicySpec>, index: &Index) -> (BackendTls, Vec<(Key, i64)>) {
    let resolved = resolved(policy.object, policy.spec, index);
    let mut sources = vec![source(policy.object)];
    sources.extend(resolved.sources);
    let validation = &policy.spec.validation;
    let Some(authorities) = resolved.authorities else {
        let problems: Vec<String> = resolved.problems.into_iter().map(|problem| problem.message).collect();
        let why = format!(
            "{} has no certificate to go by: {}",
            policy.object.key(),
            problems.join("; ")
        );
        return (BackendTls::Closed { why: clipped(why) }, sources);
    };
    let names = validation.subject_alt_names.iter().map(|name| match name {
        SubjectAltName::Hostname { hostname } => backend_tls::SubjectAltName::Dns(hostname.clone()),
        SubjectAltName::Uri { uri } => backend_tls::SubjectAltName::Uri(uri.clone()),
    });
    let verified = Validation {
        hostname: validation.hostname.clone(),
        authorities,
        subject_alt_names: names.collect(),
    };
    (BackendTls::Verified(verified), sources)
}

/// A text that proxies take: one that is too long would be refused, and with it that the cluster is closed.
fn clipped(text: String) -> String {
    match text.char_indices().nth(WHY_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// Where a policy's references lead.
pub(crate) fn resolved(policy: &Object, spec: &BackendTlsPolicySpec, index: &Index) -> Resolved {
    let mut resolved = Resolved {
        authorities: None,
        problems: Vec::new(),
        sources: Vec::new(),
    };
    match spec.validation.well_known_ca_certificates {
        Some(WellKnownCaCertificates::System) => {
            resolved.authorities = Some(Authorities::System);
            return resolved;
        }
        None => {}
    }
    let mut certificates: Vec<Certificate> = Vec::new();
    for (i, reference) in spec.validation.ca_certificate_refs.iter().enumerate() {
        let place = format!("caCertificateRefs[{i}]");
        let held = match config_map(&policy.metadata.namespace, reference, index) {
            Ok(object) => {
                resolved.sources.push(source(object));
                read(object)
            }
            Err(problem) => Err(problem),
        };
        let bytes = |held: &[Certificate]| -> usize { held.iter().map(|one| one.0.len()).sum() };
        let problem = match held {
            Ok(held) if bytes(&certificates) + bytes(&held) > CERTIFICATE_BYTES_MAX => RefProblem {
                reason: RefReason::Certificates,
                message: format!(" makes it more than {CERTIFICATE_BYTES_MAX} bytes of certificates in all"),
            },
            Ok(held) => {
                for certificate in held {
                    if !certificates.contains(&certificate) {
                        certificates.push(certificate);
                    }
                }
                continue;
            }
            Err(problem) => problem,
        };
        resolved.problems.push(RefProblem {
            message: format!("{place}{}", problem.message),
            ..problem
        });
    }
    if !certificates.is_empty() {
        resolved.authorities = Some(Authorities::Given(certificates));
    }
    resolved
}

/// The ConfigMap that a policy in this namespace refers to.
fn config_map<'a>(namespace: &str, reference: &CaCertificateRef, index: &'a Index) -> Result<&'a Object, RefProblem> {
    if !reference.is_config_map() {
        let CaCertificateRef { group, kind, name: _ } = reference;
        let of = if group.is_empty() {
            String::new()
        } else {
            format!(" of {group}")
        };
        let message = format!(
            " is a {kind}{of}, of which nothing is read: put the certificate, without a key, into ca.crt of a ConfigMap"
        );
        return Err(RefProblem {
            reason: RefReason::Kind,
            message,
        });
    }
    let key = key(namespace, reference);
    let object = index.objects().get(&key);
    object.map(|object| &**object).ok_or_else(|| RefProblem {
        reason: RefReason::Certificates,
        message: format!(": there is no {key}"),
    })
}

/// What names the ConfigMap that a policy in this namespace refers to, whether or not it is there.
pub(super) fn key(namespace: &str, reference: &CaCertificateRef) -> Key {
    Key {
        kind: Kind::ConfigMap,
        namespace: namespace.to_owned(),
        name: reference.name.clone(),
    }
}

/// The certificates of a ConfigMap, all or none.
fn read(object: &Object) -> Result<Vec<Certificate>, RefProblem> {
    let wrong = |message: String| RefProblem {
        reason: RefReason::Certificates,
        message: format!(": {message}"),
    };
    let key = object.key();
    let Spec::ConfigMap(body) = &object.spec else {
        return Err(wrong(format!("{key} is none")));
    };
    let Some(text) = body.data.get(CA_CRT) else {
        let names: Vec<&str> = body.data.keys().map(String::as_str).take(3).collect();
        let has = if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        };
        return Err(wrong(format!("data of {key} has no {CA_CRT}; it has {has}")));
    };
    let certificates =
        pem::certificates(text).map_err(|error| wrong(format!("{CA_CRT} of {key} is not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(wrong(format!("{CA_CRT} of {key} holds no certificate in PEM")));
    }
    // With what proxies do it with, so that none refuses what is sent.
    let mut store = RootCertStore::empty();
    for (i, certificate) in certificates.iter().enumerate() {
        let read = store.add(CertificateDer::from_slice(certificate).into_owned());
        read.map_err(|error| {
            wrong(format!(
                "certificate {} in {CA_CRT} of {key} can't be read: {error}",
                i + 1
            ))
        })?;
    }
    Ok(certificates.into_iter().map(Certificate).collect())
}

/// Gateway API, BackendTLSPolicyValidation: the key in a ConfigMap.
const CA_CRT: &str = "ca.crt";

/// All that the systems of this world trust has a third of it, and a message to a proxy has room for it several times.
const CERTIFICATE_BYTES_MAX: usize = 512 * 1024;

/// A quarter of what proxies take: it stands in each answer of the closed service.
const WHY_CHARS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{cluster, fixture};

    fn tls_of(objects: &[Object], port: &str) -> (Option<BackendTls>, Vec<String>) {
        let index = fixture::index(objects.to_vec());
        let name = format!("portal.citizen:{port}").parse().expect("a cluster");
        let compiled = cluster(&name, &index).expect("it is there");
        (compiled.resource.backend_tls, compiled.resource.sources)
    }

    #[track_caller]
    fn closed(objects: &[Object], expect: &str) {
        let all = [&[fixture::service("citizen", "portal", &[("https", 443)])], objects].concat();
        match tls_of(&all, "443").0 {
            Some(BackendTls::Closed { why }) => assert_eq!(why, expect),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn certificates_are_those_of_the_config_maps_once_each() {
        let (a, b) = (fixture::certificate("a"), fixture::certificate("b"));
        let objects = [
            fixture::service("citizen", "portal", &[("https", 443)]),
            fixture::tls_policy("p", 1, None, &["one", "two"]),
            fixture::config_map("one", "ca.crt", &format!("ours\n{}{}", a.pem(), b.pem())),
            fixture::config_map("two", "ca.crt", &a.pem()),
        ];
        let (tls, sources) = tls_of(&objects, "443");
        let expect = BackendTls::Verified(Validation {
            hostname: "portal.example".to_owned(),
            authorities: Authorities::Given(vec![Certificate(a.der().to_vec()), Certificate(b.der().to_vec())]),
            subject_alt_names: Vec::new(),
        });
        assert_eq!(tls, Some(expect));
        let expect = [
            "Service/citizen/portal",
            "BackendTLSPolicy/citizen/p",
            "ConfigMap/citizen/one",
            "ConfigMap/citizen/two",
        ];
        assert_eq!(sources, expect);
    }

    #[test]
    fn of_several_references_the_good_ones_count() {
        let a = fixture::certificate("a");
        let objects = [
            fixture::service("citizen", "portal", &[("https", 443)]),
            fixture::tls_policy("p", 1, None, &["missing", "two"]),
            fixture::config_map("two", "ca.crt", &a.pem()),
        ];
        match tls_of(&objects, "443").0 {
            Some(BackendTls::Verified(validation)) => {
                assert_eq!(
                    validation.authorities,
                    Authorities::Given(vec![Certificate(a.der().to_vec())])
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_long_list_of_what_is_wrong_is_cut() {
        let names: Vec<String> = (0..8).map(|i| format!("{}{i}", "c".repeat(250))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let objects = [
            fixture::service("citizen", "portal", &[("https", 443)]),
            fixture::tls_policy("p", 1, None, &names),
        ];
        match tls_of(&objects, "443").0 {
            Some(BackendTls::Closed { why }) => {
                assert_eq!(why.chars().count(), WHY_CHARS_MAX + 1);
                assert!(why.ends_with('…'), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_certificate_the_port_is_closed() {
        let policy = fixture::tls_policy("p", 1, None, &["c"]);
        let begin = "BackendTLSPolicy/citizen/p has no certificate to go by: caCertificateRefs[0]";
        let with = |config_map: Object| [policy.clone(), config_map];
        closed(
            std::slice::from_ref(&policy),
            &format!("{begin}: there is no ConfigMap/citizen/c"),
        );
        closed(
            &with(fixture::config_map("c", "tls.crt", "x")),
            &format!("{begin}: data of ConfigMap/citizen/c has no ca.crt; it has tls.crt"),
        );
        closed(
            &with(fixture::config_map("c", "ca.crt", "x")),
            &format!("{begin}: ca.crt of ConfigMap/citizen/c holds no certificate in PEM"),
        );
        let cut = fixture::certificate("a").pem().replace("-----END", "");
        let index = fixture::index([fixture::config_map("c", "ca.crt", &cut)]);
        let Spec::BackendTlsPolicy(spec) = &policy.spec else {
            panic!("a policy")
        };
        let said = &resolved(&policy, spec, &index).problems[0].message;
        assert!(
            said.starts_with("caCertificateRefs[0]: ca.crt of ConfigMap/citizen/c is not PEM: "),
            "{said}"
        );
        closed(
            &with(fixture::config_map("c", "ca.crt", &pem::to_pem(b"no certificate"))),
            &format!(
                "{begin}: certificate 1 in ca.crt of ConfigMap/citizen/c can't be read: invalid peer certificate: \
                 BadEncoding"
            ),
        );
        let mut secret = policy.clone();
        fixture::tls_spec_of(&mut secret).validation.ca_certificate_refs[0].kind = "Secret".to_owned();
        closed(
            &[secret],
            &format!(
                "{begin} is a Secret, of which nothing is read: put the certificate, without a key, into ca.crt of a \
                 ConfigMap"
            ),
        );
        // Of another namespace is no reference.
        let mut abroad = fixture::config_map("c", "ca.crt", &fixture::certificate("a").pem());
        abroad.metadata.namespace = "police".to_owned();
        closed(&with(abroad), &format!("{begin}: there is no ConfigMap/citizen/c"));
    }

    #[test]
    fn the_older_holds_and_one_for_the_port_goes_before_it_whether_it_can_or_not() {
        let service = || fixture::service("citizen", "portal", &[("http", 80), ("https", 443)]);
        let config_map = || fixture::config_map("c", "ca.crt", &fixture::certificate("a").pem());
        let holder = |objects: &[Object], port: &str| {
            let (tls, sources) = tls_of(&[&[service(), config_map()], objects].concat(), port);
            tls.map(|tls| (sources[1].clone(), matches!(tls, BackendTls::Verified(_))))
        };
        let found = |name: &str, verified: bool| Some((format!("BackendTLSPolicy/citizen/{name}"), verified));
        let older = fixture::tls_policy("z", 1, None, &["c"]);
        let newer = fixture::tls_policy("a", 2, None, &["missing"]);
        assert_eq!(holder(&[newer.clone(), older.clone()], "80"), found("z", true));
        assert_eq!(holder(std::slice::from_ref(&newer), "80"), found("a", false));
        // An older one without a certificate closes; a newer one does not open.
        let bad = fixture::tls_policy("bad", 0, None, &["missing"]);
        assert_eq!(holder(&[bad.clone(), older.clone()], "80"), found("bad", false));
        let by_port = fixture::tls_policy("port", 3, Some("https"), &["c"]);
        let objects = [bad, by_port];
        assert_eq!(holder(&objects, "80"), found("bad", false));
        assert_eq!(holder(&objects, "443"), found("port", true));
        assert_eq!(holder(&objects[1..], "80"), None);
    }
}
