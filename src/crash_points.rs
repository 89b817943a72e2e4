//! Named places at which a test can end the process, and faults of the disk that it can have.
//! Compiled to nothing in a release build without the feature `crash-points`.
//!
//! Killing a process at random times almost never hits a window of microseconds between two steps
//! whose order matters. So each such step has a name. With the feature `crash-points` on,
//!
//! ```text
//! WORDTIDE_CRASH_POINT=journal.after_append      abort at the first pass
//! WORDTIDE_CRASH_POINT=journal.after_append:7    abort at the seventh pass
//! WORDTIDE_CRASH_MODE=hang                       stop there for ever, to be killed from outside
//! WORDTIDE_CRASH_MODE=panic                      panic there
//! ```
//!
//! The names stand in [`POINTS`], so that a runner can take them in turn.
//!
//! `WORDTIDE_FAULT=name=PATH` has the disk fail ([`FAULTS`]) for as long as a file is at PATH.

/// Every crash point, in the order in which a byte meets them.
///
/// * `journal.before_append`, `journal.mid_record` (half of the record is written),
///   `journal.after_append`: Data; `journal.before_stream_end`, `journal.after_stream_end`.
/// * `journal.before_roll`, `journal.roll_header` (the spare has its header but not its name),
///   `journal.roll_renamed`, `journal.after_roll`; `journal.spare` (a spare was preallocated).
/// * `journal.before_epoch_end`, `journal.after_epoch_end`; `journal.before_sync`,
///   `journal.synced_segment` (the bytes are on disk, the folder is not), `journal.after_sync`;
///   `journal.after_sync_record`.
/// * `journal.before_committed`, `journal.after_committed`; `journal.before_delete`,
///   `journal.recycled` (a segment that is done with has a spare's name and its records still),
///   `journal.after_delete` (one segment is gone, perhaps of several).
/// * `journal.recovery_scanned`, `journal.recovery_removed` (later segments are gone, the torn tail
///   is not), `journal.recovery_truncated`, `journal.recovery_closed` (StreamEnd crash is written).
/// * `source.after_read`, `source.before_push`; `cut.before_complete`, `cut.after_complete`;
///   `worker.before_tick` (a worker has met the end of an epoch and has not passed it on);
///   `output.before_put`, `output.part_opened` (a part of a directory has its name and no bytes),
///   `output.after_put` (a part, or a marker), `output.before_marker`, `output.after_marker`.
/// * `changelog.before_put`, `changelog.after_put`: what counts with memory received in an epoch;
///   `changelog.before_base`, `changelog.after_base`, `changelog.before_forget`: a merge of it.
/// * `recovery.before_clear`, `recovery.after_clear`: an epoch without a marker is emptied;
///   `recovery.before_put_away`: the notes of journals without a source are gone;
///   `recovery.put_away`: a journal that is of no use has lost its name and is still there;
///   `recovery.discarded`: the changelog of a job that has finished is gone, and its first epoch is
///   still noted.
/// * `finish.agreed`: all processes have agreed that the job has finished; `finish.prepared`,
///   `finish.noted`: before and after the last act, the name of the note that its journals are of
///   no use.
#[cfg(any(test, feature = "internals", feature = "crash-points", debug_assertions))]
pub const POINTS: &[&str] = &[
    "source.after_read",
    "source.before_push",
    "cut.before_complete",
    "cut.after_complete",
    "worker.before_tick",
    "output.before_put",
    "output.part_opened",
    "output.after_put",
    "output.before_marker",
    "output.after_marker",
    "changelog.before_put",
    "changelog.after_put",
    "changelog.before_base",
    "changelog.after_base",
    "changelog.before_forget",
    "recovery.before_clear",
    "recovery.after_clear",
    "recovery.before_put_away",
    "recovery.put_away",
    "recovery.discarded",
    "finish.agreed",
    "finish.prepared",
    "finish.noted",
    "journal.before_append",
    "journal.mid_record",
    "journal.after_append",
    "journal.before_stream_end",
    "journal.after_stream_end",
    "journal.before_roll",
    "journal.roll_header",
    "journal.roll_renamed",
    "journal.after_roll",
    "journal.spare",
    "journal.before_epoch_end",
    "journal.after_epoch_end",
    "journal.before_sync",
    "journal.synced_segment",
    "journal.after_sync",
    "journal.after_sync_record",
    "journal.before_committed",
    "journal.after_committed",
    "journal.before_delete",
    "journal.recycled",
    "journal.after_delete",
    "journal.recovery_scanned",
    "journal.recovery_removed",
    "journal.recovery_truncated",
    "journal.recovery_closed",
];

#[cfg(any(test, feature = "internals"))]
/// The tasks and threads that can be made to panic as they start, by
/// `WORDTIDE_CRASH_POINT=task.NAME` with `WORDTIDE_CRASH_MODE=panic`.
pub const TASKS: &[&str] = &[
    "start",
    "watch stop",
    "leader",
    "follower",
    "replay",
    "report commits",
    "report results",
    "write",
    "commit",
    "compact",
    "ship",
    "receive",
    "sync",
    "results",
];

