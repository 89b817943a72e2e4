//! Feeds standard input, or a pipe under a file's name.
//!
//! A thread reads and a bounded queue holds what was read, until the server has acknowledged what
//! came before. Nothing can be read twice here. A producer that was named has a stream that begins
//! at its first byte, so what the server has of it is skipped.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::http_client::End;
use super::sender::{FeedSender, Sent};
use crate::error::{Error, ErrorKind, Result};
use crate::random::random_id;
use crate::sources::Stop;
use crate::supervise;

/// Most bytes of a read.
const READ_BYTES_MAX: usize = 64 << 10;
/// Time for what was read when a stop is asked for to come out of the queue.
const DRAIN: Duration = Duration::from_millis(50);

/// How a stream is fed.
#[derive(Debug)]
pub struct StreamFeed {
    /// The name in messages.
    pub name: String,
    /// The id that was given; a random one otherwise.
    pub producer: Option<String>,
    /// Bytes that are sent at once.
    pub batch_bytes: usize,
    /// Longest time that bytes wait for others to be sent with.
    pub batch_every: Duration,
    /// The signal to stop.
    pub stop: Stop,
}

/// The reading side of a stream.
struct InputReading {
    /// The bytes that were read, or the failure.
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    /// Set when no more is to be read.
    ends: Arc<AtomicBool>,
}

impl StreamFeed {
    /// Feeds what `open` opens to its end or until a stop.
    ///
    /// # Errors
    ///
    /// `Failed` if the input cannot be read or the server has lost bytes that are not here any
    /// more, `Configuration` for a server that refuses the lines.
    pub async fn run(
        &self,
        open: impl FnOnce() -> io::Result<File> + Send + 'static,
        sender: &mut FeedSender,
    ) -> Result<()> {
        let (producer, mut skipped) = match &self.producer {
            Some(producer) => (producer.clone(), sender.client.next(producer).await?.0),
            None => (format!("stdin:{}", random_id()?), 0),
        };
        if skipped > 0 {
            tracing::warn!(
                "the server has {skipped} bytes of producer {producer}: the first {skipped} bytes \
                 of {} are skipped",
                self.name
            );
        }
        tracing::info!("{} is fed as producer {producer}", self.name);
        sender.begin(&producer, None, skipped);
        let mut at = skipped;
        let mut reading = self.start(open)?;
        let mut batch = Vec::with_capacity(self.batch_bytes);
        loop {
            let has_ended = !self.collect(&mut reading, &mut batch, &mut skipped).await?;
            if !batch.is_empty() {
                at = match sender.send(at, &batch).await? {
                    Sent::All(next) => {
                        skipped = next - (at + batch.len() as u64);
                        next
                    }
                    Sent::Gap(next) => return Err(self.lost(&producer, next, at)),
                };
                batch.clear();
            }
            if has_ended {
                break;
            }
        }
        if skipped > 0 && !self.stop.is_stopped() {
            let bytes = at - skipped;
            tracing::warn!(
                "{} has ended after {bytes} bytes, and the server has {at} of producer {producer}",
                self.name
            );
            sender.input_was_shorter(bytes);
        }
        match (&self.producer, self.stop.is_stopped()) {
            // The next life of the client goes on with the stream.
            (Some(_), true) => Ok(()),
            (Some(_), false) => sender.end(at, End::Line).await,
            (None, _) => sender.end(at, End::Forget).await,
        }
    }

    /// Starts the thread that reads, since a read may block for ever.
    fn start(
        &self,
        open: impl FnOnce() -> io::Result<File> + Send + 'static,
    ) -> Result<InputReading> {
        let (chunk, chunks) = mpsc::channel((self.batch_bytes / READ_BYTES_MAX).max(1));
        let ends = Arc::new(AtomicBool::new(false));
        let reading = InputReading { chunks, ends: Arc::clone(&ends) };
        let read = move || {
            // Opening a named pipe waits for its writer.
            let mut input = match open() {
                Ok(input) => input,
                Err(error) => {
                    drop(chunk.blocking_send(Err(error)));
                    return Ok(());
                }
            };
            while !ends.load(Ordering::Relaxed) {
                let mut buffer = vec![0; READ_BYTES_MAX];
                let read = match input.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(bytes) => {
                        buffer.truncate(bytes);
                        Ok(buffer)
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                // It fails when the feed has ended, which then needs nothing more.
                if chunk.blocking_send(read).is_err() {
                    break;
                }
            }
            Ok(())
        };
        supervise::thread("feed", |error| tracing::error!("{error}"), read)?;
        Ok(reading)
    }

    /// Fills the batch until it is full or its first bytes have waited for long enough. Returns
    /// false at the end of the stream, and at a stop.
    async fn collect(
        &self,
        reading: &mut InputReading,
        batch: &mut Vec<u8>,
        skipped: &mut u64,
    ) -> Result<bool> {
        // After a stop only what has been read is taken, also by a later call.
        let stopped = reading.ends.load(Ordering::Relaxed);
        let mut until = stopped.then(|| Instant::now() + DRAIN);
        while batch.len() < self.batch_bytes {
            let chunk = tokio::select! {
                biased;
                () = self.stop.stopped(), if !reading.ends.load(Ordering::Relaxed) => {
                    reading.ends.store(true, Ordering::Relaxed);
                    until = Some(Instant::now() + DRAIN);
                    continue;
                }
                chunk = received(reading, until) => chunk,
            };
            let Some(chunk) = chunk else { return Ok(!reading.ends.load(Ordering::Relaxed)) };
            let Some(chunk) = chunk else { return Ok(false) };
            let mut chunk = chunk.map_err(|error| {
                let message = format!("cannot read {}: {error}", self.name);
                Error::new(ErrorKind::Failed, message).cause(error)
            })?;
            let gone = (chunk.len() as u64).min(*skipped);
            *skipped -= gone;
            chunk.drain(..gone as usize);
            batch.extend_from_slice(&chunk);
            until = until.or(Some(Instant::now() + self.batch_every));
        }
        Ok(true)
    }

    /// Returns the error of bytes that the server has lost and that cannot be read again.
    fn lost(&self, producer: &str, next: u64, at: u64) -> Error {
        let message = format!(
            "the server has lost bytes {next} to {at} of producer {producer}, which were \
             acknowledged and can be read from {} no more",
            self.name
        );
        Error::new(ErrorKind::Failed, message).hint("feed a file, which can be read again")
    }
}

/// Waits for a chunk; `Some(None)` is the end of the stream, `None` the end of the time.
async fn received(
    reading: &mut InputReading,
    until: Option<Instant>,
) -> Option<Option<io::Result<Vec<u8>>>> {
    match until {
        Some(until) => timeout_at(until, reading.chunks.recv()).await.ok(),
        None => Some(reading.chunks.recv().await),
    }
}
