//! Opening the output: the store, the lock on it, and what already stands there.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::{Layout, MARKER};
use crate::store::local::{LocalStore, PrefixLock};
use crate::store::stdout::StdoutStore;
use crate::store::{Listing, Store, Target};

/// An opened output; a local one is locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) store: Arc<dyn Store>,
    stdout: Option<StdoutStore>,
    _lock: Option<PrefixLock>,
}

impl Output {
    pub(super) fn open(target: &Target) -> Result<Output> {
        match target {
            Target::Local { root, prefix } => {
                let store = LocalStore::open(root)?;
                let lock = store.lock_prefix(prefix, &format!("pid {}", std::process::id()))?;
                Ok(Output { store: Arc::new(store), stdout: None, _lock: Some(lock) })
            }
            Target::Stdout => {
                let stdout = StdoutStore::new(MARKER);
                let store = Arc::new(stdout.clone());
                Ok(Output { store, stdout: Some(stdout), _lock: None })
            }
            other => Err(Error::new(ErrorKind::Usage, format!("output {other} is not supported"))),
        }
    }

    /// Resolves once whoever reads the output has gone; `None` for an output that nobody can leave.
    pub(super) fn reader_gone(&self) -> Option<BoxFuture<'static, ()>> {
        self.stdout.as_ref().map(StdoutStore::closed)
    }
}

/// The newest epoch from `from` on that has a directory, committed or not. New epochs begin behind
/// it, so nothing that stands there is ever written into. Older ones are of no interest: names
/// follow the clock.
pub(super) async fn newest_from(
    store: &dyn Store,
    layout: &Layout,
    from: Epoch,
) -> Result<Option<Epoch>> {
    let prefix = layout.dir_prefix();
    let before = layout.dir(from - 1);
    let mut after = Some(before);
    let mut newest = None;
    while let Some(name) = after {
        let page = store.list_dirs(Listing::new(&prefix).after(Some(&name))).await?;
        newest = newest.max(page.items.iter().filter_map(|dir| layout.epoch_of(dir)).max());
        after = page.next;
    }
    Ok(newest.filter(|newest| *newest >= from))
}
