//! The words that occur most.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely::dataflow::channels::pact::{Exchange, Pipeline};

use super::rows::{EpochRows, Row, RowSet, Rows};
use super::ticks::{AtTicks, Stash, at_ticks};
use crate::epoch::Epoch;

/// A word in a ranking: the better, the less.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Place {
    count: Reverse<i64>,
    word: Vec<u8>,
}

/// The first `k` rows by descending count, then by word.
pub(super) fn top<'s>(rows: Rows<'s>, k: usize) -> Rows<'s> {
    let Rows { stream, ticks, context, grid } = rows;
    let local = Local { k, rows: Stash::new() };
    let places = at_ticks(stream, Pipeline, ticks.clone(), "Top of a worker", local);
    let to_first = Exchange::new(|_: &(Epoch, Place)| 0);
    let global = Global { k, places: Stash::new() };
    let stream = at_ticks(places, to_first, ticks.clone(), "Top of all", global);
    Rows { stream, ticks, context, grid }
}

/// The best `k` of the words that one worker owns.
struct Local {
    k: usize,
    rows: Stash<EpochRows>,
}

impl AtTicks<Vec<EpochRows>> for Local {
    type Out = (Epoch, Place);

    fn absorb(&mut self, rows: &mut Vec<EpochRows>) {
        rows.drain(..).for_each(|rows| self.rows.push(rows.epoch, rows));
    }

    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut((Epoch, Place))) {
        // The worst of the best is on top, to be compared with and to be thrown out.
        let mut best: BinaryHeap<Place> = BinaryHeap::new();
        for set in self.rows.take(epoch) {
            set.rows.for_each(&mut |row| {
                let Row::Count { word, count, .. } = row else { return };
                let count = Reverse(count);
                if best.len() == self.k {
                    let worse = |worst: &Place| (count, word) >= (worst.count, &worst.word[..]);
                    if best.peek().is_none_or(worse) {
                        return;
                    }
                    best.pop();
                }
                best.push(Place { count, word: word.to_vec() });
            });
        }
        best.into_iter().for_each(|place| send((epoch, place)));
    }
}

/// The best `k` of all, on worker 0.
struct Global {
    k: usize,
    places: Stash<Place>,
}

impl AtTicks<Vec<(Epoch, Place)>> for Global {
    type Out = EpochRows;

    fn absorb(&mut self, places: &mut Vec<(Epoch, Place)>) {
        places.drain(..).for_each(|(epoch, place)| self.places.push(epoch, place));
    }

    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut(EpochRows)) {
        let mut places = self.places.take(epoch);
        if places.is_empty() {
            return;
        }
        places.sort_unstable();
        places.truncate(self.k);
        send(EpochRows { epoch, rows: Rc::new(Ranking { places }) });
    }
}

struct Ranking {
    places: Vec<Place>,
}

impl RowSet for Ranking {
    fn for_each(&self, visit: &mut dyn FnMut(Row<'_>)) {
        for Place { count, word } in &self.places {
            visit(Row::Ranked { word, count: count.0 });
        }
    }
}
