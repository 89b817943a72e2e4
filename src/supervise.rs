//! Spawns tasks and threads so that none of them dies unnoticed.
//!
//! A task that panics takes its part of the job with it: nothing is cut any more, or nothing is
//! stored, and all others wait for ever. So every task and every thread of the crate is
//! started here, and nowhere else (`tests/tidy` checks that). Each has a name. A panic becomes
//! an error of kind [`Panicked`](ErrorKind::Panicked) that carries the name, and that error ends
//! the job like any other cause: see [`Failure`].
//!
//! Each named task is also a place at which a test can have the panic happen: see
//! `crash_points::TASKS`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::thread::{JoinHandle, Scope};

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::crash_points;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;

/// The work of a task, without its type. One task of the runtime and one catch of panics serve all
/// tasks then: compiled for each of them, they took a large part of the program.
type Task = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// The work of a thread, without its type.
type Work<'w> = Box<dyn FnOnce() -> Result<()> + Send + 'w>;

/// A function that takes the error of a thread, without its type.
type OnFailure<'w> = Box<dyn FnOnce(Error) + Send + 'w>;

/// Runs `task` on `runtime`; the job fails if the task returns an error or panics.
pub fn supervise(
    failure: &Failure,
    runtime: &Handle,
    name: &'static str,
    task: impl Future<Output = Result<()>> + Send + 'static,
) {
    spawn(failure.clone(), runtime, name, Box::pin(task));
}

/// Runs a task whose type is erased, as [`supervise`] does.
fn spawn(failure: Failure, runtime: &Handle, name: &'static str, task: Task) {
    let task = async move {
        crash_points::task_point(name);
        task.await
    };
    runtime.spawn(async move {
        // The task is dropped with the panic, so no code sees what it left half-done.
        match AssertUnwindSafe(task).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failure.fail(error),
            Err(panic) => failure.fail(panicked(name, &*panic)),
        }
    });
}

/// Starts a thread that runs `work`; `on_failure` is called on it with the error that `work`
/// returns, or with that of its panic.
///
/// # Errors
///
/// `Failed` if the thread cannot be started.
pub fn thread(
    name: &str,
    on_failure: impl FnOnce(Error) + Send + 'static,
    work: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<JoinHandle<()>> {
    start(name, Box::new(on_failure), Box::new(work))
}

/// Starts a thread whose work is erased, as [`thread`] does.
fn start(
    name: &str,
    on_failure: OnFailure<'static>,
    work: Work<'static>,
) -> Result<JoinHandle<()>> {
    let (builder, task) = (std::thread::Builder::new(), name.to_owned());
    let started =
        builder.name(format!("wordtide-{name}")).spawn(move || run(&task, on_failure, work));
    started.map_err(|cause| {
        let message = format!("cannot start the thread {name}: {cause}");
        Error::new(ErrorKind::Failed, message).cause(cause)
    })
}

/// Starts a thread within `scope`, as [`thread`] does.
pub fn scoped<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &'static str,
    on_failure: impl FnOnce(Error) + Send + 'scope,
    work: impl FnOnce() -> Result<()> + Send + 'scope,
) {
    let (on_failure, work): (OnFailure<'_>, Work<'_>) = (Box::new(on_failure), Box::new(work));
    scope.spawn(move || run(name, on_failure, work));
}

/// Runs the work of a thread and reports an error or a panic.
fn run(name: &str, on_failure: OnFailure<'_>, work: Work<'_>) {
    let work = AssertUnwindSafe(|| {
        crash_points::task_point(name);
        work()
    });
    match catch_unwind(work) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => on_failure(error),
        Err(panic) => on_failure(panicked(name, &*panic)),
    }
}

/// Runs `work` on a thread that may block and returns its result. It begins at once, and not when
/// the result is waited for. A panic goes on in the caller, which is supervised itself.
pub fn blocking<T, F>(work: F) -> impl Future<Output = T> + Send + use<T, F>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    blocking_on(&Handle::current(), work)
}

/// Works as [`blocking`], on a thread of `runtime`. It may be called on any thread.
pub fn blocking_on<T, F>(runtime: &Handle, work: F) -> impl Future<Output = T> + Send + use<T, F>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (done, mut result) = oneshot::channel();
    let running = run_blocking(runtime, Box::new(move || drop(done.send(work()))));
    async move {
        end_of(running).await;
        result.try_recv().expect("work that ended without a panic has sent its result")
    }
}

/// Runs `work`, whose type is erased, on a thread of `runtime` that may block.
fn run_blocking(runtime: &Handle, work: Box<dyn FnOnce() + Send>) -> tokio::task::JoinHandle<()> {
    runtime.spawn_blocking(work)
}

/// Returns when the work has ended. Its panic goes on here.
async fn end_of(running: tokio::task::JoinHandle<()>) {
    if let Err(lost) = running.await {
        match lost.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime shuts down, and drops the caller too.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Runs `work` on a thread of `runtime` that may block, whose end is not awaited.
/// `work` must hand its result over by a channel whose reader notices that the sender has gone.
pub fn aside(runtime: &Handle, work: impl FnOnce() + Send + 'static) {
    let work: Box<dyn FnOnce() + Send> = Box::new(work);
    runtime.spawn_blocking(work);
}

/// The error of a task that panicked.
fn panicked(name: &str, panic: &(dyn Any + Send)) -> Error {
    Error::new(ErrorKind::Panicked, format!("the task {name} panicked: {}", panic_text(panic)))
}

/// Returns the message of a panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn task_panic_ends_the_job() {
        let failure = Failure::new();
        supervise(&failure, &Handle::current(), "some task", async { panic!("on purpose") });
        failure.failed().await;
        let cause = failure.take_cause().expect("a cause");
        assert_eq!(cause.kind(), ErrorKind::Panicked);
        assert_eq!(cause.to_string(), "the task some task panicked: on purpose");
    }

    #[tokio::test]
    async fn task_error_is_the_cause() {
        let failure = Failure::new();
        let full = async { Err(Error::new(ErrorKind::Disk, "full")) };
        supervise(&failure, &Handle::current(), "some task", full);
        failure.failed().await;
        assert_eq!(failure.take_cause().map(|cause| cause.kind()), Some(ErrorKind::Disk));
    }

    #[tokio::test]
    async fn blocking_panic_goes_on_in_caller() {
        let failure = Failure::new();
        let caller = async {
            blocking(|| panic!("on purpose")).await;
            Ok(())
        };
        supervise(&failure, &Handle::current(), "caller", caller);
        failure.failed().await;
        let cause = failure.take_cause().expect("a cause").to_string();
        assert_eq!(cause, "the task caller panicked: on purpose");
    }

    #[test]
    fn thread_panic_reaches_its_callback() {
        let failure = Failure::new();
        let fail = failure.clone();
        let started = thread("some", move |error| fail.fail(error), || panic!("on purpose"));
        started.expect("a thread").join().expect("the panic is caught");
        assert_eq!(failure.take_cause().map(|cause| cause.kind()), Some(ErrorKind::Panicked));
    }
}
