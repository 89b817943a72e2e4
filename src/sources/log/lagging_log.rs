//! A log that lags: records come back from the journal, as the workers have room for them.
//!
//! While the workers have no room, a source appends to its journal and its splitters stand still.
//! From then on all lines come from the journal, in the order of its records, until the reader is
//! at the tail: only then may bytes go to a splitter directly again. The log of a former run begins
//! in the same way, at the position of the last commit.

use super::SourceLog;
use crate::error::Result;
use crate::journal::{ALL_CONNECTIONS, LASTING, NEXT_CONNECTION, Position, Reader, Record};
use crate::lines::LineSplitter;

/// Most bytes brought back in one step, so that the source gets its turn to read.
const STEP_BYTES: u64 = 512 << 10;

/// Where a log that lags reads its own records.
#[derive(Debug)]
pub struct Lagging {
    /// Reads the records that the workers do not have yet.
    reader: Reader,
    /// Bytes of the next record that its splitter has already.
    fed: usize,
    /// The connection that the next record waits for room for.
    pub waits: Option<u64>,
}

impl Lagging {
    /// Records come back from where `reader` is.
    pub fn from(reader: Reader) -> Lagging {
        Lagging { reader, fed: 0, waits: None }
    }

    /// The position of the record that comes back next.
    pub fn position(&self) -> Position {
        self.reader.position()
    }
}

/// The result of bringing one record back.
enum Returned {
    /// It had so many bytes.
    Bytes(u64),
    /// There is no room for all of it.
    Waits(u64),
}

impl SourceLog {
    /// Brings records back while there is room for blocks.
    ///
    /// Fails with `Disk` if a record cannot be read back.
    pub fn bring_back(&mut self) -> Result<()> {
        let Some(mut lagging) = self.lagging.take() else { return Ok(()) };
        // A permit stays if no task waits now, so none is missed.
        self.came_back.notify_one();
        let mut bytes = 0;
        lagging.waits = None;
        while bytes < STEP_BYTES {
            let at = lagging.reader.position();
            let Some(entry) = lagging.reader.next()? else {
                // No other task appends: this is the tail.
                self.reports.report();
                if self.aside_pending > 0 {
                    // These bytes come next, once the journal has room for their record.
                    self.lagging = Some(lagging);
                    return Ok(());
                }
                self.end_replay()?;
                return self.bound_lines(0);
            };
            let (position, end) = (entry.position, entry.end);
            let place = (position, end);
            match self.bring_back_record(place, &entry.record, &mut lagging.fed)? {
                Returned::Bytes(count) => {
                    bytes += count;
                    self.replayed(end, count);
                }
                Returned::Waits(connection) => {
                    lagging.reader.seek(at);
                    lagging.waits = Some(connection);
                    break;
                }
            }
            self.split = self.split.max(end);
        }
        self.lagging = Some(lagging);
        self.reports.report();
        Ok(())
    }

    /// Passes the end of the epoch that a crash left open in a kept journal: no record states it.
    ///
    /// Fails with `Disk` if it cannot be passed.
    fn end_replay(&mut self) -> Result<()> {
        while self.epochs.is_replay() && self.epochs.next_end().is_some() {
            self.pass()?;
        }
        Ok(())
    }

    /// Notes in the figures that a kept journal was read up to `end`: it is the source there.
    fn replayed(&self, end: Position, bytes: u64) {
        if let Some(from) = self.replayed_from {
            self.meter.bytes.add(bytes);
            self.meter.reached(end.0.saturating_sub(from.0));
        }
    }

