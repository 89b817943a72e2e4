//! Bearer tokens: the secret in the file of `--token-file`, and its comparison.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// A secret that clients send as `Authorization: Bearer TOKEN`. It is never printed.
#[derive(Clone)]
pub struct Token {
    /// The secret. Nothing prints it.
    text: String,
    /// Its hash, compared in place of the secret so that the time shows nothing.
    hash: blake3::Hash,
}

impl Token {
    /// Reads the token in the first line of the file at `path`.
    ///
    /// # Errors
    ///
    /// `Configuration` if the file cannot be read, or if its first line is empty, longer than 4096
    /// bytes, or no token of HTTP.
    pub fn read(path: &Path) -> Result<Token> {
        let unusable = |why: &dyn fmt::Display| {
            let message = format!("--token-file {} cannot be used: {why}", path.display());
            Error::new(ErrorKind::Configuration, message)
                .hint("write one line with the token, for example: openssl rand -hex 32")
        };
        let text = fs::read(path).map_err(|error| unusable(&error))?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
        if line.is_empty() {
            return Err(unusable(&"its first line is empty"));
        }
        if line.len() > TOKEN_BYTES_MAX {
            return Err(unusable(&format_args!("more than {TOKEN_BYTES_MAX} bytes in a line")));
        }
        if !line.iter().all(u8::is_ascii_graphic) {
            return Err(unusable(&"a token has visible ASCII characters only"));
        }
        Ok(Token::new(String::from_utf8_lossy(line).into_owned()))
    }

    /// Returns the token with this text.
    pub fn new(text: String) -> Token {
        let hash = blake3::hash(text.as_bytes());
        Token { text, hash }
    }

    /// Returns true if the value of an `Authorization` header carries this token.
    ///
    /// The time that this takes depends on the length of the value only: hashes are compared, and
    /// in constant time.
    pub fn authorizes(&self, authorization: &[u8]) -> bool {
        let Some((scheme, given)) = authorization.split_at_checked("Bearer ".len()) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && blake3::hash(given.trim_ascii()) == self.hash
    }

    /// Returns a secret that follows from this one and from `context`, for a cookie. The token does
    /// not follow from it.
    pub fn derived(&self, context: &str) -> String {
        blake3::Hash::from(blake3::derive_key(context, self.text.as_bytes())).to_hex().to_string()
    }

    /// Returns the value of the `Authorization` header that a client sends.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_authorizes_itself_only() {
        let token = Token::new("s3cret".to_owned());
        for good in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "] {
            assert!(token.authorizes(good.as_bytes()), "{good}");
        }
        let bad = ["", "Bearer", "Bearer ", "s3cret", "Bearer s3cre", "Bearer s3cret2", "Basic s"];
        for bad in bad {
            assert!(!token.authorizes(bad.as_bytes()), "{bad}");
        }
        assert!(token.authorizes(token.authorization().as_bytes()));
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn unusable_token_file_names_its_flag() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        let missing = Token::read(&path).expect_err("missing");
        for bad in [&b""[..], b"\n", b"two words\n", b"\xff\n", &[b'x'; 5000]] {
            fs::write(&path, bad).expect("a file");
            let error = Token::read(&path).expect_err("unusable");
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains("--token-file"), "{error}");
        }
        assert_eq!(missing.kind(), ErrorKind::Configuration);
        fs::write(&path, "good-token \r\nanything\n").expect("a file");
        assert!(Token::read(&path).expect("usable").authorizes(b"Bearer good-token"));
    }
}
