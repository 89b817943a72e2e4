//! The places of files in the streams of producers.
//!
//! The server knows how many bytes of a producer it has, so the client keeps nothing on its own
//! disk. A file that is rotated or truncated is another stream: each has a producer of its own,
//! whose id is derived from the path, the inode and the first line. A start asks the server which
//! of the possible producers it knows and goes on with the last one, if the file still begins as
//! that stream did: the tag of a producer states its beginning. A file that was renamed goes on as
//! the producer of its former path, if that can be guessed.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::iter;
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

/// Most names of which a file's name may have been made by a rotation.
const FORMER_NAMES_MAX: usize = 8;

/// The ids of a file's contents: an inode that begins with a certain line. A new stream has the
/// first of them; the contents may have been fed under the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity(Vec<String>);

impl FileIdentity {
    /// Returns the identity of an open file, or `None` until it has a first line. With `is_whole`,
    /// nothing more is expected in the file.
    pub fn of(file: &File, is_whole: bool) -> io::Result<Option<FileIdentity>> {
        let beginning = read_from(file, 0, FIRST_LINE_BYTES_MAX)?;
        let inode = file.metadata()?.ino();
        let of = |line: &[u8]| {
            let mut hash = blake3::Hasher::new();
            hash.update(&inode.to_le_bytes()).update(line);
            hash.finalize().to_hex()[..16].to_owned()
        };
        // An unfinished line may grow. No line contains its end.
        let unfinished = of(b"\n");
        let line = beginning.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let is_finished = line.len() < beginning.len() || line.len() == FIRST_LINE_BYTES_MAX;
        Ok(match (is_finished, is_whole) {
            (true, _) => Some(FileIdentity(vec![of(line), unfinished])),
            // Older clients took the line as it stood.
            (false, true) => Some(FileIdentity(vec![unfinished, of(line)])),
            (false, false) => None,
        })
    }
}

/// The producers that a file at a path may have been fed as.
#[derive(Clone, Debug)]
pub struct ProducerNames {
    /// The id that was given by `--producer`.
    given: Option<String>,
    /// The beginnings of all other ids. That of new streams comes first.
    prefixes: Vec<String>,
}

impl ProducerNames {
    /// Returns the producers of the file at `path` on this host. Its folder must be there: however
    /// the path is spelled, it is the same.
    pub fn of(path: &Path, given: Option<&str>) -> ProducerNames {
        if let Some(given) = given {
            let prefixes = vec![format!("{given}:")];
            return ProducerNames { given: Some(given.to_owned()), prefixes };
        }
        let spelled = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = spelled.parent().and_then(|folder| folder.canonicalize().ok());
        let path = match (folder, spelled.file_name()) {
            (Some(folder), Some(name)) => folder.join(name),
            _ => spelled.clone(),
        };
        let mut paths = vec![path.clone()];
        // As older clients spelled it.
        paths.extend((spelled != path).then_some(spelled));
        paths.extend(former_names(&path).map(|name| path.with_file_name(name)));
        let host = host();
        let prefixes = paths.iter().map(|path| prefix(&host, path)).collect();
        ProducerNames { given: None, prefixes }
    }

    /// Returns the ids, without their numbers, that contents of this identity may have. That of a
    /// new stream comes first.
    fn bases(&self, identity: &FileIdentity) -> impl Iterator<Item = String> {
        let of = |prefix| identity.0.iter().map(move |id| format!("{prefix}{id}"));
        self.prefixes.iter().flat_map(of)
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
        let fits = |known: &KnownStream| {
            let tag = known.tag.as_ref();
            known.stream.next <= length && tag.is_none_or(|tag| beginning.has_tag(tag))
        };
        let is_start = search == Search::AtStart;
        let (mut last, mut unknown) = (None, None);
        if let Some(given) = self.given.as_ref().filter(|_| is_start) {
            match known(client, given.clone()).await? {
                Ok(stream) => last = Some(stream),
                Err(given) => unknown = Some(given),
            }
        }
        let mut bases = self.bases(identity);
        let own = bases.next().unwrap_or_default();
        let (of_own, next_id) = last_known(client, &own).await?;
        last = of_own.or(last);
        while let Some(base) = bases.next().filter(|_| is_start && last.is_none()) {
            last = last_known(client, &base).await?.0.filter(fits);
        }
        let tag = beginning.tag();
        let place = |producer, next, former| FilePlace { producer, tag, next, former };
        Ok(match last {
            Some(known) if search != Search::Truncated && fits(&known) => {
                place(known.stream.producer, known.stream.next, None)
            }
            Some(known) => place(next_id, 0, Some(known.stream).filter(|_| is_start)),
            None => place(unknown.unwrap_or(next_id), 0, None),
        })
    }
}

