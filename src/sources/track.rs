//! The record stream of one source, and where its epochs end in it.
//!
//! Two walk along it. The *reader* appends what it reads to the journal and never waits for anybody
//! else; the *feeder* turns the records into blocks, each for the epoch that its line ends in. As a
//! rule they are one: bytes go into the journal and, from the same buffer, to the workers. When the
//! workers have no room, or at a start with records that are not committed, the feeder is behind
//! and reads the records back.
//!
//! A border between epochs is a position in the stream. It is drawn where the reader is
//! ([`Track::cut`]) and passed when the feeder gets there: at once if it is not behind. That both
//! happen under one lock is what makes the cut exact: no byte is between journal and lines then.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fingerprint::Fingerprint;
use crate::crash::{self, crash_point};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Feed;
use crate::journal::{
    Append, EosKind, Full, Journal, Mark, Position, Reader, Resume, Room, SourceOffset, Syncer,
};
use crate::lines::{Block, SplitterState, StreamEnd};

/// Told what happens on a track; called without its lock.
pub trait Watcher: Send + Sync {
    /// The feeder has passed the end of `epoch`.
    fn passed(&self, epoch: Epoch);

    /// Lines were appended.
    fn appended(&self);

    /// So much was appended that the disk should have it.
    fn write_due(&self);

    /// The journal is full: what is done should go, and a full disk be looked at again.
    fn room_wanted(&self);
}

/// The state that a track begins with: empty, or left by a former run.
#[derive(Debug, Default)]
pub struct Past {
    /// Where the feeder begins.
    pub resume: Resume,
    /// Ends of epochs that the feeder will meet, in order, and where a file was cut there.
    pub borders: Vec<(Epoch, Option<SourceOffset>)>,
    /// Epochs that are committed: their lines are not handed over again.
    pub committed: BTreeSet<Epoch>,
    /// The source is a file: its bytes do not go into the journal.
    pub is_file: bool,
    /// A kept journal is run again: nothing is noted in it.
    pub is_replay: bool,
    /// Where the file was when the last of the epochs before `borders` ended.
    pub file: Option<SourceOffset>,
    /// Least number for a new connection.
    pub next_connection: u64,
}

/// The record stream of one source. Clones share it.
#[derive(Clone)]
pub struct Track {
    shared: Arc<Mutex<Shared>>,
    watcher: Arc<dyn Watcher>,
}

/// The state under the lock of a track.
pub(super) struct Shared {
    pub(super) journal: Option<Journal>,
    feed: Feed,
    /// The epoch that what is read now belongs to.
    open: Epoch,
    /// Borders that the feeder has not passed.
    ahead: VecDeque<(Epoch, Option<SourceOffset>)>,
    committed: BTreeSet<Epoch>,
    /// The feeder is where the reader is.
    pub(super) at_tail: bool,
    pub(super) place: Place,
    /// Bytes of the first record to be fed that belong to lines which are done with.
    pub(super) begin_skip: u32,
    /// The last border passed, and where a replay behind it begins.
    passed: Option<(Epoch, Resume)>,
    /// The newest epoch known to be committed that is not yet noted in the journal.
    to_note: Option<Epoch>,
    /// Counts the borders passed, so that the feeder notices those that were drawn under it.
    pub(super) borders: u64,
    is_replay: bool,
    /// The source can be read again: its bytes do not go into the journal.
    is_file: bool,
    /// The file while it is open, and how far it was read.
    file: Option<(Arc<File>, u64)>,
    /// The file was read to its end and is closed.
    file_has_ended: bool,
    /// The last border of a former run, where the file must be what it was; once the file is
    /// closed, its end.
    file_known: Option<SourceOffset>,
}

/// How far the feeder is.
#[derive(Debug, Default)]
pub(super) struct Place {
    state: SplitterState,
    /// Bytes fed since the beginning of the stream.
    pub(super) fed: u64,
    /// Offset and position of records that may hold the beginning of the unfinished line.
    anchors: VecDeque<(u64, Position)>,
    /// The record behind the last one fed.
    next: Position,
}

/// More anchors than that and every second one goes: a resume may begin somewhat early.
const ANCHORS_MAX: usize = 1024;

