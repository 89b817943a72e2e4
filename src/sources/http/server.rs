//! The server: accepts connections and answers their requests.
//!
//! ```text
//! accept ─► TLS ─► head ─► token ─► body (receive_body)
//!   ─► request to the log's task ─► durable ─► answer
//! ```
//!
//! Each connection is a task of a set that the server joins, so a panic in one ends the job. No
//! answer is given before the position that it names is durable. A connection that is idle, or is
//! slow with a body, has limits of its own (`connection_limits`).

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::super::stop_signal::Stop;
use super::super::tls_accept;
use super::append_bodies::{Ask, LogRequest, OpenAsk, Reply};
use super::connection_limits::{Activity, Connections, OpenConnection, Watched};
use super::decode::Coding;
use super::receive_body::{BodyLimits, Received};
use super::request::{Guard, LinesRequest, PieceEnd, announced_length};
use super::responses::{self, Refusal};
use crate::response_body::{self, ResponseBody};

/// Longest time for the head of a request, and for the silence between two requests.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time for a TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Most bytes of a connection that are read and not yet parsed; the head of a request must fit.
const READ_BYTES_MAX: usize = 32 << 10;
/// Longest time that a request waits until the log can look at it.
const QUEUE_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time that requests under way may take when the run stops.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// Time and bytes for what a client still sends after an answer that closes the connection: a
/// connection that is closed while it sends is reset, and it would not see the answer.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 16 << 20);
/// The pause after a failure to accept, as when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A burst of refused connections is over after so long without one.
const BURST: Duration = Duration::from_secs(10);

/// The service of all connections.
pub struct LinesService {
    /// Decides if a request may send.
    pub guard: Guard,
    /// Receives bodies within their limits.
    pub bodies: BodyLimits,
    /// The queue to the task that owns the log.
    pub requests: mpsc::Sender<LogRequest>,
    /// Asks the server to end.
    pub closing: Stop,
    /// The log had no room for the last body.
    pub is_full: AtomicBool,
    /// Accepts TLS, if senders speak it.
    pub tls: Option<TlsAcceptor>,
    /// A handshake that failed was reported. Any program can make many.
    pub no_tls: AtomicBool,
}

impl LinesService {
    /// Answers one request. A `HEAD` gets the head of the answer to its `GET`.
    async fn answer(
        &self,
        request: Request<Incoming>,
        activity: &Arc<Activity>,
    ) -> Response<ResponseBody> {
        let is_head = request.method() == Method::HEAD;
        let mut answer = self.fulfil(request, activity).await.unwrap_or_else(Refusal::answer);
        if is_head {
            *answer.body_mut() = response_body::empty();
        }
        answer
    }

