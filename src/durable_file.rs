//! Files and names that a crash of the machine does not take back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::random::random_id;

/// Syncs the names in a folder that is open. Returns false if its file system has no sync of
/// folders, as some network and user-space file systems: names are then as durable as the file
/// system makes them by itself.
///
/// # Errors
/// Those of the disk. A file system that has become read-only (`EROFS`) has met an error.
pub fn sync_names(folder: &File) -> io::Result<bool> {
    match folder.sync_all() {
        Ok(()) => Ok(true),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Opens and syncs the folder at `path`; the empty path is the working directory. Returns as
/// [`sync_names`] does.
///
/// # Errors
/// Those of the disk.
pub fn sync_folder(path: &Path) -> io::Result<bool> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    sync_names(&File::open(path)?)
}

/// Most attempts to replace a file whose temporary file is removed by another process.
const REPLACE_ATTEMPTS_MAX: usize = 5;

/// Replaces the file at `path` by one with these bytes, for its owner only, and returns it open for
/// writing. After a crash the path has its old bytes or the new ones. Several processes may replace
/// one file at the same time, while another one removes what a crash has left.
///
/// # Errors
/// Those of the disk. No temporary file is left then.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut attempts = 1;
    loop {
        match write_and_rename(path, bytes) {
            Err((Step::Rename, error)) if error.kind() == io::ErrorKind::NotFound => {
                if attempts == REPLACE_ATTEMPTS_MAX {
                    return Err(error);
                }
                attempts += 1;
            }
            Err((_, error)) => return Err(error),
            Ok(file) => {
                sync_folder(folder)?;
                return Ok(file);
            }
        }
    }
}

/// Removes the temporary files that crashes have left in `folder`. Called at a start, by the one
/// process that owns the folder or shares it as the first. Others' files stay.
pub fn remove_temporaries(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_temporary(&entry.file_name().to_string_lossy()) {
            let removed = fs::remove_file(entry.path());
            tracing::debug!(
                "{}, left by a crash, was removed: {removed:?}",
                entry.path().display()
            );
        }
    }
}

/// Returns true for the name of a temporary file of [`replace_file`]: `.NAME.ID.tmp`.
fn is_temporary(name: &str) -> bool {
    let id = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(".tmp"))
        .and_then(|name| name.rsplit_once('.'))
        .map_or("", |(_, id)| id);
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Writes a temporary file for `path` beside it, syncs it, and returns its path and the open file.
/// Unless it is renamed, [`remove_temporaries`] removes it.
///
/// # Errors
/// Those of the disk. No file is left then.
pub fn write_temporary(path: &Path, bytes: &[u8]) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Processes of containers that share the folder may have one number.
    let id = random_id().map_err(io::Error::other)?;
    let temporary = path.with_file_name(format!(".{name}.{id}.tmp"));
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let mut file = options.open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| (temporary, file))
}

/// The step of a replacement that has failed.
enum Step {
    Write,
    Rename,
}

/// Writes a temporary file beside `path`, syncs it, and renames it. Removes it after an error.
fn write_and_rename(path: &Path, bytes: &[u8]) -> Result<File, (Step, io::Error)> {
    let (temporary, file) = write_temporary(path, bytes).map_err(|error| (Step::Write, error))?;
    match fs::rename(&temporary, path) {
        Ok(()) => Ok(file),
        Err(error) => {
            // The first error is the one to report.
            let _ = fs::remove_file(&temporary);
            Err((Step::Rename, error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_without_sync_is_no_failure() {
        // The kernel's own file system answers EINVAL.
        assert!(!sync_folder(Path::new("/proc")).expect("no sync, and no failure"));
        assert!(sync_folder(tempfile::tempdir().expect("a folder").path()).expect("a sync"));
    }

    #[test]
    fn replaced_file_has_new_bytes_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("note");
        for text in ["a longer text", "short"] {
            replace_file(&path, text.as_bytes()).expect("replaced");
            assert_eq!(fs::read_to_string(&path).expect("a file"), text);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
        let error = replace_file(&dir.path().join("no/note"), b"").expect_err("no such folder");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn temporaries_of_crashes_are_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let left = ".note.3b3ada966d216a971d084c24f42df1f1.tmp";
        for name in [left, "note", ".hidden", "a.tmp", ".mine.tmp"] {
            fs::write(dir.path().join(name), "text").expect("a file");
        }
        remove_temporaries(dir.path());
        let names = fs::read_dir(dir.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        assert_eq!(names, [".hidden", ".mine.tmp", "a.tmp", "note"]);
    }
}
