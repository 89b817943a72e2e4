//! Standard error: a bounded queue of lines, and one thread that writes them.
//!
//! A write to standard error blocks for as long as the other end is not read: a pager that waits
//! for a key, a collector that has stalled. Nothing but the writing thread may wait for that, or
//! epochs would no longer be published and a signal would no longer stop the job. So all code
//! else puts lines into a queue and goes on. A line that does not fit is dropped and counted, and
//! the count is written as soon as lines get through again. As long as the reader reads, the queue
//! is empty and no line is lost.
//!
//! The thread writes to the descriptor itself and not through [`std::io::stderr`], whose lock would
//! be held while a write blocks.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::exit_codes;
use crate::error::ErrorKind;
use crate::supervise;

/// Most bytes of lines that wait to be written.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Bytes that a line counts for beside its text, so that empty lines fill the queue too.
const LINE_BYTES: usize = 32;
/// Lines that may wait where a status is drawn.
const STATUS_LINES_MAX: usize = 16;
/// [`flush`] gives up when no line was written for so long,
const FLUSH_STALL_MAX: Duration = Duration::from_secs(1);
/// and in any case after so long.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// The queue of the process; `None` if its thread could not be started.
static LINES: OnceLock<Option<Arc<LineQueue>>> = OnceLock::new();

/// Removes what stands in the line of a terminal.
const CLEAR: &str = "\r\x1b[K";

/// True while the last line of the terminal is one that is drawn over.
static HAS_STATUS: AtomicBool = AtomicBool::new(false);

/// Writes `text` and a line end to standard error, later and without blocking.
pub fn line(text: impl AsRef<[u8]>) {
    let mut line = Vec::new();
    if HAS_STATUS.load(Ordering::Relaxed) {
        line.extend_from_slice(CLEAR.as_bytes());
    }
    line.extend_from_slice(text.as_ref());
    line.push(b'\n');
    write(line);
}

/// Draws `text` as the last line of the terminal, over the one that was drawn before. Nothing is
/// drawn while many lines wait.
pub fn status(text: &str) {
    HAS_STATUS.store(true, Ordering::Relaxed);
    if LINES.get_or_init(start).as_ref().is_some_and(|queue| queue.has_few()) {
        write(format!("{CLEAR}{text}").into_bytes());
    }
}

/// Removes the line that was drawn.
pub fn end_status() {
    write(CLEAR.as_bytes().to_vec());
    HAS_STATUS.store(false, Ordering::Relaxed);
}

/// Queues bytes, which are written later, without blocking.
fn write(line: Vec<u8>) {
    match LINES.get_or_init(start) {
        Some(queue) => queue.push(line),
        // Without a thread a line is written at once if that does not block, else dropped.
        None if is_writable(Some(&Timespec::default())) => drop(write_all(&line)),
        None => {}
    }
}

/// Waits until all lines are written, for a short time only: a reader that has stopped reading must
/// not keep the process from ending.
pub fn flush() {
    if let Some(Some(queue)) = LINES.get() {
        queue.flush(FLUSH_STALL_MAX, FLUSH_MAX);
    }
}

/// Starts the writing thread.
fn start() -> Option<Arc<LineQueue>> {
    let queue = Arc::<LineQueue>::default();
    let lines = Arc::clone(&queue);
    let work = move || lines.write_forever(write_all);
    // There is no other way to report that lines are not written any more than to end.
    let fail = |_| exit_codes::exit(exit_codes::exit_code(ErrorKind::Panicked));
    supervise::thread("stderr", fail, work).ok().map(|_| queue)
}

