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

use futures::future::{FutureExt, try_join_all};
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use tokio::runtime::Handle;
use tokio::sync::oneshot::{self, error::TryRecvError::Empty};

use super::changelog::{Changelog, NewestChange};
use super::completions::Completions;
use super::durable_epochs::{DurableEpochs, ROUND_PARTS_MAX, SyncRounds};
use super::output::{BegunPart, EncodedPart, EpochWriter, PartReport, PartSteps};
use crate::epoch::Epoch;
use crate::error::Result;
use crate::failure::Failure;
use crate::meters::{Meters, SourcePositions, TopKeeper, TopWords};
use crate::operators::{Context, EpochRows, Grid, PartChange, Row, RowKind, Rows, Tally};
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
        // Another process has rounds of its own, which this one cannot begin.
        let is_alone = self.context.peers == self.context.settings.threads;
        let rounds = if is_alone { self.output.rounds.clone() } else { SyncRounds::any() };
        let publishes = self.grid.contains(epoch);
        if let Some(changelog) = self.changelog.as_ref().filter(|_| publishes) {
            changelog.publishes(epoch);
        }
        let changes = self.context.changes.take(epoch);
        let (signal, encoded) = oneshot::channel();
        let mut before = self.encoded.replace(encoded);
        let (encoding, begins) = self.encoding(epoch, &changes, signal);
        // Here, in order of the epochs, and not when they are stored.
        let links = self.changelog.clone().map(|log| (log.link(changes), log));
        let store_changes = async move {
            match links {
                Some((changes, changelog)) => changelog.store(changes).await,
                None => Ok(()),
            }
        };
        let runtime = self.output.runtime.clone();
        let run = move || supervise::blocking_on(&runtime, move || encoding.run());
        // At once, if there is nothing to wait for: one change of thread less.
        before.take_if(|before| before.try_recv() != Err(Empty));
        let (running, run) = if before.is_none() { (Some(run()), None) } else { (None, Some(run)) };
        let (writer, completions) = (Arc::clone(&self.output.writer), self.completions.clone());
        let durable = self.output.durable.clone();
        let write = async move {
            if let Some(before) = before {
                // Resolves when the sender is dropped, also by a failure, which ends the job.
                let _ = before.await;
            }
            let Some(running) = running.or_else(|| run.map(|run| run())) else { return Ok(()) };
            let _ = begins.await;
            let mut encoded = None;
            let written = async {
                let run = running.await;
                let has_begun = run.as_ref().is_ok_and(EncodedEpoch::has_begun);
                encoded = Some(run);
                has_begun
            };
            writer.answered(epoch, written.boxed()).await;
            let Some(encoded) = encoded else { return Ok(()) };
            let encoded = encoded?;
            durable.wait(epoch).await;
            futures::try_join!(store(&*writer, rounds.clone(), epoch, encoded), store_changes)?;
            rounds.stored(epoch, started.elapsed());
            let write_us = started.elapsed().as_micros() as u64;
            completions.complete(PartsMessage::Durable { epoch, write_us });
            Ok(())
        };
        supervise(&self.failure, &self.output.runtime, "write", write);
    }

    /// Returns the rows of `epoch` with all that its report needs, and a receiver that resolves
    /// when they are encoded. `signal` is dropped then, too.
    fn encoding(
        &mut self,
        epoch: Epoch,
        changes: &[PartChange],
        signal: oneshot::Sender<()>,
    ) -> (EpochEncoding, oneshot::Receiver<()>) {
        let later = self.open.split_off(&(epoch + 1));
        let rows = std::mem::replace(&mut self.open, later).remove(&epoch).unwrap_or_default();
        let report = Report {
            epoch,
            tally: self.context.tallies.take(epoch),
            kind: self.kind,
            parts: Vec::new(),
            changes: changes.iter().map(NewestChange::of).collect(),
            publishes: self.grid.contains(epoch),
            top: TopWords::default(),
            positions: self.output.meters.positions().take(epoch),
        };
        let (begin, begins) = oneshot::channel();
        let completions = self.completions.clone();
        let send = move |report| completions.complete(PartsMessage::Known(Box::new(report)));
        let encoding = EpochEncoding {
            output: self.output.clone(),
            report: OpenReport { report, send: Box::new(send) },
            rows,
            parts: self.context.settings.parts,
            threads: self.context.settings.threads,
            encoded_signals: [signal, begin],
        };
        (encoding, begins)
    }
}

/// The rows of an epoch that are to be encoded.
struct EpochEncoding {
    /// Where parts are written, and with what.
    output: OutputHandle,
    /// The report on the epoch.
    report: OpenReport,
    /// The rows of the epoch, as they came from the definition.
    rows: Vec<EpochRows>,
    /// Number of parts of a result.
    parts: u32,
    /// Number of workers of this process.
    threads: usize,
    /// Dropped when the rows are encoded.
    encoded_signals: [oneshot::Sender<()>; 2],
}

/// The parts of an epoch.
struct EncodedEpoch {
    /// Those with rows.
    parts: Vec<EncodedPart>,
    /// The same, if they are written.
    begun: Option<Vec<BegunPart>>,
    /// Sends the report. `None` if it is sent.
    report: Option<OpenReport>,
}

impl EncodedEpoch {
    /// Returns true unless a part could not be written.
    fn has_begun(&self) -> bool {
        self.begun.iter().flatten().all(|BegunPart(part)| part.is_ok())
    }
}

/// A report without its parts.
struct OpenReport {
    report: Report,
    /// Takes the report to the operator.
    send: Box<dyn FnOnce(Report) + Send>,
}

