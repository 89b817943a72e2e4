//! Object stores: Alibaba Cloud OSS, S3 and the local directory, as one small trait.
//!
//! An epoch is published as a few whole objects. Their names are a function of prefix, epoch and
//! part, and their bytes a function of the input. The [`Store`] trait relies on two properties:
//!
//! * **An object is atomic.** A reader sees all of it or nothing. Object stores guarantee that;
//!   [`local`] writes a temporary file beside the object, syncs it and renames it.
//! * **A lost answer is harmless.** Storing the same bytes under the same key again changes
//!   nothing, so an operation with an [indeterminate](Outcome) failure is repeated.
//!   [`Store::put_new`] compares the content after a conflict, because its second attempt meets its
//!   own first one.
//!
//! A [`StoreError`] states if a retry can help ([`StoreErrorKind`]) and has a hint for the
//! operator. A store makes a few quick attempts only. The sink retries for as long as it takes.
//!
//! Keys are relative to the root of the store, a bucket or a directory, and use `/`. [`Target`]
//! splits the value of `--to` into root and prefix. Only this module names `opendal`.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};

use self::local::LocalStore;
use self::remote::RemoteStore;
use crate::error::Result;

mod body;
mod error;
pub mod local;
#[cfg(test)]
#[path = "../../tests/store/memory.rs"]
pub mod memory;
mod probe_at_start;
pub mod remote;
mod settings;
pub mod stdout;
mod target;
mod waiting_results;

pub use body::{Body, BodyWriter};
pub use error::{Outcome, StoreError, StoreErrorKind};
pub use probe_at_start::{ConditionalPuts, StoreFacts, StoreProbe, Versioning};
pub use remote::{Environment, http_client};
pub use settings::{Addressing, StoreSettings};
pub use target::{DatabaseKind, DatabaseTarget, SearchProduct, SearchTarget, SslMode, Target};
pub use waiting_results::{Level, PendingResults, ResultsLimits};

/// The result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// The last step of creating an object; nothing begins before it is awaited.
pub type Creation<'a> = BoxFuture<'a, StoreResult<Stored>>;

/// Called by [`Store::prepare_new`] when the object is written and is about to be synced. Dropped
/// if it cannot be written.
pub type OnWritten = Box<dyn FnOnce() + Send>;

/// Succeeds while this process may write. It may block.
pub type OwnerCheck = Arc<dyn Fn() -> StoreResult<()> + Send + Sync>;

