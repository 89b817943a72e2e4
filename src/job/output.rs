//! Opening the output: the store, the lock on it, and what already stands there.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::epoch::{Clock, Epoch, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::{Layout, MARKER};
use crate::store::local::{LocalStore, PrefixLock};
use crate::store::stdout::StdoutStore;
use crate::store::{Listing, Store, Target};

/// An opened output. A local one is locked by process 0 for as long as this lives.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) store: Arc<dyn Store>,
    stdout: Option<StdoutStore>,
    lock: Option<(PrefixLock, String)>,
}

impl Output {
    /// Opens the output as process 0.
    pub(super) fn open(target: &Target) -> Result<Output> {
        match target {
            Target::Local { root, prefix } => {
                let store = LocalStore::open(root)?;
                let (pid, now) = (std::process::id(), SystemClock::new().wall_ms());
                let note = format!("pid {pid} since {now}");
                let lock = store.lock_prefix(prefix, &note)?;
                Ok(Output { store: Arc::new(store), stdout: None, lock: Some((lock, note)) })
            }
            Target::Stdout => {
                let stdout = StdoutStore::new(MARKER);
                let store = Arc::new(stdout.clone());
                Ok(Output { store, stdout: Some(stdout), lock: None })
            }
            other => Err(Error::new(ErrorKind::Usage, format!("output {other} is not supported"))),
        }
    }

    /// Opens the output as another process, which must find there what process 0 wrote.
    pub(super) fn join(target: &Target, lock_note: Option<&str>) -> Result<Output> {
        match target {
            Target::Local { root, prefix } => {
                let store = LocalStore::open(root)?;
                if store.lock_note(prefix)?.as_deref() != lock_note {
                    let message = format!("{target} is not the directory that process 0 writes to");
                    return Err(Error::new(ErrorKind::Configuration, message)
                        .hint("give --to a directory that all processes share, or an object store"));
                }
                Ok(Output { store: Arc::new(store), stdout: None, lock: None })
            }
            other => Self::open(other),
        }
    }

    /// Resolves once whoever reads the output has gone; `None` for an output that nobody can leave.
    pub(super) fn reader_gone(&self) -> Option<BoxFuture<'static, ()>> {
        self.stdout.as_ref().map(StdoutStore::closed)
    }

    /// What the lock of a local output says.
    pub(super) fn lock_note(&self) -> Option<String> {
        self.lock.as_ref().map(|(_, note)| note.clone())
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
