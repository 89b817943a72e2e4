//! A database as the output of a job: what a start does with it.
//!
//! Only process 0 opens it, and its workers own all parts. Nothing is written before everything
//! that could stop the start was looked at: the columns of tables that exist, the rights to them,
//! the owner, and the markers. Then missing tables are made, and the row of the owner becomes that
//! of this run.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, FutureExt, ready};

use super::driver_traits::{Driver, Link, LinkUse, Session};
use super::epoch_writer::SqlWriter;
use super::marker::marker;
use super::owner_row;
use super::settings::SqlSettings;
use super::tables::{Table, Tables};
use crate::epoch::{AHEAD_MAX_MS, Epoch};
use crate::error::Result;
use crate::outputs::commit_evidence::CommitEvidence;
use crate::outputs::foreign_epoch::foreign_epoch;
use crate::outputs::output::{Claiming, OpenWriter, Output, OutputStart, WriterSettings};
use crate::outputs::owner::{Owner, Standing};
use crate::outputs::retry_start::StartRetrier;
use crate::store::{DatabaseTarget, StoreError, StoreErrorKind, StoreResult};

/// A database that is the output of a job.
#[derive(Debug)]
pub struct SqlOutput {
    /// The database and the table, as `--to` names them.
    target: DatabaseTarget,
    /// The limits of words and lines, and how rows come into the table.
    settings: SqlSettings,
    /// Opens sessions of this kind of database.
    driver: Arc<dyn Driver>,
    /// The names and statements of the tables.
    tables: Arc<Tables>,
    /// The session of the start, opened again after a failure.
    link: Link,
    /// The tables that are there.
    found: Mutex<BTreeSet<usize>>,
    /// Retries the statements of the start.
    retrier: StartRetrier,
}

impl SqlOutput {
    /// Returns the output in the database that `driver` opens.
    pub fn new(
        target: DatabaseTarget,
        settings: SqlSettings,
        driver: Arc<dyn Driver>,
        retrier: StartRetrier,
    ) -> Self {
        let tables = Arc::new(Tables::new(&target, settings.rows, settings.write));
        let link = Link::new(Arc::clone(&driver), Vec::new());
        SqlOutput { target, settings, driver, tables, link, found: Mutex::default(), retrier }
    }

