//! The event file: a bounded queue of batches, and one thread that writes them as JSON Lines.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use differential_dataflow::logging::DifferentialEvent;
use timely::logging::TimelyEvent;

use super::event_line::{LoggedEvent, is_event_line, write_line};
use crate::error::{Error, ErrorKind, Result};
use crate::supervise;

/// Most batches that wait to be written. A batch has at most 1024 events or so.
const BATCHES_MAX: usize = 256;

/// Bytes of lines that are written at once.
const WRITE_BYTES: usize = 256 << 10;

/// Events of one worker, in the order of their times.
#[derive(Debug)]
pub enum Batch {
    /// Events of timely, and the processor time in microseconds that the worker has used since the
    /// last batch with one, if it was read after them.
    Timely(Vec<(Duration, TimelyEvent)>, Option<(Duration, u64)>),
    /// Events of differential's arrangements.
    Differential(Vec<(Duration, DifferentialEvent)>),
}

impl Batch {
    /// Returns the number of events in the batch.
    fn events(&self) -> u64 {
        let events = match self {
            Batch::Timely(events, used) => events.len() + usize::from(used.is_some()),
            Batch::Differential(events) => events.len(),
        };
        events as u64
    }

    /// Returns the time of the last event, from the start of the worker on.
    fn last_time(&self) -> Duration {
        let last = match self {
            Batch::Timely(events, _) => events.last().map(|(time, _)| *time),
            Batch::Differential(events) => events.last().map(|(time, _)| *time),
        };
        last.unwrap_or_default()
    }

    /// Writes the events as lines.
    fn write(&self, text: &mut Vec<u8>, worker: usize) {
        match self {
            Batch::Timely(events, used) => {
                for (time, event) in events {
                    if let Some(event) = LoggedEvent::of_timely(event) {
                        write_line(text, worker, *time, event);
                    }
                }
                if let Some((time, us)) = *used {
                    write_line(text, worker, time, LoggedEvent::Processor { us });
                }
            }
            Batch::Differential(events) => {
                for (time, event) in events {
                    if let Some(event) = LoggedEvent::of_differential(event) {
                        write_line(text, worker, *time, event);
                    }
                }
            }
        }
    }
}

/// The state that the workers share: the queue while it is open, and the number of events that it
/// had no room for.
struct EventQueue {
    /// Takes batches; `None` when the file is closed.
    batches: Option<SyncSender<(usize, Batch)>>,
    /// Events that were not queued, which the writer notes at the end.
    dropped: Arc<AtomicU64>,
    /// Writes the file; `None` once it was joined.
    thread: Option<JoinHandle<()>>,
}

/// A file of events that is being written. Clones write to the same file.
#[derive(Clone)]
pub struct EventFile {
    /// The path, for messages.
    path: PathBuf,
    /// The queue, which all workers share.
    queue: Arc<Mutex<EventQueue>>,
}

impl fmt::Debug for EventFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventFile").field(&self.path).finish()
    }
}

/// Returns true for a file on disk that no run has written events to: it may be a text to count.
fn holds_something_else(path: &Path) -> bool {
    // Opening a pipe would wait for its other end.
    if !path.metadata().is_ok_and(|found| found.is_file()) {
        return false;
    }
    let mut begin = Vec::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut begin));
    read.is_ok() && !begin.is_empty() && !is_event_line(&begin)
}

