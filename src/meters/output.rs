//! The figures of the output: requests, retries, bytes, and whether it is in reach.

use std::sync::Mutex;

use super::snapshot::{Condition, ConditionKind};
use super::{Counter, lock, now_ms};

/// A kind of request to an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputOp {
    /// Store an object, rows or a document, which must not be there.
    Create,
    /// Store something that may be replaced.
    Put,
    /// Make names durable.
    Seal,
    /// Commit a transaction.
    Commit,
}

impl OutputOp {
    /// All kinds.
    pub const ALL: [OutputOp; 4] =
        [OutputOp::Create, OutputOp::Put, OutputOp::Seal, OutputOp::Commit];

    /// Returns the name of the kind in metrics.
    pub fn name(self) -> &'static str {
        ["create", "put", "seal", "commit"][self as usize]
    }
}

/// How a request to an output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Ok,
    /// The output is out of reach or overloaded: the request is repeated.
    Unavailable,
    /// The output refuses until a setting is changed: the request is repeated.
    Refused,
    /// It failed for good.
    Failed,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Outcome; 4] =
        [Outcome::Ok, Outcome::Unavailable, Outcome::Refused, Outcome::Failed];

    /// Returns the name of the outcome in metrics.
    pub fn name(self) -> &'static str {
        ["ok", "unavailable", "refused", "failed"][self as usize]
    }
}

/// The figures of the output, as this process uses it.
#[derive(Debug, Default)]
pub struct OutputMeter {
    /// Number of requests by operation and outcome.
    requests: [[Counter; Outcome::ALL.len()]; OutputOp::ALL.len()],
    /// Requests that were repeated.
    pub retries: Counter,
    /// Bytes stored.
    pub bytes: Counter,
    /// The time since when the output is out of reach, and the last error.
    away: Mutex<Option<(u64, String)>>,
}

impl OutputMeter {
    /// Counts a request that has ended.
    pub fn request(&self, op: OutputOp, outcome: Outcome) {
        self.requests[op as usize][outcome as usize].add(1);
    }

    /// Returns the number of requests of a kind that ended so.
    pub fn requests(&self, op: OutputOp, outcome: Outcome) -> u64 {
        self.requests[op as usize][outcome as usize].get()
    }

    /// Notes that the output is out of reach. Returns true if that is news.
    pub fn set_away(&self, detail: &str) -> bool {
        let mut away = lock(&self.away);
        let since = away.as_ref().map(|(since, _)| *since);
        *away = Some((since.unwrap_or_else(now_ms), detail.to_owned()));
        since.is_none()
    }

    /// Notes that the output takes results. Returns true if that is news.
    pub fn set_available(&self) -> bool {
        lock(&self.away).take().is_some()
    }

    /// Returns true unless the output is known to be out of reach.
    pub fn is_available(&self) -> bool {
        lock(&self.away).is_none()
    }

    /// Returns the condition of an output that is out of reach.
    pub fn condition(&self) -> Option<Condition> {
        let (since, detail) = lock(&self.away).clone()?;
        Some(Condition::new(ConditionKind::StoreAway, since, detail))
    }
}
