//! Publishing: a store, the names in it, and the will to try again.
//!
//! A store makes a few quick tries by itself. Above it stands this: an epoch that is closed stays
//! until it is stored, however long the store is away, because the operator that asked still holds
//! the epoch's capability. Only what trying again cannot mend (a failed disk, a wrong request) is
//! given up, and then the job ends. What is said about an outage is said once, and once more when it
//! is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

use super::format::Format;
use super::layout::Layout;
use crate::crash::crash_point;
use crate::error::Error;
use crate::settings::{EmptyEpochs, RowOrder};
use crate::store::{Body, Store, StoreErrorKind, StoreResult, Stored};

/// First pause between two tries; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How the rows of a job become objects.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The names.
    pub layout: Layout,
    /// The bytes of a row.
    pub format: Format,
    /// The order of rows within a part.
    pub order: RowOrder,
    /// What is written for an epoch without rows.
    pub empty_epochs: EmptyEpochs,
    /// Hash of the job's identity, for the marker.
    pub job: String,
}

/// Stores objects, again and again until they are stored. Clones share the store.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// How rows become objects.
    pub publication: Arc<Publication>,
    store: Arc<dyn Store>,
    runtime: Handle,
    /// Whether the store was last known to be out of reach, so that it is said once.
    away: Arc<AtomicBool>,
}

impl Publisher {
    /// A publisher into `store`, whose requests run on `runtime`.
    pub fn new(publication: Publication, store: Arc<dyn Store>, runtime: Handle) -> Self {
        let away = Arc::new(AtomicBool::new(false));
        Publisher { publication: Arc::new(publication), store, runtime, away }
    }

    /// The runtime that requests run on; operators never block on them.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Stores `body` under `key`. An error is final.
    pub async fn put(&self, key: &str, body: Body) -> Result<Stored, Error> {
        crash_point("sink.before_put");
        let stored = self.persist(key, || self.store.put(key, body.clone())).await;
        crash_point("sink.after_put");
        stored
    }

    /// Makes the names in `dir` durable. An error is final.
    pub async fn seal(&self, dir: &str) -> Result<(), Error> {
        self.persist(dir, || self.store.seal(dir)).await
    }

    async fn persist<T, F>(&self, what: &str, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = StoreResult<T>>,
    {
        let mut pause = PAUSE_MIN;
        loop {
            let error = match attempt().await {
                Ok(stored) => {
                    if self.away.swap(false, Ordering::Relaxed) {
                        tracing::info!("{} takes objects again", self.store.describe());
                    }
                    return Ok(stored);
                }
                Err(error) => error,
            };
            match error.kind {
                // Credentials and rights get mended while we run: refused is not final here.
                StoreErrorKind::Unavailable | StoreErrorKind::Denied | StoreErrorKind::NotFound => {}
                _ => return Err(error.into()),
            }
            if !self.away.swap(true, Ordering::Relaxed) {
                let store = self.store.describe();
                tracing::warn!("{store} does not take {what}: {error}; closed epochs are kept and retried");
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }
}
