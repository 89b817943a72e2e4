//! Follows a file as `tail -F` does, or reads it once.
//!
//! The position in the file is the position in the stream of its producer. So a restart of the
//! client, of the server or of both goes on where the server is, and nothing is kept on disk here.
//! A file that is renamed away is read to its end before the next one at its path is begun. A file
//! that has become shorter, or in which the bytes that were read have changed, begins anew, as
//! another stream.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::file_offsets::{
    Beginning, FileIdentity, FilePlace, ProducerNames, Search, Seen, Stream, read_at_most,
};
use super::http_client::End;
use super::sender::{FeedSender, Sent};
use super::successors::Successors;
use crate::error::{Error, ErrorKind, Result};
use crate::sources::Stop;

/// How often the end of a file is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How a file is fed.
#[derive(Debug)]
pub struct FileFeed {
    /// The path of the file, which may come to name another one.
    pub path: PathBuf,
    /// The id that was given; one made of the path otherwise.
    pub producer: Option<String>,
    /// Ends at the end of the file.
    pub once: bool,
    /// Bytes that are sent at once.
    pub batch_bytes: usize,
    /// Least time between two batches that are not full.
    pub batch_every: Duration,
    /// The signal to stop.
    pub stop: Stop,
}

/// The reason for which reading a file has ended.
enum Ended {
    /// All of it is acknowledged, or a stop was asked for.
    Done,
    /// Another file has taken its place: it is in use, and waits.
    Replaced,
    /// It has become shorter, or its contents were replaced.
    Truncated,
}

impl FileFeed {
    /// Feeds the file until its end, with `once`, or until a stop.
    ///
    /// # Errors
    ///
    /// `Configuration` for a file that cannot be opened or a server that refuses the lines, `Disk`
    /// if the file cannot be read.
    pub async fn run(&self, sender: &mut FeedSender) -> Result<()> {
        let Some(file) = self.open().await? else { return Ok(()) };
        let successors = Successors::new(&self.path, &file);
        tokio::select! {
            fed = self.feed(file, &successors, sender) => fed,
            never = successors.watch(), if !self.once => match never {},
        }
    }

    /// Feeds the file, and those that take its place.
    async fn feed(
        &self,
        mut file: File,
        successors: &Successors,
        sender: &mut FeedSender,
    ) -> Result<()> {
        let producers = ProducerNames::of(&self.path, self.producer.as_deref());
        let mut search = Search::AtStart;
        loop {
            let Some(identity) = self.identity(&mut file, successors).await? else {
                return Ok(());
            };
            let beginning = Beginning::of(&file).map_err(|error| self.unreadable(error))?;
            let length = file.metadata().map_err(|error| self.unreadable(error))?.len();
            let found = (&identity, &beginning, length);
            let place = producers.find(&mut sender.client, found, search).await?;
            if let Some(former) = &place.former {
                // No more of that content comes, so its last line has ended.
                sender.begin(&former.producer, None, former.next);
                sender.end(former.next, End::Line).await?;
            }
            self.report(&place);
            sender.begin(&place.producer, Some(&place.tag), place.next);
            search = match self.read(&file, place.next, successors, sender).await? {
                Ended::Done => {
                    successors.warn_of_waiting();
                    return Ok(());
                }
                Ended::Replaced => {
                    tracing::info!("{} was rotated: the new file is read", self.path.display());
                    file = successors.take().unwrap_or(file);
                    Search::Rotated
                }
                Ended::Truncated => {
                    let path = self.path.display();
                    tracing::warn!("{path} was truncated: it is read from its beginning");
                    Search::Truncated
                }
            };
        }
    }