    /// Looks at everything that could stop the start, and changes nothing. Returns facts about the
    /// database.
    ///
    /// Fails with `Denied` for a database that cannot hold the rows, a table that is not as this
    /// program makes it, and a right that is missing.
    async fn inspect(&self) -> StoreResult<Vec<(&'static str, String)>> {
        let mut session = self.driver.visit().await?;
        let facts = self.driver.examine(&mut *session).await?;
        let mut found = BTreeSet::new();
        for (number, table) in Table::ALL.into_iter().enumerate() {
            if self.look_at(&mut *session, table).await? {
                found.insert(number);
            }
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(facts)
    }

    /// Checks the columns of a table and the rights to it, by statements that touch no row. Returns
    /// true if it is there.
    async fn look_at(&self, session: &mut dyn Session, table: Table) -> StoreResult<bool> {
        let (query, name) = (self.tables.describe_query(), self.tables.described(table));
        let columns: Vec<_> = session
            .query(query, vec![name.as_str().into()])
            .await?
            .into_iter()
            .map(|row| (row[0].text(), row[1].text(), row[2].int()))
            .collect();
        if columns.is_empty() {
            return Ok(false);
        }
        if let Some(difference) = self.tables.difference(table, &columns) {
            return Err(self.foreign(table, &difference));
        }
        for trial in self.tables.trials(table) {
            session.execute(&trial, Vec::new()).await?;
        }
        Ok(true)
    }

    /// Returns the error of a foreign table.
    fn foreign(&self, table: Table, difference: &str) -> StoreError {
        let (name, place) = (self.tables.name(table), self.driver.describe());
        let message = format!("the table {name:?} in {place} cannot be used: {difference}");
        StoreError::new(StoreErrorKind::Denied, message).hint(
            "nothing was changed; give ?table=NAME in --to for a table of its own, or another \
             database",
        )
    }

    /// Returns whether a table was there at the start.
    fn has(&self, table: Table) -> bool {
        let number = Table::ALL.iter().position(|other| *other == table);
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        number.is_some_and(|number| found.contains(&number))
    }

    /// Refuses a table that holds rows without an epoch, or epochs of another job. Jobs that the
    /// owner has taken the table from are not foreign.
    ///
    /// Fails with `Denied`, naming the other job and its newest epoch.
    async fn refuse_foreign(
        &self,
        session: &mut dyn Session,
        start: &OutputStart<'_>,
        former: Option<&Standing>,
    ) -> StoreResult<()> {
        let mut markers = 0;
        if self.has(Table::Epochs) {
            let sql = self.tables.sql(
                "SELECT \"state\", \"job\", max(\"epoch\"), count(*) FROM {epochs} WHERE \
                 \"output\" = ? GROUP BY \"state\", \"job\" ORDER BY 3",
            );
            // The jobs that this one took the table from.
            let own = former.map(|former| &former.owner);
            let own = own.filter(|owner| start.ids.contains(&owner.state));
            let is_former = |state: &str| own.is_some_and(|owner| owner.has_been(state));
            for row in session.query(&sql, vec![self.tables.table.as_str().into()]).await? {
                let (state, job) = (row[0].text(), row[1].text());
                markers += row[3].int();
                if !start.ids.contains(&state) && !is_former(&state) {
                    let newest = row[2].int();
                    let difference = format!(
                        "it holds epochs of job {job} with state {state}, the newest of them \
                         {newest}"
                    );
                    return Err(self.owned_by(&difference));
                }
            }
        }
        if markers == 0 && former.is_none() && self.has(Table::Rows) {
            let sql = self.tables.sql("SELECT 1 FROM {rows} LIMIT 1");
            if !session.query(&sql, Vec::new()).await?.is_empty() {
                return Err(self.foreign(Table::Rows, "it holds rows, and no job has a marker"));
            }
        }
        Ok(())
    }

    /// Returns the error of a table that is another job's.
    fn owned_by(&self, difference: &str) -> StoreError {
        let (table, place) = (&self.tables.table, self.driver.describe());
        let message = format!("the table {table:?} in {place} is another job's: {difference}");
        StoreError::new(StoreErrorKind::Denied, message).hint(
            "nothing was changed; give ?table=NAME in --to for a table of its own, or --take-over \
             to end that job and go on in its table",
        )
    }

    /// Makes the tables that are missing. Another start may make them at the same time.
    async fn make_tables(&self, session: &mut dyn Session) -> StoreResult<()> {
        for table in Table::ALL.into_iter().filter(|table| !self.has(*table)) {
            session.execute(&self.tables.create(table), Vec::new()).await?;
        }
        Ok(())
    }

    /// Checks the markers, makes missing tables and becomes the owner. The term is one more than
    /// that of `former`, the owner that was read before.
    ///
    /// Returns `Lost` if the row of the owner is not that of `former` any more.
    async fn take(
        &self,
        start: &OutputStart<'_>,
        former: Option<&Standing>,
    ) -> StoreResult<Claiming> {
        let mut link = self.link.open().await?;
        let session = link.session()?;
        if !start.take_over {
            self.refuse_foreign(session, start, former).await?;
        }
        self.make_tables(session).await?;
        let mut owner = Owner::new(start.publication, &start.run, start.interval_ms);
        if let Some(former) = former {
            owner.follow(&former.owner);
        }
        let term = former.map_or(0, |former| former.term) + 1;
        let claim = Standing { term, owner };
        let taken = owner_row::take(session, &self.tables, former, &claim).await?;
        link.keep();
        Ok(if taken { Claiming::Taken(Box::new(claim)) } else { Claiming::Lost })
    }

    /// Returns job and state in the marker of an epoch; `None` if it has none.
    async fn marker(&self, epoch: Epoch) -> StoreResult<Option<(String, String)>> {
        let mut link = self.link.open().await?;
        let found = marker(link.session()?, &self.tables, epoch).await?;
        link.keep();
        Ok(found)
    }

    /// Returns the newest epoch with a marker, from `from` on, that is not far from now.
    async fn newest_marker(&self, from: Epoch, most: Epoch) -> StoreResult<Option<Epoch>> {
        let mut link: LinkUse<'_> = self.link.open().await?;
        let sql = self.tables.sql(
            "SELECT \"epoch\" FROM {epochs} WHERE \"output\" = ? AND \"epoch\" >= ? AND \
             \"epoch\" <= ? ORDER BY \"epoch\" DESC LIMIT 1",
        );
        let values = vec![self.tables.table.as_str().into(), from.into(), most.into()];
        let rows = link.session()?.query(&sql, values).await?;
        link.keep();
        Ok(rows.first().map(|row| row[0].int().unsigned_abs()))
    }
}

impl Output for SqlOutput {
    /// Connects and examines the tables that are there, in process 0: the others send their rows
    /// there and open nothing.
    ///
    /// Fails with `Configuration` if rights are missing or a table is foreign, and with `Temporary`
    /// if the database is out of reach for a while.
    fn probe(&self, warns: bool) -> BoxFuture<'_, Result<()>> {
        if !warns {
            // The other processes send their rows to process 0 and open nothing.
            return ready(Ok(())).boxed();
        }
        async move { self.retrier.run(|| self.inspect()).await.map(drop) }.boxed()
    }

