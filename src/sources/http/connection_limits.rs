//! The connections of the server: how many there may be, and which of them must go.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A connection whose client has sent nothing for so long gives way to a new one.
const IDLE: Duration = Duration::from_secs(1);

/// The connections that are open.
#[derive(Debug)]
pub struct Connections {
    /// The time from which activity is measured.
    begun: Instant,
    /// Most connections at once.
    max: usize,
    /// See [`IDLE`].
    idle: Duration,
    /// The open connections, by id.
    open: Mutex<BTreeMap<u64, Arc<Activity>>>,
}

/// The activity of one connection.
#[derive(Debug)]
pub struct Activity {
    /// The time from which activity is measured.
    begun: Instant,
    /// Milliseconds since the server began, when its client last sent something.
    received_ms: AtomicU64,
    /// The client waits for an answer.
    is_served: AtomicBool,
    /// The body of the last request was not read to its end.
    is_unread: AtomicBool,
    /// Notified when the connection must go.
    closed: Notify,
}

impl Connections {
    /// Returns an empty set of at most `max` connections.
    pub fn new(max: usize) -> Arc<Connections> {
        Connections::with_idle(max, IDLE)
    }

    /// Returns the limits with another time of silence, for tests.
    fn with_idle(max: usize, idle: Duration) -> Arc<Connections> {
        let open = Mutex::default();
        Arc::new(Connections { begun: Instant::now(), max, idle, open })
    }

    /// Adds a connection. At the limit, the one that has been idle for longest is closed; returns
    /// `None` if none is idle.
    pub fn open(self: &Arc<Self>) -> Option<OpenConnection> {
        let activity = Arc::new(Activity {
            begun: self.begun,
            received_ms: AtomicU64::new(0),
            is_served: AtomicBool::new(false),
            is_unread: AtomicBool::new(false),
            closed: Notify::new(),
        });
        activity.received();
        let mut open = self.lock();
        if open.len() >= self.max {
            let idlest = open.iter().filter(|(_, one)| !one.is_served.load(Ordering::Relaxed));
            let idlest = idlest.map(|(id, one)| (one.received_ms.load(Ordering::Relaxed), *id));
            let (received_ms, id) = idlest.min()?;
            let idle = self.begun.elapsed().saturating_sub(Duration::from_millis(received_ms));
            if idle < self.idle {
                return None;
            }
            if let Some(one) = open.remove(&id) {
                one.closed.notify_one();
            }
        }
        let id = open.last_key_value().map_or(0, |(id, _)| id + 1);
        open.insert(id, Arc::clone(&activity));
        Some(OpenConnection { all: Arc::clone(self), id, activity })
    }

    /// Locks the connections.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Activity>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    /// Notes that bytes have come.
    fn received(&self) {
        let now = self.begun.elapsed().as_millis() as u64;
        self.received_ms.store(now, Ordering::Relaxed);
    }

    /// Notes whether the body of the request is still to be read.
    pub fn set_unread(&self, is_unread: bool) {
        self.is_unread.store(is_unread, Ordering::Relaxed);
    }

    /// Returns true if the client may still be sending a body that is not read.
    pub fn is_unread(&self) -> bool {
        self.is_unread.load(Ordering::Relaxed)
    }

    /// Notes that the client waits for an answer, until the value is dropped.
    pub fn serve(self: &Arc<Self>) -> Served {
        self.is_served.store(true, Ordering::Relaxed);
        Served(Arc::clone(self))
    }
}

/// A request that is being served.
#[derive(Debug)]
pub struct Served(Arc<Activity>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.received();
        self.0.is_served.store(false, Ordering::Relaxed);
    }
}

/// One of the connections, which leaves them when this is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    /// The connections that this is one of.
    all: Arc<Connections>,
    /// The id of the connection.
    id: u64,
    /// The activity of the connection.
    pub activity: Arc<Activity>,
}

impl OpenConnection {
    /// Resolves when the connection must make room for another.
    pub async fn closed(&self) {
        self.activity.closed.notified().await;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.all.lock();
        // A younger connection may have its number if this one had to go.
        if open.get(&self.id).is_some_and(|one| Arc::ptr_eq(one, &self.activity)) {
            open.remove(&self.id);
        }
    }
}

/// A stream that notes when its client sends.
#[derive(Debug)]
pub struct Watched<S> {
    /// The socket, plain or encrypted.
    pub stream: S,
    /// Notes each byte that comes.
    pub activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, into);
        if into.filled().len() > before {
            self.activity.received();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_connection_gives_way_to_new_one() {
        let connections = Connections::with_idle(2, Duration::ZERO);
        let (first, second) = (connections.open().expect("1"), connections.open().expect("2"));
        let served = [first.activity.serve(), second.activity.serve()];
        assert!(connections.open().is_none(), "none is idle");
        drop(served);
        let served = second.activity.serve();
        let third = connections.open().expect("the first is idle");
        first.closed().await;
        let third_served = third.activity.serve();
        drop(first);
        assert!(connections.open().is_none(), "one that was closed leaves no more room");
        drop((served, second));
        connections.open().expect("one has gone");
        drop(third_served);
    }

    #[test]
    fn connection_that_just_sent_stays() {
        let connections = Connections::with_idle(1, Duration::from_secs(3600));
        let _first = connections.open().expect("1");
        assert!(connections.open().is_none());
    }
}
