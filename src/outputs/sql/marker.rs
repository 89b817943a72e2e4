//! The marker of an epoch: a row of `wordtide_epochs`.

use super::driver_traits::Session;
use super::tables::Tables;
use crate::epoch::Epoch;
use crate::store::StoreResult;

/// Returns job and state in the marker of an epoch, if it is committed.
///
/// Fails with the error of the session.
pub async fn marker(
    session: &mut dyn Session,
    tables: &Tables,
    epoch: Epoch,
) -> StoreResult<Option<(String, String)>> {
    // Without a lock: a query that follows the lock on the owner sees what was committed before it.
    let sql = tables
        .sql("SELECT \"job\", \"state\" FROM {epochs} WHERE \"output\" = ? AND \"epoch\" = ?");
    let rows = session.query(&sql, vec![tables.table.as_str().into(), epoch.into()]).await?;
    Ok(rows.first().map(|row| (row[0].text(), row[1].text())))
}
