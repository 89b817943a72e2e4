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
//! | `opened`, `named`, `committed` | the start: epochs that stand there, and those committed |
//! | `form`, `encoding` | names and bytes as they are set; the steps from rows to an object |
//! | `encode`, `writer` | rows as the bytes of parts; writes parts and markers |
//! | `publish`, `write_marker` | creates objects, with retries; the write of `_SUCCESS` |
//! | `ownership`, `claim`, `claiming` | who may write below a prefix |
//! | `changelog`, `check` | the changelog as objects; `wordtide check` |

pub mod format;

mod changelog;
mod check;
mod claim;
mod claiming;
mod committed;
mod encode;
mod encoding;
mod form;
mod layout;
mod marker_content;
mod named;
mod opened;
mod ownership;
mod publish;
mod write_marker;
mod writer;

pub use changelog::ObjectChangelog;
pub use claim::{Claim, ClaimKeys};
pub use claiming::{ClaimAttempt, keep as keep_claim};
pub use encode::encode as encode_rows;
pub use encoding::Encoding;
pub use form::{FormSettings, ObjectForm};
pub use format::{CHUNK_BYTES, RowBatch, RowReader, begin_columns, push_row, read_rows};
pub use layout::Layout;
pub use opened::ObjectOutput;
pub use ownership::Ownership;
pub use publish::Publisher;
