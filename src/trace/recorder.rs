//! Sums up the events of one worker: how often and how long each operator ran, on how many records.
//!
//! The events have times of a clock, and a worker that lost its processor to another thread did not
//! run meanwhile. So times are kept apart until the next event `Processor`, which states how much
//! processor time the worker has used since the last one, and are scaled down to it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use timely::logging::TimelyEvent;

use super::event_line::LoggedEvent;
use crate::meters::OperatorStats;

/// The sums of one operator.
#[derive(Debug, Default)]
pub struct Sums {
    /// The address: the indices from the dataflow down to the operator.
    pub addr: Vec<usize>,
    /// The operator's name.
    pub name: String,
    /// Number of times that the operator was scheduled.
    pub activations: u64,
    /// Processor time in the operator itself, up to the last event `Processor`.
    busy: Duration,
    /// Time in the operator itself since then, by the clock.
    unsettled: Duration,
    /// Number of records that the operator received.
    pub records: u64,
}

impl Sums {
    /// Returns the processor time in the operator itself. It is time of the clock where the events
    /// do not state the processor time.
    pub fn busy(&self) -> Duration {
        self.busy + self.unsettled
    }
}

/// The sums of one worker.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The sums of each operator, by its id.
    operators: BTreeMap<usize, Sums>,
    /// The id of the operator at each address.
    by_address: HashMap<Vec<usize>, usize>,
    /// The address that each channel leads to.
    channels: HashMap<usize, Vec<usize>>,
    /// The operators that run now, outermost first: scopes, then the operator inside them.
    running: Vec<usize>,
    /// The time of the last event that begins or ends something; `None` before the first.
    charged_until: Option<Duration>,
    /// The operators that ran since the last event `Processor`.
    unsettled: Vec<usize>,
    /// Time since then in which the worker was not parked.
    awake: Duration,
    is_parked: bool,
}

impl Recorder {
    /// Adds a batch of events, which are in the order of their times.
    pub fn observe(&mut self, batch: &[(Duration, TimelyEvent)]) {
        for (time, event) in batch {
            if let Some(event) = LoggedEvent::of_timely(event) {
                self.add(*time, event);
            }
        }
    }

    /// Adds one event.
    pub fn add(&mut self, now: Duration, event: LoggedEvent<'_>) {
        match event {
            LoggedEvent::Operates { id, addr, name } => {
                let sums = self.operators.entry(id).or_default();
                sums.addr = addr.into_owned();
                sums.name = name.into_owned();
                self.by_address.insert(sums.addr.clone(), id);
            }
            LoggedEvent::Channel { id, scope, target, .. } => {
                let mut address = scope.into_owned();
                address.push(target.0);
                self.channels.insert(id, address);
            }
            LoggedEvent::Receive { channel, records, .. } => {
                let target = self.channels.get(&channel).and_then(|at| self.by_address.get(at));
                if let Some(operator) = target {
                    self.operators.entry(*operator).or_default().records += records.unsigned_abs();
                }
            }
            LoggedEvent::Start { id } => {
                self.charge(now);
                self.running.push(id);
                self.operators.entry(id).or_default().activations += 1;
            }
            LoggedEvent::Stop { id } => {
                self.charge(now);
                // The innermost one, unless an operator was dropped while it ran.
                while self.running.pop().is_some_and(|innermost| innermost != id) {}
            }
            LoggedEvent::Park => {
                self.charge(now);
                self.is_parked = true;
            }
            LoggedEvent::Unpark => {
                self.charge(now);
                self.is_parked = false;
            }
            LoggedEvent::Processor { us } => {
                self.charge(now);
                self.settle(Duration::from_micros(us));
            }
            _ => {}
        }
    }

