//! The disk as the journal sees it: one folder of files, with a trait so that a model can take
//! its place.
//!
//! The journal relies on little, and that is stated here, because the model disk of the tests
//! breaks everything that is *not* stated: bytes written but not synced may be lost, torn or reach
//! the disk in any order; names created, renamed or removed are not durable before the folder is
//! synced.

use std::fmt;
use std::fs;
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise};
use rustix::io::Errno;

use crate::crash_points;
use crate::durable_file::sync_folder;
use crate::file_lock::{self, LockOutcome, LockPatience};

/// One open file.
pub trait File: Send + Sync + fmt::Debug {
    /// Writes all of `parts`, one after the other, at `offset`: one system call where the kernel
    /// takes it whole.
    ///
    /// # Errors
    /// `StorageFull` if the disk is full. What was written before an error is undefined.
    fn write_at(&self, offset: u64, parts: [&[u8]; 2]) -> io::Result<()>;

    /// Reads at `offset` and returns how many bytes it got; 0 at the end of the file.
    ///
    /// # Errors
    /// Those of the disk.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Length in bytes.
    ///
    /// # Errors
    /// Those of the disk.
    fn bytes(&self) -> io::Result<u64>;

    /// Makes all bytes written so far, and the length, durable.
    ///
    /// # Errors
    /// Any error means that bytes may be lost for ever: a second call could succeed without having
    /// written them. Never call again.
    fn sync(&self) -> io::Result<()>;

    /// Makes the first `bytes` bytes zeros, keeps their blocks, and syncs nothing.
    ///
    /// # Errors
    /// Those of the disk, `Unsupported` among them: not every file system can.
    fn zero(&self, bytes: u64) -> io::Result<()>;

    /// Turns everything from `bytes_kept` up to `bytes` into zeros; a file of another length gets
    /// this one.
    ///
    /// # Errors
    /// Those of the disk, `StorageFull` among them: some of the old bytes may be there still.
    fn truncate(&self, bytes_kept: u64, bytes: u64) -> io::Result<()>;

    /// Called when these bytes, which are synced, will hardly be read again. What a read returns
    /// does not depend on it.
    fn uncache(&self, bytes: Range<u64>);
}

/// One folder of files.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Makes a new file of `bytes` zeros whose blocks are allocated; leaves no file on error.
    ///
    /// # Errors
    /// `StorageFull` if the disk has no room for it.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>>;

    /// Opens a file that exists.
    ///
    /// # Errors
    /// `NotFound`, and those of the disk.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// The names of all files, in any order.
    ///
    /// # Errors
    /// Those of the disk.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Gives a file another name.
    ///
    /// # Errors
    /// Those of the disk.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; one that is gone already is no error.
    ///
    /// # Errors
    /// Those of the disk.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names as they are now durable.
    ///
    /// # Errors
    /// As [`File::sync`].
    fn sync(&self) -> io::Result<()>;

    /// `name` as a reader of a message can find it.
    fn place(&self, name: &str) -> String;
}

/// The file of that name with nothing but zeros in it; removed, and `None`, if it is not `bytes`
/// long or the file system cannot.
pub fn emptied(disk: &dyn Disk, name: &str, bytes: u64) -> io::Result<Option<Arc<dyn File>>> {
    let file = disk.open(name)?;
    if file.bytes()? == bytes && file.zero(bytes).is_ok() {
        return Ok(Some(file));
    }
    disk.remove(name)?;
    Ok(None)
}

/// Writes as `write_at` does; the bytes are on disk when it returns.
pub fn emptied_durably(
    disk: &dyn Disk,
    name: &str,
    bytes: u64,
) -> io::Result<Option<Arc<dyn File>>> {
    let file = emptied(disk, name, bytes)?;
    if let Some(file) = &file {
        file.sync()?;
    }
    Ok(file)
}

