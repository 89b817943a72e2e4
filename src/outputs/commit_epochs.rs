//! The operator on worker 0 that commits epochs, one after the other.
//!
//! ```text
//! reports of all workers ─► gathered by epoch ─► marker written ─────────┐
//!                                  frontier passed: parts durable ─► marker named ─► probe
//! ```
//!
//! The frontier of the reports passes an epoch when every worker has dropped its capability, which
//! it does when its parts are durable. The marker of a process that is alone does not wait for that
//! way: the tasks that store parts report to the commit of their epoch. The operator keeps one
//! capability of its own until the marker is stored, so the probe after it stands for what is
//! committed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::FutureExt;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use tokio::sync::watch;

use super::changelog::Changelog;
use super::completions::Completions;
use super::durable_epochs::{DurableParts, PartsWritten};
use super::output::{CompleteEpoch, EpochWriter, PartReport};
use super::write_parts::{OutputHandle, PartsMessage, Report};
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
/// its parts are durable, in order of the epochs. A commit begins when the parts of all `peers`
/// workers are known, so that the marker can be prepared while the parts are synced.
///
/// The output stream has no data. Its frontier passes an epoch when the epoch is committed.
pub fn commit<'s>(
    messages: Stream<'s, Epoch, Vec<PartsMessage>>,
    (parts, peers): (u32, usize),
    (output, changelog): (OutputHandle, Option<Changelog>),
    on_commit: OnCommit,
    failure: Failure,
) -> Stream<'s, Epoch, Vec<Epoch>> {
    let scope = messages.scope();
    messages.unary_frontier::<CapacityContainerBuilder<Vec<Epoch>>, _, _, _>(
        Exchange::new(|_: &PartsMessage| 0),
        "Commit",
        move |_capability, info| {
            let activator = scope.worker().sync_activator_for(info.address.to_vec());
            let mut committer = Committer {
                open: BTreeMap::new(),
                committing: None,
                committed: 0,
                completions: Completions::new(activator),
                output,
                changelog,
                failure,
                parts,
                peers,
            };
            move |(input, frontier), _output| {
                input.for_each(|capability, messages| {
                    let Some(capability) = capability.retain_least(0) else { return };
                    messages.drain(..).for_each(|message| committer.take(message, &capability));
                });
                for committed in committer.completions.take() {
                    committer.end(committed.epoch);
                    on_commit(committed);
                }
                committer.start_next(|epoch| !frontier.less_than(epoch));
                committer.begin_syncs();
                committer.pass_durable(|epoch| !frontier.less_equal(epoch));
            }
        },
    )
}

/// The reports on one epoch, with the capability that keeps it from being committed.
struct Gathered {
    /// Keeps the frontier after this operator at the epoch.
    capability: Capability<Epoch>,
    /// One of each worker, when all are known.
    reports: Vec<Report>,
    /// Longest time that a worker took until its parts were durable, of those known.
    write_us: u64,
}

/// An epoch whose marker is being prepared or stored.
struct Committing {
    /// Keeps the frontier after this operator at the epoch.
    capability: Capability<Epoch>,
    /// Longest time that a worker took until its parts were durable, of those known.
    write_us: u64,
    /// Passes on that all parts are durable.
    durable: watch::Sender<Option<PartsWritten>>,
}

/// The state of the operator.
struct Committer {
    /// Epochs with at least one report.
    open: BTreeMap<Epoch, Gathered>,
    /// The epoch that is being committed. One at a time keeps them in order.
    committing: Option<Committing>,
    /// The newest epoch that is committed.
    committed: Epoch,
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
    /// Number of workers.
    peers: usize,
}

impl Committer {
    /// Takes a message of a worker, which came with `capability`.
    fn take(&mut self, message: PartsMessage, capability: &Capability<Epoch>) {
        let epoch = message.epoch();
        // In a process that is alone, an epoch may be committed before all its messages are here.
        if epoch <= self.committed {
            return;
        }
        let committing = self.committing.as_mut();
        if let Some(committing) = committing.filter(|at| *at.capability.time() == epoch) {
            if let PartsMessage::Durable { write_us, .. } = message {
                committing.write_us = committing.write_us.max(write_us);
            }
            return;
        }
        let gather =
            || Gathered { capability: capability.clone(), reports: Vec::new(), write_us: 0 };
        let gathered = self.open.entry(epoch).or_insert_with(gather);
        match message {
            PartsMessage::Known(report) => gathered.reports.push(*report),
            PartsMessage::Durable { write_us, .. } => {
                gathered.write_us = gathered.write_us.max(write_us);
            }
        }
    }

    /// Called when the commit of `epoch` has ended. Drops its capability, so that the probe moves
    /// on.
    fn end(&mut self, epoch: Epoch) {
        self.committing = None;
        self.committed = epoch;
        self.output.rounds.committed(epoch);
    }

