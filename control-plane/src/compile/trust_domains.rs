//! Trust domains beside the mesh's own, and the roots that their workloads are believed by.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use weir_api::FieldError;
use weir_api::mesh_config::{self, MeshConfigSpec};
use weir_policy::spiffe::TrustDomain;
use weir_xds::pem;
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::prelude::X509Certificate;

use super::index::Index;
use super::{Compiled, source};

/// What proxies are told of other trust domains: of each its roots, PEM.
pub(super) fn others(index: &Index) -> Compiled<BTreeMap<TrustDomain, String>> {
    let config = index
        .mesh_config()
        .filter(|config| !config.spec.trust_domains.is_empty());
    let domains = config.iter().flat_map(|config| &config.spec.trust_domains);
    // Its reader takes no name that is none.
    let domains = domains.filter_map(|domain| Some((domain.name.parse().ok()?, domain.roots.clone())));
    Compiled {
        resource: domains.collect(),
        sources: config.iter().map(|config| source(config.object)).collect(),
    }
}

/// What of the trust domains can't be: for a mesh whose own is `own`, at this time. A root that `held` has already for
/// the same domain may have ended since: it would stand in the way of every other change.
///
/// # Errors
/// All that is wrong, by field.
pub(super) fn check(
    spec: &MeshConfigSpec,
    held: &[mesh_config::TrustDomain],
    own: &TrustDomain,
    now: SystemTime,
) -> Result<(), Vec<FieldError>> {
    let mut errors = Vec::new();
    for (i, domain) in spec.trust_domains.iter().enumerate() {
        let mesh_config::TrustDomain { name, roots } = domain;
        let place = format!("spec.trustDomains[{i}]");
        if *name == own.to_string() {
            errors.push(FieldError::new(
                format!("{place}.name"),
                &Value::from(name.as_str()),
                "is the mesh's own trust domain",
                "leave it out: the mesh's own workloads are believed by its own roots (weirctl ca rotate changes them)",
            ));
        }
        let held = held.iter().find(|held| held.name == *name);
        let held = held
            .and_then(|held| pem::certificates(&held.roots).ok())
            .unwrap_or_default();
        errors.extend(wrong_roots(&format!("{place}.roots"), roots, &held, now));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(errors),
    }
}

/// What is wrong with a text of roots, of which these are there already.
fn wrong_roots(path: &str, text: &str, held: &[Vec<u8>], now: SystemTime) -> Vec<FieldError> {
    let wrong = |held: String, problem: String, remedy: &str| FieldError {
        path: path.to_owned(),
        held,
        problem,
        remedy: remedy.to_owned(),
    };
    let whole = |problem: String| vec![wrong(String::new(), problem, PEM_REMEDY)];
    let certificates = match pem::certificates(text) {
        Ok(certificates) => certificates,
        Err(error) => return whole(format!("is not PEM: {error}")),
    };
    if certificates.is_empty() {
        return whole("holds no certificate in PEM".to_owned());
    }
    if certificates.len() > ROOTS_MAX {
        let problem = format!("holds {} certificates", certificates.len());
        let remedy = format!("at most {ROOTS_MAX} roots are right, without what is below them");
        return vec![wrong(String::new(), problem, &remedy)];
    }
    let mut errors = Vec::new();
    for (i, certificate) in certificates.iter().enumerate() {
        let which = |of: &str| format!("certificate {}{of}", i + 1);
        if certificates.iter().take(i).any(|earlier| earlier == certificate) {
            errors.push(wrong(which(""), "is there already".to_owned(), "each root stands once"));
            continue;
        }
        let ends = if held.contains(certificate) {
            Ends::Whenever
        } else {
            Ends::After(now)
        };
        if let Err(Unfit { of, problem, remedy }) = fits(certificate, ends) {
            errors.push(wrong(which(&of), problem, remedy));
        }
    }
    errors
}

/// Why a certificate is no root.
struct Unfit {
    /// Whose it is, as far as that can be read.
    of: String,
    problem: String,
    remedy: &'static str,
}

/// When a root may end.
enum Ends {
    /// Later than this.
    After(SystemTime),
    /// It may have ended.
    Whenever,
}

fn fits(certificate: &[u8], ends: Ends) -> Result<(), Unfit> {
    let unread = |why: String| Unfit {
        of: String::new(),
        problem: format!("can't be read: {why}"),
        remedy: PEM_REMEDY,
    };
    // With what proxies do it with, so that none refuses what is sent.
    let read = RootCertStore::empty().add(CertificateDer::from_slice(certificate).into_owned());
    read.map_err(|error| unread(error.to_string()))?;
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| unread(error.to_string()))?;
    let of = format!(" ({})", parsed.subject())
        .chars()
        .take(SUBJECT_CHARS_MAX)
        .collect();
    let is_authority = match (parsed.basic_constraints(), parsed.key_usage()) {
        (Ok(constraints), Ok(usage)) => {
            constraints.is_some_and(|constraints| constraints.value.ca)
                && usage.is_none_or(|usage| usage.value.key_cert_sign())
        }
        (Err(_), _) | (_, Err(_)) => false,
    };
    if !is_authority {
        return Err(Unfit {
            of,
            problem: "is not an authority's".to_owned(),
            remedy: "the root above the workloads' certificates is right, not one of these",
        });
    }
    let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    if let Ends::After(now) = ends
        && SystemTime::UNIX_EPOCH + Duration::from_secs(not_after) <= now
    {
        return Err(Unfit {
            of,
            problem: format!("has ended on {}", parsed.validity().not_after),
            remedy: "take it out; the root that took its place is to be had from who runs that trust domain",
        });
    }
    Ok(())
}

