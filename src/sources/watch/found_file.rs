//! A file or object that was found, and what separates its states.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use xxhash_rust::xxh3::Xxh3;

use crate::store::ObjectEntry;

/// The hash of a name. Two names never share one, also not on purpose.
pub type NameHash = u128;

/// The nanoseconds of a second.
const SECOND_NS: i128 = 1_000_000_000;

/// Returns the hash of a name.
pub fn hash_of(name: &[u8]) -> NameHash {
    let mut first = [0; 16];
    first.copy_from_slice(&blake3::hash(name).as_bytes()[..16]);
    u128::from_le_bytes(first)
}

/// A state of a file's content: equal for a file that was not changed. A hash, so that a hundred
/// thousand of them take little room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Version(pub(super) u64);

impl Version {
    /// Returns the version of a file of a folder, written last at `written_ns`.
    pub(super) fn of_file(inode: u64, bytes: u64, written_ns: i128) -> Version {
        let (seconds, rest) = (written_ns.div_euclid(SECOND_NS), written_ns.rem_euclid(SECOND_NS));
        let mut hash = Xxh3::new();
        for part in [inode, bytes, seconds as u64, rest as u64] {
            hash.update(&part.to_le_bytes());
        }
        Version(hash.digest())
    }
}

/// Identifies a file of a folder, whatever its name and content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileId {
    /// The inode; 0 for an object, and where it is not known.
    pub inode: u64,
    /// The time of creation, which separates a file from a later one with its inode; 0 where the
    /// file system does not keep it.
    pub born_ns: u64,
}

impl FileId {
    /// Returns true if both are of one file, as far as the file system can tell.
    pub fn is_same(self, other: FileId) -> bool {
        let is_born_apart = self.has_birth() && other.has_birth() && self.born_ns != other.born_ns;
        self.inode == other.inode && !is_born_apart
    }

    /// Returns true if both are known and of two files.
    pub fn is_other(self, other: FileId) -> bool {
        self.inode != 0 && other.inode != 0 && !self.is_same(other)
    }

    /// Returns true if no later file can have this identity.
    pub fn has_birth(self) -> bool {
        self.born_ns != 0
    }
}

/// A file, and the state in which it was read or left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileState {
    /// The state of the content.
    pub version: Version,
    /// The file.
    pub id: FileId,
}

impl FileState {
    /// Returns true if `facts` are of this file under another name. Without times of creation a
    /// file with the same inode may be a later one, so that it must be unchanged, too.
    pub fn is_of(self, facts: &FileFacts) -> bool {
        let is_sure = self.id.has_birth() && facts.id.has_birth();
        self.id.is_same(facts.id) && (is_sure || self.version == facts.version)
    }
}

/// The facts about a file that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// Length, as it is stored.
    pub bytes: u64,
    /// The state of the file by which a change is seen.
    pub version: Version,
    /// The identity of a file in a folder.
    pub id: FileId,
    /// True if the file has other names, in the folder or elsewhere.
    pub has_links: bool,
    /// Orders files by the time at which they appeared.
    pub appeared_ns: i128,
    /// The time of the last write.
    pub written_ns: i128,
    /// The ETag of an object.
    pub etag: Option<String>,
}

impl FileFacts {
    /// Returns the facts about a regular file.
    ///
    /// The order is that of the inode's change time: a rename sets it, and the time of the last
    /// write may be any.
    pub fn of_file(found: &Metadata) -> FileFacts {
        let (inode, bytes) = (found.ino(), found.len());
        let written_ns = i128::from(found.mtime()) * SECOND_NS + i128::from(found.mtime_nsec());
        let born = found.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        FileFacts {
            bytes,
            version: Version::of_file(inode, bytes, written_ns),
            id: FileId { inode, born_ns: born.map_or(0, |since| since.as_nanos() as u64) },
            has_links: found.nlink() > 1,
            appeared_ns: i128::from(found.ctime()) * SECOND_NS + i128::from(found.ctime_nsec()),
            written_ns,
            etag: None,
        }
    }

    /// Returns the facts about an object.
    pub fn of_object(entry: &ObjectEntry) -> FileFacts {
        let modified = entry.modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let modified_ns = modified.map_or(0, |since| since.as_nanos());
        let mut hash = Xxh3::new();
        hash.update(&entry.bytes.to_le_bytes());
        match &entry.etag {
            Some(etag) => hash.update(etag.as_bytes()),
            None => hash.update(&modified_ns.to_le_bytes()),
        }
        FileFacts {
            bytes: entry.bytes,
            version: Version(hash.digest()),
            id: FileId::default(),
            has_links: false,
            appeared_ns: modified_ns as i128,
            written_ns: modified_ns as i128,
            etag: entry.etag.clone(),
        }
    }

