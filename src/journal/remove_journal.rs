//! Removing the journal of a job that has finished.

use std::fs;
use std::io;
use std::path::Path;

use crate::crash_points::crash_point;
use crate::durable_file::sync_folder;

/// The beginning of the name of a journal's folder that is being removed.
pub const CLOSED: &str = "closed-";

/// Drops the journal in `folder`, which is not open. A crash leaves all of it or nothing.
///
/// # Errors
/// Those of the disk.
pub fn put_away(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.with_file_name(format!("{CLOSED}{name}"));
    match fs::remove_dir_all(&aside) {
        // What a crash left of an earlier one would be in the way.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(folder, &aside)?;
    if let Some(parent) = folder.parent() {
        sync_folder(parent)?;
    }
    crash_point("recovery.put_away");
    fs::remove_dir_all(aside)
}
