//! Compressed input: which of it is decompressed, and a warning for what is not.
//!
//! gzip and zstd files are decompressed, members and frames in a row included. The content decides:
//! a file that begins as one of them does is decompressed whatever its name is. A file that is
//! named `.gz` or `.zst` and does not begin so is reported as damaged, because its bytes would pass
//! for words. Other formats, and pipes, are read as they are, with a warning that names the way
//! out.

mod stored;
mod text;

use std::io::{self, Read};
use std::path::Path;

pub use stored::StoredFile;
pub use text::{Stored, Text, TextFault};

/// A format that lines may arrive in.
#[derive(Debug, PartialEq, Eq)]
pub struct InputFormat {
    /// The name in messages.
    pub name: &'static str,
    /// Endings of file names, without the dot.
    suffixes: &'static [&'static str],
    /// The bytes that a file of the format begins with.
    magic: &'static [u8],
    /// The program that writes the text to standard output.
    tool: &'static str,
    /// True if files of the format are decompressed.
    is_read: bool,
}

/// A zip archive has no program that reads standard input; it is named all the same.
const COMPRESSIONS: [InputFormat; 6] = [
    InputFormat {
        name: "gzip",
        suffixes: &["gz", "tgz"],
        magic: b"\x1f\x8b\x08",
        tool: "zcat",
        is_read: true,
    },
    InputFormat {
        name: "zstd",
        suffixes: &["zst", "zstd"],
        magic: b"\x28\xb5\x2f\xfd",
        tool: "zstdcat",
        is_read: true,
    },
    InputFormat { name: "bzip2", suffixes: &["bz2"], magic: b"BZh", tool: "bzcat", is_read: false },
    InputFormat {
        name: "xz",
        suffixes: &["xz"],
        magic: b"\xfd7zXZ\0",
        tool: "xzcat",
        is_read: false,
    },
    InputFormat {
        name: "lz4",
        suffixes: &["lz4"],
        magic: b"\x04\x22\x4d\x18",
        tool: "lz4cat",
        is_read: false,
    },
    InputFormat {
        name: "zip",
        suffixes: &["zip"],
        magic: b"PK\x03\x04",
        tool: "unzip -p",
        is_read: false,
    },
];

/// Most bytes that are looked at.
const MAGIC_BYTES: usize = 16;

/// The block's own magic number after `BZh` and the level: a text may begin with three letters.
const BZIP2_BLOCK: &[u8] = b"\x31\x41\x59\x26\x53\x59";
/// The end of the magic numbers of zstd's skippable frames, which may come before the first frame.
const ZSTD_SKIPPABLE: &[u8] = b"\x2a\x4d\x18";

/// Returns the format that the first bytes of a file show.
fn by_content(beginning: &[u8]) -> Option<&'static InputFormat> {
    let found = COMPRESSIONS.iter().find(|format| beginning.starts_with(format.magic))?;
    let is_text = found.name == "bzip2" && beginning.get(4..10) != Some(BZIP2_BLOCK);
    (!is_text).then_some(found)
}

/// Returns the format that the name of a file states.
fn by_name(path: &Path) -> Option<&'static InputFormat> {
    let suffix = path.extension()?.to_str()?.to_ascii_lowercase();
    COMPRESSIONS.iter().find(|format| format.suffixes.contains(&suffix.as_str()))
}

/// Returns the first bytes of a file, and goes back to its beginning.
///
/// # Errors
///
/// Those of reading it.
pub fn beginning<R: Stored>(stored: &mut R) -> io::Result<Vec<u8>> {
    let mut beginning = Vec::new();
    stored.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut beginning)?;
    stored.seek_to(0);
    Ok(beginning)
}

