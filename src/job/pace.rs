//! The pace of a job: when an epoch is cut, and how everything ends.
//!
//! One task owns the clock. It cuts the open epoch when its time has come; when too many epochs wait
//! to be committed, it lets the open one grow longer instead, so that a slow store costs no memory
//! and no line. To stop is to stop reading first and to cut then: what was read is in the last epoch.

use std::sync::Arc;

use tokio::sync::watch;

use super::borders::Borders;
use super::reading::Reading;
use super::status::Status;
use crate::epoch::{Clock, Schedule};
use crate::error::Result;
use crate::failure::Failure;
use crate::source::Stop;

/// Cuts the epochs of a job.
pub(super) struct Pacer {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) schedule: Schedule,
    pub(super) borders: Borders,
    pub(super) reading: Reading,
    /// The user's wish to stop.
    pub(super) stop: Stop,
    pub(super) status: watch::Sender<Status>,
    pub(super) epochs: Option<u64>,
    pub(super) in_flight_max: usize,
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
                self.borders.end();
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
                ended = self.reading.ended() => return ended,
                () = due => {
                    cuts += 1;
                    if Some(cuts) == self.epochs {
                        break;
                    }
                    self.cut();
                }
            }
        }
        self.reading.stop().await
    }

    /// Closes the open epoch and opens the next.
    fn cut(&mut self) {
        if let Some(jump) = self.schedule.advance(self.clock.wall_ms(), self.clock.monotonic()) {
            let by_s = jump.by_ms as f64 / 1e3;
            tracing::warn!("the wall clock was moved by {by_s:+.1} s; epochs go on counting up");
        }
        let (epoch, next) = (self.status.borrow().open, self.schedule.open());
        self.status.send_modify(|status| {
            status.in_flight.push_back(epoch);
            status.open = next;
        });
        self.borders.cut(next);
    }
}

/// Resolves when the open epoch is due and there is room for it in the dataflow.
async fn due(
    clock: &dyn Clock,
    schedule: &Schedule,
    status: &watch::Sender<Status>,
    in_flight_max: usize,
) {
    clock.wait_until(schedule.deadline()).await;
    let has_room = |status: &Status| status.in_flight.len() < in_flight_max;
    // The sender is ours, so waiting ends with room only.
    status.subscribe().wait_for(has_room).await.map(drop).unwrap_or_default();
}
