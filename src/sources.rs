//! Where lines come from: sockets, files, pipes, standard input.
//!
//! Every source is a task that owns a [`SourceLog`] and reads bytes into it. The log keeps them in
//! the journal and turns them into blocks for the workers. A source decides when a connection
//! begins and how it ended; lines, and the epochs they belong to, are the log's. Reading stops when
//! the journal is full (without one: when the pool of blocks is exhausted), and the sender feels
//! it: nothing is dropped and nothing queues without bound.
//!
//! | source | is read again after a crash | ends |
//! | --- | --- | --- |
//! | [`Source::Connect`] | from the journal | never, unless the job reads once |
//! | [`Source::Listen`] | from the journal | never; when all senders have gone if it reads once |
//! | [`Source::File`] | from the file, where the last cut was | at the end of the file |
//! | [`Source::Watch`] | from the files, where the last cut was | never, except with `--once` |
//! | [`Source::Kafka`] | from the topic, where the last cut was | as [`Source::Connect`] |
//! | [`Source::Pipe`], [`Source::Stdin`] | from the journal | when the last writer closes it |

mod compressed;
mod connect;
mod departures;
mod dial;
mod file;
mod file_fingerprint;
mod file_or_stream;
mod host_port;
mod http;
mod kafka;
mod listen;
mod log;
pub(crate) mod open_file_limit;
mod reconnect_pauses;
mod stdin_and_pipes;
mod stop_signal;
mod tls_accept;
mod watch;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::store::Target;
use crate::supervise::supervise;

pub use crate::tls::TlsFiles;
pub(crate) use departures::{Departures, PathEvent};
pub use host_port::HostPort;
pub use http::HttpListener;
pub use kafka::{KafkaProperties, KafkaStart, KafkaTopic};
pub(crate) use kafka::{merged_positions, topic_offsets};
pub use listen::{ListenAddress, ListenSettings};
pub(crate) use log::{DISK_FULL, ROOM_AGAIN};
pub use log::{LogEvents, LogMessage, LogSetup, Past, SourceLog};
pub use stop_signal::Stop;
pub use watch::{Watch, WatchPlace};

/// A place that lines come from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A host to connect to, as `nc -lk` would serve it.
    Connect(HostPort),
    /// An address to listen on. Any number of senders connect to it.
    Listen(ListenSettings),
    /// A file, read once from its beginning. A path that names something else than a regular file
    /// when the job starts becomes a [`Source::Pipe`].
    File(PathBuf),
    /// A named pipe, a process substitution (`/dev/fd/63`), a terminal or another device under a
    /// file's name. It cannot be read again, so its bytes go into the journal.
    Pipe(PathBuf),
    /// Standard input.
    Stdin,
    /// Files that appear in a folder, or objects below a prefix.
    Watch(Box<Watch>),
    /// A server that senders post lines to.
    Http(HttpListener),
    /// A topic of Apache Kafka. Every process reads its share of the partitions.
    Kafka(Box<KafkaTopic>),
}

impl Source {
    /// The kind of the source, as all processes of a cluster see it. The path of a file or pipe
    /// need not exist where another process reads it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Source::Connect(_) => "connect",
            Source::Listen(_) => "listen",
            Source::File(_) | Source::Pipe(_) => "file",
            Source::Stdin => "stdin",
            Source::Watch(_) => "watch",
            Source::Http(_) => "http",
            Source::Kafka(_) => "kafka",
        }
    }

    /// Decides, once for the whole run, how a path is read: as a file, or as a pipe where it names
    /// something that cannot be read again. A path that is not there stays a file.
    pub(crate) fn resolve(self) -> Source {
        match self {
            Source::File(path) if file_or_stream::is_stream(&path) => Source::Pipe(path),
            source => source,
        }
    }

    /// Returns true if the same bytes can be read again after a restart, so that the journal keeps
    /// positions only. Correct for a source that was resolved.
    pub(crate) fn can_be_read_again(&self) -> bool {
        matches!(self, Source::File(_) | Source::Watch(_) | Source::Kafka(_))
    }

    /// Refuses a path or place that cannot be read, and an address that cannot be listened on.
    /// Nothing is taken from a pipe.
    ///
    /// # Errors
    ///
    /// `Configuration` for a path that is missing, of a wrong type, or not readable, for an address
    /// that is in use, or for a certificate that cannot be used, naming the flag.
    pub fn check(&self) -> Result<()> {
        match self {
            Source::File(path) => file_or_stream::check_file(path),
            Source::Pipe(path) => file_or_stream::check_stream(path),
            Source::Listen(settings) => settings.prepare(),
            Source::Watch(watch) => watch.check(),
            Source::Http(listener) => listener.check(),
            Source::Kafka(topic) => topic.check(),
            Source::Connect(_) | Source::Stdin => Ok(()),
        }
    }
}

