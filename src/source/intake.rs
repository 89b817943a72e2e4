//! Between a source and the feed: bytes in, blocks out, and the word when to stop.

use tokio::sync::watch;

use crate::feed::Feed;
use crate::lines::{BlockPool, LineLimits, LineSplitter, LineStats, StreamEnd};

/// Tells sources to stop reading. Clones share it.
#[derive(Clone, Debug)]
pub struct Stop {
    stopped: watch::Sender<bool>,
}

impl Stop {
    /// Not stopped.
    pub fn new() -> Self {
        Stop { stopped: watch::Sender::new(false) }
    }

    /// Asks everyone who looks to stop; asking twice is the same.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Whether it was asked for.
    pub fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Resolves once it is asked for.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        // The sender lives as long as `self`: waiting cannot end without a stop.
        stopped.wait_for(|stopped| *stopped).await.map(drop).unwrap_or_default();
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes the bytes of one source and pushes them, as blocks of whole lines, into the feed.
#[derive(Debug)]
pub struct Intake {
    splitter: LineSplitter,
    feed: Feed,
    stop: Stop,
    told: LineStats,
}

impl Intake {
    /// The intake of the source with this index.
    pub fn new(source: u32, limits: LineLimits, pool: BlockPool, feed: Feed, stop: Stop) -> Self {
        let splitter = LineSplitter::new(source, limits, pool);
        Intake { splitter, feed, stop, told: LineStats::default() }
    }

    /// The word when to stop.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Waits until there is room for the next read: the back-pressure that a sender feels.
    pub async fn ready(&mut self) {
        self.splitter.ready().await;
    }

    /// The same for a thread that may block.
    pub fn ready_blocking(&mut self) {
        self.splitter.ready_blocking();
    }

    /// Where to read into.
    pub fn spare(&mut self) -> &mut [u8] {
        self.splitter.spare()
    }

    /// Takes the first `bytes` bytes of [`Intake::spare`] as read.
    pub fn filled(&mut self, bytes: usize) {
        self.splitter.filled(bytes);
    }

    /// Hands the whole lines read so far to the workers.
    pub fn hand_over(&mut self) {
        if let Some(block) = self.splitter.take() {
            self.feed.push(block);
        }
        self.tell();
    }

    /// Ends the stream; the next one begins with a new line.
    pub fn end(&mut self, end: StreamEnd) {
        if let Some(block) = self.splitter.end(end) {
            self.feed.push(block);
        }
        self.tell();
    }

    /// Says what the limits discarded, which nobody could otherwise see.
    fn tell(&mut self) {
        let (now, told) = (self.splitter.stats(), self.told);
        if now == told {
            return;
        }
        if now.oversized_words > told.oversized_words {
            let words = now.oversized_words - told.oversized_words;
            tracing::warn!("{words} words longer than --max-word-bytes were not counted");
        }
        if now.dropped_lines > told.dropped_lines {
            let lines = now.dropped_lines - told.dropped_lines;
            tracing::warn!("{lines} lines longer than --max-line-bytes were dropped");
        }
        if now.dropped_bytes > told.dropped_bytes {
            let bytes = now.dropped_bytes - told.dropped_bytes;
            tracing::warn!(
                "the connection was reset: {bytes} bytes of an unfinished line were dropped"
            );
        }
        self.told = now;
    }
}
