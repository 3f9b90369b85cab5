//! What fuzzers call (`control-plane/fuzz`): readers of what strangers send, each with what must hold of any bytes.
//! Tests run it over the corpus there.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData as _};
use weir_api::Object;
use weir_policy::spiffe::TrustDomain;

use crate::api::protobuf;
use crate::authority::csr;
use crate::authority::tokens::{AUDIENCE, Claims, TokenKey};
use crate::authority::x509::sha256;

/// A certificate signing request: what is certified is a key on P-256 or P-384 and the one that signed it.
pub fn csr(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(read) = csr::read(text) else {
        return;
    };
    let key = read.key.subject_public_key_info();
    assert_eq!(sha256(&key), read.key_sha256, "{text}");
    // An uncompressed point (SEC 1, section 2.3.3).
    let point = read.key.der_bytes();
    assert!(matches!((point.len(), point.first()), (65 | 97, Some(4))), "{text}");
    assert_eq!(csr::read(text).map(|again| again.key_sha256), Ok(read.key_sha256));
}

/// A join token, in which `{header}`, `{claims}`, `{signature}` and `{token}` are those of a good one: only what is
/// signed lets anybody in.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Signed { key, token, claims } = &*SIGNED;
    let mut parts = token.split('.');
    let mut text = text.replace("{token}", token);
    for name in ["{header}", "{claims}", "{signature}"] {
        text = text.replace(name, parts.next().unwrap_or_default());
    }
    let trust_domain: TrustDomain = TRUST_DOMAIN.parse().expect("it is one");
    for now in [0, NOW, NOW + 1_000, u64::MAX] {
        if let Ok(grant) = key.read(&text, &trust_domain, now) {
            assert_eq!((&grant.claims, now), (claims, NOW), "{text}");
            // The same words: no second token of other bytes stands for this one, but for its signature's.
            let words = |token: &str| token.rsplit_once('.').map(|(words, _)| words.to_owned());
            assert_eq!(words(&text), words(token));
        }
    }
}

/// An object in Kubernetes' protobuf: it is read or refused, and what is read is an object of a kind, whose reader
/// takes or refuses it. What that takes, it takes again as it writes it.
pub fn protobuf(bytes: &[u8]) {
    let Ok(value) = protobuf::read(bytes) else {
        return;
    };
    assert!(value["apiVersion"].is_string() && value["kind"].is_string(), "{value}");
    if let Ok(object) = Object::parse(value) {
        let again = Object::parse(object.to_value()).expect("it was written by us");
        assert_eq!(object.to_value(), again.to_value());
    }
}

struct Signed {
    key: TokenKey,
    token: String,
    claims: Claims,
}

static SIGNED: LazyLock<Signed> = LazyLock::new(|| {
    let key = TokenKey::new(KeyPair::generate().expect("a key")).expect("it is on P-256");
    let claims = Claims {
        aud: AUDIENCE.to_owned(),
        sub: format!("spiffe://{TRUST_DOMAIN}/ns/citizen/sa/portal"),
        labels: [("app".to_owned(), "portal".to_owned())].into(),
        iat: NOW,
        exp: NOW + 100,
        jti: "name".to_owned(),
        uses: 1,
        roots: vec!["00".repeat(32)],
    };
    let token = key.sign(&claims).expect("signed");
    Signed { key, token, claims }
});

const TRUST_DOMAIN: &str = "mesh.gov";
const NOW: u64 = 1_800_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every file of a target's corpus.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/").to_owned() + target;
        let files = std::fs::read_dir(folder).expect("the corpus");
        files
            .map(|file| std::fs::read(file.expect("a file").path()).expect("readable"))
            .collect()
    }

    #[test]
    fn the_corpus_holds() {
        for (target, holds) in [("csr", csr as fn(&[u8])), ("token", token), ("protobuf", protobuf)] {
            let files = corpus(target);
            assert!(files.len() >= 5, "{target}");
            files.iter().for_each(|bytes| holds(bytes));
        }
    }

    /// The corpus has what is taken, so that fuzzers begin near it.
    #[test]
    fn the_corpus_has_good_ones() {
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).expect("UTF-8");
        let taken = corpus("csr")
            .iter()
            .filter(|bytes| csr::read(&text(bytes)).is_ok())
            .count();
        assert!(taken >= 2, "{taken}");
        let trust_domain = TRUST_DOMAIN.parse().expect("it is one");
        SIGNED.key.read(&SIGNED.token, &trust_domain, NOW).expect("it is good");
        assert!(corpus("token").iter().any(|bytes| bytes == b"{token}"));
        let objects = corpus("protobuf");
        let objects = objects.iter().filter_map(|bytes| protobuf::read(bytes).ok());
        assert!(objects.filter(|object| Object::parse(object.clone()).is_ok()).count() >= 3);
    }

    proptest! {
        #[test]
        fn what_is_near_the_corpus_holds(
            target in 0..3_usize,
            file in any::<prop::sample::Index>(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let (name, holds) = [("csr", csr as fn(&[u8])), ("token", token), ("protobuf", protobuf)][target];
            let mut bytes = file.get(&corpus(name)).clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            holds(&bytes);
        }
    }

    /// What base64 has room for beside the signed words is not taken for them.
    #[test]
    fn a_token_has_one_spelling() {
        let (words, signature) = SIGNED.token.rsplit_once('.').expect("it has parts");
        let raw = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        token(format!("{words}.{signature}=").as_bytes());
        token(format!("{words}.{}", URL_SAFE_NO_PAD.encode([&raw[..], &[0]].concat())).as_bytes());
        token(format!(" {words}.{signature}").as_bytes());
        token(format!("{words}.{signature}\n").as_bytes());
    }
}
