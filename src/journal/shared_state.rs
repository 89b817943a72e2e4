//! The state that the writer, the syncer and the readers of one journal share: the segments, how
//! far they are written and synced, and the gate at which callers wait while the journal is full.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use super::disk::{self, Disk, File};
use super::disk_budget::{Account, Budget};
use super::record::{CommitNote, EpochEnd};
use super::segment;
use super::wait_for_room::Gate;
use super::{Full, FullCause, JournalSettings, SEGMENTS_MIN, SyncPolicy};
use crate::crash_points::crash_point;
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug)]
pub struct JournalShared {
    /// The folder of the journal.
    pub disk: Arc<dyn Disk>,
    /// The id that names the journal.
    pub id: u128,
    /// The seed of its checksums, which follows from the id.
    pub seed: u32,
    /// The limits, and when the log is synced.
    pub settings: JournalSettings,
    /// The bytes that the journals of the process may hold.
    pub budget: Budget,
    /// End of the last whole record. Stored after the bytes are written: readers go up to here.
    pub appended: AtomicU64,
    /// Everything before is on disk.
    pub synced: AtomicU64,
    /// The files of the journal. Locked for short whiles, never across a sync.
    pub ledger: Mutex<JournalFiles>,
    /// Held during a sync, so that later callers wait for it and find their bytes
    /// covered.
    pub syncing: Mutex<()>,
    /// How far the log is on disk, for those that wait for it.
    pub durable: watch::Sender<u64>,
    /// Bytes before this have left the page cache.
    pub uncached: AtomicU64,
    /// Number of readers that are not done.
    pub readers: AtomicUsize,
    /// The disk error that ended this journal.
    poison: OnceLock<String>,
}

/// One segment file.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The position of its first byte in the log.
    pub base: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Open while it has bytes that are not synced; readers open it by name else, so that a large
    /// cap or a kept journal does not hold thousands of files open.
    pub file: Option<Arc<dyn File>>,
}

/// Spares that are kept of segments which are done with, however little is read. Files are used
/// again since making and removing them costs a disk more than filling them.
const SPARES_MIN: usize = (SEGMENTS_MIN / 2 - 1) as usize;

/// A file of zeros that is no segment yet.
#[derive(Debug)]
pub struct Spare {
    /// The name of the file.
    pub name: String,
    /// The length for which it is preallocated.
    pub bytes: u64,
    /// The open file.
    pub file: Arc<dyn File>,
}

/// A spare of a former run, which may hold anything still.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// The name of the file.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// The files of one journal.
#[derive(Debug)]
pub struct JournalFiles {
    /// In order; the last one is written to.
    pub segments: VecDeque<Segment>,
    /// How many segments at the front are kept though all in them is done (`--keep-journal`).
    pub kept: usize,
    /// A short file for the records that must always be written: ends of epochs and of connections.
    pub reserve: Option<Spare>,
    /// Empty segments that can be used at once.
    pub spares: Vec<Spare>,
    /// The number of the next spare.
    pub next_spare: u64,
    /// Files that are of no use and take room.
    pub leftovers: Vec<Leftover>,
    /// Bytes of the leftover that is just being emptied.
    pub emptying: u64,
    /// Length of the next segment file: they grow, so that a quiet source takes little.
    pub next_bytes: u64,
    /// Segments that the last commit released: the next epoch will need as many.
    pub released_last: usize,
    /// Names were made or removed since the folder was last synced.
    pub names_changed: bool,
    /// The last attempt to grow met a full disk.
    pub disk_full: bool,
    /// Ends of epochs that are not known to be committed, in order.
    pub epoch_ends: VecDeque<EpochEnd>,
    /// The newest Committed and the end of its record.
    pub committed: Option<(CommitNote, u64)>,
    /// The bytes that all files are counted with.
    pub account: Account,
}

impl JournalFiles {
    /// A journal without files.
    pub fn new(budget: &Budget) -> JournalFiles {
        JournalFiles {
            segments: VecDeque::new(),
            kept: 0,
            reserve: None,
            spares: Vec::new(),
            next_spare: 0,
            leftovers: Vec::new(),
            emptying: 0,
            next_bytes: budget.segment_bytes_min(),
            released_last: 0,
            names_changed: false,
            disk_full: false,
            epoch_ends: VecDeque::new(),
            committed: None,
            account: budget.account(),
        }
    }

