//! A stop while a job starts: every wait of the start ends with it, in every process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cluster::{Control, Message};
use crate::error::Result;
use crate::file_lock::stopped;
use crate::sources::Stop;

/// Set when all processes have agreed to begin to read. Clones share it.
///
/// Before that a stop ends the start of every process, and nothing was read anywhere. After that a
/// stop is one of a running job.
#[derive(Clone, Debug, Default)]
pub struct ReadingBegun(Arc<AtomicBool>);

impl ReadingBegun {
    /// Notes that all processes have agreed to begin.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Returns true if a stop is one of a running job.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Waits for `work`, or for a stop, which is an error of kind `Stopped`.
pub async fn until_stopped<T>(stop: &Stop, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = stop.stopped() => Err(stopped()),
        done = work => done,
    }
}

/// Passes a stop on between the processes: one that is asked to stop asks process 0, which stops
/// all. Until the job has begun, no process waits for a common decision any more.
pub async fn watch_stop(
    stop: Stop,
    links: Control,
    process: usize,
    begun: ReadingBegun,
) -> Result<()> {
    let is_first = process == 0;
    tokio::select! {
        () = stop.stopped(), if !is_first => {
            let reason = "it was told to stop".to_owned();
            links.send(0, Message::AskStop { reason })?;
            // Process 0 decides; until then its answer may still be that the job begins.
            links.stop_asked().await;
        }
        () = stop.stopped(), if is_first => {}
        (from, reason) = links.stop_asked() => {
            tracing::info!("stopping for process {from}: {reason}");
            stop.stop();
        }
    }
    if !begun.is_set() {
        links.interrupt();
    }
    Ok(())
}
