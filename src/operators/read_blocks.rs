//! The operator that takes blocks from the feed of the process.
//!
//! It holds a capability for the first epoch that is not complete at this process, and sends blocks
//! of later epochs with a delayed one. When an epoch is complete, it sends the epoch's tick and
//! downgrades its capability to the next epoch.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::context::{Context, Tally};
use super::lines::Lines;
use crate::crash_points::crash_point;
use crate::epoch::Epoch;
use crate::feed::{Feed, Next};
use crate::lines::Block;
use crate::meters::SourceMeter;

/// Number of blocks that a worker takes before its other operators run. A small number spreads a
/// burst evenly over workers, and the blocks are counted while they are still in the cache.
const BLOCKS_A_TURN: usize = 2;

/// Makes the operator that reads `feed` as worker `local` of this process.
pub fn read<'s>(
    scope: Scope<'s, Epoch>,
    feed: Feed,
    local: usize,
    context: Rc<Context>,
) -> Lines<'s> {
    let mut builder = OperatorBuilder::new("Read".to_owned(), scope);
    let info = builder.operator_info();
    let (block_output, blocks) = builder.new_output();
    let (tick_output, ticks) = builder.new_output();
    let mut block_output =
        OutputBuilder::<_, CapacityContainerBuilder<Vec<Block>>>::from(block_output);
    let mut tick_output =
        OutputBuilder::<_, CapacityContainerBuilder<Vec<Epoch>>>::from(tick_output);

    let from_outside = scope.worker().sync_activator_for(info.address.to_vec());
    let wake = move || {
        // Activation fails only if the worker has ended; then there is no operator to wake.
        let _ = from_outside.activate();
    };
    feed.attach(local, Arc::new(wake));
    let again = scope.activator_for(Rc::clone(&info.address));
    let tallies = context.tallies.clone();
    let meters = context.meters.clone();
    let mut sources: BTreeMap<u32, Arc<SourceMeter>> = BTreeMap::new();

    builder.build(move |capabilities| {
        let mut capabilities = Some(capabilities);
        move |_frontiers| {
            let Some(held) = capabilities.as_mut() else { return };
            let mut block_output = block_output.activate();
            let mut tick_output = tick_output.activate();
            for _ in 0..BLOCKS_A_TURN {
                match feed.next(local) {
                    Next::Block(epoch, block) => {
                        let (lines, bytes) = (block.lines(), block.text().len() as u64);
                        let source = block.source();
                        let meter = sources.entry(source).or_insert_with(|| meters.source(source));
                        meter.lines.add(lines);
                        tallies.add(epoch, Tally { lines, bytes, ..Tally::default() });
                        block_output.session(&held[0].delayed(&epoch)).give(block);
                    }
                    Next::Complete { epoch, next } => {
                        crash_point("worker.before_tick");
                        tick_output.session(&held[1].delayed(&epoch)).give(epoch);
                        held.iter_mut().for_each(|capability| capability.downgrade(&next));
                    }
                    Next::Wait => return,
                    Next::End => {
                        capabilities = None;
                        return;
                    }
                }
            }
            again.activate();
        }
    });
    Lines { blocks, ticks, context }
}
