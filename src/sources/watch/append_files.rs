//! Reads the files of a watched place into the source log, one after the other.
//!
//! ```text
//! found ─► asked for (pump, up to 8 ahead) ─► opened ─► noted in the ledger ─► text ─► connection
//! ```
//!
//! Each file has a number, in the order in which files are begun, and is a connection of the log by
//! that number. A cut records a position: the number of the file and the offset in its text. So a
//! start finds every file that an epoch which is not committed has lines of, and reads it again up
//! to the recorded ends.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::change_ledger::changed;
use super::find_files_thread::Discovery;
use super::found_file::{FileState, FoundFile, NameHash, Version};
use super::ledger::{BegunFile, Ledger};
use super::ledger_record::RenamedFile;
use super::new_files::{UnreadFile, WatchEvent};
use super::position::FilePosition;
use super::read_files_thread::{Piece, Pump};
use super::read_request::{FileEnd, ReadRequest};
use super::watched_place::OpenPlace;
use crate::error::{Error, ErrorKind, Result};
use crate::lines::StreamEnd;
use crate::sources::log::SourceLog;

/// Most files that the pump is asked for before the first of them is read.
const FILES_AHEAD_MAX: usize = 8;
/// Most files whose failure is remembered, so that it is logged once.
const REPORTED_MAX: usize = 10_000;

/// The state that a cut records. Only the task that owns the log uses it, and a cut is a step of
/// that task.
#[derive(Debug)]
struct ReadProgress {
    /// The files that were begun, by name, version and number.
    ledger: Ledger,
    /// The file that is read, and the offset after the text that the log has.
    position: FilePosition,
}

/// The task that reads the files of one place.
pub struct WatchReading<'a> {
    /// The log that lines go into.
    log: &'a mut SourceLog,
    /// The state that a cut records.
    progress: Arc<Mutex<ReadProgress>>,
    /// The thread that reads and decompresses files.
    pump: Pump,
    /// The folder or the bucket.
    place: OpenPlace,
    /// Files whose failure was logged.
    reported: HashSet<NameHash>,
    /// Files that were found and not read: under other names they are not known.
    unread: HashSet<Version>,
}

/// How the text of a file was taken.
enum Taken {
    /// To its end.
    End,
    /// To where a stop was asked for.
    Stop,
}

