//! A file or object that was found, and what separates its states.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::store::ObjectEntry;

/// The hash of a name. Two names never share one, also not on purpose.
pub type NameHash = u128;

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

/// The facts about a file that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// Length, as it is stored.
    pub bytes: u64,
    /// The state of the file by which a change is seen.
    pub version: Version,
    /// The inode of a file; 0 for an object.
    pub inode: u64,
    /// True if the file has other names, in the folder or elsewhere.
    pub has_links: bool,
    /// Orders files by the time at which they appeared.
    pub appeared_ns: i128,
    /// The ETag of an object.
    pub etag: Option<String>,
}

impl FileFacts {
    /// Returns the facts about a regular file.
    ///
    /// The order is that of the inode's change time: a rename sets it, and the time of the last
    /// write may be any.
    pub fn of_file(found: &Metadata) -> FileFacts {
        let mut hash = Xxh3::new();
        for part in [found.ino(), found.len(), found.mtime() as u64, found.mtime_nsec() as u64] {
            hash.update(&part.to_le_bytes());
        }
        FileFacts {
            bytes: found.len(),
            version: Version(hash.digest()),
            inode: found.ino(),
            has_links: found.nlink() > 1,
            appeared_ns: i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec()),
            etag: None,
        }
    }

    /// Returns the facts about an object.
    pub fn of_object(entry: &ObjectEntry) -> FileFacts {
        let modified = entry.modified.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
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
            inode: 0,
            has_links: false,
            appeared_ns: modified_ns as i128,
            etag: entry.etag.clone(),
        }
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
