//! Compressed input, which is not decompressed: a warning names it and the way out.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A format that lines may arrive in by mistake.
struct Compression {
    name: &'static str,
    suffixes: &'static [&'static str],
    /// The bytes that a file of the format begins with.
    magic: &'static [u8],
    /// The program that writes the text to standard output.
    tool: &'static str,
}

/// A zip archive has no program that reads standard input; it is named all the same.
const COMPRESSIONS: [Compression; 6] = [
    Compression { name: "gzip", suffixes: &["gz", "tgz"], magic: b"\x1f\x8b", tool: "zcat" },
    Compression {
        name: "zstd",
        suffixes: &["zst", "zstd"],
        magic: b"\x28\xb5\x2f\xfd",
        tool: "zstdcat",
    },
    Compression { name: "bzip2", suffixes: &["bz2"], magic: b"BZh", tool: "bzcat" },
    Compression { name: "xz", suffixes: &["xz"], magic: b"\xfd7zXZ\0", tool: "xzcat" },
    Compression { name: "lz4", suffixes: &["lz4"], magic: b"\x04\x22\x4d\x18", tool: "lz4cat" },
    Compression { name: "zip", suffixes: &["zip"], magic: b"PK\x03\x04", tool: "unzip -p" },
];

/// Most bytes that are looked at.
const MAGIC_BYTES: usize = 16;

/// The block's own magic number after `BZh` and the level: a text may begin with three letters.
const BZIP2_BLOCK: &[u8] = b"\x31\x41\x59\x26\x53\x59";

fn by_content(beginning: &[u8]) -> Option<&'static Compression> {
    let found = COMPRESSIONS.iter().find(|format| beginning.starts_with(format.magic))?;
    let is_text = found.name == "bzip2" && beginning.get(4..10) != Some(BZIP2_BLOCK);
    (!is_text).then_some(found)
}

fn by_name(path: &Path) -> Option<&'static Compression> {
    let suffix = path.extension()?.to_str()?.to_ascii_lowercase();
    COMPRESSIONS.iter().find(|format| format.suffixes.contains(&suffix.as_str()))
}

/// Logs a warning if `file` is compressed, by its first bytes or by its name.
pub(super) fn warn_of_file(path: &Path, file: &File) {
    let mut beginning = [0; MAGIC_BYTES];
    // A file that cannot be read fails where its lines are read.
    let bytes = file.read_at(&mut beginning, 0).unwrap_or(0);
    if let Some(format) = by_content(&beginning[..bytes]).or_else(|| by_name(path)) {
        let (path, Compression { name, tool, .. }) = (path.display(), format);
        tracing::warn!(
            "{path} is compressed ({name}) and is not decompressed: its bytes are counted as they \
             are; to count its lines: {tool} {path} | wordtide run --stdin"
        );
    }
}

/// Logs a warning if the stream called `name`, which begins so, is compressed.
pub(super) fn warn_of_stream(name: &str, beginning: &[u8]) {
    if let Some(format) = by_content(&beginning[..beginning.len().min(MAGIC_BYTES)]) {
        let Compression { name: compression, tool, .. } = format;
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
    fn compression_is_known_by_name() {
        let name = |path| by_name(Path::new(path)).map(|format| format.name);
        assert_eq!(name("logs/a.txt.GZ"), Some("gzip"));
        assert_eq!(name("a.zst"), Some("zstd"));
        assert_eq!(name("gz"), None);
        assert_eq!(name("a.gz.txt"), None);
    }
}
