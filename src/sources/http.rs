//! Lines that senders post: `--listen-http`.
//!
//! ```text
//! connection ─► request ─► body ──order──► appender ─► source log
//!  (a task each: limits of                (the task that owns the log)
//!   time, size and memory)    ◄──reply── ─► durable ─► answer
//! ```
//!
//! `POST /lines` is answered with 204 when its lines are durable in the log: without state, when
//! the log has taken them. A body is appended as a whole, after its last byte was received and
//! decompressed, so that nothing is counted of a request that breaks.
//!
//! `POST /lines?producer=ID&offset=N` appends a piece of the byte stream of a *producer*. The log
//! holds how many bytes of each producer it has. What is known of a piece is skipped, and a piece
//! after a gap is refused with the position that comes next, so a piece that is sent again counts
//! once. The unfinished line of a producer waits for its next piece, also across restarts.
//!
//! With `--once`, the source ends when a sender states that it has ended (`end=line`, `end=forget`)
//! and no other producer that has sent something in this run goes on.

mod append_bodies;
mod body_memory;
mod connection_limits;
mod decode;
mod producer_id;
mod receive_body;
mod request;
mod responses;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::host_port::HostPort;
use super::listen::bind_hint;
use super::log::SourceLog;
use super::stop_signal::Stop;
use crate::bearer_token::Token;
use crate::durable_file::replace_file;
use crate::error::{Error, ErrorKind, Result};
use crate::loopback::{is_loopback, is_loopback_name};
use crate::tls::{self, TlsFiles};
use append_bodies::Appender;
use receive_body::BodyLimits;
use request::Guard;
use server::LinesService;

/// Greatest limit of a body.
const BODY_BYTES_MAX: usize = 1 << 30;
/// Greatest limit of connections.
const CONNECTIONS_MAX: usize = 65_536;
/// Requests that wait for the log. More would only wait longer.
const REQUESTS_MAX: usize = 64;

/// The file in the folder of a journal with the address that is served. A server goes on with the
/// log of its address.
const ADDRESS_FILE: &str = "address";

/// A server that senders post lines to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpListener {
    /// The address to listen on: `--listen-http`. Port 0 is any free port.
    pub address: HostPort,
    /// The file with the token that senders must know: `--token-file`. An address that other hosts
    /// can reach needs it.
    pub token_file: Option<PathBuf>,
    /// Most bytes of a body, as it is sent and decompressed: `--max-body-bytes`.
    pub body_bytes_max: usize,
    /// Most connections at a time: `--max-connections`.
    pub connections_max: usize,
    /// The certificate and key, if senders speak TLS: `--tls-cert`, `--tls-key`.
    pub tls: Option<TlsFiles>,
}

