//! What can go wrong with a store, told by what to do about it.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// What the caller of a store must do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// There is no such object. Trying again does not help.
    NotFound,
    /// The store refuses: credentials, rights, bucket, addressing, signature. At start that ends
    /// the run; later it is worth retrying slowly and loudly, since keys get rotated.
    Denied,
    /// Other bytes already stand under this key. Never overwritten by retrying.
    Exists,
    /// Out of reach, overloaded, timed out or full for now: try again later, for as long as it
    /// takes.
    Unavailable,
    /// The request itself is wrong, a key or a length: a defect or a setting. Do not retry.
    Invalid,
    /// The reader of a stream has gone: what was written to it is lost. Do not retry; another start
    /// with a reader helps.
    Closed,
    /// The local disk failed: do not retry, what it says from here on proves nothing.
    Disk,
}

/// Whether a failed operation may have taken effect all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It surely did not happen.
    Determinate,
    /// It may have happened: the answer was lost.
    Indeterminate,
}

/// A failed store operation.
#[derive(Clone, Debug)]
pub struct StoreError {
    /// What to do about it.
    pub kind: StoreErrorKind,
    /// Whether it may have happened all the same.
    pub outcome: Outcome,
    /// What happened and where, a lower-case fragment. Holds no secret.
    pub message: String,
    /// What to do about it, with the flag's name.
    pub hint: Option<String>,
}

impl StoreError {
    /// A failure that surely had no effect.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        StoreError { kind, outcome: Outcome::Determinate, message: message.into(), hint: None }
    }

    /// A request that is wrong in itself.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        StoreError::new(StoreErrorKind::Invalid, message)
    }

    /// Says that it may have happened all the same.
    #[must_use]
    pub fn indeterminate(mut self) -> Self {
        self.outcome = Outcome::Indeterminate;
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether the same request can succeed later without anybody changing a setting.
    pub fn is_transient(&self) -> bool {
        self.kind == StoreErrorKind::Unavailable
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let kind = match error.kind {
            StoreErrorKind::Denied | StoreErrorKind::NotFound | StoreErrorKind::Exists => {
                ErrorKind::Configuration
            }
            StoreErrorKind::Unavailable | StoreErrorKind::Closed => ErrorKind::Temporary,
            StoreErrorKind::Invalid => ErrorKind::Failed,
            StoreErrorKind::Disk => ErrorKind::Disk,
        };
        let converted = Error::new(kind, error.message);
        match error.hint {
            Some(hint) => converted.hint(hint),
            None => converted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_matter_of_configuration_and_an_outage_is_temporary() {
        let kind = |kind| Error::from(StoreError::new(kind, "x")).kind();
        assert_eq!(kind(StoreErrorKind::Denied), ErrorKind::Configuration);
        assert_eq!(kind(StoreErrorKind::Unavailable), ErrorKind::Temporary);
        assert_eq!(kind(StoreErrorKind::Disk), ErrorKind::Disk);
    }

    #[test]
    fn the_hint_survives_the_conversion() {
        let error = StoreError::new(StoreErrorKind::Denied, "bucket is not there").hint("see --to");
        assert_eq!(Error::from(error).to_string(), "bucket is not there; see --to");
    }
}
