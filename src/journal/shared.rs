//! What the writer, the syncer and the readers of one journal share: which segments there are, how
//! far they are written and synced, and where those wait who found the journal full.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::disk::{self, Disk, File};
use super::record::{Done, Mark};
use super::segment;
use super::{Full, FullCause, JournalSettings, SEGMENTS_MIN, SyncPolicy, Ticket};
use crate::crash::crash_point;
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) seed: u32,
    pub(super) settings: JournalSettings,
    /// End of the last whole record. Stored after the bytes are written: readers go up to here.
    pub(super) appended: AtomicU64,
    /// Everything before is on disk.
    pub(super) synced: AtomicU64,
    pub(super) ledger: Mutex<Ledger>,
    /// Held during a sync, so that those who come meanwhile wait for it and find their bytes
    /// covered.
    pub(super) syncing: Mutex<()>,
    pub(super) room: Gate,
    /// The disk error that ended this journal.
    poison: OnceLock<String>,
}

/// One segment file.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) base: u64,
    /// Length of the file.
    pub(super) bytes: u64,
    /// Open while it has bytes that are not synced; readers open it by name else, so that a large
    /// cap or a kept journal does not hold thousands of files open.
    pub(super) file: Option<Arc<dyn File>>,
}

/// Spares that are kept of segments which are done with, however little is read. Files are used
/// again since making and removing them costs a disk more than filling them.
pub(super) const SPARES_MIN: usize = (SEGMENTS_MIN / 2) as usize;

/// A file of the length of a segment, all zeros, which is none yet.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) file: Arc<dyn File>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// In order; the last one is written to.
    pub(super) segments: VecDeque<Segment>,
    /// How many segments at the front are kept though all in them is done (`--keep-journal`).
    pub(super) kept: usize,
    /// At least one at rest, so that a MARK can always be written; two while a roll is under way.
    pub(super) spares: Vec<Spare>,
    pub(super) next_spare: u64,
    /// Names of spares of a former run, which may hold anything still.
    pub(super) unemptied: Vec<String>,
    /// How many of them are just being emptied.
    pub(super) emptying: usize,
    /// Segments that the last commit released: the next epoch will need as many.
    pub(super) released_last: usize,
    /// Names were made or removed since the folder was last synced.
    pub(super) names_changed: bool,
    /// The last attempt to grow met a full disk.
    pub(super) disk_full: bool,
    /// Marks that are not done, in order.
    pub(super) marks: VecDeque<Mark>,
    /// The newest DONE and the end of its record.
    pub(super) done: Option<(Done, u64)>,
}

impl Ledger {
    /// Bytes on disk that count against the cap.
    pub(super) fn bytes_held(&self, settings: &JournalSettings) -> u64 {
        let live: u64 = self.segments.iter().skip(self.kept).map(|s| s.bytes).sum();
        live + (self.spares.len() + self.spares_to_be()) as u64 * settings.segment_bytes()
    }

    /// Files that become spares when they are emptied.
    fn spares_to_be(&self) -> usize {
        self.unemptied.len() + self.emptying
    }

    /// Whether one more file is kept to be used again: beside the reserve, as many as the next
    /// epoch is likely to fill, which is one more than the last if it begins later in its file.
    pub(super) fn wants_spare(&self) -> bool {
        self.spares.len() < (2 + self.released_last).max(SPARES_MIN)
    }

    /// The live segments that lie wholly before `position`.
    pub(super) fn below(&self, position: u64) -> impl Iterator<Item = &Segment> {
        let live = self.segments.iter().skip(self.kept);
        let next = self.segments.iter().skip(self.kept + 1);
        live.zip(next).take_while(move |(_, next)| next.base <= position).map(|(live, _)| live)
    }

    /// A name for one more spare. A number is used once.
    pub(super) fn name_spare(&mut self) -> String {
        let name = segment::spare_name(self.next_spare);
        self.next_spare += 1;
        name
    }

    /// The segments with bytes from `from` on and before `to`.
    pub(super) fn between(&self, from: u64, to: u64) -> Vec<Segment> {
        let ends = self.segments.iter().skip(1).map(|s| s.base).chain([u64::MAX]);
        (self.segments.iter().zip(ends))
            .filter(|(segment, end)| *end > from && segment.base < to)
            .map(|(segment, _)| segment.clone())
            .collect()
    }

    /// The segment that holds `position`, and where the next one begins.
    pub(super) fn segment_at(&self, position: u64) -> Option<(Segment, Option<u64>)> {
        let behind = self.segments.partition_point(|s| s.base <= position);
        let at = behind.checked_sub(1)?;
        let next = self.segments.get(behind).map(|s| s.base);
        Some((self.segments[at].clone(), next))
    }
}

