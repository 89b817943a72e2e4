//! The pace of a job: when an epoch is cut, and how everything ends.
//!
//! One task owns the clock. It cuts the open epoch when its time has come; when too many epochs wait
//! to be committed, it lets the open one grow longer instead, so that a slow store costs no memory
//! and no line. To stop is to stop reading first and to cut then: what was read is in the last epoch.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::status::Status;
use crate::epoch::{Clock, Schedule};
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::feed::Feed;
use crate::source::Stop;

/// Cuts the epochs of a job.
pub(super) struct Pacer {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) schedule: Schedule,
    pub(super) feed: Feed,
    pub(super) sources: JoinSet<Result<()>>,
    /// The user's wish to stop.
    pub(super) stop: Stop,
    /// Our word to the sources.
    pub(super) reading_stop: Stop,
    pub(super) status: watch::Sender<Status>,
    pub(super) epochs: Option<u64>,
    pub(super) in_flight_max: u64,
    pub(super) failure: Failure,
}

impl Pacer {
    /// Runs until the job is to end, then ends it.
    pub(super) async fn run(mut self) {
        let failure = self.failure.clone();
        let ended = tokio::select! {
            ended = self.pace() => ended,
            // The sources go with `self`; the workers have been woken to leave.
            () = failure.failed() => return,
        };
        match ended {
            Ok(()) => {
                self.cut();
                self.feed.end();
            }
            Err(error) => self.failure.fail(error),
        }
    }

    /// Cuts epoch after epoch; returns when reading has ended and the last cut is due.
    async fn pace(&mut self) -> Result<()> {
        let mut cuts = 0;
        loop {
            let due = due(&*self.clock, &self.schedule, &self.status, self.in_flight_max);
            tokio::select! {
                biased;
                () = self.stop.stopped() => break,
                ended = self.sources.join_next() => match ended {
                    Some(ended) => source_ended(ended)?,
                    None => return Ok(()),
                },
                () = due => {
                    cuts += 1;
                    if Some(cuts) == self.epochs {
                        break;
                    }
                    self.cut();
                }
            }
        }
        self.reading_stop.stop();
        while let Some(ended) = self.sources.join_next().await {
            source_ended(ended)?;
        }
        Ok(())
    }

    /// Closes the open epoch and opens the next.
    fn cut(&mut self) {
        if let Some(jump) = self.schedule.advance(self.clock.wall_ms(), self.clock.monotonic()) {
            let by_s = jump.by_ms as f64 / 1e3;
            tracing::warn!("the wall clock was moved by {by_s:+.1} s; epochs go on counting up");
        }
        let next = self.schedule.open();
        let epoch = self.feed.open_next(next);
        self.status.send_modify(|status| {
            status.in_flight.push_back(epoch);
            status.open = next;
        });
        self.feed.complete(epoch);
    }
}

/// Resolves when the open epoch is due and there is room for it in the dataflow.
async fn due(
    clock: &dyn Clock,
    schedule: &Schedule,
    status: &watch::Sender<Status>,
    in_flight_max: u64,
) {
    clock.wait_until(schedule.deadline()).await;
    let has_room = |status: &Status| (status.in_flight.len() as u64) < in_flight_max;
    // The sender is ours, so waiting ends with room only.
    status.subscribe().wait_for(has_room).await.map(drop).unwrap_or_default();
}

fn source_ended(ended: std::result::Result<Result<()>, JoinError>) -> Result<()> {
    ended.unwrap_or_else(|panicked| {
        Err(Error::new(ErrorKind::Panicked, "the task of a source panicked").cause(panicked))
    })
}
