//! Publishes epochs: writes the parts, then the marker, as operators.
//!
//! ```text
//! rows ──┐
//!        ├─► [write parts] ──one report a worker an epoch══► [commit] ──► probe
//! ticks ─┘    capability(e) held until its parts are durable   worker 0: _SUCCESS(e), in order
//! ```
//!
//! The writer holds the capability of an epoch until every part of its worker is stored. The
//! frontier at the committer therefore passes the epoch when all parts of all workers are durable,
//! and the probe after the committer means *committed*. No operator blocks: requests run on the
//! runtime and wake the operator when they are finished.
//!
//! | module | holds |
//! | --- | --- |
//! | `write_parts`, `commit_epochs` | the operators that store parts and commit epochs |
//! | `objects`, `sql`, `search` | epochs as objects of a store, rows of a database, documents |
//! | `retry_until_stored`, `outage_log` | retries, and the log of outages |
//! | `output` | the traits of an output |
//! | `state_ids`, `owner` | the names of a job, and its claim |
//! | `commit_evidence` | what shows which epochs are committed |
//! | `commit_log` | the epochs that were about to be committed |
//! | `durable_epochs` | the epochs whose ends are on disk |
//! | `changelog` | the stored changes of totals and windows |
//! | `completions` | the way of a finished request back to its operator |

mod bound_results;
mod changelog;
mod commit_epochs;
mod commit_evidence;
mod commit_log;
mod completions;
mod durable_epochs;
mod foreign_epoch;
mod negative_count;
mod objects;
mod open_output;
mod outage_log;
mod output;
mod owner;
mod publication;
mod retry_start;
mod retry_until_stored;
mod search;
mod sql;
mod state_ids;
mod write_parts;

pub use bound_results::bound_results;
pub use changelog::{Changelog, ChangelogStore, NewestChanges, NewestChangesLog};
pub use commit_epochs::{Committed, OnCommit, commit};
pub use commit_evidence::CommitEvidence;
pub use commit_log::{Attempts, COMMITS, CommitLog};
pub use durable_epochs::{DurableEpochs, SyncRounds};
#[cfg(any(feature = "cli", feature = "internals"))]
pub use objects::Layout;
#[cfg(feature = "internals")]
pub use objects::{Encoding, ObjectForm, Publisher};
pub use objects::{FormSettings, format};
pub use open_output::{OutputSettings, check_form, is_single, open};
pub use output::{Claiming, EpochWriter, OpenWriter, Output, OutputStart, WriterSettings};
pub use owner::Standing;
pub use publication::Publication;
pub use retry_start::StartRetrier;
pub use sql::{SqlSettings, WriteMode};
pub use state_ids::Ids;
pub use write_parts::{OutputHandle, write_parts};
