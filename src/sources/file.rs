//! A regular file as a source, read once.
//!
//! A file can be read again, so nothing of it is copied into the journal: the ends of epochs there
//! hold how far it was read at each cut, and a restart reads on from there. The offsets are those
//! of the text: a compressed file is decompressed again up to there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::compressed::{self, InputEncoding, StoredFile, Text, TextFault};
use super::file_fingerprint::Fingerprint;
use super::file_or_stream;
use super::log::SourceLog;
use crate::error::{Error, ErrorKind, Result};
use crate::lines::StreamEnd;

/// Most files of a process that are open at a time. The others wait for their turn, so the limit of
/// open files does not bound how many files a job can have.
pub const FILES_OPEN_MAX: usize = 16;

/// A chunk: what is fed to the splitter between two looks for line ends.
const CHUNK_BYTES: u64 = 256 << 10;

/// Most bytes of a compressed file's text that are skipped between two looks for cuts.
const SKIP_BYTES: u64 = 4 << 20;

/// The only connection of a file.
const CONNECTION: u64 = 0;

/// How far a file was read: the positions of its source log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileOffset {
    /// First byte that was not read, with [`FileOffset::ENDED`] if the file ended there.
    offset: u64,
    /// A hash of what lies before it, so that another file under the same name is noticed.
    fingerprint: u64,
    /// The bytes of a compressed file that the text before it was made of, which the fingerprint is
    /// of.
    stored: Option<u64>,
}

impl FileOffset {
    /// Set in the offset of a file whose end was taken: its unfinished last line has become a line.
    const ENDED: u64 = 1 << 63;

    /// Bytes that were read.
    fn bytes(self) -> u64 {
        self.offset & !Self::ENDED
    }

    /// Returns true if the file was read to its end.
    fn is_end(self) -> bool {
        self.offset & Self::ENDED != 0
    }

    /// Returns the offset as a record holds it.
    fn encode(self) -> Vec<u8> {
        let fields = [Some(self.offset), Some(self.fingerprint), self.stored];
        fields.into_iter().flatten().flat_map(u64::to_le_bytes).collect()
    }

    /// `None` for a file that was not open yet.
    fn decode(positions: &[u8]) -> Option<FileOffset> {
        let (offset, fingerprint) = positions.split_first_chunk::<8>()?;
        let (fingerprint, stored) = fingerprint.split_first_chunk::<8>()?;
        Some(FileOffset {
            offset: u64::from_le_bytes(*offset),
            fingerprint: u64::from_le_bytes(*fingerprint),
            stored: stored.first_chunk::<8>().copied().map(u64::from_le_bytes),
        })
    }
}

/// Reads the file at `path` when one of the `turns` is free.
///
/// # Errors
///
/// `Configuration` if the file cannot be opened or is not the one that was read before, `Disk` if
/// reading it fails, those of the journal.
pub async fn read(path: PathBuf, turns: Arc<Semaphore>, log: &mut SourceLog) -> Result<()> {
    let stop = log.stop().clone();
    let is_live = log.is_live();
    // What cannot be examined is reported when it is opened.
    if let Ok(found) = path.metadata() {
        log.meter().ends_after(found.len());
    }
    let turn = async {
        tokio::select! {
            biased;
            turn = turns.acquire() => Some(turn),
            // A file with cuts of a former run must still be read up to the last of them.
            () = stop.stopped(), if is_live => None,
        }
    };
    let Some(_turn) = log.serve_during(turn).await? else { return end_at_stop(log) };
    let file = file_or_stream::open_file(&path)?;
    let mut reading = FileReading::begin(file, path, log)?;
    reading.skip().await?;
    reading.run().await
}

/// A stop is no end of the file: the open line goes on at the next start, if there is one.
fn end_at_stop(log: &mut SourceLog) -> Result<()> {
    if log.is_kept() { Ok(()) } else { log.end_connection(CONNECTION, StreamEnd::Stop) }
}

/// A file that is being read, chunk by chunk at fixed places, so that a run after a restart feeds
/// the splitter the same pieces.
struct FileReading<'a> {
    /// The text, decompressed if need be.
    text: Text<StoredFile>,
    /// The path, for messages.
    path: PathBuf,
    /// The log that lines go into.
    log: &'a mut SourceLog,
    /// How far it was fed.
    offset: u64,
    /// The position as the cuts record it.
    recorded: Arc<Recorded>,
    /// Up to here lies a line that was open at the cut where this began.
    open_until: u64,
}