/// A store of whole objects, each under a key.
///
/// A future may be dropped at any time. The operation may then have succeeded or not, as after an
/// indeterminate error. No method panics because of an answer of a server.
pub trait Store: Send + Sync + Debug + 'static {
    /// Stores `body` under `key` and replaces an object that exists.
    ///
    /// When it returns, the bytes are durable. In a local directory the name is durable only after
    /// [`Store::seal`].
    fn put<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>>;

    /// Creates the object `key` from `body`; never replaces one.
    ///
    /// Succeeds if the object exists with exactly these bytes, because they may come from an
    /// earlier attempt of the caller whose answer was lost. Of several concurrent calls with
    /// different bytes, one succeeds.
    ///
    /// A store that ignores conditional requests is read first, which leaves a window for a
    /// concurrent writer; [`Store::probe_put_new`] finds out.
    ///
    /// # Errors
    /// [`StoreErrorKind::Exists`] if the object exists with other bytes. They are not changed.
    fn put_new<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>>;

    /// Works as [`Store::put_new`] and makes the name durable, too: for parts of an epoch, which
    /// no reader takes before its marker. In a local directory a crash may leave a torn object, and
    /// a reader may see it grow; the next start clears an epoch without a marker.
    ///
    /// The part is written first, if it can be written without a sync. What is returned makes it
    /// durable; if that is dropped instead, nothing remains.
    ///
    /// # Errors
    /// As [`Store::put_new`], from either step.
    fn write_part<'a>(
        &'a self,
        key: &'a str,
        body: Body,
    ) -> BoxFuture<'a, StoreResult<Creation<'a>>> {
        let create = async move {
            let stored = self.put_new(key, body).await?;
            self.seal(key.rsplit_once('/').map_or("", |(dir, _)| dir)).await?;
            Ok(stored)
        };
        ready(Ok(create.boxed())).boxed()
    }

    /// Returns true if the first step of [`Store::write_part`] writes the part, so that the syncs
    /// of several parts can begin together. False if it does nothing: then waiting saves nothing.
    fn writes_before_sync(&self) -> bool {
        false
    }

    /// Prepares the object `key` of `body`: writes what can be written without a sync, calls
    /// `written`, and syncs that. Returns the future that creates the object as [`Store::put_new`]
    /// does. The object is invisible before that is awaited. If either is dropped instead, nothing
    /// remains. A store that has nothing to prepare returns at once.
    ///
    /// # Errors
    /// Those of the preparation. The object may still be created by [`Store::put_new`].
    fn prepare_new<'a>(
        &'a self,
        key: &'a str,
        body: Body,
        written: OnWritten,
    ) -> BoxFuture<'a, StoreResult<Creation<'a>>> {
        async move {
            written();
            // Within a future of its own: nothing may begin before it is awaited.
            Ok(async move { self.put_new(key, body).await }.boxed())
        }
        .boxed()
    }

    /// Works as the first step of [`Store::write_part`], on this thread, which may block. `None` if
    /// the store has no such step.
    fn write_part_here(&self, _key: &str, _body: &Body) -> Option<StoreResult<Creation<'static>>> {
        None
    }

    /// Returns this store with `check`, which it then calls before an object gets its name, on the
    /// thread that writes. An error of the check is the write's. What [`Store::prepare_new`] does
    /// before and what is removed is not checked. `None` if the store does not write on threads of
    /// this process.
    fn checked_by(&self, _check: OwnerCheck) -> Option<Arc<dyn Store>> {
        None
    }

    /// Creates the object `key` twice, from `first` and then from different bytes, and returns
    /// whether the store refused the second. Remembers the answer for [`Store::put_new`] and
    /// [`Store::facts`]. The object remains, with one content or the other.
    fn probe_put_new<'a>(
        &'a self,
        key: &'a str,
        first: Body,
        second: Body,
    ) -> BoxFuture<'a, StoreResult<ConditionalPuts>> {
        async move {
            self.put_new(key, first).await?;
            match self.put_new(key, second).await {
                Ok(_) => Ok(ConditionalPuts::Ignored),
                Err(refused) if refused.kind == StoreErrorKind::Exists => {
                    Ok(ConditionalPuts::Honoured)
                }
                Err(failed) => Err(failed),
            }
        }
        .boxed()
    }

    /// Returns the bytes under `key`.
    ///
    /// # Errors
    /// [`StoreErrorKind::Invalid`] if the object is longer than `bytes_max`;
    /// [`StoreErrorKind::NotFound`] if there is none.
    fn get<'a>(&'a self, key: &'a str, bytes_max: u64) -> BoxFuture<'a, StoreResult<Bytes>>;

    /// Returns the bytes `range` of the object under `key`, which is not empty; fewer where the
    /// object ends. With `etag`, only if the object has it.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`] if there is no such object; [`StoreErrorKind::Exists`] if it
    /// has another ETag.
    fn get_range<'a>(
        &'a self,
        key: &'a str,
        range: Range<u64>,
        etag: Option<&'a str>,
    ) -> BoxFuture<'a, StoreResult<Bytes>> {
        async move {
            debug_assert!(etag.is_none(), "a store without ETags is asked for one");
            let whole = self.get(key, u64::MAX).await?;
            let bytes = whole.len() as u64;
            Ok(whole.slice(range.start.min(bytes) as usize..range.end.min(bytes) as usize))
        }
        .boxed()
    }

    /// Returns the objects whose key begins with `ask.prefix`, at any depth, in the order of their
    /// keys' bytes. Temporary files of unfinished writes are not among them.
    fn list<'a>(&'a self, ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<ObjectEntry>>>;

    /// Returns the directories whose name begins with `ask.prefix` and has no `/` after it except
    /// at its end, in the order of their names' bytes. A directory is the common beginning of keys
    /// up to a `/`.
    fn list_dirs<'a>(&'a self, ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<String>>>;

    /// Removes the object under `key`. Succeeds if there is none.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>>;

    /// Removes all objects in the directory `dir`, at any depth, and the temporary files of a
    /// crash. Returns their number. The caller has checked that nothing committed is in it.
    fn clear<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<u64>>;

    /// Makes the name of `dir` and the names of the objects in it durable. A local directory syncs
    /// the directories; an object store has nothing to do.
    fn seal<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<()>>;

    /// Removes the temporary files that a crash left in `dir`. No object may be written to `dir` at
    /// the same time. An object store has nothing to do.
    fn sweep<'a>(&'a self, _dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        ready(Ok(())).boxed()
    }

    /// Returns a description of the store for a log line. It holds no secret.
    fn describe(&self) -> String;

    /// Returns the properties of the store that are known after the requests so far. It may send
    /// another request.
    fn facts(&self) -> BoxFuture<'_, StoreFacts> {
        ready(StoreFacts::default()).boxed()
    }
}

