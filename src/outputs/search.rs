//! Epochs as documents of an index: OpenSearch and Elasticsearch.
//!
//! ```text
//! INDEX            a document for each row; its id is made of the epoch and the word
//! INDEX-epochs     a document for each committed epoch: the marker, stored last
//! INDEX-wordtide   the claim on the index
//! ```
//!
//! With `--write append` a document is created under an id that depends on its row alone, so a
//! request can be repeated after a lost answer. The rows of an epoch are refreshed before its
//! marker is stored, so no reader meets the marker before the rows. With `--write upsert` a word
//! has one document, which the commit of an epoch writes over; then it deletes the words that are
//! gone. An index has no transactions, so a reader can meet the rows of two results until the
//! marker is stored. Process 0 writes all parts, and the changelog is in its state folder.
//!
//! | module | holds |
//! | --- | --- |
//! | `http_client` | requests, and what their answers mean |
//! | `write_mode` | how rows come into an index: `--write` |
//! | `documents` | ids, mappings, and the JSON of rows and markers |
//! | `bulk_requests` | rows as bulk requests, and the items that were refused |
//! | `refreshes` | the refreshes that commits share |
//! | `claim_documents` | claims as documents |
//! | `search_output`, `epoch_writer` | the start; writes rows and markers |

mod bulk_requests;
mod claim_documents;
mod documents;
mod epoch_writer;
mod http_client;
mod refreshes;
mod search_output;
mod write_mode;

pub use search_output::SearchOutput;
