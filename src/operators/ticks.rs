//! What an operator does at the ticks: once for each epoch, in order, when it is complete.
//!
//! A result with memory has contents at an epoch to which no line came, and at a worker to which no
//! word came. The tick of the epoch is the capability to publish them; the two frontiers say when
//! nothing can change them any more. Between ticks nothing is ever published: a retraction at a
//! time that became no epoch only shows in the contents of the next one.

use std::collections::BTreeMap;

use timely::Container;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{ParallelizationContract, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use crate::epoch::Epoch;

/// The ticks of all epochs, at every worker.
pub(super) type Ticks<'s> = Stream<'s, Epoch, Vec<Epoch>>;

/// An operator's state and what becomes of it at a tick.
pub(super) trait AtTicks<C>: 'static {
    /// What is sent on.
    type Out: Clone + 'static;

    /// Takes in what arrived, of whatever epochs.
    fn absorb(&mut self, arrived: &mut C);

    /// All that belongs to `epoch` and before has been absorbed.
    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut(Self::Out));
}

/// Runs `state` over `stream` at the `ticks`.
pub(super) fn at_ticks<'s, C, P, S>(
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

/// What arrived ahead of its tick, by epoch.
pub(super) struct Stash<T> {
    epochs: BTreeMap<Epoch, Vec<T>>,
}

impl<T> Stash<T> {
    pub(super) fn new() -> Self {
        Stash { epochs: BTreeMap::new() }
    }

    pub(super) fn push(&mut self, epoch: Epoch, item: T) {
        self.epochs.entry(epoch).or_default().push(item);
    }

    /// What belongs to `epoch`; what belongs to times before it, which were no epochs, is dropped.
    pub(super) fn take(&mut self, epoch: Epoch) -> Vec<T> {
        let later = self.epochs.split_off(&(epoch + 1));
        let mut due = std::mem::replace(&mut self.epochs, later);
        due.remove(&epoch).unwrap_or_default()
    }

    /// All of `epoch` and of the times before it, in order.
    pub(super) fn take_through(&mut self, epoch: Epoch) -> Vec<T> {
        let later = self.epochs.split_off(&(epoch + 1));
        let due = std::mem::replace(&mut self.epochs, later);
        due.into_values().flatten().collect()
    }
}
