//! Tokens that are right, and every way to be wrong.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;

fn trust_domain() -> TrustDomain {
    "mesh.gov".parse().expect("a trust domain")
}

fn claims() -> Claims {
    Claims {
        aud: AUDIENCE.to_owned(),
        sub: "spiffe://mesh.gov/ns/citizen/sa/portal".to_owned(),
        labels: [("app".to_owned(), "portal".to_owned())].into(),
        iat: NOW,
        exp: NOW + 3_600,
        jti: "the-name".to_owned(),
        uses: 1,
        roots: vec!["00".repeat(32)],
    }
}

fn pair() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn key() -> TokenKey {
    TokenKey::new(pair()).expect("a key on P-256")
}

fn read(key: &TokenKey, token: &str) -> Result<Grant, (Option<String>, TokenError)> {
    key.read(token, &trust_domain(), NOW)
}

#[test]
fn a_token_reads_back() {
    let key = key();
    let grant = read(&key, &key.sign(&claims()).expect("signed")).expect("it is ours");
    assert_eq!(grant.claims, claims());
    assert_eq!(grant.id.to_string(), claims().sub);
}

#[test]
fn what_a_token_may_not_say_is_refused_with_its_name() {
    let key = key();
    let check = |change: &dyn Fn(&mut Claims), expect: TokenError| {
        let mut claims = claims();
        change(&mut claims);
        let token = key.sign(&claims).expect("signed");
        assert_eq!(read(&key, &token), Err((Some("the-name".to_owned()), expect)));
    };
    let other_domain = "spiffe://other.gov/ns/citizen/sa/portal";
    check(
        &|claims| claims.aud = "api".to_owned(),
        TokenError::Audience("api".to_owned()),
    );
    check(
        &|claims| claims.sub = other_domain.to_owned(),
        TokenError::Subject(other_domain.to_owned()),
    );
    check(
        &|claims| claims.sub = "portal".to_owned(),
        TokenError::Subject("portal".to_owned()),
    );
    check(&|claims| claims.iat = NOW + 61, TokenError::NotYet);
    check(&|claims| claims.exp = NOW, TokenError::Ended);
    // Both ends of what is right.
    let mut edges = claims();
    (edges.iat, edges.exp) = (NOW + 60, NOW + 1);
    read(&key, &key.sign(&edges).expect("signed")).expect("it is right");
}

#[test]
fn only_our_key_and_only_es256_make_a_token() {
    let (ours, theirs) = (key(), key());
    let token = ours.sign(&claims()).expect("signed");
    let not_ours = Err((None, TokenError::NotOurs));
    assert_eq!(read(&theirs, &token), not_ours);
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let (_, rest) = token.split_once('.').expect("three parts");
    let (payload, signature) = rest.split_once('.').expect("three parts");
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "None", "typ": "JWT"}),
        json!({"alg": "HS256", "typ": "JWT"}),
        json!({"alg": "ES384", "typ": "JWT"}),
        json!({"alg": "RS256", "typ": "JWT"}),
        json!({"typ": "JWT"}),
        json!([]),
    ] {
        for signature in [signature, "", "AAAA"] {
            let token = format!("{}.{payload}.{signature}", part(header.clone()));
            assert_eq!(read(&ours, &token), not_ours, "{header} {signature}");
        }
    }
    // A key that is public, taken for a secret of HMAC.
    let pair = pair();
    let public = EncodingKey::from_secret(pair.public_key_raw());
    let ours = TokenKey::new(pair).expect("a key on P-256");
    let forged = encode(&Header::new(Algorithm::HS256), &claims(), &public).expect("signed");
    assert_eq!(read(&ours, &forged), not_ours);
    // What we did not write is not passed over, though we signed it.
    let mut more = serde_json::to_value(claims()).expect("JSON");
    more["admin"] = json!(true);
    let signed = encode(&Header::new(Algorithm::ES256), &more, &ours.signing).expect("signed");
    assert_eq!(read(&ours, &signed), not_ours);
}

#[test]
fn a_token_with_any_byte_changed_is_none() {
    let key = key();
    let token = key.sign(&claims()).expect("signed");
    for (place, held) in token.bytes().enumerate() {
        for other in [b'A', b'_', b'.', b'=', b'\n', 0, 0xff] {
            if other == held {
                continue;
            }
            let mut bytes = token.clone().into_bytes();
            bytes[place] = other;
            let changed = String::from_utf8_lossy(&bytes);
            assert!(read(&key, &changed).is_err(), "byte {place} as {other}");
        }
        let mut shorter = token.clone();
        shorter.remove(place);
        assert!(read(&key, &shorter).is_err(), "without byte {place}");
    }
    for around in [
        format!("{token}."),
        format!(".{token}"),
        format!("{token} "),
        format!("{token}="),
    ] {
        assert!(read(&key, &around).is_err(), "{around}");
    }
    let long = format!("{token}{}", "A".repeat(JOIN_TOKEN_BYTES_MAX));
    assert_eq!(read(&key, &long), Err((None, TokenError::TooLong)));
}

#[test]
fn a_key_is_not_shown_and_none_of_another_curve_is_taken() {
    assert_eq!(format!("{:?}", key()), "TokenKey { .. }");
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    assert_eq!(TokenKey::new(other).map(|_| ()), Err(CaProblem::Key));
}

proptest! {
    #[test]
    fn no_text_is_taken_or_breaks_the_reader(text in any::<String>(), near in "[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){0,4}") {
        let key = key();
        prop_assert!(read(&key, &text).is_err());
        prop_assert!(read(&key, &near).is_err());
    }
}
