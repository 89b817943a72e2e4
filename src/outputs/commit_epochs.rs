//! The operator on worker 0 that commits epochs, one after the other.
//!
//! ```text
//! reports of all workers ─► gathered by epoch ─► frontier passed: parts durable ─► marker ─► probe
//! ```
//!
//! The frontier of the reports passes an epoch when every worker has dropped its capability, which
//! it does when its parts are durable. The operator keeps one capability of its own until the
//! marker is stored, so the probe after it stands for what is committed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::changelog::Changelog;
use super::completions::Completions;
use super::output::{CompleteEpoch, EpochWriter, PartReport};
use super::write_parts::{OutputHandle, Report};
use crate::epoch::Epoch;
use crate::error::Result;
use crate::failure::Failure;
use crate::meters::{Meters, StoredEpoch, TopKeeper};
use crate::operators::{RowKind, Tally};
use crate::supervise::supervise;

/// A committed epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The epoch.
    pub epoch: Epoch,
    /// Lines and words that all workers read and counted in it.
    pub tally: Tally,
    /// Rows published: for word counts, the distinct words.
    pub rows: u64,
    /// Bytes of all parts.
    pub bytes: u64,
    /// From the completion of the epoch until its marker was stored, in milliseconds.
    pub upload_ms: u64,
}

impl fmt::Display for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Committed { epoch, tally, rows, upload_ms, .. } = self;
        let Tally { lines, words, .. } = tally;
        write!(
            f,
            "epoch {epoch} committed: {lines} lines, {words} words, {rows} distinct, {upload_ms} ms"
        )
    }
}

/// A function that worker 0 calls for every committed epoch, in order.
pub type OnCommit = Arc<dyn Fn(Committed) + Send + Sync>;

/// Collects the reports of all workers on worker 0 and stores the marker of each epoch after all
/// its parts are durable, in order of the epochs.
///
/// The output stream has no data. Its frontier passes an epoch when the epoch is committed.
pub fn commit<'s>(
    reports: Stream<'s, Epoch, Vec<Report>>,
    parts: u32,
    (output, changelog): (OutputHandle, Option<Changelog>),
    on_commit: OnCommit,
    failure: Failure,
) -> Stream<'s, Epoch, Vec<Epoch>> {
    let scope = reports.scope();
    reports.unary_frontier::<CapacityContainerBuilder<Vec<Epoch>>, _, _, _>(
        Exchange::new(|_: &Report| 0),
        "Commit",
        move |_capability, info| {
            let activator = scope.worker().sync_activator_for(info.address.to_vec());
            let mut committer = Committer {
                open: BTreeMap::new(),
                committing: None,
                completions: Completions::new(activator),
                output,
                changelog,
                failure,
                parts,
            };
            move |(input, frontier), _output| {
                input.for_each(|capability, reports| {
                    let Some(capability) = capability.retain_least(0) else { return };
                    for report in reports.drain(..) {
                        let capability = capability.clone();
                        let gather = || Gathered { capability, reports: Vec::new() };
                        let gathered = committer.open.entry(report.epoch).or_insert_with(gather);
                        gathered.reports.push(report);
                    }
                });
                for committed in committer.completions.take() {
                    committer.committing = None; // drops the capability: the probe moves on
                    on_commit(committed);
                }
                committer.start_next(|epoch| !frontier.less_equal(epoch));
            }
        },
    )
}

/// The reports on one epoch, with the capability that keeps it from being committed.
struct Gathered {
    /// Keeps the frontier after this operator at the epoch.
    capability: Capability<Epoch>,
    /// One of each worker that had lines or parts in it.
    reports: Vec<Report>,
}

/// The state of the operator.
struct Committer {
    /// Epochs with at least one report.
    open: BTreeMap<Epoch, Gathered>,
    /// The epoch whose marker is being stored. One at a time keeps them in order.
    committing: Option<Capability<Epoch>>,
    /// Takes the result of the commit from its task, and wakes the operator.
    completions: Completions<Committed>,
    /// The writer and the runtime of its requests.
    output: OutputHandle,
    /// Knows the newest changes of totals and windows. `None` in a job without state.
    changelog: Option<Changelog>,
    /// Ends the job if a commit fails.
    failure: Failure,
    /// The number of parts of a result.
    parts: u32,
}

impl Committer {
    /// Starts to commit the oldest epoch if its parts are durable and no other commit is under way.
    fn start_next(&mut self, is_durable: impl Fn(&Epoch) -> bool) {
        if self.committing.is_some() {
            return;
        }
        let Some(first) = self.open.first_entry().filter(|first| is_durable(first.key())) else {
            return;
        };
        let Gathered { capability, reports } = first.remove();
        let epoch = *capability.time();
        self.committing = Some(capability);
        let (writer, completions) = (Arc::clone(&self.output.writer), self.completions.clone());
        let (parts, meters) = (self.parts, self.output.meters.clone());
        let changelog = self.changelog.clone();
        let commit = async move {
            let changes = reports.iter().flat_map(|report| report.changes.iter().copied());
            let changes = changes.collect();
            let note = async move {
                if let Some(changelog) = changelog {
                    changelog.note_newest(epoch, changes).await;
                }
            };
            let finished = finish((&*writer, &meters), epoch, reports, parts);
            let (committed, ()) = futures::join!(finished, note);
            completions.complete(committed?);
            Ok(())
        };
        supervise(&self.failure, &self.output.runtime, "commit", commit);
    }
}

/// Commits an epoch whose parts are durable: adds up the reports of all workers, stores the marker,
/// and notes how long both took.
async fn finish(
    (writer, meters): (&dyn EpochWriter, &Meters),
    epoch: Epoch,
    reports: Vec<Report>,
    parts: u32,
) -> Result<Committed> {
    let started = Instant::now();
    let mut tally = Tally::default();
    reports.iter().for_each(|report| tally.add(report.tally));
    let write_us = reports.iter().map(|report| report.write_us).max().unwrap_or(0);
    let mut top = TopKeeper::default();
    reports.iter().for_each(|report| top.merge(&report.top));
    let publishes = reports.iter().all(|report| report.publishes);
    let kind = reports.first().map_or(RowKind::Counts, |report| report.kind);
    let of_all = reports.iter().flat_map(|report| report.positions.clone());
    let positions = of_all.collect();
    let stored: BTreeMap<u32, PartReport> =
        reports.into_iter().flat_map(|report| report.parts).map(|part| (part.part, part)).collect();
    let rows: u64 = stored.values().map(|part| part.rows).sum();
    let bytes = stored.values().map(|part| part.bytes).sum();
    let complete = CompleteEpoch { epoch, tally, kind, rows, publishes, stored, parts, positions };
    writer.commit(complete).await?;
    let (write, commit) = (Duration::from_micros(write_us), started.elapsed());
    let written = if publishes { write } else { Duration::ZERO };
    let upload_ms = (written + commit).as_millis() as u64;
    let path = if publishes { writer.place(epoch) } else { String::new() };
    meters.epochs().stored(StoredEpoch { epoch, write, commit, path, top: top.finish() });
    Ok(Committed { epoch, tally, rows, bytes, upload_ms })
}