    /// Charges the time since the last event to the innermost running operator.
    fn charge(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.charged_until.unwrap_or(now));
        self.charged_until = Some(now);
        if self.is_parked {
            return;
        }
        self.awake += passed;
        if let Some(innermost) = self.running.last() {
            let sums = self.operators.entry(*innermost).or_default();
            if sums.unsettled.is_zero() {
                self.unsettled.push(*innermost);
            }
            sums.unsettled += passed;
        }
    }

    /// Scales the times of operators since the last call to the processor time of the worker.
    fn settle(&mut self, used: Duration) {
        let share = (used.as_secs_f64() / self.awake.as_secs_f64().max(1e-9)).min(1.0);
        self.awake = Duration::ZERO;
        for id in self.unsettled.drain(..) {
            let sums = self.operators.entry(id).or_default();
            sums.busy += std::mem::take(&mut sums.unsettled).mul_f64(share);
        }
    }

    /// Returns the sums so far. The activation that runs now is not in them.
    pub fn operators(&self) -> impl Iterator<Item = &Sums> {
        self.operators.values()
    }

    /// Returns the sums so far as those of `worker`.
    pub fn stats(&self, worker: usize) -> Vec<OperatorStats> {
        let stats = |(id, sums): (&usize, &Sums)| OperatorStats {
            worker,
            id: *id,
            name: sums.name.clone(),
            activations: sums.activations,
            busy_seconds: sums.busy().as_secs_f64(),
            records: sums.records,
        };
        self.operators.iter().map(stats).collect()
    }

    /// Returns the names of the scopes around an operator, outermost first, then its own.
    pub fn path(&self, sums: &Sums) -> Vec<&str> {
        let name = |depth: usize| {
            let operator = self.by_address.get(&sums.addr[..depth]);
            operator.and_then(|operator| self.operators.get(operator)).map_or("?", |at| &at.name)
        };
        (1..=sums.addr.len()).map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use timely::logging::{ChannelsEvent, MessagesEvent, OperatesEvent, ParkEvent, ScheduleEvent};

    use super::*;

    fn operates(id: usize, addr: &[usize], name: &str) -> TimelyEvent {
        OperatesEvent { id, addr: addr.to_vec(), name: name.to_owned() }.into()
    }

    #[test]
    fn time_inside_belongs_to_the_inner_operator() {
        let mut recorder = Recorder::default();
        let at = |ms, event| (Duration::from_millis(ms), event);
        recorder.observe(&[
            at(0, operates(7, &[0], "Dataflow")),
            at(0, operates(9, &[0, 4], "Count")),
            at(10, ScheduleEvent::start(7).into()),
            at(12, ScheduleEvent::start(9).into()),
        ]);
        // An activation may span batches.
        recorder.observe(&[
            at(20, ScheduleEvent::stop(9).into()),
            at(21, ScheduleEvent::stop(7).into()),
            at(50, ScheduleEvent::start(7).into()),
            at(51, ScheduleEvent::stop(7).into()),
        ]);
        let stats = recorder.stats(3);
        let busy: Vec<_> =
            stats.iter().map(|s| (s.id, (s.busy_seconds * 1e3).round() as u64)).collect();
        assert_eq!(busy, [(7, 4), (9, 8)]);
        assert_eq!(stats.iter().map(|s| s.activations).collect::<Vec<_>>(), [2, 1]);
        assert!(stats.iter().all(|s| s.worker == 3));
    }

    #[test]
    fn busy_time_is_scaled_to_processor_time() {
        let mut recorder = Recorder::default();
        let at = Duration::from_millis;
        recorder.observe(&[
            (at(0), operates(7, &[0], "Dataflow")),
            (at(0), operates(9, &[0, 4], "Count")),
            (at(10), ScheduleEvent::start(7).into()),
            (at(20), ScheduleEvent::start(9).into()),
            (at(80), ScheduleEvent::stop(9).into()),
            (at(100), ScheduleEvent::stop(7).into()),
            (at(110), ParkEvent::park(None).into()),
        ]);
        let busy = |recorder: &Recorder| -> Vec<u64> {
            let ms = |s: &OperatorStats| (s.busy_seconds * 1e3).round() as u64;
            recorder.stats(0).iter().map(ms).collect()
        };
        assert_eq!(busy(&recorder), [30, 60], "times of the clock");
        // Of 100 ms the worker had the processor for half. A parked worker uses none.
        recorder.add(at(110), LoggedEvent::Processor { us: 50_000 });
        recorder.add(at(900), LoggedEvent::Unpark);
        assert_eq!(busy(&recorder), [15, 30]);
        // The account of the kernel is coarser than the clock: more than all is all.
        recorder.add(at(900), LoggedEvent::Start { id: 9 });
        recorder.add(at(910), LoggedEvent::Stop { id: 9 });
        recorder.add(at(910), LoggedEvent::Processor { us: 11_000 });
        assert_eq!(busy(&recorder), [15, 40]);
    }

    #[test]
    fn records_count_where_they_arrive() {
        let mut recorder = Recorder::default();
        let channel = ChannelsEvent {
            id: 5,
            scope_addr: vec![0],
            source: (3, 0),
            target: (4, 0),
            typ: String::new(),
        };
        let message = |is_send| MessagesEvent {
            is_send,
            channel: 5,
            source: 0,
            target: 0,
            seq_no: 1,
            record_count: 40,
        };
        let zero = Duration::ZERO;
        recorder.observe(&[
            (zero, operates(9, &[0, 4], "Count")),
            (zero, channel.into()),
            (zero, message(true).into()),
            (zero, message(false).into()),
        ]);
        assert_eq!(recorder.stats(0)[0].records, 40);
    }
}
