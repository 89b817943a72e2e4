//! A regular file as a source, read once on a thread that may block.
//!
//! A file can be read again, so nothing of it is copied into the journal: the marks there say how
//! far it was read at each cut, and a restart reads on from there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::fingerprint::Fingerprint;
use super::intake::Intake;
use super::{compressed, path};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Position, SourceOffset};
use crate::lines::StreamEnd;
use crate::supervise;

/// Most files of a process that are open at a time. The others wait for their turn, so the limit of
/// open files and the runtime's threads do not bound how many files a job can have.
pub(super) const FILES_OPEN_MAX: usize = 16;

/// A chunk: what is fed to the splitter between two looks for line ends.
const CHUNK_BYTES: u64 = 256 << 10;

/// Reads the file at `path` when one of the `turns` is free.
///
/// # Errors
///
/// `Configuration` if the file cannot be opened or is not the one that was read before, `Disk` if
/// reading it fails, those of the journal.
pub(super) async fn read(path: PathBuf, turns: Arc<Semaphore>, mut intake: Intake) -> Result<()> {
    let stop = intake.stop().clone();
    let _turn = tokio::select! {
        biased;
        turn = turns.acquire() => turn,
        // A file with cuts of a former run must still be read up to the last of them.
        () = stop.stopped(), if intake.track.lock().at_tail => {
            return if intake.track.is_kept() { Ok(()) } else { intake.end(StreamEnd::Stop) };
        }
    };
    let runtime = Handle::current();
    supervise::blocking(move || {
        let file = path::open_file(&path)?;
        compressed::warn_of_file(&path, &file);
        Reading::begin(file, path, intake, runtime)?.run()
    })
    .await
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
            return self.intake.track.close_file();
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
                // The file is closed: the next one may need its descriptor.
                return self.intake.track.close_file();
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
        intake.meter().bytes.add(read);
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
