//! Writes epochs into a database: parts wait in the results of the process, and one transaction
//! makes the rows of an epoch, its changelog and its marker visible together.
//!
//! A transaction that fails is repeated as a whole, in a new session. It begins with a lock on the
//! row of the owner, so it waits for the end of one whose answer was lost, and then looks up the
//! marker: if the lost one was committed, nothing is left to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, FutureExt};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::driver_traits::{Driver, Link, Session, SqlValue};
use super::marker::marker;
use super::owner_row;
use super::settings::SqlSettings;
use super::staged_rows::{StagedRows, stage, unreadable};
use super::tables::{Table, Tables, WriteMode};
use crate::crash_points::crash_point;
use crate::epoch::{Clock, Epoch, SystemClock};
use crate::error::{Error, Result};
use crate::meters::{Meters, OutputOp};
use crate::operators::EpochRows;
use crate::outputs::commit_log::{Attempt, CommitLog};
use crate::outputs::objects::format::Format;
use crate::outputs::objects::{Encoding, encode_rows};
use crate::outputs::output::{
    CompleteEpoch, EncodedPart, EpochWriter, PartReport, PartSteps, WriterSettings,
};
use crate::outputs::owner::Standing;
use crate::outputs::publication::Publication;
use crate::outputs::retry_until_stored::Retrier;
use crate::settings::{EmptyEpochs, RowOrder};
use crate::store::{Body, PendingResults, StoreError, StoreErrorKind, StoreResult};
use crate::supervise;

/// The longest piece of a changelog, well below the longest packet of a server.
const PIECE_BYTES: usize = 512 << 10;

/// A change of a part that waits for the commit of its epoch.
#[derive(Clone, Debug)]
pub struct StagedChange {
    /// Its name in the changelog.
    pub name: String,
    /// Its bytes.
    pub body: Body,
}

/// The parts and changes that wait for the commit of an epoch.
#[derive(Clone, Debug, Default)]
struct StagedEpoch {
    /// The rows of each part that has come.
    parts: BTreeMap<u32, Body>,
    /// The changes of totals or windows that belong to the epoch.
    changes: Vec<StagedChange>,
}

/// Writes the epochs of one run.
#[derive(Debug)]
pub struct SqlWriter {
    /// The names and statements of the tables.
    pub tables: Arc<Tables>,
    /// How rows come into the table.
    settings: SqlSettings,
    /// The settings of what is published.
    publication: Publication,
    /// The row of the owner, as this run has written it.
    claim: Option<Standing>,
    /// The commit log of a job with state.
    commits: Option<CommitLog>,
    /// The parts that wait, in memory or on disk.
    results: PendingResults,
    /// The figures of the process.
    meters: Meters,
    /// Repeats transactions while the server is out of reach.
    pub retrier: Retrier,
    /// The session of commits.
    link: Link,
    /// The session of everything else, which may take long.
    pub aside: Link,
    /// The epochs whose parts have come and whose transaction has not.
    staged: Mutex<BTreeMap<Epoch, StagedEpoch>>,
    /// The runtime of the requests.
    runtime: Handle,
    /// A permit for each processor: parts are staged on no more threads.
    stagers: Semaphore,
}

impl SqlWriter {
    /// Returns the writer of a run. Its sessions are opened when they are needed first.
    pub fn new(
        driver: Arc<dyn Driver>,
        tables: Arc<Tables>,
        settings: SqlSettings,
        run: WriterSettings,
    ) -> SqlWriter {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        SqlWriter {
            link: Link::new(Arc::clone(&driver), tables.setup()),
            aside: Link::new(Arc::clone(&driver), Vec::new()),
            retrier: Retrier::new(driver.describe(), run.results.clone(), run.meters.clone()),
            tables,
            settings,
            publication: run.publication,
            claim: run.claim,
            commits: run.commits,
            results: run.results,
            meters: run.meters,
            staged: Mutex::default(),
            runtime: run.runtime,
            stagers: Semaphore::new(processors),
        }
    }

    /// Keeps a change until its epoch is committed.
    pub fn stage_change(&self, epoch: Epoch, change: StagedChange) {
        self.results.admit(&change.body);
        self.staged().entry(epoch).or_default().changes.push(change);
    }

