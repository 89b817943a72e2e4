//! Measures where the time of the workers goes, from the log streams of timely and differential.
//!
//! ```text
//! worker ──log batches──► recorder (activations, busy time, records) ──► JobHandle::operators
//!                    └──► event file (--events): a thread writes JSON Lines ──► wordtide profile
//! ```
//!
//! A worker logs only if its job asks for it: without a [`Tracer`] nothing is measured and nothing
//! is paid. The recorder runs on the worker's thread and holds sums only. The event file gets the
//! batches over a bounded queue; a batch that does not fit is dropped and counted, because a slow
//! disk must not slow the run that is measured.

mod event_file;
mod event_line;
mod profile;
mod recorder;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use differential_dataflow::logging::DifferentialEventBuilder;
use rustix::time::{ClockId, clock_gettime};
use timely::logging::{ParkEvent, TimelyEvent, TimelyEventBuilder};
use timely::worker::Worker;

use crate::error::Result;
use crate::meters::OperatorStats;
use crate::settings::Settings;
use event_file::{Batch, EventFile};
use event_line::LoggedEvent;
pub use profile::{Profile, ProfileFormat};
use recorder::Recorder;

/// Time after which the processor time of a worker is read again. It is also read when the worker
/// parks.
const PROCESSOR_EVERY: Duration = Duration::from_millis(2);

/// A recorder that is shared between a worker, which writes, and its readers.
type SharedRecorder = Arc<Mutex<Recorder>>;

/// Measures the operators of the workers of one process. Clones share the figures.
#[derive(Clone, Debug, Default)]
pub struct Tracer {
    /// The recorder of each worker, by its index.
    recorders: Arc<Mutex<BTreeMap<usize, SharedRecorder>>>,
    /// The event file, if one is written.
    events: Option<EventFile>,
}

impl Tracer {
    /// Returns the tracer of `process`, or `None` if the settings ask for none.
    ///
    /// # Errors
    ///
    /// `Configuration` if the file of events cannot be created.
    pub fn of_job(settings: &Settings, process: usize) -> Result<Option<Tracer>> {
        let Some(path) = &settings.events else {
            return Ok(settings.measure_operators.then(Tracer::default));
        };
        let mut path = path.clone().into_os_string();
        if process > 0 {
            path.push(format!(".{process}"));
        }
        Tracer::with_events(path.into(), settings.events_bytes_max).map(Some)
    }

    /// Returns a tracer that also writes every event to a new file at `path`, at most `bytes_max`
    /// bytes of them.
    ///
    /// # Errors
    ///
    /// `Configuration` if the file cannot be created; the message names `--events`.
    fn with_events(path: PathBuf, bytes_max: u64) -> Result<Tracer> {
        Ok(Tracer { events: Some(EventFile::create(path, bytes_max)?), ..Tracer::default() })
    }

    /// Lets `worker` report to this tracer. Called before the worker builds a dataflow, because
    /// operators and channels are logged when they are built.
    pub fn install(&self, worker: &Worker) {
        let index = worker.index();
        // Only a worker without a clock has no register, and no worker of a job is one.
        let Some(mut register) = worker.log_register() else { return };
        let recorder = SharedRecorder::default();
        self.lock().insert(index, Arc::clone(&recorder));
        let events = self.events.clone();
        let mut clock = ProcessorClock::of_this_thread();
        register.insert::<TimelyEventBuilder, _>("timely", move |_, batch| {
            let Some(batch) = batch else { return };
            let used = clock.read_after(batch);
            let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            recorder.observe(batch);
            if let Some((time, us)) = used {
                recorder.add(time, LoggedEvent::Processor { us });
            }
            drop(recorder);
            match &events {
                Some(events) => events.push(index, Batch::Timely(std::mem::take(batch), used)),
                None => batch.clear(),
            }
        });
        if let Some(events) = self.events.clone() {
            let name = "differential/arrange";
            register.insert::<DifferentialEventBuilder, _>(name, move |_, batch| {
                let Some(batch) = batch else { return };
                events.push(index, Batch::Differential(std::mem::take(batch)));
            });
        }
    }

    /// Returns the figures of all operators of this process, by worker and then by operator.
    pub fn operators(&self) -> Vec<OperatorStats> {
        let recorders = self.lock();
        let stats = |(worker, recorder): (&usize, &SharedRecorder)| {
            recorder.lock().unwrap_or_else(PoisonError::into_inner).stats(*worker)
        };
        recorders.iter().flat_map(stats).collect()
    }

