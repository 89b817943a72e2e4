//! The state of a process as plain values, for the page and for process 0.

use serde::{Deserialize, Serialize};

use super::{Meters, OperatorStats, system};

/// A condition that needs attention, while it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Its kind.
    pub kind: ConditionKind,
    /// Unix milliseconds of its beginning.
    pub since: u64,
    /// The cause, in words.
    pub detail: String,
}

impl Condition {
    /// Returns a condition that began at `since`.
    pub fn new(kind: ConditionKind, since: u64, detail: String) -> Condition {
        Condition { kind, since, detail }
    }
}

/// A kind of condition that needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionKind {
    /// The output is out of reach.
    StoreAway,
    /// A source is not connected.
    SourceDown,
    /// A journal is full, so reading stops.
    JournalFull,
    /// Another process is lost.
    PeerLost,
}

/// The state of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFigures {
    /// Its index among all sources of the job.
    pub id: u32,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Index of the process that reads it.
    pub process: usize,
    /// True if lines can come.
    pub connected: bool,
    /// Bytes read in this run.
    pub bytes: u64,
    /// Lines taken by workers.
    pub lines: u64,
    /// The last error, while it is not connected.
    pub error: Option<String>,
}

/// The state of one worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerFigures {
    /// Its index among all workers of the cluster.
    pub worker: usize,
    /// Index of its process.
    pub process: usize,
    /// Processor time that it has used.
    pub busy_seconds: f64,
}

/// The state of the journals of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalFigures {
    /// Bytes of files that count against the limit.
    pub bytes: u64,
    /// Bytes that were appended and are not synced.
    pub unsynced_bytes: u64,
    /// The limit; 0 in a process without journals.
    pub max_bytes: u64,
}

/// The state of one process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessFigures {
    /// Its index.
    pub process: usize,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Bytes read from sources in this run.
    pub bytes: u64,
    /// Lines taken by its workers.
    pub lines: u64,
    /// Words counted by its workers.
    pub words: u64,
    /// The sources that it reads or has counted lines of.
    pub sources: Vec<SourceFigures>,
    /// Its workers.
    pub workers: Vec<WorkerFigures>,
    /// Its journals.
    pub journal: JournalFigures,
    /// Its conditions that need attention.
    pub conditions: Vec<Condition>,
    /// Its busiest operators: only in what a process sends to process 0.
    #[serde(default)]
    pub operators: Vec<OperatorStats>,
}

impl Meters {
    /// Returns the state of this process.
    pub fn figures(&self) -> ProcessFigures {
        let process = self.facts().process;
        let sources = self.sources();
        let conditions = self.output().condition().into_iter();
        let conditions = conditions.chain(sources.iter().flat_map(|(_, meter)| meter.conditions()));
        let conditions = conditions.chain(self.life().peer_lost).collect();
        let sources = sources.iter().map(|(index, meter)| meter.figures(*index));
        let is_here = |source: &SourceFigures| source.process == process || source.lines > 0;
        let sources: Vec<_> = sources.filter(is_here).collect();
        let workers = self.workers();
        ProcessFigures {
            process,
            memory_bytes: system::memory_bytes(),
            bytes: sources.iter().map(|source| source.bytes).sum(),
            lines: sources.iter().map(|source| source.lines).sum(),
            words: workers.iter().map(|worker| worker.words.get()).sum(),
            sources,
            workers: workers.iter().map(|worker| worker.figures(process)).collect(),
            journal: self.journal().figures(),
            conditions,
            operators: Vec::new(),
        }
    }

    /// Returns the state of this process with its busiest operators, for process 0.
    pub fn figures_to_send(&self) -> ProcessFigures {
        ProcessFigures { operators: self.operators().busiest(), ..self.figures() }
    }

    /// Returns the figures of operators by worker and then by operator: those of this process, and
    /// in process 0 those of the others, as they were last sent.
    pub fn operators_of_all(&self) -> Vec<OperatorStats> {
        let mut all = self.operators().stats();
        all.extend(self.peers().into_iter().flat_map(|process| process.operators));
        all.sort_by_key(|operator| (operator.worker, operator.id));
        all
    }
}
