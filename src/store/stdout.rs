//! Standard output as a store: whole epochs, in order, as one stream of rows.
//!
//! A pipe has neither names nor rename. The store therefore keeps the parts of an epoch until its
//! marker is put, and then writes them in the order of their names. The marker itself is not
//! written. When the put of a marker returns, all rows of its epoch are written.
//!
//! A failed write is final. It is unknown how many of the rows were read, and a second attempt
//! would repeat them, so the epoch is not committed, the job ends, and no later epoch is written. A
//! start with the same state writes the whole epoch again; without state the rows are lost. The
//! same holds if the reader closes the pipe: rows that are left in the pipe were not read.
//!
//! Writing blocks while the reader is slow, so it is done on the blocking pool.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;

use super::{
    Body, Listing, ObjectEntry, Page, Store, StoreError, StoreErrorKind, StoreResult, Stored,
    check_key,
};
use crate::error::{Error, ErrorKind, Result};
use crate::supervise;

/// Writes the rows of whole epochs to one stream. Clones share it.
#[derive(Clone)]
pub struct StdoutStore {
    /// The end of a marker's name, with its slash.
    marker: Arc<str>,
    /// Parts whose marker has not been put, by key.
    parts: Arc<Mutex<BTreeMap<String, Body>>>,
    /// The stream and its failure.
    stream: Arc<Mutex<StdoutStream>>,
    /// True if a later start has the rows of epochs that are not committed.
    keeps_state: bool,
}

/// The stream, and the failure after which nothing more is written to it.
struct StdoutStream {
    /// Standard output.
    writer: Box<dyn Write + Send>,
    /// The first failure, which all later writes return.
    failed: Option<StoreError>,
}

impl fmt::Debug for StdoutStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts().len();
        f.debug_struct("StdoutStore").field("parts", &parts).finish_non_exhaustive()
    }
}

impl StdoutStore {
    /// Returns a store that writes to the standard output of this process. An object called
    /// `marker` is the marker of the epoch in its directory.
    pub fn new(marker: &str) -> Self {
        StdoutStore::to(marker, RawStdout)
    }

    /// Returns a store that writes to `writer`.
    pub fn to(marker: &str, writer: impl Write + Send + 'static) -> Self {
        let stream = StdoutStream { writer: Box::new(writer), failed: None };
        StdoutStore {
            marker: format!("/{marker}").into(),
            parts: Arc::default(),
            stream: Arc::new(Mutex::new(stream)),
            keeps_state: false,
        }
    }

    /// Declares that the job keeps state, so that the next start writes again what is not
    /// committed.
    #[must_use]
    pub fn keeping_state(mut self) -> Self {
        self.keeps_state = true;
        self
    }

    /// Checks that standard output can be written to.
    ///
    /// Rust's runtime opens `/dev/null` for reading and writing in place of a closed descriptor,
    /// and writes to it succeed. A shell's `> /dev/null` opens it for writing only and is accepted,
    /// because the user has chosen to discard the rows.
    ///
    /// # Errors
    ///
    /// `Configuration` if standard output is closed or opened for reading; `Temporary` if it is a
    /// pipe without a reader.
    pub fn check() -> Result<()> {
        let refused = |what: &str| {
            Error::new(ErrorKind::Configuration, format!("standard output is {what}"))
                .hint("give --to - an open standard output; > /dev/null discards the rows")
        };
        let Ok(flags) = fcntl_getfl(rustix::stdio::stdout()) else {
            return Err(refused("closed"));
        };
        match flags & OFlags::RWMODE {
            OFlags::RDONLY => Err(refused("open for reading only")),
            OFlags::RDWR if is_null_device() => Err(refused("closed")),
            _ if events(PollFlags::OUT, Some(0)).contains(PollFlags::ERR) => {
                let message = "the reader of standard output has gone: nothing was read";
                Err(Error::new(ErrorKind::Temporary, message).hint("start again with a reader"))
            }
            _ => Ok(()),
        }
    }

    /// Locks the parts.
    fn parts(&self) -> MutexGuard<'_, BTreeMap<String, Body>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the parts in `dir`, which ends in a slash, and returns them in the order of their
    /// names.
    fn take(&self, dir: &str) -> Vec<Body> {
        let mut parts = self.parts();
        let mut taken = parts.split_off(dir);
        let next_dir = taken.keys().find(|key| !key.starts_with(dir)).cloned();
        if let Some(next_dir) = next_dir {
            parts.append(&mut taken.split_off(&next_dir));
        }
        taken.into_values().collect()
    }

    /// Writes the parts of one epoch. Fails always after a write has failed.
    fn write(&self, parts: &[Body]) -> StoreResult<()> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failed) = &stream.failed {
            return Err(failed.clone());
        }
        let mut pieces = parts.iter().flat_map(Body::pieces);
        let written = pieces.try_for_each(|piece| stream.writer.write_all(&piece?));
        let written = written.and_then(|()| stream.writer.flush());
        let failed = |error| failure(&error, self.keeps_state);
        written.map_err(|error| stream.failed.insert(failed(error)).clone())
    }

    /// Writes the parts in `dir`.
    async fn publish(&self, dir: &str) -> StoreResult<()> {
        let (store, parts) = (self.clone(), self.take(dir));
        supervise::blocking(move || store.write(&parts)).await
    }
}