impl Place {
    fn begin(resume: &Resume) -> Result<Place> {
        let state: SplitterState = if resume.splitter.is_empty() {
            SplitterState::default()
        } else {
            serde_json::from_slice(&resume.splitter).map_err(|error| {
                let message = "the journal holds a splitter state that cannot be read";
                Error::new(ErrorKind::Disk, message).cause(error)
            })?
        };
        let fed = state.resume_offset;
        Ok(Place { state, fed, anchors: VecDeque::new(), next: resume.position })
    }

    /// Notes that a record was fed, whose first `skipped` bytes had been before, and that it
    /// brought the splitter to `state`.
    pub(super) fn advance(
        &mut self,
        (position, next): (Position, Position),
        (skipped, bytes): (u64, u64),
        state: SplitterState,
    ) {
        if self.anchors.len() >= ANCHORS_MAX {
            let mut at = 0;
            self.anchors.retain(|_| {
                at += 1;
                at % 2 == 1
            });
        }
        if bytes > 0 {
            self.anchors.push_back((self.fed - skipped, position));
        }
        self.fed += bytes;
        self.next = next;
        self.state = state;
        while self.anchors.get(1).is_some_and(|(offset, _)| *offset <= state.resume_offset) {
            self.anchors.pop_front();
        }
        if state.unfinished_bytes == 0 {
            self.anchors.clear();
        }
    }

    /// Bytes of the records that the unfinished line keeps.
    pub(super) fn line_record_bytes(&self) -> u64 {
        self.anchors.front().map_or(0, |(_, position)| self.next.0 - position.0)
    }

    fn resume(&self) -> Resume {
        if crash::is_mutant("forget_open_line") {
            return Resume::at(self.next);
        }
        let (position, skip) = match self.anchors.front() {
            Some((offset, position)) => {
                (*position, self.state.resume_offset.saturating_sub(*offset))
            }
            None => (self.next, 0),
        };
        let splitter = serde_json::to_vec(&self.state).unwrap_or_default();
        Resume { position, skip: skip as u32, splitter }
    }
}

impl Shared {
    /// The epoch that the lines of the next record belong to.
    fn epoch(&self) -> Epoch {
        self.ahead.front().map_or(self.open, |(epoch, _)| *epoch)
    }

    /// The next border that the feeder will meet.
    pub(super) fn next_border(&self) -> Option<(Epoch, Option<SourceOffset>)> {
        self.ahead.front().copied()
    }

    /// Hands a block over, unless it belongs to an epoch that is committed.
    pub(super) fn push(&self, block: Option<Block>) {
        let epoch = self.epoch();
        if let Some(block) = block.filter(|_| !self.committed.contains(&epoch)) {
            self.feed.push(epoch, block);
        }
    }

    /// Appends bytes as they were read, where there is a journal for them.
    pub(super) fn append(&mut self, connection: u64, bytes: &[u8]) -> Result<Taken> {
        let Some(journal) = self.journal.as_mut().filter(|_| !self.is_file) else {
            return Ok(Taken::At(Position(0), Position(0)));
        };
        taken(journal.append_data(connection, bytes)?)
    }

    /// Appends that the unfinished line is cut here.
    pub(super) fn append_line_cut(&mut self, connection: u64) -> Result<Taken> {
        let Some(journal) = self.journal.as_mut().filter(|_| !self.is_file) else {
            return Ok(Taken::At(Position(0), Position(0)));
        };
        taken(journal.append_line_cut(connection)?)
    }

    pub(super) fn append_end(&mut self, connection: u64, end: StreamEnd) -> Result<Taken> {
        let kind = match end {
            StreamEnd::Fin => EosKind::Fin,
            StreamEnd::Stop => EosKind::Stop,
            StreamEnd::Crash => EosKind::Crash,
            StreamEnd::Reset => EosKind::Reset,
        };
        let Some(journal) = self.journal.as_mut().filter(|_| !self.is_file) else {
            return Ok(Taken::At(Position(0), Position(0)));
        };
        taken(journal.append_eos(connection, kind)?)
    }

    /// Reads the records from where the feeder is.
    pub(super) fn reader(&self) -> Option<Reader> {
        self.journal.as_ref().map(|journal| journal.reader(self.place.next))
    }

