//! Writes epochs as documents: the rows, then the marker.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, TryStreamExt};
use reqwest::Method;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
use crate::operators::{EpochRows, RowKind};
use crate::outputs::commit_log::{Attempt, CommitLog};
use crate::outputs::objects::format::Format;
use crate::outputs::objects::{
    Encoding, Ownership, RowBatch, RowReader, encode_rows, keep_claim, read_rows,
};
use crate::outputs::output::{
    CompleteEpoch, EncodedPart, EpochWriter, PartReport, PartSteps, WriterSettings,
};
use crate::outputs::publication::Publication;
use crate::outputs::retry_until_stored::Retrier;
use crate::settings::EmptyEpochs;
use crate::store::{Body, PendingResults, StoreError, StoreErrorKind, StoreResult};
use crate::supervise;

/// So many parts are written at a time. More would hold up the oldest epoch.
const PARTS_AT_A_TIME: usize = 4;

/// So many bulk requests are under way at a time, of one part or of several. Each is up to 2 MB.
const REQUESTS_AT_A_TIME: usize = 4;

/// The rows of a part that are not sent yet.
struct PartRows {
    /// The part.
    part: u32,
    /// The kind of its rows.
    kind: RowKind,
    /// Reads the rows after those of the batch.
    rows: RowReader,
    /// The rows of the next request; none at the end.
    batch: RowBatch,
    /// The number of the first of them.
    row: u64,
}

/// A bulk request, and the right to have it under way.
struct RowsRequest {
    /// Its documents.
    items: PendingItems,
    /// The bytes of text in them.
    text_bytes: u64,
    /// Given back when all items are stored.
    _permit: Option<OwnedSemaphorePermit>,
}

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
    results: PendingResults,
    /// The runtime on whose threads rows become documents.
    runtime: tokio::runtime::Handle,
    /// A permit for each part that may be written at the same time.
    turns: Semaphore,
    /// A permit for each request that may be under way.
    requests: Arc<Semaphore>,
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
            requests: Arc::new(Semaphore::new(REQUESTS_AT_A_TIME)),
            refreshes: Refreshes::default(),
            mode,
            staged: Mutex::default(),
        }
    }

    /// Creates the documents of a part by bulk requests, several at a time. Returns the bytes of
    /// text that were sent.
    ///
    /// Only the items that the server has not taken are sent again, under the same ids, so a lost
    /// answer doubles nothing. Fails with `Configuration` if the run is not the owner any more or
    /// the server refuses a document.
    async fn write(&self, epoch: Epoch, part: u32, body: &Body) -> Result<u64> {
        let what = format!("the rows of epoch {epoch}");
        self.retrier.run(&what, || self.ownership.confirm()).await?;
        let (kind, mut rows) = read_rows(body).map_err(unreadable)?;
        // Reading, hashing and printing a thousand rows takes too long for the runtime.
        let first = supervise::blocking(move || {
            let mut batch = RowBatch::default();
            rows.fill(&mut batch).map(|()| PartRows { part, kind, rows, batch, row: 0 })
        });
        let mut rows = first.await.map_err(unreadable)?;
        let mut under_way = FuturesUnordered::<BoxFuture<'_, Result<u64>>>::new();
        let mut bytes = 0;
        loop {
            let mut next = pin!(self.next_request(epoch, rows));
            let made = loop {
                tokio::select! {
                    made = &mut next => break made?,
                    sent = under_way.try_next(), if !under_way.is_empty() => {
                        bytes += sent?.unwrap_or(0);
                    }
                }
            };
            let Some((request, rest)) = made else { break };
            under_way.push(self.send(&what, request).boxed());
            rows = rest;
        }
        while let Some(sent) = under_way.try_next().await? {
            bytes += sent;
        }
        self.refreshes.written(epoch, Instant::now());
        Ok(bytes)
    }

    /// Makes the next request for the rows of a part, as soon as it may be sent. Returns it with
    /// the rows after it; `None` after the last row.
    async fn next_request(
        &self,
        epoch: Epoch,
        rows: PartRows,
    ) -> Result<Option<(RowsRequest, PartRows)>> {
        if rows.batch.texts.is_empty() {
            return Ok(None);
        }
        // The semaphore is never closed. No documents are made before there is a permit.
        let permit = Arc::clone(&self.requests).acquire_owned().await.ok();
        let mode = self.mode;
        let made = supervise::blocking(move || {
            let PartRows { part, kind, mut rows, mut batch, row } = rows;
            let (count, text_bytes) = (batch.texts.len() as u64, batch.text_bytes as u64);
            let items = BulkItems::of((epoch, mode), (part, row), kind, &batch);
            rows.fill(&mut batch)?;
            let rest = PartRows { part, kind, rows, batch, row: row + count };
            Ok((PendingItems::new(items), text_bytes, rest))
        });
        let (items, text_bytes, rest) = made.await.map_err(unreadable)?;
        Ok(Some((RowsRequest { items, text_bytes, _permit: permit }, rest)))
    }

    /// Sends a request until all of its items are stored. Returns its bytes of text.
    async fn send(&self, what: &str, request: RowsRequest) -> Result<u64> {
        let send = || request.items.send(&self.client, &self.names.rows);
        self.retrier.counted(OutputOp::Create, what, send).await?;
        self.meters.output().bytes.add(request.text_bytes);
        Ok(request.text_bytes)
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