impl<'a> FileReading<'a> {
    /// Goes on where the log has left the file.
    ///
    /// Fails with `Configuration` if it is not that file any more.
    fn begin(file: File, path: PathBuf, log: &'a mut SourceLog) -> Result<FileReading<'a>> {
        let file = Arc::new(file);
        log.open_connection_as(CONNECTION);
        let known = FileOffset::decode(log.last_recorded());
        if let Some(known) = known {
            let there = Fingerprint::of(&file, known.stored.unwrap_or(known.bytes()));
            if there.map_err(|error| unreadable(&path, error))?
                != Some(Fingerprint(known.fingerprint))
            {
                return Err(changed(&path));
            }
        }
        let mut stored = StoredFile::whole(Arc::clone(&file));
        let beginning = compressed::beginning(&mut stored);
        let encoding =
            InputEncoding::of(&path, &beginning.map_err(|error| unreadable(&path, error))?);
        encoding.warn(&path.display().to_string());
        let text = Text::new(stored, &encoding);
        let began_at = FileOffset::decode(log.began_at());
        let open = log.connections_at_begin();
        let unfinished = open.first().map_or(0, |(_, state)| state.unfinished_bytes);
        let open_until = began_at.map_or(0, FileOffset::bytes);
        let recorded = Arc::new(Recorded {
            offset: AtomicU64::new(began_at.map_or(0, |began_at| began_at.offset)),
            stored: AtomicU64::new(began_at.and_then(|began_at| began_at.stored).unwrap_or(0)),
            is_decompressed: text.is_decompressed(),
        });
        let at_cut = Arc::clone(&recorded);
        if log.is_kept() {
            log.set_positions(move || at_cut.positions(&file));
        }
        let offset = open_until.saturating_sub(unfinished);
        Ok(FileReading { text, path, log, offset, recorded, open_until })
    }

    /// Goes to where reading begins. Epochs are cut while a file is decompressed again.
    async fn skip(&mut self) -> Result<()> {
        while self.text.position() < self.offset {
            let next = self.offset.min(self.text.position() + SKIP_BYTES);
            match self.text.skip_to(if self.text.is_decompressed() { next } else { self.offset }) {
                Ok(true) => {
                    self.log.meter().reached(self.text.stored_bytes());
                    self.log.serve_during(tokio::task::yield_now()).await?;
                }
                Ok(false) | Err(TextFault::Damaged(_)) => return Err(changed(&self.path)),
                Err(TextFault::Unreadable(error)) => return Err(unreadable(&self.path, error)),
            }
        }
        Ok(())
    }

    /// Reads until the end of the file or a stop.
    async fn run(mut self) -> Result<()> {
        if self.recorded.has_ended() {
            return self.end();
        }
        loop {
            self.pass_ends(self.offset)?;
            if self.log.stop().is_stopped() && self.log.is_live() {
                return end_at_stop(self.log);
            }
            let (most, is_last) = self.next_chunk();
            let (read, mut damage) = self.fill(most).await?;
            self.offset += read;
            self.log.meter().reached(self.text.stored_bytes());
            self.log.hand_over(CONNECTION).await?;
            if self.offset >= self.open_until {
                self.recorded.at(self.offset, self.text.stored_bytes());
            }
            if is_last && damage.is_none() && self.text.is_decompressed() {
                // A former run has found the end here, and may have found damage.
                damage = self.text.read(&mut [0]).err();
            }
            if read < most || is_last || damage.is_some() {
                let end = match damage {
                    None => StreamEnd::Fin,
                    Some(fault) => self.report(fault)?,
                };
                self.log.end_connection(CONNECTION, end)?;
                self.recorded.at(self.offset | FileOffset::ENDED, self.text.stored_bytes());
                return self.end();
            }
            // Others have the thread in turn.
            self.log.serve_during(tokio::task::yield_now()).await?;
        }
    }

    /// Closes a file that was read to its end: the next one may need its descriptor.
    fn end(&mut self) -> Result<()> {
        // Also a file that is damaged, or that has grown: no more of it is read.
        self.log.meter().reached(u64::MAX);
        self.pass_ends(u64::MAX)?;
        self.log.fix_positions()?;
        self.log.input_has_ended();
        Ok(())
    }

    /// Returns how much is fed next, and whether a former run took the file to end there.
    fn next_chunk(&self) -> (u64, bool) {
        let chunk = CHUNK_BYTES - self.offset % CHUNK_BYTES;
        if self.offset < self.open_until {
            return (chunk.min(self.open_until - self.offset), false);
        }
        let recorded = self.log.recorded_end().and_then(|(_, at)| FileOffset::decode(at));
        let end = recorded.filter(|at| at.is_end());
        let left = end.map_or(u64::MAX, |end| end.bytes().saturating_sub(self.offset));
        (chunk.min(left), left <= chunk)
    }

    /// Reports that the text cannot be read further. Its lines up to there are counted, but for an
    /// unfinished one.
    fn report(&self, fault: TextFault) -> Result<StreamEnd> {
        match fault {
            TextFault::Unreadable(error) => Err(unreadable(&self.path, error)),
            TextFault::Damaged(why) => {
                let (path, offset) = (self.path.display(), self.offset);
                tracing::warn!(
                    "{path} is damaged after {offset} bytes of text ({why}): the lines before are \
                     counted"
                );
                Ok(StreamEnd::Reset)
            }
        }
    }

    /// Feeds the splitter `most` bytes, or what there is up to the end or the fault that is
    /// returned.
    async fn fill(&mut self, most: u64) -> Result<(u64, Option<TextFault>)> {
        let mut read = 0;
        while read < most {
            self.log.ready(CONNECTION).await?;
            let spare = self.log.spare(CONNECTION);
            let room = spare.len().min((most - read) as usize);
            match self.text.read(&mut spare[..room]) {
                Ok(0) => break,
                Ok(bytes) => {
                    self.log.filled(CONNECTION, bytes);
                    read += bytes as u64;
                }
                Err(TextFault::Unreadable(error)) => return Err(unreadable(&self.path, error)),
                Err(damage) => return Ok((read, Some(damage))),
            }
        }
        Ok((read, None))
    }

    /// Passes the ends of epochs that a former run recorded up to `offset`.
    fn pass_ends(&mut self, offset: u64) -> Result<()> {
        if self.offset < self.open_until {
            return Ok(());
        }
        while let Some((_, at)) = self.log.recorded_end() {
            if FileOffset::decode(at).is_some_and(|at| at.offset > offset) {
                break;
            }
            self.log.pass_recorded_end()?;
        }
        Ok(())
    }
}

/// How far a file was read, as the cuts record it. Only the task that owns the log uses it.
#[derive(Debug)]
struct Recorded {
    /// The offset in the text.
    offset: AtomicU64,
    /// The offset in the stored file.
    stored: AtomicU64,
    /// True if the two differ.
    is_decompressed: bool,
}

impl Recorded {
    /// Moves to these offsets.
    fn at(&self, offset: u64, stored: u64) {
        self.offset.store(offset, Ordering::Relaxed);
        self.stored.store(stored, Ordering::Relaxed);
    }

