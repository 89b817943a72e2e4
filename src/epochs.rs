//! When epochs are cut, complete and end, as state machines without clock, threads or locks.
//!
//! Process 0 owns the epochs of a job: [`EpochLeader`] is its rule, [`EpochFollower`] that of every
//! other process, and [`EpochRoom`] bounds how many may be in flight. In each process,
//! [`EpochCompletion`] decides when an epoch that is cut is final. An event goes in, the actions to
//! take come out. Nothing here waits or has an effect, so a test can go through any order of
//! events.
//!
//! ```text
//!           process 0                                 every other process
//! due ──► EpochLeader ──► Cut, StopReading, End ══► EpochFollower ──► Cut, StopReading, End
//!  ▲           ▲  │                                      │  │
//! room         └──│═══════════ reading has ended ════════┘  │
//!                 ▼                                         ▼
//!          EpochCompletion                           EpochCompletion
//!      cut ──► recorded, passed, durable, arrived ──► complete ──► written ──► committed
//! ```
//!
//! `job::epoch_driver` and `job::epoch_progress` drive them: they wait for what can happen, pass it
//! in, and take the actions.

mod completion;
mod follower;
mod in_flight;
mod leader;

pub use completion::{CompletionAction, CompletionEvent, EpochCompletion};
pub use follower::{EpochFollower, FollowerAction, FollowerEvent, OutOfStep};
pub use in_flight::EpochRoom;
pub use leader::{EpochAction, EpochEvent, EpochLeader, Moment};
