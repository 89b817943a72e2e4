//! Operators that act at ticks: once per epoch, in order, when the epoch is complete.
//!
//! Totals and windows have contents at an epoch without lines, and at a worker without words. The
//! tick of the epoch is the capability to publish them, and the two frontiers show when they are
//! final. Nothing is published between ticks: a retraction at a time that became no epoch shows in
//! the next epoch.

use std::collections::BTreeMap;

use timely::Container;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{ParallelizationContract, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use crate::epoch::Epoch;

/// The ticks of all epochs, at every worker.
pub type Ticks<'s> = Stream<'s, Epoch, Vec<Epoch>>;

/// The state of an operator that publishes at ticks.
pub trait AtTicks<C>: 'static {
    /// The records that the operator sends.
    type Out: Clone + 'static;

    /// Takes records in, of any epochs.
    fn absorb(&mut self, arrived: &mut C);

    /// Publishes `epoch`. All records of `epoch` and of earlier times have been absorbed.
    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut(Self::Out));
}

/// Makes an operator that absorbs `stream` and publishes at `ticks`.
pub fn at_ticks<'s, C, P, S>(
    stream: Stream<'s, Epoch, C>,
    pact: P,
    ticks: Ticks<'s>,
    name: &str,
    mut state: S,
) -> Stream<'s, Epoch, Vec<S::Out>>
where
    C: Container + 'static,
    P: ParallelizationContract<Epoch, C>,
    S: AtTicks<C>,
{
    stream.binary_frontier::<_, CapacityContainerBuilder<Vec<S::Out>>, _, _, _, _>(
        ticks,
        pact,
        Pipeline,
        name,
        move |_capability, _info| {
            let mut ticked: BTreeMap<Epoch, Capability<Epoch>> = BTreeMap::new();
            move |(arrived, frontier), (ticks, tick_frontier), output| {
                arrived.for_each(|_, container| state.absorb(container));
                ticks.for_each(|capability, ticks| {
                    let Some(capability) = capability.retain_least(0) else { return };
                    ticks
                        .drain(..)
                        .for_each(|epoch| drop(ticked.insert(epoch, capability.clone())));
                });
                while let Some(first) = ticked.first_entry() {
                    let epoch = *first.key();
                    if frontier.less_equal(&epoch) || tick_frontier.less_equal(&epoch) {
                        break;
                    }
                    let capability = first.remove();
                    let mut session = output.session(&capability);
                    state.publish(epoch, &mut |out| session.give(out));
                }
            }
        },
    )
}

/// Records that arrived before their tick, by epoch.
pub struct Stash<T> {
    /// The data of each open epoch.
    epochs: BTreeMap<Epoch, Vec<T>>,
}

impl<T> Stash<T> {
    /// Makes an empty stash.
    pub fn new() -> Self {
        Stash { epochs: BTreeMap::new() }
    }

    /// Adds a record of `epoch`.
    pub fn push(&mut self, epoch: Epoch, item: T) {
        self.epochs.entry(epoch).or_default().push(item);
    }

    /// Removes and returns the records of `epoch`. Records of earlier times, which were no epochs,
    /// are dropped.
    pub fn take(&mut self, epoch: Epoch) -> Vec<T> {
        let later = self.epochs.split_off(&(epoch + 1));
        let mut due = std::mem::replace(&mut self.epochs, later);
        due.remove(&epoch).unwrap_or_default()
    }

    /// Removes and returns the records of `epoch` and of earlier times, in order.
    pub fn take_through(&mut self, epoch: Epoch) -> Vec<T> {
        let later = self.epochs.split_off(&(epoch + 1));
        let due = std::mem::replace(&mut self.epochs, later);
        due.into_values().flatten().collect()
    }
}
