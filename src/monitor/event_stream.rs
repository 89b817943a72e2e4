//! The stream of committed epochs, and of changes of the status, as server-sent events.
//!
//! One ticker turns figures into events, each once; the streams share their bytes. A stream is only
//! a position among the last thousand epochs, so a reader that lags costs no memory, and one that
//! comes back after an epoch misses none of them. The more streams there are, the less often they
//! are woken: a thousand readers cost little more than one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::watch;

use super::status;
use crate::epoch::Epoch;
use crate::meters::{COMMITTED_MAX, Meters};

/// The path of the streams.
pub const PATH: &str = "/api/v1/events";

/// Most streams at a time.
pub const STREAMS_MAX: usize = 1024;

/// Shortest time between two wake-ups of the streams.
const PACE: Duration = Duration::from_millis(50);

/// Time added to [`PACE`] for each stream.
const PACE_PER_STREAM: Duration = Duration::from_millis(1);

/// Time between two statuses in which nothing but numbers has changed.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Time after which a silent stream gets a comment, so that a dead reader is noticed.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// How long a browser waits before it connects again, as the first line of a stream.
const GREETING: &[u8] = b"retry: 1000\n\n";

/// The events of a run.
#[derive(Debug)]
pub struct Events {
    /// The figures that events are made of.
    meters: Meters,
    /// The newest events.
    ring: Mutex<Ring>,
    /// Replaced when there are new events.
    version: watch::Sender<u64>,
    /// Number of open streams.
    streams: AtomicUsize,
}

/// The last events, as bytes.
#[derive(Debug, Default)]
struct Ring {
    /// The newest committed epochs, oldest first, each as a whole event.
    epochs: VecDeque<(Epoch, Bytes)>,
    /// The last status, and its number.
    status: (u64, Bytes),
    /// The parts of the status whose change is an event.
    status_key: String,
    /// The time of the newest event of the status.
    status_at: Option<Instant>,
    /// True if no event follows.
    has_ended: bool,
}

impl Ring {
    /// Adds the epochs that were committed since the last call, and the status if it is due.
    /// Returns true if there is something new.
    fn take_in(&mut self, meters: &Meters) -> bool {
        let newest = self.epochs.back().map_or(0, |(epoch, _)| *epoch);
        let records = meters.epochs().records(COMMITTED_MAX, newest);
        let mut is_new = !records.is_empty();
        for record in records {
            // Plain numbers and text always have a JSON form.
            let Ok(data) = serde_json::to_string(&*record) else { continue };
            let epoch = record.epoch;
            let event = format!("event: epoch\nid: {epoch}\ndata: {data}\n\n");
            self.epochs.push_back((epoch, event.into()));
        }
        while self.epochs.len() > COMMITTED_MAX {
            self.epochs.pop_front();
        }
        let key = status::key(meters);
        let is_due = self.status_at.is_none_or(|at| at.elapsed() >= STATUS_EVERY);
        if (is_due || key != self.status_key)
            && let Ok(data) = serde_json::to_string(&status::report(meters))
        {
            let event = format!("event: status\ndata: {data}\n\n");
            self.status = (self.status.0 + 1, event.into());
            (self.status_key, self.status_at) = (key, Some(Instant::now()));
            is_new = true;
        }
        is_new
    }

    /// Returns the next event of a stream.
    fn next(&self, position: &mut EventPosition) -> Option<Bytes> {
        let after = self.epochs.partition_point(|(epoch, _)| *epoch <= position.epoch);
        if let Some((epoch, event)) = self.epochs.get(after) {
            position.epoch = *epoch;
            return Some(event.clone());
        }
        (self.status.0 > position.status).then(|| {
            position.status = self.status.0;
            self.status.1.clone()
        })
    }
}

/// The place of a stream: the last epoch and the last status that it was given.
#[derive(Debug, Default)]
struct EventPosition {
    /// The newest epoch that the stream has sent.
    epoch: Epoch,
    /// The number of the newest status that the stream has sent.
    status: u64,
}

impl Events {
    /// Returns the events of the run with these figures.
    pub fn new(meters: Meters) -> Events {
        let (ring, version) = (Mutex::default(), watch::Sender::default());
        Events { meters, ring, version, streams: AtomicUsize::new(0) }
    }

