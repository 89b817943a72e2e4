//! The figures of operators, which their tracer computes on request.

use std::fmt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// The figures of one operator at one worker, from the start of the job until now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OperatorStats {
    /// Index of the worker among all workers of the cluster.
    pub worker: usize,
    /// Identifier of the operator, unique at its worker.
    pub id: usize,
    /// Name of the operator.
    pub name: String,
    /// Number of times that the operator was scheduled.
    pub activations: u64,
    /// Seconds in the operator itself, without the operators inside it.
    pub busy_seconds: f64,
    /// Number of records that the operator received. A block of lines is one record.
    pub records: u64,
}

/// Most operators whose figures a process sends to process 0.
const BUSIEST_MAX: usize = 256;

/// Computes the figures of all operators of a process.
type Operators = Box<dyn Fn() -> Vec<OperatorStats> + Send + Sync>;

/// The way to the figures of operators, once a job that measures them has started.
#[derive(Default)]
pub struct OperatorMeter(OnceLock<Operators>);

impl OperatorMeter {
    /// Sets the function that computes the figures. The first one stays.
    pub fn set(&self, operators: impl Fn() -> Vec<OperatorStats> + Send + Sync + 'static) {
        // A process has one job for a set of meters.
        let _ = self.0.set(Box::new(operators));
    }

    /// Returns the figures by worker and then by operator. Empty if they are not measured.
    pub fn stats(&self) -> Vec<OperatorStats> {
        self.0.get().map(|operators| operators()).unwrap_or_default()
    }

    /// Returns the figures of the busiest operators, at most [`BUSIEST_MAX`], the busiest first.
    pub fn busiest(&self) -> Vec<OperatorStats> {
        let mut stats = self.stats();
        stats.sort_by(|a, b| b.busy_seconds.total_cmp(&a.busy_seconds));
        stats.truncate(BUSIEST_MAX);
        stats
    }
}

impl fmt::Debug for OperatorMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OperatorMeter").field(&self.0.get().is_some()).finish()
    }
}
