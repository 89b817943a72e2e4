//! When epochs are cut and how the last one ends, as state machines without clock or threads.
//!
//! Process 0 owns the epochs of a job: [`EpochLeader`] is its rule, [`EpochFollower`] that of every
//! other process. An event goes in, the actions to take come out. `job::epoch_driver` drives both:
//! it waits for what can happen, passes it in, and takes the actions. Nothing here waits or has an
//! effect, so a test can go through any order of events.
//!
//! ```text
//!           process 0                                 every other process
//! due ──► EpochLeader ──► Cut, StopReading, End ══► EpochFollower ──► Cut, StopReading, End
//!              ▲                                         │
//!              └══════════════ reading has ended ════════┘
//! ```

mod follower;
mod leader;

pub use follower::{EpochFollower, FollowerAction, FollowerEvent, OutOfStep};
pub use leader::{EpochAction, EpochEvent, EpochLeader, Moment};
