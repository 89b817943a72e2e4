//! The server: connections, and their limits in number, size and time.
//!
//! All of it runs on one thread with a low priority. A connection above the limit takes the place
//! of the oldest one that is no event stream: strangers who open connections and send nothing
//! cannot keep probes out. A head must come within [`HEAD_TIMEOUT`] and has at most
//! [`HEAD_BYTES_MAX`] bytes; the body of a request is never read; a peer that takes nothing is cut
//! off by `slow_client_timeout`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::Method;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::FLUSH_TIMEOUT;
use super::event_stream;
use super::routes::answer;
use super::site::Site;
use super::slow_client_timeout::PatientStream;
use crate::error::{Error, ErrorKind, Result};

/// Most connections at a time. There is room for all event streams and some short requests.
const CONNECTIONS_MAX: usize = event_stream::STREAMS_MAX + 128;

/// Longest time in which the head of a request must come, also the next one of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of the head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Pause after a connection could not be accepted, because there are no descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How much the scheduler prefers other threads: workers and sources go first.
const NICE: i32 = 10;

/// Serves until the run has ended. Fails with `Failed` if the runtime cannot be made.
pub fn run(listener: TcpListener, site: Site) -> Result<()> {
    // Only a lower priority is asked for, which every process may have. Without it the server
    // works.
    let _ = rustix::process::setpriority_process(None, NICE);
    let failed = |cause: std::io::Error| {
        Error::new(ErrorKind::Failed, format!("cannot start the HTTP server: {cause}")).cause(cause)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed)?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(failed)?
    };
    runtime.block_on(serve(listener, Arc::new(site)));
    Ok(())
}

/// Accepts connections until the run has ended, then waits a moment for those that are open.
async fn serve(listener: tokio::net::TcpListener, site: Arc<Site>) {
    let mut connections = Connections::default();
    let mut ended = site.ended.clone();
    let mut ticking = pin!(site.events.tick(site.ended.clone()));
    loop {
        tokio::select! {
            // The ticker ends when the run has.
            () = &mut ticking => break,
            _ = ended.wait_for(|ended| *ended) => {
                ticking.await;
                break;
            }
            Some(connection) = connections.tasks.join_next() => report(connection),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Dropped, and so closed, if there are event streams only.
                    if connections.make_room(CONNECTIONS_MAX) {
                        let site = Arc::clone(&site);
                        connections.add(|is_stream| connection(stream, site, is_stream));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let close = async { while connections.tasks.join_next().await.is_some() {} };
    // Streams that have not taken the last events by then end without them.
    let _ = tokio::time::timeout(FLUSH_TIMEOUT, close).await;
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// Those that may give way to others, the oldest first. Some may have ended.
    short: VecDeque<(AbortHandle, Arc<AtomicBool>)>,
}

impl Connections {
    /// Serves a connection by the task that `serve` makes. It sets its flag when the connection has
    /// become an event stream.
    fn add<F>(&mut self, serve: impl FnOnce(Arc<AtomicBool>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let is_stream = Arc::new(AtomicBool::new(false));
        let task = self.tasks.spawn(serve(Arc::clone(&is_stream)));
        self.short.push_back((task, is_stream));
    }

    /// Closes the oldest connection that is no event stream, if there are `max`. Returns false if
    /// none can give way.
    fn make_room(&mut self, max: usize) -> bool {
        if self.short.len() >= 2 * max {
            self.short.retain(|(task, _)| !task.is_finished());
        }
        if self.tasks.len() < max {
            return true;
        }
        while let Some((task, is_stream)) = self.short.pop_front() {
            // A stream stays one, so it need not be looked at again. Their number has its own
            // limit, which leaves room for others.
            if !task.is_finished() && !is_stream.load(Ordering::Relaxed) {
                task.abort();
                return true;
            }
        }
        false
    }
}

/// Reports a connection whose task has panicked. The others, and the run, go on.
fn report(connection: std::result::Result<(), JoinError>) {
    if let Err(error) = connection
        && error.is_panic()
    {
        tracing::error!("an answer of the HTTP server panicked: {error}");
    }
}

/// Serves one connection to its end. Sets `is_stream` when it carries events.
async fn connection(stream: TcpStream, site: Arc<Site>, is_stream: Arc<AtomicBool>) {
    // An event is small and should not wait for the next one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let mut ended = site.ended.clone();
    let service = service_fn(move |request| {
        let answered = answer(&site, &request);
        // The answer to HEAD has the same status and no events.
        let is_get = request.method() == Method::GET && request.uri().path() == event_stream::PATH;
        if is_get && answered.status().is_success() {
            is_stream.store(true, Ordering::Relaxed);
        }
        async move { Ok::<_, Infallible>(answered) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.max_buf_size(HEAD_BYTES_MAX);
    let io = TokioIo::new(PatientStream::new(stream));
    let mut connection = pin!(builder.serve_connection(io, service));
    // In a block of its own: what `wait_for` returns holds a lock.
    let end = async { drop(ended.wait_for(|ended| *ended).await) };
    let served = tokio::select! {
        served = connection.as_mut() => Some(served),
        () = end => None,
    };
    let served = match served {
        Some(served) => served,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the HTTP server ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn oldest_silent_connection_gives_way() {
        let mut connections = Connections::default();
        let mut flags = Vec::new();
        // The first one has ended by itself.
        connections.add(|_| std::future::ready(()));
        connections.tasks.join_next().await.expect("a connection").expect("no panic");
        for _ in 0..3 {
            connections.add(|is_stream| {
                flags.push(is_stream);
                std::future::pending()
            });
        }
        assert!(connections.make_room(4));
        assert_eq!(connections.tasks.len(), 3, "there is room");
        // The oldest one that is left is an event stream.
        flags[0].store(true, Ordering::Relaxed);
        assert!(connections.make_room(3));
        let ended = connections.tasks.join_next().await.expect("a connection");
        assert!(ended.is_err_and(|error| error.is_cancelled()));
        let left: Vec<_> = connections.short.iter().map(|(_, flag)| flag).collect();
        assert!(left.len() == 1 && Arc::ptr_eq(left[0], &flags[2]));
        // Those that have ended are not kept for ever.
        for _ in 0..4 {
            connections.add(|_| std::future::ready(()));
            connections.tasks.join_next().await.expect("a connection").expect("no panic");
        }
        assert!(connections.make_room(2));
        assert_eq!(connections.short.len(), 0, "the last one gave way");
        // Only the stream is left, and the one that has not ended yet.
        assert!(!connections.make_room(1));
    }
}
