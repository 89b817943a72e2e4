//! The places of files in the streams of producers.
//!
//! The server knows how many bytes of a producer it has, so the client keeps nothing on its own
//! disk. A file that is rotated or truncated is another stream: each has a producer of its own,
//! whose id is derived from the path, the inode and the first line. A start asks the server which
//! of the possible producers it knows and goes on with the last one, if the file still begins as
//! that stream did: the tag of a producer states its beginning.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::http_client::Client;
use crate::error::Result;

/// Most bytes of the first line that count.
const FIRST_LINE_BYTES_MAX: usize = 1024;
/// Most bytes of the beginning of a file that are looked at.
const BEGINNING_BYTES_MAX: usize = 4 << 10;
/// Most bytes before the position in a file that are looked at.
const LAST_BYTES_MAX: usize = 1 << 10;
/// Most bytes of a file's name in the id of its producer.
const NAME_BYTES_MAX: usize = 64;
/// Most streams of one file between two starts: it was truncated so often, and began with the same
/// line each time.
const STREAMS_MAX: usize = 1000;

/// The id of a file's contents: an inode that begins with a certain line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity(String);

impl FileIdentity {
    /// Returns the identity of an open file, or `None` until it has a first line. With `is_whole`,
    /// nothing more is expected in the file.
    pub fn of(file: &File, is_whole: bool) -> io::Result<Option<FileIdentity>> {
        let beginning = read_from(file, 0, FIRST_LINE_BYTES_MAX)?;
        let bytes = beginning.len();
        let line = match beginning.iter().position(|byte| *byte == b'\n') {
            Some(end) => &beginning[..end],
            None if is_whole || bytes == FIRST_LINE_BYTES_MAX => &beginning[..],
            None => return Ok(None),
        };
        let mut hash = blake3::Hasher::new();
        hash.update(&file.metadata()?.ino().to_le_bytes()).update(line);
        Ok(Some(FileIdentity(hash.finalize().to_hex()[..16].to_owned())))
    }
}

/// The producers that a file at a path may have been fed as.
#[derive(Clone, Debug)]
pub struct ProducerNames {
    /// The id that was given by `--producer`.
    given: Option<String>,
    /// The beginning of all other ids.
    prefix: String,
}

impl ProducerNames {
    /// Returns the producers of the file at `path` on this host.
    pub fn of(path: &Path, given: Option<&str>) -> ProducerNames {
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
        ProducerNames { given: given.map(str::to_owned), prefix }
    }

    /// Returns the id number `number` for contents of this identity.
    fn id(&self, identity: &FileIdentity, number: usize) -> String {
        match number {
            0 => format!("{}{}", self.prefix, identity.0),
            _ => format!("{}{}:{number}", self.prefix, identity.0),
        }
    }

    /// Finds the stream of a file with this identity, beginning and length.
    ///
    /// Fails with `Configuration` if the server refuses to answer. One that is out of reach is
    /// asked again.
    pub async fn find(
        &self,
        client: &mut Client,
        (identity, beginning, length): (&FileIdentity, &Beginning, u64),
        search: Search,
    ) -> Result<FilePlace> {
        let given = self.given.iter().filter(|_| search == Search::AtStart);
        let mut unknown = None;
        // The last stream that the server knows, and whether the file can be its continuation.
        let mut last: Option<(Stream, bool)> = None;
        let mut next_id = self.id(identity, STREAMS_MAX);
        let derived = (0..STREAMS_MAX).map(|number| self.id(identity, number));
        for producer in given.cloned().chain(derived) {
            let (next, tag) = client.next(&producer).await?;
            let is_given = self.given.as_ref() == Some(&producer);
            if next > 0 {
                let fits = next <= length && tag.is_none_or(|tag| beginning.has_tag(&tag));
                last = Some((Stream { producer, next }, fits));
            } else if is_given {
                unknown = Some(producer);
            } else {
                // The first id that the server does not know ends the search.
                next_id = producer;
                break;
            }
        }
        let tag = beginning.tag();
        let place = |producer, next, former| FilePlace { producer, tag, next, former };
        Ok(match last {
            Some((stream, true)) if search != Search::Truncated => {
                place(stream.producer, stream.next, None)
            }
            Some((stream, _)) => {
                let former = Some(stream).filter(|_| search == Search::AtStart);
                place(next_id, 0, former)
            }
            None => place(unknown.unwrap_or(next_id), 0, None),
        })
    }
}

/// The reason for which the stream of a file is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// The client has started.
    AtStart,
    /// The file has taken the place of another at the same path, which had the id that was given.
    Rotated,
    /// The contents of the file were replaced: no stream that the server knows is theirs.
    Truncated,
}

/// The first bytes of a file, by which its contents are known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning(Vec<u8>);

impl Beginning {
    /// Reads the beginning of an open file as far as it is there.
    pub fn of(file: &File) -> io::Result<Beginning> {
        Ok(Beginning(read_from(file, 0, BEGINNING_BYTES_MAX)?))
    }

    /// Returns the tag of a stream that begins so.
    fn tag(&self) -> String {
        format!("{}-{}", self.0.len(), hash(&self.0))
    }

    /// Returns true if a stream with this tag begins as this file does.
    fn has_tag(&self, tag: &str) -> bool {
        let Some((bytes, hashed)) = tag.split_once('-') else { return false };
        let beginning = bytes.parse().ok().and_then(|bytes| self.0.get(..bytes));
        beginning.is_some_and(|beginning| hash(beginning) == hashed)
    }
}