    /// Bytes on disk that count against the limit.
    pub fn bytes_held(&self) -> u64 {
        let live: u64 = self.segments.iter().skip(self.kept).map(|s| s.bytes).sum();
        let spares: u64 = self.spares.iter().chain(&self.reserve).map(|spare| spare.bytes).sum();
        let leftovers: u64 = self.leftovers.iter().map(|leftover| leftover.bytes).sum();
        live + spares + leftovers + self.emptying
    }

    /// Passes the bytes that the journal holds now to the budget.
    pub fn settle(&mut self) {
        let held = self.bytes_held();
        self.account.settle(held);
    }

    /// Returns true if one more file of this length is kept to be used again. As many are kept as
    /// the next epoch is likely to fill: one more than the last epoch if it begins later in its
    /// file. The short files of a journal's beginning are not kept.
    pub fn wants_spare(&self, bytes: u64) -> bool {
        bytes >= self.next_bytes && self.spares.len() < (1 + self.released_last).max(SPARES_MIN)
    }

    /// The live segments that lie wholly before `position`.
    pub fn below(&self, position: u64) -> impl Iterator<Item = &Segment> {
        let live = self.segments.iter().skip(self.kept);
        let next = self.segments.iter().skip(self.kept + 1);
        live.zip(next).take_while(move |(_, next)| next.base <= position).map(|(live, _)| live)
    }

    /// A name for one more spare. A number is used once.
    pub fn name_spare(&mut self) -> String {
        let name = segment::spare_name(self.next_spare);
        self.next_spare += 1;
        name
    }

    /// The segments with bytes from `from` on and before `to`.
    pub fn between(&self, from: u64, to: u64) -> Vec<Segment> {
        let ends = self.segments.iter().skip(1).map(|s| s.base).chain([u64::MAX]);
        (self.segments.iter().zip(ends))
            .filter(|(segment, end)| *end > from && segment.base < to)
            .map(|(segment, _)| segment.clone())
            .collect()
    }

    /// The segment that holds `position`, and where the next one begins.
    pub fn segment_at(&self, position: u64) -> Option<(Segment, Option<u64>)> {
        let behind = self.segments.partition_point(|s| s.base <= position);
        let at = behind.checked_sub(1)?;
        let next = self.segments.get(behind).map(|s| s.base);
        Some((self.segments[at].clone(), next))
    }
}

impl JournalShared {
    /// Makes the state of a journal that was recovered or begun.
    pub fn new(
        disk: Arc<dyn Disk>,
        id: u128,
        settings: JournalSettings,
        budget: Budget,
        (appended, synced): (u64, u64),
    ) -> JournalShared {
        let ledger = Mutex::new(JournalFiles::new(&budget));
        JournalShared {
            disk,
            id,
            seed: segment::Header::seed(id),
            settings,
            budget,
            appended: AtomicU64::new(appended),
            synced: AtomicU64::new(synced),
            ledger,
            syncing: Mutex::new(()),
            durable: watch::Sender::new(synced),
            uncached: AtomicU64::new(appended),
            readers: AtomicUsize::new(0),
            poison: OnceLock::new(),
        }
    }

    /// Where the writers of a full journal wait.
    pub fn room(&self) -> &Gate {
        self.budget.gate()
    }

    /// Locks the files.
    pub fn ledger(&self) -> MutexGuard<'_, JournalFiles> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends this journal for good: later callers get the same error.
    pub fn poison(&self, doing: &str, name: &str, cause: io::Error) -> Error {
        let message = format!("{doing} {} failed: {cause}", self.disk.place(name));
        // A second error changes nothing: the first one names the cause.
        self.poison.get_or_init(|| message.clone());
        self.room().wake_all();
        // Tasks that wait for the disk look at the poison, too.
        self.durable.send_modify(|_| {});
        disk_error(message, cause)
    }

    /// Fails once a sync has failed: what the disk holds is not known any more.
    pub fn check_poison(&self) -> Result<()> {
        match self.poison.get() {
            None => Ok(()),
            Some(first) => Err(Error::new(
                ErrorKind::Disk,
                format!("the journal is closed after a disk error: {first}"),
            )),
        }
    }

