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

mod commit;
mod completions;
mod layout;
mod marker;
mod memory;
mod outage;
mod publish;
mod write;

pub use commit::{Committed, OnCommit, commit};
pub use layout::{Layout, MARKER, check_suffix, part_name};
pub use marker::{MarkedPart, Marker};
pub use memory::Keeper;
pub use publish::{Publication, Publisher};
pub use write::{PartReport, Report, write_parts};