impl OpenReport {
    /// Sends the report with these parts.
    fn send(self, parts: Vec<PartReport>) {
        (self.send)(Report { parts, ..self.report });
    }
}

impl EpochEncoding {
    /// Encodes the rows. If the parts are few and small, writes them and reports them at once, on
    /// this thread, which may block: each change of thread would take as long as a short write.
    fn run(mut self) -> Result<EncodedEpoch> {
        let (writer, epoch) = (&self.output.writer, self.report.report.epoch);
        let parts = writer.encode(&self.rows, self.parts)?;
        self.report.report.top = self.top();
        let bytes = parts.iter().map(|part| part.body.bytes()).sum();
        self.output.results.encoded(epoch, self.threads, bytes);
        // Memory that the next epoch needs, which may be encoded after this.
        drop(self.rows);
        drop(self.encoded_signals);
        let report = self.report;
        if !is_small(&parts) || !self.output.durable.has_reached(epoch) {
            return Ok(EncodedEpoch { parts, begun: None, report: Some(report) });
        }
        let begun: Option<Vec<_>> =
            parts.iter().map(|part| writer.begin_part(epoch, part)).collect();
        if begun.is_none() {
            return Ok(EncodedEpoch { parts, begun, report: Some(report) });
        }
        report.send(parts.iter().map(report_of).collect());
        Ok(EncodedEpoch { parts, begun, report: None })
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

/// Returns true if the parts of a worker are few and small, so that they are synced together with
/// others.
fn is_small(parts: &[EncodedPart]) -> bool {
    let bytes: u64 = parts.iter().map(|part| part.body.bytes()).sum();
    parts.len() <= ROUND_PARTS_MAX && bytes <= ROUND_BYTES_MAX
}

/// Returns the report of a part that becomes an object as it is. Waits for its MD5.
fn report_of(EncodedPart { part, rows, body }: &EncodedPart) -> PartReport {
    PartReport { part: *part, rows: *rows, bytes: body.bytes(), md5: body.md5_hex() }
}

/// Stores parts, all at the same time. Sends the report when all are known, unless it is sent.
async fn store(
    writer: &dyn EpochWriter,
    rounds: SyncRounds,
    epoch: Epoch,
    EncodedEpoch { parts, begun, report }: EncodedEpoch,
) -> Result<()> {
    let rounds = if is_small(&parts) { rounds } else { SyncRounds::any() };
    let mut begun = begun.into_iter().flatten();
    let (stored, known): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .map(|part| {
            let (sender, known) = oneshot::channel();
            let steps = PartSteps { known: sender, rounds: rounds.clone(), begun: begun.next() };
            (writer.write_part(epoch, part, steps), known)
        })
        .unzip();
    let report = async {
        let Some(report) = report else { return Ok(()) };
        // A part that does not become known is not stored either, and its error ends the job.
        if let Ok(parts) = try_join_all(known).await {
            report.send(parts);
        }
        Ok(())
    };
    futures::try_join!(try_join_all(stored), report).map(drop)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use super::super::objects::publisher_to;
    use super::*;
    use crate::operators::{Run, rows_of};
    use crate::store::Body;
    use crate::store::local::LocalStore;

    /// Returns an epoch with one row, and where its report goes.
    fn encoding(root: &Path, durable: DurableEpochs) -> (EpochEncoding, Arc<Mutex<Vec<Report>>>) {
        let mut run = Run::default();
        run.push(7, b"tide", 2);
        let sent = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&sent);
        let report = Report {
            epoch: 10,
            tally: Tally::default(),
            kind: RowKind::Counts,
            parts: Vec::new(),
            changes: Vec::new(),
            publishes: true,
            top: TopWords::default(),
            positions: SourcePositions::default(),
        };
        let send = move |report| to.lock().unwrap().push(report);
        let output = OutputHandle {
            writer: Arc::new(publisher_to(LocalStore::open(root).unwrap())),
            results: PendingResults::unlimited(),
            meters: Meters::default(),
            durable,
            rounds: SyncRounds::none(),
            runtime: Handle::current(),
        };
        let encoding = EpochEncoding {
            output,
            report: OpenReport { report, send: Box::new(send) },
            rows: vec![EpochRows { epoch: 10, rows: rows_of(run) }],
            parts: 1,
            threads: 1,
            encoded_signals: [oneshot::channel().0, oneshot::channel().0],
        };
        (encoding, sent)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn parts_are_written_only_after_durable_end() {
        let root = tempfile::tempdir().unwrap();
        let part = root.path().join("c-10/part-00000");
        let durable = DurableEpochs::none();
        let (early, sent) = encoding(root.path(), durable.clone());
        let encoded = early.run().unwrap();
        assert!(encoded.begun.is_none() && !part.exists() && sent.lock().unwrap().is_empty());
        encoded.report.expect("it is not sent").send(Vec::new());
        assert_eq!(sent.lock().unwrap().len(), 1);

        durable.reached(10);
        let (ready, sent) = encoding(root.path(), durable);
        let encoded = ready.run().unwrap();
        assert_eq!(std::fs::read(&part).unwrap(), b"tide\t2\n");
        let md5 = Body::from("tide\t2\n").md5_hex();
        assert_eq!(sent.lock().unwrap()[0].parts[0].md5, md5);
        assert!(encoded.report.is_none(), "it is sent once");
        drop(encoded);
        assert!(!part.exists(), "a part that is given up leaves no file");

        let (stored, _) = encoding(root.path(), DurableEpochs::all());
        let encoded = stored.run().unwrap();
        let writer = publisher_to(LocalStore::open(root.path()).unwrap());
        store(&writer, SyncRounds::any(), 10, encoded).await.unwrap();
        assert!(part.exists());
    }
}
