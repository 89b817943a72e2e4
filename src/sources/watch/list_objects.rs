//! Finds and reads the objects below a prefix of an object store.
//!
//! An object is whole as soon as it is there. All keys are listed again and again, which is the
//! truth. Where that takes many requests it is done less often, and in between only the keys after
//! the greatest one are listed: names that begin with a time or a number are found at once.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::find_files_thread::{FoundSender, ListingReport, ScanPace};
use super::found_file::{FileFacts, FoundFile, is_hidden_key};
use super::new_files::{Arrivals, SETTLED, UnreadFile};
use super::read_request::{FileEnd, ReadRequest, cannot_read};
use super::watched_place::Bucket;
use crate::backoff::BackoffPolicy;
use crate::error::{Error, Result};
use crate::sources::compressed::Stored;
use crate::store::{Listing, StoreError, StoreErrorKind, StoreResult};

/// Bytes of an object that are requested at a time.
const RANGE_BYTES: u64 = 4 << 20;
/// Bytes of an object that are requested while those before it are read: of many small ones, some
/// are under way at a time.
const FIRST_RANGE_BYTES: u64 = 1 << 20;
/// Keys of a page.
const PAGE_KEYS: usize = 1000;
/// How long a refused request is repeated: keys may be rotated, and rights be given.
const DENIED: Duration = Duration::from_secs(30);

impl Bucket {
    /// Lists all objects, in the order of their keys.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn list(&self) -> StoreResult<Vec<FoundFile>> {
        let (mut files, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = self.page(after.as_deref()).await?;
            files.extend(page);
            match next {
                None => return Ok(files),
                next => after = next,
            }
        }
    }

    /// Fails with `Configuration` if the store refuses to list the objects. One that is out of
    /// reach may come back.
    pub async fn check(&self) -> Result<()> {
        match self.page(None).await {
            Err(error) if error.kind != StoreErrorKind::Unavailable => Err(Error::from(error)),
            _ => Ok(()),
        }
    }

    /// Returns the first bytes of an object, if the store gives all of them at once.
    pub async fn first_range(self, file: FoundFile) -> Option<Bytes> {
        let (key, facts) = (String::from_utf8(file.name).ok()?, file.facts);
        let bytes = facts.bytes.min(FIRST_RANGE_BYTES);
        let range = self.store.get_range(&key, 0..bytes, facts.etag.as_deref()).await.ok()?;
        (range.len() as u64 == bytes).then_some(range)
    }

    /// Lists one page of objects; returns the `after` of the next page, too: `None` after the last
    /// one. Keys whose parts begin with `.` or `_` are left out.
    async fn page(&self, after: Option<&str>) -> StoreResult<(Vec<FoundFile>, Option<String>)> {
        let ask = Listing::new(&self.prefix).after(after).limit(PAGE_KEYS);
        let page = self.store.list(ask).await?;
        let entries = page.items.iter();
        // Tools make an empty object for a folder, whose key ends with a slash.
        let files = entries
            .filter(|entry| !entry.key.ends_with('/') && !is_hidden_key(&entry.key, &self.prefix));
        let file = |entry| {
            let facts = FileFacts::of_object(entry);
            FoundFile { name: entry.key.clone().into_bytes(), facts }
        };
        Ok((files.map(file).collect(), page.next))
    }
}

/// Finds objects until the source has stopped.
pub struct ObjectWatch {
    /// The bucket and the prefix.
    pub bucket: Bucket,
    /// The time between two listings.
    pub every: Duration,
    /// If true, the end is reached after the first listing.
    pub once: bool,
    /// Decides which objects are new.
    pub arrivals: Arrivals,
    /// Takes the objects that were found.
    pub results: FoundSender,
    /// Reports a bucket that cannot be listed.
    pub report: ListingReport,
    /// Objects that were not read come back by this.
    pub unread: mpsc::Receiver<UnreadFile>,
}

impl ObjectWatch {
    /// Runs on a thread of its own.
    pub fn run(mut self) -> Result<()> {
        let runtime = self.bucket.runtime.clone();
        let started = Instant::now();
        let mut pace = ScanPace::new(self.every);
        let mut greatest: Option<String> = None;
        loop {
            let after = greatest.clone().filter(|_| !pace.is_due());
            if after.is_none() {
                pace.begin();
            }
            let results = self.results.clone();
            let scan = self.scan(after.as_deref(), started);
            let listed = runtime.block_on(async {
                tokio::select! {
                    listed = scan => Some(listed),
                    () = results.closed() => None,
                }
            });
            let Some(listed) = listed else { return Ok(()) };
            match &listed {
                Ok(_) => self.report.listed(),
                Err(error) => self.report.failed(error),
            }
            let is_listed = listed.is_ok();
            if after.is_none() || !is_listed {
                pace.end(is_listed);
            }
            greatest = greatest.max(listed.unwrap_or_default());
            if !self.results.send(self.arrivals.take()) || self.once && is_listed {
                return Ok(());
            }
            let pause = if is_listed { self.every.min(pace.left()) } else { pace.left() };
            runtime.block_on(async {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = results.closed() => {}
                }
            });
        }
    }

    /// Lists the keys after `after`, or all, and reports each to the arrivals. Returns the
    /// greatest.
    async fn scan(&mut self, after: Option<&str>, started: Instant) -> StoreResult<Option<String>> {
        while let Ok(file) = self.unread.try_recv() {
            self.arrivals.returned(file, started.elapsed());
        }
        self.arrivals.begin_scan();
        let (is_all, mut after) = (after.is_none(), after.map(str::to_owned));
        let mut last = None;
        loop {
            let (page, next) = self.bucket.page(after.as_deref()).await?;
            for file in page {
                let key = OsStr::from_bytes(&file.name);
                self.arrivals.seen(key, file.facts.clone(), Some(SETTLED), started.elapsed());
                last = String::from_utf8(file.name).ok();
            }
            match next {
                None => break,
                next => after = next,
            }
        }
        self.arrivals.end_scan(is_all);
        Ok(last)
    }
}