    /// Locks the epochs that wait for their commits.
    fn staged(&self) -> MutexGuard<'_, BTreeMap<Epoch, StagedEpoch>> {
        // Entries are added and removed as a whole, so a panic elsewhere leaves nothing half-done.
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits an epoch once: one transaction with its rows, its changes and its marker. The caller
    /// repeats it after an error.
    ///
    /// Fails with `Exists` if another job has committed the epoch or has rows in it, with `Denied`
    /// if this run is not the owner any more, and with the error of the session.
    async fn commit_once(&self, complete: &CompleteEpoch, staged: &StagedEpoch) -> StoreResult<()> {
        let mut link = self.link.open().await?;
        let session = link.session()?;
        session.execute(self.tables.begin(), Vec::new()).await?;
        if let Some(claim) = &self.claim {
            owner_row::confirm(session, &self.tables, claim).await?;
        }
        if !self.is_done(session, complete.epoch).await? {
            if complete.publishes {
                self.insert_rows(session, complete.epoch, staged).await?;
            }
            for change in &staged.changes {
                write_pieces(session, &self.tables, &change.name, &change.body).await?;
            }
            if complete.publishes {
                self.insert_marker(session, complete).await?;
            }
        }
        crash_point("output.before_marker");
        // The answer may be lost: the next attempt then finds the marker.
        session.execute("COMMIT", Vec::new()).await?;
        link.keep();
        Ok(())
    }

    /// Returns true if this job has committed `epoch`, by an attempt whose answer was lost.
    ///
    /// Fails with `Exists`, naming the other job, if the marker is not this job's.
    async fn is_done(&self, session: &mut dyn Session, epoch: Epoch) -> StoreResult<bool> {
        let Some((job, state)) = marker(session, &self.tables, epoch).await? else {
            return Ok(false);
        };
        let Publication { job: own_job, state: own_state, .. } = &self.publication;
        if (&job, &state) == (own_job, own_state) {
            return Ok(true);
        }
        let table = &self.tables.table;
        let message = format!(
            "epoch {epoch} of the table {table:?} was committed by job {job} with state {state}"
        );
        Err(StoreError::new(StoreErrorKind::Exists, message).hint(
            "nothing was overwritten; give --to a table of its own, or see that the other job has \
             ended and start again",
        ))
    }

    /// Inserts the rows of an epoch, or, for an upsert, makes the table hold them: they go into a
    /// table of the session first, and a few statements merge it.
    async fn insert_rows(
        &self,
        session: &mut dyn Session,
        epoch: Epoch,
        staged: &StagedEpoch,
    ) -> StoreResult<()> {
        let SqlSettings { rows: kind, write, changes, .. } = self.settings;
        let parts: Vec<Body> = staged.parts.values().cloned().collect();
        if write == WriteMode::Append {
            let rows = StagedRows { kind, epoch: Some(epoch), parts };
            let into = self.tables.quoted(Table::Rows);
            let inserted = session.insert(&into, rows).await;
            return inserted.map_err(|error| match error.kind {
                StoreErrorKind::Exists => self.occupied(epoch, &error),
                _ => error,
            });
        }
        session.insert(self.tables.staging(), StagedRows { kind, epoch: None, parts }).await?;
        for statement in self.tables.merge(epoch, changes) {
            session.execute(&statement, Vec::new()).await?;
        }
        Ok(())
    }

    /// Returns the error of an epoch whose rows stand in the table without a marker.
    fn occupied(&self, epoch: Epoch, error: &StoreError) -> StoreError {
        let table = &self.tables.table;
        let message =
            format!("the table {table:?} holds rows of epoch {epoch} already: {}", error.message);
        StoreError::new(StoreErrorKind::Exists, message)
            .hint("nothing was overwritten; see who else writes to that table")
    }