/// Faults of the local disk.
///
/// * `disk.sync`: a sync fails with EIO.
/// * `disk.full`: no file can be made or grow.
#[cfg(any(test, feature = "internals", feature = "crash-points", debug_assertions))]
pub const FAULTS: &[&str] = &["disk.sync", "disk.full"];

/// Returns true if the environment has this fault happen now.
#[cfg(not(any(feature = "crash-points", debug_assertions)))]
#[inline(always)]
pub fn has_fault(_name: &str) -> bool {
    false
}

/// Ends the process here if the environment names this point.
#[cfg(not(any(feature = "crash-points", debug_assertions)))]
#[inline(always)]
pub fn crash_point(_name: &str) {}

/// Panics if the environment names this task; see [`TASKS`].
#[cfg(not(any(feature = "crash-points", debug_assertions)))]
#[inline(always)]
pub fn task_point(_name: &str) {}

/// Returns true if the environment names this point, for a step that must be cut in two first.
#[cfg(not(any(feature = "crash-points", debug_assertions)))]
#[inline(always)]
pub fn is_armed(_name: &str) -> bool {
    false
}

#[cfg(any(feature = "crash-points", debug_assertions))]
pub use armed::{crash_point, has_fault, is_armed, task_point};

#[cfg(any(feature = "crash-points", debug_assertions))]
mod armed {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        /// The name of the crash point.
        name: String,
        /// Passes until it acts.
        passes_left: AtomicU64,
        /// How the process ends there.
        mode: Mode,
    }

    /// The way in which the process ends at the point.
    enum Mode {
        /// By an abort, as a kill would end it.
        Abort,
        /// Not at all: it stops there to be killed.
        Hang,
        /// By a panic.
        Panic,
    }

    /// Returns the crash point of the environment, if one is set.
    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        ARMED
            .get_or_init(|| {
                let spec = std::env::var("WORDTIDE_CRASH_POINT").ok()?;
                let (name, passes) = parse(&spec);
                Some(Armed {
                    name,
                    passes_left: AtomicU64::new(passes),
                    mode: match std::env::var("WORDTIDE_CRASH_MODE").as_deref() {
                        Ok("hang") => Mode::Hang,
                        Ok("panic") => Mode::Panic,
                        _ => Mode::Abort,
                    },
                })
            })
            .as_ref()
    }

    /// Returns true if the environment has this fault happen now.
    pub fn has_fault(name: &str) -> bool {
        static FAULT: OnceLock<Option<(String, PathBuf)>> = OnceLock::new();
        debug_assert!(super::FAULTS.contains(&name), "{name} is not in FAULTS");
        let fault = FAULT.get_or_init(|| {
            let spec = std::env::var("WORDTIDE_FAULT").ok()?;
            let (name, path) = spec.split_once('=')?;
            Some((name.to_owned(), path.into()))
        });
        fault.as_ref().is_some_and(|(fault, path)| fault == name && path.exists())
    }

    /// `name[:count]`; a count that is not a number is taken as part of the name and never met.
    pub fn parse(spec: &str) -> (String, u64) {
        match spec.split_once(':') {
            Some((name, count)) => match count.parse() {
                Ok(count) => (name.to_owned(), count),
                Err(_) => (spec.to_owned(), 1),
            },
            None => (spec.to_owned(), 1),
        }
    }

    /// Ends the process here if the environment names this point.
    pub fn crash_point(name: &str) {
        debug_assert!(super::POINTS.contains(&name), "{name} is not in POINTS");
        pass(name);
    }

    /// Panics if the environment names this task.
    pub fn task_point(name: &str) {
        pass(&format!("task.{name}"));
    }

    /// Passes a crash point; acts if it is armed and its count is reached.
    fn pass(name: &str) {
        let Some(armed) = armed().filter(|armed| armed.name == name) else {
            return;
        };
        if armed.passes_left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        match armed.mode {
            Mode::Abort => std::process::abort(),
            Mode::Panic => panic!("on purpose, at {name}"),
            Mode::Hang => loop {
                std::thread::park();
            },
        }
    }

    /// Returns true if the environment names this point and this pass is the one to end at.
    pub fn is_armed(name: &str) -> bool {
        armed().is_some_and(|armed| {
            armed.name == name && armed.passes_left.load(Ordering::SeqCst) == 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::POINTS;

    #[test]
    fn no_crash_point_is_listed_twice() {
        let mut names = POINTS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), POINTS.len());
    }

    #[test]
    fn unnamed_point_lets_the_program_go_on() {
        super::crash_point("journal.after_append");
        assert!(!super::is_armed("journal.after_append"));
    }

    #[cfg(any(feature = "crash-points", debug_assertions))]
    #[test]
    fn count_after_name_is_the_pass() {
        assert_eq!(super::armed::parse("a.b:7"), ("a.b".to_owned(), 7));
        assert_eq!(super::armed::parse("a.b"), ("a.b".to_owned(), 1));
    }
}
