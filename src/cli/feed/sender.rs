//! Sends the bytes of one stream in order, in pieces that the server takes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::http_client::{Answered, Client, End};
use crate::error::{Error, ErrorKind, Result};

/// Pieces are not made smaller than this for a server that takes small bodies only.
const PIECE_BYTES_MIN: usize = 4 << 10;

/// The progress of a feed, for the message at its end.
#[derive(Clone, Debug, Default)]
pub struct FeedProgress(Arc<Mutex<Counters>>);

#[derive(Debug, Default)]
struct Counters {
    /// The name of the input.
    input: String,
    /// The id of the producer.
    producer: String,
    /// Bytes of the stream that were read.
    read: u64,
    /// Bytes of the stream that the server has.
    acknowledged: u64,
}

impl FeedProgress {
    /// Returns the progress of a stream that has not begun.
    pub fn new(input: &str) -> FeedProgress {
        let counters = Counters { input: input.to_owned(), ..Counters::default() };
        FeedProgress(Arc::new(Mutex::new(counters)))
    }

    /// Changes the figures.
    fn update(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl fmt::Display for FeedProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Counters { input, producer, read, acknowledged } = &*counters;
        write!(f, "{acknowledged} of {read} bytes read from {input} are acknowledged")?;
        if producer.is_empty() { Ok(()) } else { write!(f, " as producer {producer}") }
    }
}

/// The result of sending bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The server has all of them, and everything before this position.
    All(u64),
    /// The server lacks bytes from this position on, which lies before them.
    Gap(u64),
}

/// The sender of one stream.
#[derive(Debug)]
pub struct FeedSender {
    /// Sends requests and repeats them.
    pub client: Client,
    /// The id of the producer.
    pub producer: String,
    /// The tag of the producer, if it has one.
    pub tag: Option<String>,
    /// The figures for the line at the end.
    pub progress: FeedProgress,
    /// Most bytes of a piece.
    pub piece_bytes_max: usize,
}

impl FeedSender {
    /// Begins the stream of `producer`, of which the server has so many bytes.
    pub fn begin(&mut self, producer: &str, tag: Option<&str>, next: u64) {
        producer.clone_into(&mut self.producer);
        self.tag = tag.map(str::to_owned);
        self.progress.update(|counters| {
            producer.clone_into(&mut counters.producer);
            (counters.read, counters.acknowledged) = (next, next);
        });
    }

    /// Notes that the input has ended after `bytes` bytes, all of which the server had before.
    pub fn input_was_shorter(&self, bytes: u64) {
        self.progress.update(|counters| (counters.read, counters.acknowledged) = (bytes, bytes));
    }

    /// Sends `bytes`, which begin at `offset`, and waits until the server has them.
    ///
    /// Fails only with a refusal, or if the server has lost bytes.
    pub async fn send(&mut self, offset: u64, bytes: &[u8]) -> Result<Sent> {
        let (mut at, end) = (offset, offset + bytes.len() as u64);
        self.progress.update(|counters| counters.read = end.max(counters.read));
        while at < end {
            let rest = &bytes[(at - offset) as usize..];
            let piece = &rest[..rest.len().min(self.piece_bytes_max)];
            let producer = (self.producer.as_str(), self.tag.as_deref());
            match self.client.post(producer, at, piece, End::Open).await? {
                Answered::Next(next) if next < offset => return Ok(Sent::Gap(next)),
                // More than was sent: another client feeds the same stream.
                Answered::Next(next) => at = next,
                Answered::Gap(next) if next < offset => return Ok(Sent::Gap(next)),
                Answered::Gap(next) => at = next,
                Answered::TooLarge if piece.len() <= PIECE_BYTES_MIN => {
                    let message = "the server takes no body of 4 KiB";
                    return Err(Error::new(ErrorKind::Configuration, message)
                        .hint("raise its --max-body-bytes"));
                }
                Answered::TooLarge => self.piece_bytes_max = piece.len() / 2,
            }
            self.progress.update(|counters| counters.acknowledged = at);
        }
        Ok(Sent::All(at))
    }

    /// Ends the stream at `offset`.
    ///
    /// Fails only with a refusal.
    pub async fn end(&mut self, offset: u64, end: End) -> Result<()> {
        let producer = (self.producer.as_str(), self.tag.as_deref());
        match self.client.post(producer, offset, &[], end).await? {
            Answered::Gap(next) => {
                let message = format!(
                    "the server knows {next} bytes of producer {}, and had acknowledged {offset}",
                    self.producer
                );
                Err(Error::new(ErrorKind::Failed, message).hint(
                    "its state was lost or replaced: feed the input again from its beginning",
                ))
            }
            _ => Ok(()),
        }
    }
}