/// Returns the store's error for a failed write, in a job that keeps state or does not.
fn failure(error: &io::Error, keeps_state: bool) -> StoreError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        let gone = "the reader of standard output has gone";
        // Without state no later start has the rows: that is a failure, and a restart mends none.
        return if keeps_state {
            no_reader().indeterminate()
        } else {
            let message = format!("{gone}; rows that it has not read are lost");
            StoreError::new(StoreErrorKind::Invalid, message)
                .indeterminate()
                .hint("without --state nothing is written again")
        };
    }
    let message = format!("cannot write to standard output: {error}; the epoch is not committed");
    let failed = StoreError::new(StoreErrorKind::Disk, message).indeterminate();
    failed.hint(if keeps_state {
        "see where --to - leads; the next start with the same --state writes it again"
    } else {
        "see where --to - leads; without --state it is not written again"
    })
}

/// Returns the error of a pipe without a reader.
fn no_reader() -> StoreError {
    let message = "the reader of standard output has gone; rows that it has not read are not \
                   committed";
    StoreError::new(StoreErrorKind::Closed, message)
        .hint("start again with a reader: with the same --state those rows are written again")
}

/// Standard output without a buffer. Unlike [`io::Stdout`] it does not report success for a write
/// to a closed descriptor.
struct RawStdout;

impl Write for RawStdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(rustix::stdio::stdout(), bytes) {
                // A program that shares the terminal or pipe has made it non-blocking.
                Err(Errno::AGAIN) => events(PollFlags::OUT, None),
                written => return Ok(written?),
            };
        }
    }

    /// Fails if the reader of a pipe has closed it and rows in it are unread.
    fn flush(&mut self) -> io::Result<()> {
        let stdout = rustix::stdio::stdout();
        let has_no_reader = events(PollFlags::OUT, Some(0)).contains(PollFlags::ERR);
        let is_pipe = |kind: u32| FileType::from_raw_mode(kind) == FileType::Fifo;
        if has_no_reader
            && fstat(stdout).is_ok_and(|stat| is_pipe(stat.st_mode))
            && rustix::io::ioctl_fionread(stdout).is_ok_and(|unread| unread > 0)
        {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

/// Waits for events on standard output, at most `seconds`. Returns none after an error.
fn events(wanted: PollFlags, seconds: Option<i64>) -> PollFlags {
    let stdout = rustix::stdio::stdout();
    let mut polled = [PollFd::new(&stdout, wanted)];
    let timeout = seconds.map(|seconds| Timespec { tv_sec: seconds, tv_nsec: 0 });
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => polled[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

/// Returns true if standard output is the device that discards all bytes.
fn is_null_device() -> bool {
    let null = rustix::fs::stat("/dev/null");
    match (fstat(rustix::stdio::stdout()), null) {
        (Ok(stdout), Ok(null)) => {
            FileType::from_raw_mode(stdout.st_mode) == FileType::CharacterDevice
                && stdout.st_rdev == null.st_rdev
        }
        _ => false,
    }
}

impl Store for StdoutStore {
    /// Holds a part until its marker is put, which prints the parts of the folder in their order.
    ///
    /// Fails with `Closed` if the reader has closed the pipe.
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

    /// Does as `put`: nothing can be there before.
    fn put_new<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        self.put(key, body)
    }

    /// Fails with `NotFound`: what was printed is gone.
    fn get<'a>(&'a self, key: &'a str, _bytes_max: u64) -> BoxFuture<'a, StoreResult<Bytes>> {
        let message = format!("{key} cannot be read back from standard output");
        ready(Err(StoreError::new(StoreErrorKind::NotFound, message))).boxed()
    }

    /// Returns an empty page.
    fn list<'a>(&'a self, _ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<ObjectEntry>>> {
        ready(Ok(Page { items: Vec::new(), next: None })).boxed()
    }

    /// Returns an empty page.
    fn list_dirs<'a>(&'a self, _ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<String>>> {
        ready(Ok(Page { items: Vec::new(), next: None })).boxed()
    }

    /// Drops a part that is not printed.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        self.parts().remove(key);
        ready(Ok(())).boxed()
    }

    /// Drops the parts of a folder that are not printed; returns their number.
    fn clear<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<u64>> {
        let taken = self.take(&format!("{}/", dir.trim_end_matches('/')));
        ready(Ok(taken.len() as u64)).boxed()
    }

    /// Does nothing: there are no names to be made durable.
    fn seal<'a>(&'a self, _dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        ready(Ok(())).boxed()
    }

    /// Returns the name in messages.
    fn describe(&self) -> String {
        "standard output".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe whose reader closes it after `bytes_max` bytes.
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
    async fn parts_are_written_in_order_by_marker() {
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
    async fn stdout_failed_write_ends_the_stream() {
        let pipe = Pipe::new(1);
        let store = StdoutStore::to("_SUCCESS", pipe.clone()).keeping_state();
        for dir in ["-10", "-20", "-10"] {
            put(&store, &format!("{dir}/part-00000"), "abc\n").await;
            let marker = store.put(&format!("{dir}/_SUCCESS"), "".into()).await;
            let failed = marker.expect_err("the reader has gone");
            assert_eq!(failed.kind, StoreErrorKind::Closed, "{failed}");
            assert!(failed.to_string().contains("same --state"), "{failed}");
        }
        let marker = store.put("-30/_SUCCESS", "".into()).await;
        marker.expect_err("nothing follows a gap, not even an epoch without rows");
        assert_eq!(pipe.text(), "a");
    }

    #[tokio::test]
    async fn rows_without_state_are_reported_lost() {
        let store = StdoutStore::to("_SUCCESS", Pipe::new(1));
        put(&store, "-10/part-00000", "abc\n").await;
        let marker = store.put("-10/_SUCCESS", "".into()).await;
        let failed = marker.expect_err("the reader has gone");
        assert_eq!(Error::from(failed.clone()).kind(), ErrorKind::Failed, "{failed}");
        assert!(failed.to_string().contains("nothing is written again"), "{failed}");
    }
}
