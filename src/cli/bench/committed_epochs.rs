//! The committed epochs of a run, read from its output.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::failed;
use crate::error::{Error, ErrorKind, Result};

/// A committed epoch.
#[derive(Clone, Debug)]
pub struct CountedEpoch {
    /// Unix milliseconds of its end.
    pub epoch_ms: u64,
    /// Lines that ended in it.
    pub lines: u64,
    /// Unix milliseconds at which its marker got its name: the change time of the inode, which a
    /// link or a rename sets. The modification time is earlier by the sync of the file.
    pub named_ms: f64,
    /// Its folder.
    pub dir: PathBuf,
}

/// Returns the committed epochs whose folders are in `out`, in order.
///
/// # Errors
///
/// `Failed` if a marker cannot be read, or if a folder has none.
pub fn epochs(out: &Path) -> Result<Vec<CountedEpoch>> {
    let mut epochs = Vec::new();
    for path in names(out)? {
        if path.is_dir() && has_prefix(&path, "counts-") {
            epochs.push(epoch(path)?);
        }
    }
    epochs.sort_by_key(|epoch| epoch.epoch_ms);
    Ok(epochs)
}

/// Reads the marker of an epoch, and the time at which it got its name: the change of its inode.
fn epoch(dir: PathBuf) -> Result<CountedEpoch> {
    let marker = dir.join("_SUCCESS");
    let unreadable = |error: io::Error| failed(&format!("cannot read {}", marker.display()), error);
    let metadata = fs::metadata(&marker).map_err(unreadable)?;
    let text = fs::read(&marker).map_err(unreadable)?;
    let facts: Value = serde_json::from_slice(&text).unwrap_or_default();
    let number = |name: &str| {
        let lacking = || format!("{} lacks {name}", marker.display());
        facts[name].as_u64().ok_or_else(|| Error::new(ErrorKind::Failed, lacking()))
    };
    let (epoch_ms, lines) = (number("epoch")?, number("lines")?);
    let named_ms = metadata.ctime() as f64 * 1e3 + metadata.ctime_nsec() as f64 / 1e6;
    Ok(CountedEpoch { epoch_ms, lines, named_ms, dir })
}

/// Returns the parts in the folder of an epoch.
///
/// # Errors
///
/// `Failed` if the folder cannot be read.
pub fn parts(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(names(dir)?.into_iter().filter(|path| has_prefix(path, "part-")).collect())
}

/// Returns true if the name of a file begins so.
fn has_prefix(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// Returns the paths in a folder, sorted.
fn names(dir: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error: io::Error| failed(&format!("cannot read {}", dir.display()), error);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        names.push(entry.map_err(unreadable)?.path());
    }
    names.sort();
    Ok(names)
}
