//! The operator that encodes and stores the parts of its worker.
//!
//! Rows are encoded on a thread of the runtime, one epoch after the other, so that the worker
//! counts the next epoch meanwhile. [`PendingResults`] has the newest epoch that is encoded.
//! Process 0 bounds by its own how many more may be open; while the store is away, those of another
//! process that encodes more slowly wait in its memory.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::changelog::{Changelog, NewestChange};
use super::completions::Completions;
use super::durable_epochs::{DurableEpochs, ROUND_PARTS_MAX, SyncRounds};
use super::output::{EncodedPart, EpochWriter, PartReport, PartSteps};
use crate::epoch::Epoch;
use crate::error::Result;
use crate::failure::Failure;
use crate::meters::{Meters, SourcePositions, TopKeeper, TopWords};
use crate::operators::{Context, EpochRows, Grid, Row, RowKind, Rows, Tally};
use crate::store::PendingResults;
use crate::supervise::{self, supervise};

/// The output of a job as its operators see it. Clones share it.
#[derive(Clone, Debug)]
pub struct OutputHandle {
    /// The writer of epochs.
    pub writer: Arc<dyn EpochWriter>,
    /// The results that are not stored yet.
    pub results: PendingResults,
    /// The figures of the process.
    pub meters: Meters,
    /// The epochs whose ends are on disk.
    pub durable: DurableEpochs,
    /// The epochs whose parts may be synced.
    pub rounds: SyncRounds,
    /// The runtime of the requests. Operators never block on them.
    pub runtime: Handle,
}

/// A message of one worker on the parts of one epoch. It sends both for every ticked epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PartsMessage {
    /// The parts are known. They are being stored.
    Known(Box<Report>),
    /// The parts and the changes are durable.
    Durable {
        /// The epoch.
        epoch: Epoch,
        /// Microseconds from the completion of the epoch at the worker.
        write_us: u64,
    },
}

impl PartsMessage {
    /// Returns the epoch.
    pub fn epoch(&self) -> Epoch {
        match self {
            PartsMessage::Known(report) => report.epoch,
            PartsMessage::Durable { epoch, .. } => *epoch,
        }
    }
}

/// The report of one worker on its parts of one epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The epoch.
    pub epoch: Epoch,
    /// Lines and words that the worker read and counted in it.
    pub tally: Tally,
    /// The kind of the rows.
    pub kind: RowKind,
    /// The parts of the worker that have rows.
    pub parts: Vec<PartReport>,
    /// The changes of totals and windows that the worker has stored.
    pub changes: Vec<NewestChange>,
    /// False if the epoch publishes no result, because no window ends with it.
    pub publishes: bool,
    /// The most frequent words of the worker, if they can be asked for.
    pub top: TopWords,
    /// The positions of sources of the worker's process, from the first worker that asks.
    pub positions: SourcePositions,
}

/// Stores the rows of every ticked epoch and its changes of totals and windows. Sends a [`Report`]
/// when the parts are known, and again when all of them are durable; the capability of the epoch is
/// held until then. Nothing of an epoch is stored before its end is durable.
///
/// Only ticked epochs are written. Rows at other times are dropped; an example is the retraction of
/// a window that ends at a time without an epoch.
pub fn write_parts<'s>(
    rows: Rows<'s>,
    output: OutputHandle,
    changelog: Option<Changelog>,
    failure: Failure,
) -> Stream<'s, Epoch, Vec<PartsMessage>> {
    let Rows { stream, ticks, context, grid, kind } = rows;
    let scope = stream.scope();
    stream.binary_frontier::<_, CapacityContainerBuilder<Vec<PartsMessage>>, _, _, _, _>(
        ticks,
        Pipeline,
        Pipeline,
        "Write parts",
        move |_capability, info| {
            let activator = scope.worker().sync_activator_for(info.address.to_vec());
            let mut writer = Writer {
                open: BTreeMap::new(),
                ticked: BTreeMap::new(),
                writing: BTreeMap::new(),
                completions: Completions::new(activator),
                encoded: None,
                output,
                changelog,
                failure,
                context,
                grid,
                kind,
            };
            move |(rows, rows_frontier), (ticks, ticks_frontier), output| {
                rows.for_each(|_, rows| {
                    for rows in rows.drain(..) {
                        writer.open.entry(rows.epoch).or_default().push(rows);
                    }
                });
                ticks.for_each(|capability, ticks| {
                    let Some(capability) = capability.retain_least(0) else { return };
                    for epoch in ticks.drain(..) {
                        writer.ticked.insert(epoch, capability.clone());
                    }
                });
                while let Some(first) = writer.ticked.first_entry() {
                    let epoch = *first.key();
                    if rows_frontier.less_equal(&epoch) || ticks_frontier.less_equal(&epoch) {
                        break;
                    }
                    let capability = first.remove();
                    writer.start(epoch, capability);
                }
                for message in writer.completions.take() {
                    let epoch = message.epoch();
                    let is_durable = matches!(message, PartsMessage::Durable { .. });
                    if let Some(capability) = writer.writing.get(&epoch) {
                        output.session(capability).give(message);
                    }
                    if is_durable {
                        writer.writing.remove(&epoch);
                    }
                }
            }
        },
    )
}

