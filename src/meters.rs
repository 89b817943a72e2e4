//! The figures of a running job: plain counters that every layer writes and `monitor` reads.
//!
//! A job has one [`Meters`]. Sources, workers, outputs and the driver of epochs hold a clone and
//! add to it. An addition is one relaxed atomic operation for a block of lines, a request or an
//! epoch, never for a word, so nothing is switched off while they are not read. Each worker writes
//! to cache lines of its own.
//!
//! | module | holds |
//! | --- | --- |
//! | `counter` | a number that only grows, and a clock that can be stopped |
//! | `source`, `worker`, `output`, `journal` | the figures of each of these |
//! | `epochs` | open, cut and committed epochs, the time of their stages, the last thousand |
//! | `operators` | the way to the figures of operators |
//! | `top` | the most frequent words of an epoch |
//! | `job_phase` | the phase of the job, and the reason for its end |
//! | `system` | memory, processor time and open files of the process |
//! | `snapshot` | the state of all that as plain values, which other processes send to process 0 |

mod counter;
mod epochs;
mod job_phase;
mod journal;
mod operators;
mod output;
mod snapshot;
mod source;
mod source_positions;
pub mod system;
mod top;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::epoch::SystemClock;
pub use counter::{Counter, Stopwatch};
pub use epochs::{COMMITTED_MAX, EpochCounts, EpochMeter, STAGE_BOUNDS, Stage, StoredEpoch};
pub use job_phase::{JobFacts, Life, Phase};
pub use journal::JournalMeter;
pub use operators::{OperatorMeter, OperatorStats};
pub use output::{Outcome, OutputMeter, OutputOp};
pub use snapshot::{
    Condition, ConditionKind, JournalFigures, ProcessFigures, SourceFigures, WorkerFigures,
};
pub use source::{SourceFacts, SourceMeter};
pub use source_positions::{EpochPositions, SourcePositions};
pub use top::{TOP_MAX, TopKeeper, TopWords};
pub use worker::WorkerMeter;

/// The figures of one process of a job. Clones share them.
#[derive(Clone, Default)]
pub struct Meters(Arc<MetersShared>);

#[derive(Default)]
struct MetersShared {
    /// The facts of the job.
    facts: Mutex<JobFacts>,
    /// The phase of the job.
    life: Mutex<Life>,
    /// The sources, by their index among all.
    sources: Mutex<BTreeMap<u32, Arc<SourceMeter>>>,
    /// The positions of sources, for markers.
    positions: EpochPositions,
    /// The workers of this process.
    workers: Mutex<Vec<Arc<WorkerMeter>>>,
    /// Requests and bytes of the output.
    output: OutputMeter,
    /// The bytes of journals.
    journal: JournalMeter,
    /// The epochs.
    epochs: EpochMeter,
    /// The figures of operators.
    operators: OperatorMeter,
    /// The last figures of each other process; only process 0 receives any.
    peers: Mutex<BTreeMap<usize, ProcessFigures>>,
    /// Replaced when an epoch is committed, or when phase or conditions may have changed.
    changed: watch::Sender<u64>,
    /// True if the most frequent words can be asked for, so that workers have to keep them.
    keeps_top: AtomicBool,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").field("facts", &self.facts()).finish_non_exhaustive()
    }
}

/// Locks a value that is whole between two calls, so a panic elsewhere does not matter.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the Unix time in milliseconds.
fn now_ms() -> u64 {
    use crate::epoch::Clock;
    SystemClock::new().wall_ms()
}

impl Meters {
    /// Returns the facts of the job that do not change.
    pub fn facts(&self) -> JobFacts {
        lock(&self.0.facts).clone()
    }

    /// Sets the facts of the job, when its settings are checked.
    pub fn set_facts(&self, facts: JobFacts) {
        *lock(&self.0.facts) = facts;
        self.touch();
    }

    /// Changes one fact of the job that is known later than the others.
    pub fn update_facts(&self, update: impl FnOnce(&mut JobFacts)) {
        update(&mut lock(&self.0.facts));
        self.touch();
    }

    /// Returns the phase of the job, and the reason of its end.
    pub fn life(&self) -> Life {
        lock(&self.0.life).clone()
    }

    /// Notes that the job has come to `phase`. A job never returns to an earlier phase; the first
    /// reason stays.
    pub fn enter(&self, phase: Phase, reason: &str) {
        lock(&self.0.life).enter(phase, reason);
        self.touch();
    }

