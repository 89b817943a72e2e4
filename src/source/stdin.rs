//! Standard input as a source.
//!
//! A read from a terminal or a pipe may block for ever, and a stop must not wait for it. So the
//! reading thread waits for two things at once, input and the closing of a pipe that stands for the
//! stop, and reads only where a read returns at once. The descriptor stays in blocking mode, since
//! it may be shared with a shell.

use std::io::{self, PipeReader};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::runtime::Handle;

use super::intake::Intake;
use crate::error::{Error, ErrorKind, Result};
use crate::lines::StreamEnd;

/// Reads standard input to its end.
pub(super) async fn read(intake: Intake) -> Result<()> {
    let (stop_reader, stop_writer) = io::pipe().map_err(failed)?;
    let stop = intake.stop().clone();
    let runtime = Handle::current();
    let reading = tokio::task::spawn_blocking(move || copy(&stop_reader, intake, &runtime));
    let closer = tokio::spawn(async move {
        stop.stopped().await;
        drop(stop_writer);
    });
    let read = reading.await;
    closer.abort();
    read.unwrap_or_else(|panicked| {
        Err(Error::new(ErrorKind::Panicked, "the reader of standard input panicked")
            .cause(panicked))
    })
}

fn failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("cannot read standard input: {error}")).cause(error)
}

fn copy(stop: &PipeReader, mut intake: Intake, runtime: &Handle) -> Result<()> {
    let stdin = io::stdin();
    runtime.block_on(intake.finish())?;
    loop {
        if !wait_for_input(&stdin, stop).map_err(failed)? {
            return intake.end(StreamEnd::Stop);
        }
        runtime.block_on(intake.ready_in_step())?;
        match rustix::io::read(&stdin, intake.spare()) {
            Ok(0) => {
                return intake.end(StreamEnd::Fin);
            }
            Ok(bytes) => {
                intake.filled(bytes);
                runtime.block_on(intake.hand_over())?;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Waits until there is input (or its end); false once a stop is asked for.
fn wait_for_input(stdin: &io::Stdin, stop: &PipeReader) -> io::Result<bool> {
    loop {
        let mut fds = [PollFd::new(stdin, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
