//! The error of a store operation. Its kind states what the caller has to do.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// The kind of a failed operation, by the action of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// There is no such object. A retry does not help.
    NotFound,
    /// The store refuses: credentials, rights, bucket, addressing, signature. At the start that
    /// ends the run. Later it is retried slowly and logged, because keys may be rotated.
    Denied,
    /// An object with other bytes exists under this key. A retry never replaces it.
    Exists,
    /// The store is out of reach, overloaded, too slow or full for now. Retry for as long as it
    /// takes.
    Unavailable,
    /// The request itself is wrong, in a key or a length, by a defect or a setting. Do not retry.
    Invalid,
    /// The reader of a stream has closed it, and bytes in it are lost. Do not retry; another start
    /// with a reader helps.
    Closed,
    /// The local disk has failed. Do not retry, because a later success would prove nothing.
    Disk,
}

/// The effect that a failed operation may have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The operation had no effect.
    Determinate,
    /// The operation may have succeeded, because the answer was lost.
    Indeterminate,
}

/// A failed store operation.
#[derive(Clone, Debug)]
pub struct StoreError {
    /// The kind, which states the action of the caller.
    pub kind: StoreErrorKind,
    /// The effect that the operation may have had.
    pub outcome: Outcome,
    /// The failure and its place, as a lower-case fragment. It holds no secret.
    pub message: String,
    /// The way out, with the name of the flag.
    pub hint: Option<String>,
}

impl StoreError {
    /// Returns an error of an operation without effect.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        StoreError { kind, outcome: Outcome::Determinate, message: message.into(), hint: None }
    }

    /// Returns the error of a request that is wrong in itself.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        StoreError::new(StoreErrorKind::Invalid, message)
    }

    /// Marks the operation as one that may have succeeded.
    #[must_use]
    pub fn indeterminate(mut self) -> Self {
        self.outcome = Outcome::Indeterminate;
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns true if the same request can succeed later without a change of settings.
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
    /// Converts an error after which the run ends. `NotFound` and `Exists` are `Configuration`
    /// here, because the output is not as the settings require.
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
    fn store_error_kinds_become_error_kinds() {
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