    /// Notes that another process is lost, from which the failure of this one follows.
    pub fn peer_lost(&self, cause: &str) {
        let mut life = lock(&self.0.life);
        life.peer_lost.get_or_insert_with(|| {
            Condition::new(ConditionKind::PeerLost, now_ms(), cause.to_owned())
        });
        drop(life);
        self.touch();
    }

    /// Returns the way to the figures of this process's operators.
    pub fn operators(&self) -> &OperatorMeter {
        &self.0.operators
    }

    /// Names a source of the job. Every process knows all of them.
    pub fn declare_source(&self, index: u32, facts: SourceFacts) {
        let meter =
            Arc::new(SourceMeter::new(facts, self.0.positions.clone(), self.0.changed.clone()));
        lock(&self.0.sources).insert(index, meter);
    }

    /// Returns the meter of the source with this index. One that was not declared holds bytes of a
    /// former run whose source is not read any more.
    pub fn source(&self, index: u32) -> Arc<SourceMeter> {
        let process = self.facts().process;
        let mut sources = lock(&self.0.sources);
        let meter = sources.entry(index).or_insert_with(|| {
            let facts = SourceFacts {
                kind: "journal".to_owned(),
                name: format!("former source {index}"),
                process,
                needs_connection: false,
            };
            Arc::new(SourceMeter::new(facts, self.0.positions.clone(), self.0.changed.clone()))
        });
        Arc::clone(meter)
    }

    /// Returns the positions of sources that belong into markers.
    pub fn positions(&self) -> &EpochPositions {
        &self.0.positions
    }

    /// Returns the meters of all sources, with their indices.
    pub fn sources(&self) -> Vec<(u32, Arc<SourceMeter>)> {
        lock(&self.0.sources).iter().map(|(index, meter)| (*index, Arc::clone(meter))).collect()
    }

    /// Adds a worker with this index among all workers of the cluster. Called on its thread.
    pub fn add_worker(&self, index: usize) -> Arc<WorkerMeter> {
        let meter = Arc::new(WorkerMeter::of_this_thread(index));
        let mut workers = lock(&self.0.workers);
        workers.push(Arc::clone(&meter));
        workers.sort_by_key(|meter| meter.index());
        meter
    }

    /// Returns the meters of the workers of this process, in order.
    pub fn workers(&self) -> Vec<Arc<WorkerMeter>> {
        lock(&self.0.workers).clone()
    }

    /// Returns the meter of the output.
    pub fn output(&self) -> &OutputMeter {
        &self.0.output
    }

    /// Notes that the output is out of reach, and why.
    pub fn output_away(&self, detail: &str) {
        if self.0.output.set_away(detail) {
            self.touch();
        }
    }

    /// Notes that the output takes results.
    pub fn output_available(&self) {
        if self.0.output.set_available() {
            self.touch();
        }
    }

    /// Returns the meter of the journals.
    pub fn journal(&self) -> &JournalMeter {
        &self.0.journal
    }

    /// Returns the meter of the epochs.
    pub fn epochs(&self) -> &EpochMeter {
        &self.0.epochs
    }

    /// Notes a committed epoch. Called in order, in process 0 only.
    pub fn committed(&self, counts: EpochCounts) {
        let root = self.facts().output_root;
        self.0.epochs.committed(counts, &root);
        self.touch();
    }

    /// Wakes those that watch.
    pub fn touch(&self) {
        self.0.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Returns a receiver that wakes when an epoch is committed, and when phase or conditions may
    /// have changed.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Lets the workers keep the most frequent words of each epoch.
    pub fn keep_top(&self) {
        self.0.keeps_top.store(true, Ordering::Relaxed);
    }

    /// Returns true if the workers have to keep the most frequent words.
    pub fn keeps_top(&self) -> bool {
        self.0.keeps_top.load(Ordering::Relaxed)
    }

    /// Keeps the figures that another process has sent.
    pub fn set_peer(&self, process: usize, figures: ProcessFigures) {
        lock(&self.0.peers).insert(process, figures);
    }

    /// Returns the last figures of each other process.
    pub fn peers(&self) -> Vec<ProcessFigures> {
        lock(&self.0.peers).values().cloned().collect()
    }
}
