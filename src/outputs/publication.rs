//! The settings of what a job publishes, on any output.

use crate::settings::{EmptyEpochs, RowOrder};

/// The settings of what a job publishes, and the names that its markers bear.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The order of rows within a part.
    pub order: RowOrder,
    /// The form of an epoch without rows.
    pub empty_epochs: EmptyEpochs,
    /// Hash of the job's identity, for the marker.
    pub job: String,
    /// The job's state id, for the marker.
    pub state: String,
    /// Unix milliseconds of the run's start, for the marker.
    pub started: u64,
}