    /// Inserts the marker of an epoch: the job and the state that committed it, what was counted,
    /// and the time.
    async fn insert_marker(
        &self,
        session: &mut dyn Session,
        complete: &CompleteEpoch,
    ) -> StoreResult<()> {
        let sql = self.tables.sql(
            "INSERT INTO {epochs} (\"output\", \"epoch\", \"job\", \"state\", \"lines\", \
             \"words\", \"rows\", \"committed_at\") VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        );
        let CompleteEpoch { epoch, tally, rows, .. } = complete;
        let values = vec![
            self.tables.table.as_str().into(),
            (*epoch).into(),
            self.publication.job.as_str().into(),
            self.publication.state.as_str().into(),
            tally.lines.into(),
            tally.words.into(),
            (*rows).into(),
            SystemClock::new().wall_ms().into(),
        ];
        session.execute(&sql, values).await.map(drop)
    }

    /// Commits an epoch, with as many attempts as it takes.
    async fn commit(&self, complete: CompleteEpoch) -> Result<()> {
        complete.durable.wait().await;
        let epoch = complete.epoch;
        let staged = self.staged().remove(&epoch).unwrap_or_default();
        // An upsert without rows empties the table, which no epoch may skip.
        let is_skipped = complete.rows == 0
            && self.publication.empty_epochs == EmptyEpochs::Skip
            && self.settings.write == WriteMode::Append;
        // Also noted without rows: the results of windows after a restart build on this one.
        if let Some(commits) = self.commits.as_ref().filter(|_| complete.publishes) {
            commits.note(Attempt { epoch, parts: 0 }).await?;
        }
        let complete = CompleteEpoch { publishes: complete.publishes && !is_skipped, ..complete };
        if !complete.publishes && staged.changes.is_empty() {
            return Ok(());
        }
        let what = format!("epoch {epoch}");
        let commit = || self.commit_once(&complete, &staged);
        self.retrier.counted(OutputOp::Commit, &what, commit).await?;
        let sent = staged.parts.values().chain(staged.changes.iter().map(|change| &change.body));
        self.meters.output().bytes.add(sent.map(Body::bytes).sum());
        crash_point("output.after_marker");
        Ok(())
    }
}

/// Replaces an entry of the changelog. It is stored in pieces of at most [`PIECE_BYTES`], numbered
/// from 0, in the transaction that is open.
pub async fn write_pieces(
    session: &mut dyn Session,
    tables: &Tables,
    name: &str,
    body: &Body,
) -> StoreResult<()> {
    let output = tables.table.as_str();
    let delete = tables.sql("DELETE FROM {changelog} WHERE \"output\" = ? AND \"name\" = ?");
    session.execute(&delete, vec![output.into(), name.into()]).await?;
    let insert = tables.sql(
        "INSERT INTO {changelog} (\"output\", \"name\", \"piece\", \"content\") VALUES (?, ?, ?, ?)",
    );
    let (mut number, mut pieces) = (0_u64, body.pieces());
    loop {
        let read;
        // A piece may be on disk.
        (read, pieces) = supervise::blocking(move || (pieces.next(), pieces)).await;
        let Some(piece) = read.transpose().map_err(|error| unreadable(&error))? else { break };
        for piece in piece.chunks(PIECE_BYTES) {
            let content = SqlValue::Bytes(piece.to_vec());
            let values = vec![output.into(), name.into(), number.into(), content];
            session.execute(&insert, values).await?;
            number += 1;
        }
    }
    Ok(())
}

impl EpochWriter for SqlWriter {
    /// Encodes rows in the form in which they wait, part by part.
    fn encode(&self, sets: &[EpochRows], parts: u32) -> Result<Vec<EncodedPart>> {
        // The form in which rows can wait on disk and be read back one by one.
        let encoding = Encoding::new(Format::Parquet, None);
        let parts = encode_rows(sets, RowOrder::Hash, encoding, &self.runtime, parts)?;
        parts.iter().for_each(|part| self.results.admit(&part.body));
        Ok(parts)
    }

    /// Keeps a part until the commit of its epoch, in memory or on disk. Nothing is sent to the
    /// database yet.
    fn write_part(
        &self,
        epoch: Epoch,
        part: EncodedPart,
        PartSteps { known, .. }: PartSteps,
    ) -> BoxFuture<'_, Result<()>> {
        let EncodedPart { part, rows, body } = part;
        async move {
            crash_point("output.before_put");
            // The semaphore is never closed. Permits are given in the order of asking.
            let turn = self.stagers.acquire().await;
            let (kind, results) = (self.settings.rows, self.results.clone());
            let body = supervise::blocking(move || {
                let staged = stage(kind, &body)?;
                // Counted before the body that it was made of is dropped.
                results.admit(&staged);
                Ok::<_, Error>(staged)
            })
            .await?;
            drop(turn);
            let bytes = body.bytes();
            self.staged().entry(epoch).or_default().parts.insert(part, body);
            crash_point("output.after_put");
            // It fails only when the job ends.
            let _ = known.send(PartReport { part, rows, bytes, md5: String::new() });
            Ok(())
        }
        .boxed()
    }

    /// Inserts the rows of an epoch with its marker in one transaction, and repeats that while the
    /// server is out of reach.
    fn commit(&self, epoch: CompleteEpoch) -> BoxFuture<'_, Result<()>> {
        self.commit(epoch).boxed()
    }

    /// Returns table and epoch, for messages.
    fn place(&self, epoch: Epoch) -> String {
        format!("{} epoch {epoch}", self.tables.table)
    }

    /// Notes in the row of the owner that the run has ended, so that the next start need not wait.
    fn release(&self) -> BoxFuture<'_, StoreResult<()>> {
        async move {
            let Some(claim) = &self.claim else { return Ok(()) };
            let mut link = self.aside.open().await?;
            owner_row::release(link.session()?, &self.tables, claim).await?;
            link.keep();
            Ok(())
        }
        .boxed()
    }
}