impl Source {
    /// Refuses a place of which the results written to `target` would be a part: they would be read
    /// again.
    ///
    /// # Errors
    ///
    /// `Usage`, naming `--watch` and `--to`.
    pub(crate) fn check_output(&self, target: &Target) -> Result<()> {
        match self {
            Source::Watch(watch) => watch.check_output(target),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Connect(address) => write!(f, "{address}"),
            Source::Listen(settings) => write!(f, "listen {}", settings.address),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Pipe(path) => write!(f, "pipe {}", path.display()),
            Source::Stdin => f.write_str("standard input"),
            Source::Watch(watch) => write!(f, "watch {}", watch.place),
            Source::Http(HttpListener { address, .. }) => write!(f, "http {address}"),
            Source::Kafka(topic) => write!(f, "{topic}"),
        }
    }
}

/// The sources that were started.
#[derive(Debug)]
pub struct Started {
    /// One task a source, which ends when the source has ended.
    pub ended: JoinSet<Result<()>>,
    /// Disconnected when every log is closed.
    pub closed: Receiver<()>,
}

/// Starts to read `sources`, each into its own log, on `runtime`. A log without a source has what a
/// former run has read. With `once`, a connection that ends ends its source. A log goes on to take
/// messages when its source has ended.
///
/// A source that fails is reported and the others of the job's `count` sources go on. The error
/// ends the job if no other is left: `Temporary` for a name that does not resolve, `Configuration`
/// for a path that cannot be opened or a file that has changed, `Failed` for a stream that fails.
/// One of the journal, or of the disk, always does.
pub fn start(
    sources: Vec<(Option<Source>, SourceLog)>,
    (once, count): (bool, usize),
    failure: &Failure,
    runtime: &Handle,
) -> Started {
    let turns = Arc::new(Semaphore::new(file::FILES_OPEN_MAX));
    let (open, closed) = std::sync::mpsc::channel();
    let left = Arc::new(AtomicUsize::new(count));
    let mut tasks = JoinSet::new();
    for (source, mut log) in sources {
        let (ended, end) = oneshot::channel();
        let (turns, is_open, left) = (Arc::clone(&turns), open.clone(), Arc::clone(&left));
        supervise(failure, runtime, "source", async move {
            let _is_open: Sender<()> = is_open;
            let read = match source {
                Some(source) => {
                    let name = source.to_string();
                    let read = read(source, once, turns, &mut log).await;
                    read.or_else(|error| go_on_without(&name, error, &left, &log))
                }
                None => replay(&mut log).await,
            };
            let read = match read {
                Ok(()) => log.finish().await,
                failed => failed,
            };
            // It fails if the job is ending already.
            drop(ended.send(read));
            log.serve().await
        });
        let panicked = || Error::new(ErrorKind::Panicked, "the task of a source panicked");
        let ended = async move { end.await.unwrap_or_else(|_| Err(panicked())) };
        tasks.spawn_on(ended, runtime);
    }
    Started { ended: tasks, closed }
}

/// Brings back what a former run has read of a source that this one does not read. The lines of its
/// producers end, since nothing more comes.
async fn replay(log: &mut SourceLog) -> Result<()> {
    log.recover_producers()?;
    log.finish().await?;
    log.forget_producers()
}

/// Reports the error of a source; returns it if no other source is left, or if it is not its own.
fn go_on_without(name: &str, error: Error, left: &AtomicUsize, log: &SourceLog) -> Result<()> {
    let kinds = [ErrorKind::Temporary, ErrorKind::Configuration, ErrorKind::Failed];
    if !kinds.contains(&error.kind()) || left.fetch_sub(1, Ordering::AcqRel) <= 1 {
        return Err(error);
    }
    tracing::error!("{name} is not read any more, the other sources are: {error}");
    log.meter().disconnected(&error.to_string());
    Ok(())
}

/// Reads one source to its end.
async fn read(
    source: Source,
    once: bool,
    turns: Arc<Semaphore>,
    log: &mut SourceLog,
) -> Result<()> {
    let name = source.to_string();
    match source {
        Source::Connect(address) => connect::read(address, once, log).await,
        Source::Listen(settings) => listen::read(settings, once, log).await,
        Source::File(path) => file::read(path, turns, log).await,
        Source::Pipe(path) => {
            stdin_and_pipes::read(name, move || file_or_stream::open_stream(&path), log).await
        }
        Source::Stdin => stdin_and_pipes::read(name, stdin_and_pipes::stdin, log).await,
        Source::Watch(place) => watch::read(*place, once, log).await,
        Source::Http(listener) => http::read(listener, once, log).await,
        Source::Kafka(topic) => kafka::read(*topic, once, log).await,
    }
}