    /// Writes what is left to the event file. Called when the workers have ended.
    pub fn finish(&self) {
        if let Some(events) = &self.events {
            events.finish();
        }
    }

    /// Locks the recorders.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, SharedRecorder>> {
        self.recorders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processor time of a worker, which only its own thread can read.
#[derive(Debug)]
struct ProcessorClock {
    /// The processor time at the last reading.
    used: Duration,
    /// The time of the last reading, by the clock of the events.
    read_at: Duration,
}

impl ProcessorClock {
    fn of_this_thread() -> ProcessorClock {
        ProcessorClock { used: Self::now(), read_at: Duration::ZERO }
    }

    fn now() -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        // Neither is ever negative.
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    }

    /// Returns the time of the last event of `batch`, and the microseconds of processor time since
    /// the last reading, if they are to be read after these events.
    fn read_after(&mut self, batch: &[(Duration, TimelyEvent)]) -> Option<(Duration, u64)> {
        let (time, event) = batch.last()?;
        let parks = matches!(event, TimelyEvent::Park(ParkEvent::Park(_)));
        if !parks && time.saturating_sub(self.read_at) < PROCESSOR_EVERY {
            return None;
        }
        let us = Self::now().saturating_sub(self.used).as_micros() as u64;
        // What is left of a microsecond is part of the next reading.
        self.used += Duration::from_micros(us);
        self.read_at = *time;
        Some((*time, us))
    }
}

#[cfg(test)]
mod tests {
    use timely::dataflow::operators::vec::{Map, ToStream};
    use timely::dataflow::operators::{Inspect, Probe};

    use super::*;

    /// Runs a dataflow at one worker whose `FlatMap` takes most of the time.
    fn run(tracer: &Tracer) {
        let tracer = tracer.clone();
        timely::execute_directly(move |worker| {
            tracer.install(worker);
            worker.dataflow::<u64, _, _>(|scope| {
                (0..1000u64)
                    .to_stream(scope)
                    .map(|number| (0..20_000).fold(number, |sum, next| sum ^ (sum << 1) ^ next))
                    .inspect(|sum| assert_ne!(*sum, 1))
                    .probe();
            });
        });
    }

    #[test]
    fn slow_operator_has_most_of_the_time() {
        let tracer = Tracer::default();
        run(&tracer);
        let operators = tracer.operators();
        let slowest =
            operators.iter().max_by(|a, b| a.busy_seconds.total_cmp(&b.busy_seconds)).unwrap();
        assert_eq!(slowest.name, "FlatMap", "{operators:?}");
        assert_eq!((slowest.worker, slowest.records), (0, 1000), "{operators:?}");
        assert!(slowest.activations > 0, "{operators:?}");
    }

    #[test]
    fn events_give_the_profile_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let tracer = Tracer::with_events(path.clone(), 1 << 20).unwrap();
        run(&tracer);
        tracer.finish();
        let profile = Profile::read(&[path]).unwrap();
        let table = profile.to_text(ProfileFormat::Table);
        let first = table.lines().nth(1).unwrap_or_default();
        assert!(first.ends_with("Dataflow/FlatMap"), "{table}");
        assert!(first.contains(" 1000 "), "{table}");
        let folded = profile.to_text(ProfileFormat::Folded);
        assert!(
            folded.lines().any(|line| line.starts_with("worker_0;Dataflow;FlatMap ")),
            "{folded}"
        );
    }

    #[test]
    fn event_file_stops_at_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let tracer = Tracer::with_events(path.clone(), 1000).unwrap();
        run(&tracer);
        tracer.finish();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.len() <= 1200, "{} bytes", text.len());
        assert!(text.ends_with("\n"), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.contains("dropped")), "{text}");
    }

    #[test]
    fn event_file_of_an_earlier_run_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tracer::with_events(dir.path().join("none/events"), 1000).unwrap_err();
        assert!(error.to_string().contains("--events"), "{error}");
        let path = dir.path().join("events.jsonl");
        std::fs::write(&path, "old").unwrap();
        let error = Tracer::with_events(path.clone(), 1000).unwrap_err();
        assert!(error.to_string().contains("something else"), "{error}");
        std::fs::write(&path, "{\"t_us\":1,").unwrap();
        let tracer = Tracer::with_events(path.clone(), 1 << 20).unwrap();
        tracer.finish();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "");
    }
}
