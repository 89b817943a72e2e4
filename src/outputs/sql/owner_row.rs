//! The owner of a table: a row that names the run which may write to it.
//!
//! The transaction of each commit locks this row and looks at it. A run whose row was replaced has
//! lost the table, and commits nothing any more. No clock is needed for that.

use super::driver_traits::{Session, SqlValue};
use super::tables::Tables;
use crate::outputs::owner::{OWNER_FORMAT, Owner, Standing};
use crate::store::{StoreError, StoreErrorKind, StoreResult};

/// Reads the owner.
///
/// # Errors
///
/// `Denied` if it was written by a later release; else those of the session.
pub async fn read(session: &mut dyn Session, tables: &Tables) -> StoreResult<Option<Standing>> {
    let sql = tables.sql("SELECT \"term\", \"owner\" FROM {owners} WHERE \"output\" = ?");
    let rows = session.query(&sql, vec![tables.table.as_str().into()]).await?;
    let Some(row) = rows.into_iter().next() else { return Ok(None) };
    let (term, text) = (row[0].int().unsigned_abs(), row[1].text());
    match serde_json::from_slice::<Owner>(text.as_bytes()) {
        Ok(owner) if owner.format <= OWNER_FORMAT => Ok(Some(Standing { term, owner })),
        _ => {
            let table = &tables.table;
            let message = format!(
                "the owner of {table:?} in wordtide_owners was not written by this release or an \
                 earlier one"
            );
            Err(StoreError::new(StoreErrorKind::Denied, message)
                .hint("run the release that wrote it, or give another ?table= in --to"))
        }
    }
}

/// Makes `claim` the owner, if `former` still is. Returns false if another start was quicker.
///
/// Fails with the error of the session. The transaction is then rolled back.
pub async fn take(
    session: &mut dyn Session,
    tables: &Tables,
    former: Option<&Standing>,
    claim: &Standing,
) -> StoreResult<bool> {
    let output = SqlValue::from(tables.table.as_str());
    session.execute(tables.begin(), Vec::new()).await?;
    let sql = tables.sql("SELECT \"run\" FROM {owners} WHERE \"output\" = ?{lock}");
    let rows = session.query(&sql, vec![output.clone()]).await?;
    let run = rows.first().map(|row| row[0].text());
    let expected = former.map(|former| former.owner.run.clone());
    // A repeated attempt finds its own row, if only the answer of the first was lost.
    if run.as_ref() == Some(&claim.owner.run) || run != expected {
        session.execute("COMMIT", Vec::new()).await?;
        return Ok(run.as_ref() == Some(&claim.owner.run));
    }
    let values =
        vec![claim.term.into(), claim.owner.run.as_str().into(), encoded(&claim.owner)?, output];
    let template = match former {
        Some(_) => {
            "UPDATE {owners} SET \"term\" = ?, \"run\" = ?, \"owner\" = ? WHERE \"output\" = ?"
        }
        None => {
            "INSERT INTO {owners} (\"term\", \"run\", \"owner\", \"output\") VALUES (?, ?, ?, ?)"
        }
    };
    match session.execute(&tables.sql(template), values).await {
        // Two starts have found no row.
        Err(error) if error.kind == StoreErrorKind::Exists => {
            session.execute("ROLLBACK", Vec::new()).await?;
            return Ok(false);
        }
        executed => executed.map(drop)?,
    }
    session.execute("COMMIT", Vec::new()).await?;
    Ok(true)
}

/// Locks the row of the owner until the end of the transaction, and succeeds if it is that of
/// `claim`.
///
/// # Errors
///
/// `Exists`, naming the new owner, if it is not.
pub async fn confirm(
    session: &mut dyn Session,
    tables: &Tables,
    claim: &Standing,
) -> StoreResult<()> {
    let sql = tables.sql("SELECT \"run\", \"owner\" FROM {owners} WHERE \"output\" = ?{lock}");
    let rows = session.query(&sql, vec![tables.table.as_str().into()]).await?;
    let Some(row) = rows.first() else {
        let table = &tables.table;
        let message = format!("the owner of {table:?} was removed from wordtide_owners");
        return Err(StoreError::new(StoreErrorKind::Exists, message)
            .hint("see that no other job writes to --to, then start again"));
    };
    if row[0].text() == claim.owner.run {
        return Ok(());
    }
    let owner = serde_json::from_slice::<Owner>(row[1].text().as_bytes()).unwrap_or_default();
    let message = format!("the output was taken over by {owner}");
    Err(StoreError::new(StoreErrorKind::Exists, message).hint(
        "this run has published nothing since; give --to a table of its own, or --take-over to \
         take it back",
    ))
}

/// Gives the table back, if `claim` still is the owner.
///
/// Fails with the error of the session; the next start then waits for its own look at the row.
pub async fn release(
    session: &mut dyn Session,
    tables: &Tables,
    claim: &Standing,
) -> StoreResult<()> {
    let sql = tables.sql("UPDATE {owners} SET \"owner\" = ? WHERE \"output\" = ? AND \"run\" = ?");
    let owner = Owner { released: true, ..claim.owner.clone() };
    let values =
        vec![encoded(&owner)?, tables.table.as_str().into(), claim.owner.run.as_str().into()];
    session.execute(&sql, values).await.map(drop)
}

/// Returns an owner as the value of its column.
fn encoded(owner: &Owner) -> StoreResult<SqlValue> {
    serde_json::to_string(owner).map(SqlValue::Text).map_err(|error| {
        StoreError::new(StoreErrorKind::Invalid, format!("an owner cannot be written: {error}"))
    })
}