const PEM_REMEDY: &str = "the roots' certificates in PEM are right, each from BEGIN CERTIFICATE to END CERTIFICATE";
/// Of one trust domain: as many as a text of that length has.
const ROOTS_MAX: usize = 8;
/// Of a certificate's subject, for people.
const SUBJECT_CHARS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd};
    use weir_policy::roots::RootsName;
    use weir_xds::ResourceType;
    use weir_xds::decode::{Resource, decode};

    use super::*;
    use crate::compile::fixture;
    use crate::compile::wanted::{Terms, Wanted, computed};

    fn root(change: impl FnOnce(&mut CertificateParams)) -> String {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        params.self_signed(&key).expect("it is signed").pem()
    }

    fn spec(domains: &[(&str, &str)]) -> MeshConfigSpec {
        let domains = domains.iter().map(|(name, roots)| mesh_config::TrustDomain {
            name: (*name).to_owned(),
            roots: (*roots).to_owned(),
        });
        MeshConfigSpec {
            trust_domains: domains.collect(),
            ..MeshConfigSpec::default()
        }
    }

    fn errors(spec: &MeshConfigSpec) -> Vec<String> {
        errors_beside(spec, &[])
    }

    fn errors_beside(spec: &MeshConfigSpec, held: &[mesh_config::TrustDomain]) -> Vec<String> {
        let checked = check(spec, held, &TrustDomain::default(), SystemTime::now());
        checked
            .err()
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn roots_that_no_workload_could_be_believed_by_are_refused() {
        let (good, other) = (root(|_| {}), root(|_| {}));
        assert_eq!(
            errors(&spec(&[("a.gov", &good), ("b.gov", &format!("{other}{good}"))])),
            [""; 0]
        );
        let leaf = root(|params| params.is_ca = IsCa::NoCa);
        let leaf_said = root(|params| params.is_ca = IsCa::ExplicitNoCa);
        let no_signer = root(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
        let over = root(|params| {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        });
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let many: String = (0..=ROOTS_MAX).map(|_| root(|_| {})).collect();
        for (roots, says) in [
            (
                &leaf,
                "certificate 1 (CN=rcgen self signed cert) is not an authority's; the root above",
            ),
            (
                &leaf_said,
                "certificate 1 (CN=rcgen self signed cert) is not an authority's",
            ),
            (
                &no_signer,
                "certificate 1 (CN=rcgen self signed cert) is not an authority's",
            ),
            (
                &format!("{good}{over}"),
                "certificate 2 (CN=rcgen self signed cert) has ended on Jan  1",
            ),
            (
                &format!("{good}{good}"),
                "certificate 2 is there already; each root stands once",
            ),
            (&format!("{good}{damaged}"), "certificate 2 can't be read: "),
            (
                &"PEM".to_owned(),
                "holds no certificate in PEM; the roots' certificates in PEM are right",
            ),
            (&"-----BEGIN CERTIFICATE-----\n".to_owned(), "is not PEM: "),
            (&many, "holds 9 certificates; at most 8 roots are right"),
        ] {
            let errors = errors(&spec(&[("a.gov", &good), ("b.gov", roots)]));
            let [error] = errors.as_slice() else {
                panic!("{says}: {errors:?}");
            };
            assert!(
                error.starts_with(&format!("spec.trustDomains[1].roots: {says}")),
                "{error}"
            );
        }
        assert!(
            errors(&spec(&[("a.gov", &over)]))[0].contains("; take it out"),
            "with what to do"
        );
        let held = spec(&[("a.gov", &format!("{good}{over}"))]).trust_domains;
        let with_another = spec(&[("b.gov", &other), ("a.gov", &format!("{good}{over}"))]);
        assert_eq!(
            errors_beside(&with_another, &held),
            [""; 0],
            "what has ended since stands in the way of nothing"
        );
        let moved = spec(&[("b.gov", &over)]);
        assert_eq!(errors_beside(&moved, &held).len(), 1, "it was taken for another domain");
        let own = errors(&spec(&[("cluster.local", &good)]));
        assert!(
            own[0].starts_with("spec.trustDomains[0].name: \"cluster.local\" is the mesh's own trust domain"),
            "{own:?}"
        );
        assert_eq!(
            errors(&spec(&[("cluster.local", "PEM"), ("a.gov", "PEM")])).len(),
            3,
            "all at once"
        );
    }

    #[test]
    fn weir_proxies_alone_are_told_of_other_trust_domains() {
        let good = root(|_| {});
        let text = serde_json::to_string(&good).expect("a text");
        let config = fixture::mesh_config_of(&format!("{{trustDomains: [{{name: a.gov, roots: {text}}}]}}"));
        let mut index = fixture::index([config]);
        let told = |index: &Index, terms| {
            let wanted = Wanted::TrustRoots(terms, RootsName);
            let computed = computed(&wanted, index);
            let message =
                computed.message.map(
                    |(message, _)| match decode(ResourceType::TrustRoots, "ROOTCA", &message) {
                        Ok(Resource::TrustRoots(roots)) => roots,
                        other => panic!("{other:?}"),
                    },
                );
            (message, computed.sources.len())
        };
        assert_eq!(told(&index, Terms::Weir), (None, 0), "the mesh's own are not known");
        index.set_roots("PEM".to_owned());
        let (roots, sources) = told(&index, Terms::Weir);
        let domain = "a.gov".parse().expect("a trust domain");
        assert_eq!(roots.expect("told").others, BTreeMap::from([(domain, good)]));
        assert_eq!(sources, 1);
        for terms in [Terms::Grpc, Terms::GrpcByTls, Terms::Envoy] {
            let (roots, sources) = told(&index, terms);
            assert_eq!((roots.expect("told").others.len(), sources), (0, 0));
        }
    }
}