    /// Splits one record as it was split, or would have been, when it was appended. `fed` has the
    /// bytes of it that its splitter has already.
    ///
    /// Fails with `Disk` if the end of an epoch in it cannot be passed.
    fn bring_back_record(
        &mut self,
        (position, end): (Position, Position),
        record: &Record<'_>,
        fed: &mut usize,
    ) -> Result<Returned> {
        // Of what a former run has split, only the bytes of open lines are needed again.
        let is_split = position < self.split_before;
        let returned = Returned::Bytes(0);
        match *record {
            Record::Data { connection, bytes } => {
                return Ok(self.bring_back_data((position, end), (connection, bytes), fed));
            }
            Record::Repeat { connection, offset, bytes } => {
                let Some(known) = self.connections.get(&connection) else { return Ok(returned) };
                let begin = known.begin.filter(|_| known.unfinished > 0);
                let skip = begin.filter(|(at, _)| *at == position).map_or(0, |(_, skip)| skip);
                let follows = offset + skip == known.fed;
                if begin.is_some_and(|(at, _)| at <= position) && follows {
                    let data = (connection, bytes);
                    return Ok(self.bring_back_data((position, end), data, fed));
                }
            }
            _ if is_split => {}
            Record::StreamEnd { connection, kind } => {
                self.split_through(Some(end), 0);
                if connection == ALL_CONNECTIONS {
                    let all = self.connections.keys().copied();
                    let ending: Vec<u64> = all.filter(|id| id & LASTING == 0).collect();
                    ending.into_iter().for_each(|id| self.end_split(id, kind));
                } else {
                    self.adopt(connection);
                    self.end_split(connection, kind);
                }
            }
            Record::LineCut { connection } => {
                self.adopt(connection);
                self.cut_split_line(connection);
                self.split = end;
                self.bound_held_lines(connection);
            }
            Record::EpochEnd { end: ref epoch_end, .. } => {
                let epoch = epoch_end.epoch;
                if self.epochs.next_end().is_some_and(|(next, _)| next == epoch) {
                    self.split = self.split.max(position);
                    self.pass()?;
                }
            }
            Record::Producer { connection, name } => self.producers.split(name, connection),
            Record::Synced { .. } | Record::Committed { .. } => {}
        }
        Ok(returned)
    }

    /// Splits the bytes of a record, unless they were split before. Of a record that a former run
    /// has split, the bytes of an unfinished line are fed again.
    fn bring_back_data(
        &mut self,
        (position, end): (Position, Position),
        (id, bytes): (u64, &[u8]),
        fed: &mut usize,
    ) -> Returned {
        let is_split = position < self.split_before;
        self.adopt(id);
        let begin = self.connections.get(&id).and_then(|known| known.begin);
        match begin {
            Some((first, _)) if position < first => return Returned::Bytes(0),
            None if is_split => return Returned::Bytes(0),
            _ => {}
        }
        let connection = self.connection(id);
        let skip = begin.filter(|(first, _)| *first == position).map_or(0, |(_, skip)| skip);
        let skipped = skip.min(bytes.len() as u64);
        let fresh = &bytes[skipped as usize..];
        if !feed(fresh, fed, &mut connection.splitter) {
            return Returned::Waits(id);
        }
        let count = fresh.len() as u64;
        let block = connection.take(Some(position), (skipped, count));
        if !is_split {
            self.split_through(Some(end), bytes.len() as u64);
        }
        self.push(block);
        if !is_split {
            self.bound_held_lines(id);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            self.reports.discarded(connection);
        }
        Returned::Bytes(count)
    }

    /// Gives the state of a version that did not name connections to the first that has a record.
    fn adopt(&mut self, id: u64) {
        if id & LASTING == 0
            && let Some(resumed) = self.connections.remove(&NEXT_CONNECTION)
        {
            self.connections.insert(id, resumed);
        }
    }
}

/// Feeds what is left of a record, of which `fed` bytes were fed before; false if there is no room.
fn feed(bytes: &[u8], fed: &mut usize, splitter: &mut LineSplitter) -> bool {
    while *fed < bytes.len() {
        if !splitter.try_ready() {
            return false;
        }
        let left = &bytes[*fed..];
        let spare = splitter.spare();
        let now = left.len().min(spare.len());
        spare[..now].copy_from_slice(&left[..now]);
        splitter.filled(now);
        *fed += now;
    }
    *fed = 0;
    true
}
