//! The places of files in the streams of producers.
//!
//! The server knows how many bytes of a producer it has, so the client keeps nothing on its own
//! disk. A file that is rotated or truncated is another stream: each has a producer of its own,
//! whose id is derived from the path, the inode and the first line. A start asks the server which
//! of the possible producers it knows and goes on with the last one.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::client::Client;
use crate::error::Result;

/// Most bytes of the first line that count.
const FIRST_LINE_BYTES_MAX: usize = 1024;
/// Most bytes of a file's name in the id of its producer.
const NAME_BYTES_MAX: usize = 64;
/// Most streams of one file between two starts: it was truncated so often, and began with the same
/// line each time.
const STREAMS_MAX: usize = 1000;

/// The id of a file's contents: an inode that begins with a certain line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity(String);

impl Identity {
    /// Returns the identity of an open file, or `None` until it has a first line. With `is_whole`,
    /// nothing more is expected in the file.
    pub(super) fn of(file: &File, is_whole: bool) -> io::Result<Option<Identity>> {
        let mut beginning = [0; FIRST_LINE_BYTES_MAX];
        let mut bytes = 0;
        while bytes < beginning.len() {
            match file.read_at(&mut beginning[bytes..], bytes as u64)? {
                0 => break,
                read => bytes += read,
            }
        }
        let beginning = &beginning[..bytes];
        let line = match beginning.iter().position(|byte| *byte == b'\n') {
            Some(end) => &beginning[..end],
            None if is_whole || bytes == FIRST_LINE_BYTES_MAX => beginning,
            None => return Ok(None),
        };
        let mut hash = blake3::Hasher::new();
        hash.update(&file.metadata()?.ino().to_le_bytes()).update(line);
        Ok(Some(Identity(hash.finalize().to_hex()[..16].to_owned())))
    }
}

/// The producers that a file at a path may have been fed as.
#[derive(Clone, Debug)]
pub(super) struct Producers {
    /// The id that was given by `--producer`.
    given: Option<String>,
    /// The beginning of all other ids.
    prefix: String,
}

impl Producers {
    /// Returns the producers of the file at `path` on this host.
    pub(super) fn of(path: &Path, given: Option<&str>) -> Producers {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
        let name: String = name.chars().map(plain).take(NAME_BYTES_MAX).collect();
        let host = host();
        let place = format!("{host}:{}", path.display());
        let hash = blake3::hash(place.as_bytes()).to_hex();
        let host: String = host.chars().map(plain).take(NAME_BYTES_MAX).collect();
        let prefix = match given {
            Some(given) => format!("{given}:"),
            None => format!("{host}:{name}:{}:", &hash[..8]),
        };
        Producers { given: given.map(str::to_owned), prefix }
    }

    /// Returns the id number `number` for contents of this identity.
    fn id(&self, identity: &Identity, number: usize) -> String {
        match number {
            0 => format!("{}{}", self.prefix, identity.0),
            _ => format!("{}{}:{number}", self.prefix, identity.0),
        }
    }

    /// Finds the stream of a file with this identity and length.
    ///
    /// With `is_new`, the file has taken the place of another at the same path, which had the id
    /// that was given.
    pub(super) async fn find(
        &self,
        client: &mut Client,
        identity: &Identity,
        length: u64,
        is_new: bool,
    ) -> Result<FilePlace> {
        let given = self.given.iter().filter(|_| !is_new).cloned();
        let derived = (0..STREAMS_MAX).map(|number| self.id(identity, number));
        let mut known: Option<FilePlace> = None;
        let is_given = |producer: &String| self.given.as_ref() == Some(producer);
        for producer in given.chain(derived) {
            let next = client.next(&producer).await?;
            let place = FilePlace { producer, next, is_truncated: false };
            match known.take() {
                // The first id that the server does not know ends the search.
                Some(last) if next == 0 => {
                    let fits = last.next <= length;
                    return Ok(if fits { last } else { FilePlace { is_truncated: true, ..place } });
                }
                None if next == 0 && !is_given(&place.producer) => return Ok(place),
                None if next == 0 => {
                    // Streams of later contents may be known although this one is not.
                    let later = client.next(&self.id(identity, 0)).await?;
                    if later == 0 {
                        return Ok(place);
                    }
                }
                _ => known = Some(place),
            }
        }
        let producer = self.id(identity, STREAMS_MAX);
        Ok(FilePlace { producer, next: 0, is_truncated: true })
    }
}

/// A place in a file, as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilePlace {
    /// The id of the file's producer.
    pub(super) producer: String,
    /// The bytes of the file that the server has.
    pub(super) next: u64,
    /// The file is shorter than what the server has of it: its contents are new.
    pub(super) is_truncated: bool,
}

/// Returns the name of this host.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"));
    match name.as_deref().map(str::trim) {
        Ok(name) if !name.is_empty() => name.to_owned(),
        _ => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write;

    #[test]
    fn identity_needs_first_line_and_keeps() {
        let mut file = tempfile::tempfile().expect("a file");
        assert_eq!(Identity::of(&file, false).expect("read"), None);
        file.write_all(b"begin").expect("written");
        assert_eq!(Identity::of(&file, false).expect("read"), None);
        assert!(Identity::of(&file, true).expect("read").is_some());
        file.write_all(b"ning\n").expect("written");
        let first = Identity::of(&file, false).expect("read").expect("a line");
        file.write_all(b"more\n").expect("written");
        assert_eq!(Identity::of(&file, true).expect("read").as_ref(), Some(&first));
        file.set_len(0).expect("truncated");
        file.write_at(b"another\n", 0).expect("written");
        assert_ne!(Identity::of(&file, true).expect("read").as_ref(), Some(&first));
    }

    #[test]
    fn ids_of_producers_are_short_and_printable() {
        let identity = Identity("0123456789abcdef".to_owned());
        let path = format!("/{}/\u{1f600} {}", "d".repeat(3000), "n".repeat(250));
        let producers = Producers::of(Path::new(&path), None);
        for number in [0, STREAMS_MAX] {
            let id = producers.id(&identity, number);
            assert!(id.len() <= 256 && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
        }
        let given = Producers::of(Path::new("/log"), Some("web"));
        assert_eq!(given.id(&identity, 1), "web:0123456789abcdef:1");
    }
}
