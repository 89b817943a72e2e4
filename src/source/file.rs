//! A file as a source, read once from its beginning on a thread that may block.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::intake::Intake;
use crate::error::{Error, ErrorKind, Result};
use crate::lines::StreamEnd;

/// Reads the file at `path`.
pub(super) async fn read(path: PathBuf, intake: Intake) -> Result<()> {
    let file = open(&path)?;
    read_blocking(file, path, intake).await
}

/// Refuses a path that cannot be read, without reading: what is no plain file (a pipe) may have
/// only one reader, or nobody who writes yet.
pub(super) fn check(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => Ok(()),
        _ => open(path).map(drop),
    }
}

/// Opens a file, or says why not in the words of the command line.
pub(super) fn open(path: &Path) -> Result<File> {
    let refused = |why: String| {
        Error::new(ErrorKind::Configuration, format!("cannot read {}: {why}", path.display()))
            .hint("check the path given to --file")
    };
    let file = File::open(path).map_err(|error| refused(error.to_string()))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(refused("it is a directory".to_owned())),
        Ok(_) => Ok(file),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// Reads `file` to its end on the runtime's pool of blocking threads.
pub(super) async fn read_blocking(file: File, path: PathBuf, intake: Intake) -> Result<()> {
    let read = tokio::task::spawn_blocking(move || copy(file, &path, intake));
    read.await.unwrap_or_else(|panicked| {
        Err(Error::new(ErrorKind::Panicked, "the reader of a file panicked").cause(panicked))
    })
}

fn copy(mut file: File, path: &Path, mut intake: Intake) -> Result<()> {
    while !intake.stop().is_stopped() {
        intake.ready_blocking();
        match file.read(intake.spare()) {
            Ok(0) => {
                intake.end(StreamEnd::Fin);
                return Ok(());
            }
            Ok(bytes) => {
                intake.filled(bytes);
                intake.hand_over();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let message = format!("cannot read on in {}: {error}", path.display());
                return Err(Error::new(ErrorKind::Disk, message).cause(error));
            }
        }
    }
    intake.end(StreamEnd::Stop);
    Ok(())
}