impl<'a> WatchReading<'a> {
    /// Begins where the log does. Waits while the disk is full; returns `None` if a stop was asked
    /// for meanwhile.
    ///
    /// # Errors
    ///
    /// `Disk` for positions or a ledger that do not fit the log.
    pub async fn begin(
        log: &'a mut SourceLog,
        mut ledger: Ledger,
        pump: Pump,
        place: OpenPlace,
    ) -> Result<Option<WatchReading<'a>>> {
        let position = FilePosition::decode(log.began_at())?;
        let last = FilePosition::decode(log.last_recorded())?.max(position);
        if last.number > ledger.next_number() {
            let message = "the list of the files that were read is older than the journal";
            return Err(Error::new(ErrorKind::Disk, message)
                .hint("restore --state as it was, or give another one to begin anew"));
        }
        // A file at the last position was begun if some of it was read.
        let lost_from = last.number + u64::from(last.offset > 0);
        if changed(log, || ledger.forget_from(lost_from)).await?.is_none() {
            return Ok(None);
        }
        ledger.committed(position.number)?;
        let progress = Arc::new(Mutex::new(ReadProgress { ledger, position }));
        let at_cut = Arc::clone(&progress);
        log.set_positions(move || {
            let mut progress = at_cut.lock().unwrap_or_else(PoisonError::into_inner);
            progress.ledger.sync()?;
            Ok(progress.position.encode())
        });
        Ok(Some(WatchReading {
            log,
            progress,
            pump,
            place,
            reported: HashSet::new(),
            unread: HashSet::new(),
        }))
    }

    /// Locks the state that a cut records.
    fn progress(&self) -> MutexGuard<'_, ReadProgress> {
        // A panic ends the job; what the lock guards is whole between steps.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the files that are not to be found again.
    pub fn known(&self) -> HashMap<NameHash, FileState> {
        self.progress().ledger.known().clone()
    }

    /// Returns the device that the folder was on, if that is known.
    pub fn device(&self) -> Option<u64> {
        self.progress().ledger.device()
    }

    /// Reads again what the recorded epochs hold, and the rest of a file that was left within;
    /// returns false if a stop was asked for.
    ///
    /// # Errors
    ///
    /// Those of the log and of the ledger.
    pub async fn read_again(&mut self) -> Result<bool> {
        loop {
            self.pass_recorded_ends()?;
            let position = self.progress().position;
            let begun = self.progress().ledger.begun_from(position.number).cloned();
            let is_left_within = position.offset > 0;
            let Some(begun) = begun.filter(|_| is_left_within || !self.log.is_live()) else {
                break;
            };
            // Files with a number in between were forgotten.
            if begun.number > position.number {
                self.progress().position = FilePosition::before(begun.number);
                self.pass_recorded_ends()?;
            }
            if let Taken::Stop = self.read_file_again(begun).await? {
                return Ok(false);
            }
        }
        // Nothing is left of these epochs.
        while self.log.recorded_end().is_some() {
            self.log.pass_recorded_end()?;
        }
        // Files that were begun and of which nothing was read are found again.
        for (connection, _) in self.log.connections_at_begin() {
            self.log.end_connection(connection, StreamEnd::Reset)?;
        }
        Ok(true)
    }

    /// Reads a file that a former run has begun, from the last line that was not split whole.
    ///
    /// Fails with `Disk` for a file that cannot be read now and may be whole: to go on without it
    /// would lose its lines. One that is gone or has changed is given up with an error line.
    async fn read_file_again(&mut self, begun: BegunFile) -> Result<Taken> {
        let BegunFile { number, file } = begun;
        let open = self.log.connections_at_begin();
        let state = open.iter().find(|(connection, _)| *connection == number);
        let position = self.progress().position;
        // The unfinished line is fed again.
        let from = state.map_or(position.offset, |(_, state)| state.resume_offset);
        self.ask(file.clone(), Some(from));
        let connection = self.log.open_connection_as(number);
        let end = match self.next_piece().await? {
            None => return Ok(Taken::Stop),
            Some(Piece::Opened(_)) => match self.take_text(connection, from).await? {
                Some(end) => end,
                None => return Ok(Taken::Stop),
            },
            Some(Piece::End(end)) => end,
            Some(Piece::Text(_)) => return Err(out_of_order()),
        };
        if matches!(end, FileEnd::Whole | FileEnd::Damaged(_)) {
            self.end_file(connection, number, &file, &end)?;
            return Ok(Taken::End);
        }
        let name = self.place.shown(&file);
        if let FileEnd::Unreadable(why) = &end {
            // It may be whole: to give its lines up would lose them for good.
            let message = format!("{name} cannot be read again: {why}");
            return Err(Error::new(ErrorKind::Disk, message).hint(
                "make it readable, and start again; or remove it, which gives up its lines",
            ));
        }
        tracing::error!(
            "{name} was read before the restart and is not what it was: those of its lines that \
             are not committed are lost"
        );
        self.log.end_connection(connection, StreamEnd::Reset)?;
        self.progress().position = FilePosition::before(number + 1);
        self.pass_recorded_ends()?;
        Ok(Taken::End)
    }

    /// Reads files as they are found; with `once`, those that are found at the start.
    ///
    /// # Errors
    ///
    /// Those of the log, of the ledger, and of the threads that find and read files.
    pub async fn read_new(mut self, mut discovery: Discovery, once: bool) -> Result<()> {
        let stop = self.log.stop().clone();
        let mut ahead = VecDeque::new();
        loop {
            while ahead.len() < FILES_AHEAD_MAX
                && let Some(arrival) = discovery.try_next()
            {
                self.ask_for(&arrival);
                ahead.push_back(arrival);
            }
            let Some(arrival) = ahead.pop_front() else {
                let next = self.log.serve_during(async {
                    tokio::select! {
                        biased;
                        () = stop.stopped() => Ok(None),
                        next = discovery.next() => next,
                    }
                });
                let Some(arrival) = next.await?? else { break };
                self.ask_for(&arrival);
                ahead.push_back(arrival);
                continue;
            };
            let committed = FilePosition::decode(self.log.committed_at())?;
            self.progress().ledger.committed(committed.number)?;
            let is_stopped = match arrival {
                WatchEvent::Found(file) => self.read_file(file, &discovery).await?,
                WatchEvent::Changed(file) => self.report_change(&file),
                WatchEvent::Renamed(files) => self.note_renames(files).await?,
                WatchEvent::Gone(name) => self.note(|ledger| ledger.forget(name)).await?.is_none(),
                WatchEvent::Device(device) => {
                    self.note(|ledger| ledger.know_device(device)).await?.is_none()
                }
            };
            if is_stopped || stop.is_stopped() {
                break;
            }
        }
        if once && !stop.is_stopped() {
            tracing::info!("all files that were there at the start are read");
        }
        self.log.fix_positions()
    }

    /// Asks the pump for a file that was found; other events need no file.
    fn ask_for(&self, arrival: &WatchEvent) {
        if let WatchEvent::Found(file) = arrival {
            self.ask(file.clone(), None);
        }
    }

    /// Asks the pump for a file. One that was read before is to be the same, and is read from the
    /// offset `again_from` of its text.
    fn ask(&self, file: FoundFile, again_from: Option<u64>) {
        self.pump.ask(ReadRequest { file, again_from });
    }

    /// Returns the next piece of the file that was asked for first; `None` if a stop was asked for
    /// and no recorded epoch needs the piece.
    async fn next_piece(&mut self) -> Result<Option<Piece>> {
        let (stop, is_live) = (self.log.stop().clone(), self.log.is_live());
        let pump = &mut self.pump;
        let piece = async {
            tokio::select! {
                biased;
                () = stop.stopped(), if is_live => Ok(None),
                piece = pump.next() => piece.map(Some),
            }
        };
        self.log.serve_during(piece).await?
    }

    /// Reads a file that was found and asked for; returns true if a stop was asked for.
    ///
    /// The ledger notes the file durably before any of its lines is in the log.
    async fn read_file(&mut self, file: FoundFile, discovery: &Discovery) -> Result<bool> {
        let facts = match self.next_piece().await? {
            None => return Ok(true),
            Some(Piece::Opened(facts)) => facts,
            Some(Piece::End(end)) => {
                self.report_unread(file, end, discovery);
                return Ok(false);
            }
            Some(Piece::Text(_)) => return Err(out_of_order()),
        };
        let file = FoundFile { facts, ..file };
        // Otherwise the disk is full, and a stop was asked for.
        let begun = self.note(|ledger| ledger.begin(file.clone())).await?;
        let Some(number) = begun else { return Ok(true) };
        self.unread.remove(&file.facts.version);
        self.progress().position = FilePosition::before(number);
        let connection = self.log.open_connection_as(number);
        match self.take_text(connection, 0).await? {
            None => Ok(true),
            Some(end) => {
                self.end_file(connection, number, &file, &end)?;
                Ok(false)
            }
        }
    }

    /// Notes the new names of known files; returns true if a stop was asked for.
    async fn note_renames(&mut self, mut files: Vec<RenamedFile>) -> Result<bool> {
        files.retain(|file| !self.unread.contains(&file.state.version));
        for file in &files {
            let name = self.place.shown_name(&file.name);
            tracing::info!("{name} is a file that was read before");
        }
        Ok(self.note(|ledger| ledger.rename(&files)).await?.is_none())
    }

    /// Changes the ledger; waits while the disk is full. Returns `None` if a stop was asked for
    /// meanwhile.
    async fn note<T>(
        &mut self,
        mut change: impl FnMut(&mut Ledger) -> io::Result<T>,
    ) -> Result<Option<T>> {
        let progress = Arc::clone(&self.progress);
        let change = || {
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut progress.ledger)
        };
        changed(self.log, change).await
    }

    /// Takes the text of the file that is open, from `offset` on. Returns its end, or `None` if a
    /// stop was asked for.
    async fn take_text(&mut self, connection: u64, mut offset: u64) -> Result<Option<FileEnd>> {
        loop {
            match self.next_piece().await? {
                Some(Piece::Text(text)) => {
                    self.feed(connection, &mut offset, &text).await?;
                    self.pump.recycle(text);
                }
                Some(Piece::End(end)) => return Ok(Some(end)),
                Some(Piece::Opened(_)) => return Err(out_of_order()),
                None => {
                    // A stop is no end of the file: its open line goes on at the next start.
                    if !self.log.is_kept() {
                        self.log.end_connection(connection, StreamEnd::Stop)?;
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Hands text over, in parts between the recorded ends of epochs, so that each line comes into
    /// the epoch that it was in before a restart. Waits while the log has no room.
    async fn feed(&mut self, connection: u64, offset: &mut u64, text: &[u8]) -> Result<()> {
        let mut rest = text;
        while !rest.is_empty() {
            self.pass_recorded_ends()?;
            let most = match self.next_recorded()? {
                Some(end) if end.number == self.progress().position.number => {
                    usize::try_from(end.offset.saturating_sub(*offset)).unwrap_or(usize::MAX)
                }
                _ => usize::MAX,
            };
            let (part, after) = rest.split_at(most.clamp(1, rest.len()));
            let mut left = part;
            while !left.is_empty() {
                self.log.ready(connection).await?;
                let spare = self.log.spare(connection);
                let now = spare.len().min(left.len());
                spare[..now].copy_from_slice(&left[..now]);
                self.log.filled(connection, now);
                left = &left[now..];
                if now == 0 || left.is_empty() {
                    self.log.hand_over(connection).await?;
                    // No cut comes between this and the step before.
                    let fed = *offset + (part.len() - left.len()) as u64;
                    let mut progress = self.progress();
                    progress.position.offset = progress.position.offset.max(fed);
                }
            }
            *offset += part.len() as u64;
            rest = after;
        }
        self.pass_recorded_ends()
    }

    /// Ends a file, and reports how if that is worth a line. The position is then that before the
    /// next file.
    fn end_file(
        &mut self,
        connection: u64,
        number: u64,
        file: &FoundFile,
        end: &FileEnd,
    ) -> Result<()> {
        let is_whole = matches!(end, FileEnd::Whole);
        // The last line of a file needs no newline. What comes before a fault may be half a line.
        let stream_end = if is_whole { StreamEnd::Fin } else { StreamEnd::Reset };
        self.log.end_connection(connection, stream_end)?;
        let (name, read) = (self.place.shown(file), self.progress().position.offset);
        self.progress().position = FilePosition::before(number + 1);
        match end {
            FileEnd::Whole => {}
            FileEnd::Damaged(why) => tracing::warn!(
                "{name} is damaged after {read} bytes of text ({why}): the lines before are counted"
            ),
            FileEnd::Unreadable(why) => tracing::warn!(
                "{name} cannot be read after {read} bytes of text ({why}): the lines before are \
                 counted"
            ),
            FileEnd::Gone | FileEnd::Changed => tracing::warn!(
                "{name} has changed while it was read: the lines in the first {read} bytes of its \
                 text are counted"
            ),
        }
        self.pass_recorded_ends()
    }

    /// Reports a file that was not opened, and has it found again where that may help.
    fn report_unread(&mut self, file: FoundFile, end: FileEnd, discovery: &Discovery) {
        let name = self.place.shown(&file);
        if self.unread.len().max(self.reported.len()) >= REPORTED_MAX {
            self.reported.clear();
            self.unread.clear();
        }
        self.unread.insert(file.facts.version);
        match end {
            FileEnd::Whole => {}
            FileEnd::Gone => {
                tracing::warn!("{name} was removed before it was read");
                discovery.give_back(UnreadFile::Changed(file));
            }
            FileEnd::Changed => {
                if !discovery.give_back(UnreadFile::Changed(file)) {
                    tracing::warn!("{name} is being written to: it is left to the next run");
                }
            }
            FileEnd::Unreadable(why) | FileEnd::Damaged(why) => {
                let (is_new, hash) = (!self.reported.contains(&file.hash()), file.hash());
                let is_tried_again = discovery.give_back(UnreadFile::Unreadable(file));
                if is_new {
                    let then = if is_tried_again { "; trying again later" } else { "" };
                    tracing::warn!("{name} cannot be read: {why}{then}");
                    self.reported.insert(hash);
                }
            }
        }
    }

    /// Reports a file that has changed after it was read; returns false.
    fn report_change(&self, file: &FoundFile) -> bool {
        // One that was not read yet is read as it is now.
        let is_read = self.progress().ledger.known().contains_key(&file.hash());
        if is_read {
            let name = self.place.shown(file);
            tracing::warn!(
                "{name} has changed after it was read or left out: it is not read again"
            );
        }
        false
    }

    /// Returns the next end of an epoch that a former run recorded.
    fn next_recorded(&self) -> Result<Option<FilePosition>> {
        self.log.recorded_end().map(|(_, end)| FilePosition::decode(end)).transpose()
    }

    /// Passes the recorded ends of epochs up to where this is.
    fn pass_recorded_ends(&mut self) -> Result<()> {
        while let Some(end) = self.next_recorded()?
            && end <= self.progress().position
        {
            self.log.pass_recorded_end()?;
        }
        Ok(())
    }
}

/// Returns the error of pieces that no file has in this order: a defect.
fn out_of_order() -> Error {
    Error::new(ErrorKind::Failed, "the pieces of a file came in a wrong order")
}
