//! A file as a source, read once on a thread that may block.
//!
//! A file can be read again, so nothing of it is copied into the journal: the marks there say how
//! far it was read at each border, and a restart reads on from there.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;

use super::fingerprint::Fingerprint;
use super::intake::Intake;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Position, SourceOffset};
use crate::lines::StreamEnd;

/// A chunk: what is fed to the splitter between two looks for line ends.
const CHUNK_BYTES: u64 = 256 << 10;

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
    let runtime = Handle::current();
    let read = tokio::task::spawn_blocking(move || {
        if !intake.track.reads_again() {
            return copy(file, &path, intake, &runtime);
        }
        let mut reading = Reading::begin(file, path, intake, runtime)?;
        reading.run()
    });
    read.await.unwrap_or_else(|panicked| {
        Err(Error::new(ErrorKind::Panicked, "the reader of a file panicked").cause(panicked))
    })
}

/// Reads what can be read only once: a pipe under a file's name.
fn copy(mut file: File, path: &Path, mut intake: Intake, runtime: &Handle) -> Result<()> {
    runtime.block_on(intake.finish())?;
    while !intake.stop().is_stopped() {
        runtime.block_on(intake.ready_in_step())?;
        match file.read(intake.spare()) {
            Ok(0) => return intake.end(StreamEnd::Fin),
            Ok(bytes) => {
                intake.filled(bytes);
                runtime.block_on(intake.hand_over())?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(path, error)),
        }
    }
    intake.end(StreamEnd::Stop)
}

/// A file that is being read, chunk by chunk at fixed places, so that a run after a restart feeds
/// the splitter the same pieces.
struct Reading {
    file: Arc<File>,
    path: PathBuf,
    intake: Intake,
    runtime: Handle,
    /// How far it was fed.
    offset: u64,
    /// Up to here lies a line that was open at the border where this began.
    open_until: u64,
}

impl Reading {
    fn begin(file: File, path: PathBuf, intake: Intake, runtime: Handle) -> Result<Reading> {
        let file = Arc::new(file);
        let state = intake.track.splitter_state();
        let known = intake.track.begin_file(&file);
        if let Some(known) = known {
            let there = Fingerprint::of(&file, known.bytes());
            if there.map_err(|error| unreadable(&path, error))?
                != Some(Fingerprint(known.fingerprint))
            {
                let message = format!("{} has changed since it was read last", path.display());
                return Err(Error::new(ErrorKind::Configuration, message)
                    .hint("restore it, or give another --state to read it from its beginning"));
            }
        }
        let offset = state.resume_offset;
        let open_until = offset + state.unfinished_bytes;
        Ok(Reading { file, path, intake, runtime, offset, open_until })
    }

    fn run(&mut self) -> Result<()> {
        if self.intake.track.file_offset() & SourceOffset::ENDED != 0 {
            self.pass_borders(u64::MAX);
            return Ok(());
        }
        loop {
            self.pass_borders(self.offset);
            if self.intake.stop().is_stopped() && self.intake.track.lock().at_tail {
                // A stop is no end of the file: the open line goes on at the next start.
                return if self.intake.track.is_kept() {
                    Ok(())
                } else {
                    self.intake.end(StreamEnd::Stop)
                };
            }
            let (most, is_last) = self.next_chunk();
            let read = self.fill(most)?;
            self.hand_over(read);
            if read < most || is_last {
                self.intake.end(StreamEnd::Fin)?;
                self.intake.track.lock().set_file_offset(self.offset | SourceOffset::ENDED);
                self.pass_borders(u64::MAX);
                return Ok(());
            }
        }
    }

    /// How much is fed next, and whether a former run took the file to end there.
    fn next_chunk(&self) -> (u64, bool) {
        let chunk = CHUNK_BYTES - self.offset % CHUNK_BYTES;
        if self.offset < self.open_until {
            return (chunk.min(self.open_until - self.offset), false);
        }
        let border = self.intake.track.lock().next_border();
        let end = border.and_then(|(_, at)| at).filter(|at| at.is_end());
        let left = end.map_or(u64::MAX, |end| end.bytes().saturating_sub(self.offset));
        (chunk.min(left), left <= chunk)
    }

    /// Feeds the splitter `most` bytes, or what there is.
    fn fill(&mut self, most: u64) -> Result<u64> {
        let mut read = 0;
        while read < most {
            self.runtime.block_on(self.intake.splitter.ready());
            let spare = self.intake.splitter.spare();
            let room = spare.len().min((most - read) as usize);
            match self.file.read_at(&mut spare[..room], self.offset + read) {
                Ok(0) => break,
                Ok(bytes) => {
                    self.intake.splitter.filled(bytes);
                    read += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&self.path, error)),
            }
        }
        Ok(read)
    }

    fn hand_over(&mut self, read: u64) {
        let was_open = self.offset < self.open_until;
        self.offset += read;
        let intake = &mut self.intake;
        let mut shared = intake.track.lock();
        if shared.borders != intake.borders {
            intake.borders = shared.borders;
            intake.splitter.settle();
        }
        let block = if was_open { None } else { intake.splitter.take() };
        let nowhere = (Position(0), Position(0));
        shared.place.advance(nowhere, (0, read), intake.splitter.state());
        shared.set_file_offset(self.offset);
        shared.push(block);
        drop(shared);
        intake.tell();
    }

    /// Passes the borders that a former run drew up to `offset`.
    fn pass_borders(&mut self, offset: u64) {
        if self.offset < self.open_until {
            return;
        }
        let mut passed = Vec::new();
        let mut shared = self.intake.track.lock();
        while let Some((_, at)) = shared.next_border() {
            if at.is_some_and(|at| at.offset > offset) {
                break;
            }
            self.intake.splitter.settle();
            passed.extend(shared.pass());
        }
        shared.at_tail = shared.next_border().is_none();
        self.intake.borders = if passed.is_empty() { self.intake.borders } else { shared.borders };
        drop(shared);
        passed.into_iter().for_each(|epoch| self.intake.track.watcher().passed(epoch));
    }
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    let message = format!("cannot read on in {}: {error}", path.display());
    Error::new(ErrorKind::Disk, message).cause(error)
}
