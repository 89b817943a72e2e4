//! What counts with memory keep beyond an epoch, and how it comes back.
//!
//! Totals and windows are sums over epochs that the journal forgets as soon as they are committed.
//! So what an epoch adds to them is kept outside the dataflow: a [`Change`] for each part, the
//! words that its owner received in that epoch, as one sorted run. It is the input of the
//! arrangement and not its output, so that a window can take it back again after a restart.
//!
//! The operator here stands in front of the arrangement. It hands the changes of a complete epoch
//! to the worker's [`Memory`], from which the sink takes them to store them beside the epoch's
//! parts: an epoch is durable when both are. What former runs kept comes out of it first, at past
//! epochs, as if the words were counted once more; whoever reads the trace sees no difference.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::batcher::RunsByEpoch;
use super::context::Context;
use super::run::{Run, ToOwner};
use crate::epoch::Epoch;
use crate::words;

/// What one part of some counts received in an epoch, or in all epochs up to one.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which counts of the definition, in the order in which it makes those with memory.
    pub counts: u32,
    /// The part.
    pub part: u32,
    /// For how long it shows in results: `None` for ever.
    pub lasts_ms: Option<u64>,
    /// The words, and their epoch.
    pub run: Run,
}

impl Change {
    /// Returns whether no result after `epoch` shows it, nor the difference of one to that of
    /// `epoch`.
    pub fn is_past(&self, epoch: Epoch) -> bool {
        self.lasts_ms.is_some_and(|lasts_ms| self.run.epoch.saturating_add(lasts_ms) <= epoch)
    }
}

/// What former runs kept, until the workers of this process take it.
#[derive(Clone, Debug)]
pub struct Restored {
    changes: Arc<Mutex<Vec<Change>>>,
    through: Epoch,
}

impl Restored {
    /// These changes, of epochs up to and with `through`.
    pub fn new(changes: Vec<Change>, through: Epoch) -> Restored {
        Restored { changes: Arc::new(Mutex::new(changes)), through }
    }

    /// Takes out what belongs to the parts that a worker `owns`.
    pub fn take(&self, owns: impl Fn(u32) -> bool) -> Memory {
        let mut all = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let restored = all.extract_if(.., |change| owns(change.part)).collect();
        let held = Held { restored, counts: 0, changes: BTreeMap::new() };
        Memory { held: Some(Rc::new(RefCell::new(held))), through: self.through }
    }
}

/// What one worker remembers. Clones share it; a worker is one thread.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// None where nothing survives the run.
    held: Option<Rc<RefCell<Held>>>,
    through: Epoch,
}

#[derive(Debug)]
struct Held {
    /// What former runs kept and no counts have asked for yet.
    restored: Vec<Change>,
    /// Counts with memory that the definition has made so far.
    counts: u32,
    /// What is to be stored, by epoch.
    changes: BTreeMap<Epoch, Vec<Change>>,
}

impl Memory {
    /// Takes out the changes of `epoch` and of those before it.
    pub fn take(&self, epoch: Epoch) -> Vec<Change> {
        let Some(held) = &self.held else { return Vec::new() };
        let mut held = held.borrow_mut();
        let later = held.changes.split_off(&(epoch + 1));
        std::mem::replace(&mut held.changes, later).into_values().flatten().collect()
    }

    /// The newest epoch that former runs committed; 0 where there are none.
    pub(super) fn through(&self) -> Epoch {
        self.through
    }
}

/// Sends runs to their owners, one an epoch, and has the [`Memory`] keep them; those of former
/// runs come first. They show in results for `lasts_ms`, or for ever.
pub(super) fn remember<'s>(
    runs: Stream<'s, Epoch, Run>,
    lasts_ms: Option<u64>,
    context: &Context,
) -> Stream<'s, Epoch, Run> {
    let Memory { held: Some(held), through } = context.memory.clone() else { return runs };
    let keeping = Keeping::new(held, through, lasts_ms, context);
    runs.unary_frontier::<NoopBuilder<Run>, _, _, _>(
        DistributorPact(|_peers| ToOwner),
        "Remember",
        move |capability, _info| {
            let mut restored = Some((capability, keeping.restored()));
            let mut open: BTreeMap<Epoch, Capability<Epoch>> = BTreeMap::new();
            let mut gathered = RunsByEpoch::default();
            move |(input, frontier), output| {
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
                    keeping.keep(&run);
                    output.session_with_builder(&capability).give_container(&mut run);
                }
            }
        },
    )
}

/// One of the definition's counts with memory, at one worker.
struct Keeping {
    held: Rc<RefCell<Held>>,
    through: Epoch,
    counts: u32,
    lasts_ms: Option<u64>,
    parts: u32,
    worker: u32,
}

impl Keeping {
    fn new(
        held: Rc<RefCell<Held>>,
        through: Epoch,
        lasts_ms: Option<u64>,
        context: &Context,
    ) -> Keeping {
        let counts = held.borrow().counts;
        held.borrow_mut().counts += 1;
        let (parts, worker) = (context.parts, context.index as u32);
        Keeping { held, through, counts, lasts_ms, parts, worker }
    }

    /// What former runs kept of these counts.
    fn restored(&self) -> Vec<Run> {
        let ours = |change: &mut Change| change.counts == self.counts;
        let changes: Vec<Change> = self.held.borrow_mut().restored.extract_if(.., ours).collect();
        let run = |change: Change| {
            let mut run = change.run;
            run.worker = self.worker;
            if self.lasts_ms.is_none() {
                // What never leaves need not be told apart by when it came.
                run.epoch = self.through;
            }
            run
        };
        changes.into_iter().map(run).collect()
    }

    /// Has what a complete epoch brought kept, part by part.
    fn keep(&self, run: &Run) {
        let cut = run.by_part(|hash| words::part(hash, self.parts));
        let (counts, lasts_ms) = (self.counts, self.lasts_ms);
        let changes = cut.into_iter().map(|(part, run)| Change { counts, part, lasts_ms, run });
        let mut held = self.held.borrow_mut();
        held.changes.entry(run.epoch).or_default().extend(changes);
    }
}