/// The bytes of one object.
pub struct ObjectReader<'a> {
    /// The bucket.
    bucket: &'a Bucket,
    /// The key of the object.
    key: String,
    /// The size and version with which the object was found.
    facts: FileFacts,
    /// Where the next byte stands in the object.
    at: u64,
    /// The range that was fetched last, and where it begins.
    chunk: Bytes,
    /// Where the chunk begins in the object.
    chunk_at: u64,
    /// Returns false when the source has stopped.
    is_wanted: &'a dyn Fn() -> bool,
}

impl<'a> ObjectReader<'a> {
    /// Opens the object of a request, as long as it is the one that was found. `prefetched` is its
    /// first range. `is_wanted` returns false when its bytes are not awaited any more.
    pub fn open(
        bucket: &'a Bucket,
        request: &ReadRequest,
        prefetched: Option<Bytes>,
        is_wanted: &'a dyn Fn() -> bool,
    ) -> std::result::Result<ObjectReader<'a>, FileEnd> {
        let Ok(key) = String::from_utf8(request.file.name.clone()) else {
            return Err(FileEnd::Gone);
        };
        let (facts, chunk) = (request.file.facts.clone(), Bytes::new());
        let mut reader = ObjectReader { bucket, key, facts, at: 0, chunk, chunk_at: 0, is_wanted };
        if request.again_from.is_some() {
            // The record of a former run does not hold the ETag.
            let found = reader.look_up().map_err(|error| cannot_read(&error))?;
            if found.version != reader.facts.version {
                return Err(FileEnd::Changed);
            }
            reader.facts = found;
        } else if let Some(chunk) = prefetched {
            reader.chunk = chunk;
        } else {
            // The first range, so that an object that has gone was never opened.
            reader.fetch().map_err(|error| cannot_read(&error))?;
        }
        Ok(reader)
    }

    /// Returns the facts about the object.
    pub fn facts(&self) -> &FileFacts {
        &self.facts
    }

    /// Looks up the object as it is now.
    fn look_up(&self) -> io::Result<FileFacts> {
        let page = self
            .patiently(async || self.bucket.store.list(Listing::new(&self.key).limit(1)).await)?;
        let found = page.items.first().filter(|entry| entry.key == self.key);
        found.map(FileFacts::of_object).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Fetches the range that begins at `at`, unless that is the end. The request names the version
    /// of the object, so no range is that of another one.
    fn fetch(&mut self) -> io::Result<()> {
        let end = (self.at + RANGE_BYTES).min(self.facts.bytes);
        (self.chunk, self.chunk_at) = (Bytes::new(), self.at);
        if self.at >= end {
            return Ok(());
        }
        let (key, etag, range) = (self.key.as_str(), self.facts.etag.as_deref(), self.at..end);
        let store = &self.bucket.store;
        let chunk = self.patiently(async || store.get_range(key, range.clone(), etag).await)?;
        if chunk.len() as u64 != end - self.at {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has become shorter"));
        }
        self.chunk = chunk;
        Ok(())
    }

    /// Repeats a request until the store answers it or its bytes are not awaited any more.
    fn patiently<T>(&self, mut ask: impl AsyncFnMut() -> StoreResult<T>) -> io::Result<T> {
        let (mut backoff, started) = (BackoffPolicy::JITTERED.start(), Instant::now());
        let mut is_reported = false;
        loop {
            let error = match self.bucket.runtime.block_on(ask()) {
                Ok(answer) => {
                    if is_reported {
                        tracing::info!("{} can be read again", self.bucket.name);
                    }
                    return Ok(answer);
                }
                Err(error) => error,
            };
            match error.kind {
                StoreErrorKind::NotFound => return Err(io::ErrorKind::NotFound.into()),
                StoreErrorKind::Exists => return Err(io::ErrorKind::InvalidData.into()),
                StoreErrorKind::Unavailable => {}
                _ if started.elapsed() < DENIED => {}
                _ => return Err(io::Error::other(error)),
            }
            if !(self.is_wanted)() {
                return Err(io::Error::other("nobody reads any more"));
            }
            report_once(&error, &mut is_reported);
            self.bucket.runtime.block_on(tokio::time::sleep(backoff.next_pause()));
        }
    }
}

/// Logs an error, once per outage.
fn report_once(error: &StoreError, is_reported: &mut bool) {
    if std::mem::replace(is_reported, true) {
        tracing::debug!("{error}");
    } else {
        tracing::warn!("{error}; trying again");
    }
}

impl Read for ObjectReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let there = self.chunk_at..self.chunk_at + self.chunk.len() as u64;
        if !there.contains(&self.at) {
            self.fetch()?;
        }
        let chunk = &self.chunk[(self.at - self.chunk_at) as usize..];
        let bytes = chunk.len().min(into.len());
        into[..bytes].copy_from_slice(&chunk[..bytes]);
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl Stored for ObjectReader<'_> {
    fn seek_to(&mut self, offset: u64) {
        self.at = offset;
    }
}