/// Returns the beginning of the ids of the file at `path`.
fn prefix(host: &str, path: &Path) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    let short = |text: &str| text.chars().map(plain).take(NAME_BYTES_MAX).collect::<String>();
    let name = short(&path.file_name().unwrap_or_default().to_string_lossy());
    let hash = blake3::hash(format!("{host}:{}", path.display()).as_bytes()).to_hex();
    format!("{}:{name}:{}:", short(host), &hash[..8])
}

/// Returns the names that a rotated file may have had: `app.log` where it is `app.log.1` or
/// `app.log-20261130`.
fn former_names(path: &Path) -> impl Iterator<Item = &str> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let ends = name.rmatch_indices(['.', '-', '_']).filter(|(end, _)| *end > 0);
    ends.map(|(end, _)| &name[..end]).take(FORMER_NAMES_MAX)
}

/// Asks the server for the stream of a producer; returns the id of one that it does not know.
async fn known(client: &mut Client, producer: String) -> Result<Result<KnownStream, String>> {
    let (next, tag) = client.next(&producer).await?;
    if next == 0 {
        return Ok(Err(producer));
    }
    Ok(Ok(KnownStream { stream: Stream { producer, next }, tag }))
}

/// Returns the last stream with this id or one of its numbers that the server knows, and the first
/// id that it does not know, which ends the search.
async fn last_known(client: &mut Client, base: &str) -> Result<(Option<KnownStream>, String)> {
    let mut last = None;
    let numbered = |number: usize| format!("{base}:{number}");
    for producer in iter::once(base.to_owned()).chain((1..STREAMS_MAX).map(numbered)) {
        match known(client, producer).await? {
            Ok(stream) => last = Some(stream),
            Err(unknown) => return Ok((last, unknown)),
        }
    }
    Ok((last, numbered(STREAMS_MAX)))
}

/// A stream that the server knows, as it answers.
#[derive(Debug)]
struct KnownStream {
    /// The producer and its position.
    stream: Stream,
    /// The tag of the producer, if it has one.
    tag: Option<String>,
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
        let ids = |file: &File, is_whole: bool| {
            FileIdentity::of(file, is_whole).expect("read").map(|identity| identity.0)
        };
        assert_eq!(ids(&file, false), None);
        file.write_all(b"begin").expect("written");
        assert_eq!(ids(&file, false), None);
        let unfinished = ids(&file, true).expect("it is whole");
        file.write_all(b"ning").expect("written");
        assert_eq!(ids(&file, true).expect("it is whole")[0], unfinished[0], "it has grown");
        file.write_all(b"\n").expect("written");
        let first = ids(&file, false).expect("a line");
        assert_eq!(first[1], unfinished[0], "fed before it was finished");
        file.write_all(b"more\n").expect("written");
        assert_eq!(ids(&file, true).as_ref(), Some(&first));
        file.set_len(0).expect("truncated");
        file.write_at(b"another\n", 0).expect("written");
        assert_ne!(ids(&file, true).expect("a line")[0], first[0]);
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
        let identity = FileIdentity(vec!["0123456789abcdef".to_owned()]);
        let path = format!("/{}/\u{1f600} {}", "d".repeat(3000), "n".repeat(250));
        for base in ProducerNames::of(Path::new(&path), None).bases(&identity) {
            let id = format!("{base}:{STREAMS_MAX}");
            assert!(id.len() <= 256 && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
        }
        let given = ProducerNames::of(Path::new("/log"), Some("web"));
        assert_eq!(given.bases(&identity).collect::<Vec<_>>(), ["web:0123456789abcdef"]);
    }

    #[test]
    fn path_has_one_id_however_it_is_spelled() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().canonicalize().expect("it is there");
        std::os::unix::fs::symlink(&folder, folder.join("link")).expect("a link");
        std::fs::create_dir(folder.join("sub")).expect("a folder");
        let prefixes = |path: &str| ProducerNames::of(&folder.join(path), None).prefixes;
        let plain = prefixes("a.log");
        // As clients of all releases have it.
        assert_eq!(plain[0], prefix(&host(), &folder.join("a.log")));
        for spelled in ["link/a.log", "sub/../a.log", "./sub/..//link//a.log"] {
            let all = prefixes(spelled);
            assert_eq!(all[0], plain[0], "{spelled}");
            let older = std::path::absolute(folder.join(spelled)).expect("a path");
            assert_eq!(all[1], prefix(&host(), &older), "{spelled}");
        }
    }

    #[test]
    fn rotated_name_leads_to_former_one() {
        let names = |name: &'static str| former_names(Path::new(name)).collect::<Vec<_>>();
        assert_eq!(names("/x/app.log.1"), ["app.log", "app"]);
        assert_eq!(names("app.log-20261130"), ["app.log", "app"]);
        assert!(names(".hidden").is_empty() && names("/").is_empty());
    }
}
