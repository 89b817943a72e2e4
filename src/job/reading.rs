//! The running sources of this process: read until they end, or until they are stopped.

use tokio::task::{JoinError, JoinSet};

use crate::error::{Error, ErrorKind, Result};
use crate::sources::Stop;

/// The running sources of one process.
#[derive(Debug)]
pub(super) struct Reading {
    sources: JoinSet<Result<()>>,
    stop: Stop,
}

impl Reading {
    /// Holds sources that were started, and the signal that stops them.
    pub(super) fn new(sources: JoinSet<Result<()>>, stop: Stop) -> Self {
        Reading { sources, stop }
    }

    /// Waits until every source has ended by itself; safe to cancel.
    pub(super) async fn ended(&mut self) -> Result<()> {
        while let Some(ended) = self.sources.join_next().await {
            source_ended(ended)?;
        }
        Ok(())
    }

    /// Stops reading and waits until everything that was read is in the feed.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.stop.stop();
        self.ended().await
    }
}

fn source_ended(ended: std::result::Result<Result<()>, JoinError>) -> Result<()> {
    ended.unwrap_or_else(|panicked| {
        Err(Error::new(ErrorKind::Panicked, "the task of a source panicked").cause(panicked))
    })
}
