//! The join token, as far as the one who bears it looks into it: whom it lets in, and by which roots the control plane
//! is known. Whether it is right is for the control plane to say.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use weir_policy::spiffe::SpiffeId;
use weir_xds::JOIN_TOKEN_BYTES_MAX;

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    text: String,
    /// Whom it lets in.
    pub(crate) id: SpiffeId,
    /// SHA-256 of the control plane's roots (the whole certificate); never none.
    pub(crate) pins: Vec<[u8; 32]>,
}

/// Without the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a file holds no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("--token-file {path}: {error}")]
    File { path: String, error: std::io::Error },
    #[error("--token-file {path}: holds no join token; what `weirctl token create` prints is one")]
    NoToken { path: String },
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    roots: Vec<String>,
}

impl Token {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is not there, or holds something else. What it holds is not said.
    pub(crate) fn from_file(path: &Path) -> Result<Token, TokenError> {
        let shown = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| TokenError::File { path: shown(), error })?;
        Token::read(&text).ok_or_else(|| TokenError::NoToken { path: shown() })
    }

    /// The token itself, for the control plane alone.
    pub(crate) fn secret(&self) -> &str {
        &self.text
    }

    pub(crate) fn read(text: &str) -> Option<Token> {
        let text = text.trim();
        if text.len() > JOIN_TOKEN_BYTES_MAX {
            return None;
        }
        let mut parts = text.split('.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let pins: Option<Vec<[u8; 32]>> = claims.roots.iter().map(|root| pin(root)).collect();
        Some(Token {
            text: text.to_owned(),
            id: claims.sub.parse().ok()?,
            pins: pins.filter(|pins| !pins.is_empty())?,
        })
    }
}

/// The file's mode, in octal, where it is not for its owner alone. Such a file is taken nevertheless: Kubernetes mounts
/// Secrets so (0644, root's), and for a process that is not root it can do no better than 0440.
pub(crate) fn open_to_others(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o777;
    (mode & 0o077 != 0).then(|| format!("{mode:o}"))
}

fn pin(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut pin = [0; 32];
    for (byte, pair) in pin.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(pin)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn token(claims: serde_json::Value) -> String {
        format!("e30.{}.c2lnbmVk", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn what_the_bearer_must_know_is_read() {
        let id = "spiffe://mesh.gov/ns/citizen/sa/portal";
        let text = token(json!({"sub": id, "roots": ["0a".repeat(32), "FF".repeat(32)], "uses": 1}));
        let token = Token::read(&format!("\n{text}\n")).expect("a token");
        assert_eq!(token.id.to_string(), id);
        assert_eq!(token.pins, [[10; 32], [255; 32]]);
        assert_eq!(token.secret(), text);
        let shown = format!("{token:?}");
        assert!(!shown.contains(&text) && !shown.contains("c2lnbmVk"), "{shown}");
    }

    #[test]
    fn what_is_no_token_is_none() {
        let id = "spiffe://mesh.gov/ns/citizen/sa/portal";
        let root = "00".repeat(32);
        let good = token(json!({"sub": id, "roots": [root]}));
        assert!(Token::read(&good).is_some());
        for text in [
            String::new(),
            "a.b".to_owned(),
            format!("{good}.x"),
            good.replacen('.', ". ", 1),
            good.replacen('.', ".\u{e9}", 1),
            format!("{good}{}", "A".repeat(JOIN_TOKEN_BYTES_MAX)),
            token(json!({"sub": id, "roots": []})),
            token(json!({"sub": id, "roots": [&root[1..]]})),
            token(json!({"sub": id, "roots": ["+a".repeat(32)]})),
            token(json!({"sub": "portal", "roots": [root]})),
            token(json!({"sub": id})),
        ] {
            assert!(Token::read(&text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_longest_that_the_control_plane_makes_is_read() {
        let id = "spiffe://mesh.gov/ns/citizen/sa/portal";
        let with_labels =
            |bytes: usize| token(json!({"sub": id, "roots": ["00".repeat(32)], "labels": "a".repeat(bytes)}));
        let fits = |text: &String| text.len() <= JOIN_TOKEN_BYTES_MAX;
        let longest = (0..JOIN_TOKEN_BYTES_MAX)
            .map(with_labels)
            .take_while(fits)
            .last()
            .expect("one fits");
        assert!(longest.len() > JOIN_TOKEN_BYTES_MAX - 4);
        assert!(Token::read(&longest).is_some());
        assert!(Token::read(&format!("{longest}AAAA")).is_none());
    }

    #[test]
    fn a_file_that_others_can_read_is_known() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        std::fs::write(&path, "").expect("written");
        for (mode, expect) in [(0o600, None), (0o400, None), (0o440, Some("440")), (0o644, Some("644"))] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(open_to_others(&path).as_deref(), expect, "{mode:o}");
        }
        assert_eq!(open_to_others(&directory.path().join("none")), None);
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in any::<String>(), near in "[A-Za-z0-9_-]{0,12}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,12}") {
            let _ = Token::read(&text);
            let _ = Token::read(&near);
        }
    }
}