/// Returns true if an error means a full disk, which passes, and not a failed one.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A folder of the local file system, locked while this value lives unless opened to be read only.
#[derive(Debug)]
pub struct LocalDisk {
    /// The folder of the journal.
    folder: PathBuf,
    /// Locked for as long as the disk is open; `None` where nothing is written.
    _lock: Option<fs::File>,
}

impl LocalDisk {
    /// Makes the folder if need be and takes its `lock`; `None` if another process holds it. The
    /// folder and the files in it are their owner's only, also those of an older release.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn lock(folder: &Path) -> io::Result<Option<LocalDisk>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        sync_folder(folder.parent().unwrap_or(Path::new("")))?;
        keep_private(folder, 0o700)?;
        let lock = private().create(true).truncate(false).write(true).open(folder.join(LOCK))?;
        // The locks of state and output are held already: only a survey may hold this one.
        match file_lock::exclusive(&lock, &LockPatience::default()) {
            Ok(LockOutcome::Locked) => {
                let disk = LocalDisk { folder: folder.to_owned(), _lock: Some(lock) };
                for name in disk.list()? {
                    keep_private(&folder.join(name), 0o600)?;
                }
                Ok(Some(disk))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The folder without its lock, for reading only.
    pub fn read_only(folder: &Path) -> LocalDisk {
        LocalDisk { folder: folder.to_owned(), _lock: None }
    }
}

/// Returns true if a process has the journal in `folder` open.
pub fn is_in_use(folder: &Path) -> bool {
    file_lock::is_held(&folder.join(LOCK))
}

/// Options for files that only their owner can read, and none that a symbolic link leads to.
fn private() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

/// Takes away what group and others may do with a file or folder.
fn keep_private(path: &Path, mode: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() || metadata.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Name of the file that is locked while a journal is open.
const LOCK: &str = "lock";

impl Disk for LocalDisk {
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
        let path = self.folder.join(name);
        let file = private().create_new(true).read(true).write(true).open(&path)?;
        match allocate(&file, bytes) {
            Ok(()) => Ok(Arc::new(LocalFile(file))),
            Err(error) => {
                fs::remove_file(&path)?;
                Err(error)
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.folder.join(name);
        let file = match self._lock {
            Some(_) => fs::OpenOptions::new().read(true).write(true).open(path)?,
            None => fs::File::open(path)?,
        };
        Ok(Arc::new(LocalFile(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            // A name that is not UTF-8 cannot be one of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync(&self) -> io::Result<()> {
        sync_folder(&self.folder).map(drop)
    }

    fn place(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// Reserves the blocks; a file system that cannot gets the length alone, and `StorageFull` may then
/// come from a write, which the journal takes as well.
fn allocate(file: &fs::File, bytes: u64) -> io::Result<()> {
    if crash_points::has_fault("disk.full") {
        return Err(io::ErrorKind::StorageFull.into());
    }
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP) => return file.set_len(bytes),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A file of the local file system.
#[derive(Debug)]
struct LocalFile(fs::File);

impl File for LocalFile {
    fn write_at(&self, offset: u64, parts: [&[u8]; 2]) -> io::Result<()> {
        let whole = parts[0].len() + parts[1].len();
        let slices = parts.map(IoSlice::new);
        let done = match rustix::io::pwritev(&self.0, &slices, offset) {
            Ok(done) if done == whole => return Ok(()),
            Ok(done) => done,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        // The kernel took only a part: the rest goes the slow way, which also finds the reason.
        let mut skip = done;
        let mut at = offset + done as u64;
        for part in parts {
            let rest = &part[skip.min(part.len())..];
            skip = skip.saturating_sub(part.len());
            self.0.write_all_at(rest, at)?;
            at += rest.len() as u64;
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        if crash_points::has_fault("disk.sync") {
            return Err(Errno::IO.into());
        }
        // Not repeated on EINTR either: the kernel reports a lost page once.
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn zero(&self, bytes: u64) -> io::Result<()> {
        Ok(zero_range(&self.0, 0, bytes)?)
    }

    fn truncate(&self, bytes_kept: u64, bytes: u64) -> io::Result<()> {
        // A file that has its length keeps it at every moment: a shorter one counts as damaged.
        let has_length = self.bytes()? == bytes;
        match bytes.checked_sub(bytes_kept).filter(|_| has_length) {
            Some(0) => Ok(()),
            Some(rest) if zero_range(&self.0, bytes_kept, rest).is_ok() => Ok(()),
            Some(rest) => write_zeros(&self.0, bytes_kept, rest),
            None => {
                self.0.set_len(bytes_kept)?;
                allocate(&self.0, bytes)
            }
        }
    }

    fn uncache(&self, bytes: Range<u64>) {
        let length = NonZeroU64::new(bytes.end.saturating_sub(bytes.start));
        // Without a length the advice would be for the whole file.
        if length.is_some() {
            // Only memory depends on it: a file system may ignore the advice.
            let _ = fadvise(&self.0, bytes.start, length, Advice::DontNeed);
        }
    }
}

/// Turns a part of a file into zeros, without writing them.
fn zero_range(file: &fs::File, offset: u64, bytes: u64) -> rustix::io::Result<()> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::ZERO_RANGE, offset, bytes) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Writes zeros, on a file system that cannot do without.
fn write_zeros(file: &fs::File, mut offset: u64, mut bytes: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while bytes > 0 {
        let part = bytes.min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..part as usize], offset)?;
        (offset, bytes) = (offset + part, bytes - part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_is_locked_until_holder_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let first = LocalDisk::lock(folder.path()).unwrap();
        assert!(first.is_some());
        assert!(LocalDisk::lock(folder.path()).unwrap().is_none());
        drop(first);
        assert!(LocalDisk::lock(folder.path()).unwrap().is_some());
    }

    #[test]
    fn new_file_is_zeros_and_takes_parts_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::lock(folder.path()).unwrap().unwrap();
        let file = disk.create("a", 10_000).unwrap();
        file.write_at(5_000, [b"ab", b"cde"]).unwrap();
        let mut back = [1; 8];
        assert_eq!(file.read_at(4_999, &mut back).unwrap(), 8);
        assert_eq!(&back, b"\0abcde\0\0");
        file.truncate(5_001, 9_000).unwrap();
        assert_eq!(file.bytes().unwrap(), 9_000);
        file.read_at(4_999, &mut back).unwrap();
        assert_eq!(&back, b"\0a\0\0\0\0\0\0");
        file.write_at(5_000, [b"ab", b"cde"]).unwrap();
        file.truncate(5_002, 9_000).unwrap();
        file.read_at(4_999, &mut back).unwrap();
        assert_eq!((file.bytes().unwrap(), &back), (9_000, b"\0ab\0\0\0\0\0"));
    }

    #[test]
    fn zeros_are_written_where_range_cannot_be_zeroed() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::lock(folder.path()).unwrap().unwrap();
        disk.create("a", 200_000).unwrap().write_at(0, [&[1; 200_000], &[]]).unwrap();
        let file = fs::OpenOptions::new().read(true).write(true).open(folder.path().join("a"));
        write_zeros(&file.unwrap(), 5, 199_995).unwrap();
        let bytes = fs::read(folder.path().join("a")).unwrap();
        assert_eq!((bytes.len(), bytes.iter().filter(|byte| **byte != 0).count()), (200_000, 5));
    }

    #[test]
    fn a_disk_without_room_leaves_no_file_behind() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::lock(folder.path()).unwrap().unwrap();
        let error = disk.create("huge", 1 << 60).unwrap_err();
        // ext4 answers ENOSPC, or EFBIG where one file cannot be that long.
        assert!(is_full(&error) || error.kind() == io::ErrorKind::FileTooLarge, "{error}");
        assert_eq!(disk.list().unwrap(), [LOCK]);
    }
}
