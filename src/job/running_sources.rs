//! The running sources of this process: read until they end, or until they are stopped.

use tokio::task::{JoinError, JoinSet};

use crate::error::{Error, ErrorKind, Result};
use crate::sources::Stop;

/// The running sources of one process.
#[derive(Debug)]
pub struct RunningSources {
    /// The tasks of the sources.
    sources: JoinSet<Result<()>>,
    /// Asks the sources to stop.
    stop: Stop,
}

impl RunningSources {
    /// Holds sources that were started, and the signal that stops them.
    pub fn new(sources: JoinSet<Result<()>>, stop: Stop) -> Self {
        RunningSources { sources, stop }
    }

    /// Waits until every source has ended by itself; safe to cancel.
    ///
    /// Fails with the error of the first source that fails, and with `Panicked` if its task
    /// panicked.
    pub async fn ended(&mut self) -> Result<()> {
        while let Some(ended) = self.sources.join_next().await {
            source_ended(ended)?;
        }
        Ok(())
    }

    /// Stops reading and waits until everything that was read is in the feed.
    ///
    /// Fails as [`RunningSources::ended`] does.
    pub async fn stop(&mut self) -> Result<()> {
        self.stop.stop();
        self.ended().await
    }
}

/// Returns the result of the task of a source. A panic is an error.
fn source_ended(ended: std::result::Result<Result<()>, JoinError>) -> Result<()> {
    ended.unwrap_or_else(|panicked| {
        Err(Error::new(ErrorKind::Panicked, "the task of a source panicked").cause(panicked))
    })
}
