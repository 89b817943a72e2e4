//! The operator before the base, or the arrangement, of totals and windows.
//!
//! It adds up the runs of a complete epoch and adds them to the [changes](super::stored_change)
//! that the sink stores. At the start it sends the changes of former runs at past epochs, as if
//! their words were counted again; what is published or read from a trace is the same.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::context::Context;
use super::due_runs::RunsByEpoch;
use super::run::{Run, ToOwner};
use super::stored_change::{BufferState, PartChange};
use crate::epoch::Epoch;
use crate::words;

/// Sends runs to their owners, adds up the runs of each epoch and adds the sum to the worker's
/// [`ChangeBuffer`](super::stored_change::ChangeBuffer). The changes of former runs come first.
/// Results contain a change for `lasts_ms`, or for ever.
pub fn record_changes<'s>(
    runs: Stream<'s, Epoch, Run>,
    lasts_ms: Option<u64>,
    context: &Context,
) -> Stream<'s, Epoch, Run> {
    let Some(buffer) = context.changes.state() else { return runs };
    let recorder = ChangeRecorder::new(buffer, lasts_ms, context);
    runs.unary_frontier::<NoopBuilder<Run>, _, _, _>(
        DistributorPact(|_peers| ToOwner),
        "Record changes",
        move |capability, _info| {
            let mut restored = Some((capability, recorder.restored()));
            let mut open: BTreeMap<Epoch, Capability<Epoch>> = BTreeMap::new();
            let mut gathered = RunsByEpoch::default();
            move |(input, frontier), output| {
                // At the first call. Dropping the capability then lets the frontier advance.
                if let Some((capability, runs)) = restored.take() {
                    for mut run in runs {
                        let capability = capability.delayed(&run.epoch);
                        output.session_with_builder(&capability).give_container(&mut run);
                    }
                }
                input.for_each(|capability, run| {
                    let Some(capability) = capability.retain_least(0) else { return };
                    open.entry(run.epoch).or_insert(capability);
                    gathered.insert(run);
                });
                while let Some(first) = open.first_entry() {
                    let epoch = *first.key();
                    if frontier.less_equal(&epoch) {
                        break;
                    }
                    let capability = first.remove();
                    let Some(mut run) = gathered.add_up(epoch) else { continue };
                    recorder.record(&run);
                    output.session_with_builder(&capability).give_container(&mut run);
                }
            }
        },
    )
}

/// Records the changes of one of the definition's totals or windows at one worker.
struct ChangeRecorder {
    /// Takes the changes of each epoch.
    buffer: Rc<RefCell<BufferState>>,
    /// The newest epoch that former runs committed.
    through: Epoch,
    /// Number of parts with changes.
    counts: u32,
    /// The time for which counts last; `None` for ever.
    lasts_ms: Option<u64>,
    /// Number of parts.
    parts: u32,
    /// The index of the worker.
    worker: u32,
}

impl ChangeRecorder {
    /// Returns a recorder with the next number of counts.
    fn new(
        buffer: Rc<RefCell<BufferState>>,
        lasts_ms: Option<u64>,
        context: &Context,
    ) -> ChangeRecorder {
        let counts = buffer.borrow().counts;
        buffer.borrow_mut().counts += 1;
        let (parts, worker) = (context.settings.parts, context.index as u32);
        let through = context.changes.through();
        ChangeRecorder { buffer, through, counts, lasts_ms, parts, worker }
    }

    /// Removes and returns the changes of these counts in former runs.
    fn restored(&self) -> Vec<Run> {
        let ours = |change: &mut PartChange| change.counts == self.counts;
        let changes: Vec<PartChange> =
            self.buffer.borrow_mut().restored.extract_if(.., ours).collect();
        let run = |change: PartChange| {
            let mut run = change.run;
            run.worker = self.worker;
            if self.lasts_ms.is_none() {
                // A change that lasts for ever needs no epoch of its own, and one epoch for all
                // makes fewer batches.
                run.epoch = self.through;
            }
            run
        };
        changes.into_iter().map(run).collect()
    }

    /// Adds the run of a complete epoch to the buffer, part by part.
    fn record(&self, run: &Run) {
        let cut = run.by_part(|hash| words::part(hash, self.parts));
        let (counts, lasts_ms) = (self.counts, self.lasts_ms);
        let changes = cut.into_iter().map(|(part, run)| PartChange { counts, part, lasts_ms, run });
        let mut buffer = self.buffer.borrow_mut();
        buffer.changes.entry(run.epoch).or_default().extend(changes);
    }
}
