//! Writes epochs as documents: the rows, then the marker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::future::{BoxFuture, FutureExt};
use reqwest::Method;
use serde_json::json;
use tokio::sync::Semaphore;

use super::bulk_requests::{BulkItems, PendingItems};
use super::documents::{IndexNames, marker};
use super::http_client::SearchClient;
use super::refreshes::Refreshes;
use super::write_mode::RowMode;
use crate::crash_points::crash_point;
use crate::epoch::{Clock, Epoch, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::meters::{Meters, OutputOp};
use crate::operators::EpochRows;
use crate::outputs::commit_log::{Attempt, CommitLog};
use crate::outputs::objects::format::Format;
use crate::outputs::objects::{Encoding, Ownership, RowBatch, encode_rows, keep_claim, read_rows};
use crate::outputs::output::{
    CompleteEpoch, EncodedPart, EpochWriter, PartReport, PartSteps, WriterSettings,
};
use crate::outputs::publication::Publication;
use crate::outputs::retry_until_stored::Retrier;
use crate::settings::EmptyEpochs;
use crate::store::{Body, Results, StoreError, StoreErrorKind, StoreResult};
use crate::supervise;

/// So many parts are written at a time. More requests would only wait at the server, and hold up
/// the refresh that the oldest epoch waits for.
const PARTS_AT_A_TIME: usize = 4;

/// Writes the epochs of one run.
#[derive(Debug)]
pub struct SearchWriter {
    /// The client of the server.
    client: SearchClient,
    /// The names of the indexes of rows, markers and claims.
    names: Arc<IndexNames>,
    /// The settings of what is published.
    publication: Publication,
    /// The right to write, looked at before each commit.
    ownership: Ownership,
    /// Repeats requests while the server is out of reach.
    retrier: Retrier,
    /// The figures of the process.
    meters: Meters,
    /// Notes epochs before their marker is stored. `None` in a job without state.
    commits: Option<CommitLog>,
    /// The rows that wait to be sent, in memory or on disk.
    results: Results,
    /// The runtime on whose threads rows become documents.
    runtime: tokio::runtime::Handle,
    /// A permit for each part that may be written at the same time.
    turns: Semaphore,
    /// The refreshes of the index of rows.
    refreshes: Refreshes,
    /// How rows come into the index.
    mode: RowMode,
    /// The parts of an upsert, which are written by the commit of their epoch.
    staged: Mutex<BTreeMap<Epoch, Vec<(u32, Body)>>>,
}

impl SearchWriter {
    /// Returns the writer of a run that writes as `ownership`.
    pub fn new(
        client: SearchClient,
        names: IndexNames,
        ownership: Ownership,
        mode: RowMode,
        run: WriterSettings,
    ) -> SearchWriter {
        let place = format!("{}/{}", client.base(), names.rows);
        SearchWriter {
            retrier: Retrier::new(place, run.results.clone(), run.meters.clone()),
            meters: run.meters,
            commits: run.commits,
            client,
            names: Arc::new(names),
            publication: run.publication,
            ownership,
            results: run.results,
            runtime: run.runtime,
            turns: Semaphore::new(PARTS_AT_A_TIME),
            refreshes: Refreshes::default(),
            mode,
            staged: Mutex::default(),
        }
    }

    /// Creates the documents of a part, one bulk request after the other. Returns the bytes of
    /// text that were sent.
    ///
    /// Only the items that the server has not taken are sent again, under the same ids, so a lost
    /// answer doubles nothing. Fails with `Configuration` if the run is not the owner any more or
    /// the server refuses a document.
    async fn write(&self, epoch: Epoch, part: u32, body: &Body) -> Result<u64> {
        let what = format!("the rows of epoch {epoch}");
        self.retrier.run(&what, || self.ownership.confirm()).await?;
        let (kind, mut rows) = read_rows(body).map_err(unreadable)?;
        let (mut batch, mut row, mut bytes, mode) = (RowBatch::default(), 0, 0, self.mode);
        loop {
            let items;
            // Reading, hashing and printing a thousand rows takes too long for the runtime.
            (items, batch, rows) = supervise::blocking(move || {
                rows.fill(&mut batch)?;
                let items = BulkItems::of((epoch, mode), (part, row), kind, &batch);
                Ok((items, batch, rows))
            })
            .await
            .map_err(unreadable)?;
            if batch.texts.is_empty() {
                self.refreshes.written(epoch, Instant::now());
                return Ok(bytes);
            }
            row += batch.texts.len() as u64;
            bytes += batch.text_bytes as u64;
            let pending = PendingItems::new(items);
            let send = || pending.send(&self.client, &self.names.rows);
            self.retrier.counted(OutputOp::Create, &what, send).await?;
            self.meters.output().bytes.add(batch.text_bytes as u64);
        }
    }

    /// Makes the rows of an epoch searchable and stores its marker, in this order: rows of an
    /// upsert, refresh, deletion of older rows, marker. Readers who wait for the marker therefore
    /// find all rows, and no others.
    async fn commit_rows(&self, complete: CompleteEpoch) -> Result<()> {
        let CompleteEpoch { epoch, tally, rows, publishes, durable, .. } = complete;
        durable.wait().await;
        let staged = self.staged().remove(&epoch).unwrap_or_default();
        // An upsert without rows empties the index, which no epoch may skip.
        let is_skipped = rows == 0
            && self.publication.empty_epochs == EmptyEpochs::Skip
            && !self.mode.is_upsert();
        if !publishes {
            return Ok(());
        }
        if is_skipped {
            // The results of windows after a restart build on this one.
            return self.note_attempt(epoch).await;
        }
        for (part, body) in &staged {
            self.write(epoch, *part, body).await?;
        }
        let what = format!("the marker of epoch {epoch}");
        self.retrier.run(&what, || self.ownership.confirm()).await?;
        self.refresh(epoch, &what).await?;
        if self.mode == RowMode::Replace {
            // What this epoch did not write is not in its result.
            let older = json!({"range": {"epoch": {"lt": epoch}}});
            let delete = || self.client.delete_where(&self.names.rows, &older);
            self.retrier.run(&what, delete).await?;
        }
        self.note_attempt(epoch).await?;
        crash_point("output.before_marker");
        let now = SystemClock::new().wall_ms();
        let marker = marker(&self.names, &self.publication, epoch, tally, rows, now);
        let create = || async {
            let path = format!("{}/_create/{epoch}?refresh=true", self.names.epochs);
            match self.client.send(Method::PUT, &path, Some(marker.clone())).await {
                Err(error) if error.kind == StoreErrorKind::Exists => self.is_own(epoch).await,
                created => created.map(drop),
            }
        };
        self.retrier.counted(OutputOp::Commit, &what, create).await?;
        self.ownership.committed(epoch);
        crash_point("output.after_marker");
        Ok(())
    }

    /// Makes the rows of an epoch visible to searches, unless a refresh for another epoch has.
    async fn refresh(&self, epoch: Epoch, what: &str) -> Result<()> {
        if self.refreshes.are_visible(epoch) {
            return Ok(());
        }
        let refresh = || async {
            let began = Instant::now();
            self.client.refresh(&self.names.rows).await.map(|()| began)
        };
        self.refreshes.refreshed(self.retrier.run(what, refresh).await?);
        Ok(())
    }

    /// Notes durably that `epoch` is about to be committed.
    async fn note_attempt(&self, epoch: Epoch) -> Result<()> {
        match &self.commits {
            Some(commits) => commits.note(Attempt { epoch, parts: 0 }).await,
            None => Ok(()),
        }
    }

    /// Locks the parts that wait for the commit of their epoch.
    fn staged(&self) -> MutexGuard<'_, BTreeMap<Epoch, Vec<(u32, Body)>>> {
        // Each entry is changed at once, so a panic elsewhere leaves nothing half-done.
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Succeeds if the marker of `epoch` is this job's, from an attempt whose answer was lost.
    async fn is_own(&self, epoch: Epoch) -> StoreResult<()> {
        let path = format!("{}/_doc/{epoch}", self.names.epochs);
        let found = self.client.send(Method::GET, &path, None).await?;
        let found = &found["_source"];
        let Publication { job, state, .. } = &self.publication;
        if found["job"] == job.as_str() && found["state"] == state.as_str() {
            return Ok(());
        }
        let message = format!("{path} is that of job {}: another job writes there", found["job"]);
        Err(StoreError::new(StoreErrorKind::Exists, message)
            .hint("give --to an index of its own, and see which job has written to this one"))
    }
}

impl EpochWriter for SearchWriter {
    /// Encodes rows in the form in which they wait, part by part.
    fn encode(&self, sets: &[EpochRows], parts: u32) -> Result<Vec<EncodedPart>> {
        // The form in which rows can wait on disk and be read back one by one.
        let encoding = Encoding::new(Format::Parquet, None);
        let parts = encode_rows(sets, self.publication.order, encoding, &self.runtime, parts)?;
        parts.iter().for_each(|part| self.results.admit(&part.body));
        Ok(parts)
    }

    /// Keeps a part until the commit of its epoch. Nothing is sent to the server yet.
    fn write_part(
        &self,
        epoch: Epoch,
        part: EncodedPart,
        PartSteps { known, .. }: PartSteps,
    ) -> BoxFuture<'_, Result<()>> {
        let EncodedPart { part, rows, body } = part;
        async move {
            crash_point("output.before_put");
            let bytes = if self.mode.is_upsert() {
                let bytes = body.bytes();
                self.staged().entry(epoch).or_default().push((part, body));
                bytes
            } else {
                // The semaphore is never closed. Permits are given in the order of asking.
                let _turn = self.turns.acquire().await;
                self.write(epoch, part, &body).await?
            };
            crash_point("output.after_put");
            // It fails only when the job ends.
            let _ = known.send(PartReport { part, rows, bytes, md5: String::new() });
            Ok(())
        }
        .boxed()
    }

    /// Sends the rows of an epoch, refreshes the index, then stores the marker.
    fn commit(&self, epoch: CompleteEpoch) -> BoxFuture<'_, Result<()>> {
        self.commit_rows(epoch).boxed()
    }

    /// Returns the name of the index, for messages.
    fn place(&self, _epoch: Epoch) -> String {
        self.names.rows.clone()
    }

    /// Renews the claim for as long as the run lasts; the run ends if another has taken the index.
    fn keep_claim(&self, failure: Failure) -> Option<BoxFuture<'static, Result<()>>> {
        let Ownership::Claimed(claim) = &self.ownership else { return None };
        Some(keep_claim(claim.clone(), failure).boxed())
    }

    /// Gives the claim back.
    fn release(&self) -> BoxFuture<'_, StoreResult<()>> {
        self.ownership.release().boxed()
    }
}

/// Returns the error of rows that cannot be read back from the disk: `Disk`.
fn unreadable(error: std::io::Error) -> Error {
    let message = format!("cannot read back rows that wait on disk: {error}");
    Error::new(ErrorKind::Disk, message).cause(error).hint("see --state")
}
