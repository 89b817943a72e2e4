//! The memory of bodies that are being received.
//!
//! All bodies share one budget, so that many large ones cannot fill the memory. A body reserves
//! what it needs as its bytes arrive: a sender that announces much and sends little holds little.
//! When the budget is exhausted, older bodies come first. A body whose sender has stalled is
//! dropped; and if all that hold memory wait for more, the youngest of them is dropped, so that the
//! oldest can go on. A dropped body is answered with 503 or 408: its sender sends it again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A sender that has sent nothing for so long has stalled, when others need the memory.
const STALLED: Duration = Duration::from_secs(1);

/// How often a body that waits for memory looks for one that has stalled.
const LOOK: Duration = Duration::from_millis(100);

/// Longest wait of a body for memory.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The reason for which a body has lost its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Its sender stalled while others needed the memory.
    Stalled,
    /// There is too little memory for all.
    Crowded,
}

/// The times after which bodies give way.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// See [`STALLED`].
    stalled: Duration,
    /// See [`WAIT_MAX`].
    wait_max: Duration,
}

/// The budget of all bodies of one server.
#[derive(Debug)]
pub struct BodyMemory {
    /// How long a body may stand still before others take its room.
    patience: Patience,
    /// The room and the bodies that share it.
    state: Mutex<MemoryState>,
}

#[derive(Debug)]
struct MemoryState {
    /// Bytes that no body holds.
    free: usize,
    /// The id of the next body.
    next: u64,
    /// The bodies, oldest first.
    holders: BTreeMap<u64, Holder>,
}

/// The share of one body.
#[derive(Debug)]
struct Holder {
    /// Bytes that the body holds.
    held: usize,
    /// Bytes that it waits for, or 0.
    wanted: usize,
    /// When its sender sent the last bytes; `None` once the body is complete.
    received: Option<Instant>,
    /// The reason for which the body was dropped; `None` while it is received.
    dropped: Option<Dropped>,
    /// Wakes the task of the body.
    wake: Arc<Notify>,
}

impl BodyMemory {
    /// Returns a budget of so many bytes.
    pub fn new(bytes: usize) -> Arc<BodyMemory> {
        BodyMemory::with_patience(bytes, Patience { stalled: STALLED, wait_max: WAIT_MAX })
    }

    /// Returns memory of so many bytes, with another patience for tests.
    fn with_patience(bytes: usize, patience: Patience) -> Arc<BodyMemory> {
        let state = MemoryState { free: bytes, next: 0, holders: BTreeMap::new() };
        Arc::new(BodyMemory { patience, state: Mutex::new(state) })
    }

    /// Adds a body, which holds nothing yet.
    pub fn lease(self: &Arc<Self>) -> Lease {
        let wake = Arc::new(Notify::new());
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let holder = Holder {
            held: 0,
            wanted: 0,
            received: Some(Instant::now()),
            dropped: None,
            wake: Arc::clone(&wake),
        };
        state.holders.insert(id, holder);
        Lease { memory: Arc::clone(self), id, wake }
    }

