//! The words of each epoch, counted on its own: what Spark's `network_wordcount.py` saves.
//!
//! Equals `lines.flatMap(lambda l: l.split(" ")).map(lambda w: (w, 1)).reduceByKey(+)` of a batch.
//! Keeps the words of open epochs only; an epoch costs one row for each distinct word.
//!
//! ```text
//! wordtide run network_wordcount --connect localhost:9999 --to out/counts
//! ```

use wordtide::operators::{Counts, Lines};

/// Counts the words of every epoch separately.
pub fn dataflow<'s>(lines: Lines<'s>) -> Counts<'s> {
    lines.words().per_epoch().count()
}
