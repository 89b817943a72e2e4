//! A disk that breaks every promise it did not give: the stand-in for power loss and bad hardware.
//!
//! Files and names have two states each: the one that running programs see, and the one that the
//! last sync made durable, with the changes since. [`ModelDisk::after`] makes of them the disk that
//! the next process finds: after a kill all changes are there, after a loss of power any of them.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::disk::{Disk, File};

/// Bytes that a loss of power keeps or loses as a whole.
const SECTOR: usize = 512;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct ModelDisk(Arc<Mutex<Inner>>);

/// The files and names of a model disk.
#[derive(Debug, Default)]
struct Inner {
    /// Every file that was ever made.
    files: Vec<Contents>,
    /// The names as running programs see them, each with the index of its file.
    names: BTreeMap<String, usize>,
    /// The names that a loss of power leaves.
    durable_names: BTreeMap<String, usize>,
    /// The changes of names since the folder was synced.
    name_changes: Vec<NameChange>,
    /// The faults that are on.
    faults: Faults,
    /// The calls that were made.
    counts: Counts,
}

/// The faults of the model disk from now on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A sync fails.
    pub sync_fails: bool,
    /// A write fails as on a full disk.
    pub write_fails: bool,
    /// A read fails.
    pub read_fails: bool,
    /// No new file and no new block.
    pub full: bool,
    /// Writes answer "full" as well, as on a file system that cannot preallocate.
    pub full_for_writes: bool,
}

/// The requests to the disk so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Syncs of files.
    pub(crate) file_syncs: u64,
    /// Bytes that were read.
    pub(crate) bytes_read: u64,
    /// Files that were made.
    pub(crate) files_made: u64,
}

/// The bytes of one file.
#[derive(Clone, Debug, Default)]
struct Contents {
    /// The bytes as running programs see them.
    now: Vec<u8>,
    /// The bytes at the last sync.
    durable: Vec<u8>,
    /// The changes since the last sync, oldest first.
    pending: Vec<Change>,
}

/// A change of a file's bytes.
#[derive(Clone, Debug)]
enum Change {
    /// Bytes were written at this offset.
    Write(usize, Vec<u8>),
    /// The length was changed.
    Resize { kept: usize, bytes: usize },
}

/// A change of a name in the folder.
#[derive(Clone, Debug)]
enum NameChange {
    /// A file got a name.
    Link(String, usize),
    /// A name was replaced by another.
    Rename(String, String),
    /// A name was removed.
    Unlink(String),
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process is killed: the kernel keeps what it was given.
    Kill,
    /// The power goes: what was not synced is lost, torn or there, in any mixture.
    PowerLoss,
}

/// A small generator, so that a failing case can be run again from its number.
#[derive(Debug)]
pub struct Dice(pub(super) u64);

impl Dice {
    /// Returns a number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

impl ModelDisk {
    /// Switches faults on or off.
    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().unwrap().faults = faults;
    }

    /// Returns the calls so far.
    pub fn counts(&self) -> Counts {
        self.0.lock().unwrap().counts
    }

    /// Returns the bytes of all files that have a name.
    pub fn bytes_held(&self) -> u64 {
        let inner = self.0.lock().unwrap();
        let files = inner.names.values();
        files.map(|&file| inner.files[file].now.len() as u64).sum()
    }

    /// Returns the names of segments, in order.
    pub fn segment_names(&self) -> Vec<String> {
        let inner = self.0.lock().unwrap();
        let names = inner.names.keys().filter(|name| name.ends_with(".wtj"));
        names.cloned().collect()
    }

    /// Changes the bytes of a file as a bad disk does.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.0.lock().unwrap();
        let file = inner.names[name];
        change(&mut inner.files[file].now);
    }

    /// The disk as the next process finds it.
    pub fn after(&self, end: End, dice: &mut Dice) -> ModelDisk {
        let inner = self.0.lock().unwrap();
        let (files, names) = match end {
            End::Kill => {
                let files = inner.files.iter().map(|file| file.now.clone()).collect();
                (files, inner.names.clone())
            }
            End::PowerLoss => {
                let files = inner.files.iter().map(|file| file.survives(dice));
                (files.collect::<Vec<_>>(), inner.surviving_names(dice))
            }
        };
        let files = files
            .into_iter()
            .map(|bytes: Vec<u8>| Contents {
                // After a kill the bytes are in the kernel's cache only: still to be lost.
                durable: bytes.clone(),
                now: bytes,
                pending: Vec::new(),
            })
            .collect();
        ModelDisk(Arc::new(Mutex::new(Inner {
            files,
            durable_names: names.clone(),
            names,
            ..Inner::default()
        })))
    }
}