    /// Answers a request, or refuses it. The right to send is checked first, and an answer is given
    /// when the position that it names is durable.
    async fn fulfil(
        &self,
        request: Request<Incoming>,
        activity: &Arc<Activity>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let (parts, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        activity.set_unread(has_body);
        self.guard.check(&parts.headers, &parts.uri)?;
        let wish = LinesRequest::of(&parts)?;
        if self.closing.is_stopped() {
            return Err(Refusal::stopping());
        }
        let is_lines = matches!(wish, LinesRequest::Lines { .. });
        let ask = match wish {
            LinesRequest::Next { producer } => Ask::Next { producer },
            LinesRequest::Lines { coding, ends } => {
                let body = self.receive(&parts.headers, body, coding).await?;
                Ask::Lines { body, ends }
            }
            LinesRequest::Piece { producer, offset, coding, end } => {
                let body = self.receive(&parts.headers, body, coding).await?;
                if offset.checked_add(body.len() as u64).is_none() {
                    let message = "the piece ends after the last possible position";
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
                }
                if end == PieceEnd::Forget && body.len() > 0 {
                    // A repeated request would find nothing that is known of the producer.
                    let message = "end=forget takes no body: send the piece first, then the end";
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
                }
                Ask::Piece { producer, offset, end, body }
            }
        };
        activity.set_unread(false);
        let _served = activity.serve();
        let Reply { next, tag, durable, refusal } = self.ask(ask).await?;
        // Also a refusal names a position that the sender may rely on.
        if let Some(durable) = durable {
            durable.wait().await.map_err(|_| Refusal::stopping())?;
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None if is_lines => Ok(responses::kept()),
            None => Ok(responses::next(next, tag)),
        }
    }

    /// Receives the body of a request, decompressed, unless the run stops meanwhile. A body that is
    /// announced as too long, or that the log has no room for, is refused before it is sent.
    async fn receive(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        coding: Coding,
    ) -> Result<Received, Refusal> {
        let announced = announced_length(headers);
        if let Some(bytes) = announced {
            self.bodies.check_announced(bytes)?;
        }
        if self.is_full.load(Ordering::Relaxed) {
            // The sender need not send what cannot be kept.
            let ask = Ask::Room { bytes: announced.unwrap_or(0) };
            if let Some(refusal) = self.ask(ask).await?.refusal {
                return Err(refusal);
            }
        }
        tokio::select! {
            received = self.bodies.receive(body, coding) => received,
            () = self.closing.stopped() => Err(Refusal::stopping()),
        }
    }

    /// Sends a request to the task that owns the log and waits for its reply. Refused with 503 if
    /// the log does not begin with it in [`QUEUE_TIME_MAX`]: it is not carried out then. An append
    /// that has begun is waited for, since what is kept of it cannot be taken back.
    async fn ask(&self, ask: Ask) -> Result<Reply, Refusal> {
        self.ask_within(ask, QUEUE_TIME_MAX).await
    }

    /// Asks as `ask` does, with another limit in tests.
    async fn ask_within(&self, ask: Ask, time_max: Duration) -> Result<Reply, Refusal> {
        let (reply, mut replied) = oneshot::channel();
        // It says nothing of the room for bodies.
        let is_of_position = matches!(ask, Ask::Next { .. });
        let ask = OpenAsk::new(ask);
        let request = LogRequest { ask: ask.clone(), reply };
        let asking = async {
            self.requests.send(request).await.map_err(|_| Refusal::stopping())?;
            (&mut replied).await.map_err(|_| Refusal::stopping())
        };
        let reply = match timeout(time_max, asking).await {
            Ok(replied) => replied?,
            Err(_) if ask.take().is_some() => {
                return Err(Refusal::later("the log takes nothing now: send it again later"));
            }
            Err(_) => replied.await.map_err(|_| Refusal::stopping())?,
        };
        if !is_of_position {
            let is_full = reply.refusal.as_ref().is_some_and(Refusal::is_later);
            self.is_full.store(is_full, Ordering::Relaxed);
        }
        Ok(reply)
    }
}

/// The stream of a connection: TCP, or TLS after the handshake. The server of HTTP is compiled once
/// for both.
trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

impl LinesService {
    /// Does the handshake of a connection, where senders speak TLS; returns `None` if it fails, or
    /// if the run stops meanwhile.
    async fn shake(&self, stream: TcpStream) -> Option<Box<dyn ByteStream>> {
        let Some(tls) = &self.tls else { return Some(Box::new(stream)) };
        let peer = stream.peer_addr();
        let shaken = tokio::select! {
            shaken = tls_accept::accept(tls, stream, HANDSHAKE_TIME_MAX) => shaken,
            () = self.closing.stopped() => return None,
        };
        let cause = match shaken {
            Ok(stream) => return Some(stream),
            Err(cause) => cause,
        };
        let peer = peer.map_or_else(|_| "a client".to_owned(), |peer| peer.to_string());
        if self.no_tls.swap(true, Ordering::Relaxed) {
            tracing::debug!("the TLS handshake of {peer} failed: {cause}");
        } else {
            tracing::warn!(
                "{peer} was refused by --listen-http: its TLS handshake failed: {cause}; others \
                 like it are not reported"
            );
        }
        None
    }
}

/// Serves connections of `listener` until the service closes, then waits for requests under way,
/// for at most [`STOP_TIME_MAX`].
pub async fn serve(listener: TcpListener, service: Arc<LinesService>, connections_max: usize) {
    let connections = Connections::new(connections_max);
    let mut tasks = JoinSet::new();
    let mut refused: Option<Instant> = None;
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            () = service.closing.stopped() => break,
            Some(ended) = tasks.join_next() => {
                check(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!("cannot accept a connection of --listen-http: {error}");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        is_failing = false;
        match connections.open() {
            Some(open) => drop(tasks.spawn(converse(stream, open, Arc::clone(&service)))),
            None => {
                if refused.is_none_or(|last| last.elapsed() > BURST) {
                    tracing::warn!(
                        "{peer} and perhaps others are refused: --listen-http has \
                         {connections_max} connections, the most of --max-connections"
                    );
                }
                refused = Some(Instant::now());
                // A handshake would have to be waited for.
                if service.tls.is_none() {
                    refuse(&stream);
                }
            }
        }
    }
    drop(listener);
    let ending = async {
        while let Some(ended) = tasks.join_next().await {
            check(ended);
        }
    };
    if timeout(STOP_TIME_MAX, ending).await.is_err() {
        tracing::debug!("some connections of --listen-http did not end in time");
    }
}

/// Panics if a connection has panicked: this task is supervised, those of connections are not.
pub fn check(ended: Result<(), tokio::task::JoinError>) {
    if let Err(lost) = ended
        && let Ok(panic) = lost.try_into_panic()
    {
        resume_unwind(panic);
    }
}

/// Answers a connection that is one too many, without waiting for its request.
fn refuse(stream: &TcpStream) {
    let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
        retry-after: 1\r\nconnection: close\r\ncontent-length: 32\r\n\r\n\
        {\"error\":\"too many connections\"}";
    // The client may be gone, and a full socket has its answer.
    let _ = stream.try_write(answer.as_bytes());
}

/// Serves one connection until it ends, or until `open` is closed because others need its place.
async fn converse(stream: TcpStream, open: OpenConnection, service: Arc<LinesService>) {
    // Answers are short and complete: they need not wait for more.
    let _ = stream.set_nodelay(true);
    let serving = async {
        if let Some(stream) = service.shake(stream).await {
            converse_http(stream, &open.activity, &service).await;
        }
    };
    tokio::select! {
        () = serving => {}
        () = open.closed() => {}
    }
}

/// Serves the requests of one connection until either side closes it.
async fn converse_http(
    stream: Box<dyn ByteStream>,
    activity: &Arc<Activity>,
    service: &Arc<LinesService>,
) {
    let answer = |request| {
        let (service, activity) = (Arc::clone(service), Arc::clone(activity));
        Box::pin(async move { Ok::<_, Infallible>(service.answer(request, &activity).await) })
    };
    let stream = TokioIo::new(Watched { stream, activity: Arc::clone(activity) });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(READ_BYTES_MAX)
        // A client may close its side when it has sent its request.
        .half_close(true)
        .serve_connection(stream, service_fn(answer));
    let mut is_closing = false;
    loop {
        tokio::select! {
            // An error is the client's: it is gone, or what it sent is not HTTP.
            _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break,
            () = service.closing.stopped(), if !is_closing => {
                is_closing = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    if activity.is_unread() {
        linger(connection.into_parts().io.into_inner().stream).await;
    }
}

/// Closes a connection so that its client can still read the answer: what it sends is read and
/// dropped for a while, since a socket that is closed with unread bytes is reset.
async fn linger(mut stream: Box<dyn ByteStream>) {
    let (time, bytes) = LINGER;
    let reading = async {
        stream.shutdown().await?;
        let mut sink = tokio::io::sink();
        tokio::io::copy(&mut stream.take(bytes as u64), &mut sink).await
    };
    // Nothing is left to do where the client is gone, or sends on and on.
    let _ = timeout(time, reading).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a service whose requests are not carried out, and these.
    fn service() -> (LinesService, mpsc::Receiver<LogRequest>) {
        let (requests, asked) = mpsc::channel(1);
        let service = LinesService {
            guard: Guard { token: None, is_loopback: true },
            bodies: BodyLimits::new(1),
            requests,
            closing: Stop::new(),
            is_full: AtomicBool::new(false),
            tls: None,
            no_tls: AtomicBool::new(false),
        };
        (service, asked)
    }

    #[tokio::test]
    async fn request_that_waited_too_long_is_withdrawn() {
        let (service, mut asked) = service();
        // The second one does not even come into the queue.
        for _ in 0..2 {
            let asking = service.ask_within(Ask::Room { bytes: 1 }, Duration::ZERO);
            assert!(asking.await.expect_err("no reply").is_later());
        }
        let request = asked.recv().await.expect("the first one");
        assert!(request.ask.take().is_none(), "it was answered, and may not be carried out");
        assert!(asked.try_recv().is_err());
    }

    #[tokio::test]
    async fn request_that_was_begun_is_waited_for() {
        let (service, mut asked) = service();
        let (begun, has_begun) = oneshot::channel();
        let begin = async {
            let request = asked.recv().await.expect("a request");
            assert!(request.ask.take().is_some());
            begun.send(request.reply).expect("it is taken");
        };
        let end = async {
            let reply = has_begun.await.expect("it has begun");
            // Longer than the request may wait for its begin.
            sleep(Duration::from_millis(200)).await;
            let done = Reply { next: 7, tag: None, durable: None, refusal: None };
            reply.send(done).expect("it is waited for");
        };
        let asking = service.ask_within(Ask::Room { bytes: 1 }, Duration::from_millis(100));
        let (reply, (), ()) = tokio::join!(asking, begin, end);
        assert_eq!(reply.expect("a reply").next, 7);
    }
}
