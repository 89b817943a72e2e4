//! Epochs as objects of a store: in a directory, in OSS or in S3.
//!
//! ```text
//! <PREFIX>-<epoch>[.<suffix>]/part-00000 …   created when their rows are complete
//! <PREFIX>-<epoch>[.<suffix>]/_SUCCESS       created last: it commits the epoch
//! <dir>/_wordtide/owner-…                    the claim on the prefix
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | `format`, `layout` | bytes of rows, names of objects |
//! | `marker_content` | the JSON in `_SUCCESS` |
//! | `publish`, `write_marker` | creates objects, with retries; the write of `_SUCCESS` |
//! | `ownership`, `claim` | who may write below a prefix |

pub mod format;

mod claim;
mod layout;
mod marker_content;
mod ownership;
mod publish;
mod write_marker;

pub use claim::{Claim, ClaimKeys, Owner, Standing};
pub use layout::{Layout, MARKER, PART, check_suffix, part_name};
pub use marker_content::{MARKER_BYTES_MAX, MARKER_FORMAT, MarkedPart, Marker};
pub use ownership::Ownership;
pub use publish::{Publication, Publisher};
pub use write_marker::write_marker;
