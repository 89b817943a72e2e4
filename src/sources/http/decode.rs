//! Content encodings: gzip and zstd, decompressed within limits.

use std::io::{self, Read};

use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// Base-2 logarithm of the largest zstd window: 8 MiB, the most that RFC 9659 lets a sender use.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// The bytes as they are.
    Identity,
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 8878, one or more frames.
    Zstd,
}

impl Coding {
    /// Returns the encoding that the headers name; `None` for one that is not supported.
    pub fn of(headers: &HeaderMap) -> Option<Coding> {
        let mut found = Coding::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            for name in value.to_str().ok()?.split(',').map(str::trim) {
                let coding = match name.to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Coding::Gzip,
                    "zstd" => Coding::Zstd,
                    _ => return None,
                };
                // One encoding around another saves nothing and doubles the work.
                if found != Coding::Identity {
                    return None;
                }
                found = coding;
            }
        }
        Some(found)
    }

    /// Returns a reader of the text in `body`.
    ///
    /// # Errors
    ///
    /// Those of the decompressor's start. Reading fails for a damaged or truncated body.
    pub fn reader<'a>(self, body: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Coding::Identity => Box::new(body),
            Coding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(body)),
            Coding::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(body)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write;

    fn coding(values: &[&str]) -> Option<Coding> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, value.parse().expect("a value"));
        }
        Coding::of(&headers)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).and_then(|()| encoder.finish()).expect("memory takes it")
    }

    fn decoded(coding: Coding, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        coding.reader(body)?.read_to_end(&mut text).map(|_| text)
    }

    #[test]
    fn names_of_codings_are_known_or_refused() {
        assert_eq!(coding(&[]), Some(Coding::Identity));
        assert_eq!(coding(&["identity"]), Some(Coding::Identity));
        assert_eq!(coding(&["GZip"]), Some(Coding::Gzip));
        assert_eq!(coding(&["identity, zstd"]), Some(Coding::Zstd));
        for bad in [&["br"][..], &["deflate"], &["gzip, gzip"], &["gzip", "zstd"]] {
            assert_eq!(coding(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn concatenated_members_and_frames_are_read() {
        let members = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(decoded(Coding::Gzip, &members).expect("sound"), b"one two");
        let frame = |text: &[u8]| zstd::encode_all(text, 1).expect("memory takes it");
        let frames = [frame(b"one "), frame(b"two")].concat();
        assert_eq!(decoded(Coding::Zstd, &frames).expect("sound"), b"one two");
    }

    #[test]
    fn damaged_and_truncated_bodies_are_refused() {
        let (gzip, zstd) = (gzip(b"words and words"), zstd::encode_all(&b"words"[..], 1));
        let zstd = zstd.expect("memory takes it");
        for (coding, sound) in [(Coding::Gzip, gzip), (Coding::Zstd, zstd)] {
            decoded(coding, &sound).expect("sound");
            for bytes in 1..sound.len() {
                decoded(coding, &sound[..bytes]).expect_err("truncated");
            }
            let mut trailed = sound.clone();
            trailed.extend_from_slice(b"garbage after the end");
            decoded(coding, &trailed).expect_err("garbage");
        }
    }
}
