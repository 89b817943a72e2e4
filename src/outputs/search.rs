//! Epochs as documents of an index: OpenSearch and Elasticsearch.
//!
//! ```text
//! INDEX            a document for each row; its id is made of the epoch and the word
//! INDEX-epochs     a document for each committed epoch: the marker, stored last
//! INDEX-wordtide   the claim on the index
//! ```
//!
//! A document is created under an id that depends on its row alone, so a request can be repeated
//! after a lost answer. The rows of an epoch are refreshed before its marker is stored, so nobody
//! meets the marker before the rows. Process 0 writes all parts, and the changelog is in its state
//! folder.
//!
//! | module | holds |
//! | --- | --- |
//! | `client` | requests, and what their answers mean |
//! | `documents` | ids, mappings, and the JSON of rows and markers |
//! | `bulk` | rows as bulk requests, and the items that were refused |
//! | `claims` | claims as documents |
//! | `opened`, `writer` | the start; writes rows and markers |

mod bulk;
mod claims;
mod client;
mod documents;
mod opened;
mod writer;

pub use opened::SearchOutput;