    /// Reads the row of the owner.
    ///
    /// Fails with `Configuration`, naming the owner, if another run has not given the table back
    /// and may not be taken over.
    fn standing<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
    ) -> BoxFuture<'a, Result<Option<Standing>>> {
        async move {
            if !self.has(Table::Owners) {
                return Ok(None);
            }
            let read = || async {
                let mut link = self.link.open().await?;
                let standing = owner_row::read(link.session()?, &self.tables).await?;
                link.keep();
                Ok(standing)
            };
            let standing = self.retrier.run(read).await?;
            match &standing {
                Some(Standing { owner, .. })
                    if !start.take_over && !owner.released && !start.ids.contains(&owner.state) =>
                {
                    Err(self.owned_by(&format!("it is owned by {owner}")).into())
                }
                _ => Ok(standing),
            }
        }
        .boxed()
    }

    /// Writes the row of the owner and makes the tables that are missing, in one transaction.
    ///
    /// Returns `Lost` if another start was faster.
    fn claim<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
        former: Option<&'a Standing>,
        _recent: Epoch,
    ) -> BoxFuture<'a, Result<Claiming>> {
        async move {
            let claiming = self.retrier.run(|| self.take(start, former)).await?;
            if claiming != Claiming::Lost {
                let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                *found = (0..Table::ALL.len()).collect();
            }
            Ok(claiming)
        }
        .boxed()
    }

    /// Looks the marker row of an epoch up. One without a marker is committed if the journal has
    /// settled it: retention may have removed the row.
    ///
    /// Fails with `Configuration` for the marker of another job.
    fn is_committed<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
        evidence: &'a CommitEvidence,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<bool>> {
        async move {
            let found = match self.has(Table::Epochs) {
                true => self.retrier.run(|| self.marker(epoch)).await?,
                false => None,
            };
            match found {
                None => Ok(evidence.settled.is_some_and(|settled| epoch <= settled)),
                Some((job, state))
                    if job == start.publication.job && start.ids.contains(&state) =>
                {
                    Ok(true)
                }
                Some((job, state)) => {
                    let marker =
                        format!("the marker of epoch {epoch} of the table {:?}", self.tables.table);
                    let owner = format!("job {job} with state {state}");
                    Err(foreign_epoch(&marker, &owner, evidence))
                }
            }
        }
        .boxed()
    }

    /// Does nothing: an epoch without a marker has no rows.
    fn clear<'a>(&'a self, _epochs: &'a [Epoch]) -> BoxFuture<'a, Result<()>> {
        // A transaction that did not commit left nothing.
        ready(Ok(())).boxed()
    }

    /// Returns the greatest epoch of a marker from `from` on that is not far in the future.
    fn newest<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
        from: Epoch,
    ) -> BoxFuture<'a, Result<Option<Epoch>>> {
        let most = start.wall_ms.saturating_add(AHEAD_MAX_MS);
        async move {
            // Before the claim the tables may not be there yet.
            if !self.has(Table::Epochs) {
                return Ok(None);
            }
            self.retrier.run(|| self.newest_marker(from, most)).await
        }
        .boxed()
    }

    /// Returns the writer of a run. It has two sessions: one for rows and one for the changelog.
    fn writer(&self, run: WriterSettings) -> Result<OpenWriter> {
        // The writer has sessions of its own, and a server has few to give.
        self.link.close();
        let has_state = run.state.is_some();
        let (driver, tables) = (Arc::clone(&self.driver), Arc::clone(&self.tables));
        let writer = Arc::new(SqlWriter::new(driver, tables, self.settings, run));
        let changelog = has_state.then(|| Arc::clone(&writer) as _);
        Ok(OpenWriter { writer, changelog })
    }

    /// Connects and examines the tables, and changes nothing: the facts for `wordtide check`.
    fn check(&self) -> BoxFuture<'_, Result<Vec<(&'static str, String)>>> {
        async move {
            let facts = self.retrier.run(|| self.inspect()).await?;
            let mut found = vec![("output", self.target.to_string())];
            found.push(("database", self.driver.describe()));
            found.extend(facts);
            for (name, table) in
                [("table", Table::Rows), ("markers", Table::Epochs), ("owners", Table::Owners)]
            {
                let state = if self.has(table) { "is there" } else { "will be made by a run" };
                found.push((name, format!("{} {state}", self.tables.name(table))));
            }
            let result =
                "the rights to the tables that are there suffice; no table was made or changed";
            found.push(("result", result.to_owned()));
            Ok(found)
        }
        .boxed()
    }
}
