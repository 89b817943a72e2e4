//! The operators that definitions are built of: [`Lines`] in, [`Counts`] or [`Rows`] out.
//!
//! A definition is a plain function from the lines of all sources to rows. It sees no clock, no
//! socket and no store: epochs are timestamps, and the updates at a timestamp are final once the
//! frontier has passed it.
//!
//! ```text
//! feed ─► read ─► count words ══runs to their owner══► arrange ─► rows ─► (sink)
//!           └── ticks: one a worker an epoch ─────────────────────────►
//! ```
//!
//! Words never become differential updates one by one. A table counts them as they are read; the
//! counts of an epoch leave the table as sorted columns, which differential installs as a batch. A
//! *tick* is a message that carries the capability of an epoch: a worker that received no words in
//! an epoch still takes part in publishing it, and needs a capability for that.
//!
//! | module | holds |
//! | --- | --- |
//! | `context`, `lines`, `read`, `ticks`, `text` | facts, the input, ends of epochs |
//! | `columns`, `run`, `batch`, `merger`, `batcher` | sorted columns, and batches made of them |
//! | `open_table`, `routed`, `combine`, `words` | counting words per epoch |
//! | `changelog`, `record_changes` | the stored changes of totals and windows |
//! | `base`, `sums` | totals and windows that are published |
//! | `changes`, `totals` | totals and windows as collections |
//! | `counts`, `window` | what is asked of counts |
//! | `rows`, `archive`, `collection`, `top`, `capture` | rows to publish |

mod archive;
mod base;
mod batch;
mod batcher;
mod capture;
mod changelog;
mod changes;
mod collection;
mod columns;
mod combine;
mod context;
mod counts;
mod lines;
mod merger;
mod open_table;
mod read;
mod received;
mod record_changes;
mod routed;
mod rows;
mod run;
mod sums;
mod text;
mod ticks;
mod top;
mod totals;
mod window;
mod words;

pub use batch::{WordBatch, WordLayout};
pub use batcher::{RunBatcher, WordSpine};
pub use capture::{Captured, CapturedRow, capture};
pub use changelog::{ChangeBuffer, PartChange, Restored};
pub use collection::Printable;
pub use columns::{Offsets, Times, WordColumn, WordOwned, WordRef};
pub use context::{Context, Tallies, Tally};
pub use counts::Counts;
pub use lines::Lines;
pub use merger::WordMerger;
pub use read::read;
pub(crate) use received::take_malformed;
pub use rows::{EpochRows, Row, RowKind, RowSet, Rows};
pub use run::{Run, ToOwner};
pub(crate) use window::Grid;
pub use window::Window;
pub use words::{Running, Windowed, Words};
