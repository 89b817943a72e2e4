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
//! | `write_parts`, `format` | the operator that stores parts, and the bytes of rows |
//! | `commit`, `write_marker` | the operator that commits epochs, and the write of `_SUCCESS` |
//! | `marker_content`, `layout` | the JSON in `_SUCCESS`, and the names of objects |
//! | `publish`, `retry`, `outage_log` | objects, retries, and the log of outages |
//! | `ownership`, `claim`, `commit_log` | who may write below a prefix, and what it has committed |
//! | `changelog` | the stored changes of totals and windows |
//! | `completions` | the way of a finished request back to its operator |

pub mod format;

mod changelog;
mod claim;
mod commit;
mod commit_log;
mod completions;
mod layout;
mod marker_content;
mod outage_log;
mod ownership;
mod publish;
mod retry;
mod write_marker;
mod write_parts;

pub use changelog::Changelog;
pub use claim::{Claim, ClaimKeys, Owner, Standing};
pub use commit::{Committed, OnCommit, commit};
pub use commit_log::{Attempt, Attempts, CommitLog};
pub use layout::{Layout, MARKER, PART, check_suffix};
pub use marker_content::{MARKER_BYTES_MAX, Marker};
pub use ownership::Ownership;
pub use publish::{Publication, Publisher};
pub use write_parts::write_parts;
