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
//! | `write_parts`, `commit` | the operators that store parts and commit epochs |
//! | `objects` | epochs as objects of a store |
//! | `retry`, `outage_log` | retries, and the log of outages |
//! | `commit_log` | the epochs that were about to be committed |
//! | `changelog` | the stored changes of totals and windows |
//! | `completions` | the way of a finished request back to its operator |

mod changelog;
mod commit;
mod commit_log;
mod completions;
mod objects;
mod outage_log;
mod retry;
mod write_parts;

pub use changelog::Changelog;
pub use commit::{Committed, OnCommit, commit};
pub use commit_log::{Attempt, Attempts, CommitLog};
pub use objects::{
    Claim, ClaimKeys, Layout, MARKER, MARKER_BYTES_MAX, Marker, Owner, Ownership, PART,
    Publication, Publisher, Standing, check_suffix, format,
};
pub use write_parts::write_parts;