    /// Gets a reserve if limit and disk allow it, and returns what does not.
    pub fn stock_reserve(&self, ledger: &mut JournalFiles) -> Result<Option<FullCause>> {
        if ledger.reserve.is_none() {
            match self.make_file(ledger, self.budget.segment_bytes_min())? {
                Ok(made) => ledger.reserve = Some(made),
                // A longer file will do as well.
                Err(cause) => match self.spare_at_hand(ledger)? {
                    Some(spare) => ledger.reserve = Some(spare),
                    None => return Ok(Some(cause)),
                },
            }
        }
        Ok(None)
    }

    /// The file for the next segment: one that was used before, or a new one, which is shorter
    /// where limit or disk have no more room.
    ///
    /// Fails with `Disk` if no file can be made for another reason than a full disk.
    pub fn next_file(&self, ledger: &mut JournalFiles) -> Result<Result<Spare, FullCause>> {
        if let Some(spare) = self.spare_at_hand(ledger)? {
            ledger.disk_full = false;
            return Ok(Ok(spare));
        }
        let least = self.budget.segment_bytes_min();
        let mut bytes = ledger.next_bytes;
        loop {
            match self.make_file(ledger, bytes)? {
                Err(_) if bytes > least => bytes = (bytes / 2).max(least),
                made => return Ok(made),
            }
        }
    }

    /// Returns a spare, if need be made of a leftover.
    fn spare_at_hand(&self, ledger: &mut JournalFiles) -> Result<Option<Spare>> {
        while ledger.spares.is_empty()
            && let Some(leftover) = ledger.leftovers.pop()
        {
            ledger.spares.extend(self.emptied(leftover)?);
            ledger.names_changed = true;
            ledger.settle();
        }
        Ok(ledger.spares.pop())
    }

    /// Makes a file, whose bytes are then taken from the budget.
    pub(super) fn make_file(
        &self,
        ledger: &mut JournalFiles,
        bytes: u64,
    ) -> Result<Result<Spare, FullCause>> {
        let held = ledger.bytes_held();
        if !ledger.account.take(held, bytes) {
            ledger.disk_full = false;
            return Ok(Err(FullCause::Cap));
        }
        let name = ledger.name_spare();
        match self.disk.create(&name, bytes) {
            Ok(file) => {
                ledger.names_changed = true;
                ledger.disk_full = false;
                crash_point("journal.spare");
                Ok(Ok(Spare { name, bytes, file }))
            }
            Err(error) => {
                ledger.account.settle(held);
                if !disk::is_full(&error) {
                    return Err(self.poison("making", &name, error));
                }
                ledger.disk_full = true;
                Ok(Err(FullCause::Disk))
            }
        }
    }

    /// The file that a former run left, as a spare; `None` if it is of no use.
    pub fn emptied(&self, Leftover { name, bytes }: Leftover) -> Result<Option<Spare>> {
        let file = disk::emptied_durably(&*self.disk, &name, bytes);
        let file = file.map_err(|error| self.poison("emptying", &name, error))?;
        Ok(file.map(|file| Spare { name, bytes, file }))
    }

    /// Bytes of records with Data that still fit into the segment that is written to.
    fn free_in_segment(&self, ledger: &JournalFiles) -> u64 {
        let (Some(active), true) = (ledger.segments.back(), ledger.reserve.is_some()) else {
            return 0;
        };
        let end = active.base + active.bytes - segment::HEADER;
        end.saturating_sub(self.appended.load(Ordering::Acquire))
    }

    /// Bytes of records with Data that still fit into the files that are there.
    pub(super) fn free_at_hand(&self, ledger: &JournalFiles) -> u64 {
        let at_hand = ledger.spares.iter().map(|spare| spare.bytes);
        let at_hand = at_hand.chain(ledger.leftovers.iter().map(|leftover| leftover.bytes));
        self.free_in_segment(ledger) + at_hand.map(|bytes| bytes - segment::HEADER).sum::<u64>()
    }

    /// Bytes of records with Data that still fit, counted up to `enough`.
    pub fn bytes_free(&self, enough: u64) -> u64 {
        self.free_in(&self.ledger(), enough)
    }