    /// The feeder has come to the next border; returns its epoch.
    pub(super) fn pass(&mut self) -> Option<Epoch> {
        let (epoch, _) = self.ahead.pop_front()?;
        let resume = self.resume();
        self.borders += 1;
        if let Some(journal) = &mut self.journal {
            journal.refine_mark(epoch, &resume);
        }
        self.passed = Some((epoch, resume));
        Some(epoch)
    }

    /// Where a replay from here begins. The lines of a file do not stand in the journal.
    fn resume(&self) -> Resume {
        let resume = self.place.resume();
        if self.is_file {
            Resume { position: Position(u64::MAX), skip: 0, ..resume }
        } else {
            resume
        }
    }

    /// Notes how far the file was read.
    pub(super) fn set_file_offset(&mut self, offset: u64) {
        if let Some((_, at)) = &mut self.file {
            *at = offset;
        }
    }

    fn note_done(&mut self) -> Result<()> {
        let (Some(journal), Some(wanted), Some((passed, _))) =
            (&mut self.journal, self.to_note, &self.passed)
        else {
            return Ok(());
        };
        // What a mark says about its resume is exact only once the feeder has passed it.
        journal.append_done(wanted.min(*passed)).map(drop)
    }
}

/// The result of an append.
pub(super) enum Taken {
    /// The record stands here, the next one there.
    At(Position, Position),
    /// It does not stand anywhere.
    Full(Full),
}

fn taken(appended: Append) -> Result<Taken> {
    Ok(match appended {
        Append::Stored { position, end } => Taken::At(position, end),
        Append::Full(full) => Taken::Full(full),
    })
}

impl Track {
    /// A track whose open epoch is `open`.
    ///
    /// # Errors
    /// `Disk` if the past cannot be read.
    pub fn new(
        journal: Option<Journal>,
        past: Past,
        open: Epoch,
        feed: Feed,
        watcher: Arc<dyn Watcher>,
    ) -> Result<Track> {
        let place = Place::begin(&past.resume)?;
        let file_known = past.borders.iter().rev().find_map(|(_, at)| *at).or(past.file);
        let tail = journal.as_ref().map_or(Position(0), Journal::tail);
        let at_tail = past.borders.is_empty()
            && (journal.is_none() || past.is_file || past.resume.position == tail);
        let shared = Shared {
            journal,
            feed,
            open,
            ahead: past.borders.into(),
            committed: past.committed,
            at_tail,
            place,
            begin_skip: past.resume.skip,
            passed: None,
            to_note: None,
            borders: 0,
            is_replay: past.is_replay,
            is_file: past.is_file,
            file: None,
            file_has_ended: false,
            file_known,
        };
        Ok(Track { shared: Arc::new(Mutex::new(shared)), watcher })
    }

    /// Ends `epoch` where the reader is and opens `next`; whether the feeder has passed the border.
    ///
    /// # Errors
    /// `Disk` if the journal cannot take the mark.
    pub fn cut(&self, epoch: Epoch, next: Epoch) -> Result<bool> {
        let mut guard = self.lock();
        let shared = &mut *guard;
        let source = shared.cut_of_file()?;
        let mut resume = match &shared.passed {
            // Behind, this is only a lower bound; passing the border makes it exact.
            Some((_, resume)) if !shared.at_tail => resume.clone(),
            None if !shared.at_tail => Resume::at(Position(0)),
            _ => shared.resume(),
        };
        let late = crash::is_mutant("publish_before_mark");
        if let Some(journal) = shared.journal.as_mut().filter(|_| !late) {
            let cut = journal.tail();
            resume.position = resume.position.min(cut);
            let mark = Mark { epoch, next_epoch: next, cut, resume, source };
            if let Append::Full(_) = journal.append_mark(&mark)? {
                return Err(Error::new(
                    ErrorKind::Disk,
                    "the journal has no room for the end of an epoch",
                )
                .hint("free disk space or raise --journal-max"));
            }
        }
        shared.open = next;
        shared.ahead.push_back((epoch, source));
        if shared.at_tail {
            shared.pass();
            if let Some(journal) = &shared.journal {
                shared.place.next = journal.tail();
            }
        }
        Ok(guard.at_tail)
    }

