//! The state of the run as plain values: that of all processes in process 0.

use serde::Serialize;

use crate::epoch::{Clock, Epoch, SystemClock};
use crate::meters::{
    Condition, ConditionKind, JournalFigures, Meters, Phase, ProcessFigures, SourceFigures,
    WorkerFigures,
};

/// The state of the run.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// The version of the program.
    version: &'static str,
    /// The name of the definition.
    dataflow: String,
    /// The digest of the job's identity, as markers bear it.
    job: String,
    /// Unix milliseconds of the start.
    started: u64,
    /// The phase of the job's life.
    phase: Phase,
    /// The phase as a sentence, with the reason of an end.
    sentence: String,
    /// Length of an epoch in milliseconds.
    interval_ms: u64,
    /// The output, as `--to` was given.
    output: String,
    /// The epoch that lines belong to now; `None` before the first.
    open_epoch: Option<Epoch>,
    /// The newest committed epoch.
    committed_epoch: Option<Epoch>,
    /// Number of epochs that are cut and not committed.
    epochs_in_flight: usize,
    /// Bytes read, in all processes.
    bytes: u64,
    /// Lines read, in all processes.
    lines: u64,
    /// Words counted, in all processes.
    words: u64,
    /// Resident memory of all processes in bytes.
    memory_bytes: u64,
    /// Conditions that need attention, by kind, then by the time of their beginning.
    conditions: Vec<Condition>,
    /// The sources of all processes.
    sources: Vec<SourceFigures>,
    /// The processes, by their number.
    processes: Vec<ProcessSummary>,
    /// The workers of all processes.
    workers: Vec<WorkerFigures>,
    /// The journals of all processes together.
    journal: JournalFigures,
}

/// The state of one process.
#[derive(Debug, Serialize)]
struct ProcessSummary {
    /// The number of the process.
    process: usize,
    /// Resident memory in bytes.
    memory_bytes: u64,
    /// Bytes that the sources of the process have read.
    bytes: u64,
    /// Lines that they have read.
    lines: u64,
    /// Words that the workers of the process have counted.
    words: u64,
    /// The journals of the process.
    journal: JournalFigures,
}

/// Returns the figures of this process, and in process 0 also those that the others have sent.
fn all_figures(meters: &Meters) -> Vec<ProcessFigures> {
    std::iter::once(meters.figures()).chain(meters.peers()).collect()
}

/// Returns the state of the run.
pub fn report(meters: &Meters) -> StatusReport {
    let (facts, life, epochs) = (meters.facts(), meters.life(), meters.epochs());
    let figures = all_figures(meters);
    let sum = |of: &dyn Fn(&ProcessFigures) -> u64| figures.iter().map(of).sum::<u64>();
    let conditions = conditions(&figures);
    // The figures of other processes are a moment old; what is committed was counted.
    let committed = epochs.totals();
    let known = |epoch: Epoch| (epoch > 0).then_some(epoch);
    StatusReport {
        version: env!("CARGO_PKG_VERSION"),
        sentence: sentence(meters, &conditions),
        dataflow: facts.dataflow,
        job: facts.job,
        started: facts.started_ms,
        phase: life.phase,
        interval_ms: facts.interval_ms,
        output: facts.output,
        open_epoch: known(epochs.open()),
        committed_epoch: known(epochs.newest_committed()),
        epochs_in_flight: epochs.in_flight(),
        bytes: sum(&|process| process.bytes),
        lines: sum(&|process| process.lines).max(committed.lines),
        words: sum(&|process| process.words).max(committed.words),
        memory_bytes: sum(&|process| process.memory_bytes),
        conditions,
        sources: sources(&figures),
        processes: figures.iter().map(summary).collect(),
        workers: figures.iter().flat_map(|process| process.workers.clone()).collect(),
        journal: JournalFigures {
            bytes: sum(&|process| process.journal.bytes),
            unsynced_bytes: sum(&|process| process.journal.unsynced_bytes),
            max_bytes: sum(&|process| process.journal.max_bytes),
        },
    }
}

/// Returns the sums of one process.
fn summary(figures: &ProcessFigures) -> ProcessSummary {
    let ProcessFigures { process, memory_bytes, bytes, lines, words, journal, .. } = *figures;
    ProcessSummary { process, memory_bytes, bytes, lines, words, journal }
}

/// Returns each source once, as the process sees it that reads it. Lines were taken by any.
fn sources(figures: &[ProcessFigures]) -> Vec<SourceFigures> {
    let all = || figures.iter().flat_map(|process| &process.sources);
    let readers = figures.iter().flat_map(|figures| {
        let own = move |source: &&SourceFigures| source.process == figures.process;
        figures.sources.iter().filter(own)
    });
    let mut sources: Vec<SourceFigures> = readers.cloned().collect();
    for source in &mut sources {
        let same = all().filter(|other| other.id == source.id);
        source.lines = same.map(|other| other.lines).sum();
    }
    sources.sort_by_key(|source| source.id);
    sources
}

