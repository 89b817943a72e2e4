//! From rows to committed epochs: write the parts, then the marker, as operators.
//!
//! ```text
//! rows ──┐
//!        ├─► [write parts] ──one report a worker an epoch══► [commit] ──► probe
//! ticks ─┘    capability(e) held until its parts are durable   worker 0: _SUCCESS(e), in order
//! ```
//!
//! The frontier does the bookkeeping. The writer keeps the capability of an epoch until every part
//! of its worker is stored; so the frontier that the committer sees passes the epoch exactly when
//! all parts of all workers are, and the probe behind the committer means *committed*. No operator
//! waits: requests run on the runtime and wake the operator when they are done.

pub mod format;

mod claim;
mod commit;
mod commit_log;
mod completions;
mod layout;
mod marker;
mod memory;
mod outage;
mod ownership;
mod publish;
mod write;

pub use claim::{Claim, ClaimKeys, Owner, Standing};
pub use commit::{Committed, OnCommit, commit};
pub use commit_log::{Attempt, Attempts, CommitLog};
pub use layout::{Layout, MARKER, PART, check_suffix, part_name};
pub use marker::{MARKER_BYTES_MAX, MARKER_FORMAT, MarkedPart, Marker};
pub use memory::Keeper;
pub use ownership::Ownership;
pub use publish::{Publication, Publisher};
pub use write::{PartReport, Report, write_parts};
