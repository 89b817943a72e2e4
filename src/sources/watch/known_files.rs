//! Known files, also those whose names are gone: they were renamed, or have left the folder.

use std::collections::HashMap;

use super::found_file::{FileState, NameHash};

/// A file that is known: given out, or not to be read.
#[derive(Clone, Copy, Debug)]
pub struct KnownFile {
    /// The file, and the state in which it was given to the source.
    pub state: FileState,
    /// The scan that has seen it last.
    pub scan: u64,
    /// True if it was reported that the file has changed.
    pub is_change_told: bool,
    /// It was there at the first start and may have been unfinished then.
    pub may_be_unfinished: bool,
    /// A scan has seen it on the device of the folder.
    pub is_on_device: bool,
}

impl KnownFile {
    /// Returns a file that was given out in this state when the scan with this number was the last.
    pub fn new(state: FileState, scan: u64) -> KnownFile {
        KnownFile {
            state,
            scan,
            is_change_told: false,
            may_be_unfinished: false,
            is_on_device: false,
        }
    }
}

/// Known files by their names.
#[derive(Debug, Default)]
pub struct KnownFiles {
    /// The files.
    files: HashMap<NameHash, KnownFile>,
    /// How many names each inode has among them.
    inodes: HashMap<u64, u32>,
}

impl KnownFiles {
    /// Returns the file with this name.
    pub fn get(&self, name: NameHash) -> Option<&KnownFile> {
        self.files.get(&name)
    }

    /// Returns the file with this name; its identity stays as it is.
    pub fn get_mut(&mut self, name: NameHash) -> Option<&mut KnownFile> {
        self.files.get_mut(&name)
    }

    /// Returns all files.
    pub fn iter(&self) -> impl Iterator<Item = (NameHash, &KnownFile)> {
        self.files.iter().map(|(name, known)| (*name, known))
    }

    /// Returns all files; their identities stay as they are.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (NameHash, &mut KnownFile)> {
        self.files.iter_mut().map(|(name, known)| (*name, known))
    }

    /// Returns true if a known file has this inode.
    pub fn has_inode(&self, inode: u64) -> bool {
        self.inodes.contains_key(&inode)
    }

    /// Puts a file under a name, in place of any other.
    pub fn insert(&mut self, name: NameHash, known: KnownFile) {
        self.remove(name);
        if known.state.id.inode != 0 {
            *self.inodes.entry(known.state.id.inode).or_default() += 1;
        }
        self.files.insert(name, known);
    }

    /// Removes the file with this name.
    pub fn remove(&mut self, name: NameHash) -> Option<KnownFile> {
        let known = self.files.remove(&name)?;
        let inode = known.state.id.inode;
        if let Some(names) = self.inodes.get_mut(&inode) {
            *names -= 1;
            if *names == 0 {
                self.inodes.remove(&inode);
            }
        }
        Some(known)
    }
}

/// A known file that does not have its name any more.
#[derive(Clone, Copy, Debug)]
pub struct DepartedFile {
    /// The name that it had.
    pub name: NameHash,
    /// The last scan that may have missed its new name.
    pub scan: u64,
    /// The file.
    pub known: KnownFile,
}

/// The files that have left their names, until a scan has shown that they have no other.
#[derive(Debug, Default)]
pub struct DepartedFiles {
    /// The files, by inode. One with several names may have left several.
    files: HashMap<u64, Vec<DepartedFile>>,
}

impl DepartedFiles {
    /// Adds a file.
    pub fn add(&mut self, file: DepartedFile) {
        self.files.entry(file.known.state.id.inode).or_default().push(file);
    }

    /// Takes a file of this inode that `is_it` accepts.
    pub fn take(
        &mut self,
        inode: u64,
        is_it: impl Fn(&DepartedFile) -> bool,
    ) -> Option<DepartedFile> {
        let names = self.files.get_mut(&inode)?;
        let taken = names.swap_remove(names.iter().position(is_it)?);
        if names.is_empty() {
            self.files.remove(&inode);
        }
        Some(taken)
    }

    /// Forgets the files that the scan has not found under another name; returns the names that
    /// they had.
    pub fn forget(&mut self, scan: u64) -> Vec<NameHash> {
        let mut forgotten = Vec::new();
        self.files.retain(|_, names| {
            names.retain(|file| {
                let is_kept = file.scan >= scan;
                if !is_kept {
                    forgotten.push(file.name);
                }
                is_kept
            });
            !names.is_empty()
        });
        forgotten
    }
}
