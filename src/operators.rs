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
//! | `context`, `lines`, `read_blocks`, `epoch_ticks`, `text` | facts, the input, ends of epochs |
//! | `columns`, `run`, `merge_runs`, `spare_runs` | sorted columns of words |
//! | `differential_batch`, `batch_merger`, `run_batcher` | batches made of them |
//! | `due_runs` | runs that wait for their epoch, and retractions of windows |
//! | `epoch_table`, `spare_table`, `count_words`, `words` | counting words per epoch |
//! | `open_ranges`, `count_ranges` | counting words that hardly repeat |
//! | `stored_change`, `record_changes` | the stored changes of totals and windows |
//! | `base_segment`, `base_merge` | sums of words in hash order, and updates of them |
//! | `totals_base`, `keep_totals` | totals and windows that are published |
//! | `changes`, `trace_sums` | totals and windows as collections |
//! | `counts`, `window` | what is asked of counts |
//! | `rows`, `archive`, `collection`, `top`, `capture` | rows to publish |

mod archive;
mod base_merge;
mod base_segment;
mod batch_merger;
mod capture;
mod changes;
mod collection;
mod columns;
mod context;
mod count_ranges;
mod count_words;
mod counts;
mod differential_batch;
mod due_runs;
mod epoch_table;
mod epoch_ticks;
mod keep_totals;
mod lines;
mod malformed_data;
mod merge_runs;
mod open_ranges;
mod read_blocks;
mod record_changes;
mod rows;
mod run;
mod run_batcher;
mod spare_runs;
mod spare_table;
mod stored_change;
mod text;
mod top;
mod totals_base;
mod trace_sums;
mod window;
mod words;

pub use batch_merger::WordMerger;
pub use capture::{Captured, CapturedRow, capture};
pub use collection::Printable;
pub use columns::{Offsets, Times, WordColumn, WordOwned, WordRef};
pub use context::{Context, DataflowSettings, Tallies, Tally};
pub use counts::Counts;
pub use differential_batch::{WordBatch, WordLayout};
pub use lines::Lines;
pub(crate) use malformed_data::take_malformed;
pub use open_ranges::ProcessRanges;
pub use read_blocks::read;
#[cfg(test)]
pub(crate) use rows::rows_of;
pub use rows::{EpochRows, Row, RowKind, RowSet, Rows};
pub use run::{Run, ToOwner};
pub use run_batcher::{RunBatcher, WordSpine};
#[cfg(feature = "internals")]
#[doc(hidden)]
pub use spare_runs::keep as keep_run;
pub use stored_change::{ChangeBuffer, PartChange, Restored};
pub(crate) use window::Grid;
pub use window::Window;
pub use words::{Running, Windowed, Words};