    /// Opens the file, and waits for it unless it is read once. Returns `None` at a stop.
    async fn open(&self) -> Result<Option<File>> {
        let mut is_told = self.once;
        loop {
            match File::open(&self.path) {
                Ok(file) => return Ok(Some(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.once => {
                    if !std::mem::replace(&mut is_told, true) {
                        let path = self.path.display();
                        tracing::warn!("{path} does not exist: it is waited for");
                    }
                }
                Err(error) => {
                    let message = format!("cannot open {}: {error}", self.path.display());
                    return Err(Error::new(ErrorKind::Configuration, message).cause(error));
                }
            }
            if self.stopped_after(LOOK).await {
                return Ok(None);
            }
        }
    }

    /// Waits until the file has a first line, and returns its identity. Returns `None` at a stop,
    /// and for an empty file that is read once. An empty file whose place was taken is passed over.
    async fn identity(
        &self,
        file: &mut File,
        successors: &Successors,
    ) -> Result<Option<FileIdentity>> {
        loop {
            // Looked at before the file: what the writer had left in it is there then.
            let is_over = successors.has_used();
            let is_empty = file.metadata().is_ok_and(|metadata| metadata.len() == 0);
            let found = FileIdentity::of(file, self.once || is_over);
            let found = found.map_err(|error| self.unreadable(error))?.filter(|_| !is_empty);
            if found.is_some() {
                return Ok(found);
            }
            if is_over && let Some(new) = successors.take() {
                *file = new;
            } else if self.once || self.stopped_after(LOOK).await {
                return Ok(None);
            }
        }
    }

    /// Logs where the file goes on, and why.
    fn report(&self, place: &FilePlace) {
        let (path, FilePlace { producer, next, former, .. }) = (self.path.display(), place);
        if let Some(Stream { producer: former, next }) = former {
            tracing::warn!(
                "{path} was rotated or truncated while it was not read: it does not go on after \
                 the {next} bytes that the server has of producer {former}, and is read from its \
                 beginning; what the former file had after them is not read"
            );
        }
        tracing::info!("{path} is fed from byte {next} as producer {producer}");
    }

    /// Returns how the stream of a content ends that is over. A name that the user chose stays
    /// known to the server.
    fn end_of(&self, sender: &FeedSender) -> End {
        if self.producer.as_ref() == Some(&sender.producer) { End::Line } else { End::Forget }
    }

    /// Reads and sends the file from `at` on.
    async fn read(
        &self,
        file: &File,
        mut at: u64,
        successors: &Successors,
        sender: &mut FeedSender,
    ) -> Result<Ended> {
        let mut buffer = vec![0; self.batch_bytes];
        let mut last_sent: Option<Instant> = None;
        let mut seen = Seen::of(file, at).map_err(|error| self.unreadable(error))?;
        loop {
            // Looked at before the read: what was written to the old file before it was renamed is
            // read then.
            let is_over = successors.has_used();
            let length = file.metadata().map_err(|error| self.unreadable(error))?.len();
            let bytes = read_at_most(file, &mut buffer, at);
            let bytes = bytes.map_err(|error| self.unreadable(error))?;
            // Looked at after the read: what was read then belongs to the content that was seen.
            let is_there = seen.is_there(file).map_err(|error| self.unreadable(error))?;
            if length < at || !is_there {
                // The old content is over, and so is its last line.
                sender.end(at, self.end_of(sender)).await?;
                return Ok(Ended::Truncated);
            }
            if self.stop.is_stopped() {
                return Ok(Ended::Done);
            }
            let left = last_sent.map(|last| self.batch_every.saturating_sub(last.elapsed()));
            let is_early = left.is_some_and(|left| !left.is_zero());
            if bytes > 0 && bytes < buffer.len() && is_early && !is_over && !self.once {
                self.stopped_after(left.unwrap_or_default()).await;
                continue;
            }
            if bytes > 0 {
                last_sent = Some(Instant::now());
                seen.read(&buffer[..bytes]);
                let end = at + bytes as u64;
                at = match sender.send(at, &buffer[..bytes]).await? {
                    Sent::All(next) => next,
                    Sent::Gap(next) => {
                        let producer = &sender.producer;
                        tracing::warn!(
                            "the server has {next} bytes of producer {producer}, and had {at}: \
                             they are sent again from there"
                        );
                        next
                    }
                };
                if at != end {
                    seen = Seen::of(file, at).map_err(|error| self.unreadable(error))?;
                }
                continue;
            }
            if is_over {
                sender.end(at, self.end_of(sender)).await?;
                return Ok(Ended::Replaced);
            }
            if self.once {
                sender.end(at, End::Line).await?;
                return Ok(Ended::Done);
            }
            self.stopped_after(LOOK).await;
        }
    }

    /// Waits for so long; returns true if a stop was asked for.
    async fn stopped_after(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => false,
            () = self.stop.stopped() => true,
        }
    }

    /// Returns the error of a file that cannot be read.
    fn unreadable(&self, error: io::Error) -> Error {
        let message = format!("cannot read {}: {error}", self.path.display());
        Error::new(ErrorKind::Disk, message).cause(error)
    }
}