    /// Returns the state of the file.
    pub fn state(&self) -> FileState {
        FileState { version: self.version, id: self.id }
    }

    /// Returns true if the file has the length and the time of the last write that another one of
    /// the state `original` had: a copy that was made to keep them, as of a restored backup.
    pub fn is_copy_of(&self, original: FileState) -> bool {
        Version::of_file(original.id.inode, self.bytes, self.written_ns) == original.version
    }

    /// Returns true if a write was the last change. A file that was renamed or linked, or whose
    /// time was set, has a later one.
    pub fn is_written_last(&self) -> bool {
        self.appeared_ns == self.written_ns
    }
}

/// A file or object to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// The name in the folder, or the key of an object.
    pub name: Vec<u8>,
    /// Size, version and time of the file.
    pub facts: FileFacts,
}

impl FoundFile {
    /// Returns the name as a path, which it is in a folder.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.name))
    }

    /// Returns the path of the file in `folder`.
    pub fn path_in(&self, folder: &Path) -> PathBuf {
        folder.join(self.path())
    }

    /// Returns the hash of the name.
    pub fn hash(&self) -> NameHash {
        hash_of(&self.name)
    }
}

/// Returns the name as text for messages.
pub fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Returns true for names that are not read: those that begin with a dot or an underscore, as
/// unfinished and internal files do.
pub fn is_hidden(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'.' | b'_'))
}

/// Returns true for a key below `prefix` of which a part after the prefix is hidden.
pub fn is_hidden_key(key: &str, prefix: &str) -> bool {
    let rest = key.get(prefix.len()..).unwrap_or_default();
    // A prefix may end within a name, which then begins as the prefix does.
    let within = !(prefix.is_empty() || prefix.ends_with('/'));
    rest.split('/').skip(usize::from(within)).any(|part| is_hidden(part.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_file_is_separated_from_renamed_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&path, "text").expect("a file");
        let facts = |path: &Path| FileFacts::of_file(&path.metadata().expect("it is there"));
        let written = facts(&path);
        assert!(written.is_written_last());
        let file = std::fs::File::options().write(true).open(&path).expect("it is there");
        file.set_modified(UNIX_EPOCH).expect("set");
        std::fs::rename(&path, &other).expect("renamed");
        let renamed = facts(&other);
        assert!(!renamed.is_written_last());
        assert!(written.state().id == renamed.id && written.version != renamed.version);
        std::fs::write(&path, "text").expect("a file");
        assert!(facts(&path).id.is_other(renamed.id));
    }

    #[test]
    fn inode_without_birth_needs_same_version() {
        let id = |inode, born_ns| FileId { inode, born_ns };
        assert!(id(1, 2).is_same(id(1, 2)) && id(1, 2).is_same(id(1, 0)));
        assert!(id(1, 2).is_other(id(1, 3)) && id(1, 2).is_other(id(2, 2)));
        assert!(!id(0, 0).is_other(id(1, 2)));
        let state = |born_ns| FileState { version: Version(1), id: id(1, born_ns) };
        let facts = |born_ns, version| {
            let version = Version(version);
            FileFacts { id: id(1, born_ns), version, ..FileFacts::default() }
        };
        assert!(state(2).is_of(&facts(2, 7)) && state(0).is_of(&facts(2, 1)));
        assert!(!state(0).is_of(&facts(0, 7)) && !state(2).is_of(&facts(3, 1)));
    }

    #[test]
    fn hidden_names_are_those_after_prefix() {
        assert!(is_hidden(b".part") && is_hidden(b"_SUCCESS") && !is_hidden(b"a._"));
        for (key, prefix) in [("in/_x", "in/"), ("in/a/.b", "in/"), ("_a", ""), ("in/_x", "in")] {
            assert!(is_hidden_key(key, prefix), "{key} below {prefix}");
        }
        for (key, prefix) in [("_in/x", "_in/"), ("in/a_x", "in/a"), ("in/a_x", "in/"), ("a/b", "")]
        {
            assert!(!is_hidden_key(key, prefix), "{key} below {prefix}");
        }
    }
}
