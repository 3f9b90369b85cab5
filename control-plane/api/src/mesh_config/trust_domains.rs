//! Trust domains beside the mesh's own: whose workloads are believed at inbound ports, and by which roots.

use schemars::JsonSchema;
use serde::Serialize;

use crate::decode::{Errors, Node};
use crate::error::FieldError;
use crate::http_route::read::{TWIN, TWIN_REMEDY};
use crate::names;
use crate::schema::texts;

/// A trust domain beside the mesh's own, as another mesh has it. Its workloads come in by mutual TLS as those of the
/// mesh do, with a certificate (an X.509-SVID) that names `spiffe://NAME/ns/NAMESPACE/sa/ACCOUNT` and leads to one of
/// these roots. Nothing else of what they say is believed: no context, no verdict.
///
/// Rule: it is not the mesh's own trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustDomain {
    /// What it is called.
    #[schemars(with = "texts::TrustDomain")]
    pub name: String,
    /// The certificates of its roots in PEM, 1 to 8. A certificate that names this trust domain is believed by these
    /// alone, and these are believed for nothing else. While it changes its root, the old one and the new one.
    ///
    /// Rule: it holds no private key; each certificate is an authority's, has not ended when it comes, and stands once.
    #[schemars(length(min = 1, max = CHARS_MAX))]
    pub roots: String,
}

pub(super) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<Vec<TrustDomain>> {
    let domains = node.list(errors, DOMAINS_MAX, read_one)?;
    let is_same = |a: &TrustDomain, b: &TrustDomain| a.name == b.name;
    node.refuse_twins(errors, &domains, is_same, TWIN, TWIN_REMEDY);
    Some(domains)
}

fn read_one(node: &Node<'_>, errors: &mut Errors) -> Option<TrustDomain> {
    let mut fields = node.fields(errors)?;
    let name = fields.required("name", errors, names::trust_domain);
    let roots = fields.required("roots", errors, read_roots);
    fields.finish(errors);
    Some(TrustDomain {
        name: name?,
        roots: roots?,
    })
}

/// Whether they are certificates, and of whom, the control plane says, which knows the time and its own trust domain.
fn read_roots(node: &Node<'_>, errors: &mut Errors) -> Option<String> {
    let text = node.text(errors)?;
    if text.contains(KEY) {
        // It is in no error what it is.
        errors.push(FieldError {
            path: node.path(),
            held: String::new(),
            problem: "holds a private key".to_owned(),
            remedy: "certificates alone are right; who has this key can be anybody of that trust domain: change it"
                .to_owned(),
        });
        return None;
    }
    if text.is_empty() {
        node.refuse(errors, "is empty", "certificates in PEM are right");
        return None;
    }
    if text.chars().count() > CHARS_MAX {
        let remedy = format!("at most {CHARS_MAX} characters are right: roots, without what is below them");
        node.refuse(errors, "is too long", remedy);
        return None;
    }
    Some(text.to_owned())
}

/// As in the first line of one (RFC 7468 sections 10, 11, and what OpenSSL wrote before).
const KEY: &str = "PRIVATE KEY-----";
/// Each proxy is told of them all.
pub(super) const DOMAINS_MAX: usize = 32;
/// Eight certificates with keys of RSA, and what stands between them.
const CHARS_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use crate::Spec;
    use crate::tests::{bad, good};

    use super::*;

    fn document(domains: &str) -> String {
        format!(
            "apiVersion: weir.dev/v1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{trustDomains: {domains}}}"
        )
    }

    #[test]
    fn domains_are_read_in_their_order() {
        let object = good(&document("[{name: z.gov, roots: one}, {name: a_b-1.gov, roots: two}]"));
        let Spec::MeshConfig(spec) = object.spec else {
            panic!("it is one");
        };
        let read = spec.trust_domains.iter();
        let read: Vec<_> = read.map(|one| (one.name.as_str(), one.roots.as_str())).collect();
        assert_eq!(read, [("z.gov", "one"), ("a_b-1.gov", "two")]);
        good(&document("[]"));
    }

    #[test]
    fn what_is_no_trust_domain_is_refused() {
        for (domains, held) in [
            ("[{name: a.gov}]", "[0].roots: is missing"),
            ("[{roots: one}]", "[0].name: is missing"),
            ("[{name: A.gov, roots: one}]", "[0].name: \"A.gov\" is no trust domain"),
            (
                "[{name: 'spiffe://a.gov', roots: one}]",
                "[0].name: \"spiffe://a.gov\" is no trust domain",
            ),
            ("[{name: '', roots: one}]", "[0].name: \"\" is no trust domain"),
            ("[{name: a.gov, roots: ''}]", "[0].roots: \"\" is empty"),
            ("[{name: a.gov, roots: [one]}]", "[0].roots: [\"one\"] is not text"),
            (
                "[{name: a.gov, roots: one, jwt: two}]",
                "[0].jwt: \"two\" stands in an unknown field",
            ),
            (
                "[{name: a.gov, roots: one}, {name: a.gov, roots: two}]",
                "[1]: {\"name\":\"a.gov\",\"roots\":\"two\"} is there already",
            ),
            ("{}", ": {} is not a list"),
        ] {
            bad(&document(domains), &[&format!("f:4: spec.trustDomains{held}")]);
        }
        let long = format!("[{{name: a.gov, roots: '{}'}}]", "x".repeat(CHARS_MAX + 1));
        bad(&document(&long), &["f:4: spec.trustDomains[0].roots: "]);
        let many = |count: usize| {
            let domains: Vec<String> = (0..count).map(|n| format!("{{name: a{n}.gov, roots: one}}")).collect();
            document(&format!("[{}]", domains.join(", ")))
        };
        good(&many(DOMAINS_MAX));
        bad(&many(DOMAINS_MAX + 1), &["f:4: spec.trustDomains: "]);
    }

    #[test]
    fn a_private_key_is_refused_and_not_repeated() {
        for kind in ["", "EC ", "RSA ", "ENCRYPTED "] {
            let text = document(&format!(
                "[{{name: a.gov, roots: \"-----BEGIN {kind}PRIVATE KEY-----\\nc2VjcmV0\\n\"}}]"
            ));
            let errors = crate::yaml::read_objects(&text, "f", None).expect_err("it is a key");
            let [error] = errors.as_slice() else {
                panic!("{errors:?}");
            };
            let says = error.to_string();
            assert!(
                says.starts_with("f:4: spec.trustDomains[0].roots: holds a private key"),
                "{says}"
            );
            assert!(!says.contains("c2VjcmV0"), "{says}");
        }
    }
}
