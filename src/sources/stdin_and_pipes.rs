//! Standard input, and pipes and terminals under a file's name.
//!
//! A read from a terminal or a pipe may wait for ever, and a stop must not wait for it. So each
//! stream has a thread that waits for two things at once, input and the closing of a pipe that
//! stands for the stop; the task of the source reads only where a read returns at once. The thread
//! is not one of the runtime's: streams that wait take nothing from others.
//!
//! A stream ends when its last writer has closed it, as `cat` sees it. A named pipe without a
//! writer has not begun yet: it is read when the first one comes. To let several writers come and
//! go, hold the pipe open for writing beside them (`exec 3<>PIPE` in a shell).

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::compressed;
use super::file_or_stream::StreamInput;
use super::log::SourceLog;
use crate::error::{Error, ErrorKind, Result};
use crate::lines::StreamEnd;
use crate::supervise;

/// Reads the stream called `name`, which `open` opens, to its end or until a stop is asked for.
///
/// # Errors
///
/// `Configuration` if it cannot be opened, `Failed` if it cannot be read, those of the journal.
pub async fn read(
    name: String,
    open: impl FnOnce() -> Result<StreamInput> + Send + 'static,
    log: &mut SourceLog,
) -> Result<()> {
    let stop = log.stop().clone();
    let opening = async {
        tokio::select! {
            opened = Stream::open(name, open) => opened.map(Some),
            () = stop.stopped() => Ok(None),
        }
    };
    let stream = log.serve_during(opening).await??;
    log.finish().await?;
    let connection = log.open_connection();
    let end = match stream {
        Some(stream) => stream.copy(log, connection).await?,
        None => StreamEnd::Stop,
    };
    log.end_connection(connection, end)
}

/// Opens standard input.
pub fn stdin() -> Result<StreamInput> {
    StreamInput::stdin().map_err(|error| failed("from", "standard input", error))
}

/// Returns the error of a stream that cannot be read.
fn failed(what: &str, name: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("cannot read {what} {name}: {error}")).cause(error)
}

/// A request to wait for input, with the place for the answer: that there is some, or its end.
type WaitRequest = oneshot::Sender<Result<()>>;

/// A stream that is being read.
struct Stream {
    /// The name, for messages.
    name: String,
    /// The descriptor, which another thread waits on.
    descriptor: Arc<OwnedFd>,
    /// A read without data waits.
    blocks: bool,
    /// Asks the thread to wait for input.
    waits: mpsc::Sender<WaitRequest>,
    /// Dropping it wakes the thread, also when the task is ended from outside.
    _stop: PipeWriter,
}

impl Stream {
    /// Opens the stream on the thread that is to wait for its input.
    async fn open(
        name: String,
        open: impl FnOnce() -> Result<StreamInput> + Send + 'static,
    ) -> Result<Stream> {
        let cannot = |error: io::Error| failed("a thread for", &name, error);
        let (stopped, stop) = io::pipe().map_err(cannot)?;
        let (opened, opening) = oneshot::channel();
        let (waits, requests) = mpsc::channel();
        let called = name.clone();
        let run = move || {
            let opened_here = open().map(|input| (Arc::new(input.descriptor), input.blocks));
            let descriptor = opened_here.as_ref().ok().map(|(input, _)| Arc::clone(input));
            // It fails if the task is gone: no more requests come.
            drop(opened.send(opened_here));
            if let Some(descriptor) = descriptor {
                serve_waits(&called, &descriptor, &stopped, &requests);
            }
            Ok(())
        };
        // A panic drops the sender, which is seen below.
        supervise::thread("stream", |error| tracing::debug!("{error}"), run)?;
        let opened = opening.await.unwrap_or_else(|_| Err(panicked(&name)));
        let (descriptor, blocks) = opened?;
        Ok(Stream { name, descriptor, blocks, waits, _stop: stop })
    }

    /// Copies the stream into the log; returns how it ended.
    async fn copy(self, log: &mut SourceLog, connection: u64) -> Result<StreamEnd> {
        let stop = log.stop().clone();
        // A stream that was waited for has had a writer, so a read of nothing is its end.
        let (mut has_begun, mut has_bytes) = (false, false);
        // A descriptor in non-blocking mode is read first: `poll` does not report the end of a
        // named pipe whose last writer had gone before it was opened here.
        let mut must_wait = self.blocks;
        loop {
            if must_wait {
                has_begun = true;
                let waited = async {
                    tokio::select! {
                        biased;
                        () = stop.stopped() => Ok(false),
                        there = self.wait_for_input() => there.map(|()| true),
                    }
                };
                if !log.serve_during(waited).await?? {
                    return Ok(StreamEnd::Stop);
                }
            }
            log.ready_in_step(connection).await?;
            if stop.is_stopped() {
                return Ok(StreamEnd::Stop);
            }
            must_wait = self.blocks;
            match rustix::io::read(&*self.descriptor, log.spare(connection)) {
                Ok(0) if has_begun => return Ok(StreamEnd::Fin),
                Ok(0) | Err(Errno::AGAIN) => must_wait = true,
                Ok(bytes) => {
                    has_begun = true;
                    if !std::mem::replace(&mut has_bytes, true) {
                        compressed::warn_of_stream(&self.name, &log.spare(connection)[..bytes]);
                    }
                    log.filled(connection, bytes);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("from", &self.name, error.into())),
            }
            log.hand_over(connection).await?;
        }
    }

    /// Waits until there is input, or its end.
    async fn wait_for_input(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        // If the thread is gone the answer never comes, which is seen at once.
        drop(self.waits.send(answer));
        answered.await.unwrap_or_else(|_| Err(panicked(&self.name)))
    }
}

/// Returns the error of a reader that panicked.
fn panicked(name: &str) -> Error {
    Error::new(ErrorKind::Panicked, format!("the reader of {name} panicked"))
}

/// Answers requests to wait for input until no more come or a stop is asked for.
fn serve_waits(
    name: &str,
    input: &OwnedFd,
    stopped: &PipeReader,
    requests: &mpsc::Receiver<WaitRequest>,
) {
    while let Ok(answer) = requests.recv() {
        let Some(there) = poll_input(name, input, stopped).transpose() else { return };
        if answer.send(there).is_err() {
            return;
        }
    }
}

/// Waits until there is input (or its end); `None` once a stop is asked for.
fn poll_input(name: &str, input: &OwnedFd, stopped: &PipeReader) -> Result<Option<()>> {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return Ok(None),
            Ok(_) => return Ok(Some(())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed("from", name, error.into())),
        }
    }
}