    /// Locks the state, which is whole between calls.
    fn lock(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryState {
    /// Wakes the oldest body that waits.
    fn wake_first(&self) {
        if let Some(first) = self.holders.values().find(|holder| holder.wanted > 0) {
            first.wake.notify_one();
        }
    }

    /// Drops a body, if one must be, so that `waiting` can go on.
    fn make_room(&mut self, waiting: u64, stalled_for: Duration) {
        let now = Instant::now();
        let holding = |holder: &&mut Holder| holder.held > 0 && holder.dropped.is_none();
        let stalled = |holder: &Holder| {
            let received = holder.received.filter(|_| holder.wanted == 0);
            received.filter(|received| now.duration_since(*received) >= stalled_for)
        };
        if self.holders.values().any(|holder| holder.dropped.is_some() && holder.held > 0) {
            return; // what it holds is about to be free
        }
        let longest = self.holders.values_mut().filter(holding);
        let longest = longest.filter_map(|holder| Some((stalled(holder)?, holder)));
        if let Some((_, holder)) = longest.min_by_key(|(received, _)| *received) {
            holder.drop_for(Dropped::Stalled);
            return;
        }
        let all_wait = self.holders.values().all(|holder| holder.held == 0 || holder.wanted > 0);
        let youngest = self.holders.iter_mut().rev().find(|(_, holder)| holder.held > 0);
        if let (true, Some((id, holder))) = (all_wait, youngest)
            && *id != waiting
        {
            holder.drop_for(Dropped::Crowded);
        }
    }
}

impl Holder {
    /// Drops the body: its task ends with `why`.
    fn drop_for(&mut self, why: Dropped) {
        self.dropped = Some(why);
        self.wake.notify_one();
    }
}

/// The memory of one body. It is given back when this is dropped.
#[derive(Debug)]
pub struct Lease {
    /// The memory that the lease is of.
    memory: Arc<BodyMemory>,
    /// The number of the body. Greater numbers are younger.
    id: u64,
    /// Notified when there may be room, or the body was dropped.
    wake: Arc<Notify>,
}

impl Lease {
    /// Reserves `bytes` more bytes, and waits for them.
    ///
    /// Fails if the body was dropped in favour of others, or there can never be room for it.
    pub async fn grow(&self, bytes: usize) -> Result<(), Dropped> {
        let until = Instant::now() + self.memory.patience.wait_max;
        loop {
            if self.try_grow(bytes)? {
                return Ok(());
            }
            if Instant::now() >= until {
                self.update(|holder| holder.wanted = 0);
                return Err(Dropped::Crowded);
            }
            // The time passes without an event for a sender that stalls.
            let _ = tokio::time::timeout(LOOK, self.wake.notified()).await;
        }
    }

    /// Takes `bytes` more bytes; returns false if they are not free. The oldest body that waits
    /// comes first.
    fn try_grow(&self, bytes: usize) -> Result<bool, Dropped> {
        let mut guard = self.memory.lock();
        let state = &mut *guard;
        let is_first = !state.holders.range(..self.id).any(|(_, older)| older.wanted > 0);
        let Some(holder) = state.holders.get_mut(&self.id) else { return Ok(false) };
        if let Some(why) = holder.dropped {
            return Err(why);
        }
        if is_first && state.free >= bytes {
            holder.held += bytes;
            holder.wanted = 0;
            state.free -= bytes;
            state.wake_first();
            return Ok(true);
        }
        holder.wanted = bytes;
        if is_first {
            state.make_room(self.id, self.memory.patience.stalled);
        }
        Ok(false)
    }

    /// Notes that the sender has sent bytes.
    pub fn received(&self) {
        self.update(|holder| holder.received = Some(Instant::now()));
    }

    /// Notes that the body is complete: nothing more is expected of its sender.
    pub fn complete(&self) {
        self.update(|holder| holder.received = None);
    }

    /// Gives back `bytes` bytes.
    pub fn shrink(&self, bytes: usize) {
        let mut state = self.memory.lock();
        if let Some(holder) = state.holders.get_mut(&self.id) {
            holder.held -= bytes;
            state.free += bytes;
        }
        state.wake_first();
    }

    /// Resolves when the body has lost its memory.
    pub async fn dropped(&self) -> Dropped {
        loop {
            let dropped = self.update(|holder| holder.dropped).flatten();
            if let Some(why) = dropped {
                return why;
            }
            self.wake.notified().await;
        }
    }

    /// Changes the entry of the body; `None` if it is gone.
    fn update<T>(&self, change: impl FnOnce(&mut Holder) -> T) -> Option<T> {
        self.memory.lock().holders.get_mut(&self.id).map(change)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.memory.lock();
        if let Some(holder) = state.holders.remove(&self.id) {
            state.free += holder.held;
        }
        state.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A budget of 100 bytes whose bodies have stalled after `stalled`.
    fn budget(stalled: Duration, wait_max: Duration) -> Arc<BodyMemory> {
        BodyMemory::with_patience(100, Patience { stalled, wait_max })
    }

    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn stalled_body_gives_way_to_another() {
        let memory = budget(Duration::ZERO, NEVER);
        let slow = memory.lease();
        slow.grow(100).await.expect("all is free");
        let fast = memory.lease();
        let dropping = async {
            assert_eq!(slow.dropped().await, Dropped::Stalled);
            drop(slow);
        };
        let (grown, ()) = tokio::join!(fast.grow(50), dropping);
        grown.expect("room after the stall");
    }

    #[tokio::test]
    async fn youngest_is_dropped_when_all_wait() {
        let memory = budget(NEVER, NEVER);
        let (old, young) = (memory.lease(), memory.lease());
        old.grow(60).await.expect("free");
        young.grow(40).await.expect("free");
        let waits = async {
            let lost = young.grow(10).await;
            drop(young);
            lost
        };
        let (old_grown, young_lost) = tokio::join!(old.grow(10), waits);
        old_grown.expect("the oldest goes on");
        assert_eq!(young_lost, Err(Dropped::Crowded));
        drop(old);
        memory.lease().grow(100).await.expect("all came back");
    }

    #[tokio::test]
    async fn complete_bodies_are_waited_for() {
        let memory = budget(Duration::ZERO, Duration::ZERO);
        let (complete, next) = (memory.lease(), memory.lease());
        complete.complete();
        complete.grow(100).await.expect("free");
        assert_eq!(next.grow(10).await, Err(Dropped::Crowded), "after the longest wait");
        complete.shrink(10);
        next.grow(10).await.expect("given back");
    }
}
