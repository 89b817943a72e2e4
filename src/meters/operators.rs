//! The figures of operators, which their tracer computes when somebody asks.

use std::fmt;
use std::sync::OnceLock;

use serde::Serialize;

/// The figures of one operator at one worker, from the start of the job until now.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

    /// Returns the figures by worker and then by operator. Empty if nobody measures them.
    pub fn stats(&self) -> Vec<OperatorStats> {
        self.0.get().map(|operators| operators()).unwrap_or_default()
    }
}

impl fmt::Debug for OperatorMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OperatorMeter").field(&self.0.get().is_some()).finish()
    }
}