impl Shared {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        seed: u32,
        settings: JournalSettings,
        (appended, synced): (u64, u64),
        ledger: Ledger,
    ) -> Shared {
        Shared {
            disk,
            seed,
            settings,
            appended: AtomicU64::new(appended),
            synced: AtomicU64::new(synced),
            ledger: Mutex::new(ledger),
            syncing: Mutex::new(()),
            room: Gate::default(),
            poison: OnceLock::new(),
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends this journal for good: whoever comes later gets the same error.
    pub(super) fn poison(&self, doing: &str, name: &str, cause: io::Error) -> Error {
        let message = format!("{doing} {} failed: {cause}", self.disk.place(name));
        // A second error changes nothing: the first one names the cause.
        self.poison.get_or_init(|| message.clone());
        self.room.wake_all();
        disk_error(message, cause)
    }

    pub(super) fn check_poison(&self) -> Result<()> {
        match self.poison.get() {
            None => Ok(()),
            Some(first) => Err(Error::new(
                ErrorKind::Disk,
                format!("the journal is closed after a disk error: {first}"),
            )),
        }
    }

    /// Has `wanted` spares at hand if cap and disk allow it, and says what does not.
    pub(super) fn stock(&self, ledger: &mut Ledger, wanted: usize) -> Result<Option<FullCause>> {
        while ledger.spares.len() < wanted {
            let bytes = self.settings.segment_bytes();
            if let Some(name) = ledger.unemptied.pop() {
                ledger.spares.extend(self.emptied(name)?);
                ledger.names_changed = true;
                continue;
            }
            if ledger.bytes_held(&self.settings) + bytes > self.settings.journal_bytes_max {
                ledger.disk_full = false;
                return Ok(Some(FullCause::Cap));
            }
            let name = ledger.name_spare();
            match self.disk.create(&name, bytes) {
                Ok(file) => {
                    ledger.spares.push(Spare { name, file });
                    ledger.names_changed = true;
                    crash_point("journal.spare");
                }
                Err(error) if disk::is_full(&error) => {
                    ledger.disk_full = true;
                    return Ok(Some(FullCause::Disk));
                }
                Err(error) => return Err(self.poison("making", &name, error)),
            }
        }
        ledger.disk_full = false;
        Ok(None)
    }

    /// The file of that name, which a former run left, as a spare; `None` if it is of no use.
    pub(super) fn emptied(&self, name: String) -> Result<Option<Spare>> {
        let file = disk::emptied_durably(&*self.disk, &name, self.settings.segment_bytes());
        let file = file.map_err(|error| self.poison("emptying", &name, error))?;
        Ok(file.map(|file| Spare { name, file }))
    }

    /// Bytes of records with DATA that still fit.
    pub(super) fn bytes_free(&self) -> u64 {
        let ledger = self.ledger();
        let (Some(active), false) = (ledger.segments.back(), ledger.spares.is_empty()) else {
            return 0;
        };
        let end = active.base + active.bytes - segment::HEADER;
        let here = end.saturating_sub(self.appended.load(Ordering::Acquire));
        if ledger.disk_full {
            return here;
        }
        let bytes = self.settings.segment_bytes();
        let held = ledger.bytes_held(&self.settings);
        let more = self.settings.journal_bytes_max.saturating_sub(held) / bytes;
        // A spare that is more than the one in reserve may be filled too.
        let more = more + (ledger.spares.len() + ledger.spares_to_be()) as u64 - 1;
        here + more * (bytes - segment::HEADER)
    }
}

/// An error of the disk with its cause.
pub(super) fn disk_error(message: String, cause: io::Error) -> Error {
    Error::new(ErrorKind::Disk, message).cause(cause)
}

/// Where a full journal's readers wait, in a thread or in a task.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    woken: Condvar,
    notify: Notify,
}

#[derive(Debug, Default)]
struct GateState {
    /// Counts the times that room came.
    generation: u64,
    released: bool,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be taken *before* looking for room, so that room that comes in between is not missed.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.state().generation)
    }

    pub(super) fn full(&self, ticket: Ticket, cause: FullCause) -> Full {
        Full { cause, ticket }
    }

    pub(super) fn wake_all(&self) {
        self.state().generation += 1;
        self.woken.notify_all();
        self.notify.notify_waiters();
    }

    fn release(&self) {
        self.state().released = true;
        self.wake_all();
    }

    /// `None` while there is nothing new; else whether to go on.
    fn answer(&self, ticket: Ticket) -> Option<bool> {
        let state = self.state();
        (state.released || state.generation > ticket.0).then_some(!state.released)
    }
}

/// Tells how much room is left and waits for more: an event, no polling.
#[derive(Clone, Debug)]
pub struct Room {
    pub(super) shared: Arc<Shared>,
}

impl Room {
    /// Bytes of records with DATA that fit before the journal is full.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes_free()
    }

    /// Whether every append waits for the disk.
    pub fn syncs_always(&self) -> bool {
        self.shared.settings.sync == SyncPolicy::Always
    }

    /// Whether DATA of `bytes` bytes would find the journal full, to be asked before reading what
    /// could then not be kept.
    pub fn look(&self, bytes: u64) -> Option<Full> {
        let ticket = self.shared.room.ticket();
        if self.shared.bytes_free() >= bytes {
            return None;
        }
        let full = if self.shared.ledger().disk_full { FullCause::Disk } else { FullCause::Cap };
        Some(self.shared.room.full(ticket, full))
    }

    /// Blocks until something changed since the append that answered `full`: room came, or the
    /// journal failed (the next append says so). `false` after [`release`](Room::release).
    #[must_use]
    pub fn wait(&self, full: &Full) -> bool {
        let gate = &self.shared.room;
        let mut state = gate.state();
        while !state.released && state.generation <= full.ticket.0 {
            state = gate.woken.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.released
    }

    /// As [`wait`](Room::wait), for a task.
    pub async fn wait_async(&self, full: &Full) -> bool {
        let gate = &self.shared.room;
        loop {
            // Made before the look: it hears every call from its making on.
            let notified = gate.notify.notified();
            if let Some(go_on) = gate.answer(full.ticket) {
                return go_on;
            }
            notified.await;
        }
    }

    /// Lets everyone go who waits or will wait: the program stops.
    pub fn release(&self) {
        self.shared.room.release();
    }
}