    /// Turns figures into events until the run has ended, then ends all streams.
    pub async fn tick(&self, mut ended: watch::Receiver<bool>) {
        let meters = &self.meters;
        let mut changed = meters.watch();
        while !*ended.borrow() {
            let streams = self.streams.load(Ordering::Relaxed);
            // Without a reader nothing is encoded.
            if streams > 0 && self.ring().take_in(meters) {
                self.wake();
            }
            let pace = PACE + PACE_PER_STREAM * streams as u32;
            let news = async {
                tokio::time::sleep(pace).await;
                tokio::select! {
                    // The sender is part of the figures, so it lives.
                    _ = changed.changed() => {}
                    () = tokio::time::sleep(STATUS_EVERY) => {}
                }
            };
            tokio::select! {
                () = news => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
        }
        let mut ring = self.ring();
        ring.status_at = None;
        ring.take_in(meters);
        ring.has_ended = true;
        drop(ring);
        self.wake();
    }

    /// Wakes every stream, which then looks for events after its position.
    fn wake(&self) {
        self.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Locks the events.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Whole between two calls; a panic elsewhere does not matter here.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open stream.
struct OpenStream {
    /// The events of all streams.
    events: Arc<Events>,
    /// How far this stream is.
    position: EventPosition,
    /// Changes when there is something new.
    version: watch::Receiver<u64>,
    /// True after the first event, which has the time for reconnecting.
    is_greeted: bool,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.events.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens a stream of the epochs after `after`, or of those to come. Returns `None` if there are too
/// many streams.
pub fn stream(
    events: &Arc<Events>,
    after: Option<Epoch>,
) -> Option<impl Stream<Item = Bytes> + use<>> {
    let before = events.streams.fetch_add(1, Ordering::Relaxed);
    let mut open = OpenStream {
        events: Arc::clone(events),
        position: EventPosition::default(),
        version: events.version.subscribe(),
        is_greeted: false,
    };
    if before >= STREAMS_MAX {
        return None;
    }
    let mut ring = events.ring();
    // Nothing was encoded while no stream was open.
    let is_new = ring.take_in(&events.meters);
    let newest = ring.epochs.back().map_or(0, |(epoch, _)| *epoch);
    drop(ring);
    if is_new {
        // Streams that are open already wait for it, too.
        events.wake();
    }
    open.position.epoch = after.unwrap_or(newest);
    Some(futures::stream::unfold(open, |mut open| async move {
        let event = open.next().await?;
        Some((event, open))
    }))
}

impl OpenStream {
    /// Waits for the next event; `None` when the run has ended.
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.is_greeted, true) {
            return Some(Bytes::from_static(GREETING));
        }
        loop {
            // Marked as seen before the look, so that what comes after it wakes.
            self.version.borrow_and_update();
            {
                let ring = self.events.ring();
                if let Some(event) = ring.next(&mut self.position) {
                    return Some(event);
                }
                if ring.has_ended {
                    return None;
                }
            }
            if tokio::time::timeout(SILENCE_MAX, self.version.changed()).await.is_err() {
                return Some(Bytes::from_static(b":\n\n"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meters::EpochCounts;

    fn ids(ring: &Ring, position: &mut EventPosition) -> Vec<Epoch> {
        let mut ids = Vec::new();
        while let Some(event) = ring.next(position) {
            let text = String::from_utf8_lossy(&event).into_owned();
            ids.extend(
                text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse::<u64>().ok()),
            );
        }
        ids
    }

    #[test]
    fn stream_resumes_after_an_epoch_without_hole() {
        let (meters, mut ring) = (Meters::default(), Ring::default());
        for epoch in 1..=5 {
            meters.committed(EpochCounts { epoch, ..EpochCounts::default() });
        }
        assert!(ring.take_in(&meters));
        let mut position = EventPosition { epoch: 2, status: 0 };
        assert_eq!(ids(&ring, &mut position), [3, 4, 5]);
        meters.committed(EpochCounts { epoch: 6, ..EpochCounts::default() });
        ring.take_in(&meters);
        assert_eq!(ids(&ring, &mut position), [6]);
        assert!(ids(&ring, &mut EventPosition { epoch: 9, status: 0 }).is_empty());
    }

    #[test]
    fn oldest_epochs_leave_the_ring() {
        let (meters, mut ring) = (Meters::default(), Ring::default());
        for epoch in 1..=COMMITTED_MAX as u64 + 10 {
            meters.committed(EpochCounts { epoch, ..EpochCounts::default() });
            ring.take_in(&meters);
        }
        let ids = ids(&ring, &mut EventPosition::default());
        assert_eq!((ids.len(), ids[0]), (COMMITTED_MAX, 11));
    }
}