    /// Returns true if the file was read to its end.
    fn has_ended(&self) -> bool {
        self.offset.load(Ordering::Relaxed) & FileOffset::ENDED != 0
    }

    /// Returns the positions at a cut.
    fn positions(&self, file: &File) -> Result<Vec<u8>> {
        let offset = self.offset.load(Ordering::Relaxed);
        let stored = self.is_decompressed.then(|| self.stored.load(Ordering::Relaxed));
        let read = stored.unwrap_or(offset & !FileOffset::ENDED);
        let fingerprint = Fingerprint::of(file, read).map_err(|error| {
            Error::new(ErrorKind::Disk, format!("cannot read a file again: {error}")).cause(error)
        })?;
        let known = fingerprint.map(|print| FileOffset { offset, fingerprint: print.0, stored });
        Ok(known.map(FileOffset::encode).unwrap_or_default())
    }
}

/// Returns the error of a file that is not the one which was read.
fn changed(path: &Path) -> Error {
    let message = format!("{} has changed since it was read last", path.display());
    Error::new(ErrorKind::Configuration, message)
        .hint("restore it, or give another --state to read it from its beginning")
}

/// Returns the error of a file that cannot be read on.
fn unreadable(path: &Path, error: io::Error) -> Error {
    let message = format!("cannot read on in {}: {error}", path.display());
    Error::new(ErrorKind::Disk, message).cause(error)
}
