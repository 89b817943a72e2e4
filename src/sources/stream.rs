//! Standard input, and pipes and terminals under a file's name.
//!
//! A read from a terminal or a pipe may wait for ever, and a stop must not wait for it. So each
//! stream has a thread that waits for two things at once, input and the closing of a pipe that
//! stands for the stop, and reads only where a read returns at once. The thread is not one of the
//! runtime's, nor of its pool for blocking calls: streams that wait take nothing from others.
//!
//! A stream ends when its last writer has closed it, as `cat` sees it. A named pipe without a
//! writer has not begun yet: it is read when the first one comes. To let several writers come and
//! go, hold the pipe open for writing beside them (`exec 3<>PIPE` in a shell).

use std::io::{self, PipeReader};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::compressed;
use super::intake::Intake;
use super::path::StreamInput;
use crate::error::{Error, ErrorKind, Result};
use crate::lines::StreamEnd;
use crate::supervise;

/// Reads the stream called `name`, which `open` opens, to its end or until a stop is asked for.
///
/// # Errors
///
/// `Configuration` if it cannot be opened, `Failed` if it cannot be read, those of the journal.
pub(super) async fn read(
    name: String,
    open: impl FnOnce() -> Result<StreamInput> + Send + 'static,
    intake: Intake,
) -> Result<()> {
    let cannot = |error: io::Error| failed("a thread for", &name, error);
    // Dropping the writer wakes the thread, also when this task is ended from outside.
    let (stop_reader, stop_writer) = io::pipe().map_err(cannot)?;
    let stop = intake.stop().clone();
    let runtime = Handle::current();
    let (done, mut ended) = oneshot::channel();
    let called = name.clone();
    let run = move || {
        let copied = open().and_then(|input| {
            Stream { name: called, input, stop: stop_reader, intake, runtime }.copy()
        });
        // It fails if the job has failed and its task is gone: nobody asks how this ended.
        drop(done.send(copied));
        Ok(())
    };
    // A panic drops the sender, which is seen below.
    supervise::thread("stream", |error| tracing::debug!("{error}"), run)?;
    let copied = tokio::select! {
        copied = &mut ended => copied,
        () = stop.stopped() => {
            drop(stop_writer);
            ended.await
        }
    };
    copied.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Panicked, format!("the reader of {name} panicked")))
    })
}

/// Opens standard input.
pub(super) fn stdin() -> Result<StreamInput> {
    StreamInput::stdin().map_err(|error| failed("from", "standard input", error))
}

fn failed(what: &str, name: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("cannot read {what} {name}: {error}")).cause(error)
}

/// A stream that is being read, on its thread.
struct Stream {
    name: String,
    input: StreamInput,
    stop: PipeReader,
    intake: Intake,
    runtime: Handle,
}

impl Stream {
    fn copy(mut self) -> Result<()> {
        self.runtime.block_on(self.intake.finish())?;
        // A stream that was waited for has had a writer, so a read of nothing is its end.
        let (mut has_begun, mut has_bytes) = (false, false);
        // A descriptor in non-blocking mode is read first: `poll` does not report the end of a
        // named pipe whose last writer had gone before it was opened here.
        let mut must_wait = self.input.blocks;
        loop {
            if must_wait {
                has_begun = true;
                if !self.wait_for_input()? {
                    return self.intake.end(StreamEnd::Stop);
                }
            }
            self.runtime.block_on(self.intake.ready_in_step())?;
            if self.intake.stop().is_stopped() {
                return self.intake.end(StreamEnd::Stop);
            }
            must_wait = self.input.blocks;
            match rustix::io::read(&self.input.descriptor, self.intake.spare()) {
                Ok(0) if has_begun => return self.intake.end(StreamEnd::Fin),
                Ok(0) | Err(Errno::AGAIN) => must_wait = true,
                Ok(bytes) => {
                    has_begun = true;
                    if !std::mem::replace(&mut has_bytes, true) {
                        compressed::warn_of_stream(&self.name, &self.intake.spare()[..bytes]);
                    }
                    self.intake.filled(bytes);
                    self.runtime.block_on(self.intake.hand_over())?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("from", &self.name, error.into())),
            }
        }
    }

    /// Waits until there is input (or its end); returns false once a stop is asked for.
    fn wait_for_input(&self) -> Result<bool> {
        let input = self.input.descriptor.as_fd();
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(input, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) if !fds[1].revents().is_empty() => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("from", &self.name, error.into())),
            }
        }
    }
}
