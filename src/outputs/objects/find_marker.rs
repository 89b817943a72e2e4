//! Finds the marker of an epoch in a store, and decides from it if the epoch is committed.

use bytes::Bytes;

use super::marker_json::{MARKER_BYTES_MAX, Marker};
use super::object_names::{Layout, PART};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::outputs::commit_evidence::CommitEvidence;
use crate::outputs::foreign_epoch::foreign_epoch;
use crate::outputs::retry_start::StartRetrier;
use crate::store::{Listing, Store, StoreErrorKind};

/// Returns true if the job has committed `epoch`: its marker is there, or a reader has taken the
/// epoch away since.
///
/// # Errors
///
/// `Configuration` if the marker is another job's or another state's.
pub async fn is_committed(
    retrier: &StartRetrier,
    store: &dyn Store,
    layout: &Layout,
    job: &str,
    evidence: &CommitEvidence,
    epoch: Epoch,
) -> Result<bool> {
    let key = layout.marker(epoch);
    if let Some(bytes) = find_marker(retrier, store, &key).await? {
        let marker = Marker::parse(&bytes);
        let is_own = marker.as_ref().is_some_and(|marker| {
            // The journal lies in this state, so a marker without a state id is of this state, too.
            let is_of_state = marker.state.as_ref().is_none_or(|id| evidence.ids.contains(id));
            marker.job == job && is_of_state
        });
        return match marker {
            Some(marker) if is_own && marker.epoch == epoch => Ok(true),
            Some(marker) if is_own => Err(misplaced(&key, marker.epoch)),
            _ => Err(foreign_epoch(&key, &Marker::owner_of(&bytes), evidence)),
        };
    }
    if evidence.settled.is_some_and(|settled| epoch <= settled) {
        tracing::debug!("{key} is not there, but the epoch was committed");
        return Ok(true);
    }
    let attempt = evidence.attempt.filter(|attempt| attempt.epoch == epoch && attempt.parts > 0);
    let Some(attempt) = attempt else { return Ok(false) };
    // All parts were there when the epoch was noted, and no reader takes parts without the marker.
    let prefix = format!("{}/{PART}", layout.dir(epoch));
    let most = attempt.parts as usize;
    let parts = retrier.run(|| store.list(Listing::new(&prefix).limit(most))).await?;
    let are_taken = parts.items.len() < most;
    if are_taken {
        tracing::warn!(
            "epoch {epoch} was taken away by its reader after it was committed: it is not \
             published again"
        );
    }
    Ok(are_taken)
}

/// Returns the bytes of the marker under `key`, if there is one.
pub async fn find_marker(
    retrier: &StartRetrier,
    store: &dyn Store,
    key: &str,
) -> Result<Option<Bytes>> {
    let find = || async {
        match store.get(key, MARKER_BYTES_MAX).await {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            // It is longer than any marker, so another program has written it.
            Err(error) if error.kind == StoreErrorKind::Invalid => Ok(Some(Bytes::new())),
            found => found.map(Some),
        }
    };
    retrier.run(find).await
}

/// Returns the error of a marker that names another epoch than the folder it is in.
fn misplaced(key: &str, epoch: Epoch) -> Error {
    let message = format!("{key} is the marker of epoch {epoch}: it was copied or renamed");
    Error::new(ErrorKind::Configuration, message)
        .hint("nothing was changed; remove that copy, or give another --to")
}
