//! The mesh key of a user: the secret of clusters on loopback without a key file.
//!
//! Every user of a host can connect to a loopback port. So processes that are started by hand
//! without `--mesh-key-file` prove to each other that they run as one user, by a key that only this
//! user can read. The key is made on first use, in the first of these folders that the user owns
//! and can write to: `$XDG_STATE_HOME/wordtide`, `~/.local/state/wordtide`,
//! `$XDG_RUNTIME_DIR/wordtide`, and `wordtide-UID` in the folder for temporary files.
//!
//! The folder is opened without following a link, must belong to the user and must not be writable
//! by others. The file is opened within the open folder and must meet the same conditions. It gets
//! its name, by a hard link, after it is complete. So processes that start at the same time use one
//! key.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, linkat, open, openat, unlinkat};

use super::settings::MeshKey;
use crate::error::{Error, ErrorKind, Result};
use crate::hex_varint::hex;
use crate::random::random_bytes;

/// Name of the key's file in its folder.
const FILE: &str = "mesh-key";
/// Most bytes of the file that are read. A file made here has 65.
const FILE_BYTES_MAX: u64 = 4096;

/// Returns the key of the user that runs this process. Makes it if there is none.
///
/// Fails with `Configuration` if no folder can hold it.
pub fn user_key() -> Result<MeshKey> {
    let lookup = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let uid = rustix::process::geteuid().as_raw();
    key_in(&folders(lookup, &std::env::temp_dir(), uid), uid)
}

/// Returns the folders that may hold the key, best first.
fn folders(lookup: impl Fn(&str) -> Option<PathBuf>, temporary: &Path, uid: u32) -> Vec<PathBuf> {
    let named = |name: &str| lookup(name).filter(|path| path.is_absolute());
    let state = named("XDG_STATE_HOME");
    let home = named("HOME").map(|home| home.join(".local/state"));
    let bases = [state, home, named("XDG_RUNTIME_DIR")].into_iter().flatten();
    let own = bases.map(|base| base.join("wordtide"));
    own.chain([temporary.join(format!("wordtide-{uid}"))]).collect()
}

/// Returns the key in the first of `folders` that can hold one.
fn key_in(folders: &[PathBuf], uid: u32) -> Result<MeshKey> {
    let mut reasons = Vec::new();
    for folder in folders {
        match open_folder(folder, uid).and_then(|opened| read_or_make(&opened, uid)) {
            Ok(secret) => return MeshKey::from_secret(&secret),
            Err(cause) => reasons.push(format!("{}: {cause}", folder.display())),
        }
    }
    let message = format!("no folder can hold this user's mesh key: {}", reasons.join("; "));
    Err(Error::new(ErrorKind::Configuration, message)
        .hint("give every process the same secret with --mesh-key-file"))
}

/// Opens the folder, and makes it if its parent belongs to the user or is the shared folder for
/// temporary files.
///
/// Fails if the folder or its parent belongs to another user, or if others can write to the folder.
fn open_folder(folder: &Path, uid: u32) -> io::Result<OwnedFd> {
    let make =
        |path: &Path, recursive| DirBuilder::new().mode(0o700).recursive(recursive).create(path);
    if let Some(parent) = folder.parent() {
        if !parent.exists() {
            make(parent, true)?;
        }
        let found = parent.metadata()?;
        let is_shared = found.mode() & 0o1000 != 0;
        // `sudo` may keep HOME. Root must not make a folder in the home of another user.
        if found.uid() != uid && !is_shared {
            return Err(io::Error::other("its parent belongs to another user"));
        }
    }
    match make(folder, false) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = open(folder, flags, Mode::empty())?;
    require_private(&File::from(opened.try_clone()?), uid, 0o022)?;
    Ok(opened)
}

/// Checks that `file` belongs to the user and grants others none of the rights in `forbidden`.
fn require_private(file: &File, uid: u32, forbidden: u32) -> io::Result<()> {
    let found = file.metadata()?;
    if found.uid() != uid {
        return Err(io::Error::other("it belongs to another user"));
    }
    let mode = found.mode() & 0o777;
    match mode & forbidden {
        0 => Ok(()),
        _ => Err(io::Error::other(format!("other users have access (mode {mode:04o})"))),
    }
}