/// The way to read a file.
#[derive(Debug, PartialEq, Eq)]
pub enum InputEncoding {
    /// Its bytes are text. The format, if any, is one that is not decompressed.
    Plain(Option<&'static InputFormat>),
    /// It is decompressed.
    Compressed(&'static InputFormat),
    /// It is named as a format that is decompressed, and does not begin as one.
    NotWhatItsNameSays(&'static InputFormat),
}

impl InputEncoding {
    /// Returns the way to read the file at `path` that begins with `beginning`, of which
    /// [`MAGIC_BYTES`] are enough. An empty file is empty, whatever its name.
    pub fn of(path: &Path, beginning: &[u8]) -> InputEncoding {
        let named = by_name(path).filter(|_| !beginning.is_empty());
        match (by_content(beginning), named) {
            (Some(format), _) if format.is_read => InputEncoding::Compressed(format),
            (_, Some(format)) if format.is_read => {
                let is_skippable = format.name == "zstd"
                    && beginning.first().is_some_and(|byte| byte & 0xf0 == 0x50)
                    && beginning[1..].starts_with(ZSTD_SKIPPABLE);
                if is_skippable {
                    InputEncoding::Compressed(format)
                } else {
                    InputEncoding::NotWhatItsNameSays(format)
                }
            }
            (found, named) => InputEncoding::Plain(found.or(named)),
        }
    }

    /// Logs a warning if the file called `name` is compressed and is not decompressed.
    pub fn warn(&self, name: &str) {
        if let InputEncoding::Plain(Some(InputFormat { name: compression, tool, .. })) = self {
            tracing::warn!(
                "{name} is compressed ({compression}) and is not decompressed: its bytes are \
                 counted as they are; to count its lines: {tool} {name} | wordtide run --stdin"
            );
        }
    }
}

/// Logs a warning if the stream called `name`, which begins so, is compressed.
pub fn warn_of_stream(name: &str, beginning: &[u8]) {
    if let Some(format) = by_content(&beginning[..beginning.len().min(MAGIC_BYTES)]) {
        let InputFormat { name: compression, tool, .. } = format;
        tracing::warn!(
            "{name} is compressed ({compression}) and is not decompressed: its bytes are counted \
             as they are; to count its lines put `{tool}` before it in the pipe"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(beginning: &[u8]) -> Option<&'static str> {
        by_content(beginning).map(|format| format.name)
    }

    fn read_as(path: &str, beginning: &[u8]) -> (Option<&'static str>, bool) {
        match InputEncoding::of(Path::new(path), beginning) {
            InputEncoding::Plain(found) => (found.map(|format| format.name), false),
            InputEncoding::Compressed(format) => (Some(format.name), true),
            InputEncoding::NotWhatItsNameSays(format) => panic!("{path} is no {}", format.name),
        }
    }

    #[test]
    fn compression_is_known_by_content() {
        assert_eq!(name(b"\x1f\x8b\x08\0"), Some("gzip"));
        assert_eq!(name(b"\x28\xb5\x2f\xfd\x04"), Some("zstd"));
        assert_eq!(name(b"BZh91AY&SY..."), Some("bzip2"));
        assert_eq!(name(b"\xfd7zXZ\0\0"), Some("xz"));
    }

    #[test]
    fn text_is_not_compressed() {
        for text in [&b""[..], b"B", b"BZh", b"BZhang and others", b"PK", b"7zXZ"] {
            assert_eq!(name(text), None, "{text:?}");
        }
    }

    #[test]
    fn content_decides_before_name() {
        assert_eq!(read_as("lines", b"\x1f\x8b\x08\0"), (Some("gzip"), true));
        assert_eq!(read_as("lines.zst", b"\x1f\x8b\x08\0"), (Some("gzip"), true));
        assert_eq!(read_as("lines.ZST", b"\x50\x2a\x4d\x18\0\0"), (Some("zstd"), true));
        assert_eq!(read_as("lines.bz2", b"text"), (Some("bzip2"), false));
        assert_eq!(read_as("lines.gz", b""), (None, false));
        assert_eq!(read_as("lines.txt", b"text"), (None, false));
    }

    #[test]
    fn name_without_its_content_is_damage() {
        for (path, beginning) in
            [("lines.gz", &b"text"[..]), ("l.zst", b"\x28\xb5"), ("l.gz", b"\x1f")]
        {
            let found = InputEncoding::of(Path::new(path), beginning);
            assert!(matches!(found, InputEncoding::NotWhatItsNameSays(_)), "{path}: {found:?}");
        }
    }
}
