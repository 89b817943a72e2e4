//! Where objects go: Alibaba Cloud OSS, S3 or a local directory, behind one narrow trait.
//!
//! An epoch is published as a few whole objects under names that are a function of prefix, epoch
//! and part only, with bytes that are a function of the input only. Two things follow, and the
//! [`Store`] trait is built on them:
//!
//! * **An object is atomic.** A reader sees all of it or nothing. Object stores give that for free;
//!   [`local`] writes a temporary file beside the object, syncs it and renames it.
//! * **A lost acknowledgement is harmless.** Writing the same bytes under the same key again
//!   changes nothing, so an [indeterminate](Outcome) failure is simply tried again. Only
//!   [`Store::put_new`] needs care: its second try meets its own first, so a conflict compares the
//!   content.
//!
//! A [`StoreError`] says whether trying again can help ([`StoreErrorKind`]) and what to tell the
//! operator. Retrying for long is not done here: a store makes a few quick tries, the sink above it
//! keeps a closed epoch for as long as there is room.
//!
//! Keys are relative to the store's root, a bucket or a directory, and use `/`. Which root and
//! which prefix a `--to` means is [`Target`]'s business. `opendal` is named in this module only.

use std::fmt::Debug;
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
mod probe;
pub mod remote;
mod results;
mod settings;
pub mod stdout;
mod target;

pub use body::{Body, BodyWriter};
pub use error::{Outcome, StoreError, StoreErrorKind};
pub use probe::{ConditionalPuts, Facts, Probe, Versioning};
pub use remote::Environment;
pub use results::{Level, Results, ResultsLimits};
pub use settings::{Addressing, StoreSettings};
pub use target::Target;

/// What a store operation comes to.
pub type StoreResult<T> = Result<T, StoreError>;

/// A place for whole objects, each found under its key.
///
/// Every future may be dropped at any time; what it had begun may then have happened or not, as
/// with an indeterminate error. No method panics on what a server sends.
pub trait Store: Send + Sync + Debug + 'static {
    /// Stores `body` under `key`, over whatever stood there. When it returns, the object is as
    /// durable as this kind of store makes it, but for the directory entry: see [`Store::seal`].
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

    /// The bytes under `key`, at most `bytes_max` of them: a longer object is
    /// [`StoreErrorKind::Invalid`]. None is [`StoreErrorKind::NotFound`].
    fn get<'a>(&'a self, key: &'a str, bytes_max: u64) -> BoxFuture<'a, StoreResult<Bytes>>;

    /// Objects whose key begins with `ask.prefix`, at any depth, in the order of their keys' bytes.
    /// Temporaries of unfinished writes are not among them.
    fn list<'a>(&'a self, ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<Entry>>>;

    /// The directories, ending in `/`, that begin with `ask.prefix` and lie in the directory that
    /// the prefix names by its last `/`; in the order of their names' bytes. A directory is what
    /// keys have in common up to a `/`.
    fn list_dirs<'a>(&'a self, ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<String>>>;

    /// Removes the object under `key`; that there is none is a success.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>>;

    /// Empties the directory `dir` of objects and of temporaries that a crash left, however deep.
    /// The caller has made sure that nothing committed is in it. Returns how many were removed.
    fn clear<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<u64>>;

    /// Makes the names of the objects in `dir` durable, and `dir`'s own. Nothing to do for object
    /// stores; a sync of the directories for a local one.
    fn seal<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<()>>;

    /// Removes the temporaries in `dir` that a crash left there, while nothing is written into it.
    /// Nothing to do for object stores.
    fn sweep<'a>(&'a self, _dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        ready(Ok(())).boxed()
    }

    /// Where this is, for a log line. Holds no secret.
    fn describe(&self) -> String;

    /// Returns the store's own clock, as of its last answer. `None` before the first answer, and
    /// for a store whose clock is this machine's. [`Entry::modified`] is in terms of this clock.
    fn time(&self) -> Option<SystemTime> {
        None
    }

    /// How this is reached, as far as it knows after the requests so far; may ask the store.
    fn facts(&self) -> BoxFuture<'_, Facts> {
        ready(Facts::default()).boxed()
    }
}

/// Opens the store that `target` names, or `None` for standard output, which is none.
pub fn open(
    target: &Target,
    settings: &StoreSettings,
    environment: &Environment,
) -> Result<Option<Arc<dyn Store>>> {
    Ok(match target {
        Target::Stdout => None,
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

/// What a store says of an object it has stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its length.
    pub bytes: u64,
    /// MD5 of its bytes in lower-case hexadecimal digits.
    pub md5: String,
    /// The store's own name for this version of the object, where it gives one.
    pub etag: Option<String>,
}

impl Stored {
    /// What is known of `body` once it is stored.
    pub(crate) fn of(body: &Body, etag: Option<String>) -> Self {
        Stored { bytes: body.bytes(), md5: body.md5_hex(), etag }
    }
}

/// One object, as a listing describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key, relative to the store's root.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// When it was last written, by the store's clock ([`Store::time`]).
    pub modified: Option<SystemTime>,
}

/// What to list.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    /// Keys begin with this; it need not end in `/`.
    pub prefix: &'a str,
    /// Only names greater than this one, by bytes: the `next` of the page before, or a name from
    /// which on the caller is interested.
    pub after: Option<&'a str>,
    /// At most so many in a page, and at least 1.
    pub limit: usize,
}

impl<'a> Listing<'a> {
    /// The first page of what begins with `prefix`, 1000 names long.
    pub fn new(prefix: &'a str) -> Self {
        Listing { prefix, after: None, limit: 1000 }
    }

    /// Only what comes behind `after`.
    #[must_use]
    pub fn after(self, after: Option<&'a str>) -> Self {
        Listing { after, ..self }
    }

    /// At most `limit` names a page.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Listing { limit: limit.max(1), ..self }
    }
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// What was found, in the order of the names.
    pub items: Vec<T>,
    /// The `after` of the next page; `None` when this was the last.
    pub next: Option<String>,
}

/// Refuses keys that could leave the root, or that some store would take for another key.
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
