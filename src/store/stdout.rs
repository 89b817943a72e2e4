//! Standard output as a store: whole epochs, in order, as one stream of rows.
//!
//! A pipe can neither be renamed into place nor written twice. So the parts of an epoch are kept
//! until its marker is put, and then they are written, part after part; the marker itself is not.
//! An epoch is written at most once: when that fails half-way, trying again would repeat rows.
//!
//! A reader who has seen enough (`| head`) closes the pipe, and that is no failure: from then on
//! rows are thrown away, and [`StdoutStore::closed`] lets the job end. Writing blocks while the
//! reader is slow, so it is done on a thread that may.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};
use tokio::sync::watch;

use super::{
    Body, Entry, Listing, Page, Store, StoreError, StoreErrorKind, StoreResult, Stored, check_key,
};

/// Where parts become rows of a stream. Clones share it.
#[derive(Clone)]
pub struct StdoutStore {
    /// What the name of a marker ends in, its slash included.
    marker: Arc<str>,
    /// Parts whose marker has not come, by key.
    parts: Arc<Mutex<BTreeMap<String, Body>>>,
    writer: Arc<Mutex<dyn Write + Send>>,
    closed: watch::Sender<bool>,
}

impl fmt::Debug for StdoutStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts().len();
        f.debug_struct("StdoutStore").field("parts", &parts).finish_non_exhaustive()
    }
}

impl StdoutStore {
    /// Epochs whose marker is the object called `marker` go to this process's standard output.
    pub fn new(marker: &str) -> Self {
        StdoutStore::to(marker, io::stdout())
    }

    /// The same to any writer.
    pub fn to(marker: &str, writer: impl Write + Send + 'static) -> Self {
        StdoutStore {
            marker: format!("/{marker}").into(),
            parts: Arc::default(),
            writer: Arc::new(Mutex::new(writer)),
            closed: watch::Sender::new(false),
        }
    }

    /// Resolves once the reader has closed its end.
    pub fn closed(&self) -> BoxFuture<'static, ()> {
        let closed = self.closed.clone();
        let wait = async move {
            // The sender is held here: waiting cannot end otherwise.
            closed.subscribe().wait_for(|closed| *closed).await.map(drop).unwrap_or_default();
        };
        wait.boxed()
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<String, Body>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out the parts in `dir` (which ends in a slash), in the order of their names.
    fn take(&self, dir: &str) -> Vec<Body> {
        let mut parts = self.parts();
        let mut taken = parts.split_off(dir);
        let behind = taken.keys().find(|key| !key.starts_with(dir)).cloned();
        if let Some(behind) = behind {
            parts.append(&mut taken.split_off(&behind));
        }
        taken.into_values().collect()
    }

    fn write(&self, parts: &[Body]) -> StoreResult<()> {
        if *self.closed.borrow() {
            return Ok(());
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chunks = parts.iter().flat_map(Body::chunks);
        match chunks.try_for_each(|chunk| writer.write_all(chunk)).and_then(|()| writer.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.send_replace(true);
                Ok(())
            }
            Err(error) => {
                let message = format!("cannot write to standard output: {error}");
                let failed = StoreError::new(StoreErrorKind::Disk, message).indeterminate();
                Err(failed.hint("see where --to - leads"))
            }
        }
    }

    async fn publish(&self, dir: &str) -> StoreResult<()> {
        let (store, parts) = (self.clone(), self.take(dir));
        let written = tokio::task::spawn_blocking(move || store.write(&parts)).await;
        written.unwrap_or_else(|lost| {
            let message = format!("a write to standard output was not finished: {lost}");
            Err(StoreError::new(StoreErrorKind::Disk, message).indeterminate())
        })
    }
}

impl Store for StdoutStore {
    fn put<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        async move {
            check_key(key)?;
            let stored = Stored::of(&body, None);
            match key.strip_suffix(&*self.marker) {
                Some(dir) => self.publish(&format!("{dir}/")).await?,
                None => drop(self.parts().insert(key.to_owned(), body)),
            }
            Ok(stored)
        }
        .boxed()
    }

    fn put_new<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        self.put(key, body)
    }

    fn get<'a>(&'a self, key: &'a str, _bytes_max: u64) -> BoxFuture<'a, StoreResult<Bytes>> {
        let message = format!("{key} cannot be read back from standard output");
        ready(Err(StoreError::new(StoreErrorKind::NotFound, message))).boxed()
    }

    fn head<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, StoreResult<Option<Entry>>> {
        ready(Ok(None)).boxed()
    }

    fn list<'a>(&'a self, _ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<Entry>>> {
        ready(Ok(Page { items: Vec::new(), next: None })).boxed()
    }

    fn list_dirs<'a>(&'a self, _ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<String>>> {
        ready(Ok(Page { items: Vec::new(), next: None })).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        self.parts().remove(key);
        ready(Ok(())).boxed()
    }

    fn clear<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<u64>> {
        let taken = self.take(&format!("{}/", dir.trim_end_matches('/')));
        ready(Ok(taken.len() as u64)).boxed()
    }

    fn seal<'a>(&'a self, _dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        ready(Ok(())).boxed()
    }

    fn describe(&self) -> String {
        "standard output".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe whose reader goes away after so many bytes.
    #[derive(Clone)]
    struct Pipe {
        written: Arc<Mutex<Vec<u8>>>,
        bytes_max: usize,
    }

    impl Pipe {
        fn new(bytes_max: usize) -> Self {
            Pipe { written: Arc::default(), bytes_max }
        }

        fn text(&self) -> String {
            String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut written = self.written.lock().unwrap();
            if written.len() >= self.bytes_max {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let room = self.bytes_max - written.len();
            written.extend_from_slice(&bytes[..bytes.len().min(room)]);
            Ok(bytes.len().min(room))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    async fn put(store: &StdoutStore, key: &str, text: &'static str) {
        store.put(key, Body::from_chunks([Bytes::from(text)])).await.unwrap();
    }

    #[tokio::test]
    async fn parts_are_kept_until_the_marker_comes_and_then_written_in_order() {
        let pipe = Pipe::new(usize::MAX);
        let store = StdoutStore::to("_SUCCESS", pipe.clone());
        put(&store, "-10/part-00001", "b\n").await;
        put(&store, "-20/part-00000", "c\n").await;
        put(&store, "-10/part-00000", "a\n").await;
        put(&store, "-100/part-00000", "another epoch\n").await;
        assert_eq!(pipe.text(), "");
        put(&store, "-10/_SUCCESS", "{}").await;
        assert_eq!(pipe.text(), "a\nb\n");
        put(&store, "-20/_SUCCESS", "{}").await;
        put(&store, "-10/_SUCCESS", "{}").await;
        assert_eq!(pipe.text(), "a\nb\nc\n", "a marker put again repeats nothing");
        assert_eq!(store.clear("-100/").await.unwrap(), 1);
        assert!(store.parts().is_empty());
    }

    #[tokio::test]
    async fn a_reader_who_goes_away_closes_the_store_and_fails_nothing() {
        let pipe = Pipe::new(1);
        let store = StdoutStore::to("_SUCCESS", pipe.clone());
        for dir in ["-10", "-20"] {
            put(&store, &format!("{dir}/part-00000"), "abc\n").await;
            put(&store, &format!("{dir}/_SUCCESS"), "").await;
        }
        store.closed().await;
        assert_eq!(pipe.text(), "a");
    }
}