impl Contents {
    /// Applies a change, of which only the sectors for which `keeps` returns true arrive.
    fn apply(bytes: &mut Vec<u8>, change: &Change, mut keeps: impl FnMut() -> bool) {
        match change {
            Change::Resize { kept, bytes: to } => {
                bytes.truncate(*kept);
                bytes.resize(*to, 0);
            }
            Change::Write(offset, written) => {
                let end = offset + written.len();
                let mut at = *offset;
                while at < end {
                    let to = ((at / SECTOR + 1) * SECTOR).min(end);
                    if keeps() {
                        if bytes.len() < to {
                            bytes.resize(to, 0);
                        }
                        bytes[at..to].copy_from_slice(&written[at - offset..to - offset]);
                    }
                    at = to;
                }
            }
        }
    }

    /// Returns contents that a loss of power may leave: of each change since the last sync nothing,
    /// all, or, of a write, some of its sectors.
    fn survives(&self, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for change in &self.pending {
            match dice.below(4) {
                0 => {}
                1 if matches!(change, Change::Write(..)) => {
                    Contents::apply(&mut bytes, change, || dice.below(2) == 0);
                }
                _ => Contents::apply(&mut bytes, change, || true),
            }
        }
        bytes
    }
}

impl Inner {
    /// Returns names that a loss of power may leave: the durable ones with some of the changes
    /// since.
    fn surviving_names(&self, dice: &mut Dice) -> BTreeMap<String, usize> {
        let mut names = self.durable_names.clone();
        // Some file systems keep the order of names, some do not.
        let in_order = dice.below(2) == 0;
        let up_to = dice.below(self.name_changes.len() + 1);
        for (at, change) in self.name_changes.iter().enumerate() {
            let kept = if in_order { at < up_to } else { dice.below(2) == 0 };
            if kept {
                rename_in(&mut names, change);
            }
        }
        names
    }
}

/// Applies a change of a name.
fn rename_in(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Link(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        NameChange::Unlink(name) => {
            names.remove(name);
        }
    }
}

impl Inner {
    /// Changes the names, and keeps the change until the folder is synced.
    fn change_names(&mut self, change: NameChange) {
        rename_in(&mut self.names, &change);
        self.name_changes.push(change);
    }
}

impl Disk for ModelDisk {
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
        let mut inner = self.0.lock().unwrap();
        if inner.faults.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        assert!(!inner.names.contains_key(name), "{name} exists");
        inner.counts.files_made += 1;
        let bytes = bytes as usize;
        let file = inner.files.len();
        inner.files.push(Contents {
            now: vec![0; bytes],
            durable: Vec::new(),
            pending: vec![Change::Resize { kept: 0, bytes }],
        });
        inner.change_names(NameChange::Link(name.to_owned(), file));
        drop(inner);
        Ok(Arc::new(ModelFile(self.clone(), file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let inner = self.0.lock().unwrap();
        let file = *inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        drop(inner);
        Ok(Arc::new(ModelFile(self.clone(), file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        assert!(inner.names.contains_key(from), "{from} is gone");
        inner.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        inner.change_names(NameChange::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        if inner.faults.sync_fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        inner.durable_names = inner.names.clone();
        inner.name_changes.clear();
        Ok(())
    }

    fn place(&self, name: &str) -> String {
        format!("model/{name}")
    }
}

/// An open file: the disk, and the index of the file. It may have lost its name.
#[derive(Debug)]
struct ModelFile(ModelDisk, usize);

impl ModelFile {
    /// Changes the contents, and keeps the change until the file is synced.
    fn change(&self, change: Change) {
        let mut inner = self.0.0.lock().unwrap();
        let file = &mut inner.files[self.1];
        Contents::apply(&mut file.now, &change, || true);
        file.pending.push(change);
    }
}

impl File for ModelFile {
    fn write_at(&self, offset: u64, parts: [&[u8]; 2]) -> io::Result<()> {
        let faults = self.0.0.lock().unwrap().faults;
        if faults.write_fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        let whole = parts.concat();
        if faults.full_for_writes {
            // A part of it is written all the same.
            let half = whole[..whole.len() / 2].to_vec();
            self.change(Change::Write(offset as usize, half));
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.change(Change::Write(offset as usize, whole));
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.0.0.lock().unwrap();
        if inner.faults.read_fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        let bytes = &inner.files[self.1].now;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        // Short reads are allowed, and happen.
        let got = rest.len().min(buffer.len()).min(100_000);
        buffer[..got].copy_from_slice(&rest[..got]);
        inner.counts.bytes_read += got as u64;
        Ok(got)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.0.lock().unwrap().files[self.1].now.len() as u64)
    }

    fn zero(&self, bytes: u64) -> io::Result<()> {
        self.change(Change::Write(0, vec![0; bytes as usize]));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.0.0.lock().unwrap();
        inner.counts.file_syncs += 1;
        if inner.faults.sync_fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        let file = &mut inner.files[self.1];
        file.durable = file.now.clone();
        file.pending.clear();
        Ok(())
    }

    fn truncate(&self, bytes_kept: u64, bytes: u64) -> io::Result<()> {
        if self.0.0.lock().unwrap().faults.full_for_writes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (kept, bytes) = (bytes_kept as usize, bytes as usize);
        self.change(Change::Resize { kept, bytes });
        Ok(())
    }

    fn uncache(&self, _: Range<u64>) {}
}
