//! Where lines come from: sockets, files, standard input.
//!
//! Every source is a task that reads bytes and puts them into an [`Intake`], which keeps them in
//! the journal and turns them into blocks for the workers. A source decides when a stream begins
//! and how it ended; what a line is, and which epoch it belongs to, it does not know: that is
//! decided on its [`Track`]. Reading stops when the journal is full (without one: when the pool of
//! blocks is exhausted), and the sender feels it: nothing is dropped and nothing queues without
//! bound.

mod behind;
mod connect;
mod file;
mod fingerprint;
mod intake;
mod stdin;
mod stop;
mod track;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::task::JoinSet;

use crate::error::{Error, ErrorKind, Result};

pub use intake::Intake;
pub use stop::Stop;
pub use track::{Past, Track, Watcher};

/// A place that lines come from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A host to connect to, as `nc -lk` would serve it.
    Connect(HostPort),
    /// A file, read once from its beginning.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Source {
    /// Whether the source ends by itself.
    pub fn is_finite(&self) -> bool {
        !matches!(self, Source::Connect(_))
    }

    /// What kind of source it is: which it is may differ between processes, as seen by each.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Source::Connect(_) => "connect",
            Source::File(_) => "file",
            Source::Stdin => "stdin",
        }
    }

    /// Whether the same bytes can be read again after a restart: a pipe under a file's name cannot.
    pub fn can_be_read_again(&self) -> bool {
        matches!(self, Source::File(path) if path.is_file())
    }

    /// Refuses what can be known beforehand not to work.
    ///
    /// # Errors
    ///
    /// `Configuration` for a file that cannot be opened, naming `--file`.
    pub fn check(&self) -> Result<()> {
        match self {
            Source::File(path) => file::check(path),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Connect(address) => write!(f, "{address}"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Stdin => f.write_str("standard input"),
        }
    }
}

/// A host name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The host, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for HostPort {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(ErrorKind::Usage, format!("{text:?} is not a host and port"))
                .hint("give --connect as HOST:PORT, for example localhost:9999 or [::1]:9999")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(inner) => inner.ok_or_else(bad)?,
            None if host.contains(':') => return Err(bad()),
            None => host,
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        if host.is_empty() { Err(bad()) } else { Ok(HostPort { host: host.to_owned(), port }) }
    }
}

/// Brings back what a former run has read from a source that this one has not.
///
/// # Errors
///
/// Those of the journal.
pub async fn replay(mut intake: Intake) -> Result<()> {
    intake.finish().await
}

/// Starts reading `sources`, each into its own intake, on the current runtime. The set is done when
/// all have ended; an error ends the job.
pub fn start(sources: Vec<(Source, Intake)>, once: bool) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    for (source, intake) in sources {
        match source {
            Source::Connect(address) => tasks.spawn(connect::read(address, once, intake)),
            Source::File(path) => tasks.spawn(file::read(path, intake)),
            Source::Stdin => tasks.spawn(stdin::read(intake)),
        };
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_were_given() {
        for text in ["localhost:9999", "10.0.0.1:1", "[::1]:65535"] {
            assert_eq!(text.parse::<HostPort>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_flag_named() {
        for text in ["", "localhost", ":9999", "a:0", "a:65536", "::1:9999", "[::1:9", "a:b"] {
            let error = text.parse::<HostPort>().expect_err(text);
            assert!(error.to_string().contains("--connect"), "{error}");
        }
    }
}
