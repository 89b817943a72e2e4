//! The right of a run to write below its prefix, looked at before anything is stored.
//!
//! Locally the right is a lock; on object stores it is a claim. Either can be lost under a running
//! job: the lock file is removed, or another job takes the prefix over. The run must then end
//! before it stores one more object.

use std::fs::File;
use std::sync::Arc;

use super::claim_object::Claim;
use crate::epoch::Epoch;
use crate::store::local::{LocalStore, PrefixLock};
use crate::store::{OwnerCheck, StoreError, StoreErrorKind, StoreResult};
use crate::supervise;

/// The right of this process to write below the prefix. Clones are the same right.
#[derive(Clone, Debug, Default)]
pub enum Ownership {
    /// Nothing is to be looked at: the output has no other owner.
    #[default]
    Unshared,
    /// The lock on a local prefix, held by this process.
    Locked(Arc<PrefixLock>),
    /// The lock on a local prefix, held by process 0, which wrote this note into it.
    LockedBy(LocalStore, String, String),
    /// The claim on a prefix of an object store.
    Claimed(Claim),
}

impl Ownership {
    /// Succeeds while this run owns the prefix.
    ///
    /// # Errors
    ///
    /// `Exists`, naming the new owner where it is known, if it does not any more; else those of
    /// the store.
    pub async fn confirm(&self) -> StoreResult<()> {
        match (self, self.check()) {
            (Ownership::Claimed(claim), _) => claim.confirm().await,
            (_, Some(check)) => supervise::blocking(move || check()).await,
            (_, None) => Ok(()),
        }
    }

    /// Returns the check of a right on this host, for the thread that writes. `None` for others.
    pub fn check(&self) -> Option<OwnerCheck> {
        match self.clone() {
            Ownership::Unshared | Ownership::Claimed(_) => None,
            Ownership::Locked(lock) => Some(Arc::new(move || lock.check())),
            Ownership::LockedBy(store, prefix, note) => {
                Some(Arc::new(move || match store.lock_note(&prefix) {
                    Ok(found) if found.as_ref() == Some(&note) => Ok(()),
                    Ok(_) => Err(lost(&prefix)),
                    Err(error) => Err(error),
                }))
            }
        }
    }

    /// Gives the output back, so that the next start need not wait.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn release(&self) -> StoreResult<()> {
        match self {
            Ownership::Claimed(claim) => claim.release().await,
            Ownership::Locked(lock) => {
                lock.release();
                Ok(())
            }
            Ownership::Unshared | Ownership::LockedBy(..) => Ok(()),
        }
    }

    /// Returns the locked file, if the right is a lock of this process.
    pub fn lock(&self) -> Option<&Arc<File>> {
        match self {
            Ownership::Locked(lock) => Some(lock.file()),
            _ => None,
        }
    }

    /// Notes that `epoch` is committed.
    pub fn committed(&self, epoch: Epoch) {
        if let Ownership::Claimed(claim) = self {
            claim.committed(epoch);
        }
    }
}

fn lost(prefix: &str) -> StoreError {
    let message = format!("process 0 does not hold the lock on {prefix:?} any more");
    StoreError::new(StoreErrorKind::Exists, message)
        .hint("see that no other job writes to --to, then start again")
}