/// Writes all of `bytes`, waiting as long as that takes.
fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(io::stderr().as_fd(), bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Another process may have made the pipe that both share non-blocking.
            Err(Errno::AGAIN) => drop(is_writable(None)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until a write would not block, or failed; returns false after `timeout`.
fn is_writable(timeout: Option<&Timespec>) -> bool {
    let stderr = io::stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    poll(&mut ready, timeout).is_ok_and(|ready| ready > 0)
}

/// The line that reports lines which were not written.
fn report(dropped: u64) -> Vec<u8> {
    let s = if dropped == 1 { " was" } else { "s were" };
    format!(
        "wordtide: warning: {dropped} line{s} dropped here: standard error could not take them\n"
    )
    .into_bytes()
}

/// Lines on their way to standard error.
#[derive(Default)]
struct LineQueue {
    /// The lines that wait.
    backlog: Mutex<Backlog>,
    /// Notified when a line comes or goes.
    changed: Condvar,
}

/// The lines that wait, oldest first, and what became of the others.
#[derive(Default)]
struct Backlog {
    /// The lines, oldest first.
    lines: VecDeque<Vec<u8>>,
    /// Bytes of the lines that wait and of the one that is being written.
    bytes: usize,
    /// Lines dropped since the newest one in the queue.
    dropped: u64,
    /// The queue was full and is not half empty yet.
    is_dropping: bool,
    /// A line was taken from the queue and is not written yet.
    is_writing: bool,
    /// Lines that were taken from the queue and written, or could not be.
    done: u64,
}

impl LineQueue {
    /// Locks the lines.
    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if few lines wait, so that what is drawn is not old when it is seen.
    fn has_few(&self) -> bool {
        self.lock().lines.len() < STATUS_LINES_MAX
    }

    /// Adds a line, its end included, or drops and counts it.
    fn push(&self, line: Vec<u8>) {
        let mut backlog = self.lock();
        // A queue that has been full takes lines again only when it is half empty, so that there
        // are long runs of lines between two reports and not a report for each line.
        backlog.is_dropping &= backlog.bytes > QUEUE_BYTES_MAX / 2;
        if backlog.is_dropping || backlog.bytes + line.len() + LINE_BYTES > QUEUE_BYTES_MAX {
            backlog.is_dropping = true;
            backlog.dropped += 1;
            return;
        }
        let dropped = std::mem::take(&mut backlog.dropped);
        backlog.extend((dropped > 0).then(|| report(dropped)));
        backlog.extend([line]);
        drop(backlog);
        self.changed.notify_all();
    }

    /// Takes the oldest line, waiting for one; also a report when the last lines were dropped.
    fn take(&self) -> Vec<u8> {
        let mut backlog = self.lock();
        loop {
            if backlog.lines.is_empty() && backlog.dropped > 0 {
                let dropped = std::mem::take(&mut backlog.dropped);
                backlog.extend([report(dropped)]);
            }
            if let Some(line) = backlog.lines.pop_front() {
                backlog.is_writing = true;
                return line;
            }
            backlog = self.changed.wait(backlog).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Called when a line of so many bytes was written, or could not be.
    fn taken(&self, bytes: usize) {
        let mut backlog = self.lock();
        backlog.bytes -= bytes + LINE_BYTES;
        backlog.is_writing = false;
        backlog.done += 1;
        drop(backlog);
        self.changed.notify_all();
    }

    /// Writes the lines, one call for each, so that processes which share a pipe do not mix theirs.
    fn write_forever(&self, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> ! {
        // Lines that failed since the last one that was written: a closed pipe, a full disk.
        let mut failed = 0;
        loop {
            let line = self.take();
            if failed > 0 && write(&report(failed)).is_ok() {
                failed = 0;
            }
            if failed > 0 || write(&line).is_err() {
                failed += 1;
            }
            self.taken(line.len());
        }
    }

    /// Waits until the queue is empty; gives up when nothing was written for `stall`, and after
    /// `total`.
    fn flush(&self, stall: Duration, total: Duration) {
        let end = Instant::now() + total;
        let mut backlog = self.lock();
        while backlog.is_writing || !backlog.lines.is_empty() {
            let done = backlog.done;
            let wait = stall.min(end.saturating_duration_since(Instant::now()));
            let moves = |backlog: &mut Backlog| backlog.done == done;
            let waited = self.changed.wait_timeout_while(backlog, wait, moves);
            let (now, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            if timed_out.timed_out() {
                return;
            }
            backlog = now;
        }
    }
}

impl Backlog {
    /// Adds lines, and drops the oldest above the limit.
    fn extend(&mut self, lines: impl IntoIterator<Item = Vec<u8>>) {
        for line in lines {
            self.bytes += line.len() + LINE_BYTES;
            self.lines.push_back(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A queue whose thread writes a line when the test asks for it, with that result.
    fn paced() -> (Arc<LineQueue>, Sender<io::Result<()>>, Receiver<String>) {
        let queue = Arc::<LineQueue>::default();
        let (pace, paced) = channel::<io::Result<()>>();
        let (written, lines) = channel();
        let writer = Arc::clone(&queue);
        std::thread::spawn(move || {
            writer.write_forever(|line| {
                match paced.recv() {
                    Ok(result) => result?,
                    // The test is over.
                    Err(_) => loop {
                        std::thread::park();
                    },
                }
                written.send(String::from_utf8_lossy(line).into_owned()).map_err(io::Error::other)
            })
        });
        (queue, pace, lines)
    }

    fn numbered(number: usize) -> Vec<u8> {
        format!("{number:01023}\n").into_bytes()
    }

    #[test]
    fn full_queue_drops_and_reports_the_number() {
        let (queue, pace, lines) = paced();
        let pushed = QUEUE_BYTES_MAX / 1024 + 100;
        (0..pushed).for_each(|number| queue.push(numbered(number)));
        let fit = QUEUE_BYTES_MAX / (1024 + LINE_BYTES);
        (0..fit).for_each(|_| pace.send(Ok(())).expect("the writer waits"));
        (0..fit)
            .for_each(|number| assert_eq!(lines.recv().unwrap().into_bytes(), numbered(number)));
        // Nothing is pushed any more: the report comes by itself.
        pace.send(Ok(())).expect("the writer waits");
        let told = lines.recv().unwrap();
        assert!(told.contains(&format!(" {} lines were dropped", pushed - fit)), "{told}");
        queue.push(b"next\n".to_vec());
        pace.send(Ok(())).expect("the writer waits");
        assert_eq!(lines.recv().unwrap(), "next\n");
    }

    #[test]
    fn failed_write_is_reported_with_the_next() {
        let (queue, pace, lines) = paced();
        for line in ["lost\n", "lost too\n", "kept\n"] {
            queue.push(line.as_bytes().to_vec());
        }
        let full = || Err(io::ErrorKind::StorageFull.into());
        // The first line; the report before the second; then all goes well.
        for result in [full(), full(), Ok(()), Ok(())] {
            pace.send(result).expect("the writer waits");
        }
        let told = lines.recv().unwrap();
        assert!(told.contains(" 2 lines were dropped"), "{told}");
        assert_eq!(lines.recv().unwrap(), "kept\n");
    }

    #[test]
    fn flush_waits_for_a_moving_reader_only() {
        let (queue, pace, lines) = paced();
        queue.push(b"stuck\n".to_vec());
        queue.flush(Duration::from_millis(1), Duration::from_secs(3600));
        assert!(lines.try_recv().is_err(), "nothing was written");
        pace.send(Ok(())).expect("the writer waits");
        queue.flush(Duration::from_secs(3600), Duration::from_secs(3600));
        assert_eq!(lines.try_recv().as_deref(), Ok("stuck\n"));
        queue.push(b"stuck\n".to_vec());
        queue.flush(Duration::from_secs(3600), Duration::ZERO);
    }
}