/// Returns the conditions of all processes, each kind with the same detail once.
fn conditions(figures: &[ProcessFigures]) -> Vec<Condition> {
    let mut all: Vec<Condition> =
        figures.iter().flat_map(|process| process.conditions.clone()).collect();
    // All processes write to one output: it is away once, since the first has noticed.
    all.sort_by_key(|condition| (condition.kind, condition.since));
    let is_output = |condition: &Condition| condition.kind == ConditionKind::StoreAway;
    all.dedup_by(|a, b| is_output(a) && is_output(b));
    all
}

/// Returns a text that differs whenever the phase, a condition or the state of a source does.
pub fn key(meters: &Meters) -> String {
    let figures = all_figures(meters);
    let sources = sources(&figures).into_iter();
    let states: Vec<_> = sources.map(|source| (source.connected, source.error)).collect();
    let kinds: Vec<_> = conditions(&figures)
        .into_iter()
        .map(|condition| (condition.kind, condition.since))
        .collect();
    format!("{:?} {kinds:?} {states:?}", meters.life().phase)
}

/// Returns the state of the run in one sentence.
fn sentence(meters: &Meters, conditions: &[Condition]) -> String {
    let (life, now_ms) = (meters.life(), SystemClock::new().wall_ms());
    let since = |ms: u64| time(now_ms.saturating_sub(ms));
    let waiting = meters.epochs().in_flight();
    match life.phase {
        Phase::Starting => {
            "starting: opening state and output, and waiting for the other processes".to_owned()
        }
        Phase::Stopping if waiting > 0 => {
            format!("stopping: {}, {waiting} epochs are not committed yet", life.reason)
        }
        Phase::Stopping => format!("stopping: {}, everything is committed", life.reason),
        Phase::Failed => format!("failed: {}", life.reason),
        Phase::Counting => {
            let away = conditions.iter().find(|one| one.kind == ConditionKind::StoreAway);
            match (away, meters.epochs().last()) {
                (Some(away), _) => format!(
                    "counting: the output has been out of reach for {}, {waiting} epochs wait",
                    since(away.since)
                ),
                (None, Some(last)) => {
                    format!("counting: last epoch committed {} ago", since(last.committed_at))
                }
                (None, None) if meters.facts().process > 0 => {
                    "counting: process 0 commits the epochs and shows the whole cluster".to_owned()
                }
                (None, None) => "counting: no epoch is committed yet".to_owned(),
            }
        }
    }
}

/// Returns a time in a unit that fits.
fn time(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{:.1} s", ms as f64 / 1e3),
        60_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// Returns why the run is not ready, or `None` if it is.
pub fn not_ready(meters: &Meters) -> Option<String> {
    let life = meters.life();
    match life.phase {
        Phase::Counting => {}
        Phase::Starting => return Some("starting: no epoch is open yet".to_owned()),
        phase => return Some(format!("{}: {}", phase.name(), life.reason)),
    }
    let figures = all_figures(meters);
    let down = sources(&figures).into_iter().find(|source| !source.connected)?;
    let SourceFigures { name, error, .. } = down;
    let why = error.map(|error| format!(": {error}")).unwrap_or_default();
    Some(format!("source {name} is not connected{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(index: usize, lines: u64) -> ProcessFigures {
        let source = SourceFigures {
            id: 0,
            name: "feed:9".to_owned(),
            process: 0,
            connected: index == 0,
            lines,
            ..SourceFigures::default()
        };
        let away = Condition::new(ConditionKind::StoreAway, 5 + index as u64, index.to_string());
        let (sources, conditions) = (vec![source], vec![away]);
        ProcessFigures { process: index, lines, sources, conditions, ..ProcessFigures::default() }
    }

    #[test]
    fn source_is_that_of_its_reader() {
        let all = sources(&[process(0, 3), process(1, 4)]);
        assert_eq!(all.len(), 1);
        assert!(all[0].connected && all[0].lines == 7);
    }

    #[test]
    fn one_output_is_away_once() {
        let all = conditions(&[process(1, 0), process(0, 0)]);
        assert_eq!(all, [Condition::new(ConditionKind::StoreAway, 5, "0".to_owned())]);
    }

    #[test]
    fn run_is_ready_when_an_epoch_is_open() {
        let meters = Meters::default();
        assert!(not_ready(&meters).is_some_and(|reason| reason.starts_with("starting")));
        meters.enter(Phase::Counting, "");
        assert_eq!(not_ready(&meters), None);
        meters.enter(Phase::Stopping, "a signal");
        assert_eq!(not_ready(&meters).as_deref(), Some("stopping: a signal"));
    }

    #[test]
    fn times_have_a_unit_that_fits() {
        let shown = [400, 59_999, 61_000, 7_200_000].map(time);
        assert_eq!(shown, ["0.4 s", "60.0 s", "1 min", "2 h"]);
    }
}
