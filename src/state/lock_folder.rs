//! The lock of a process on its state folder.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{LOCK, private, refusal};
use crate::error::{Error, ErrorKind, Result};
use crate::file_lock::{self, LockOutcome, LockPatience};
use crate::store::local::cannot_lock;

/// Returns the path of the lock of a process.
pub fn lock_path(dir: &Path, process: usize) -> PathBuf {
    dir.join(format!("{LOCK}-{process}"))
}

/// Takes the lock of `process` in `dir`.
pub fn lock_folder(dir: &Path, process: usize, patience: &LockPatience) -> Result<File> {
    let path = lock_path(dir, process);
    let open = || {
        let mut options = OpenOptions::new();
        let file = private(options.create(true).truncate(false).read(true).write(true));
        let file = file.open(&path)?;
        // The lock file of an older release: others could open it and lock it.
        file.set_permissions(Permissions::from_mode(0o600)).map(|()| file)
    };
    let failed = |error: io::Error| {
        let message = format!("cannot lock the state in {}: {error}", dir.display());
        Error::new(refusal(&error), message).cause(error).hint("see --state")
    };
    let (file, locked) = loop {
        let file = open().map_err(failed)?;
        let locked = file_lock::exclusive(&file, patience);
        // A new state that was refused removes its lock: the name may be another file's by now.
        if locked != Ok(LockOutcome::Locked)
            || file_lock::bears_name(&file, &path).map_err(failed)?
        {
            break (file, locked);
        }
    };
    match locked {
        Ok(LockOutcome::Locked) => {
            // For `wordtide state`. The lock counts, not the number: a full disk ends nothing.
            let noted = file.set_len(0).and_then(|()| writeln!(&file, "{}", std::process::id()));
            noted.unwrap_or_else(|error| tracing::debug!(%error, "the lock names no process"));
            Ok(file)
        }
        Ok(LockOutcome::StillEnding) => Err(file_lock::still_ending(&path)),
        Ok(LockOutcome::Stopped) => Err(file_lock::stopped()),
        Ok(LockOutcome::Held) => {
            let message = format!("another process runs on the state in {}", dir.display());
            Err(Error::new(ErrorKind::Configuration, message)
                .hint("stop it, or give another --state"))
        }
        Err(errno) => Err(cannot_lock(&path, &errno.into(), "--state")),
    }
}