    /// Starts to commit the oldest epoch if all its parts are known, no epoch before it is open by
    /// `is_next`, and no other commit is under way.
    fn start_next(&mut self, is_next: impl Fn(&Epoch) -> bool) {
        if self.committing.is_some() {
            return;
        }
        let is_known = |gathered: &Gathered| gathered.reports.len() == self.peers;
        let first = self.open.first_entry();
        let Some(first) = first.filter(|at| is_known(at.get()) && is_next(at.key())) else {
            return;
        };
        let Gathered { capability, reports, write_us } = first.remove();
        let epoch = *capability.time();
        let rounds = self.output.rounds.clone();
        let at_last = rounds.begin_at_last(epoch);
        let (sender, durable) = DurableParts::awaited((epoch, self.peers), rounds);
        self.committing = Some(Committing { capability, write_us, durable: sender });
        let (writer, completions) = (Arc::clone(&self.output.writer), self.completions.clone());
        let (parts, meters) = (self.parts, self.output.meters.clone());
        let changelog = self.changelog.clone();
        let commit = async move {
            let _at_last = at_last;
            let changes = reports.iter().flat_map(|report| report.changes.iter().copied());
            let changes = changes.collect();
            let are_durable = durable.clone();
            let note = async move {
                if let Some(changelog) = changelog {
                    are_durable.all_durable().await;
                    changelog.note_newest(epoch, changes).await;
                }
            };
            let finished = finish((&*writer, &meters), (epoch, durable), reports, parts);
            completions.complete(finish_noted(finished, note).await?);
            Ok(())
        };
        supervise(&self.failure, &self.output.runtime, "commit", commit);
    }

    /// Lets the parts of epochs be synced that are known while another epoch is committed.
    fn begin_syncs(&self) {
        let open = self.open.iter();
        let known = open.take_while(|(_, gathered)| gathered.reports.len() == self.peers).last();
        if let (Some(_), Some((epoch, _))) = (&self.committing, known) {
            self.output.rounds.begin(*epoch);
        }
    }

    /// Passes on that the parts of the epoch that is being committed are durable, if `is_durable`.
    fn pass_durable(&self, is_durable: impl Fn(&Epoch) -> bool) {
        let Some(Committing { capability, write_us, durable }) = &self.committing else { return };
        if durable.borrow().is_none() && is_durable(capability.time()) {
            let took = Duration::from_micros(*write_us);
            durable.send_replace(Some(PartsWritten { took, at: Instant::now() }));
        }
    }
}

/// Returns what `finished` returns, and waits for `note` if that is no error. The note waits for
/// parts that may never be durable after a failed commit.
async fn finish_noted(
    finished: impl Future<Output = Result<Committed>>,
    note: impl Future<Output = ()>,
) -> Result<Committed> {
    let note = note.map(Ok);
    futures::try_join!(finished, note).map(|(committed, ())| committed)
}

/// Commits an epoch whose parts are known and will be `durable`: adds up the reports of all
/// workers, stores the marker, and notes how long both took.
async fn finish(
    (writer, meters): (&dyn EpochWriter, &Meters),
    (epoch, durable): (Epoch, DurableParts),
    reports: Vec<Report>,
    parts: u32,
) -> Result<Committed> {
    let mut tally = Tally::default();
    reports.iter().for_each(|report| tally.add(report.tally));
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
    let (written, durable) = (durable.clone(), durable);
    writer
        .commit(CompleteEpoch {
            epoch,
            tally,
            kind,
            rows,
            publishes,
            durable,
            stored,
            parts,
            positions,
        })
        .await?;
    let PartsWritten { took: write, at } = written.wait().await;
    let commit = at.elapsed();
    let written = if publishes { write } else { Duration::ZERO };
    let upload_ms = (written + commit).as_millis() as u64;
    let path = if publishes { writer.place(epoch) } else { String::new() };
    meters.epochs().stored(StoredEpoch { epoch, write, commit, path, top: top.finish() });
    Ok(Committed { epoch, tally, rows, bytes, upload_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::outputs::durable_epochs::SyncRounds;

    #[test]
    fn failed_commit_ends_without_its_note() {
        let rounds = SyncRounds::none();
        let at_last = rounds.begin_at_last(10);
        let finished = async { Err(Error::new(ErrorKind::Disk, "a part cannot be synced")) };
        let failed = finish_noted(finished, rounds.wait(10)).now_or_never();
        let failed = failed.expect("it does not wait for the note").unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Disk);
        assert!(!rounds.has_begun(10));
        drop(at_last);
        assert!(rounds.has_begun(10) && !rounds.has_begun(11));
    }
}
