//! The forms of lines on standard error.

use crate::named_values::named_values;

/// The form of a line on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The message, after its level unless that is mere progress.
    Text,
    /// One JSON object.
    Json,
}

named_values!(LogFormat, "--log-format", Text => "text", Json => "json");