/// Returns the secret in the folder. Makes one if there is none.
fn read_or_make(folder: &OwnedFd, uid: u32) -> io::Result<Vec<u8>> {
    match read(folder, uid) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            make(folder)?;
            read(folder, uid)
        }
        result => result,
    }
}

/// Reads the secret in the folder.
///
/// Fails with `NotFound` if there is none, and with another kind if the file belongs to another
/// user or others have access.
fn read(folder: &OwnedFd, uid: u32) -> io::Result<Vec<u8>> {
    // Opening a named pipe would block without NONBLOCK.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(openat(folder, FILE, flags, Mode::empty())?);
    require_private(&file, uid, 0o077)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{FILE} is no file")));
    }
    let mut secret = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut secret)?;
    Ok(secret)
}

/// Makes the file with a new secret, unless another process has made it meanwhile.
fn make(folder: &OwnedFd) -> io::Result<()> {
    let random = random_bytes::<40>().map_err(io::Error::other)?;
    let (name, secret) = (format!(".{FILE}.{}", hex(&random[32..])), hex(&random[..32]));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, &name, flags, Mode::RUSR | Mode::WUSR)?);
    let linked = file
        .set_permissions(Permissions::from_mode(0o600))
        .and_then(|()| file.write_all(format!("{secret}\n").as_bytes()))
        .and_then(|()| file.sync_all())
        .and_then(|()| match linkat(folder, &name, folder, FILE, AtFlags::empty()) {
            // Another process was first, so its key is the one of the user.
            Err(rustix::io::Errno::EXIST) => Ok(()),
            result => result.map_err(io::Error::from),
        });
    unlinkat(folder, &name, AtFlags::empty())?;
    linked
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn bytes(folder: &Path) -> Result<[u8; 32]> {
        key_in(&[folder.to_owned()], uid()).map(|key| *key.bytes())
    }

    #[test]
    fn user_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join("state/wordtide");
        let keys = std::thread::scope(|scope| {
            let each = [(); 8].map(|()| scope.spawn(|| bytes(&folder).expect("a key")));
            each.map(|thread| thread.join().expect("no panic"))
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "processes disagree on the key");
        let mode = |path: &Path| path.metadata().expect("it is there").mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(FILE))), (0o700, 0o600));
        assert_eq!(folder.read_dir().expect("a folder").count(), 1, "a temporary is left");
    }

    #[test]
    fn planted_links_and_open_files_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let planted = dir.path().join("planted");
        bytes(&planted).expect("a key");
        let linked = dir.path().join("linked");
        symlink(&planted, &linked).expect("a link");
        assert!(bytes(&linked).is_err(), "a linked folder");
        let folder = dir.path().join("folder");
        std::fs::create_dir(&folder).expect("a folder");
        symlink(planted.join(FILE), folder.join(FILE)).expect("a link");
        assert!(bytes(&folder).is_err(), "a linked file");
        std::fs::set_permissions(planted.join(FILE), Permissions::from_mode(0o644)).expect("ours");
        let error = bytes(&planted).expect_err("an open file");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("mode 0644"), "{error}");
    }

    #[test]
    fn another_users_folder_is_passed_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let folders = [dir.path().join("one/wordtide"), dir.path().join("two/wordtide")];
        let theirs = key_in(&folders[..1], uid()).expect("a key");
        let stranger = uid() + 1;
        // To another user, none of these folders is his own.
        assert!(key_in(&folders, stranger).is_err());
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("a file");
        let ours = key_in(&[file.join("wordtide"), folders[1].clone()], uid()).expect("a key");
        assert_ne!(theirs.bytes(), ours.bytes());
    }

    #[test]
    fn folders_are_absolute_and_in_order() {
        let lookup = |name: &str| match name {
            "XDG_STATE_HOME" => Some("relative".into()),
            "HOME" => Some("/home/u".into()),
            _ => None,
        };
        let found = folders(lookup, Path::new("/tmp"), 7);
        let expected = ["/home/u/.local/state/wordtide", "/tmp/wordtide-7"];
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
