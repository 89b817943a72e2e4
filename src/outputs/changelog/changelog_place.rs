//! The trait of a place for changelogs.

use std::fmt::Debug;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};

use crate::epoch::Epoch;
use crate::error::Result;
use crate::store::StoreResult;

/// A stored piece of a changelog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChange {
    /// Its name: directory, part and epoch.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// A place for changelogs, beside the results and unseen by their readers. Names use `/`.
pub trait ChangelogStore: Debug + Send + Sync + 'static {
    /// Returns what is stored in the directory `dir`, at any depth.
    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<Vec<StoredChange>>>;

    /// Returns the bytes of a stored piece.
    fn read<'a>(&'a self, stored: &'a StoredChange) -> BoxFuture<'a, StoreResult<Bytes>>;

    /// Stores a change of `epoch`. It is durable when the epoch is committed. An error is final.
    fn write_change(&self, epoch: Epoch, name: String, bytes: Vec<u8>)
    -> BoxFuture<'_, Result<()>>;

    /// Stores the base that replaces changes of committed epochs. Returns when it is durable. An
    /// error is final.
    fn write_base(&self, name: String, bytes: Vec<u8>) -> BoxFuture<'_, Result<()>>;

    /// Removes a piece. Succeeds if there is none.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, StoreResult<()>>;

    /// Removes all that is stored in `dir`.
    fn clear<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<()>>;

    /// Removes temporary files that a crash left in `dir`, if the place has such files.
    fn sweep<'a>(&'a self, _dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        ready(Ok(())).boxed()
    }

    /// Returns a name with the place of it, for messages.
    fn place(&self, name: &str) -> String;
}
