//! Join tokens: a JWS (RFC 7515) with ES256, signed with a key of its own, so that they outlive a change of the
//! authority. What a token may do is in it; how often it was used is in the store.

use std::collections::BTreeMap;
use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};
use weir_policy::spiffe::{SpiffeId, TrustDomain};
use weir_xds::JOIN_TOKEN_BYTES_MAX;

use super::ca::CaProblem;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claims {
    /// What the token is for: [`AUDIENCE`].
    pub(crate) aud: String,
    /// Whom it lets in, a SPIFFE id.
    pub(crate) sub: String,
    /// The labels of its workloads.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// When it was made, seconds of Unix time.
    pub(crate) iat: u64,
    /// When it ends, seconds of Unix time.
    pub(crate) exp: u64,
    /// Its name.
    pub(crate) jti: String,
    /// How many keys may join with it.
    pub(crate) uses: u32,
    /// SHA-256 of each root certificate (the whole, DER), in hexadecimal: by these the joining proxy knows us.
    pub(crate) roots: Vec<String>,
}

/// A token that is in order, but for how often it was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Whom it lets in.
    pub(crate) id: SpiffeId,
    /// What it says.
    pub(crate) claims: Claims,
}

/// Why a token lets nobody in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is longer than {JOIN_TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("the token is no join token of this control plane: it was changed, or another one made it")]
    NotOurs,
    #[error("the token says that it is for {0:?}; a join token is for {AUDIENCE:?}")]
    Audience(String),
    #[error("the token is for {0:?}, which is no identity of this trust domain")]
    Subject(String),
    #[error("the token is good only from a later time on; are the clocks right?")]
    NotYet,
    #[error("the token has ended; make another one with `weirctl token create`")]
    Ended,
}

/// What tokens are signed and checked with.
pub(crate) struct TokenKey {
    signing: EncodingKey,
    verifying: DecodingKey,
}

/// Without the key.
impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").finish_non_exhaustive()
    }
}

impl TokenKey {
    /// This key.
    ///
    /// # Errors
    /// When it is none on P-256.
    pub(crate) fn new(key: KeyPair) -> Result<TokenKey, CaProblem> {
        if !key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
            return Err(CaProblem::Key);
        }
        Ok(TokenKey {
            signing: EncodingKey::from_ec_der(key.serialized_der()),
            verifying: DecodingKey::from_ec_der(key.public_key_raw()),
        })
    }

    /// A token that says this.
    ///
    /// # Errors
    /// When the system fails.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, CaProblem> {
        let signed = encode(&Header::new(Algorithm::ES256), claims, &self.signing);
        signed.map_err(|error| CaProblem::System(error.to_string()))
    }

    /// What a token says, if it is ours and good at `now`, in seconds of Unix time.
    ///
    /// # Errors
    /// The name of the token where it is known, and the first thing that is wrong.
    pub(crate) fn read(
        &self,
        token: &str,
        trust_domain: &TrustDomain,
        now: u64,
    ) -> Result<Grant, (Option<String>, TokenError)> {
        if token.len() > JOIN_TOKEN_BYTES_MAX {
            return Err((None, TokenError::TooLong));
        }
        // The algorithm and the signature are the library's to check; times and names are ours, by our clock and with
        // our words.
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = decode::<Claims>(token, &self.verifying, &validation);
        let claims = claims.map_err(|_| (None, TokenError::NotOurs))?.claims;
        let wrong = |error| Err((Some(claims.jti.clone()), error));
        if claims.aud != AUDIENCE {
            return wrong(TokenError::Audience(claims.aud.clone()));
        }
        let id = claims.sub.parse::<SpiffeId>();
        let Some(id) = id.ok().filter(|id| id.trust_domain == *trust_domain) else {
            return wrong(TokenError::Subject(claims.sub.clone()));
        };
        if claims.iat > now.saturating_add(CLOCKS_APART_SECONDS) {
            return wrong(TokenError::NotYet);
        }
        if claims.exp <= now {
            return wrong(TokenError::Ended);
        }
        Ok(Grant { id, claims })
    }
}

/// What a join token is for.
pub(crate) const AUDIENCE: &str = "weir.dev/join";
/// Two control planes' clocks may be apart by this much.
const CLOCKS_APART_SECONDS: u64 = 60;

#[cfg(test)]
mod tests;
