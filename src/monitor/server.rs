//! The server: connections, and their limits in number, size and time.
//!
//! All of it runs on one thread with a low priority. Connections above the limit are closed at
//! once. A head must come within [`HEAD_TIMEOUT`] and has at most [`HEAD_BYTES_MAX`] bytes; the
//! body of a request is never read; a peer that takes nothing is cut off by `slow_client_timeout`.

use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::FLUSH_TIMEOUT;
use super::routes::answer;
use super::site::Site;
use super::slow_client_timeout::PatientStream;
use crate::error::{Error, ErrorKind, Result};

/// Most connections at a time. There is room for all event streams and some short requests.
const CONNECTIONS_MAX: usize = super::event_stream::STREAMS_MAX + 128;

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
    let mut connections = JoinSet::new();
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
            Some(connection) = connections.join_next() => report(connection),
            accepted = listener.accept() => match accepted {
                // Dropping it closes it: the client sees that at once.
                Ok((stream, _)) if connections.len() >= CONNECTIONS_MAX => drop(stream),
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&site)));
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let close = async { while connections.join_next().await.is_some() {} };
    // Streams that have not taken the last events by then end without them.
    let _ = tokio::time::timeout(FLUSH_TIMEOUT, close).await;
}

/// Reports a connection whose task has panicked. The others, and the run, go on.
fn report(connection: std::result::Result<(), tokio::task::JoinError>) {
    if let Err(error) = connection {
        tracing::error!("an answer of the HTTP server panicked: {error}");
    }
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, site: Arc<Site>) {
    // An event is small and should not wait for the next one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let mut ended = site.ended.clone();
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(answer(&site, &request)) }
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
