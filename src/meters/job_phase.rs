//! The facts of a job that do not change, and the phase of its life.

use serde::Serialize;

use super::snapshot::Condition;

/// The facts of a job that do not change after its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFacts {
    /// Name of the definition.
    pub dataflow: String,
    /// Hash of the job's identity, as markers name it.
    pub job: String,
    /// Unix milliseconds of the start.
    pub started_ms: u64,
    /// Length of an epoch.
    pub interval_ms: u64,
    /// The output, as `--to` names it.
    pub output: String,
    /// The place of the output that the paths of epochs are relative to; empty for standard
    /// output.
    pub output_root: String,
    /// Index of this process.
    pub process: usize,
    /// Number of processes.
    pub processes: usize,
}

/// A phase in the life of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It opens state and output and waits for the other processes.
    #[default]
    Starting,
    /// It reads sources and commits epochs.
    Counting,
    /// It reads no more and commits what it has read.
    Stopping,
    /// It has failed, and ends.
    Failed,
}

impl Phase {
    /// Returns the name of the phase.
    pub fn name(self) -> &'static str {
        ["starting", "counting", "stopping", "failed"][self as usize]
    }
}

/// The phase of a job, and the reason of its end.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// The phase.
    pub phase: Phase,
    /// The reason for which it stops or has failed.
    pub reason: String,
    /// The loss of another process.
    pub peer_lost: Option<Condition>,
}

impl Life {
    /// Comes to a later phase; an earlier one is ignored.
    pub fn enter(&mut self, phase: Phase, reason: &str) {
        if phase > self.phase {
            self.phase = phase;
            self.reason = reason.to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_go_forward() {
        let mut life = Life::default();
        life.enter(Phase::Stopping, "a signal");
        life.enter(Phase::Counting, "");
        life.enter(Phase::Stopping, "another");
        assert_eq!((life.phase, life.reason.as_str()), (Phase::Stopping, "a signal"));
        assert_eq!(life.phase.name(), "stopping");
    }
}