    /// Begins to read a file where the feeder is; what it must be known by, if it was read before.
    pub(super) fn begin_file(&self, file: &Arc<File>) -> Option<SourceOffset> {
        let mut shared = self.lock();
        let offset = shared.place.state.resume_offset;
        let known = shared.file_known;
        let begun = known.filter(|_| shared.ahead.is_empty()).map_or(offset, |known| known.offset);
        shared.file = Some((Arc::clone(file), begun));
        known
    }

    /// How far a file was read.
    pub(super) fn file_offset(&self) -> u64 {
        self.lock().file.as_ref().map_or(0, |(_, offset)| *offset)
    }

    /// Closes a file that was read to its end; later cuts record that end.
    pub(super) fn close_file(&self) -> Result<()> {
        let mut shared = self.lock();
        shared.file_known = shared.cut_of_file()?;
        shared.file = None;
        shared.file_has_ended = true;
        Ok(())
    }

    /// Returns true if nothing more can come from the source, as of a file that was read to its
    /// end.
    pub fn has_ended(&self) -> bool {
        let shared = self.lock();
        !shared.is_file || shared.file_has_ended
    }

    /// Returns true if lines that are not committed can be read again.
    pub(super) fn is_kept(&self) -> bool {
        self.lock().journal.is_some()
    }

    /// Notes that `epoch` and all before it are committed.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub fn committed(&self, epoch: Epoch) -> Result<()> {
        let mut shared = self.lock();
        if crash::is_mutant("publish_before_mark")
            && let Some(journal) = &mut shared.journal
        {
            crash_point("border.before_late_mark");
            let cut = journal.tail();
            let (resume, next_epoch) = (Resume::at(cut), epoch + 1);
            let mark = Mark { epoch, next_epoch, cut, resume, source: None };
            journal.append_mark(&mark).map(drop)?;
        }
        if shared.is_replay {
            return Ok(());
        }
        shared.to_note = shared.to_note.max(Some(epoch));
        shared.note_done()
    }

    /// States in the journal how far it is on disk, if that is farther than any record says;
    /// returns whether it appended that.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub fn state_synced(&self) -> Result<bool> {
        match &mut self.lock().journal {
            Some(journal) => journal.state_synced(),
            None => Ok(false),
        }
    }

    /// The handle that makes the journal durable, where there is one.
    pub fn syncer(&self) -> Option<Syncer> {
        self.lock().journal.as_ref().map(Journal::syncer)
    }

    /// Returns a function that returns the bytes held and the bytes not synced of the journal,
    /// where there is one.
    pub fn gauge(&self) -> Option<impl Fn() -> (u64, u64) + Send + use<>> {
        self.lock().journal.as_ref().map(Journal::gauge)
    }

    /// The handle that waits for room in the journal, where bytes go into one.
    pub(super) fn room(&self) -> Option<Room> {
        let shared = self.lock();
        shared.journal.as_ref().filter(|_| !shared.is_file).map(Journal::room)
    }

    /// Everyone who is told what happens here.
    pub(super) fn watcher(&self) -> &dyn Watcher {
        &*self.watcher
    }

    /// Returns the state that the splitter begins with.
    pub(super) fn splitter_state(&self) -> SplitterState {
        self.lock().place.state
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic ends the job; what the lock guards is whole between records.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// How far the file is read for the epoch that ends now: while recorded borders lie ahead, to
    /// the last of them, since nothing behind it was taken yet.
    fn cut_of_file(&self) -> Result<Option<SourceOffset>> {
        let Some((file, offset)) = self.file.as_ref().filter(|_| self.journal.is_some()) else {
            return Ok(self.file_known);
        };
        if let Some((_, Some(recorded))) = self.ahead.back() {
            return Ok(Some(*recorded));
        }
        let read = offset & !SourceOffset::ENDED;
        let fingerprint = Fingerprint::of(file, read).map_err(|error| {
            Error::new(ErrorKind::Disk, format!("cannot read a file again: {error}")).cause(error)
        })?;
        Ok(fingerprint.map(|print| SourceOffset { offset: *offset, fingerprint: print.0 }))
    }
}

impl fmt::Debug for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.lock();
        f.debug_struct("Track")
            .field("open", &shared.open)
            .field("ahead", &shared.ahead.len())
            .field("at_tail", &shared.at_tail)
            .finish_non_exhaustive()
    }
}
