//! The changelog of totals and windows as rows of a table.
//!
//! A change is written by the transaction that commits its epoch. A base, which replaces changes of
//! committed epochs, has a transaction of its own. Long ones are several rows.

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};

use super::driver_traits::SqlValue;
use super::epoch_writer::{SqlWriter, StagedChange, write_pieces};
use crate::epoch::Epoch;
use crate::error::Result;
use crate::meters::OutputOp;
use crate::outputs::changelog::{ChangelogStore, StoredChange};
use crate::store::{Body, StoreResult};

impl SqlWriter {
    /// Returns the parameters that name a row of the changelog: the output and `name`.
    fn named(&self, name: &str) -> Vec<SqlValue> {
        vec![self.tables.table.as_str().into(), name.into()]
    }

    /// Writes a base once. The caller repeats it after an error.
    async fn write_once(&self, name: &str, body: &Body) -> StoreResult<()> {
        let mut link = self.aside.open().await?;
        let session = link.session()?;
        session.execute(self.tables.begin(), Vec::new()).await?;
        write_pieces(session, &self.tables, name, body).await?;
        session.execute("COMMIT", Vec::new()).await?;
        link.keep();
        Ok(())
    }

    /// Runs a statement on the changelog.
    async fn change(&self, template: &str, values: Vec<SqlValue>) -> StoreResult<()> {
        let mut link = self.aside.open().await?;
        link.session()?.execute(&self.tables.sql(template), values).await?;
        link.keep();
        Ok(())
    }

    /// Runs a query on the changelog.
    async fn ask(&self, template: &str, values: Vec<SqlValue>) -> StoreResult<Vec<Vec<SqlValue>>> {
        let mut link = self.aside.open().await?;
        let rows = link.session()?.query(&self.tables.sql(template), values).await?;
        link.keep();
        Ok(rows)
    }
}

/// Returns a pattern for the names in the directory `dir`. Such names have neither `%` nor `_`, and
/// comparing them by less and greater would depend on the collation of the database.
fn inside(dir: &str) -> String {
    format!("{dir}/%")
}

impl ChangelogStore for SqlWriter {
    /// Lists the stored changes of a part, by name and length.
    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<Vec<StoredChange>>> {
        async move {
            let rows = self
                .ask(
                    "SELECT \"name\", \"piece\", length(\"content\") FROM {changelog} WHERE \
                     \"output\" = ? AND \"name\" LIKE ? ORDER BY \"name\", \"piece\"",
                    self.named(&inside(dir)),
                )
                .await?;
            let mut found: Vec<StoredChange> = Vec::new();
            for row in rows {
                let (name, bytes) = (row[0].text(), row[2].int().unsigned_abs());
                match found.last_mut().filter(|last| last.name == name) {
                    Some(last) => last.bytes += bytes,
                    None => found.push(StoredChange { name, bytes }),
                }
            }
            Ok(found)
        }
        .boxed()
    }

    /// Reads a stored change.
    fn read<'a>(&'a self, stored: &'a StoredChange) -> BoxFuture<'a, StoreResult<Bytes>> {
        async move {
            let (mut content, mut piece) = (Vec::new(), 0_u64);
            // Piece by piece, since a server limits the length of an answer's row and ours memory.
            while (content.len() as u64) < stored.bytes {
                let mut values = self.named(&stored.name);
                values.push(piece.into());
                let template = "SELECT \"content\" FROM {changelog} WHERE \"output\" = ? AND \
                                \"name\" = ? AND \"piece\" = ?";
                let Some(mut row) = self.ask(template, values).await?.pop() else { break };
                content.extend_from_slice(&row.swap_remove(0).bytes());
                piece += 1;
            }
            Ok(content.into())
        }
        .boxed()
    }

    /// Stages a change, which the transaction of its epoch stores with the rows.
    fn write_change(
        &self,
        epoch: Epoch,
        name: String,
        bytes: Vec<u8>,
    ) -> BoxFuture<'_, Result<()>> {
        self.stage_change(epoch, StagedChange { name, body: Body::from(bytes) });
        ready(Ok(())).boxed()
    }

    /// Stores a base, which replaces the changes before it, in a transaction of its own.
    fn write_base(&self, name: String, bytes: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        let body = Body::from(bytes);
        async move {
            let write = || self.write_once(&name, &body);
            self.retrier.counted(OutputOp::Put, &name, write).await
        }
        .boxed()
    }

    /// Deletes one stored change.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        let template = "DELETE FROM {changelog} WHERE \"output\" = ? AND \"name\" = ?";
        self.change(template, self.named(name)).boxed()
    }

    /// Deletes all that is stored of a part.
    fn clear<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        let template = "DELETE FROM {changelog} WHERE \"output\" = ? AND \"name\" LIKE ?";
        self.change(template, self.named(&inside(dir))).boxed()
    }

    /// Returns table and name, for messages.
    fn place(&self, name: &str) -> String {
        format!("wordtide_changelog {name}")
    }
}
