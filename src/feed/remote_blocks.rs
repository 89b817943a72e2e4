//! Blocks that leave the process for workers elsewhere, and those that come.
//!
//! One socket may bring more than the workers of one process can count. So a *shipper*, one for
//! each other process, takes blocks too, but only those that are too many for the workers at hand:
//! when more wait than there are workers. It meets each cut when no source of this process can push
//! to the epoch any more ([`Feed::passed`]) and no block of it waits here; passing it on, it
//! informs the other process that nothing more comes for the epoch. That must not wait for the
//! epoch to be complete *here*: two processes that ship to each other would wait for each other for
//! ever.
//!
//! A block that came from elsewhere is counted when there is none of this process's own in the same
//! epoch, and is never shipped on: among processes that all have more than enough, blocks do not go
//! round in circles, but fill the link and stay where they are.

use std::sync::Arc;

use super::{Feed, FeedState, Next, Wake};
use crate::epoch::Epoch;
use crate::lines::Block;

/// Surplus for which a shipper comes: a message, and waking a worker elsewhere for it, costs as
/// much for several blocks as for one.
const LOAD_BLOCKS: usize = 3;

/// The reader of blocks that go to another process.
pub(crate) struct Shipper {
    /// Number of cuts it has passed.
    pub passed: u64,
    /// True while the shipper waits to be woken.
    idle: bool,
    /// Wakes the shipper.
    wake: Wake,
}

impl Feed {
    /// Adds a shipper, which is to be woken by `wake`; returns its index. No cut may have been
    /// passed yet.
    pub fn add_shipper(&self, wake: Wake) -> usize {
        let mut state = self.lock();
        assert_eq!(state.cuts_gone, 0, "a shipper that comes late has missed cuts");
        state.shippers.push(Shipper { passed: 0, idle: false, wake });
        state.shippers.len() - 1
    }

    /// Returns `true` if blocks of other processes may come for `epoch`: it is open here, or has
    /// ended and is not complete. Returns `false` for any other time up to the open epoch.
    ///
    /// Waits as long as `epoch` is after the open one: another process may learn first that an
    /// epoch was opened. A time that is no epoch is never admitted, so no worker counts for it.
    pub async fn admits(&self, epoch: Epoch) -> bool {
        loop {
            let mut opened = std::pin::pin!(self.opened.notified());
            // From here on an opening is not missed.
            opened.as_mut().enable();
            let (open, is_incomplete) = {
                let state = self.lock();
                let first = state.complete.saturating_sub(state.cuts_gone) as usize;
                let mut incomplete = state.cuts.iter().skip(first);
                (state.open, incomplete.any(|cut| cut.epoch == epoch))
            };
            if epoch <= open {
                return epoch == open || is_incomplete;
            }
            opened.await;
        }
    }

    /// Appends a block that came from another process to `epoch`, which must have been admitted.
    pub fn push_foreign(&self, epoch: Epoch, block: Block) {
        let mut state = self.lock();
        state.foreign.push(epoch, block);
        let wake = state.wake_reader();
        drop(state);
        wake.into_iter().for_each(|wake| wake());
    }

    /// Declares that no source of this process pushes to `epoch`, or one before it, any more.
    pub fn passed(&self, epoch: Epoch) {
        let mut state = self.lock();
        state.passed_here = state.passed_here.max(state.cuts_through(epoch));
        let wakes = state.wake_all_shippers();
        drop(state);
        wakes.iter().for_each(|wake| wake());
    }

    /// Returns the next step of the shipper with this index.
    pub fn next_to_ship(&self, index: usize) -> Next {
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(cut) = state.cut_to_ship(index) {
            state.shippers[index].passed += 1;
            let super::FeedCut { epoch, next } = cut;
            state.drop_passed_cuts();
            return Next::Complete { epoch, next };
        }
        if state.has_surplus()
            && let Some((epoch, block)) = state.own.pop()
        {
            return Next::Block(epoch, block);
        }
        let known = state.cuts_gone + state.cuts.len() as u64;
        if state.ended && state.shippers[index].passed == known {
            return Next::End;
        }
        state.shippers[index].idle = true;
        Next::Wait
    }
}

impl FeedState {
    /// Returns true if more blocks wait than the workers of this process are about to take.
    fn has_surplus(&self) -> bool {
        self.own.len() > self.readers.len()
    }

    /// Returns true if so many more blocks wait that a shipper should take some.
    pub fn has_load(&self) -> bool {
        self.own.len() >= self.readers.len() + LOAD_BLOCKS
    }

    /// The cut that the shipper has come to, if it may pass it.
    fn cut_to_ship(&self, index: usize) -> Option<super::FeedCut> {
        let passed = self.shippers[index].passed;
        if passed >= self.passed_here {
            return None;
        }
        let cut = self.cuts[(passed - self.cuts_gone) as usize];
        self.own.lowest().is_none_or(|epoch| epoch > cut.epoch).then_some(cut)
    }

