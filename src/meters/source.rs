//! The figures of one source of lines.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

use super::snapshot::{Condition, ConditionKind, SourceFigures};
use super::source_positions::EpochPositions;
use super::{Counter, Stopwatch, lock, now_ms};
use crate::epoch::Epoch;

/// The kind of the sources whose positions are in the markers.
pub const TOPIC: &str = "kafka";

/// The facts of a source that do not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceFacts {
    /// Its kind: `connect`, `file`, `stdin` and so on.
    pub kind: String,
    /// Its name among all sources of the job.
    pub name: String,
    /// Index of the process that reads it.
    pub process: usize,
    /// True if it is connected only after [`SourceMeter::connected`] is called. Other sources
    /// count as connected from the start.
    pub needs_connection: bool,
}

/// The figures of one source. A process that only counts lines of it has a meter of it, too.
#[derive(Debug)]
pub struct SourceMeter {
    /// The kind and the name of the source.
    facts: SourceFacts,
    /// Bytes read from the source in this run.
    pub bytes: Counter,
    /// Lines taken by the workers of this process.
    pub lines: Counter,
    /// Time in which the source was not read because nothing had room for its lines.
    pub blocked: Stopwatch,
    /// How much there is to read, where that is known.
    extent: Extent,
    /// True while the source is connected.
    is_connected: AtomicBool,
    /// The trouble that the source has, if any.
    trouble: Mutex<SourceTrouble>,
    /// The positions of the source, for markers.
    positions: EpochPositions,
    /// Changes when something was changed.
    changed: watch::Sender<u64>,
}

/// The size of a source that ends, and how far it was read. Both are in bytes as they are stored,
/// so of a compressed file they are not those of its text.
#[derive(Debug, Default)]
struct Extent {
    /// The size and 1, or 0 where it is not known.
    end: AtomicU64,
    reached: AtomicU64,
}

/// The present faults of a source.
#[derive(Debug, Default)]
struct SourceTrouble {
    /// The last error of a source that is not connected, and the time since when it is not.
    down: Option<(u64, String)>,
    /// The time since when its journal is full, and the detail.
    journal_full: Option<(u64, String)>,
}

impl SourceMeter {
    /// Returns the meter of a source from which nothing was read yet.
    pub fn new(
        facts: SourceFacts,
        positions: EpochPositions,
        changed: watch::Sender<u64>,
    ) -> SourceMeter {
        let is_connected = AtomicBool::new(!facts.needs_connection);
        SourceMeter {
            facts,
            bytes: Counter::default(),
            lines: Counter::default(),
            blocked: Stopwatch::default(),
            extent: Extent::default(),
            is_connected,
            trouble: Mutex::default(),
            positions,
            changed,
        }
    }

    /// Returns a meter that is not shown.
    pub fn unread() -> SourceMeter {
        let (positions, changed) = (EpochPositions::default(), watch::Sender::new(0));
        SourceMeter::new(SourceFacts::default(), positions, changed)
    }

    /// Returns the facts of the source.
    pub fn facts(&self) -> &SourceFacts {
        &self.facts
    }

    /// Notes where the source was at the end of `epoch`, if its positions belong into the marker.
    pub fn passed(&self, epoch: Epoch, positions: &[u8]) {
        if self.facts.kind == TOPIC {
            self.positions.note(epoch, &self.facts.name, positions);
        }
    }

    /// Notes that the source ends after `bytes` bytes.
    pub fn ends_after(&self, bytes: u64) {
        self.extent.end.store(bytes.saturating_add(1), Ordering::Relaxed);
    }

    /// Notes that the source was read up to `position`, by this run or by one before.
    pub fn reached(&self, position: u64) {
        self.extent.reached.store(position, Ordering::Relaxed);
    }

    /// Returns the bytes that were read of a source that ends, and the bytes that it has; `None`
    /// where its size is not known.
    pub fn extent(&self) -> Option<(u64, u64)> {
        let total = self.extent.end.load(Ordering::Relaxed).checked_sub(1)?;
        let reached = self.extent.reached.load(Ordering::Relaxed);
        Some((reached.min(total), total))
    }

    /// Notes that the source is connected, so lines can come.
    pub fn connected(&self) {
        self.is_connected.store(true, Ordering::Relaxed);
        lock(&self.trouble).down = None;
        self.touch();
    }

    /// Notes that the source is not connected although it should be, and the last error.
    pub fn disconnected(&self, error: &str) {
        self.is_connected.store(false, Ordering::Relaxed);
        let mut trouble = lock(&self.trouble);
        let since = trouble.down.as_ref().map_or_else(now_ms, |(since, _)| *since);
        trouble.down = Some((since, error.to_owned()));
        drop(trouble);
        self.touch();
    }

    /// Notes that the source has ended and is not expected to come back.
    pub fn ended(&self) {
        self.connected();
    }

    /// Notes that reading stops because the journal is full.
    pub fn journal_full(&self, detail: &str) {
        lock(&self.trouble).journal_full.get_or_insert_with(|| (now_ms(), detail.to_owned()));
        self.touch();
    }

    /// Notes that the journal has room again.
    pub fn journal_has_room(&self) {
        if lock(&self.trouble).journal_full.take().is_some() {
            self.touch();
        }
    }

    /// Returns true if lines can come, or if the source has ended as expected.
    pub fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// Returns the conditions of the source that need attention.
    pub fn conditions(&self) -> Vec<Condition> {
        let trouble = lock(&self.trouble);
        let of = |kind, (since, detail): (u64, String)| Condition::new(kind, since, detail);
        let down = trouble.down.clone().map(|down| of(ConditionKind::SourceDown, down));
        let full = trouble.journal_full.clone().map(|full| of(ConditionKind::JournalFull, full));
        down.into_iter().chain(full).collect()
    }

    /// Returns the state of the source as plain values.
    pub fn figures(&self, index: u32) -> SourceFigures {
        let SourceFacts { kind, name, process, .. } = self.facts.clone();
        let error = lock(&self.trouble).down.as_ref().map(|(_, error)| error.clone());
        SourceFigures {
            id: index,
            kind,
            name,
            process,
            connected: self.is_connected(),
            bytes: self.bytes.get(),
            lines: self.lines.get(),
            error,
        }
    }

    /// Notes that something was changed.
    fn touch(&self) {
        self.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_keeps_its_beginning_and_newest_error() {
        let facts = SourceFacts { needs_connection: true, ..SourceFacts::default() };
        let meter = SourceMeter::new(facts, EpochPositions::default(), watch::Sender::new(0));
        assert!(!meter.is_connected() && meter.conditions().is_empty(), "not tried yet");
        meter.disconnected("refused");
        let since = meter.conditions()[0].since;
        meter.disconnected("no route");
        let down = meter.conditions();
        assert_eq!((down[0].since, down[0].detail.as_str()), (since, "no route"));
        meter.connected();
        assert!(meter.is_connected() && meter.conditions().is_empty());
    }
}
