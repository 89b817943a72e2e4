//! `--watch`: files that appear in a folder or below a prefix of an object store, each read once.
//!
//! ```text
//! folder: inotify, scans ─┐ arrivals     requests                  text
//!                         ├──────────► reading ───► pump: open, unpack ───► reading ──► log
//! bucket: listings ───────┘              │ ▲
//!   (one thread)                    begun│ │known        (one thread)
//!                                        ▼ │
//!                                       ledger
//! ```
//!
//! * [`new_files`] decides which files are new and whole. [`scan_folder`] and [`list_objects`]
//!   report it what is there; both run on a thread, so no disk and no store is waited for while
//!   epochs are cut.
//! * [`read_files_thread`] reads the files, one after the other, in the order in which they were
//!   found.
//! * [`append_files`] is the task that owns the source log. A file is a connection of the log. Its
//!   position is a number of a file and an offset in its text.
//! * [`ledger`] remembers, durably, which file has which number and which files are not to be read.
//!
//! A file is begun when its record is in the ledger, and the ledger is synced before a position is
//! recorded. After a crash the recorded epochs are read again from the same files, up to the same
//! offsets. Files that were begun after the last recorded position are found again as if they were
//! new.

mod append_files;
mod change_ledger;
mod find_files_thread;
mod found_file;
mod inotify_events;
mod known_files;
mod ledger;
mod ledger_record;
mod list_objects;
mod new_files;
mod position;
mod read_files_thread;
mod read_request;
mod resume_watch;
mod scan_folder;
mod watched_place;

pub use resume_watch::read;
pub use watched_place::{Watch, WatchPlace};
