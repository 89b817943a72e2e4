//! The error type of the crate.
//!
//! Causes are many and change; the remedies are few. The public [`Error`] therefore has one of a
//! few prescriptive [`ErrorKind`]s, a message that states what happened and where, and usually a
//! hint that names the flag to change. `Display` prints the message and the hint; `source()`
//! returns the chain of causes.

use std::error::Error as StdError;
use std::fmt;

/// A `Result` whose error is the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The remedy for an [`Error`]. The kind decides the exit code of the program.
///
/// New kinds may come with any release: match with a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The run failed for a reason that no other kind describes: read the message.
    Failed,
    /// A flag or a builder call is wrong: correct it. Nothing was started.
    Usage,
    /// A process of the cluster was lost or never came: restart them all.
    PeerLost,
    /// A worker panicked: a defect. What was committed stays valid.
    Panicked,
    /// The local disk failed or holds damaged state: look at the disk before a restart.
    Disk,
    /// Something outside was out of reach for too long: a restart helps.
    Temporary,
    /// A configuration or credential was refused, or a port is taken: a restart does not help.
    Configuration,
    /// The job was asked to stop before it had read anything: nothing is lost, nothing to be done.
    Stopped,
}

/// An error: what happened, where, and what to do about it.
#[derive(Debug)]
pub struct Error {
    /// The remedy that the error asks for.
    kind: ErrorKind,
    /// The sentence that describes it.
    message: String,
    /// The way out, if one is known.
    hint: Option<String>,
    /// The error that it follows from.
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error of `kind`. `message` is a lower-case sentence fragment that states what
    /// happened and where.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), hint: None, source: None }
    }

    /// Adds a hint: what to do about the error, with the name of the flag.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn cause(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the kind, which states the remedy.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_message_and_hint() {
        let error = Error::new(ErrorKind::Usage, "interval is 0")
            .hint("give --interval at least 10ms")
            .cause(std::io::Error::other("never shown"));
        assert_eq!(error.to_string(), "interval is 0; give --interval at least 10ms");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("never shown"));
    }
}