/// Bytes of a file that were read, which stay as they are unless its contents are replaced.
#[derive(Debug)]
pub struct Seen {
    /// The first bytes of the file, by which it is known again.
    beginning: Vec<u8>,
    /// The last bytes that were read, and their position.
    last: (u64, Vec<u8>),
}

impl Seen {
    /// Returns what is looked at of a file that was read up to `at`.
    pub fn of(file: &File, at: u64) -> io::Result<Seen> {
        let from = at.saturating_sub(LAST_BYTES_MAX as u64);
        let beginning = read_from(file, 0, BEGINNING_BYTES_MAX.min(at as usize))?;
        Ok(Seen { beginning, last: (from, read_from(file, from, (at - from) as usize)?) })
    }

    /// Returns true if the bytes are still there.
    pub fn is_there(&self, file: &File) -> io::Result<bool> {
        let Seen { beginning, last: (from, last) } = self;
        Ok(read_from(file, 0, beginning.len())? == *beginning
            && read_from(file, *from, last.len())? == *last)
    }

    /// Notes that `bytes`, the next ones, were read.
    pub fn read(&mut self, bytes: &[u8]) {
        let (from, last) = &mut self.last;
        if *from == 0 && self.beginning.len() < BEGINNING_BYTES_MAX {
            let room = BEGINNING_BYTES_MAX - self.beginning.len();
            self.beginning.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        last.extend_from_slice(bytes);
        let gone = last.len().saturating_sub(LAST_BYTES_MAX);
        last.drain(..gone);
        *from += gone as u64;
    }
}

/// Reads up to `bytes_max` bytes of a file.
fn read_from(file: &File, at: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; bytes_max];
    let filled = read_at_most(file, &mut bytes, at)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Reads from `at` on until the buffer is full or the file ends; returns the number of bytes.
pub fn read_at_most(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Returns a short hash of the beginning of a file.
fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

/// A stream that the server knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The id of the producer.
    pub producer: String,
    /// The bytes of it that the server has.
    pub next: u64,
}

/// A place in a file, as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlace {
    /// The id of the file's producer.
    pub producer: String,
    /// The tag that the producer gets if it is new.
    pub tag: String,
    /// The bytes of the file that the server has.
    pub next: u64,
    /// The stream that was found, if the file is not its continuation: its contents are new.
    pub former: Option<Stream>,
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
        assert_eq!(FileIdentity::of(&file, false).expect("read"), None);
        file.write_all(b"begin").expect("written");
        assert_eq!(FileIdentity::of(&file, false).expect("read"), None);
        assert!(FileIdentity::of(&file, true).expect("read").is_some());
        file.write_all(b"ning\n").expect("written");
        let first = FileIdentity::of(&file, false).expect("read").expect("a line");
        file.write_all(b"more\n").expect("written");
        assert_eq!(FileIdentity::of(&file, true).expect("read").as_ref(), Some(&first));
        file.set_len(0).expect("truncated");
        file.write_at(b"another\n", 0).expect("written");
        assert_ne!(FileIdentity::of(&file, true).expect("read").as_ref(), Some(&first));
    }

    #[test]
    fn tag_is_that_of_files_that_begin_so() {
        let beginning = |text: &str| Beginning(text.as_bytes().to_vec());
        let tag = beginning("a\nb\n").tag();
        assert!(beginning("a\nb\n").has_tag(&tag) && beginning("a\nb\nc").has_tag(&tag));
        for other in ["a\nb", "a\nc\nd\n", ""] {
            assert!(!beginning(other).has_tag(&tag), "{other:?}");
        }
        assert!(!beginning("a\nb\n").has_tag("no tag of a file"));
    }

    #[test]
    fn seen_bytes_are_missed_when_replaced() {
        let mut file = tempfile::tempfile().expect("a file");
        let text = (0..3_000).map(|number| format!("line {number}\n")).collect::<String>();
        file.write_all(text.as_bytes()).expect("written");
        let mut seen = Seen::of(&file, 0).expect("read");
        for piece in text.as_bytes().chunks(700) {
            seen.read(piece);
            assert!(seen.is_there(&file).expect("read"));
        }
        assert!(Seen::of(&file, 20_000).expect("read").is_there(&file).expect("read"));
        for at in [3, text.len() as u64 - 3] {
            file.write_at(b"#", at).expect("written");
            assert!(!seen.is_there(&file).expect("read"), "a change at {at}");
            file.write_at(&text.as_bytes()[at as usize..][..1], at).expect("written");
            assert!(seen.is_there(&file).expect("read"));
        }
    }

    #[test]
    fn ids_of_producers_are_short_and_printable() {
        let identity = FileIdentity("0123456789abcdef".to_owned());
        let path = format!("/{}/\u{1f600} {}", "d".repeat(3000), "n".repeat(250));
        let producers = ProducerNames::of(Path::new(&path), None);
        for number in [0, STREAMS_MAX] {
            let id = producers.id(&identity, number);
            assert!(id.len() <= 256 && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
        }
        let given = ProducerNames::of(Path::new("/log"), Some("web"));
        assert_eq!(given.id(&identity, 1), "web:0123456789abcdef:1");
    }
}
