//! Changes of the ledger while the disk may be full.

use std::io;
use std::time::Duration;

use super::ledger::is_full;
use crate::error::{Error, ErrorKind, Result};
use crate::sources::log::SourceLog;

/// How often a full disk is looked at again.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// Makes a change of the ledger; waits while the disk is full. Returns `None` if a stop was asked
/// for meanwhile.
///
/// Fails with `Disk` for any other error of the disk.
pub async fn changed<T>(
    log: &mut SourceLog,
    mut change: impl FnMut() -> io::Result<T>,
) -> Result<Option<T>> {
    let (stop, mut is_reported) = (log.stop().clone(), false);
    loop {
        let error = match change() {
            Ok(changed) => return Ok(Some(changed)),
            Err(error) => error,
        };
        if !is_full(&error) {
            let message = format!("cannot note which files are read: {error}");
            return Err(Error::new(ErrorKind::Disk, message).cause(error).hint("see --state"));
        }
        if !std::mem::replace(&mut is_reported, true) {
            tracing::warn!("the disk of --state is full: reading stops until there is room again");
        }
        let pause = async {
            tokio::select! {
                () = tokio::time::sleep(DISK_PAUSE) => false,
                () = stop.stopped() => true,
            }
        };
        if log.serve_during(pause).await? {
            return Ok(None);
        }
    }
}
