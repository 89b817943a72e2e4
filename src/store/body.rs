//! What is stored: a rope of byte chunks.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use md5::{Digest, Md5};

/// The bytes of one object, in chunks as they were encoded, never joined into one allocation.
///
/// A clone shares the bytes, so that a retry costs nothing. Length and MD5 are taken once; the MD5
/// when it is first asked for, so ask where there is time for it (2 ms for a MiB).
#[derive(Clone)]
pub struct Body(Arc<Rope>);

struct Rope {
    chunks: Vec<Bytes>,
    bytes: u64,
    md5: OnceLock<[u8; 16]>,
}

impl Body {
    /// The chunks one after the other; empty ones are left out.
    pub fn from_chunks(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        let chunks: Vec<Bytes> = chunks.into_iter().filter(|c| !c.is_empty()).collect();
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Body(Arc::new(Rope { chunks, bytes, md5: OnceLock::new() }))
    }

    /// The chunks in order, none of them empty.
    pub fn chunks(&self) -> &[Bytes] {
        &self.0.chunks
    }

    /// The length of all chunks.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// The MD5 of all chunks.
    pub fn md5(&self) -> [u8; 16] {
        *self.0.md5.get_or_init(|| {
            let mut hasher = Md5::new();
            for chunk in &self.0.chunks {
                hasher.update(chunk);
            }
            hasher.finalize().into()
        })
    }

    /// The MD5 in 32 lower-case hexadecimal digits.
    pub fn md5_hex(&self) -> String {
        hex(&self.md5())
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte)]).collect()
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::from_chunks([bytes])
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::from(Bytes::from(bytes))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body::from(Bytes::from(text))
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Body::from(Bytes::from_static(text.as_bytes()))
    }
}

impl fmt::Debug for Body {
    /// Shape only: words of a user's text do not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("bytes", &self.bytes())
            .field("chunks", &self.chunks().len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_md5_do_not_depend_on_the_chunks() {
        let one = Body::from("hello world\n");
        let many = Body::from_chunks(["hello", "", " world", "\n"].map(Bytes::from));
        assert_eq!(many.chunks().len(), 3);
        assert_eq!(one.bytes(), many.bytes());
        assert_eq!(one.md5(), many.md5());
        assert_eq!(one.md5_hex(), "6f5902ac237024bdd0c176cb93063dc4");
        assert_eq!(Body::from("").md5_hex(), "d41d8cd98f00b204e9800998ecf8427e");
    }
}