impl EventFile {
    /// Creates or empties the file at `path` and starts the thread that writes to it.
    ///
    /// # Errors
    ///
    /// `Configuration` if the file cannot be created, or holds something else than events, naming
    /// `--events`.
    pub fn create(path: PathBuf, bytes_max: u64) -> Result<EventFile> {
        if holds_something_else(&path) {
            let message = format!("{} holds something else than events", path.display());
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint("give --events another file: this one would be emptied"));
        }
        let file = File::create(&path).map_err(|error| {
            let message = format!("cannot create {}: {error}", path.display());
            Error::new(ErrorKind::Configuration, message)
                .cause(error)
                .hint("give --events a file in a folder that exists and can be written to")
        })?;
        let (batches, written) = sync_channel(BATCHES_MAX);
        let name = path.display().to_string();
        let unqueued = Arc::<AtomicU64>::default();
        let (dropped, text) = (0, Vec::new());
        let writer = EventWriter {
            file,
            bytes_left: bytes_max,
            unqueued: Arc::clone(&unqueued),
            dropped,
            text,
        };
        let write = move || {
            if let Err(error) = writer.run(&written) {
                tracing::warn!("cannot write on in {name}: {error}; no more events are written");
            }
            Ok(())
        };
        let thread = supervise::thread("events", |error| tracing::error!("{error}"), write)?;
        let queue = EventQueue { batches: Some(batches), dropped: unqueued, thread: Some(thread) };
        Ok(EventFile { path, queue: Arc::new(Mutex::new(queue)) })
    }

    /// Queues a batch of `worker`. When the queue was full once, all later batches are dropped and
    /// counted: an early end is better than a hole that a profile cannot see.
    pub fn push(&self, worker: usize, batch: Batch) {
        let mut queue = self.lock();
        let Some(batches) = &queue.batches else { return };
        if queue.dropped.load(Ordering::Relaxed) > 0 {
            queue.dropped.fetch_add(batch.events(), Ordering::Relaxed);
            return;
        }
        match batches.try_send((worker, batch)) {
            Ok(()) => {}
            Err(TrySendError::Full((_, batch))) => {
                queue.dropped.fetch_add(batch.events(), Ordering::Relaxed);
            }
            // The thread has met an error, which it has reported.
            Err(TrySendError::Disconnected(_)) => queue.batches = None,
        }
    }

    /// Waits until all that is queued is written. Later batches are ignored.
    pub fn finish(&self) {
        let (thread, dropped) = {
            let mut queue = self.lock();
            queue.batches = None;
            (queue.thread.take(), Arc::clone(&queue.dropped))
        };
        if let Some(thread) = thread {
            thread.join().unwrap_or_else(|_| tracing::error!("the writer of events panicked"));
            let dropped = dropped.load(Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(
                    "{dropped} events are missing in {}: the disk was too slow for them",
                    self.path.display()
                );
            }
        }
    }

    /// Locks the queue.
    fn lock(&self) -> MutexGuard<'_, EventQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes lines until the limit of the file is reached.
struct EventWriter {
    /// The open file.
    file: File,
    /// Bytes until the limit.
    bytes_left: u64,
    /// Events that were not queued.
    unqueued: Arc<AtomicU64>,
    /// Events that had no room in the file.
    dropped: u64,
    /// Lines that are not written yet.
    text: Vec<u8>,
}

impl EventWriter {
    /// Writes batches until the queue is closed or the limit is reached.
    fn run(mut self, batches: &Receiver<(usize, Batch)>) -> io::Result<()> {
        let (mut worker, mut time) = (0, Duration::ZERO);
        while let Ok((from, batch)) = batches.recv() {
            (worker, time) = (from, batch.last_time());
            if self.dropped > 0 {
                // A hole in the middle would be worse than an early end.
                self.dropped += batch.events();
                continue;
            }
            let begin = self.text.len();
            batch.write(&mut self.text, from);
            if self.text.len() as u64 > self.bytes_left {
                self.text.truncate(begin);
                self.dropped = batch.events();
                tracing::warn!("the file of events is full: see --events-max");
            }
            if self.text.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        let events = self.dropped + self.unqueued.load(Ordering::Relaxed);
        if events > 0 {
            write_line(&mut self.text, worker, time, LoggedEvent::Dropped { events });
        }
        self.flush()
    }

    /// Writes the lines that wait.
    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.text)?;
        self.bytes_left = self.bytes_left.saturating_sub(self.text.len() as u64);
        self.text.clear();
        Ok(())
    }
}