/// The state of the operator.
struct Writer {
    /// Rows of epochs that are not complete yet.
    open: BTreeMap<Epoch, Vec<EpochRows>>,
    /// Epochs that will be written, with the capability for their reports.
    ticked: BTreeMap<Epoch, Capability<Epoch>>,
    /// Epochs whose parts are being stored. A capability is dropped after its parts are durable.
    writing: BTreeMap<Epoch, Capability<Epoch>>,
    /// The messages on their way back to the operator.
    completions: Completions<PartsMessage>,
    /// Resolves when the last epoch that was started is encoded.
    encoded: Option<oneshot::Receiver<()>>,
    /// Where parts are written, and with what.
    output: OutputHandle,
    /// Stores the changes of totals and windows. `None` in a job without state.
    changelog: Option<Changelog>,
    /// Ends the job when a part cannot be stored.
    failure: Failure,
    /// Facts and tallies of the worker.
    context: Rc<Context>,
    /// The epochs that have a result.
    grid: Grid,
    /// Words with counts, or lines.
    kind: RowKind,
}

impl Writer {
    /// Starts to encode and to store the parts of a complete epoch.
    fn start(&mut self, epoch: Epoch, capability: Capability<Epoch>) {
        self.writing.insert(epoch, capability);
        let started = Instant::now();
        let later = self.open.split_off(&(epoch + 1));
        let rows = std::mem::replace(&mut self.open, later).remove(&epoch).unwrap_or_default();
        let encoding = EpochEncoding {
            output: self.output.clone(),
            epoch,
            rows,
            parts: self.context.settings.parts,
            threads: self.context.settings.threads,
        };
        let (is_encoded, encoded) = oneshot::channel();
        let before = self.encoded.replace(encoded);
        let tally = self.context.tallies.take(epoch);
        let (writer, completions) = (Arc::clone(&self.output.writer), self.completions.clone());
        // Another process has rounds of its own, which this one cannot begin.
        let is_alone = self.context.peers == self.context.settings.threads;
        let rounds = if is_alone { self.output.rounds.clone() } else { SyncRounds::any() };
        let (publishes, kind) = (self.grid.contains(epoch), self.kind);
        if let Some(changelog) = self.changelog.as_ref().filter(|_| publishes) {
            changelog.publishes(epoch);
        }
        let positions = self.output.meters.positions().take(epoch);
        let (durable, changes) = (self.output.durable.clone(), self.context.changes.take(epoch));
        let newest: Vec<NewestChange> = changes.iter().map(NewestChange::of).collect();
        // Here, in order of the epochs, and not when they are stored.
        let links = self.changelog.clone().map(|log| (log.link(changes), log));
        let store_changes = async move {
            match links {
                Some((changes, changelog)) => changelog.store(changes).await,
                None => Ok(()),
            }
        };
        let write = async move {
            if let Some(before) = before {
                // Resolves when the sender is dropped, also by a failure, which ends the job.
                let _ = before.await;
            }
            let (parts, top) = supervise::blocking(move || encoding.run()).await?;
            drop(is_encoded);
            durable.wait(epoch).await;
            let report = |parts| {
                let changes = newest;
                let report =
                    Report { epoch, tally, kind, parts, changes, publishes, top, positions };
                completions.complete(PartsMessage::Known(Box::new(report)));
            };
            futures::try_join!(store(&*writer, rounds, (epoch, parts), report), store_changes)?;
            let write_us = started.elapsed().as_micros() as u64;
            completions.complete(PartsMessage::Durable { epoch, write_us });
            Ok(())
        };
        supervise(&self.failure, &self.output.runtime, "write", write);
    }
}

/// The rows of an epoch that are to be encoded.
struct EpochEncoding {
    /// Where parts are written, and with what.
    output: OutputHandle,
    /// The epoch.
    epoch: Epoch,
    /// Its rows, as they came from the definition.
    rows: Vec<EpochRows>,
    /// Number of parts of a result.
    parts: u32,
    /// Number of workers of this process.
    threads: usize,
}

impl EpochEncoding {
    /// Returns the parts with rows, and the most frequent words if they can be asked for. It
    /// blocks.
    fn run(self) -> Result<(Vec<EncodedPart>, TopWords)> {
        let parts = self.output.writer.encode(&self.rows, self.parts)?;
        let top = self.top();
        let bytes = parts.iter().map(|part| part.body.bytes()).sum();
        self.output.results.encoded(self.epoch, self.threads, bytes);
        Ok((parts, top))
    }

    /// Returns the most frequent words, if they can be asked for.
    fn top(&self) -> TopWords {
        if !self.output.meters.keeps_top() {
            return TopWords::default();
        }
        let mut top = TopKeeper::default();
        for set in &self.rows {
            set.rows.for_each(&mut |row| match row {
                Row::Count { word, count, .. } | Row::Ranked { word, count } => {
                    top.add(word, count);
                }
                Row::Line { .. } => {}
            });
        }
        top.finish()
    }
}

/// Most bytes of them. The disk takes longer for more than one sync less would save.
const ROUND_BYTES_MAX: u64 = 8 << 20;

/// Stores parts, all at the same time. Calls `report` when all are known.
async fn store(
    writer: &dyn EpochWriter,
    rounds: SyncRounds,
    (epoch, parts): (Epoch, Vec<EncodedPart>),
    report: impl FnOnce(Vec<PartReport>),
) -> Result<()> {
    let bytes: u64 = parts.iter().map(|part| part.body.bytes()).sum();
    let is_small = parts.len() <= ROUND_PARTS_MAX && bytes <= ROUND_BYTES_MAX;
    let rounds = if is_small { rounds } else { SyncRounds::any() };
    let (stored, known): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .map(|part| {
            let (sender, known) = oneshot::channel();
            let steps = PartSteps { known: sender, rounds: rounds.clone() };
            (writer.write_part(epoch, part, steps), known)
        })
        .unzip();
    let report = async {
        // A part that does not become known is not stored either, and its error ends the job.
        if let Ok(parts) = try_join_all(known).await {
            report(parts);
        }
        Ok(())
    };
    futures::try_join!(try_join_all(stored), report).map(drop)
}
