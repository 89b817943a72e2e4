//! Ill-formed UTF-8 to text.

use std::borrow::Cow;

/// `text` with every ill-formed sequence replaced by U+FFFD.
pub fn java_lossy(text: &[u8]) -> Cow<'_, [u8]> {
    match String::from_utf8_lossy(text) {
        Cow::Borrowed(valid) => Cow::Borrowed(valid.as_bytes()),
        Cow::Owned(decoded) => Cow::Owned(decoded.into_bytes()),
    }
}