    /// Counts the bytes of records with Data that still fit, up to `enough`.
    pub(super) fn free_in(&self, ledger: &JournalFiles, enough: u64) -> u64 {
        if ledger.reserve.is_none() || ledger.disk_full {
            return self.free_in_segment(ledger);
        }
        let mut free = self.free_at_hand(ledger);
        // New files, as `next_file` would make them.
        let mut left = ledger.account.left(ledger.bytes_held());
        let (least, most) = (self.budget.segment_bytes_min(), self.budget.segment_bytes_max());
        let mut bytes = ledger.next_bytes;
        while free < enough && left >= least {
            while bytes > left {
                bytes = (bytes / 2).max(least);
            }
            free += bytes - segment::HEADER;
            left -= bytes;
            bytes = (2 * bytes).min(most);
        }
        free
    }
}

/// An error of the disk with its cause.
pub fn disk_error(message: String, cause: io::Error) -> Error {
    let error = Error::new(ErrorKind::Disk, message);
    let is_full = disk::is_full(&cause);
    let error = error.cause(cause);
    if is_full {
        return error.hint("free space on the disk of --state, or give a smaller --journal-max");
    }
    error
}

/// Returns how much room is left and waits for more: an event, no polling.
#[derive(Clone, Debug)]
pub struct Room {
    /// The state of the journal.
    pub(crate) shared: Arc<JournalShared>,
}

impl Room {
    #[cfg(any(test, feature = "internals"))]
    /// Bytes of records with Data that fit before the journal is full.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes_free(u64::MAX)
    }

    /// Most bytes of one append.
    pub fn record_bytes_max(&self) -> usize {
        self.shared.settings.record_bytes_max
    }

    /// Most bytes of records that an unfinished line may keep in the journal.
    pub fn line_bytes_max(&self) -> u64 {
        self.shared.budget.line_bytes_max()
    }

    /// Returns true if room may come of an epoch that has ended: it is not known to be committed,
    /// or the segments before it are not removed yet.
    pub fn awaits_commit(&self) -> bool {
        let ledger = self.shared.ledger();
        let committed = ledger.committed.as_ref().map(|(note, _)| note.resume.position.0);
        !ledger.epoch_ends.is_empty()
            || committed.is_some_and(|position| ledger.below(position).next().is_some())
    }

    /// Returns true if every append waits for the disk.
    pub fn syncs_always(&self) -> bool {
        self.shared.settings.sync == SyncPolicy::Always
    }

    /// Returns `Full` if there is no room for Data of `bytes` bytes. Callers ask before they read
    /// bytes that could not be kept.
    pub fn look(&self, bytes: u64) -> Option<Full> {
        let ticket = self.shared.room().ticket();
        if self.shared.bytes_free(bytes) >= bytes {
            return None;
        }
        let full = if self.shared.ledger().disk_full { FullCause::Disk } else { FullCause::Cap };
        Some(self.shared.room().full(ticket, full))
    }

    /// Makes sure that Data of `bytes` bytes find room on the disk, too. Returns why they cannot.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub fn make_room(&self, bytes: u64) -> Result<Option<FullCause>> {
        self.shared.check_poison()?;
        self.shared.make_room(bytes)
    }

    #[cfg(any(test, feature = "internals"))]
    /// Blocks until something changed since the append that answered `full`: room came, or the
    /// journal failed (the next append fails). `false` after [`release`](Room::release).
    #[must_use]
    pub fn wait(&self, full: &Full) -> bool {
        let gate = self.shared.room();
        let mut state = gate.state();
        while !state.released && state.generation <= full.ticket.0 {
            state = gate.woken.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.released
    }

    /// As `wait`, for a task.
    pub async fn wait_async(&self, full: &Full) -> bool {
        let gate = self.shared.room();
        loop {
            // Made before the look: it hears every call from its making on.
            let notified = gate.notify.notified();
            if let Some(go_on) = gate.answer(full.ticket) {
                return go_on;
            }
            notified.await;
        }
    }

    #[cfg(any(test, feature = "internals"))]
    /// Lets all go that wait or will wait: the program stops.
    pub fn release(&self) {
        self.shared.room().release();
    }
}