/// Opens the store of `target`. Returns `None` for outputs that are no store of objects.
///
/// # Errors
///
/// `Usage` or `Configuration` if a setting is missing or wrong, and the errors of creating a local
/// directory.
pub fn open(
    target: &Target,
    settings: &StoreSettings,
    environment: &Environment,
) -> Result<Option<Arc<dyn Store>>> {
    Ok(match target {
        Target::Stdout | Target::Database(_) | Target::Search(_) => None,
        Target::Local { root, .. } => Some(Arc::new(LocalStore::open(root)?)),
        Target::Oss { bucket, endpoint, .. } => {
            let endpoint = endpoint.as_deref();
            let store = RemoteStore::oss(bucket, endpoint, settings, environment)?;
            Some(Arc::new(store))
        }
        Target::S3 { bucket, .. } => {
            let store = RemoteStore::s3(bucket, settings, environment)?;
            Some(Arc::new(store))
        }
    })
}

/// The properties of a stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its length.
    pub bytes: u64,
    /// MD5 of its bytes in lower-case hexadecimal digits.
    pub md5: String,
    /// The ETag of the object, if the store returns one.
    pub etag: Option<String>,
}

impl Stored {
    /// Returns the properties of the object with the bytes of `body`.
    pub(crate) fn of(body: &Body, etag: Option<String>) -> Self {
        Stored { bytes: body.bytes(), md5: body.md5_hex(), etag }
    }
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEntry {
    /// Its key, relative to the store's root.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// The time of the last write, by the store's clock.
    pub modified: Option<SystemTime>,
    /// The ETag of the object, if the store lists one.
    pub etag: Option<String>,
}

/// A request for one page of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    /// The beginning of all names. It need not end in `/`.
    pub prefix: &'a str,
    /// Only names greater than this one, by bytes, are listed. It is the `next` of the page before,
    /// or a name of the caller's choice.
    pub after: Option<&'a str>,
    /// The most items in a page, at least 1.
    pub limit: usize,
}

impl<'a> Listing<'a> {
    /// Asks for the first 1000 names that begin with `prefix`.
    pub fn new(prefix: &'a str) -> Self {
        Listing { prefix, after: None, limit: 1000 }
    }

    /// Asks for names after `after` only.
    #[must_use]
    pub fn after(self, after: Option<&'a str>) -> Self {
        Listing { after, ..self }
    }

    /// Asks for at most `limit` names.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Listing { limit: limit.max(1), ..self }
    }
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items, in the order of their names.
    pub items: Vec<T>,
    /// The `after` of the next page. `None` for the last page.
    pub next: Option<String>,
}

/// Fails for a key that could lead out of the root, or that some store would take for another key.
pub(crate) fn check_key(key: &str) -> StoreResult<()> {
    let fault = if key.is_empty() || key.starts_with('/') || key.ends_with('/') {
        "is empty or begins or ends with a slash"
    } else if key.bytes().any(|byte| byte == 0) {
        "holds a NUL"
    } else if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "has an empty, `.` or `..` path segment"
    } else {
        return Ok(());
    };
    Err(StoreError::invalid(format!("object key {key:?} {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_leave_the_root_are_refused() {
        for key in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\0b"] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
        for key in ["a", "-1565869230000.txt/part-00000", "..a/b..", "日/本 +=&?"] {
            assert!(check_key(key).is_ok(), "{key:?}");
        }
    }
}
