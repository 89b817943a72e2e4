//! The operator on worker 0 that commits epochs, one after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::completions::Completions;
use super::objects::{MARKER_FORMAT, MarkedPart, Marker, Publisher, part_name, write_marker};
use super::write_parts::{PartReport, Report};
use crate::epoch::Epoch;
use crate::error::Result;
use crate::failure::Failure;
use crate::operators::Tally;
use crate::settings::EmptyEpochs;
use crate::store::Body;
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
    publisher: Publisher,
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
                publisher,
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
    capability: Capability<Epoch>,
    reports: Vec<Report>,
}

/// The state of the operator.
struct Committer {
    /// Epochs with at least one report.
    open: BTreeMap<Epoch, Gathered>,
    /// The epoch whose marker is being stored. One at a time keeps them in order.
    committing: Option<Capability<Epoch>>,
    completions: Completions<Committed>,
    publisher: Publisher,
    failure: Failure,
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
        let (publisher, completions) = (self.publisher.clone(), self.completions.clone());
        let parts = self.parts;
        let commit = async move {
            completions.complete(finish(&publisher, epoch, reports, parts).await?);
            Ok(())
        };
        supervise(&self.failure, self.publisher.runtime(), "commit", commit);
    }
}

/// Stores the parts without rows, if they are wanted, and then the marker.
async fn finish(
    publisher: &Publisher,
    epoch: Epoch,
    reports: Vec<Report>,
    parts: u32,
) -> Result<Committed> {
    let started = Instant::now();
    let publication = &publisher.publication;
    let mut tally = Tally::default();
    reports.iter().for_each(|report| tally.add(report.tally));
    let write_ms = reports.iter().map(|report| report.write_ms).max().unwrap_or(0);
    let publishes = reports.iter().all(|report| report.publishes);
    let mut stored: BTreeMap<u32, PartReport> =
        reports.into_iter().flat_map(|report| report.parts).map(|part| (part.part, part)).collect();
    let rows: u64 = stored.values().map(|part| part.rows).sum();
    let bytes = stored.values().map(|part| part.bytes).sum();
    let empty = rows == 0;
    if !publishes {
        let upload_ms = started.elapsed().as_millis() as u64;
        return Ok(Committed { epoch, tally, rows, bytes, upload_ms });
    }
    if !empty || publication.empty_epochs == EmptyEpochs::Write {
        let missing = (0..parts).filter(|part| !stored.contains_key(part));
        let puts = missing.map(|part| put_empty(publisher, epoch, part));
        let put = futures::future::try_join_all(puts).await?;
        stored.extend(put.into_iter().map(|part| (part.part, part)));
    }
    if !empty || publication.empty_epochs != EmptyEpochs::Skip {
        let parts = stored.into_values().map(marked).collect();
        let Tally { lines, words, .. } = tally;
        let program = concat!("wordtide ", env!("CARGO_PKG_VERSION")).to_owned();
        let (format, job) = (MARKER_FORMAT, publication.job.clone());
        let (state, started) = (Some(publication.state.clone()), Some(publication.started));
        let marker =
            Marker { format, program, job, state, started, epoch, lines, words, rows, parts };
        write_marker(publisher, epoch, &marker).await?;
    }
    let upload_ms = write_ms + started.elapsed().as_millis() as u64;
    Ok(Committed { epoch, tally, rows, bytes, upload_ms })
}

/// Stores a part without rows.
async fn put_empty(publisher: &Publisher, epoch: Epoch, part: u32) -> Result<PartReport> {
    let key = publisher.publication.layout.part(epoch, part);
    let stored = publisher.create(epoch, &key, Body::from_chunks([])).await?;
    Ok(PartReport { part, rows: 0, bytes: stored.bytes, md5: stored.md5 })
}

/// Returns the entry of a part in the marker.
fn marked(part: PartReport) -> MarkedPart {
    let PartReport { part, rows, bytes, md5 } = part;
    MarkedPart { name: part_name(part), rows, bytes, md5 }
}