    /// Marks one idle shipper as woken; how to wake it.
    pub fn wake_shipper(&mut self) -> Option<Wake> {
        let shipper = self.shippers.iter_mut().find(|shipper| shipper.idle)?;
        shipper.idle = false;
        Some(Arc::clone(&shipper.wake))
    }

    /// Returns the wakes of shippers that wait for a cut that a worker's taking of a block has
    /// opened.
    pub fn wake_shippers_at_cut(&mut self) -> Vec<Wake> {
        let at_border =
            |state: &FeedState, k: usize| state.shippers[k].idle && state.cut_to_ship(k).is_some();
        let woken = (0..self.shippers.len()).filter(|k| at_border(self, *k)).collect::<Vec<_>>();
        woken.into_iter().map(|k| self.wake_at(k)).collect()
    }

    /// Returns what wakes every shipper.
    pub fn wake_all_shippers(&mut self) -> Vec<Wake> {
        (0..self.shippers.len()).map(|k| self.wake_at(k)).collect()
    }

    /// Marks a shipper as woken and returns what wakes it.
    fn wake_at(&mut self, index: usize) -> Wake {
        self.shippers[index].idle = false;
        Arc::clone(&self.shippers[index].wake)
    }
}

#[cfg(test)]
mod tests {

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::tests::{block, show};
    use super::*;

    fn feed_with_shipper(workers: usize) -> (Feed, Arc<AtomicUsize>) {
        let (feed, woken) = (Feed::new(workers, 10), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&woken);
        feed.add_shipper(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        (feed, woken)
    }

    #[test]
    fn only_excess_of_blocks_is_shipped() {
        let (feed, woken) = feed_with_shipper(2);
        assert_eq!(show(feed.next_to_ship(0)), "wait");
        feed.push(10, block("a\n"));
        feed.push(10, block("b\n"));
        assert_eq!(show(feed.next_to_ship(0)), "wait");
        for text in ["c\n", "d\n", "e\n"] {
            assert_eq!(woken.load(Ordering::Relaxed), 0, "it comes when there is a load for it");
            feed.push(10, block(text));
        }
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        let shipped: Vec<_> = (0..4).map(|_| show(feed.next_to_ship(0))).collect();
        assert_eq!(shipped, ["10:a", "10:b", "10:c", "wait"]);
    }

    #[test]
    fn shipper_passes_border_before_epoch_is_complete() {
        let (feed, woken) = feed_with_shipper(1);
        feed.push(10, block("a\n"));
        feed.cut(20);
        assert_eq!(show(feed.next_to_ship(0)), "wait");
        feed.passed(10);
        assert_eq!(show(feed.next_to_ship(0)), "wait", "a block of the epoch still waits here");
        assert_eq!(show(feed.next(0)), "10:a");
        assert_eq!(woken.load(Ordering::Relaxed), 2, "by the seal, and by the taking of the block");
        assert_eq!(show(feed.next_to_ship(0)), "10->20");
        assert_eq!(show(feed.next(0)), "wait", "what another process ships may still come");
        feed.push_foreign(10, block("late\n"));
        feed.complete(10);
        assert_eq!(show(feed.next(0)), "10:late");
        assert_eq!(show(feed.next(0)), "10->20");
    }

    #[test]
    fn received_blocks_come_last_and_stay_here() {
        let (feed, _) = feed_with_shipper(1);
        for text in ["a\n", "b\n", "c\n"] {
            feed.push_foreign(10, block(text));
        }
        assert_eq!(show(feed.next_to_ship(0)), "wait");
        feed.push(10, block("own\n"));
        feed.push(20, block("later\n"));
        let seen: Vec<_> = (0..5).map(|_| show(feed.next(0))).collect();
        assert_eq!(seen, ["10:own", "10:a", "10:b", "10:c", "20:later"]);
    }

    #[tokio::test]
    async fn only_epochs_that_are_not_complete_are_admitted() {
        let (feed, _) = feed_with_shipper(1);
        for next in [20, 30] {
            feed.cut(next);
        }
        feed.complete(10);
        let times = [5, 10, 15, 20, 25, 30];
        let mut admitted = Vec::new();
        for epoch in times {
            admitted.push(feed.admits(epoch).await);
        }
        assert_eq!(admitted, [false, false, false, true, false, true]);
        let later = tokio::join!(feed.admits(40), feed.admits(35), async { feed.cut(40) });
        assert_eq!(later, (true, false, 30));
    }

    #[test]
    fn shipper_ends_after_last_border() {
        let (feed, _) = feed_with_shipper(1);
        feed.cut(20);
        feed.end();
        assert_eq!(show(feed.next_to_ship(0)), "wait");
        feed.passed(10);
        assert_eq!(show(feed.next_to_ship(0)), "10->20");
        assert_eq!(show(feed.next_to_ship(0)), "end");
    }
}
