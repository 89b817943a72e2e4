//! Finds out if a path given to `--file` names a regular file or a stream.
//!
//! A regular file can be read again after a crash. A named pipe, a process substitution
//! (`/dev/fd/63`), a terminal, a device, or a file that has no name any more cannot: what was read
//! from it is gone from there. The type is that of the descriptor that opening the path gives;
//! `stat` follows `/dev/fd` to it without taking anything from the stream.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};

/// Returns true if what `path` names cannot be read a second time. A path that cannot be examined
/// is taken for a file's: opening it reports why.
pub fn is_stream(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| !found.is_dir() && !is_replayable(&found))
}

/// A regular file that still has a name: a here-document or a memory file has none.
fn is_replayable(found: &Metadata) -> bool {
    found.is_file() && found.nlink() > 0
}

/// Fails with `Configuration` if the regular file at `path` cannot be opened.
pub fn check_file(path: &Path) -> Result<()> {
    open_file(path).map(drop)
}

/// Fails with `Configuration` if the stream at `path` cannot be read. It is not opened: a writer
/// that waits for a reader would take this for one.
pub fn check_stream(path: &Path) -> Result<()> {
    if is_stdin(path) {
        return Ok(());
    }
    let found = path.metadata().map_err(|error| refused(path, &error))?;
    if found.file_type().is_socket() {
        return Err(is_socket(path));
    }
    rustix::fs::access(path, Access::READ_OK).map_err(|error| refused(path, &error.into()))
}

/// Opens a regular file.
///
/// Fails if the path names something else by now.
pub fn open_file(path: &Path) -> Result<File> {
    let file = File::from(open(path).map_err(|error| refused(path, &error))?);
    let found = file.metadata().map_err(|error| refused(path, &error))?;
    if found.is_dir() {
        return Err(refused_because(path, "it is a directory"));
    }
    if !is_replayable(&found) {
        return Err(refused_because(path, "it was a regular file at the start and is none now"));
    }
    Ok(file)
}

/// Opens a stream in non-blocking mode, without waiting for a writer. Returns standard input itself
/// where that is what the path names and it cannot be opened a second time, as a socket cannot.
pub fn open_stream(path: &Path) -> Result<StreamInput> {
    match open(path) {
        Ok(descriptor) => Ok(StreamInput { descriptor, blocks: false }),
        Err(_) if is_stdin(path) => StreamInput::stdin().map_err(|error| refused(path, &error)),
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
            Err(is_socket(path))
        }
        Err(error) => Err(refused(path, &error)),
    }
}

/// A descriptor to read a stream from.
#[derive(Debug)]
pub struct StreamInput {
    /// The open stream.
    pub descriptor: OwnedFd,
    /// A read without data waits. The mode of standard input is shared with a shell, so it stays.
    pub blocks: bool,
}

impl StreamInput {
    /// Standard input, in the mode that it has.
    pub fn stdin() -> io::Result<StreamInput> {
        let descriptor = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(StreamInput { descriptor, blocks: true })
    }
}

/// Never waits: neither for a writer of a pipe nor for the carrier of a line.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Returns true if `path` names what standard input is, under any of its names.
fn is_stdin(path: &Path) -> bool {
    let (Ok(found), Ok(stdin)) = (path.metadata(), rustix::fs::fstat(io::stdin())) else {
        return false;
    };
    (found.dev(), found.ino()) == (stdin.st_dev, stdin.st_ino)
}

/// Returns the error of a path that names a socket.
fn is_socket(path: &Path) -> Error {
    let message = format!("cannot read {}: a socket cannot be opened as a file", path.display());
    let hint = "give --connect for a TCP address, or pipe the lines into --stdin";
    Error::new(ErrorKind::Configuration, message).hint(hint)
}

/// The error for a path that cannot be opened or examined.
fn refused(path: &Path, error: &io::Error) -> Error {
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    if is(Errno::MFILE) || is(Errno::NFILE) {
        let message = format!("cannot open {}: {error}", path.display());
        return Error::new(ErrorKind::Configuration, message)
            .hint("raise the limit of open files (`ulimit -n`), or give fewer sources");
    }
    refused_because(path, &error.to_string())
}

/// Returns the error of a path that cannot be read.
fn refused_because(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("cannot read {}: {why}", path.display()))
        .hint("check the path given to --file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_regular_file_is_no_stream() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lines");
        std::fs::write(&path, "a\n").expect("a file");
        assert!(!is_stream(&path));
        assert!(!is_stream(dir.path()), "a directory is refused as a file");
        assert!(!is_stream(&dir.path().join("missing")));
    }

    #[test]
    fn path_of_unnamed_file_is_stream() {
        use std::os::fd::AsRawFd;
        let unnamed = tempfile::tempfile().expect("a file without a name");
        let path = format!("/proc/self/fd/{}", unnamed.as_raw_fd());
        assert!(is_stream(Path::new(&path)));
    }

    #[test]
    fn path_of_device_is_stream() {
        assert!(is_stream(Path::new("/dev/null")));
    }

    #[test]
    fn socket_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        assert!(is_stream(&path));
        let error = check_stream(&path).expect_err("a socket");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("--connect"), "{error}");
    }
}
