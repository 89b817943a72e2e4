//! Proof that a job's threads and tasks still take turns, for a watchdog.
//!
//! A count of epochs proves nothing while a store is away or an epoch is long. So the watchdog
//! asks: [`Pulse::ask`] wakes every member, and each answers in its own loop, between two steps of
//! its work. A member that hangs in a step does not answer. A disk or a store that does not answer
//! hangs no member, because members do no I/O.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::feed::Wake;

/// The questions of a job's watchdog. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<PulseState>);

#[derive(Debug, Default)]
struct PulseState {
    /// The number of the newest question.
    asked: AtomicU64,
    /// The threads and tasks that answer.
    members: Mutex<Vec<Weak<Turns>>>,
}

/// The answers of one member.
struct Turns {
    /// The newest question that was answered.
    answered: AtomicU64,
    /// Wakes the thread, so that it takes a turn.
    wake: Wake,
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("answered", &self.answered).finish_non_exhaustive()
    }
}

/// A thread or task that answers. It is no member any more when this is dropped.
#[derive(Debug)]
pub struct PulseMember {
    /// The questions.
    state: Arc<PulseState>,
    /// The answers of this member.
    turns: Arc<Turns>,
}

impl Pulse {
    /// Adds a member. `wake` makes its loop turn once; it is called for each question.
    pub fn join(&self, wake: Wake) -> PulseMember {
        let answered = AtomicU64::new(self.0.asked.load(Ordering::Relaxed));
        let turns = Arc::new(Turns { answered, wake });
        let mut members = self.0.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&turns));
        PulseMember { state: Arc::clone(&self.0), turns }
    }

    /// Runs `work` as a member: it answers whenever `work` lets its task turn.
    pub async fn accompany<T>(&self, work: impl Future<Output = T>) -> T {
        let asked = Arc::new(Notify::new());
        let wake = Arc::clone(&asked);
        let member = self.join(Arc::new(move || wake.notify_one()));
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = asked.notified() => member.answer(),
            }
        }
    }

    /// Asks all members, and returns true if all have answered the question before.
    pub fn ask(&self) -> bool {
        let before = self.0.asked.fetch_add(1, Ordering::Relaxed);
        let members: Vec<Arc<Turns>> = {
            let members = self.0.members.lock().unwrap_or_else(PoisonError::into_inner);
            members.iter().filter_map(Weak::upgrade).collect()
        };
        // Every member is woken, also after one that has not answered.
        members.iter().for_each(|member| (member.wake)());
        members.iter().all(|member| member.answered.load(Ordering::Relaxed) >= before)
    }
}

impl PulseMember {
    /// Answers the newest question. It costs a load and a store.
    pub fn answer(&self) {
        let asked = self.state.asked.load(Ordering::Relaxed);
        self.turns.answered.store(asked, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_member_is_noticed_until_it_leaves() {
        let pulse = Pulse::default();
        assert!(pulse.ask(), "there are no members");
        let woken = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&woken);
        let wake = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let quick = pulse.join(Arc::new(wake));
        let slow = pulse.join(Arc::new(|| {}));
        assert!(pulse.ask(), "nothing was asked since they joined");
        quick.answer();
        assert!(!pulse.ask(), "the slow one has not answered");
        quick.answer();
        slow.answer();
        assert!(pulse.ask());
        quick.answer();
        drop(slow);
        assert!(pulse.ask(), "a member that has left owes no answer");
        assert_eq!(woken.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn task_answers_while_it_waits() {
        let pulse = Pulse::default();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let work = pulse.accompany(async { ended.await.is_ok() });
        let watch = async {
            tokio::task::yield_now().await;
            for _ in 0..3 {
                let is_answered = pulse.ask();
                assert!(is_answered);
                tokio::task::yield_now().await;
            }
            end.send(()).expect("the task waits");
        };
        let (done, ()) = futures::future::join(work, watch).await;
        assert!(done);
    }
}
