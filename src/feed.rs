//! Where blocks wait for a worker, and where an epoch's end becomes known to the workers.
//!
//! The sources of a process push blocks in; the workers of that process take them out, the one that
//! is idle first, so that one socket feeds all workers evenly. A block belongs to the epoch that
//! its source's stream is in: a slow source may still be in an epoch that a fast one has left, so
//! there is a queue for each epoch, and the lowest goes first. [`Feed::cut`] makes a cut known,
//! [`Feed::complete`] lets the workers see that everything before it is final: two steps, because a
//! cut must be durable, and passed by every source, before any worker may see the epoch close,
//! while blocks of the next epoch need not wait for that.
//!
//! Blocks may also leave the process, and others may come from elsewhere: see [`remote_blocks`].
//!
//! The queue is bounded by the [`BlockPool`](crate::lines::BlockPool), whose permits the blocks
//! carry until a combiner has absorbed them. Nothing polls: a push wakes one idle worker, a
//! completed epoch wakes all.

mod queue;
pub mod remote_blocks;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::epoch::Epoch;
use crate::lines::Block;
use queue::Queue;
use remote_blocks::Shipper;

/// Wakes a worker; called without the feed's lock held.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The next step of a worker.
#[derive(Debug)]
pub enum Next {
    /// Send this block at this epoch.
    Block(Epoch, Block),
    /// All blocks of `epoch` were taken: send its tick and let go of all before `next`.
    Complete {
        /// The epoch that is complete at this process.
        epoch: Epoch,
        /// The epoch that follows it.
        next: Epoch,
    },
    /// Nothing now: the worker will be woken.
    Wait,
    /// Nothing ever again.
    End,
}

#[derive(Clone, Copy, Debug)]
struct FeedCut {
    /// The epoch that ended.
    epoch: Epoch,
    /// The epoch that was opened.
    next: Epoch,
}

struct FeedState {
    /// The epoch after the last cut.
    open: Epoch,
    /// Blocks of this process's sources.
    own: Queue,
    /// Blocks that came from other processes.
    foreign: Queue,
    /// Cuts between epochs not yet passed by every worker; those before `complete` are final.
    cuts: VecDeque<FeedCut>,
    /// Number of cuts ever dropped from the front of `cuts`.
    cuts_gone: u64,
    /// Number of cuts that are final, counted from the first ever.
    complete: u64,
    /// Number of cuts, counted alike, that all sources of this process have passed.
    passed_here: u64,
    /// True when nothing follows the known cuts.
    ended: bool,
    /// The workers of this process.
    readers: Vec<BlockReader>,
    /// The links that take blocks to other processes.
    shippers: Vec<Shipper>,
}

struct BlockReader {
    /// Number of cuts this worker has passed.
    passed: u64,
    /// True while the worker waits to be woken.
    idle: bool,
    /// Wakes the worker; `None` before it is attached.
    wake: Option<Wake>,
}

/// The queue between the sources and the workers of one process. Clones share it.
#[derive(Clone)]
pub struct Feed {
    /// The queues and what the readers have passed.
    state: Arc<Mutex<FeedState>>,
    /// Notified when an epoch is opened.
    opened: Arc<Notify>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Feed")
            .field("open", &state.open)
            .field("blocks", &(state.own.len() + state.foreign.len()))
            .field("ended", &state.ended)
            .finish_non_exhaustive()
    }
}

impl Feed {
    /// A feed for `workers` workers whose first open epoch is `open`.
    pub fn new(workers: usize, open: Epoch) -> Self {
        let reader = || BlockReader { passed: 0, idle: false, wake: None };
        let state = FeedState {
            open,
            own: Queue::default(),
            foreign: Queue::default(),
            cuts: VecDeque::new(),
            cuts_gone: 0,
            complete: 0,
            passed_here: 0,
            ended: false,
            readers: (0..workers).map(|_| reader()).collect(),
            shippers: Vec::new(),
        };
        Feed { state: Arc::new(Mutex::new(state)), opened: Arc::default() }
    }

