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
//! | `format`, `object_names` | bytes of rows, names of objects |
//! | `marker_json` | the JSON in `_SUCCESS` |
//! | `object_output` | the start: what stands there, and whose it is |
//! | `existing_epochs`, `find_marker` | epochs that have a directory, and those committed |
//! | `object_form` | names and bytes as they are set |
//! | `part_encoding` | the steps from rows to an object |
//! | `encode_rows`, `spare_chunks` | rows as the bytes of parts, in memory that is kept |
//! | `epoch_writer` | writes parts and markers |
//! | `put_objects`, `write_marker` | creates objects, with retries; the write of `_SUCCESS` |
//! | `check_ownership`, `claim_object`, `take_claim` | the owner of a prefix |
//! | `changelog`, `check_store` | the changelog as objects; `wordtide check` |

pub mod format;

mod changelog;
mod check_ownership;
mod check_store;
mod claim_object;
mod encode_rows;
mod epoch_writer;
mod existing_epochs;
mod find_marker;
mod marker_json;
mod object_form;
mod object_names;
mod object_output;
mod part_encoding;
mod put_objects;
mod spare_chunks;
mod take_claim;
mod write_marker;

pub use changelog::ObjectChangelog;
pub use check_ownership::Ownership;
pub use claim_object::{Claim, ClaimKeys};
pub use encode_rows::encode as encode_rows;
pub use format::{CHUNK_BYTES, RowBatch, RowReader, begin_columns, push_row, read_rows};
pub use object_form::{FormSettings, ObjectForm};
pub use object_names::Layout;
pub use object_output::ObjectOutput;
pub use part_encoding::Encoding;
pub use put_objects::Publisher;
#[cfg(test)]
pub use put_objects::tests::publisher as publisher_to;
pub use take_claim::{ClaimAttempt, keep as keep_claim};
