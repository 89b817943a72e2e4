//! The error of an epoch that another job has committed.

use super::commit_evidence::CommitEvidence;
use crate::error::{Error, ErrorKind};

/// Returns the error of a start whose journal holds lines for an epoch of which `owner` has written
/// the marker, which is at `marker`.
pub fn foreign_epoch(marker: &str, owner: &str, evidence: &CommitEvidence) -> Error {
    let message = format!(
        "{marker} was written by {owner}, and this state has lines for that epoch that are not \
         published"
    );
    Error::new(ErrorKind::Configuration, message).hint(format!(
        "nothing was changed; give another --to to publish these lines there, or another --state \
         to leave them, or --abandon-journal {} to set them aside and go on here",
        evidence.journals.join(",")
    ))
}