impl HttpListener {
    /// Checks what can be checked before the job starts.
    ///
    /// # Errors
    ///
    /// `Usage` for an address beyond loopback without a token, `Configuration` for a token file
    /// or a certificate that cannot be used.
    pub fn check(&self) -> Result<()> {
        if self.body_bytes_max == 0 || self.body_bytes_max > BODY_BYTES_MAX {
            let message = format!("bodies of {} bytes are out of range", self.body_bytes_max);
            return Err(
                Error::new(ErrorKind::Usage, message).hint("give --max-body-bytes from 1 to 1GiB")
            );
        }
        if self.connections_max == 0 || self.connections_max > CONNECTIONS_MAX {
            let message = format!("{} connections are out of range", self.connections_max);
            return Err(Error::new(ErrorKind::Usage, message)
                .hint(format!("give --max-connections from 1 to {CONNECTIONS_MAX}")));
        }
        if self.token_file.is_none() && !self.is_local_name() {
            let message = format!("--listen-http {} can be reached by other hosts", self.address);
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("give --token-file FILE with a token that senders must know"));
        }
        self.token()?;
        self.acceptor()?;
        // A port that is taken is reported before anything is written.
        let HostPort { host, port } = &self.address;
        std::net::TcpListener::bind((host.as_str(), *port)).map(drop).map_err(|e| self.taken(e))
    }

    /// Reads the bearer token, if there is one.
    fn token(&self) -> Result<Option<Token>> {
        self.token_file.as_deref().map(Token::read).transpose()
    }

    /// Returns what makes connections encrypted; `None` for a plain server.
    ///
    /// Fails with `Configuration` if the certificate cannot be used.
    fn acceptor(&self) -> Result<Option<TlsAcceptor>> {
        let config = self.tls.as_ref().map(tls::server_config).transpose()?;
        Ok(config.map(TlsAcceptor::from))
    }

    /// Returns true if the address is one of this machine only, as it is written.
    fn is_local_name(&self) -> bool {
        is_loopback_name(&self.address.host)
    }

    /// Binds the address.
    ///
    /// Fails with `Configuration` if it is in use or not of this host.
    async fn bind(&self) -> Result<TcpListener> {
        let HostPort { host, port } = &self.address;
        TcpListener::bind((host.as_str(), *port)).await.map_err(|error| self.taken(error))
    }

    /// Returns the address whose server wrote the journal in `folder` last; `None` if it was one of
    /// a release that does not note it.
    pub(crate) fn served_address(folder: &Path) -> Option<String> {
        std::fs::read_to_string(folder.join(ADDRESS_FILE)).ok()
    }

    /// Notes beside the journal, if there is one, that this server goes on with it.
    ///
    /// Fails with `Disk` if the note cannot be written. One that is there stays: the disk may be
    /// full.
    fn note_address(&self, log: &SourceLog) -> Result<()> {
        let (Some(folder), address) = (log.folder(), self.address.to_string()) else {
            return Ok(());
        };
        if HttpListener::served_address(folder).as_ref() == Some(&address) {
            return Ok(());
        }
        let path = folder.join(ADDRESS_FILE);
        replace_file(&path, address.as_bytes()).map(drop).map_err(|error| {
            let message = format!("cannot write {}: {error}", path.display());
            Error::new(ErrorKind::Disk, message).cause(error)
        })
    }

    /// Returns the error of an address that cannot be bound.
    fn taken(&self, error: std::io::Error) -> Error {
        let message = format!("cannot listen on --listen-http {}: {error}", self.address);
        let hint = bind_hint(&error, "--listen-http");
        Error::new(ErrorKind::Configuration, message).cause(error).hint(hint)
    }
}

/// Serves senders until a stop, or with `once` until they have ended.
///
/// # Errors
///
/// `Configuration` for an address that cannot be listened on, `Disk` if it cannot be noted, those
/// of the log.
pub async fn read(listen: HttpListener, once: bool, log: &mut SourceLog) -> Result<()> {
    listen.note_address(log)?;
    log.recover_producers()?;
    let listener = log.serve_during(listen.bind()).await??;
    let address = listener.local_addr().map_err(|error| {
        let message = format!("--listen-http {} has no address: {error}", listen.address);
        Error::new(ErrorKind::Failed, message).cause(error)
    })?;
    log.meter().connected();
    let tls = listen.acceptor()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!("listening for lines on {scheme}://{address}/lines");
    let closing = Stop::new();
    let (requests, asked) = mpsc::channel(REQUESTS_MAX);
    let service = LinesService {
        guard: Guard { token: listen.token()?, is_loopback: is_loopback(address.ip()) },
        bodies: BodyLimits::new(listen.body_bytes_max),
        requests,
        closing: closing.clone(),
        is_full: AtomicBool::new(false),
        tls,
        no_tls: AtomicBool::new(false),
    };
    let stop = log.stop().clone();
    let mut server = JoinSet::new();
    server.spawn(server::serve(listener, Arc::new(service), listen.connections_max));
    let closes = closing.clone();
    server.spawn(async move {
        tokio::select! {
            () = stop.stopped() => closes.stop(),
            () = closes.stopped() => {}
        }
    });
    Appender::new(log, once.then_some(closing)).run(asked).await?;
    // The requests have ended because the server has, or because it panicked.
    while let Some(ended) = server.join_next().await {
        server::check(ended);
    }
    log.meter().ended();
    log.finish().await?;
    if once && !log.stop().is_stopped() {
        log.forget_producers()?;
        log.input_has_ended();
    }
    Ok(())
}