    /// Appends a block to `epoch`, which must not be complete.
    pub fn push(&self, epoch: Epoch, block: Block) {
        let mut state = self.lock();
        debug_assert!(!state.is_complete(epoch), "a block for epoch {epoch}, which is complete");
        state.own.push(epoch, block);
        let wake = state.wake_reader();
        let ship = if state.has_load() { state.wake_shipper() } else { None };
        drop(state);
        wake.into_iter().chain(ship).for_each(|wake| wake());
    }

    /// Makes a cut known between the open epoch, which is returned, and `next`, now the open
    /// one.
    pub fn cut(&self, next: Epoch) -> Epoch {
        let mut state = self.lock();
        let epoch = state.open;
        assert!(next > epoch, "epochs only grow: {next} after {epoch}");
        state.open = next;
        state.cuts.push_back(FeedCut { epoch, next });
        drop(state);
        self.opened.notify_waiters();
        epoch
    }

    /// Declares every epoch up to and with `epoch` final: the workers may see it close.
    pub fn complete(&self, epoch: Epoch) {
        let mut state = self.lock();
        state.complete = state.complete.max(state.cuts_through(epoch));
        state.passed_here = state.passed_here.max(state.complete);
        self.wake_all(state);
    }

    /// Nothing comes after what was pushed and the cuts that are known: the end is seen when all
    /// of them are complete.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        self.wake_all(state);
    }

    /// Installs how to wake worker `index` of this process.
    pub fn attach(&self, index: usize, wake: Wake) {
        self.lock().readers[index].wake = Some(wake);
    }

    /// Returns the next step of worker `index` of this process.
    pub fn next(&self, index: usize) -> Next {
        let mut guard = self.lock();
        let state = &mut *guard;
        let passed = state.readers[index].passed;
        if passed < state.complete {
            let cut = state.cuts[(passed - state.cuts_gone) as usize];
            let lowest = state.own.lowest().into_iter().chain(state.foreign.lowest()).min();
            if lowest.is_none_or(|epoch| epoch > cut.epoch) {
                state.readers[index].passed += 1;
                state.drop_passed_cuts();
                return Next::Complete { epoch: cut.epoch, next: cut.next };
            }
        }
        if let Some((epoch, block)) = state.pop() {
            let wakes = state.wake_shippers_at_cut();
            drop(guard);
            wakes.iter().for_each(|wake| wake());
            return Next::Block(epoch, block);
        }
        if state.ended && passed == state.cuts_gone + state.cuts.len() as u64 {
            return Next::End;
        }
        state.readers[index].idle = true;
        Next::Wait
    }

    /// Wakes every reader and shipper.
    fn wake_all(&self, mut state: MutexGuard<'_, FeedState>) {
        let mut wakes: Vec<Wake> = state
            .readers
            .iter_mut()
            .filter_map(|reader| {
                reader.idle = false;
                reader.wake.clone()
            })
            .collect();
        wakes.extend(state.wake_all_shippers());
        drop(state);
        wakes.iter().for_each(|wake| wake());
    }

    /// Locks the state.
    fn lock(&self) -> MutexGuard<'_, FeedState> {
        // A panic elsewhere poisons the job, not this queue: its state is whole between calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FeedState {
    /// The oldest block of the lowest epoch, of this process before those of others.
    fn pop(&mut self) -> Option<(Epoch, Block)> {
        match (self.own.lowest(), self.foreign.lowest()) {
            (None, _) => self.foreign.pop(),
            (Some(own), Some(foreign)) if foreign < own => self.foreign.pop(),
            _ => self.own.pop(),
        }
    }

    /// Marks one idle worker as woken; how to wake it.
    fn wake_reader(&mut self) -> Option<Wake> {
        let reader = self.readers.iter_mut().find(|reader| reader.idle)?;
        reader.idle = false;
        reader.wake.clone()
    }

    /// Number of cuts ever known, up to that of `epoch`.
    fn cuts_through(&self, epoch: Epoch) -> u64 {
        let here = self.cuts.iter().filter(|cut| cut.epoch <= epoch).count();
        self.cuts_gone + here as u64
    }

    /// Returns true if `epoch` is final, so that no block of it may come.
    fn is_complete(&self, epoch: Epoch) -> bool {
        let final_here = self.complete.saturating_sub(self.cuts_gone) as usize;
        self.cuts.iter().take(final_here).any(|cut| cut.epoch >= epoch)
    }

    /// Drops the cuts that every reader has passed.
    fn drop_passed_cuts(&mut self) {
        let readers = self.readers.iter().map(|reader| reader.passed);
        let all = readers.chain(self.shippers.iter().map(|shipper| shipper.passed));
        let passed_by_all = all.min().unwrap_or(0);
        while self.cuts_gone < passed_by_all {
            self.cuts.pop_front();
            self.cuts_gone += 1;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    pub(crate) fn block(text: &str) -> Block {
        Block::from_text(text.as_bytes())
    }

    pub(crate) fn show(next: Next) -> String {
        match next {
            Next::Block(epoch, block) => {
                format!("{epoch}:{}", String::from_utf8_lossy(block.text()).trim_end())
            }
            Next::Complete { epoch, next } => format!("{epoch}->{next}"),
            Next::Wait => "wait".into(),
            Next::End => "end".into(),
        }
    }

    #[test]
    fn the_lowest_epoch_goes_first_whatever_came_first() {
        let feed = Feed::new(1, 10);
        assert_eq!(feed.cut(20), 10);
        feed.push(20, block("fast\n"));
        feed.push(10, block("slow\n"));
        assert_eq!(show(feed.next(0)), "10:slow");
        feed.push(10, block("slower\n"));
        feed.complete(10);
        let seen: Vec<_> = (0..4).map(|_| show(feed.next(0))).collect();
        assert_eq!(seen, ["10:slower", "10->20", "20:fast", "wait"]);
    }

    #[test]
    fn end_waits_until_last_epoch_is_complete() {
        let feed = Feed::new(1, 10);
        feed.cut(20);
        feed.end();
        assert_eq!(show(feed.next(0)), "wait", "the cut is not durable yet");
        feed.complete(10);
        assert_eq!(show(feed.next(0)), "10->20");
        assert_eq!(show(feed.next(0)), "end");
    }

    #[test]
    fn epoch_closes_for_workers_when_complete() {
        let feed = Feed::new(1, 10);
        feed.cut(20);
        feed.push(20, block("b\n"));
        assert_eq!(show(feed.next(0)), "20:b", "later blocks need not wait for the cut");
        assert_eq!(show(feed.next(0)), "wait");
        feed.complete(10);
        assert_eq!(show(feed.next(0)), "10->20");
    }

    #[test]
    fn every_worker_passes_every_border() {
        let feed = Feed::new(2, 10);
        feed.push(10, block("a\n"));
        feed.cut(20);
        feed.complete(10);
        feed.end();
        assert_eq!(show(feed.next(1)), "10:a");
        assert_eq!(show(feed.next(0)), "10->20");
        assert_eq!(show(feed.next(0)), "end");
        assert_eq!(show(feed.next(1)), "10->20");
        assert_eq!(show(feed.next(1)), "end");
    }

    #[test]
    fn push_wakes_one_worker_end_wakes_all() {
        let feed = Feed::new(2, 10);
        let woken = Arc::new(AtomicUsize::new(0));
        for index in 0..2 {
            let woken = Arc::clone(&woken);
            let wake = move || {
                woken.fetch_add(1, Ordering::Relaxed);
            };
            feed.attach(index, Arc::new(wake));
            assert_eq!(show(feed.next(index)), "wait");
        }
        feed.push(10, block("a\n"));
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        feed.end();
        assert_eq!(woken.load(Ordering::Relaxed), 3);
    }
}
