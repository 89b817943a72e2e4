//! The beginning of a source log: empty, or where a former run left it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::mpsc::UnboundedReceiver;

use super::SourceLog;
use super::connection::Connection;
use super::cuts_and_commits::{LogEpochs, LogEvents, LogMessage};
use super::lagging_log::Lagging;
use super::producers::Producers;
use super::replayable::Replayable;
use super::reports::Reports;
use crate::epoch::Epoch;
use crate::feed::Feed;
use crate::journal::{Journal, Position, Resume};
use crate::lines::{BlockPool, LineLimits};
use crate::meters::SourceMeter;
use crate::sources::stop_signal::Stop;

/// The state of a source that a former run left.
#[derive(Debug, Default)]
pub struct Past {
    /// Where the log is read from.
    pub resume: Resume,
    /// Ends of epochs that will be met, in order, and the positions of the source there.
    pub ends: Vec<(Epoch, Vec<u8>)>,
    /// Epochs that are committed: their lines are not handed over again.
    pub committed: BTreeSet<Epoch>,
    /// The source can be read again: its bytes do not go into the journal.
    pub is_replayable: bool,
    /// A kept journal is run again: nothing is noted in it.
    pub is_replay: bool,
    /// Least number for a new connection.
    pub next_connection: u64,
    /// The folder of the journal, where the source may keep what belongs to it.
    pub folder: Option<PathBuf>,
}

/// The parts of a source log.
pub struct LogSetup {
    /// The index of the source.
    pub source: u32,
    /// `None` without a state folder.
    pub journal: Option<Journal>,
    /// The state that a former run left.
    pub past: Past,
    /// The epoch that what is read now belongs to.
    pub open: Epoch,
    /// Where the blocks go.
    pub feed: Feed,
    /// Where events are reported.
    pub events: Arc<dyn LogEvents>,
    /// Cuts and commits.
    pub inbox: UnboundedReceiver<LogMessage>,
    /// Limits of lines and words.
    pub limits: LineLimits,
    /// The pool of the blocks.
    pub pool: BlockPool,
    /// The signal to stop reading.
    pub stop: Stop,
    /// The figures of the source.
    pub meter: Arc<SourceMeter>,
}

impl fmt::Debug for LogSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSetup").field("source", &self.source).finish_non_exhaustive()
    }
}

impl SourceLog {
    /// Makes a log that goes on where `setup` has it.
    pub fn new(setup: LogSetup) -> SourceLog {
        let LogSetup { source, journal, past, open, feed, events, inbox, limits, .. } = setup;
        let (pool, stop, meter) = (setup.pool, setup.stop, setup.meter);
        let Past { resume, ends, committed, is_replayable, is_replay, next_connection, folder } =
            past;
        let resumed = resume.connections.iter().map(|state| {
            let connection = Connection::resume(source, limits, pool.clone(), state);
            (state.connection, connection)
        });
        let connections: BTreeMap<u64, Connection> = resumed.collect();
        let held_bytes = connections.values().map(|connection| connection.held).sum();
        let room = journal.as_ref().filter(|_| !is_replayable).map(Journal::room);
        let tail = journal.as_ref().map_or(Position(0), Journal::tail);
        let lags = room.is_some() && (!ends.is_empty() || resume.position != tail);
        let reader = journal.as_ref().filter(|_| lags);
        let lagging = reader.map(|journal| Lagging::from(journal.reader(resume.position)));
        let replayable = is_replayable.then(|| Replayable::begin(&resume, &ends));
        if is_replay {
            meter.ends_after(tail.0.saturating_sub(resume.position.0));
        }
        let producers = Producers::begin(&resume.producers);
        SourceLog {
            source,
            limits,
            pool,
            feed,
            stop,
            events,
            inbox,
            journal,
            room,
            folder,
            replayable,
            epochs: LogEpochs::new(open, ends.into(), committed, is_replay),
            replayed_from: is_replay.then_some(resume.position),
            connections,
            next_connection,
            producers,
            split: resume.split,
            split_before: resume.split,
            order: resume.order,
            lagging,
            aside: Vec::new(),
            aside_pending: 0,
            unsynced: 0,
            held_bytes,
            unchecked: 0,
            reports: Reports::default(),
            came_back: Arc::default(),
            meter,
            has_ended: Arc::new(AtomicBool::new(!is_replayable)),
        }
    }

    /// Returns a function that returns the bytes held and the bytes not synced of the journal,
    /// where there is one.
    pub fn gauge(&self) -> Option<impl Fn() -> (u64, u64) + Send + use<>> {
        self.journal.as_ref().map(Journal::gauge)
    }

    /// Returns a flag that is set when nothing more can come from the source.
    pub fn has_ended(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_ended)
    }
}
