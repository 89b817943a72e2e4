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
//! * [`arrivals`] decides which files are new and whole. [`folder`] and [`objects`] tell it what is
//!   there; both run on a thread, so no disk and no store is waited for while epochs are cut.
//! * [`pump`] reads the files, one after the other, in the order in which they were found.
//! * [`reading`] is the task that owns the source log. A file is a connection of the log. Its
//!   position is a number of a file and an offset in its text.
//! * [`ledger`] remembers, durably, which file has which number and which files are not to be read.
//!
//! A file is begun when its record is in the ledger, and the ledger is synced before a position is
//! recorded. After a crash the recorded epochs are read again from the same files, up to the same
//! offsets. Files that were begun after the last recorded position are found again as if they were
//! new.

mod arrivals;
mod discovery;
mod events;
mod folder;
mod found;
mod ledger;
mod objects;
mod place;
mod position;
mod pump;
mod reading;
mod record;
mod start;

pub use place::{Watch, WatchPlace};
pub use start::read;
